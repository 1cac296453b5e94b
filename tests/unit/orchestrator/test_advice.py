"""What ``sweep plan`` says of settings that are legal and probably not meant."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from typer.testing import CliRunner

from orchestrator.cli.main import app
from orchestrator.experiment import load_experiment
from trainers.config import Data, RunConfig
from trainers.config.advice import advice, training_images

MOCO = {"name": "moco_v2", "queue_size": 4096}
CIFAR = {"name": "cifar10"}


def config(**sections: Any) -> RunConfig:
    return RunConfig.model_validate({"method": MOCO, "data": CIFAR, **sections})


def linear(**options: Any) -> dict[str, Any]:
    return {"evaluate": {"linear": options}}


@pytest.mark.parametrize(
    ("sections", "begins"),
    [
        ({"method": {"name": "moco_v2"}}, "method.queue_size=65536 is more than half of the 50000 training images"),
        (
            {
                "data": {"name": "cifar10", "profile": {"name": "long_tailed", "imbalance": 200}},
                "method": {**MOCO, "queue_size": 8192},
            },
            "method.queue_size=8192 is more than half of the 11203 training images",
        ),
        (
            {"method": {"name": "isd", "queue_size": 1024}, "data": {"name": "digits"}},
            "method.queue_size=1024 is more than half of the 1240 training images",
        ),
        (
            {"method": {**MOCO, "bn_group_size": 256}},
            "method.bn_group_size=256 puts all 256 images into one batch-norm",
        ),
        ({"method": {**MOCO, "bn_group_size": None}}, "method.bn_group_size=null puts all 256 images into one"),
        (
            {"method": {**MOCO, "bn_group_size": 64}, "train": {"accumulation": 4}},
            "method.bn_group_size=64 puts all 64 images into one batch-norm group",
        ),
        ({"method": {**MOCO, "shuffle_keys": False}}, "method.shuffle_keys=false leaves each key in the batch-norm"),
        (linear(protocol="isd", learning_rate=30), "evaluate.linear.learning_rate=30 belongs to raw features"),
        (linear(learning_rate=[0.1, 10]), "evaluate.linear.learning_rate=10 belongs to raw features; protocol fast"),
        (linear(protocol="moco", learning_rate=0.01), "evaluate.linear.learning_rate=0.01 belongs to normalised"),
        (
            {"evaluate": {"few_labels": {"linear": {"protocol": "isd", "learning_rate": 30}}}},
            "evaluate.few_labels.linear.learning_rate=30 belongs to raw features",
        ),
        (
            {"evaluate": {"transfer": [{"name": "cifar100", "linear": {"protocol": "isd", "learning_rate": 30}}]}},
            "evaluate.transfer (cifar100).learning_rate=30 belongs to raw features",
        ),
    ],
)
def test_one_sentence_says_what_and_what_would_be_right(sections: dict[str, Any], begins: str) -> None:
    (sentence,) = advice(config(**sections))
    assert sentence.startswith(begins)
    assert ";" in sentence


@pytest.mark.parametrize(
    "sections",
    [
        {},
        {"method": {"name": "moco_v2", "queue_size": 24832}},  # just below half of 50000
        {"method": {"name": "byol_asym", "bn_group_size": None}},  # no negatives, so nothing to give away
        {"method": {"name": "moco_v2"}, "data": {"name": "image_folder"}},  # nobody knows how many images there are
        linear(protocol="moco", learning_rate=30),
        linear(protocol="isd", learning_rate=[0.01, 0.1]),
        linear(protocol="byol", learning_rate=0.1),
    ],
)
def test_usual_settings_need_none(sections: dict[str, Any]) -> None:
    assert list(advice(config(**sections))) == []


@pytest.mark.parametrize(
    ("data", "images"),
    [
        ({"name": "cifar10", "profile": {"name": "long_tailed", "imbalance": 100}}, 12406),
        ({"name": "cifar10", "profile": {"name": "balanced", "match_imbalance": 100}}, 12406),
        ({"name": "cifar10", "profile": {"name": "balanced", "match": {"name": "step", "imbalance": 10}}}, 27500),
        ({"name": "cifar10", "profile": {"name": "step", "imbalance": 100}}, 25250),
        ({"name": "cifar100", "profile": {"name": "long_tailed", "imbalance": 100}}, 10847),
        ({"name": "cifar100", "holdout_per_class": 50, "profile": {"name": "long_tailed", "imbalance": 100}}, 9754),
        ({"name": "cifar100", "profile": {"name": "step", "imbalance": 100}}, 25250),
        ({"name": "cifar10", "profile": {"name": "balanced", "size": 4096}}, 4096),
        ({"name": "stl10", "profile": "full", "unlabelled": True}, 105000),
        ({"name": "imagenet", "profile": "full"}, 1281167),
        ({"name": "imagenet"}, 732000),
        ({"name": "imagenet", "profile": {"name": "large_and_rare"}}, None),
        ({"name": "cifar10", "class_list": "x.txt", "label": "x"}, None),
    ],
)
def test_numbers_of_images_that_are_known_without_reading_them(data: dict[str, Any], images: int | None) -> None:
    if data.get("profile") == "full":
        data = {**data, "profile": {"name": "full"}}
    assert training_images(Data.model_validate(data)) == images


def test_digits_are_as_many_as_are_said() -> None:
    """The one data set that is always there: what is written of it is compared with the images themselves."""
    from trainers.data import load

    labels = list(load(Data(name="digits"), None).train.labels)
    sizes = [labels.count(label) for label in range(10)]
    assert training_images(Data.model_validate({"name": "digits", "profile": {"name": "full"}})) == sum(sizes)
    assert training_images(Data(name="digits")) == 10 * min(sizes)


def test_supervised_training_without_labels_is_refused() -> None:
    stl10 = {"name": "stl10", "profile": {"name": "full"}, "unlabelled": True}
    with pytest.raises(ValidationError, match="method supervised needs them"):
        config(method={"name": "supervised"}, data=stl10)
    config(data=stl10)


def test_the_plan_says_each_sentence_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("x.yaml").write_text(
        "name: x\nbase: {data: {name: cifar10}}\ngrid: {method: [moco_v2, byol_asym], seed: [0, 1, 2]}\n"
    )
    sentences = list(advice(load_experiment("x.yaml").cells()[0].config))
    assert len(sentences) == 1
    shown = CliRunner().invoke(app, ["plan", "x.yaml"])
    assert shown.exit_code == 0
    assert shown.output.count("method.queue_size=65536 is more than half") == 1
    assert "(3 of 6 runs)" in shown.output
    as_json = CliRunner().invoke(app, ["plan", "x.yaml", "--json"])
    assert json.loads(as_json.output)["advice"] == [{"text": sentences[0], "runs": 3}]
