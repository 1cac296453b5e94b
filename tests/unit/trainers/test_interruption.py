"""A run that is interrupted at any step ends with the bits of one that is not (design, "What must always hold", 4)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any, get_args

import pytest
import torch
from torch import Tensor

from tests import tiny_methods
from trainers.config import methods as method_options
from trainers.journal import Journal, StatusFile
from trainers.loop import Diverged, Stopped, StoppedEvaluating
from trainers.rundir import Phase, RunDir, StopReason
from trainers.train import carry_out


def tiny(method: str, **changes: Any) -> dict[str, Any]:
    """A tiny method (a name of ``tests.tiny_methods``) for one epoch of six steps."""
    config = tiny_methods.run_config(method)
    sections = {name: getattr(config, name).model_dump(mode="json") for name in ("method", "backbone")}
    return {**sections, "train.batch_size": 16, "train.epochs": 1, "runtime.log_every_steps": 4, **changes}


ADAMW = {"train.optimizer": {"name": "adamw"}, "train.learning_rate": 0.001, "train.clip_gradient_norm": 1.0}
SIMCLRS_LARS = {"name": "lars", "trust_coefficient": 0.02, "learning_rate_in_momentum": True}

#: Every method, with the optimizers and the ways to take a step dealt out among them.
RUNS: dict[str, dict[str, Any]] = {
    "moco_v2, evaluated in between": {"runtime.log_every_steps": 2},
    "moco_v1": tiny("moco_v1"),
    "moco_v2, symmetric": tiny("moco_v2_symmetric", **{"train.precision": "bf16"}),
    "moco_v2 in parts": tiny("moco_v2", **{"train.accumulation": 2, "runtime.channels_last": True}),
    "moco_v3": tiny("moco_v3", **ADAMW),
    "isd": tiny("isd"),
    "isd, two temperatures": tiny("isd_plus", **{"train.optimizer": {"name": "lars"}}),
    "simclr": tiny("simclr", **{"train.optimizer": SIMCLRS_LARS, "train.learning_rate": 1.0}),
    "byol": tiny("byol", **{"train.optimizer": {"name": "lars"}, "train.accumulation": 2}),
    "byol_asym": tiny("byol_asym"),
    "sdssl on moco_v3": tiny("sdssl_moco_v3", **ADAMW),
    "sdssl on byol": tiny("sdssl_byol", **ADAMW),
    "sdssl on simclr": tiny("sdssl_simclr", **ADAMW),
    "sdssl in the code of 2021": tiny("sdssl_moco_v3", **{**ADAMW, "method.augmentation": "per_batch"}),
    "supervised": tiny("supervised"),
}

MakeRun = Callable[..., RunDir]
Numbers = Callable[[RunDir], dict[str, Any]]


class Killed(BaseException):
    """Stands for ``kill -9``: nothing catches it, nothing is saved."""


#: Whether to stop, asked in this phase of the run.
Ask = Callable[[Phase], bool]


def at_boundary(number: int, kill: bool = False) -> Ask:
    """Asks to stop, or kills, when the loop asks for the ``number``-th time (from 0)."""
    return _in_phase(Phase.TRAINING, number, kill)


def in_evaluation(number: int) -> Ask:
    """Asks to stop before the ``number``-th batch that is evaluated (from 0)."""
    return _in_phase(Phase.EVALUATING, number, kill=False)


def _in_phase(wanted: Phase, number: int, kill: bool) -> Ask:
    asked = -1

    def stop_requested(phase: Phase) -> bool:
        nonlocal asked
        asked += phase is wanted
        if phase is not wanted:
            return False
        if kill and asked == number:
            raise Killed
        return asked == number

    return stop_requested


def attempt(run_dir: RunDir, number: int, ask: Ask) -> None:
    journal = Journal(StatusFile(run_dir.status_path, number))

    def stop_requested() -> bool:
        status = run_dir.read_status()
        assert status is not None
        return ask(status.phase)

    try:
        carry_out(run_dir, journal, number, stop_requested)
    finally:
        journal.close()


def never(_phase: Phase) -> bool:
    return False


def final_state(run_dir: RunDir) -> dict[str, Any]:
    """Weights, queue, running statistics, optimizer, sums: everything in the last checkpoint."""
    state: dict[str, Any] = torch.load(run_dir.checkpoint_dirs()[0] / "state.pt", weights_only=True)
    return state


def leaves(value: Any, name: str = "") -> dict[str, Any]:
    """The numbers and tensors inside, tensors as their type and bytes, by the way that leads there."""
    if isinstance(value, Tensor):
        return {name: (value.dtype, tuple(value.shape), value.contiguous().view(-1).numpy().tobytes())}
    if isinstance(value, dict):
        value = list(value.items())
    elif not isinstance(value, (list, tuple)):
        return {name: value}
    else:
        value = list(enumerate(value))
    return {key: leaf for place, inner in value for key, leaf in leaves(inner, f"{name}.{place}").items()}


def test_every_method_is_among_the_runs() -> None:
    names = {changes.get("method", {"name": "moco_v2"})["name"] for changes in RUNS.values()}
    bases = {changes["method"]["base"] for changes in RUNS.values() if changes.get("method", {}).get("base")}
    all_methods = {cls.model_fields["name"].default for cls in get_args(get_args(method_options.Method)[0])}
    assert names == all_methods - {"random"}
    assert bases == {"moco_v3", "byol", "simclr"}


@pytest.mark.parametrize("changes", RUNS.values(), ids=RUNS)
def test_stopping_at_every_step_changes_nothing(
    make_run: MakeRun, numbers_of: Numbers, changes: dict[str, Any]
) -> None:
    undisturbed, stopped = make_run("undisturbed", changes), make_run("stopped", changes)
    attempt(undisturbed, 1, never)

    # The first boundary is the one that the attempt starts at, so each attempt stops one step further on.
    for number in range(7):
        with pytest.raises(Stopped, match=f"after step {number}"):
            attempt(stopped, number + 1, at_boundary(min(number, 1)))
        assert stopped.checkpoint_dirs()[0].name == f"step_{number}"
    attempt(stopped, 8, never)

    assert numbers_of(stopped) == numbers_of(undisturbed)
    assert leaves(final_state(stopped)) == leaves(final_state(undisturbed))


def test_an_untrained_encoder_has_one_boundary(make_run: MakeRun, numbers_of: Numbers) -> None:
    undisturbed, stopped = (make_run(name, {"method": {"name": "random"}}) for name in ("undisturbed", "stopped"))
    attempt(undisturbed, 1, never)
    with pytest.raises(Stopped, match="after step 0"):
        attempt(stopped, 1, at_boundary(0))
    attempt(stopped, 2, never)

    assert numbers_of(stopped) == numbers_of(undisturbed)


def test_being_killed_at_every_step_changes_nothing(make_run: MakeRun, numbers_of: Numbers) -> None:
    # Evaluations in between would save by themselves, and so leave fewer steps to lose.
    changes = {"evaluate.knn.every_epochs": None}
    undisturbed, killed = make_run("undisturbed", changes), make_run("killed", changes)
    attempt(undisturbed, 1, never)

    for saved_step in range(5):
        with pytest.raises(Stopped):
            attempt(killed, 1, at_boundary(min(saved_step, 1)))
        for further in (1, 2):  # one or two steps are lost, with the lines of metrics that they wrote
            with pytest.raises(Killed):
                attempt(killed, 2, at_boundary(further, kill=True))
    attempt(killed, 3, never)

    assert numbers_of(killed) == numbers_of(undisturbed)


def test_killed_in_the_final_evaluation_goes_on_with_it(make_run: MakeRun, numbers_of: Numbers) -> None:
    undisturbed, killed = make_run("undisturbed"), make_run("killed")
    attempt(undisturbed, 1, never)
    attempt(killed, 1, never)
    before = numbers_of(killed)
    killed.result_path.unlink()  # as if the last write had not happened

    attempt(killed, 2, never)

    assert numbers_of(killed) == before == numbers_of(undisturbed)


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0], ids=["at once", "half way", "at last"])
def test_leaving_every_evaluation_loses_no_step(make_run: MakeRun, numbers_of: Numbers, share: float) -> None:
    undisturbed, stopped = make_run("undisturbed"), make_run("stopped")
    asked: Counter[str | None] = Counter()  # by the newest checkpoint, how often an evaluation asks whether to stop

    def newest_checkpoint(run_dir: RunDir) -> str | None:
        return next((folder.name for folder in run_dir.checkpoint_dirs()), None)

    def count(phase: Phase) -> bool:
        asked[newest_checkpoint(undisturbed)] += phase is Phase.EVALUATING
        return False

    attempt(undisturbed, 1, count)

    # Each attempt does the evaluation before again, and leaves the next one.
    for before, checkpoint in [(0, None), (asked[None], "step_3"), (asked["step_3"], "step_6")]:
        assert asked[checkpoint] > 3
        with pytest.raises(StoppedEvaluating):
            attempt(stopped, 1, in_evaluation(before + round(share * (asked[checkpoint] - 1))))
        assert newest_checkpoint(stopped) == checkpoint
    attempt(stopped, 2, never)

    assert numbers_of(stopped) == numbers_of(undisturbed)


def test_rolling_checkpoints_do_not_change_the_numbers(make_run: MakeRun, numbers_of: Numbers) -> None:
    rare, constant = make_run("rare"), make_run("constant", {"runtime.checkpoint_every_s": 0})
    attempt(rare, 1, never)
    attempt(constant, 1, never)

    assert numbers_of(constant) == numbers_of(rare)
    assert [folder.name for folder in constant.checkpoint_dirs()] == ["step_6", "step_5"]
    assert [folder.name for folder in rare.checkpoint_dirs()] == ["step_6", "step_3"], "the end, and an evaluation"


def test_a_damaged_checkpoint_is_passed_over(
    make_run: MakeRun, numbers_of: Numbers, caplog: pytest.LogCaptureFixture
) -> None:
    undisturbed, damaged = make_run("undisturbed"), make_run("damaged", {"runtime.checkpoint_every_s": 0})
    attempt(undisturbed, 1, never)
    with pytest.raises(Stopped):
        attempt(damaged, 1, at_boundary(4))
    state_path = damaged.checkpoints_dir / "step_4" / "state.pt"
    content = bytearray(state_path.read_bytes())
    content[len(content) // 2] ^= 1
    state_path.write_bytes(content)
    seen = damaged.metrics_path.read_bytes()[: damaged.committed_metrics_offset()]

    attempt(damaged, 2, never)

    assert "step_4 is damaged (state.pt has another SHA-256" in caplog.text
    assert numbers_of(damaged) == numbers_of(undisturbed)
    # What a collector may have read before stays as it was, to the byte, and is not measured a second time.
    assert damaged.metrics_path.read_bytes().startswith(seen)


@pytest.mark.parametrize("how", [{}, {"train.accumulation": 2}, {"train.precision": "bf16"}], ids=str)
def test_a_diverging_run_stops_without_a_checkpoint_of_it(make_run: MakeRun, how: dict[str, Any]) -> None:
    changes = {"train.learning_rate": 1e30, "runtime.checkpoint_every_s": 0, "runtime.log_every_steps": 3, **how}
    run_dir = make_run("diverging", changes)

    with pytest.raises(Diverged, match=r"diverged before step 2: loss=nan; lower train.learning_rate=1e\+30"):
        attempt(run_dir, 1, never)

    assert run_dir.read_result() is None
    assert [folder.name for folder in run_dir.checkpoint_dirs()] == ["step_1", "step_0"]
    assert run_dir.read_metrics() == []


def test_a_run_that_diverges_in_its_last_step_has_no_result(make_run: MakeRun) -> None:
    changes = {"train.batch_size": 64, "train.epochs": 1, "train.learning_rate": 1e300}
    run_dir = make_run("diverging", changes)

    with pytest.raises(Diverged, match=r"diverged after step 1: a weight is not finite; lower train.learning_rate="):
        attempt(run_dir, 1, never)

    assert run_dir.read_result() is None and run_dir.checkpoint_dirs() == []


def test_status_tells_where_the_run_is(make_run: MakeRun) -> None:
    run_dir = make_run("watched")
    attempt(run_dir, 3, never)

    status = run_dir.read_status()
    assert status is not None
    assert (status.phase, status.attempt, status.step, status.total_steps, status.epoch) == (Phase.DONE, 3, 6, 6, 2.0)
    assert status.reason is None and StopReason.PREEMPTED.is_permanent is False
    assert status.images_per_s > 0 and status.loss is not None


def test_metrics_and_result_have_the_documented_names(make_run: MakeRun) -> None:
    run_dir = make_run("named", {"runtime.keep_every_epochs": 1})
    attempt(run_dir, 1, never)

    result = run_dir.read_result()
    assert result is not None
    assert set(result.per_class) == {"knn", "knn_k1", "knn_teacher", "knn_k1_teacher"}
    measures = {
        "knn": ("top1", "many", "medium", "few", "class_std"),
        "knn_k1": ("top1", "many", "medium", "few"),
        "geometry": ("alignment", "uniformity", "effective_rank"),
    }
    student = {f"eval/{protocol}/{name}" for protocol, names in measures.items() for name in names}
    teacher = {f"eval/{protocol}_teacher/{name}" for protocol, names in measures.items() for name in names}
    assert set(result.untrained) == student, "the teacher is equal then"
    assert set(result.metrics) == student | teacher | {"train/loss", "train/accuracy", "train/lr"}
    steps = [(line.step, sorted(line.metrics)[0].split("/")[0]) for line in run_dir.read_metrics()]
    # Every second step, at the end of each epoch, and the evaluations: during the training and of its result.
    assert steps == [(2, "system"), (3, "system"), (3, "eval"), (4, "system"), (6, "system"), (6, "eval")]
    kept = sorted(path.name for path in run_dir.checkpoints_dir.glob("encoder*"))
    assert kept == ["encoder.safetensors", "encoder_epoch_1.safetensors", "encoder_epoch_2.safetensors"]
