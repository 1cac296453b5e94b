"""One run again: what is written reads back as the same run, and what has changed since is said."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.experiment import load_experiment
from orchestrator.experiment.nodes import plain
from orchestrator.experiment.source import read_value
from orchestrator.experiment.writing import written
from orchestrator.provenance import Source
from orchestrator.reproduce import (
    Recorded,
    compare_data,
    compare_packages,
    compare_source,
    experiment_text,
    not_the_same_run,
)
from orchestrator.spec import run_id
from trainers.config import ISD, SDSSL, Balanced, Data, Evaluate, Linear, ListFile, RunConfig, Transfer, ViTTiny

EXPERIMENTS = sorted(
    path for path in (Path(__file__).parents[3] / "experiments").rglob("*.yaml") if path.parent.name != "recipes"
)

words = st.text(st.characters(exclude_categories=("Cs", "Cc"), exclude_characters="\ufeff\ufffe\uffff"), max_size=12)
scalars = st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats(allow_nan=False, allow_infinity=False)
special = st.sampled_from(
    ["1e-3", "null", "~", "no", "true", "12:00:00", "${env:HOME}", "$${", "- a", "a: b", "#", "0x1F"]
)
values = st.recursive(
    scalars | words | special,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(words.filter(lambda word: word != "<<"), inner, max_size=4)
    ),
    max_leaves=20,
)


@given(st.dictionaries(words.filter(lambda word: word != "<<"), values, min_size=1, max_size=5))
def test_every_value_reads_back_as_itself(value: dict[str, Any]) -> None:
    assert plain(read_value(written(value), "file", {})) == value


def recorded(config: RunConfig, **provenance: Any) -> Recorded:
    spec = {"schema_version": 1, "run_id": run_id(config), "config": config.model_dump(mode="json")}
    return Recorded({**spec, "provenance": provenance}, {"digest": "d" * 32}, b"", "the store")


CONFIGS = [
    RunConfig(),
    RunConfig(method=ISD(), data=Data(profile=Balanced(match_imbalance=100.0)), seed=7),
    RunConfig(
        method=SDSSL(),
        backbone=ViTTiny(patch_size=4),
        data=Data(
            name="image_folder",
            image_size=32,
            root="/data/${USER}/ä: #1",
            profile=ListFile(path="/lists/D1.txt", label="1e3"),
        ),
        evaluate=Evaluate(
            linear=Linear(), transfer=(Transfer(name="image_folder", root="/other", label="mine", image_size=32),)
        ),
    ),
]


@pytest.mark.parametrize("config", CONFIGS)
def test_the_written_file_is_the_same_run_in_every_setting(config: RunConfig, tmp_path: Path) -> None:
    path = tmp_path / "again.yaml"
    path.write_text(experiment_text(recorded(config), None))
    (cell,) = load_experiment(path, environment={}).cells()
    assert cell.run_id == run_id(config)
    assert cell.config == config


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
def test_runs_of_our_own_experiments_can_be_written(path: Path, tmp_path: Path) -> None:
    cells = load_experiment(path, environment={"DATA": "/data"}).cells()
    for cell in (cells[0], cells[-1]):
        again = tmp_path / "again.yaml"
        again.write_text(experiment_text(recorded(cell.config), None))
        assert load_experiment(again, environment={}).cells()[0].config == cell.config


def test_the_head_says_where_it_comes_from() -> None:
    git = {"commit": "c" * 40, "dirty": True, "diff_sha256": "d" * 64}
    found = replace(recorded(RunConfig(), git=git, time=0.5, experiment={"name": "lt"}), resources={"nodes": 2})
    text = experiment_text(found, "again.diff")
    assert f"# Run {found.run_id} of experiment lt again" in text
    assert f"commit {'c' * 40} and the changes in again.diff." in text
    assert "1970-01-01 00:00 UTC" in text
    assert '{"nodes": 2}' in text
    assert f"name: lt-{found.run_id}\n" in text
    assert "changes that were not kept" in experiment_text(found, None)


def test_the_settings_that_make_it_another_run_are_named() -> None:
    then = CONFIGS[1].model_dump(mode="json")
    now = json.loads(json.dumps(then))
    now["train"]["epochs"] = 3
    now["method"]["added"] = 1
    now["runtime"]["workers"] = 5
    assert not_the_same_run(then, now) == [
        "method.added was not there and is 1",
        f"train.epochs was {then['train']['epochs']} and is 3",
    ]


def source(diff: bytes = b"", commit: str = "c" * 40, left_out: tuple[str, ...] = ()) -> Source:
    return Source(Path("/somewhere"), commit, diff, left_out)


@pytest.mark.parametrize(
    ("then", "now", "same"),
    [
        (source(), source(), [True, True]),
        (source(), source(b"+1"), [True, False]),
        (source(b"+1"), source(b"+1"), [True, True]),
        (source(b"+1"), source(b"+2", "e" * 40), [False, False]),
        (source(b"+1", left_out=("a (binary)",)), source(b"+1", left_out=("a (binary)",)), [True, None]),
        (source(), None, [False]),
        (None, source(), [False]),
        (None, None, []),
    ],
)
def test_source_is_the_same_if_commit_and_changes_are(then: Source | None, now: Source | None, same: list[Any]) -> None:
    found = compare_source({"git": None if then is None else then.to_json()}, now)
    assert [one.is_same for one in found] == same


def test_changes_that_an_older_version_did_not_record_are_not_the_same() -> None:
    found = compare_source({"git": {"commit": "c" * 40, "dirty": True}}, source())
    assert [(one.then, one.is_same) for one in found] == [("cccccccccccc", True), ("changes, not recorded", False)]


def test_packages_that_came_or_went_differ() -> None:
    found = compare_packages({"python": "3.11", "packages": {"torch": "2.1", "old": "1"}}, "3.11", {"torch": "2.2"})
    assert [(one.what, one.then, one.now, one.is_same) for one in found] == [
        ("python", "3.11", "3.11", True),
        ("torch", "2.1", "2.2", False),
        ("old", "1", "none", False),
    ]


def test_data_that_is_not_here_cannot_be_compared() -> None:
    known = recorded(RunConfig())
    assert compare_data(known, "d" * 32, "").is_same is True
    assert compare_data(known, "e" * 32, "").is_same is False
    assert compare_data(known, None, "/data is not here").is_same is None
    assert compare_data(replace(known, dataset=None), "d" * 32, "").is_same is None
