"""Bad input ends in one sentence that says where and what, with the right exit code, and nothing is left behind."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

GOOD = """name: exp
base: {train: {epochs: 1, batch_size: 64}, method: {name: moco_v2, queue_size: 128}}
grid:
  seed: [0, 1]
"""

CIFAR_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def sweep(*arguments: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "orchestrator", *map(str, arguments)]
    root = str(Path(__file__).resolve().parents[2])
    environment = {**os.environ, "PYTHONPATH": root}
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False, timeout=120, env=environment)


def one_line(done: subprocess.CompletedProcess[str]) -> str:
    assert "Traceback" not in done.stderr
    (line,) = done.stderr.strip().splitlines()
    return line


BOMB = "a: &a [x,x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{chr(98 + level)}: &{chr(98 + level)} [{','.join([f'*{chr(97 + level)}'] * 10)}]\n" for level in range(9)
)

CASES = {
    "unknown key": (GOOD.replace("epochs", "epoch"), "exp.yaml:2:16: ", "did you mean epochs?"),
    "unknown method": (GOOD.replace("moco_v2", "moco_v5"), "exp.yaml:2:", "moco_v2"),
    "wrong type": (GOOD.replace("epochs: 1", "epochs: many"), "exp.yaml:2:", "many"),
    "does not fit together": (GOOD.replace("128", "100"), "exp.yaml:2:", "queue_size=100 is not a multiple of"),
    "empty grid": (GOOD.replace("[0, 1]", "[]"), "exp.yaml:4:", "seed"),
    "duplicate cells": (GOOD.replace("[0, 1]", "[0, 0]"), "exp.yaml:4:", "twice"),
    "axis that names nothing": (GOOD.replace("seed", "sed"), "exp.yaml:4:", "seed"),
    "not YAML": (GOOD + "  x: [\n", "exp.yaml:", ""),
    "YAML bomb": (BOMB, "exp.yaml:", ""),
    "deep nesting": ("[" * 100_000, "exp.yaml:", ""),
    "nothing at all": ("", "exp.yaml:1:1: ", "empty"),
    "missing data": (GOOD + "  data: [{name: cifar10, root: nowhere}]\n", "exp.yaml:5:", "nowhere does not exist"),
    "more cores than there are": (GOOD + "resources: {cpus_per_node: 4096}\n", "exp.yaml: ", "cpus_per_node=4096"),
    "store that is none": (GOOD + "tracking: {uri: 'file:///tmp/mlruns'}\n", "tracking.uri=file", "sqlite:///"),
}


@pytest.mark.parametrize("case", CASES)
def test_a_bad_file_is_explained_in_one_line(case: str, tmp_path: Path) -> None:
    text, start, part = CASES[case]
    (tmp_path / "exp.yaml").write_text(text)
    done = sweep("run", "exp.yaml", "--workspace=ws", cwd=tmp_path)
    line = one_line(done)
    assert line.startswith(f"sweep: {start}"), line
    assert part in line
    assert len(line) < 500
    assert done.returncode == (3 if "cores" in case else 2)
    assert not (tmp_path / "ws").exists()


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    done = sweep("plan", "quickstrat.yaml", cwd=tmp_path)
    assert done.returncode == 2
    assert "quickstrat.yaml" in one_line(done)


@pytest.fixture
def cifar(tmp_path: Path) -> Path:
    """CIFAR-10 in miniature: ten classes, four training and two test images each, one of them damaged."""
    for split, count in (("train", 4), ("test", 2)):
        for label, name in enumerate(CIFAR_CLASSES):
            folder = tmp_path / "cifar" / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                Image.new("RGB", (32, 32), (label * 20, number * 40, 90)).save(folder / f"{number}.png")
    (tmp_path / "cifar" / "train" / "cat" / "2.png").write_bytes(b"\x89PNG but not for long")
    return tmp_path / "cifar"


def test_a_damaged_image_is_named_before_anything_starts(cifar: Path, tmp_path: Path) -> None:
    (tmp_path / "exp.yaml").write_text(GOOD + f"  data: [{{name: cifar10, root: {cifar}}}]\n")
    done = sweep("run", "exp.yaml", "--workspace=ws", cwd=tmp_path)
    assert done.returncode == 2
    assert str(Path("train", "cat", "2.png")) in one_line(done)
    assert not (tmp_path / "ws").exists()


def test_a_store_that_does_not_answer(tmp_path: Path) -> None:
    (tmp_path / "exp.yaml").write_text(GOOD)
    done = sweep("run", "exp.yaml", "--workspace=ws", "--set=tracking.uri=http://127.0.0.1:9", cwd=tmp_path)
    assert done.returncode == 3
    assert "http://127.0.0.1:9 does not answer" in one_line(done)
    assert not (tmp_path / "ws").exists()


def test_a_workspace_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "exp.yaml").write_text(GOOD)
    (tmp_path / "file").write_text("in the way")
    done = sweep("run", "exp.yaml", "--workspace=file/ws", cwd=tmp_path)
    assert done.returncode == 3
    assert "cannot be written" in one_line(done)


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 KiB with nothing left on it."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", folder], check=False)
    if mounted.returncode != 0:
        pytest.skip("mounting a small file system needs root")
    try:
        with (folder / "ballast").open("wb", buffering=0) as file:
            while True:
                try:
                    file.write(b"x" * 4096)
                except OSError:
                    break
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)


def test_a_full_disk(full_disk: Path, tmp_path: Path) -> None:
    (tmp_path / "exp.yaml").write_text(GOOD)
    done = sweep("run", "exp.yaml", f"--workspace={full_disk / 'ws'}", cwd=tmp_path)
    assert done.returncode == 3
    assert "No space left on device" in one_line(done)


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["status", "nothing"], "no experiment named 'nothing'"),
        (["show", "abc"], "no run begins with 'abc'"),
        (["logs", "abc"], "no run begins with 'abc'"),
        (["report"], "no experiment in"),
        (["resume", "x"], "no experiment named 'x'"),
    ],
)
def test_names_that_do_not_exist(arguments: list[str], part: str, tmp_path: Path) -> None:
    done = sweep(*arguments, "--workspace=ws", cwd=tmp_path)
    assert done.returncode == 2
    assert part in one_line(done)
