"""A collector looks at half a dozen stamps of a run that has settled: they move with whatever is done to its files."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from orchestrator.collect.children import Children
from orchestrator.collect.cursor import Cursor, ExperimentCursors
from orchestrator.collect.drawings import Drawings
from orchestrator.collect.evidence import appearance, glance
from orchestrator.collect.mlflow_store import open_experiment
from orchestrator.collect.retrying import Patience
from orchestrator.collect.sending import Sender
from orchestrator.collect.store import connect
from orchestrator.runs import RunView, TrackingOptions
from orchestrator.state import RunState
from tests.integration.tracking.fabricated import (
    Fabricated,
    append_metrics,
    uri_of,
    write_checkpoint,
    write_end,
)
from trainers.rundir import RunDir, atomic

Change = Callable[[RunDir], None]


def age(folder: Path) -> None:
    """Let a minute pass for everything that was written since this was last called."""
    now = time.time()
    for path in (folder, *folder.rglob("*")):
        changed = path.stat().st_mtime
        if now - changed < 60:
            os.utime(path, (changed - 60, changed - 60))


def rewritten(name: str) -> Change:
    """Written anew as all our programs do, with the same bytes."""

    def change(run_dir: RunDir) -> None:
        path = run_dir.path / name
        path.parent.mkdir(exist_ok=True)
        atomic.write_bytes(path, path.read_bytes() if path.exists() else b"{}")

    return change


def removed(name: str) -> Change:
    def change(run_dir: RunDir) -> None:
        path = run_dir.path / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()

    return change


def cut_back(run_dir: RunDir) -> None:
    """A resume leaves out what is not in its checkpoint."""
    with open(run_dir.metrics_path, "ab") as file:
        file.truncate(run_dir.metrics_path.stat().st_size // 2)


def measured_again(run_dir: RunDir) -> None:
    """Cut back, and grown to the very size that it had."""
    lines = run_dir.metrics_path.read_text().splitlines(keepends=True)
    with open(run_dir.metrics_path, "r+b") as file:
        file.truncate(len("".join(lines[:-1]).encode()))
        file.seek(0, os.SEEK_END)
        file.write(lines[-1].replace("0.03", "0.04").encode())


def checkpointed(run_dir: RunDir) -> None:
    """As the trainer does it: built under another name, and the oldest removed."""
    write_checkpoint(run_dir, "", 77)
    folder = run_dir.checkpoints_dir / "step_77"
    folder.rename(folder.with_name("step_77.tmp"))
    age(run_dir.checkpoints_dir)
    folder.with_name("step_77.tmp").rename(folder)
    shutil.rmtree(run_dir.checkpoint_dirs()[-1])


def mended(run_dir: RunDir) -> None:
    """A damaged checkpoint is replaced by one of the same step."""
    folder = run_dir.checkpoint_dirs()[0]
    fresh = folder.with_name(f"{folder.name}.tmp")
    shutil.copytree(folder, fresh, copy_function=shutil.copyfile)
    shutil.rmtree(folder)
    fresh.rename(folder)


def attempted(run_dir: RunDir) -> None:
    folder = run_dir.attempt_dir(len(run_dir.attempt_numbers()) + 1)
    folder.mkdir()
    record = run_dir.read_attempt(1)
    assert record is not None
    atomic.write_json(folder / "attempt.json", replace(record, number=2).to_json())


def logged(run_dir: RunDir) -> None:
    """The last words of an attempt, and then its end."""
    number = run_dir.attempt_numbers()[-1]
    with open(run_dir.rank_log_path(number, 0), "ab") as file:
        file.write(b"the end\n")
    rewritten(f"attempts/{number}/attempt.json")(run_dir)


def shared(run_dir: RunDir) -> None:
    """The source's diff is one file of many runs."""
    origin = run_dir.path.parent / "source.diff"
    origin.write_text("a change\n")
    atomic.share(origin, run_dir.source_diff_path)


#: What is done to the files of a run, by the programs that do it and by users.
CHANGES: dict[str, Change] = {
    "metrics are appended": lambda run_dir: append_metrics(run_dir, range(10, 11)),
    "metrics are cut back": cut_back,
    "the last step is measured again": measured_again,
    "metrics are removed": removed("metrics.jsonl"),
    "a checkpoint is written": checkpointed,
    "a checkpoint is mended": mended,
    "a checkpoint is removed": lambda run_dir: shutil.rmtree(run_dir.checkpoint_dirs()[0]),
    "all checkpoints are removed": removed("checkpoints"),
    "the encoder is written again": rewritten("checkpoints/encoder.safetensors"),
    "the encoder is removed": removed("checkpoints/encoder.safetensors"),
    "a better encoder is kept": rewritten("checkpoints/encoder_best.safetensors"),
    "the encoder of an epoch is kept": rewritten("checkpoints/encoder_epoch_4.safetensors"),
    "the run is evaluated again": lambda run_dir: write_end(run_dir, "", 10, finished=time.time()),
    "the result is removed": removed("result.json"),
    "spec.json is written again": rewritten("spec.json"),
    "the data set is written again": rewritten("dataset.json"),
    "the list of images is written": rewritten("indices.txt"),
    "the source has a diff": shared,
    "an attempt begins": attempted,
    "an attempt ends": logged,
    "a rank begins to log": lambda run_dir: run_dir.rank_log_path(1, 1).write_text("hello\n") and None,
    "logs are removed": removed("attempts/1/rank_0.log"),
    "attempts are removed": removed("attempts/1"),
}


@pytest.fixture
def sender(fabricated: Fabricated) -> Sender:
    """What asks whether a run has news; its cursors are in a file."""
    store = open_experiment(connect(uri_of(fabricated)), fabricated.name, None)
    cursors = ExperimentCursors(fabricated.cursors, "a store", fabricated.name)
    return Sender(store, cursors, Children(store, "parent"), Drawings(), Patience())


def collected(sender: Sender, run: RunView) -> None:
    """Remember the run as a collection does in its end."""
    cursor = Cursor("run", "parent", seen=appearance(run), glance=glance(run))
    sender.cursors.put(run.run_id, cursor)


@pytest.mark.parametrize("state", [RunState.COMPLETED, RunState.RUNNING, RunState.FAILED])
@pytest.mark.parametrize("is_settled_again", [False, True], ids=["now", "a minute ago"])
def test_whatever_is_done_to_a_settled_run_is_news(
    fabricated: Fabricated, sender: Sender, tmp_path: Path, state: RunState, is_settled_again: bool
) -> None:
    made = replace(fabricated.runs[0], state=state, tracking=TrackingOptions(checkpoints="all"))
    missed = []
    for number, (name, change) in enumerate(CHANGES.items()):
        run = replace(made, run_dir=RunDir(tmp_path / f"copy_{number:02}"))
        shutil.copytree(made.run_dir.path, run.run_dir.path)
        age(run.run_dir.path)
        collected(sender, run)
        before = appearance(run)
        assert glance(run)
        assert not sender.has_news(run)
        change(run.run_dir)
        if is_settled_again:
            age(run.run_dir.path)
        is_changed = appearance(run) != before
        assert is_changed or state is not RunState.COMPLETED, name  # of others, some files are left out
        if sender.has_news(run) != is_changed:
            missed.append(name)
    assert missed == []


@pytest.mark.parametrize(
    "told",
    [
        {"state": RunState.FAILED},
        {"reason": "loss is nan"},
        {"backend": "slurm"},
        {"job_id": "4712"},
        {"attempts": 2},
        {"axes": {"method": "isd", "data.profile": "another label"}},
        {"tracking": TrackingOptions(register_models=True, figures=False)},
    ],
    ids=lambda told: next(iter(told)),
)
def test_what_the_ledger_says_of_a_run_is_news(fabricated: Fabricated, sender: Sender, told: dict[str, Any]) -> None:
    run = fabricated.runs[0]
    age(run.run_dir.path)
    collected(sender, run)
    assert not sender.has_news(run)
    assert sender.has_news(replace(run, **told))
