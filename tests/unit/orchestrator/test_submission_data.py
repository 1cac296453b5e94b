"""Data sets before a submission: everything that the runs will read is looked at, and errors point into the file."""

import sys
from pathlib import Path

import pytest
from PIL import Image

from orchestrator.backends import create_backend
from orchestrator.errors import InputError
from orchestrator.experiment import load_experiment
from orchestrator.submission import check, check_data
from orchestrator.workspace import Workspace


@pytest.fixture(autouse=True)
def in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a small data set, and two lists, as the working directory."""
    monkeypatch.chdir(tmp_path)
    for split in ("train", "val"):
        for name in ("a", "b"):
            path = tmp_path / "images" / split / name / "1.png"
            path.parent.mkdir(parents=True)
            Image.new("RGB", (4, 4)).save(path)
    (tmp_path / "classes.txt").write_text("a\nc\n")
    (tmp_path / "list.txt").write_text("a/1.png\nb/2.png\n")
    return tmp_path


def problem(text: str, *, read: bool) -> str:
    """What is wrong with an experiment, found without reading the data sets or by reading them."""
    Path("x.yaml").write_text(f"name: x\n{text}grid: {{seed: [0]}}\n")
    experiment = load_experiment("x.yaml")
    with pytest.raises(InputError) as caught:
        check(experiment, create_backend("local", Workspace(Path("workspace").absolute())))
        if read:
            check_data(experiment, Workspace(Path("workspace").absolute()))
    return str(caught.value)


TRANSFER = "base:\n  evaluate:\n    transfer:\n      - {name: image_folder, root: %s, label: mine}\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "base: {data: {name: image_folder, root: none}}\n",
            "x.yaml:2:41: data.root=none does not exist (looked for {folder}/none); data set image_folder must be "
            "there before a run can start",
        ),
        (
            "base: {data: {class_list: none, label: x}}\n",
            "x.yaml:2:27: data.class_list=none does not exist (looked for {folder}/none); the list of classes must be "
            "there before a run can start",
        ),
        (
            "base: {data.profile: {name: balanced, match: {name: list_file, label: x, path: none}}}\n",
            "x.yaml:2:80: data.profile.match.path=none does not exist (looked for {folder}/none); the list of images "
            "must be there before a run can start",
        ),
        (
            TRANSFER % "none",
            "x.yaml:5:7: evaluate.transfer.root=none does not exist (looked for {folder}/none); data set image_folder "
            "must be there before a run can start",
        ),
    ],
)
def test_paths_that_lead_nowhere_are_said_without_reading(text: str, message: str, in_folder: Path) -> None:
    assert problem(text, read=False) == message.format(folder=in_folder)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "base: {data: {name: image_folder, root: images, label: x, class_list: classes.txt}}\n",
            "x.yaml:2:71: data.class_list={folder}/classes.txt names 'c', which is no class of {folder}/images (1 of 2 "
            "are not; its first is 'a')",
        ),
        (
            "base:\n  data: {name: image_folder, root: images}\n"
            "  data.profile: {name: list_file, label: x, path: list.txt}\n",
            "x.yaml:4:51: {folder}/list.txt:2: b/2.png is not among the training images of {folder}/images (1 of 2 are "
            "missing)",
        ),
        (
            TRANSFER % "images/train",
            "x.yaml:5:7: data.root={folder}/images/train has no folder train; expected are train/<class>/ and "
            "val/<class>/ or test/<class>/ with images",
        ),
        (
            "base: {data.profile: {name: long_tailed, imbalance: 1000}}\n",
            "x.yaml:2:53: data.profile leaves class '7' of scikit-learn's digits without a training image (its "
            "smallest class has 124); lower data.profile.imbalance (now 1000)",
        ),
    ],
)
def test_data_sets_are_read_as_the_runs_will_read_them(text: str, message: str, in_folder: Path) -> None:
    assert problem(text, read=True) == message.format(folder=in_folder)


def test_a_package_that_runs_here_would_lack_is_named_with_the_command_that_brings_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "umap", None)  # as if it were not installed
    said = problem("base: {evaluate: {embedding: {method: umap}}}\n", read=False)
    assert said.startswith("x.yaml:2:39: evaluate.embedding.method=umap needs the package umap-learn")
    assert "pip install 'ssl-sweep[umap]'" in said


def test_the_digits_of_the_quickstart_need_no_check(in_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.executable", "/none")  # reading would start a process
    Path("x.yaml").write_text(
        "name: x\n"
        "grid: {data.profile: [full, {name: long_tailed, imbalance: 9}, {name: balanced, match_imbalance: 9}]}\n"
    )
    check_data(load_experiment("x.yaml"), Workspace(in_folder / "workspace"))
