"""The documents name every option that an experiment file can have, and their commands are commands."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import get_args

import pytest
import typer

from orchestrator.cli.main import app
from orchestrator.experiment import Local, Ray, Resources, Retries, Slurm, load_site
from orchestrator.experiment.schema import Container, Report
from orchestrator.experiment.search import Asha, Median, Search
from trainers.config import LARS, Augment, Cosine, Data, Evaluate, FewLabels, Geometry, Linear, Runtime, Step, Train
from trainers.config import data as data_options
from trainers.config import evaluate as evaluate_options
from trainers.config.backbones import Backbone
from trainers.config.data import DatasetName, Profile
from trainers.config.evaluate import LinearProtocol
from trainers.config.fields import Section
from trainers.config.methods import Method

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
DOCUMENTS = [ROOT / "README.md", *sorted(DOCS.glob("*.md")), ROOT / "slurm" / "README.md"]


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


def test_report() -> None:
    assert set(Report.model_fields) - words("report") == set()


@pytest.mark.parametrize(
    "options", [Local, Slurm, Container, Ray, Resources, Retries], ids=lambda options: options.__name__
)
def test_backends_and_resources(options: type[Section]) -> None:
    assert set(options.model_fields) - words("experiment-file") == set()


@pytest.mark.parametrize("options", [Search, Asha, Median], ids=lambda options: options.__name__)
def test_search(options: type[Section]) -> None:
    assert set(options.model_fields) - words("search") == set()


def blocks(document: Path) -> list[tuple[str, str]]:
    """Language and text of every block."""
    return re.findall(r"^```(\w*)\n(.*?)^```", document.read_text(), flags=re.MULTILINE | re.DOTALL)


def commands(document: Path, program: str) -> list[list[str]]:
    """The arguments of every call of a program in the blocks of a document."""
    lines = "\n".join(text for language, text in blocks(document) if language in ("", "bash")).splitlines()
    calls = (re.match(rf"""(?:\$ |eval "\$\()?{program} (.*)""", line) for line in lines)
    return [shlex.split(call[1].replace(')"', ""), comments=True) for call in calls if call is not None]


def test_every_call_of_sweep_can_be_parsed() -> None:
    known = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    found = [(document.name, call) for document in DOCUMENTS for call in commands(document, "sweep")]
    assert {"run", "drill", "doctor", "watch"} <= {call[0] for _, call in found}
    for name, (verb, *arguments) in found:
        assert verb in known, f"{name}: sweep {verb}"
        try:
            known[verb].make_context(verb, list(arguments))
        except Exception as error:
            raise AssertionError(f"{name}: sweep {verb} {shlex.join(arguments)}: {error}") from error


def test_every_mention_of_a_subcommand_is_one() -> None:
    known = set(typer.main.get_command(app).commands)  # type: ignore[attr-defined]
    for document in DOCUMENTS:
        mentioned = set(re.findall(r"`sweep ([a-z]+)", document.read_text()))
        assert mentioned <= known, f"{document.name}: {mentioned - known}"


def test_every_call_of_the_development_cluster_can_be_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "slurm"))
    from dev_cluster.cli import parser

    calls = [call for document in DOCUMENTS for call in commands(document, "slurm/dev-cluster")]
    assert {"install", "up", "down"} <= {call[0] for call in calls}
    for call in calls:
        parser().parse_args(call)


@pytest.mark.parametrize(("guide", "options"), [("slurm", Slurm), ("ray", Ray)])
def test_the_profile_in_the_guide_is_one(guide: str, options: type[Section], tmp_path: Path) -> None:
    (profile,) = (text for language, text in blocks(DOCS / f"{guide}.md") if language == "yaml")
    (tmp_path / "site.yaml").write_text(profile)
    assert isinstance(load_site(tmp_path / "site.yaml", (), {}).backend, options)
