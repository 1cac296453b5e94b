"""Every point is in the store once, whatever was collected before, interrupted, lost or measured again."""

from __future__ import annotations

import contextlib
import itertools
import multiprocessing
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from orchestrator.errors import EnvironmentProblem
from orchestrator.state import RunState
from orchestrator.workspace import Workspace
from tests.integration.tracking.fabricated import (
    START,
    Fabricated,
    append_metrics,
    contents,
    fabricate,
    uri_of,
    write_checkpoint,
    write_end,
)
from trainers.rundir import atomic


def test_collecting_twice_is_collecting_once(fabricated: Fabricated) -> None:
    fabricated.collect()
    before = contents(uri_of(fabricated))
    again = fabricated.collect()
    assert (again.changed, again.points, again.artifacts) == (0, 0, 0)
    assert contents(uri_of(fabricated)) == before


def test_losing_the_cursors_changes_nothing(fabricated: Fabricated) -> None:
    fabricated.collect()
    before = contents(uri_of(fabricated))
    fabricated.cursors.path.unlink()
    fabricated.collect()
    assert contents(uri_of(fabricated)) == before


def test_a_store_made_anew_is_filled_again(fabricated: Fabricated, empty_store: Path) -> None:
    fabricated.collect()
    before = contents(uri_of(fabricated))
    shutil.copy(empty_store, fabricated.workspace.path / "mlflow.db")
    fabricated.collect()
    assert contents(uri_of(fabricated)) == before


# --- following --------------------------------------------------------------------------------------------------------


def test_following_a_run_brings_every_point_once(fabricated: Fabricated) -> None:
    run = fabricated.runs[0]
    for path in (run.run_dir.result_path, run.run_dir.metrics_path, run.run_dir.encoder_path):
        path.unlink()
    shutil.rmtree(run.run_dir.checkpoints_dir)
    run.run_dir.checkpoints_dir.mkdir()
    fabricated.runs[0] = replace(run, state=RunState.RUNNING)
    sent = []
    for begin in (0, 4, 8):
        append_metrics(run.run_dir, range(begin, begin + 4))
        write_checkpoint(run.run_dir, run.run_id, begin + 4)
        sent.append(fabricated.collect().points)
    assert sent[1:] == [9, 9]  # two metrics at four steps, and one evaluation; nothing is sent again
    write_end(run.run_dir, run.run_id, 12)
    fabricated.runs[0] = run
    fabricated.collect()
    steps = [step for key, step, _, _ in contents(uri_of(fabricated))[run.run_id]["points"] if key == "train/loss"]
    assert steps == list(range(12))


def test_a_run_resumed_from_an_older_checkpoint_keeps_each_step_once(fabricated: Fabricated) -> None:
    """The newest checkpoint was damaged after its steps were collected: they are measured again, at another time."""
    run = fabricated.runs[0]
    run.run_dir.result_path.unlink()
    fabricated.runs[0] = replace(run, state=RunState.RUNNING)
    fabricated.collect()
    lines = run.run_dir.metrics_path.read_text().splitlines(keepends=True)
    run.run_dir.metrics_path.write_text("".join(lines[:6]))
    append_metrics(run.run_dir, range(6, 14), delay_s=1000)
    write_end(run.run_dir, run.run_id, 14)
    fabricated.runs[0] = run
    fabricated.collect()
    steps = [step for key, step, _, _ in contents(uri_of(fabricated))[run.run_id]["points"] if key == "train/loss"]
    assert steps == list(range(14))


def test_a_later_evaluation_adds_its_metrics_and_repeats_none(fabricated: Fabricated) -> None:
    fabricated.collect()
    run = fabricated.runs[0]
    before = contents(uri_of(fabricated))[run.run_id]["points"]
    result = run.run_dir.read_result()
    assert result is not None
    evaluated = replace(result, metrics={**result.metrics, "eval/linear/top1": 80.0}, finished=START + 5000)
    atomic.write_json(run.run_dir.result_path, evaluated.to_json())
    fabricated.collect()
    after = contents(uri_of(fabricated))[run.run_id]["points"]
    assert set(after) - set(before) == {("eval/linear/top1", 10, round((START + 5000) * 1000), 80.0)}


# --- interruptions ----------------------------------------------------------------------------------------------------


class RefusedError(Exception):
    """Raised in place of a write."""


@contextlib.contextmanager
def failing_from_write(number: int) -> Iterator[None]:
    """The database refuses its ``number``-th commit from now on, and all that follow."""
    import sqlalchemy as sa

    commits = itertools.count(1)

    def refuse(_connection: Any) -> None:
        if next(commits) >= number:
            raise RefusedError

    sa.event.listen(sa.engine.Engine, "commit", refuse)
    try:
        yield
    finally:
        sa.event.remove(sa.engine.Engine, "commit", refuse)


def test_a_store_that_fails_at_any_write_ends_as_if_it_had_not(fabricated: Fabricated, empty_store: Path) -> None:
    del fabricated.runs[1:]
    fabricated.collect()
    expected = contents(uri_of(fabricated))
    for number in itertools.count(1, 3):
        for leftover in (fabricated.workspace.path / "mlartifacts", fabricated.cursors.path):
            shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink(missing_ok=True)
        shutil.copy(empty_store, fabricated.workspace.path / "mlflow.db")
        is_through = False
        with failing_from_write(number), contextlib.suppress(EnvironmentProblem, RefusedError):
            is_through = not fabricated.collect(patience_s=0).problems
        if is_through:
            break
        fabricated.collect()
        assert contents(uri_of(fabricated)) == expected, f"write {number}"
    assert number > 20  # every kind of write was refused


def collect_and_die(fabricated: Fabricated, number: int) -> None:
    """Collect until the ``number``-th write, which is not done: a commit, or a file that is opened for it."""
    import sqlalchemy as sa

    writes = itertools.count(1)

    def look(event: str, arguments: tuple[Any, ...]) -> None:
        if event != "open" or not isinstance(arguments[0], str) or not arguments[2] & (os.O_WRONLY | os.O_RDWR):
            return
        if arguments[0].startswith(str(fabricated.workspace.path)):
            die()

    def die(*_: object) -> None:
        if next(writes) == number:
            os.kill(os.getpid(), signal.SIGKILL)

    sa.event.listen(sa.engine.Engine, "commit", die)
    sys.addaudithook(look)
    fabricated.collect()


@pytest.mark.parametrize(
    "stride", [23, pytest.param(1, marks=[pytest.mark.soak, pytest.mark.timeout(1800)])], ids=["some", "every"]
)
def test_a_collector_killed_at_any_write_ends_as_if_it_had_not(tmp_path: Path, empty_store: Path, stride: int) -> None:
    (run,) = fabricate(tmp_path / "made", num_runs=1).runs

    def fresh(number: int) -> Fabricated:
        workspace = Workspace(tmp_path / f"{number:04}")  # as long as the others: logs that are cut name their files
        shutil.copytree(tmp_path / "made", workspace.path)  # with the times of the files, which come into the store
        shutil.copy(empty_store, workspace.path / "mlflow.db")
        return Fabricated(workspace, [replace(run, run_dir=workspace.run_dir(run.run_id))])

    undisturbed = fresh(0)
    undisturbed.collect()
    expected = contents(uri_of(undisturbed))
    # Forked, so that MLflow is imported once; nothing here has opened the store of the child.
    context = multiprocessing.get_context("fork")
    for number in itertools.count(1, stride):
        fabricated = fresh(number)
        process = context.Process(target=collect_and_die, args=(fabricated, number))
        process.start()
        process.join(timeout=120)
        if process.exitcode == 0:
            break
        assert process.exitcode == -signal.SIGKILL
        fabricated.collect()
        assert contents(uri_of(fabricated)) == expected, f"write {number}"
    assert number > 40  # every kind of write was met


def test_killed_collectors_and_two_at_once_leave_every_point_once(tmp_path: Path, empty_store: Path) -> None:
    fabricated = fabricate(tmp_path / "killed", num_runs=3, num_lines=1500)
    shutil.copy(empty_store, fabricated.workspace.path / "mlflow.db")
    moments = random.Random(5)
    # Forked, so that MLflow is imported once; nothing here has opened this store before.
    context = multiprocessing.get_context("fork")
    killed = 0
    for _ in range(5):
        process = context.Process(target=fabricated.collect)
        process.start()
        time.sleep(moments.uniform(0.1, 0.6))
        process.kill()
        process.join()
        killed += process.exitcode == -signal.SIGKILL
    assert killed, "every collector ended before it was killed: give them more to do"
    pair = [context.Process(target=fabricated.collect) for _ in range(2)]
    for process in pair:
        process.start()
    for process in pair:
        process.join(timeout=120)
        assert process.exitcode == 0
    found = contents(uri_of(fabricated))
    for run in fabricated.runs:
        steps = [step for key, step, _, _ in found[run.run_id]["points"] if key == "train/loss"]
        assert steps == list(range(1500))
