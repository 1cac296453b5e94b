"""The entrypoint of a submission's Ray job: keeps Tune going.

    python -m orchestrator.backends.ray.driver MANIFEST

Tune runs in a process of its own, which is started again when it dies: what it knows stands in the run directories.
This process imports no Ray, so that little can go wrong in it. When it is killed, the kernel tells Tune, and Ray then
ends the trials, whose launchers save their state. Exit codes: 0 when every run came to an end, done or not; 75 when
the job was asked to stop; 1 when Tune dies again and again.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from orchestrator.backends.ray.manifest import Manifest
from orchestrator.launch.outcome import EXIT_DONE, EXIT_FAILED, EXIT_RESUMABLE

_ENDING_SIGNALS = frozenset({signal.SIGTERM, signal.SIGINT, signal.SIGHUP})

#: Seconds after which a death of Tune is not taken for the consequence of the one before.
_QUICK_S = 120.0
#: Quick deaths in a row after which it is not started again.
_MAX_QUICK_DEATHS = 6
_LONGEST_PAUSE_S = 30.0


def main(command_line: Sequence[str] | None = None) -> int:
    """Carry out the submission; returns the exit code."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {*_ENDING_SIGNALS, signal.SIGCHLD})
    arguments = sys.argv[1:] if command_line is None else command_line
    if len(arguments) != 1:
        say("usage: python -m orchestrator.backends.ray.driver MANIFEST")
        return EXIT_FAILED
    try:
        manifest = Manifest.read(Path(arguments[0]))
        say(f"everything else is said in {manifest.driver_log_path}")
        _redirect(manifest.driver_log_path)
    except (OSError, ValueError) as error:
        say(str(error))
        return EXIT_FAILED
    return _keep_going(manifest)


def say(message: str) -> None:
    """Tell people, with the time."""
    print(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {message}", flush=True)  # noqa: T201


def _redirect(log_path: Path) -> None:
    with log_path.open("ab") as log:
        sys.stdout.flush()
        os.dup2(log.fileno(), sys.stdout.fileno())
        os.dup2(log.fileno(), sys.stderr.fileno())


def _keep_going(manifest: Manifest) -> int:
    quick_deaths = 0
    while True:
        started = time.monotonic()
        child = _start_tuning(manifest)
        is_asked_to_stop = _wait(child)
        if is_asked_to_stop:
            say("asked to stop; Tune has ended")
            return EXIT_RESUMABLE
        if child.returncode == 0:
            return EXIT_DONE
        say(f"Tune ended with exit code {child.returncode}")
        quick_deaths = quick_deaths + 1 if time.monotonic() - started < _QUICK_S else 1
        if quick_deaths >= _MAX_QUICK_DEATHS:
            say(f"Tune died {quick_deaths} times in a row within {_QUICK_S:.0f} s of its start; it is given up")
            return EXIT_FAILED
        pause_s = min(2.0 ** (quick_deaths - 1), _LONGEST_PAUSE_S)
        if signal.sigtimedwait(_ENDING_SIGNALS, pause_s) is not None:
            return EXIT_RESUMABLE


def _start_tuning(manifest: Manifest) -> subprocess.Popen[bytes]:
    module = "orchestrator.backends.ray.tuning"
    return subprocess.Popen(
        [sys.executable, "-m", module, str(manifest.path), f"--tied-to={os.getpid()}"],
        stdin=subprocess.DEVNULL,
        preexec_fn=_take_all_signals,  # noqa: PLW1509 - this process has one thread
    )


def _take_all_signals() -> None:
    signal.pthread_sigmask(signal.SIG_SETMASK, set())


def _wait(child: subprocess.Popen[bytes]) -> bool:
    """Wait for Tune to end; whether that was asked for."""
    is_asked_to_stop = False
    while child.poll() is None:
        received = signal.sigwaitinfo({*_ENDING_SIGNALS, signal.SIGCHLD})
        if received.si_signo in _ENDING_SIGNALS and not is_asked_to_stop:
            is_asked_to_stop = True
            child.terminate()
    return is_asked_to_stop


if __name__ == "__main__":
    sys.exit(main())
