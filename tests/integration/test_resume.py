"""Whatever is killed on the way, a resumed run ends with the same numbers, and no process is left behind."""

from __future__ import annotations

import signal
from collections.abc import Callable
from typing import Any

import pytest

from trainers.rundir import RunDir, StopReason

#: Long enough to be disrupted several times: every step writes a line, and a checkpoint is a few steps old at most.
LONG = {"train.epochs": 50, "runtime.log_every_steps": 1, "runtime.checkpoint_every_s": 0.2, "evaluate.knn": {"k": 5}}
#: For two disruptions of two processes.
SHORTER = {**LONG, "train.epochs": 16}


def kill_launcher(launched: Any) -> None:
    launched.process.kill()


def kill_agent(launched: Any) -> None:
    launched.agent().kill()


def kill_rank(launched: Any) -> None:
    launched.ranks()[-1].kill()


def preempt(launched: Any) -> None:
    launched.process.terminate()


def signal_everything_twice(launched: Any) -> None:
    """As a scheduler does it: every process of the job, more than once, with more than one signal."""
    processes = [launched.agent(), *launched.ranks()]
    for number in (signal.SIGUSR1, signal.SIGTERM, signal.SIGTERM):
        launched.process.send_signal(number)
        for process in processes:
            if process.is_running():
                process.send_signal(number)


def signal_one_rank(launched: Any) -> None:
    launched.ranks()[-1].send_signal(signal.SIGUSR1)


Disruption = Callable[[Any], None]


def disrupt(launch: Any, run_dir: RunDir, number: int, disruption: Disruption, *options: str) -> int:
    """One attempt that trains some steps and is then disrupted; the launcher's exit code."""
    launched = launch(run_dir, f"token{number}", *options)
    seen = launched.last_step()  # by an earlier attempt
    launched.wait_until(lambda: launched.last_step() > seen + 2)
    disruption(launched)
    code = launched.wait()
    launched.assert_nothing_is_left()
    assert run_dir.read_result() is None, "the run was over before it could be disrupted"
    return int(code)


def finish(launch: Any, run_dir: RunDir, number: int, *options: str) -> None:
    launched = launch(run_dir, f"token{number}", *options)
    assert launched.wait() == 0
    record = run_dir.read_attempt(number)
    assert record is not None
    assert (record.cause, record.exit_code) == ("done", 0)
    assert record.last_step > record.first_step


def test_a_run_of_one_process_survives_everything(
    launch: Any, undisturbed: Callable[[RunDir], RunDir], make_run: Any, numbers_of: Any
) -> None:
    run_dir = make_run("killed", LONG)
    disruptions: list[tuple[Disruption, int]] = [
        (preempt, 75),
        (kill_rank, 1),
        (kill_agent, 75),  # the rank is told, and saves its state
        (kill_launcher, -signal.SIGKILL),
        (signal_everything_twice, 75),
    ]
    for number, (disruption, expected) in enumerate(disruptions, start=1):
        assert disrupt(launch, run_dir, number, disruption) == expected, disruption.__name__
    finish(launch, run_dir, len(disruptions) + 1)

    assert numbers_of(run_dir) == numbers_of(undisturbed(make_run("undisturbed", LONG)))
    attempts = run_dir.read_attempts()
    assert [a.cause for a in attempts] == ["preempted", "failed", "preempted", "lost", "preempted", "done"]
    assert attempts[1].detail == "error: rank 0 was killed by SIGKILL (out of memory?)"
    killed, following = attempts[3:5]
    assert killed.detail == "the launcher was killed; the trainer saved its state and left"
    assert killed.ended is not None and killed.started < killed.ended <= following.started
    assert killed.first_step < killed.last_step == following.first_step


def test_two_processes_stop_together_and_resume_to_the_same_numbers(
    launch: Any, make_run: Any, numbers_of: Any
) -> None:
    run_dir, reference = make_run("killed", SHORTER), make_run("undisturbed", SHORTER)

    assert disrupt(launch, run_dir, 1, signal_one_rank, "--processes=2") == 75
    status = run_dir.read_status()
    assert status is not None and status.reason is StopReason.PREEMPTED
    assert run_dir.checkpoint_dirs()[0].name == f"step_{status.step}", "a signal costs no step"
    assert disrupt(launch, run_dir, 2, kill_rank, "--processes=2") == 1
    record = run_dir.read_attempt(2)
    assert record is not None and record.detail == "error: rank 1 was killed by SIGKILL (out of memory?)"
    finish(launch, run_dir, 3, "--processes=2")

    finish(launch, reference, 1, "--processes=2")
    assert numbers_of(run_dir) == numbers_of(reference)


@pytest.mark.parametrize("moment", ["starting", "evaluating"])
def test_preempted_outside_the_training(launch: Any, make_run: Any, moment: str) -> None:
    """Before the first step nothing is lost; a short evaluation at the end is simply finished."""
    run_dir = make_run("early", {"train.epochs": 30})
    launched = launch(run_dir, "token")
    if moment == "starting":
        launched.wait_until(lambda: run_dir.attempt_path(1).exists())
    else:
        launched.wait_until(lambda: launched.last_step() == 90)
    launched.process.terminate()

    code = launched.wait()

    launched.assert_nothing_is_left()
    record = run_dir.read_attempt(1)
    assert record is not None
    assert (code, record.cause) == ((75, "preempted") if run_dir.read_result() is None else (0, "done"))
    assert code == 75 or moment == "evaluating"
