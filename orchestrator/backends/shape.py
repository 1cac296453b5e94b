"""What a job occupies. Jobs on compute nodes import it, and nothing that would slow their start."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class JobShape:
    """What a job occupies while it lives.

    Attributes:
        nodes: machines.
        processes: ranks on each node.
        cpus, gpus: cores and GPUs on each node.
        memory_mb: main memory on each node in MiB; None is the backend's default.
        time_s: seconds that one attempt may take; None is the backend's default.
    """

    nodes: int = 1
    processes: int = 1
    cpus: int = 1
    gpus: int = 0
    memory_mb: int | None = None
    time_s: int | None = None

    @property
    def threads(self) -> int:
        """Compute threads of each rank. Fixed by the shape and never by the machine, because it can change rounding."""
        return max(1, self.cpus // self.processes)
