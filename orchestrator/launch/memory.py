"""Whether the kernel killed processes for want of memory, as it tells the control group that we are in."""

from __future__ import annotations

from pathlib import Path


def oom_kills(proc: Path = Path("/proc/self/cgroup"), mounted: Path = Path("/sys/fs/cgroup")) -> int:
    """Processes of this control group, and of those below, that were killed so far; 0 where nobody counts them.

    Args:
        proc: names the groups of this process.
        mounted: where the hierarchy lies; the older one with a folder for each controller.
    """
    try:
        lines = proc.read_text().splitlines()
    except OSError:
        return 0
    for line in lines:
        _, controllers, group = line.split(":", 2)
        if controllers == "":
            path = mounted / group.lstrip("/") / "memory.events"
        elif "memory" in controllers.split(","):
            path = mounted / "memory" / group.lstrip("/") / "memory.oom_control"
        else:
            continue
        if path.exists():
            return _counted(path.read_text())
    return 0


def _counted(events: str) -> int:
    fields = (line.split() for line in events.splitlines())
    return next((int(field[1]) for field in fields if len(field) == 2 and field[0] == "oom_kill"), 0)
