"""Where runs come from: what of the source is kept, what is left out and said, and that it can be applied again."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from orchestrator import provenance
from orchestrator.controller import write_specs
from orchestrator.experiment import load_experiment
from orchestrator.provenance import origin, own_source
from trainers.config import RunConfig
from trainers.rundir import RunDir


def git(folder: Path, *arguments: str) -> str:
    options = ("-c", "user.name=a", "-c", "user.email=a@b")
    done = subprocess.run(["git", "-C", str(folder), *options, *arguments], check=True, capture_output=True, text=True)
    return done.stdout


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A repository with a committed experiment file, a module, a picture and a file of secrets."""
    folder = tmp_path / "study"
    folder.mkdir()
    git(folder, "init", "-q")
    (folder / "x.yaml").write_text("name: x\n")
    (folder / "model.py").write_text("width = 1\n")
    (folder / "picture").write_bytes(b"\0\1")
    (folder / ".env").write_text("TOKEN=none\n")
    git(folder, "add", ".")
    git(folder, "commit", "-qm", "begin")
    return folder


def recorded(folder: Path) -> tuple[dict[str, object], str]:
    """What is recorded of a checkout, and its part of the difference; before it stands that of this program's own."""
    found = origin("x", "digest", folder=folder, exclude=folder / "sweeps")
    text = found.source_diff.decode()
    begin = text.find(f"# {folder.name} at commit")
    return found.record["experiment_git"], text[begin:] if begin >= 0 else ""


def test_names_experiment_code_and_versions(tmp_path: Path) -> None:
    file = tmp_path / "x.yaml"
    file.write_text("name: x\n")
    experiment = load_experiment(file, ["seed=3"], {})
    found = origin(experiment.name, experiment.digest, experiment.overrides, folder=tmp_path).record
    assert found["experiment"] == {"name": "x", "digest": experiment.digest, "overrides": ["seed=3"], "site": None}
    assert len(experiment.digest) == 64
    assert "torch" in found["packages"]
    assert found["experiment_git"] is None  # no checkout tracks that folder
    json.dumps(found)


def test_a_clean_checkout_has_a_commit_and_no_difference(checkout: Path) -> None:
    found, text = recorded(checkout)
    commit = git(checkout, "rev-parse", "HEAD").strip()
    assert found == {"commit": commit, "dirty": False, "diff_sha256": None}
    assert not text


def test_the_difference_gives_the_source_again(checkout: Path, tmp_path: Path) -> None:
    (checkout / "model.py").write_text("width = 2\n")
    (checkout / "new").mkdir()
    (checkout / "new/loss.py").write_text("scale = 1\nno_newline = True")
    (checkout / "new/empty.py").write_text("")
    (checkout / "notes.txt").write_text("of no use to a run\n")
    found, text = recorded(checkout)
    assert found["dirty"]
    copy = tmp_path / "copy"
    git(tmp_path, "clone", "-q", str(checkout), str(copy))
    (tmp_path / "source.diff").write_text(text)
    git(copy, "apply", str(tmp_path / "source.diff"))
    for name in ("model.py", "new/loss.py", "new/empty.py"):
        assert (copy / name).read_bytes() == (checkout / name).read_bytes()
    assert not (copy / "notes.txt").exists()
    assert recorded(copy)[0]["diff_sha256"] == found["diff_sha256"]  # the same difference has the same digest


def test_secrets_pictures_and_the_workspace_stay_where_they_are(checkout: Path) -> None:
    (checkout / ".env").write_text("TOKEN=hunter2\n")
    (checkout / "picture").write_bytes(b"\0\2hunter2")
    (checkout / "credentials.yaml").write_text("password: hunter2\n")
    (checkout / "sweeps").mkdir()
    (checkout / "sweeps/site.yaml").write_text("hunter2: 1\n")
    found, text = recorded(checkout)
    assert "hunter2" not in text
    assert found["dirty"]
    assert found["left_out"] == [
        ".env (its name is that of a file with secrets)",
        "picture (binary)",
        "credentials.yaml (its name is that of a file with secrets)",
    ]
    assert "# left out: picture (binary)\n" in text


def test_what_is_too_large_is_left_out_by_whole_files(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (checkout / "a.py").write_text("a = 1\n" * 10_000)
    (checkout / "b.py").write_text("b = 1\n")
    monkeypatch.setattr(provenance, "MAX_DIFF", 5000)
    found, text = recorded(checkout)
    assert [line.partition(" ")[0] for line in found["left_out"]] == ["a.py"]  # type: ignore[attr-defined]
    assert "+b = 1\n" in text


def test_a_folder_that_a_checkout_does_not_track_is_not_of_it(checkout: Path) -> None:
    (checkout / "venv").mkdir()
    (checkout / "venv/x.py").write_text("")
    assert origin("x", "digest", folder=checkout / "venv").record["experiment_git"] is None
    assert (own_source() is None) == (not (Path(provenance.__file__).parents[1] / ".git").exists())


def test_all_runs_of_a_submission_share_one_file_and_the_next_one_replaces_it(tmp_path: Path) -> None:
    runs = [RunDir(tmp_path / name) for name in ("a", "b")]
    kept = tmp_path / "kept.diff"
    kept.write_text("+1\n")
    config = RunConfig().model_dump(mode="json")
    write_specs(dict.fromkeys(runs, config), {}, kept)
    assert len({run.source_diff_path.stat().st_ino for run in runs} | {kept.stat().st_ino}) == 1
    write_specs(dict.fromkeys(runs, config), {}, None)  # the same runs keep their origin
    assert runs[0].source_diff_path.read_text() == "+1\n"
    other = {**config, "evaluate": {**config["evaluate"], "untrained": not config["evaluate"].get("untrained")}}
    write_specs({runs[0]: other}, {}, None)
    assert not runs[0].source_diff_path.exists()
    assert not list(tmp_path.glob("*/.*"))
