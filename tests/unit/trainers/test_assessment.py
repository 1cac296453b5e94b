"""Which protocols run on which networks, and what their results are called."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from trainers.assessment import QUICK, Assessment, Assessor
from trainers.config import RunConfig
from trainers.data import ImageData, digits, training_subset
from trainers.journal import Journal, StatusFile
from trainers.methods import build_method
from trainers.methods.base import Method
from trainers.rundir import RunDir
from trainers.train import carry_out

MakeRun = Callable[..., RunDir]

DIGITS = digits.load()
MOCO = {"name": "moco_v2", "queue_size": 64, "bn_group_size": 8, "projection_dim": 16}
SMALL = {"name": "resnet18", "width": 4}
VIT = {"name": "vit_tiny", "depth": 3, "width": 16, "heads": 2}
GROUPS = {"many", "medium", "few"}


def configured(evaluate: dict[str, Any], method: Any = MOCO, backbone: Any = SMALL) -> RunConfig:
    settings = {"method": method, "backbone": backbone, "train": {"batch_size": 32}, "evaluate": evaluate}
    return RunConfig.model_validate(settings)


def assessed(
    config: RunConfig,
    *,
    transfers: dict[str, ImageData] | None = None,
    change: Callable[[Method], None] = lambda _: None,
    **options: Any,
) -> Assessment:
    method = build_method(config, 10)
    change(method)
    subset = training_subset(config.data, DIGITS)
    assessor = Assessor(config, DIGITS, subset, torch.device("cpu"), lambda: None, transfers or {})
    return assessor.assess(method, **options)


def names(assessment: Assessment, protocol: str) -> set[str]:
    """The metrics of a protocol, without ``eval/`` and the protocol's own name."""
    prefix = f"eval/{protocol}/"
    return {name.removeprefix(prefix) for name in assessment.metrics if name.startswith(prefix)}


EVERYTHING = {
    "knn": {"k": [5, 1], "vote": ["plain", "weighted"], "bank": ["full", "train"]},
    "linear": {"epochs": 1},
    "few_labels": {"shares": [0.005, 0.1], "linear": {"epochs": 1}},
    "transfer": [{"name": "digits", "label": "other", "knn": {"k": 3}, "linear": {"epochs": 1}, "metric": "per_class"}],
}


def test_each_protocol_measures_the_networks_under_its_names() -> None:
    config = configured(EVERYTHING)
    assessment = assessed(config, transfers={"other": DIGITS})
    assert set(assessment.parts) == set(config.evaluate.protocols())
    assert set(assessment.parts) == {"knn", "linear", "few_labels", "geometry", "transfer_other"}
    for network in ("", "_teacher"):
        assert names(assessment, f"knn{network}") == {"top1", "class_std"} | GROUPS
        for variant in ("_k1", "_weighted", "_trainbank", "_k1_weighted_trainbank"):
            assert names(assessment, f"knn{variant}{network}") == {"top1"} | GROUPS
        for protocol in ("linear", "linear_0.5pct", "linear_10pct"):
            assert names(assessment, protocol + network) == {"top1", "top5", "class_std"} | GROUPS
        assert names(assessment, f"geometry{network}") == {"alignment", "uniformity", "effective_rank"}
        assert names(assessment, f"transfer_other_knn{network}") == {"top1", "class_std", "class_mean"}
        assert names(assessment, f"transfer_other_linear{network}") == {"top1", "top5", "class_std", "class_mean"}
    assert set(assessment.per_class["linear_teacher"]) == set(DIGITS.class_names)
    assert not set(assessment.per_class) & {"geometry"}
    assert assessment.parts["linear"].metrics.keys() == {
        f"eval/linear{network}/{measure}"
        for network in ("", "_teacher")
        for measure in ("top1", "top5", "class_std", *GROUPS)
    }


def test_another_data_set_is_evaluated_with_its_own_classes_and_this_ones_statistics() -> None:
    plain = {"name": "digits", "knn": {"k": 5}, "linear": None}
    config = configured({"knn": {"k": 5}, "transfer": [plain, plain | {"label": "large", "image_size": 16}]})
    # The network was trained on images normalised by the run's statistics; another data set's own play no part.
    other = replace(DIGITS, mean=(0.0, 0.0, 0.0), std=(9.0, 9.0, 9.0))
    assessment = assessed(config, transfers={"digits": other, "large": DIGITS})
    assert assessment.metrics["eval/transfer_digits_knn/top1"] == assessment.metrics["eval/knn/top1"]
    assert assessment.metrics["eval/transfer_large_knn/top1"] != assessment.metrics["eval/knn/top1"]
    assert "eval/transfer_digits_linear/top1" not in assessment.metrics
    assert "eval/transfer_digits_knn/class_mean" not in assessment.metrics


def test_only_the_protocols_that_are_asked_for_run() -> None:
    config = configured(EVERYTHING)
    assert set(assessed(config, protocols=QUICK, transfers={"other": DIGITS}).parts) == {"knn", "geometry"}
    assert set(assessed(config, skip={"knn", "few_labels", "transfer_other"}).parts) == {"linear", "geometry"}
    assert assessed(configured({"knn": None, "geometry": None})) == Assessment()


def test_the_teacher_is_left_out_when_only_the_papers_network_counts() -> None:
    both = assessed(configured({}))
    alone = [assessed(configured({"networks": "paper"})), assessed(configured({}), only_first=True)]
    assert {name for name in both.metrics if "_teacher" in name}
    expected = {name: value for name, value in both.metrics.items() if "_teacher" not in name}
    assert alone[0].metrics == alone[1].metrics == expected


def test_a_network_is_evaluated_by_its_own_weights() -> None:
    def blind_teacher(method: Method) -> None:
        for parameter in method.encoders()["teacher"].parameters():
            nn.init.zeros_(parameter)

    untouched, changed = assessed(configured({})), assessed(configured({}), change=blind_teacher)
    assert changed.metrics["eval/knn/top1"] == untouched.metrics["eval/knn/top1"] > 30
    assert changed.metrics["eval/knn_teacher/top1"] == 10.0


def test_a_collapsed_network_is_reported_by_name() -> None:
    def flatten_student(method: Method) -> None:
        for module in method.encoders()["student"].modules():
            if isinstance(module, nn.BatchNorm2d) or hasattr(module, "running_mean"):
                nn.init.zeros_(module.weight)
                nn.init.ones_(module.bias)

    assert assessed(configured({})).warnings == ()
    (warning,) = assessed(configured({}), change=flatten_student).warnings
    assert warning == (
        "the student has collapsed, or nearly so: its representations of the test images spread over 1.0 of 32 "
        "dimensions (eval/geometry/effective_rank)"
    )


def test_the_projection_is_evaluated_where_there_is_one() -> None:
    evaluate = {"knn": {"k": 5, "features": "projection"}, "geometry": None}
    plain = {"knn": {"k": 5}, "geometry": None}
    assert assessed(configured(evaluate)).metrics != assessed(configured(plain)).metrics
    for method in ({"name": "supervised"}, {"name": "random"}):
        assert assessed(configured(evaluate, method)) == assessed(configured(plain, method))


def test_every_block_of_a_vision_transformer_is_evaluated_on_request() -> None:
    layered = {"layers": True, "epochs": 1}
    config = configured(
        {
            "knn": {"k": [5, 1], "layers": True},
            "linear": layered,
            "few_labels": {"shares": 0.1, "linear": layered},
            "networks": "paper",
        },
        {"name": "moco_v3", "projection_dim": 8, "hidden_dim": 16, "predictor_hidden_dim": 16},
        VIT,
    )
    metrics = assessed(config).metrics
    for protocol in ("knn", "linear", "linear_10pct"):
        curve = [metrics[f"eval/{protocol}_layer{number}/top1"] for number in (1, 2, 3)]
        assert f"eval/{protocol}_layer4/top1" not in metrics
        assert curve[2] == metrics[f"eval/{protocol}/top1"]
        assert len(set(curve)) > 1
    assert "eval/knn_k1_layer1/top1" not in metrics


@pytest.mark.parametrize(
    ("evaluate", "option"),
    [
        ({"linear": {"layers": True}}, "evaluate.linear.layers"),
        ({"knn": {"layers": True}}, "evaluate.knn.layers"),
        ({"few_labels": {"linear": {"layers": True}}}, "evaluate.few_labels.linear.layers"),
        ({"transfer": [{"name": "digits", "linear": {"layers": True}}]}, "evaluate.transfer"),
    ],
)
def test_blocks_of_a_residual_network_are_refused(evaluate: dict[str, Any], option: str) -> None:
    with pytest.raises(ValidationError, match="every block of a vision transformer, and resnet18 is none") as caught:
        configured(evaluate)
    assert caught.value.errors()[0]["ctx"]["error"].key == option


def test_a_checkpoint_keeps_what_was_measured() -> None:
    assessment = assessed(configured({}))
    restored = Assessment.from_state(assessment.to_state())
    assert restored.metrics == assessment.metrics
    assert restored.per_class == assessment.per_class


def test_a_run_ends_with_everything_that_was_asked_for(make_run: MakeRun) -> None:
    """And quick protocols alone come before the training and within it."""
    run_dir = make_run(
        "run",
        {
            "evaluate": {
                "knn": {"k": 5, "every_epochs": 1},
                "linear": {"protocol": "isd", "epochs": 1, "batch_size": 64},
                "transfer": [{"name": "digits", "label": "again", "linear": {"epochs": 1}}],
            }
        },
    )
    carry_out(run_dir, Journal(StatusFile(run_dir.status_path, 1)), 1, lambda: False)
    result = run_dir.read_result()
    assert result is not None
    for name in ("eval/linear/top1", "eval/linear_teacher/top5", "eval/transfer_again_linear/top1"):
        assert 0 < result.metrics[name] <= 100
    assert {name.split("/")[1] for name in result.untrained} == {"knn", "geometry"}
    during = next(line for line in run_dir.read_metrics() if "eval/knn/top1" in line.metrics and line.step == 3)
    assert {name.split("/")[1] for name in during.metrics} == {"knn", "geometry", "knn_teacher", "geometry_teacher"}
