"""What the trials of a submission do: one file in the workspace, written by the driver, read by controllers.

Ray's own answer about a job says nothing of its trials. The file says what Tune knows and the run directory does not:
whether a run still waits, and what took its trial away.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from trainers.rundir import atomic

_VERSION = 1


@dataclass(frozen=True)
class TrialNote:
    """One trial.

    Attributes:
        status: Tune's word: ``PENDING``, ``RUNNING``, ``PAUSED``, ``TERMINATED``, ``ERROR``.
        since: seconds since the Unix epoch, when it came to be so.
        note: for people: what it waits for, or why it ended.
        cause: of the end of its last attempt, where the driver knows it and the run directory cannot.
    """

    status: str
    since: float
    note: str = ""
    cause: str = ""


@dataclass(frozen=True)
class Board:
    """What a driver last wrote.

    Attributes:
        trials: run id -> its trial; a run that is not in it waits in the driver's queue.
        written: seconds since the Unix epoch.
    """

    trials: Mapping[str, TrialNote]
    written: float = 0.0

    def write(self, path: Path) -> None:
        """Replace the file.

        Raises:
            OSError: the workspace cannot be written.
        """
        trials = {run_id: asdict(trial) for run_id, trial in self.trials.items()}
        atomic.write_json(path, {"version": _VERSION, "written": self.written, "trials": trials})

    @classmethod
    def read(cls, path: Path) -> Board:
        """What stands in the file; an empty board if there is none, or it is of another version."""
        try:
            value: dict[str, Any] | None = atomic.read_json(path)
        except (OSError, ValueError):
            value = None
        if value is None or value["version"] != _VERSION:
            return cls({})
        return cls({run_id: TrialNote(**trial) for run_id, trial in value["trials"].items()}, value["written"])
