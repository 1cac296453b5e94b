"""The encoder of the best evaluation: the one that the metrics name, also after interruptions."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
import safetensors
from pydantic import ValidationError

from trainers.best import NotMeasured
from trainers.config import RunConfig
from trainers.journal import Journal, StatusFile
from trainers.loop import Stopped
from trainers.rundir import Phase, RunDir
from trainers.train import carry_out

MakeRun = Callable[..., RunDir]

METRIC = "eval/knn/top1"
#: Six evaluations, and a rate at which they go up and down.
CHANGES = {
    "train.epochs": 6,
    "train.learning_rate": 3.0,
    "seed": 1,
    "runtime.keep_best": METRIC,
    "runtime.keep_every_epochs": 1,
    "runtime.checkpoint_every_s": 0,
    "evaluate.networks": "paper",
}


class Killed(BaseException):
    """Stands for ``kill -9``."""


def attempt(run_dir: RunDir, ask: Callable[[Phase], bool] = lambda _: False) -> None:
    journal = Journal(StatusFile(run_dir.status_path, 1))

    def stop_requested() -> bool:
        status = run_dir.read_status()
        assert status is not None
        return ask(status.phase)

    try:
        carry_out(run_dir, journal, 1, stop_requested)
    finally:
        journal.close()


def origin(path: Any) -> dict[str, Any]:
    with safetensors.safe_open(path, "pt") as file:
        found: dict[str, Any] = json.loads(file.metadata()["origin"])
        return found


def weights(path: Any) -> dict[str, bytes]:
    with safetensors.safe_open(path, "pt") as file:
        return {name: file.get_tensor(name).numpy().tobytes() for name in file.keys()}  # noqa: SIM118 - no mapping


def values(run_dir: RunDir) -> dict[int, float]:
    """Step -> what was measured there."""
    return {line.step: line.metrics[METRIC] for line in run_dir.read_metrics() if METRIC in line.metrics}


def test_the_best_is_what_the_metrics_say_it_is(make_run: MakeRun) -> None:
    run_dir = make_run("best", CHANGES)
    attempt(run_dir)

    measured = values(run_dir)
    assert sorted(measured) == [3, 6, 9, 12, 15, 18]
    best = max(measured, key=lambda step: (measured[step], -step))
    assert best not in (3, 18), "these settings are to have their best on the way, or the test says little"
    assert origin(run_dir.best_encoder_path) == {
        "run_id": run_dir.path.name,
        "network": "student",
        "step": best,
        "measured": {METRIC: measured[best]},
    }
    assert weights(run_dir.best_encoder_path) == weights(run_dir.epoch_encoder_path(best // 3))


@pytest.mark.parametrize("boundary", [4, 7])
def test_a_run_that_is_killed_again_and_again_has_the_same_best(make_run: MakeRun, boundary: int) -> None:
    undisturbed, killed = make_run("undisturbed", CHANGES), make_run("killed", CHANGES)
    attempt(undisturbed)

    for _ in range(40):
        asked = 0

        def kill(phase: Phase) -> bool:
            nonlocal asked
            asked += phase is Phase.TRAINING
            if asked > boundary:
                raise Killed
            return False

        try:
            attempt(killed, kill)
            break
        except Killed:
            continue

    assert killed.best_encoder_path.read_bytes() == undisturbed.best_encoder_path.read_bytes()


def test_what_was_best_in_steps_that_are_rolled_back_is_forgotten(make_run: MakeRun) -> None:
    # Only evaluations save here, so that a kill loses whole epochs.
    run_dir = make_run("rolled back", {**CHANGES, "runtime.checkpoint_every_s": 1e9})
    with pytest.raises(Stopped):
        attempt(run_dir, _at_boundary(5))  # evaluated at step 3, stopped at step 5
    first = origin(run_dir.best_encoder_path)
    assert first["step"] == 3

    # As if a later evaluation, which no checkpoint knows, had been better than anything that can come.
    run_dir.best_encoder_path.write_bytes(b"of a step that never was")
    with pytest.raises(Stopped):
        attempt(run_dir, _at_boundary(0))

    assert origin(run_dir.best_encoder_path) == first


def _at_boundary(number: int) -> Callable[[Phase], bool]:
    asked = -1

    def ask(phase: Phase) -> bool:
        nonlocal asked
        asked += phase is Phase.TRAINING
        return phase is Phase.TRAINING and asked == number

    return ask


def test_a_best_that_nothing_measures_is_refused() -> None:
    settings: dict[str, Any] = {"runtime": {"keep_best": METRIC}, "evaluate": {"knn": {"every_epochs": 1}}}
    assert RunConfig.model_validate(settings).runtime.keep_best == METRIC
    with pytest.raises(ValidationError, match=r"keep_best=eval/knn/top1 is not measured before the end; set evaluate"):
        RunConfig.model_validate(settings | {"evaluate": {}})
    for metric in ("eval/linear/top1", "train/loss", "eval/knn/class_std"):
        with pytest.raises(ValidationError, match="keep_best"):
            RunConfig.model_validate(settings | {"runtime": {"keep_best": metric}})


def test_a_variant_that_is_not_among_the_run_s_stops_it_at_its_first_evaluation(make_run: MakeRun) -> None:
    run_dir = make_run("unknown", {**CHANGES, "runtime.keep_best": "eval/knn_k7/top1"})
    with pytest.raises(NotMeasured, match=r"eval/knn_k7/top1 is not measured; there are eval/knn/top1, eval/knn_k1"):
        attempt(run_dir)


def test_evaluating_a_finished_run_leaves_its_best_alone(make_run: MakeRun) -> None:
    run_dir = make_run("again", {**CHANGES, "train.epochs": 2})
    attempt(run_dir)
    before = run_dir.best_encoder_path.read_bytes()
    spec = json.loads(run_dir.spec_path.read_text())
    spec["config"]["evaluate"]["linear"] = {"epochs": 1}
    config = RunConfig.model_validate_json(json.dumps(spec["config"]))
    spec |= {"config": config.model_dump(mode="json"), "protocols": config.evaluate.protocols()}
    run_dir.spec_path.write_text(json.dumps(spec))

    attempt(run_dir)

    result = run_dir.read_result()
    assert result is not None and "linear" in result.protocols
    assert run_dir.best_encoder_path.read_bytes() == before
