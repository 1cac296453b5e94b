"""Checkpoints are believed only when every byte is as it was written, and a failed write costs none."""

from __future__ import annotations

import json
import resource
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from trainers.checkpoint import CheckpointError, Checkpoints, ForeignCheckpoint, write_encoder
from trainers.rundir import RunDir


def state(step: int) -> dict[str, Any]:
    return {"step": step, "weights": {"w": torch.full((1000,), float(step))}, "names": ["a"], "nothing": None}


def save(checkpoints: Checkpoints, *steps: int) -> None:
    for step in steps:
        checkpoints.save(state(step), step=step, epoch=step / 4, metrics_offset=step * 100)


@pytest.fixture
def run_dir(tmp_path: Path) -> RunDir:
    return RunDir(tmp_path)


def folders(run_dir: RunDir) -> list[str]:
    return sorted(path.name for path in run_dir.checkpoints_dir.iterdir())


def test_reads_back_what_was_saved(run_dir: RunDir) -> None:
    save(Checkpoints(run_dir, "run", attempt=2), 7)

    later = Checkpoints(run_dir, "run", attempt=3)
    manifest = later.find()

    assert manifest is not None
    assert (manifest.step, manifest.epoch, manifest.metrics_offset, manifest.attempt) == (7, 1.75, 700, 2)
    found = later.read(7)
    assert torch.equal(found["weights"]["w"], state(7)["weights"]["w"])
    assert (found["step"], found["names"], found["nothing"]) == (7, ["a"], None)


def test_keeps_the_newest_two_and_clears_leftovers(run_dir: RunDir) -> None:
    (run_dir.checkpoints_dir / "step_3.tmp").mkdir(parents=True)
    kept = run_dir.checkpoints_dir / "encoder_epoch_1.safetensors"
    kept.touch()

    save(Checkpoints(run_dir, "run", attempt=1), 1, 2, 3, 4)

    assert folders(run_dir) == [kept.name, "step_3", "step_4"]


def flip_a_bit(folder: Path) -> None:
    content = bytearray((folder / "state.pt").read_bytes())
    content[1000] ^= 4
    (folder / "state.pt").write_bytes(content)


def cut(folder: Path) -> None:
    content = (folder / "state.pt").read_bytes()
    (folder / "state.pt").write_bytes(content[:-1])


def empty_the_manifest(folder: Path) -> None:
    (folder / "manifest.json").write_text("")


def forget_the_file(folder: Path) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps({**manifest, "files": {}}))


DAMAGES: dict[Callable[[Path], object], str] = {
    flip_a_bit: "another SHA-256",
    cut: "bytes instead of",
    empty_the_manifest: "manifest.json is missing or unreadable",
    lambda folder: (folder / "manifest.json").unlink(): "manifest.json is missing or unreadable",
    lambda folder: (folder / "state.pt").unlink(): "state.pt is missing",
    forget_the_file: "does not name state.pt",
}


@pytest.mark.parametrize(("damage", "words"), DAMAGES.items())
def test_a_damaged_one_is_named_and_the_one_before_it_used(
    run_dir: RunDir, caplog: pytest.LogCaptureFixture, damage: Callable[[Path], object], words: str
) -> None:
    save(Checkpoints(run_dir, "run", attempt=1), 1, 2)
    damage(run_dir.checkpoints_dir / "step_2")

    later = Checkpoints(run_dir, "run", attempt=2)
    manifest = later.find()

    assert manifest is not None and manifest.step == 1
    assert "step_2 is damaged" in caplog.text and words in caplog.text
    # It makes room for a good one of the same step, and is gone when the next one stands.
    save(later, 2, 3)
    assert Checkpoints(run_dir, "run", attempt=3).find() is not None
    assert folders(run_dir) == ["step_2", "step_3"]


def test_without_a_whole_one_the_run_starts_anew(run_dir: RunDir) -> None:
    checkpoints = Checkpoints(run_dir, "run", attempt=1)
    assert checkpoints.find() is None
    save(checkpoints, 1)
    cut(run_dir.checkpoints_dir / "step_1")
    assert Checkpoints(run_dir, "run", attempt=2).find() is None


def test_what_readers_may_have_seen_includes_damaged_ones(run_dir: RunDir) -> None:
    checkpoints = Checkpoints(run_dir, "run", attempt=1)
    assert checkpoints.final_metrics_offset() == 0
    save(checkpoints, 1, 2)
    flip_a_bit(run_dir.checkpoints_dir / "step_2")
    assert checkpoints.final_metrics_offset() == 200


def test_another_runs_checkpoint_is_refused(run_dir: RunDir) -> None:
    save(Checkpoints(run_dir, "theirs", attempt=1), 1)
    with pytest.raises(ForeignCheckpoint, match="belongs to run theirs, and this is run ours"):
        Checkpoints(run_dir, "ours", attempt=1).find()


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """A disk that is full after ``size`` bytes of a file, as far as a process can tell."""
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, old[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)


@pytest.mark.parametrize("room", [0, 100, 3000])
def test_a_full_disk_costs_no_checkpoint(run_dir: RunDir, room: int) -> None:
    checkpoints = Checkpoints(run_dir, "run", attempt=1)
    save(checkpoints, 1)

    with largest_file(room), pytest.raises(CheckpointError, match=r"step 2 cannot be written to .*File too large"):
        save(checkpoints, 2)

    assert folders(run_dir) == ["step_1"]
    manifest = Checkpoints(run_dir, "run", attempt=2).find()
    assert manifest is not None and manifest.step == 1
    save(checkpoints, 2)  # there is room again
    assert folders(run_dir) == ["step_1", "step_2"]


def test_no_pickle_is_executed(run_dir: RunDir, tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[Any, ...]:
            return (shutil.rmtree, (str(tmp_path),))

    checkpoints = Checkpoints(run_dir, "run", attempt=1)
    checkpoints.save({"bomb": Bomb()}, step=1, epoch=0.0, metrics_offset=0)

    with pytest.raises(Exception, match="Weights only load failed"):
        checkpoints.read(1)
    assert run_dir.checkpoints_dir.exists()


def test_equal_encoders_are_equal_files(tmp_path: Path) -> None:
    weights = {"b": torch.arange(6.0).view(2, 3).T, "a": torch.zeros(0)}
    for name in ("first", "second"):
        write_encoder(tmp_path / name, weights, run_id="r", network="student", step=3)

    assert (tmp_path / "first").read_bytes() == (tmp_path / "second").read_bytes()
    assert torch.equal(safetensors.torch.load_file(tmp_path / "first")["b"], weights["b"])
