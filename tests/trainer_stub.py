"""A stub in place of torchrun and the trainers, for tests of scheduling alone: it computes nothing.

Scheduler, jobs and launchers are real; only ``python -m trainers.agent``, which the launcher starts, is this file. It
"trains" by counting steps, stops at a signal as the trainers do, goes on at the step it had reached, and leaves what a
finished run leaves. ``stub.log`` in the run directory has a line for each time it began and each time it finished.

It takes the trainers' place by the search path of modules, which the Python that ``backend.python`` names may set.
"""

from __future__ import annotations

import fcntl
import shlex
import signal
import sys
import time
from pathlib import Path

from trainers.rundir import Phase, Result, RunDir, Status, StopReason, atomic

STEP_S = 0.02
#: While a file of this name is in the workspace, no stub takes a step.
HOLD_NAME = "hold"


def python(folder: Path) -> Path:
    """Write the Python that a job is to use into a folder: this one, with a package that stands before ``trainers``."""
    package = folder / "trainers"
    package.mkdir(parents=True, exist_ok=True)
    # All of the real package is found behind it, but for the one module.
    (package / "__init__.py").write_text("import pkgutil\n__path__ = pkgutil.extend_path(__path__, __name__)\n")
    (package / "agent.py").write_text(f"import runpy\nrunpy.run_path({str(Path(__file__))!r}, run_name='__main__')\n")
    root = Path(__file__).resolve().parents[1]
    executable = folder / "python"
    executable.write_text(
        f"#!/bin/sh\nexport PYTHONPATH={shlex.quote(str(folder))}:{shlex.quote(str(root))}\n"
        f'exec {shlex.quote(sys.executable)} "$@"\n'
    )
    executable.chmod(0o755)
    return executable


def count_lines(run_dir: RunDir, word: str) -> int:
    """How many lines of the stub's log begin with ``word``: ``began`` or ``finished``."""
    log = run_dir.path / "stub.log"
    return sum(line.startswith(word) for line in log.read_text().splitlines()) if log.exists() else 0


def main(arguments: list[str]) -> int:
    """Carry out one attempt; like torchrun, 1 for everything but success."""
    stopped = False

    def stop(*_: object) -> None:
        nonlocal stopped
        stopped = True

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
        signal.signal(number, stop)

    after_torchrun = arguments[arguments.index("trainers") + 1 :]
    run_dir = RunDir(Path(after_torchrun[0]))
    attempt = next(int(text.partition("=")[2]) for text in after_torchrun if text.startswith("--attempt="))
    spec = run_dir.read_spec()
    assert spec is not None
    total = spec["config"]["train"]["epochs"]
    hold = run_dir.path.parents[1] / HOLD_NAME

    def report(phase: Phase, step: int, reason: StopReason | None = None) -> None:
        status = Status(
            phase=phase, attempt=attempt, step=step, total_steps=total, reason=reason, heartbeat=time.time()
        )
        atomic.write_json(run_dir.status_path, status.to_json())

    with run_dir.lock_path.open("ab") as lock, (run_dir.path / "stub.log").open("a") as log:
        fcntl.flock(lock, fcntl.LOCK_EX)
        saved = [int(folder.name.removeprefix("step_")) for folder in run_dir.checkpoint_dirs()]
        step = max(saved, default=0)
        print(f"began attempt {attempt} at step {step}", file=log, flush=True)
        report(Phase.TRAINING, step)
        while step < total and not stopped:
            time.sleep(STEP_S)
            step += not hold.exists()
        (run_dir.checkpoints_dir / f"step_{step}").mkdir(parents=True, exist_ok=True)
        if step < total:
            report(Phase.STOPPED, step, StopReason.PREEMPTED)
            return 1
        result = Result(
            run_id=spec["run_id"], steps=total, epochs=total, metrics={"stub": 1.0}, protocols=spec["protocols"]
        )
        atomic.write_json(run_dir.result_path, result.to_json())
        report(Phase.DONE, step)
        print(f"finished attempt {attempt}", file=log, flush=True)
        return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
