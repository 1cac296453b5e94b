"""`sweep cancel`: what it says and waits for, and Ctrl-C during it."""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from orchestrator.backends.base import Job, Sighting
from orchestrator.cli.commands import cancel_experiment
from orchestrator.cli.session import Session
from orchestrator.controller import Controller
from orchestrator.experiment import load_experiment
from orchestrator.ledger import Ledger, Wanted
from orchestrator.state import JobState, RunState
from orchestrator.submission import submit
from orchestrator.workspace import Workspace
from tests.fakes import FakeScheduler

FILE = """
name: two
base: {train: {epochs: 1, batch_size: 64}, method: {name: moco_v2, queue_size: 128}}
grid: {seed: [0, 1]}
"""


class SlowScheduler(FakeScheduler):
    """Jobs that were asked to stop have left some looks later, or never while the user waits."""

    def __init__(self) -> None:
        super().__init__()
        self.looks_until_gone = 2
        self.interrupts = False

    def poll(self, jobs: Sequence[Job]) -> Mapping[str, Sighting]:
        if self.cancelled:
            self.looks_until_gone -= 1
            if self.interrupts:
                os.kill(os.getpid(), signal.SIGINT)
            elif self.looks_until_gone == 0:
                self.jobs = dict.fromkeys(self.jobs, JobState.ENDED)
        return super().poll(jobs)


@pytest.fixture
def scheduler() -> SlowScheduler:
    return SlowScheduler()


@pytest.fixture
def session(tmp_path: Path, scheduler: SlowScheduler) -> Session:
    workspace = Workspace(tmp_path)
    workspace.runs_dir.mkdir()
    (tmp_path / "two.yaml").write_text(FILE)
    ledger = Ledger(workspace.ledger_path)
    controller = Controller(ledger, workspace, backends={"local": scheduler})
    submit(load_experiment(tmp_path / "two.yaml", (), {}), controller)
    controller.step("two")
    scheduler.jobs = dict.fromkeys(scheduler.jobs, JobState.RUNNING)
    return Session(workspace, ledger, controller)


def test_waits_until_all_jobs_have_left(
    session: Session, scheduler: SlowScheduler, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cancel_experiment(session, "two") == 0
    first, *_, last = capsys.readouterr().out.splitlines()
    assert first.startswith("2 jobs are asked to save their state and stop")
    assert last == "two  2 runs: 2 cancelled"
    assert sorted(set(scheduler.cancelled)) == sorted(scheduler.jobs)


def test_ctrl_c_ends_the_waiting_and_takes_nothing_back(
    session: Session, scheduler: SlowScheduler, capsys: pytest.CaptureFixture[str]
) -> None:
    scheduler.interrupts = True
    assert cancel_experiment(session, "two") == 130
    assert "two is cancelled; `sweep watch two` waits" in capsys.readouterr().out
    assert session.ledger.experiment("two").wanted is Wanted.CANCELLED
    assert set(scheduler.cancelled) == set(scheduler.jobs)
    assert {run.state for run in session.ledger.runs("two")} == {RunState.RUNNING}


def test_nothing_to_stop(session: Session, scheduler: SlowScheduler, capsys: pytest.CaptureFixture[str]) -> None:
    scheduler.jobs = dict.fromkeys(scheduler.jobs, JobState.ENDED)
    session.controller.observe("two")
    assert cancel_experiment(session, "two") == 0
    assert "jobs are asked" not in capsys.readouterr().out
