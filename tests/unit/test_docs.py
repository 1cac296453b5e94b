"""The documents name every option that an experiment file can have."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args

import pytest

from trainers.config import LARS, Augment, Cosine, Data, Evaluate, FewLabels, Geometry, Linear, Runtime, Step, Train
from trainers.config import data as data_options
from trainers.config import evaluate as evaluate_options
from trainers.config.backbones import Backbone
from trainers.config.data import DatasetName, Profile
from trainers.config.evaluate import LinearProtocol
from trainers.config.fields import Section
from trainers.config.methods import Method

DOCS = Path(__file__).resolve().parents[2] / "docs"


def words(name: str) -> set[str]:
    """What a document sets in a fixed font, in blocks and in lines, word by word."""
    text = (DOCS / f"{name}.md").read_text()
    blocks = re.findall(r"^```\w*\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)
    lines = re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL))
    return set(re.findall(r"\w+", " ".join([*blocks, *lines])))


def variants(component: object) -> tuple[type[Section], ...]:
    """The classes of a component, such as ``Method``."""
    return get_args(get_args(component)[0])


@pytest.mark.parametrize("options", variants(Method), ids=lambda options: options.__name__)
def test_methods(options: type[Section]) -> None:
    assert set(options.model_fields) - {"name"} | {options.model_fields["name"].default} <= words("methods")


@pytest.mark.parametrize(
    "options", [*variants(Backbone), LARS, Cosine, Step, Augment, Train, Runtime], ids=lambda options: options.__name__
)
def test_backbones_views_and_optimisation(options: type[Section]) -> None:
    documents = words("methods") | words("experiment-file") | words("running")
    assert set(options.model_fields) - documents == set()


@pytest.mark.parametrize("options", [Data, *variants(Profile)], ids=lambda options: options.__name__)
def test_data(options: type[Section]) -> None:
    assert set(options.model_fields) - words("data") == set()


@pytest.mark.parametrize(
    "options",
    [Evaluate, evaluate_options.KNN, Linear, FewLabels, Geometry, evaluate_options.Transfer],
    ids=lambda options: options.__name__,
)
def test_evaluation(options: type[Section]) -> None:
    assert set(options.model_fields) - words("evaluation") == set()


def test_names() -> None:
    assert set(get_args(DatasetName)) <= words("data")
    assert {options.model_fields["name"].default for options in variants(Profile)} <= words("data")
    assert set(get_args(LinearProtocol)) <= words("evaluation")
    assert {options.model_fields["name"].default for options in variants(Backbone)} <= words("methods")
    assert set(data_options.NATIVE_IMAGE_SIZE) <= words("data")
