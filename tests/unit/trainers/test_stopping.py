"""Requests to stop: signals become flags, ranks agree, nobody outlives a parent."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from functools import partial
from multiprocessing.connection import Connection
from multiprocessing.context import ForkProcess
from pathlib import Path

import psutil
import pytest
import torch.distributed as dist

from trainers.stopping import STOP_SIGNALS, Boundary, SignalWatch, die_with_parent

FORK = multiprocessing.get_context("fork")


@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_a_signal_only_raises_a_flag(number: signal.Signals) -> None:
    with SignalWatch(grace_s=60) as stop_requested:
        assert not stop_requested()
        os.kill(os.getpid(), number)
        os.kill(os.getpid(), number)
        assert stop_requested()
    assert signal.getsignal(number) is signal.SIG_DFL


def forked(body: Callable[[Connection], None]) -> tuple[ForkProcess, Connection]:
    """Run a function in a process of its own, which starts at once because torch is loaded already."""
    reading, writing = FORK.Pipe(duplex=False)
    process = FORK.Process(target=body, args=(writing,))
    process.start()
    return process, reading


def test_a_process_that_cannot_reach_a_boundary_is_ended_after_its_grace() -> None:
    def block(ready: Connection) -> None:
        # In a C call that goes on after a signal: no Python code of the main thread runs any more.
        with SignalWatch(grace_s=0.3):
            mutex, libc = ctypes.create_string_buffer(64), ctypes.CDLL(None)
            ready.send(True)
            libc.pthread_mutex_lock(mutex)
            libc.pthread_mutex_lock(mutex)

    process, ready = forked(block)
    assert ready.recv()
    started = time.monotonic()
    process.terminate()
    process.join(20)
    assert process.exitcode == 1
    assert time.monotonic() - started >= 0.25


def test_a_process_dies_with_its_parent() -> None:
    def parent(ready: Connection) -> None:
        own = os.getpid()
        if os.fork() == 0:
            die_with_parent(own)
            ready.send(os.getpid())
        time.sleep(60)

    process, ready = forked(parent)
    child = psutil.Process(ready.recv())
    process.kill()
    process.join()
    psutil.wait_procs([child], timeout=10)
    assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE


def test_a_parent_that_is_gone_already_counts_as_dying() -> None:
    def orphan(answer: Connection) -> None:
        with SignalWatch(grace_s=60) as stop_requested:
            die_with_parent(parent_pid=os.getppid() + 1)
            answer.send(stop_requested())

    process, answer = forked(orphan)
    assert answer.recv() is True
    process.join()


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_checkpoint_is_due_by_the_clock_and_at_a_stop() -> None:
    clock, asked = Clock(), iter([False, False, False, True])
    boundary = Boundary(lambda: next(asked), checkpoint_every_s=10, clock=clock)

    decisions = []
    for clock.now in (109.9, 110.0, 115.0, 115.0):
        decisions.append(boundary.decide())
        if decisions[-1].save:
            boundary.saved()

    assert [(d.save, d.stop) for d in decisions] == [(False, False), (True, False), (False, False), (True, True)]


def test_ranks_agree(tmp_path: Path) -> None:
    """Rank 1 alone is asked to stop, and a clock that is not rank 0's runs ahead."""

    def rank(own: int, answers: Connection) -> None:
        os.environ["GLOO_SOCKET_IFNAME"] = "lo"
        dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=own, world_size=2)
        times = iter([0.0, 1.0, 1.0] if own == 0 else [0.0, 99.0, 99.0])
        asked = iter([False, own == 1])
        boundary = Boundary(lambda: next(asked), 10, dist.group.WORLD, clock=lambda: next(times))
        answers.send([(d.save, d.stop) for d in (boundary.decide(), boundary.decide())])

    ranks = [forked(partial(rank, own)) for own in (0, 1)]
    for process, answers in ranks:
        assert answers.poll(30), "a rank gave no answer"
        assert answers.recv() == [(False, False), (True, True)]
        process.join()
