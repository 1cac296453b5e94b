"""Runs one process tree under the launcher: starts it, asks it to stop once, and leaves none of it behind.

Signals are not handled but waited for: the launcher blocks them before it does anything else (:func:`take_signals`),
so that several at once, or the same one twice, are one request to stop, and none is lost in between.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import psutil

from orchestrator.launch.torchrun import STOP_SIGNAL_NAMES

_STOP_SIGNALS = frozenset(signal.Signals[name] for name in STOP_SIGNAL_NAMES)
_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36

#: Seconds beyond the grace of the ranks, and beyond the agent's own margin, before processes are killed.
_KILL_MARGIN_S = 8
#: Seconds that the agent may outlive the end of the work. Agents of several nodes wait minutes for each other when
#: one of them is gone.
_LINGER_S = 15
#: Seconds between two looks at the clock while nothing happens.
_TICK_S = 5.0


def take_signals() -> None:
    """Hold back the signals that ask to stop, and the news of ended children, until :func:`supervise` takes them.

    Also makes this process the parent of every process below it whose own parent dies, so that it can wait for them.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, {*_STOP_SIGNALS, signal.SIGCHLD})
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def supervise(
    command: Sequence[str],
    environment: Mapping[str, str],
    log_path: Path,
    grace_s: float,
    is_over: Callable[[], bool],
) -> str | None:
    """Run a command until neither it nor any process below it is left.

    Args:
        log_path: gets the command's output and error, appended.
        grace_s: seconds that the processes have to end by themselves after the request to stop.
        is_over: whether the work is done or given up, so that the command has no reason to run on.

    Returns:
        The name of the signal by which this process was asked to stop, or None.
    """
    with log_path.open("ab") as log:
        child = _start(command, environment, log.fileno())
    stop_signal = _wait(child, grace_s, is_over)
    _end_orphans(grace_s + _KILL_MARGIN_S)
    return stop_signal or next((received.name for received in signal.sigpending() & _STOP_SIGNALS), None)


def _start(command: Sequence[str], environment: Mapping[str, str], output: int) -> subprocess.Popen[bytes]:
    launcher = os.getpid()

    def before_exec() -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, set())
        _prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != launcher:
            os._exit(1)

    return subprocess.Popen(
        command,
        env=dict(environment),
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=output,
        # A session of its own: Ctrl-C reaches the launcher only, which passes it on once.
        start_new_session=True,
        preexec_fn=before_exec,  # noqa: PLW1509 - this process has one thread
    )


def _wait(child: subprocess.Popen[bytes], grace_s: float, is_over: Callable[[], bool]) -> str | None:
    stop_signal: str | None = None
    kill_at = over_since = float("inf")
    while child.poll() is None:
        received = signal.sigtimedwait({*_STOP_SIGNALS, signal.SIGCHLD}, _TICK_S)
        now = time.monotonic()
        if received is not None and received.si_signo in _STOP_SIGNALS and stop_signal is None:
            stop_signal = signal.Signals(received.si_signo).name
            kill_at = min(kill_at, now + grace_s + _KILL_MARGIN_S)
            child.terminate()
        if is_over():
            over_since = min(over_since, now)
        if now - over_since > _LINGER_S and kill_at == float("inf"):
            kill_at = now + _KILL_MARGIN_S
            child.terminate()
        if now > kill_at:
            child.kill()
    return stop_signal


def _end_orphans(grace_s: float) -> None:
    """Wait for what the command left behind. The kernel has told those processes already that their parent died."""
    orphans = psutil.Process().children(recursive=True)
    _, alive = psutil.wait_procs(orphans, timeout=grace_s)
    for process in alive:
        process.kill()
    psutil.wait_procs(alive, timeout=grace_s)


def _prctl(option: int, argument: int) -> None:
    _LIBC.prctl(option, argument, 0, 0, 0)


#: Loaded beforehand: between fork and exec nothing should be looked up.
_LIBC = ctypes.CDLL(None)
