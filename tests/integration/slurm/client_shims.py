"""Shims in place of SLURM's client programs, for what those do when all goes wrong. They stand before them in PATH."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

#: What an sbatch may do to the controller that called it -> its lines. ``REAL`` is SLURM's own.
SBATCH = {
    # The controller dies, and sbatch does its work all the same.
    "kills its caller first": 'kill -9 $PPID\nexec REAL "$@"',
    # The same, but the job comes when the next controller has already looked for it.
    "kills its caller and is slow": 'kill -9 $PPID\nsleep 4\nexec REAL "$@"',
    # The scheduler has the job, and the controller never hears its id.
    "kills its caller last": 'REAL "$@"\nkill -9 $PPID',
    # The scheduler has the job, and says that it has not.
    "fails after its work": 'REAL "$@" > /dev/null\n'
    'echo "sbatch: error: Batch job submission failed: Socket timed out on send/recv operation" >&2\nexit 1',
}

#: What squeue answers.
SQUEUE = {
    "is empty": "exit 0",
    "fails": 'echo "slurm_load_jobs error: Unable to contact slurm controller (connect failure)" >&2\nexit 1',
    "hangs": "exec sleep 600",
    "is cut short": 'REAL "$@" | head --bytes=70',
    "is garbage": "head --bytes=2000 /dev/urandom; exit 0",
}


def shim(folder: Path, program: str, lines: str, *, while_there: Path | None = None) -> dict[str, str]:
    """Write a shim; the variables by which a process finds it.

    Args:
        while_there: the shim is SLURM's own program as soon as this file is gone.
    """
    real = shutil.which(program)
    assert real is not None
    folder.mkdir(parents=True, exist_ok=True)
    escape = f'[ -e "{while_there}" ] || exec {real} "$@"\n' if while_there is not None else ""
    note = f'echo "$(date +%s.%N) $*" >> "{folder / program}.calls"\n'
    path = folder / program
    path.write_text(f"#!/bin/bash\n{escape}{note}{lines.replace('REAL', real)}\n")
    path.chmod(0o755)
    return {"PATH": f"{folder}{os.pathsep}{os.environ['PATH']}"}


def calls(folder: Path, program: str) -> int:
    """How often a shim was asked while it was one."""
    log = folder / f"{program}.calls"
    return len(log.read_text().splitlines()) if log.exists() else 0
