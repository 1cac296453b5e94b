"""A look around on a compute node, by a job that ``sweep doctor`` sends: what jobs find there.

``python -m orchestrator.backends.slurm.probe FOLDER`` reads the question in that folder of the workspace and leaves an
answer beside it. :mod:`orchestrator.backends.slurm.checks` sends it and judges the answer.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

QUESTION_FILE, ANSWER_FILE, LOCK_FILE = "question", "answer.json", "lock"


@dataclass(frozen=True)
class Answer:
    """What the job saw.

    Attributes:
        question: the text that the asking process wrote; empty if the file is not there.
        time_s: the node's clock, in seconds since the Unix epoch.
        is_locked: whether the lock that the asking process holds was seen; None if the file system has no locks.
        num_gpus: GPUs that torch sees; -1 if it cannot be imported.
        torch_error: why it cannot.
        gpus_given: as SLURM set CUDA_VISIBLE_DEVICES; None if it did not.
    """

    host: str
    question: str
    time_s: float
    is_locked: bool | None
    python: str
    num_gpus: int
    torch_error: str
    gpus_given: str | None


def look_around(folder: Path) -> Answer:
    """What this machine sees in the folder and of itself."""
    question = folder / QUESTION_FILE
    num_gpus, torch_error = _gpus_of_torch()
    return Answer(
        host=os.environ.get("SLURMD_NODENAME") or socket.gethostname(),
        question=question.read_text() if question.exists() else "",
        time_s=time.time(),
        is_locked=_is_locked(folder / LOCK_FILE),
        python=f"{sys.executable} {sys.version.split()[0]}",
        num_gpus=num_gpus,
        torch_error=torch_error,
        gpus_given=os.environ.get("CUDA_VISIBLE_DEVICES"),
    )


def _is_locked(path: Path) -> bool | None:
    try:
        with path.open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return None
    return False


def _gpus_of_torch() -> tuple[int, str]:
    # In a process of its own: a broken CUDA installation may kill the process that imports torch.
    code = "import torch; print(torch.cuda.device_count())"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    if answer.returncode != 0:
        return -1, (answer.stderr.strip().splitlines() or [f"exit status {answer.returncode}"])[-1]
    return int(answer.stdout), ""


def main(folder: Path) -> None:
    """Write the answer; complete or not at all."""
    # The clock is read last, so that its age is that of the file.
    answer = look_around(folder)
    unfinished = folder / f"{ANSWER_FILE}.tmp"
    unfinished.write_text(json.dumps({**asdict(answer), "time_s": time.time()}))
    unfinished.replace(folder / ANSWER_FILE)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
