"""How a training process is asked to stop, and how all ranks of a run stop at the same step.

A signal only sets a flag, because a handler may run between any two bytecodes and because a signal can come twice
(schedulers signal every process of a job, and torchrun forwards what it gets). The ranks agree on the flag at a step
boundary (:class:`Boundary`), so that all of them leave with the same number of steps. A rank that cannot reach a
boundary, because it hangs in a collective whose other end is gone, is ended by a watchdog that needs no cooperation
of the main thread.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.distributed as dist

#: Every one of them means: checkpoint at the next step boundary, on every rank together, and stop.
STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)

_PR_SET_PDEATHSIG = 1


class StopRequest:
    """A flag that is raised once and never lowered. Call it to ask whether the process should stop."""

    def __init__(self) -> None:
        self._is_raised = False

    def __call__(self) -> bool:
        return self._is_raised

    def set(self) -> None:
        self._is_raised = True


class SignalWatch:
    """Turns the stop signals of this process into a :class:`StopRequest`, and enforces it after a grace time.

    Use it in the main thread, as a context manager. On leaving, the signals get their default meaning again: a
    process that has finished its work may simply be ended.

    Args:
        grace_s: seconds from the first signal until the process is ended, whatever it is doing.
    """

    def __init__(self, grace_s: float) -> None:
        self.request = StopRequest()
        self._grace_s = grace_s
        self._has_finished = threading.Event()

    def __enter__(self) -> StopRequest:
        # Handlers of Python run in the main thread only, which may be stuck in a collective. The interpreter's
        # wake-up descriptor is written by the C handler itself, so the watchdog hears of the signal in any case.
        reading, writing = os.pipe()
        os.set_blocking(writing, False)
        for stop_signal in STOP_SIGNALS:
            signal.signal(stop_signal, lambda _number, _frame: self.request.set())
        signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
        threading.Thread(target=self._watch, args=(reading,), name="stop-watchdog", daemon=True).start()
        return self.request

    def __exit__(self, *_exception: object) -> None:
        self._has_finished.set()
        signal.set_wakeup_fd(-1)
        for stop_signal in STOP_SIGNALS:
            signal.signal(stop_signal, signal.SIG_DFL)

    def _watch(self, descriptor: int) -> None:
        while os.read(descriptor, 1)[0] not in STOP_SIGNALS:
            pass  # SIGCHLD of a data loader, for example
        self.request.set()
        if not self._has_finished.wait(self._grace_s):
            # Raw, unbuffered and without the locks of sys.stderr, one of which the main thread may hold.
            os.write(2, f"not at a step boundary {self._grace_s:g} s after the request to stop: exiting\n".encode())
            os._exit(1)


def die_with_parent(parent_pid: int, death_signal: signal.Signals = signal.SIGTERM) -> None:
    """Ask the kernel for a signal when the parent process dies, so that no process outlives what started it.

    Args:
        parent_pid: the parent as it was when this process started; if it is gone already, the signal comes at once.
    """
    if sys.platform != "linux":
        return
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, int(death_signal), 0, 0, 0)
    if os.getppid() != parent_pid:
        os.kill(os.getpid(), death_signal)


def shield_worker() -> None:
    """Make a data-loading process deaf to stop signals, and mortal with its rank. Call it in the worker, first thing.

    A scheduler signals the whole process tree. A worker that died of it would bring its rank down with an error just
    before the checkpoint.
    """
    signal.set_wakeup_fd(-1)
    for stop_signal in STOP_SIGNALS:
        signal.signal(stop_signal, signal.SIG_IGN)
    die_with_parent(os.getppid(), signal.SIGKILL)


def end_workers() -> None:
    """End what this process has forked. The interpreter, at its exit, would wait for a shielded worker for ever."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch's handler takes the end of a worker for an accident
    for worker in multiprocessing.active_children():
        worker.kill()
        worker.join()


@dataclass(frozen=True)
class Decision:
    """What all ranks do at a step boundary, in this order: save a checkpoint, stop."""

    save: bool
    stop: bool


class Boundary:
    """The agreement of all ranks at a step boundary.

    Args:
        stop_requested: whether this process was asked to stop.
        checkpoint_every_s: seconds between rolling checkpoints, by the clock of rank 0.
        group: a group of all ranks for tensors on the CPU; None in a run of one process.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        stop_requested: Callable[[], bool],
        checkpoint_every_s: float,
        group: dist.ProcessGroup | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._stop_requested = stop_requested
        self._checkpoint_every_s = checkpoint_every_s
        self._group = group
        self._clock = clock
        self._saved_at = clock()

    def decide(self) -> Decision:
        """The same answer on every rank: one small collective."""
        stop = self._stop_requested()
        due = self._clock() - self._saved_at >= self._checkpoint_every_s
        if self._group is not None:
            # Clocks differ between ranks, so only rank 0's counts; a request to stop counts from anywhere.
            flags = torch.tensor([stop, due and dist.get_rank() == 0], dtype=torch.uint8)
            dist.all_reduce(flags, op=dist.ReduceOp.MAX, group=self._group)
            stop, due = (bool(flag) for flag in flags.tolist())
        return Decision(save=due or stop, stop=stop)

    def saved(self) -> None:
        """A checkpoint was written: the time until the next one starts now."""
        self._saved_at = self._clock()
