"""The entry point: what it accepts as a spec, and who may write."""

from __future__ import annotations

import fcntl
import json
from collections.abc import Callable
from typing import Any

import pytest

from trainers.build import build, read_spec
from trainers.data.loader import eval_batches
from trainers.failure import ConfigProblem
from trainers.journal import Journal, StatusFile
from trainers.loop import Stopped
from trainers.rundir import Result, RunDir, atomic
from trainers.train import carry_out

MakeRun = Callable[..., RunDir]


def change(run_dir: RunDir, **entries: Any) -> None:
    spec = json.loads(run_dir.spec_path.read_text())
    run_dir.spec_path.write_text(json.dumps({**spec, **entries}))


def test_reads_what_the_controller_wrote(make_run: MakeRun) -> None:
    run_dir = make_run("run", {"train.epochs": 3})
    spec = read_spec(run_dir)
    assert spec.run_id == run_dir.path.name
    assert (spec.config.train.epochs, spec.config.method.name) == (3, "moco_v2")


SPECS: dict[str, tuple[Callable[[RunDir], object], str]] = {
    "missing": (lambda run_dir: run_dir.spec_path.unlink(), "does not exist; the controller writes it"),
    "empty": (lambda run_dir: run_dir.spec_path.write_text(""), "damaged JSON"),
    "from the future": (lambda run_dir: change(run_dir, schema_version=99), "schema_version=99 is unknown"),
    "wrong type": (lambda run_dir: change(run_dir, config={"train": {"epochs": "ten"}}), r"config.train.epochs: "),
    "unknown key": (lambda run_dir: change(run_dir, config={"trian": {}}), r"config.trian: "),
}


@pytest.mark.parametrize(("spoil", "words"), SPECS.values(), ids=SPECS)
def test_a_spec_that_cannot_be_carried_out_is_named(
    make_run: MakeRun, spoil: Callable[[RunDir], object], words: str
) -> None:
    run_dir = make_run("run")
    spoil(run_dir)
    with pytest.raises(ConfigProblem, match=words) as caught:
        read_spec(run_dir)
    assert str(run_dir.spec_path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "normalised"),
    [({}, True), ({"augment": {"normalise": False}}, False), ({"method": {"name": "simclr"}}, False)],
    ids=["moco_v2", "moco_v2, told not to", "simclr"],
)
def test_images_are_normalised_in_training_and_evaluation_alike(
    make_run: MakeRun, changes: dict[str, Any], normalised: bool
) -> None:
    """Black is 0, and well below it where images are normalised."""
    run_dir = make_run("run", changes)
    training = build(run_dir, read_spec(run_dir), Journal(None), 1, lambda: False)
    batch = next(iter(training.loader.epoch(0)))
    data = training.assessor.images
    evaluated, _ = next(
        eval_batches(data.test, None, batch_size=32, size=8, device=training.device, mean=data.mean, std=data.std)
    )
    for images in (*batch.views, evaluated):
        assert images.min() < -0.5 if normalised else images.min() > -1e-5


def test_waits_for_an_earlier_attempt_and_can_be_stopped_meanwhile(make_run: MakeRun) -> None:
    run_dir = make_run("run")
    asked = iter([False, False, True])
    with open(run_dir.lock_path, "ab") as earlier:
        fcntl.flock(earlier, fcntl.LOCK_EX)
        with pytest.raises(Stopped, match="waiting for an earlier attempt"):
            carry_out(run_dir, Journal(StatusFile(run_dir.status_path, 2)), 2, lambda: next(asked))
    assert run_dir.read_status() is None, "the earlier attempt's files are not touched"


def test_a_run_with_a_result_is_not_touched(make_run: MakeRun) -> None:
    run_dir = make_run("run")
    atomic.write_json(run_dir.result_path, Result(run_id="r", steps=1, epochs=1, metrics={}).to_json())
    before = sorted(path.name for path in run_dir.path.iterdir())

    carry_out(run_dir, Journal(StatusFile(run_dir.status_path, 2)), 2, lambda: False)

    assert sorted(path.name for path in run_dir.path.iterdir()) == sorted([*before, "lock"])
