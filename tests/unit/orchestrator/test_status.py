"""What `sweep status` and `show` say beside the table: hosts that fail, where to see why runs wait, the living job."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.cli.commands import show_run, show_status
from orchestrator.cli.session import Session
from orchestrator.controller import Controller
from orchestrator.experiment import load_experiment
from orchestrator.ledger import Ledger
from orchestrator.state import JobState
from orchestrator.submission import submit
from orchestrator.workspace import Workspace
from tests.fakes import FakeScheduler
from trainers.rundir import AttemptRecord, atomic

FILE = """
name: two
base: {train: {epochs: 1, batch_size: 64}, method: {name: moco_v2, queue_size: 128}}
grid: {seed: [0, 1]}
"""


@pytest.fixture
def session(tmp_path: Path) -> Session:
    """Two runs whose jobs wait, each after an attempt that failed on n3; one was preempted on n1 before."""
    workspace = Workspace(tmp_path)
    workspace.runs_dir.mkdir()
    (tmp_path / "two.yaml").write_text(FILE)
    ledger, scheduler = Ledger(workspace.ledger_path), FakeScheduler()
    scheduler.name = "slurm"
    controller = Controller(ledger, workspace, backends={"slurm": scheduler})
    submit(load_experiment(tmp_path / "two.yaml", ["backend=slurm"], {}), controller)
    controller.step("two")
    scheduler.jobs = dict.fromkeys(scheduler.jobs, JobState.PENDING)
    controller.observe("two")
    first, second = (run.run_id for run in ledger.runs("two"))
    for run_id, host, cause in ((first, "n1", "preempted"), (first, "n3", "failed"), (second, "n3", "node_fail")):
        run_dir = workspace.run_dir(run_id)
        number = len(run_dir.attempt_numbers()) + 1
        run_dir.attempt_dir(number).mkdir(parents=True)
        record = AttemptRecord(
            number=number, token="t", backend="slurm", job_id="7_0", hosts=(host,), started=1.0, ended=2.0, cause=cause
        )
        atomic.write_json(run_dir.attempt_path(number), record.to_json())
    return Session(workspace, ledger, controller)


def test_status_names_the_host_that_fails_over_all_runs(session: Session, capsys: pytest.CaptureFixture[str]) -> None:
    show_status(session, "two", as_json=False)
    printed = capsys.readouterr().out
    assert "2 of 2 attempts on n3 failed; elsewhere 0 of 1; backend.exclude leaves a node out" in printed


def test_show_tells_the_living_job_and_how_attempts_ended(session: Session, capsys: pytest.CaptureFixture[str]) -> None:
    run_id = session.ledger.runs("two")[0].run_id
    job_id = session.ledger.jobs_of(run_id)[-1].job_id
    show_run(session, run_id, as_json=False)
    printed = " ".join(capsys.readouterr().out.split())
    assert f"job of slurm: {job_id}, submitted" in printed
    assert "1 preempted, 1 failed" in printed
    assert "attempts on n3 failed" not in printed  # once on this run is no habit
