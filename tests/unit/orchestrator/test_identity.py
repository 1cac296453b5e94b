"""Run ids: what they are made of, and that they never drift."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, Literal

import pytest

from orchestrator.spec import RunSpec, run_id, section_text
from trainers.config import RunConfig, Section, added_later, identity, outside_identity

VIT = {"name": "vit_tiny"}

#: Written down once. A change here makes every run of every user a new run: it must be meant.
GOLDEN: list[tuple[str, dict[str, Any]]] = [
    ("0750bcdb28ec", {}),
    ("b9c0e2af54b0", {"method": {"name": "isd"}}),
    (
        "bc49ed056476",
        {
            "method": {"name": "sdssl", "ratio": 0.5},
            "backbone": VIT,
            "train": {
                "optimizer": {"name": "adamw"},
                "learning_rate": 1.5e-4,
                "schedule": {"name": "cosine", "warmup_epochs": 10},
            },
        },
    ),
    (
        "d975dc4200bd",
        {
            "data": {
                "name": "cifar10",
                "profile": {"name": "long_tailed", "imbalance": 100},
                "class_order": "shuffled",
                "split_seed": 3,
            },
            "augment": {"crop_area": [0.2, 1.0], "jitter": [0.4, 0.4, 0.4, 0.1]},
            "train": {"schedule": {"name": "step"}, "clip_gradient_norm": 1.0, "precision": "bf16"},
            "seed": 7,
        },
    ),
    (
        "19ffd43bfe1b",
        {
            "data": {"name": "image_folder", "label": "é 日"},
            "backbone": {"name": "resnet18", "stem": "imagenet", "width": 32},
        },
    ),
]


def config(values: dict[str, Any]) -> RunConfig:
    return RunConfig.model_validate(values)


@pytest.mark.parametrize(("expected", "values"), GOLDEN)
def test_ids_never_drift(expected: str, values: dict[str, Any]) -> None:
    assert run_id(config(values)) == expected


@pytest.mark.parametrize("values", [values for _, values in GOLDEN])
def test_the_id_is_the_hash_of_the_canonical_json_of_the_whole(values: dict[str, Any]) -> None:
    run = config(values)
    whole: dict[str, Any] = {"version": 1, "seed": run.seed}
    whole |= {name: identity(getattr(run, name)) for name in ("method", "data", "augment", "backbone", "train")}
    text = json.dumps(whole, sort_keys=True, separators=(",", ":"))
    assert run_id(run) == hashlib.sha256(text.encode()).hexdigest()[:12]


def test_ids_are_the_same_in_another_process_with_another_hash_seed() -> None:
    code = (
        "import json, sys; from orchestrator.spec import run_id; from trainers.config import RunConfig; "
        "print(*(run_id(RunConfig.model_validate(value)) for value in json.load(sys.stdin)))"
    )
    for seed in ("1", "2"):
        done = subprocess.run(
            [sys.executable, "-c", code],
            input=json.dumps([values for _, values in GOLDEN]),
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join(sys.path)},
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout.split() == [expected for expected, _ in GOLDEN]


def test_every_option_of_the_identity_changes_the_id() -> None:
    base = {"train": {"epochs": 200}}
    changes: list[dict[str, Any]] = [
        {"seed": 1},
        {"train": {"epochs": 201}},
        {"train": {"learning_rate": 0.030000000000000002}},
        {"train": {"optimizer": {"name": "sgd", "nesterov": True}}},
        {"method": {"name": "moco_v2", "queue_size": 512}},
        {"data": {"profile": {"name": "long_tailed"}}},
        {"data": {"label": "x"}},
        {"augment": {"flip_probability": 0.0}},
        {"backbone": {"name": "resnet18", "width": 32}},
    ]
    ids = {run_id(config(base | change)) for change in changes} | {run_id(config(base))}
    assert len(ids) == len(changes) + 1


@pytest.mark.parametrize(
    "change",
    [
        {"data": {"root": "/elsewhere"}},
        {"evaluate": {"knn": None}},
        {"evaluate": {"knn": {"k": [5], "temperature": 0.2}, "untrained": False}},
        {"runtime": {"workers": 4, "compile": True, "checkpoint_every_s": 1}},
    ],
)
def test_paths_evaluation_and_runtime_do_not_change_the_id(change: dict[str, Any]) -> None:
    assert run_id(config(change)) == run_id(config({}))


class Old(Section):
    name: Literal["x"] = "x"
    width: int = 3


class New(Section):
    name: Literal["x"] = "x"
    width: int = 3
    depth: int = added_later(5, neutral=2)
    path: str = outside_identity("")


class TestOptionsAddedLater:
    def test_the_neutral_value_leaves_old_ids(self) -> None:
        assert section_text(New(depth=2)) == section_text(Old()) == '{"name":"x","width":3}'

    def test_any_other_value_is_part_of_the_id_even_the_default(self) -> None:
        assert section_text(New()) == '{"depth":5,"name":"x","width":3}'

    def test_a_path_never_is(self) -> None:
        assert section_text(New(path="/a")) == section_text(New())


class TestSpelling:
    def test_minus_zero_is_zero(self) -> None:
        assert run_id(config({"train": {"weight_decay": -0.0}})) == run_id(config({"train": {"weight_decay": 0}}))

    def test_whole_numbers_are_one_number_however_written(self) -> None:
        ids = {run_id(config({"train": {"epochs": epochs}, "seed": epochs})) for epochs in (7, 7.0)}
        assert len(ids) == 1


class TestSpec:
    def test_reads_back_as_the_same_run(self) -> None:
        for _, values in GOLDEN:
            spec = RunSpec.of(config(values), {"python": "3.11"}, Path("/somewhere"))
            text = json.dumps(spec.to_json())
            again = RunSpec.from_json(json.loads(text))
            assert again == spec
            assert run_id(again.config) == again.run_id

    def test_holds_what_is_outside_the_identity_too(self) -> None:
        values = RunSpec.of(config({"runtime": {"workers": 3}}), {}, Path("/w")).to_json()
        assert values["schema_version"] == 1
        assert values["config"]["runtime"]["workers"] == 3
        assert values["config"]["evaluate"]["knn"]["k"] == [20, 1, 200]

    @pytest.mark.parametrize(
        ("root", "expected"),
        [("data", "/w/x/data"), ("../data", "/w/x/../data"), ("/abs", "/abs"), ("~/d", str(Path.home() / "d"))],
    )
    def test_the_data_path_is_absolute_and_the_id_does_not_see_it(self, root: str, expected: str) -> None:
        run = config({"data": {"root": root}})
        spec = RunSpec.of(run, {}, Path("/w/x"))
        assert spec.config.data.root == expected
        assert spec.run_id == run_id(run)

    def test_another_schema_version_is_refused(self) -> None:
        value = RunSpec.of(config({}), {}, Path("/w")).to_json() | {"schema_version": 99}
        with pytest.raises(ValueError, match=r"schema_version=99 was written by another version; this one reads 1"):
            RunSpec.from_json(value)
