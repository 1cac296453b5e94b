"""What is forecast of a watched or planned experiment, from its files, and the words for it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from orchestrator.cli.outlook import Outlook, live_text, plan_lines, plan_outlook, planned_run
from orchestrator.cli.session import Session, open_session
from orchestrator.controller import Snapshot
from orchestrator.experiment import load_experiment
from orchestrator.forecast import Forecast, Measured, Range
from orchestrator.ledger import RunRow
from orchestrator.state import RunState
from orchestrator.submission import submit
from trainers.config import RunConfig
from trainers.rundir import Phase, Status

CONFIG = RunConfig().model_dump(mode="json")
BATCH = CONFIG["train"]["batch_size"]


def status(phase: Phase = Phase.TRAINING, *, step: int = 50, images_per_s: float = 10.0) -> Status:
    return Status(phase=phase, attempt=1, step=step, total_steps=100, images_per_s=images_per_s)


@pytest.fixture
def session(tmp_path: Path) -> Session:
    """A workspace where an experiment of three runs was submitted."""
    file = tmp_path / "x.yaml"
    file.write_text("name: x\ngrid: {seed: [0, 1, 2]}\nresources: {gpus_per_node: 2}\n")
    opened = open_session(str(tmp_path / "ws"))
    submit(load_experiment(file, environment={}), opened.controller)
    return opened


def working(session: Session, **statuses: Status) -> Snapshot:
    """The picture with the first runs at work, in the order of ``statuses``."""
    snapshot = session.controller.snapshot("x")
    runs = list(snapshot.runs)
    found = {}
    for number, one in enumerate(statuses.values()):
        runs[number] = replace(runs[number], state=RunState.RUNNING)
        found[runs[number].run_id] = one
    return replace(snapshot, runs=runs, statuses=found)


def row(session: Session) -> RunRow:
    return session.controller.snapshot("x").runs[0]


@pytest.mark.parametrize(
    ("seen", "expected"),
    [
        (None, (1.0, None)),
        (status(), (1.0, 50 * BATCH / 10)),
        (status(images_per_s=0.0), (0.5, None)),
        (status(Phase.STARTING, step=90, images_per_s=0.0), (pytest.approx(0.1), None)),
        (status(Phase.EVALUATING, step=100), (0.1, None)),
    ],
)
def test_what_is_left_of_a_run(session: Session, seen: Status | None, expected: tuple[Any, Any]) -> None:
    found = planned_run(row(session), CONFIG, seen)
    assert (found.left, found.seconds_left) == expected
    assert found.gpus == 2


def test_nothing_is_forecast_before_anything_is_known(session: Session) -> None:
    assert Outlook(session).of(working(session)) is None
    assert Outlook(session).of(working(session, a=status(Phase.STARTING, images_per_s=0.0))) is None


def test_runs_that_wait_take_as_long_as_those_that_work_and_begin_after_them(session: Session) -> None:
    found = Outlook(session).of(working(session, a=status(), b=status()))
    assert found is not None
    whole = 100 * BATCH / 10
    # Two at once, each half done; the third begins where one ends.
    assert found.wall_seconds[2].likely == pytest.approx(1.5 * whole, rel=0.1)
    assert found.unknown_runs == 0


def test_the_forecast_is_not_made_at_every_look(session: Session) -> None:
    now = [0.0]
    outlook = Outlook(session, clock=lambda: now[0])
    first = outlook.of(working(session, a=status()))
    now[0] = 1.0
    assert outlook.of(working(session, a=status(step=90))) is first
    now[0] = 10.0
    later = outlook.of(working(session, a=status(step=90)))
    assert first is not None
    assert later is not None
    assert later.job_seconds.likely < first.job_seconds.likely


def test_the_head_says_how_long_and_how_sure() -> None:
    clock = {3: Range(550, 720, 930)}
    text = live_text(Forecast(5, 0, 4, wall_seconds=clock), 0, now=0.0)
    assert text.startswith("about 12m00s left (9m10s to 15m30s), done at ")
    assert live_text(Forecast(5, 2, 4, wall_seconds=clock), 3, 0.0).endswith(
        ", without 5 runs that nothing is known of"
    )


def test_a_plan_says_the_clock_for_numbers_of_runs_at_once(tmp_path: Path) -> None:
    file = tmp_path / "x.yaml"
    file.write_text("name: x\ngrid: {seed: [0, 1, 2, 3, 4, 5]}\nbackend: {name: slurm, max_parallel: 2}\n")
    experiment = load_experiment(file, environment={})
    assert plan_lines(plan_outlook(experiment, experiment.cells(), [])) == []
    measured = [Measured(CONFIG, 100.0), Measured(CONFIG, 100.0)]
    outlook = plan_outlook(experiment, experiment.cells(), measured)
    assert list(outlook.wall_seconds) == [2, 4]
    lines = plan_lines(outlook)
    assert "by 2 earlier runs of the kind, which says little" in lines[0]
    assert " with 2 at once; " in lines[1]
