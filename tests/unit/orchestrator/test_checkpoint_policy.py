"""What runs have to keep, so that the checkpoints that are asked for can be collected."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.errors import InputError
from orchestrator.experiment import load_experiment
from trainers.config import Runtime


def runtime(folder: Path, policy: str, base: str = "{}", evaluate: str = "{knn: {every_epochs: 1}}") -> Runtime:
    """Of the one run of an experiment with these options."""
    path = folder / "e.yaml"
    data = "data: {name: digits}, method: {name: moco_v2}"
    path.write_text(
        f"name: policy\nbase: {{{data}, evaluate: {evaluate}, runtime: {base}}}\n"
        f'tracking: {{checkpoints: "{policy}"}}\n'
    )
    (cell,) = load_experiment(path).cells()
    return cell.config.runtime


@pytest.mark.parametrize("policy", ["last", "all", "link", "none"])
def test_what_is_there_anyway_needs_nothing(tmp_path: Path, policy: str) -> None:
    assert runtime(tmp_path, policy) == Runtime()


def test_runs_keep_what_is_to_be_collected(tmp_path: Path) -> None:
    assert runtime(tmp_path, "best:eval/knn/top1") == Runtime(keep_best="eval/knn/top1")
    assert runtime(tmp_path, "every:10") == Runtime(keep_every_epochs=10)
    assert runtime(tmp_path, "every:10", "{keep_every_epochs: 5}").keep_every_epochs == 5, "the tenth is among them"


def test_the_run_stays_the_same_run(tmp_path: Path) -> None:
    runtime(tmp_path, "last")
    (plain,) = load_experiment(tmp_path / "e.yaml").cells()
    runtime(tmp_path, "best:eval/knn/top1")
    (keeping,) = load_experiment(tmp_path / "e.yaml").cells()
    assert keeping.run_id == plain.run_id


@pytest.mark.parametrize(
    ("policy", "base", "evaluate", "message"),
    [
        ("best:eval/knn/top1", "{}", "{}", "not measured before the end; set evaluate.knn.every_epochs"),
        ("best:eval/linear/top1", "{}", "{knn: {every_epochs: 1}}", "the best is chosen by a k-NN accuracy"),
        ("every:10", "{keep_every_epochs: 3}", "{}", "keep_every_epochs=3 keeps others; remove it from runtime"),
    ],
)
def test_what_cannot_be_kept_is_said_before_anything_runs(
    tmp_path: Path, policy: str, base: str, evaluate: str, message: str
) -> None:
    with pytest.raises(InputError, match=message) as caught:
        runtime(tmp_path, policy, base, evaluate)
    assert f"tracking.checkpoints={policy}" in str(caught.value)
