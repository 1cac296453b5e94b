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

from orchestrator.launch.outcome import Stop
from orchestrator.launch.torchrun import STOP_SIGNAL_NAMES

_STOP_SIGNALS = frozenset(signal.Signals[name] for name in STOP_SIGNAL_NAMES)
_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36

#: Seconds beyond the grace of the ranks, and beyond the agent's own margin, before processes are killed.
_KILL_MARGIN_S = 8
#: Seconds that the agent may outlive the end of the work, and then a request to stop. Agents of several nodes wait
#: minutes for each other, deaf to signals, when one of them is gone.
_LINGER_S = 5
_LINGER_KILL_S = 2
#: Seconds between two looks at the clock, and at the end of the work, while nothing happens.
_TICK_S = 2.0
#: Seconds before the own timer in which SIGUSR1 is taken for the scheduler's warning of the time limit. SLURM sends it
#: up to a minute early.
_EARLY_WARNING_S = 75.0


def take_signals() -> None:
    """Hold back the signals that ask to stop, and the news of ended children, until :func:`supervise` takes them.

    Also makes this process the parent of every process below it whose own parent dies, so that it can wait for them.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, {*_STOP_SIGNALS, signal.SIGCHLD})
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def tie_to_parent(parent: int) -> bool:
    """Have the kernel ask this process to stop when its parent dies. False if it is dead already."""
    _prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    return os.getppid() == parent


def supervise(
    command: Sequence[str],
    environment: Mapping[str, str],
    log_path: Path,
    grace_s: float,
    is_over: Callable[[], bool],
    stop_after_s: float | None = None,
) -> Stop | None:
    """Run a command until neither it nor any process below it is left.

    Args:
        log_path: gets the command's output and error, appended.
        grace_s: seconds that the processes have to end by themselves after the request to stop.
        is_over: whether the work is done or given up, so that the command has no reason to run on.
        stop_after_s: seconds after which the processes are asked to stop, because a time limit is near. Seconds in
            which the job was suspended do not count.

    Returns:
        By what this process was asked to stop, or None if it was not.
    """
    with log_path.open("ab") as log:
        child = _start(command, environment, log.fileno())
    stop = _wait(child, grace_s, is_over, float("inf") if stop_after_s is None else stop_after_s)
    _end_orphans(grace_s + _KILL_MARGIN_S)
    pending = next((received.name for received in signal.sigpending() & _STOP_SIGNALS), None)
    return stop if stop is not None or pending is None else Stop(pending)


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


def _wait(
    child: subprocess.Popen[bytes], grace_s: float, is_over: Callable[[], bool], stop_after_s: float
) -> Stop | None:
    stop: Stop | None = None
    kill_at = over_since = float("inf")
    left_s, looked = stop_after_s, time.monotonic()
    while child.poll() is None:
        received = signal.sigtimedwait({*_STOP_SIGNALS, signal.SIGCHLD}, max(0.0, min(_TICK_S, left_s)))
        now = time.monotonic()
        # More than a tick has passed only if this process was suspended, and then the clock of the limit stood still.
        left_s, looked = left_s - min(now - looked, 2 * _TICK_S), now
        if stop is None:
            stop = _asked_to_stop(received, left_s)
            if stop is not None:
                left_s = float("inf")
                kill_at = min(kill_at, now + grace_s + _KILL_MARGIN_S)
                child.terminate()
        if is_over():
            over_since = min(over_since, now)
        if now - over_since > _LINGER_S and kill_at == float("inf"):
            kill_at = now + _LINGER_KILL_S
            child.terminate()
        if now > kill_at:
            child.kill()
    return stop


def _asked_to_stop(received: signal.struct_siginfo | None, left_s: float) -> Stop | None:
    if received is not None and received.si_signo in _STOP_SIGNALS:
        name = signal.Signals(received.si_signo).name
        return Stop(name, is_time_limit=name == "SIGUSR1" and left_s < _EARLY_WARNING_S)
    return Stop("the time limit", is_time_limit=True) if left_s <= 0 else None


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
