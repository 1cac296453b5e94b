"""Batches: the same images in the same order, whatever the processes, workers and interruptions."""

import gc
import multiprocessing
import os
import re
import signal
import time
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image
from torch import Tensor

from trainers import augment, data, rng
from trainers.batch import Batch
from trainers.config import RunConfig
from trainers.config.views import CROP_AND_FLIP
from trainers.data import (
    ArrayImages,
    DataProblem,
    ImageData,
    digits,
    training_subset,
)
from trainers.data.decoding import WorkerDied
from trainers.data.images import ImageSet
from trainers.data.loader import TrainLoader, eval_batches, view_batches

CPU = torch.device("cpu")


def run(batch_size: int = 16, **sections: object) -> RunConfig:
    return RunConfig.model_validate(
        {
            "method": {"name": "moco_v2", "queue_size": 4 * batch_size, "bn_group_size": 2},
            "data": {"profile": {"name": "balanced", "size": 100}},
            "train": {"batch_size": batch_size},
            **sections,
        }
    )


def loader(config: RunConfig, images: ImageData | None = None, *, rank: int = 0, world_size: int = 1) -> TrainLoader:
    images = images or digits.load()
    subset = training_subset(config.data, images)
    return TrainLoader(images, subset, config, rank=rank, world_size=world_size, device=CPU)


def assert_same(ours: list[Batch], theirs: list[Batch]) -> None:
    assert len(ours) == len(theirs) > 0
    for one, other in zip(ours, theirs, strict=True):
        assert len(one.views) == len(other.views)
        assert all(torch.equal(a, b) for a, b in zip(one.views, other.views, strict=True))
        assert torch.equal(one.labels, other.labels)


def test_an_epoch_is_all_whole_batches() -> None:
    batches = loader(run(16))
    assert batches.steps_per_epoch == 6
    epoch = list(batches.epoch(0))
    assert len(epoch) == 6
    assert all([view.shape for view in batch.views] == [(16, 3, 8, 8)] * 2 for batch in epoch)
    assert all(batch.labels.shape == (16,) and batch.labels.dtype == torch.int64 for batch in epoch)


def test_a_method_of_one_view_gets_one() -> None:
    config = run(method={"name": "supervised"})
    ((first, *others), _), *_ = loader(config).epoch(0)
    assert first.shape == (16, 3, 8, 8) and not others


def test_labels_are_those_of_the_images() -> None:
    """Each image is its label's shade of gray."""
    labels = np.arange(50) % 7
    pixels = np.broadcast_to((labels * 30).astype(np.uint8)[:, None, None, None], (50, 3, 8, 8)).copy()
    train = ArrayImages(pixels, labels)
    images = ImageData("digits", "shades", "0" * 32, tuple("abcdefg"), train, train, (0.0,) * 3, (1.0,) * 3)
    config = run(16, data={"profile": {"name": "balanced"}}, method={"name": "supervised"})
    for batch in loader(config, images).epoch(0):
        assert torch.equal((batch.views[0][:, 0, 0, 0] * 255 / 30).round().long(), batch.labels)


def test_an_epoch_visits_each_image_at_most_once_and_epochs_differ() -> None:
    """Images of one colour each survive the crop unchanged, so a batch tells which images it holds."""
    colours = np.arange(0, 250, 5, dtype=np.uint8)
    pixels = np.broadcast_to(colours[:, None, None, None], (50, 3, 8, 8)).copy()
    train = ArrayImages(pixels, np.zeros(50, np.int64))
    images = ImageData("digits", "colours", "0" * 32, ("a",), train, train, (0.0,) * 3, (1.0,) * 3)
    plain = {"jitter_probability": 0.0, "grayscale_probability": 0.0, "blur_probability": 0.0}
    config = run(16, augment=plain, data={"profile": {"name": "balanced"}}, seed=3)

    def visited(epoch: int) -> list[int]:
        first_views = [batch.views[0][:, 0, 0, 0] for batch in loader(config, images).epoch(epoch)]
        return [round(float(value) * 255 / 5) for value in torch.cat(first_views)]

    assert visited(0) == rng.epoch_permutation(3, 0, 50)[:48].tolist()
    assert len(set(visited(0))) == 48
    assert visited(0) != visited(1)


def test_an_epoch_can_begin_at_any_step() -> None:
    whole = list(loader(run()).epoch(2))
    for first_step in (1, 5):
        assert_same(list(loader(run()).epoch(2, first_step)), whole[first_step:])
    assert list(loader(run()).epoch(2, 6)) == []


ONE_DRAW = {
    "method": {"name": "sdssl", "augmentation": "per_batch"},
    "backbone": {"name": "vit_tiny"},
    "augment": {"jitter_probability": 0.0},  # rounding may bring single pixels to the other side of a threshold
}


@pytest.mark.parametrize("sections", [{}, ONE_DRAW], ids=["a draw for each image", "one draw for the batch"])
@pytest.mark.parametrize("world_size", [2, 4])
def test_the_global_batch_does_not_depend_on_the_number_of_processes(
    world_size: int, sections: dict[str, object]
) -> None:
    config = run(**sections)  # type: ignore[arg-type]
    whole = list(loader(config).epoch(1))
    shares = [list(loader(config, rank=rank, world_size=world_size).epoch(1)) for rank in range(world_size)]
    for step, batch in enumerate(whole):
        for rank in range(world_size):
            share = shares[rank][step]
            for part, view in zip(share.views, batch.views, strict=True):
                torch.testing.assert_close(part, view[rank::world_size], atol=1e-5, rtol=1e-5)
            assert torch.equal(share.labels, batch.labels[rank::world_size])


@pytest.mark.parametrize("world_size", [1, 2])
def test_parts_of_the_shares_are_parts_of_the_global_batch(world_size: int) -> None:
    (whole, *_), share = loader(run()).epoch(0), []
    for rank in range(world_size):
        share.append(next(iter(loader(run(), rank=rank, world_size=world_size).epoch(0))).parts(4))
    for number, part in enumerate(whole.parts(4)):
        together = torch.stack([parts[number].views[0] for parts in share], dim=1).flatten(0, 1)
        torch.testing.assert_close(together, part.views[0], atol=1e-5, rtol=1e-5)
        assert torch.equal(part.views[0], whole.views[0][4 * number : 4 * number + 4])
        assert torch.equal(part.labels, whole.labels[4 * number : 4 * number + 4])


def test_run_seeds_share_the_subset_but_not_the_views() -> None:
    first, *_ = loader(run(seed=0)).epoch(0)
    other, *_ = loader(run(seed=1)).epoch(0)
    assert not torch.equal(first.views[0], other.views[0])


def test_views_have_the_size_and_scale_asked_for() -> None:
    config = run(data={"image_size": 16, "profile": {"name": "balanced"}})
    first = torch.cat([batch.views[0] for batch in loader(config).epoch(0)])
    assert first.shape[2:] == (16, 16)
    assert abs(first.mean()) < 0.4 and 0.5 < first.std() < 1.3


def test_a_batch_larger_than_the_subset_is_refused() -> None:
    with pytest.raises(DataProblem, match=r"train\.batch_size=128 is larger than the 100 training images"):
        loader(run(128))


def test_processes_that_do_not_divide_the_batch_are_refused() -> None:
    with pytest.raises(ValueError, match=r"train\.batch_size=16 cannot be divided equally by 3 processes"):
        loader(run(16), world_size=3)
    accumulating = run(16, train={"batch_size": 16, "accumulation": 4})
    with pytest.raises(ValueError, match=r"16 in train\.accumulation=4 parts cannot be divided equally by 8 processes"):
        loader(accumulating, world_size=8)


# --- files


def image_folder(root: Path, *, per_class: int = 12) -> Path:
    """Two classes of noisy images of many sizes and modes."""
    random = np.random.default_rng(0)
    for split, count in (("train", per_class), ("val", 3)):
        for name in ("cat", "dog"):
            folder = root / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                height, width = random.integers(20, 60, 2)
                image = Image.fromarray(random.integers(0, 256, (height, width, 3), np.uint8))
                mode, suffix = [("RGB", "jpg"), ("L", "png"), ("RGBA", "png"), ("P", "png")][number % 4]
                image.convert(mode).save(folder / f"{number}.{suffix}")
    return root


def folder_data(root: Path) -> ImageData:
    return data.load(folder_run(root).data, root / "cache")


def folder_run(root: Path, workers: int = 0, image_size: int = 24) -> RunConfig:
    section = {"name": "image_folder", "root": str(root), "image_size": image_size, "profile": {"name": "balanced"}}
    return run(8, data=section, runtime={"workers": workers})


def test_files_are_cropped_and_coloured_as_arrays_are(tmp_path: Path) -> None:
    """PIL crops to whole 8-bit values, so the two ways agree up to rounding, which colours then amplify."""
    root = image_folder(tmp_path)
    for path in sorted(root.rglob("*.*")):
        Image.open(path).convert("RGB").resize((32, 32)).save(path.with_suffix(".png"))
        if path.suffix != ".png":
            path.unlink()
    config = folder_run(root)
    files = data.load(config.data, tmp_path / "cache")
    pixels = np.stack([np.asarray(Image.open(root / name)).transpose(2, 0, 1) for name in files.train.names])  # type: ignore[union-attr]
    train = ArrayImages(pixels, files.train.labels)
    arrays = ImageData("image_folder", "", "", files.class_names, train, train, files.mean, files.std)
    for ours, theirs in zip(loader(config, files).epoch(0), loader(config, arrays).epoch(0), strict=True):
        for one, other in zip(ours.views, theirs.views, strict=True):
            difference = (one - other).abs()
            assert difference.mean() < 0.02 and difference.max() < 0.5


def test_the_number_of_workers_changes_no_bit(tmp_path: Path) -> None:
    config = folder_run(image_folder(tmp_path))
    images = data.load(config.data, tmp_path / "cache")
    with_workers = loader(folder_run(tmp_path, workers=2), images)
    without = loader(config, images)
    for epoch, first_step in ((0, 0), (1, 1)):  # the second pass reuses the workers
        assert_same(list(with_workers.epoch(epoch, first_step)), list(without.epoch(epoch, first_step)))


@pytest.mark.parametrize("workers", [0, 1])
def test_a_corrupt_image_is_named(tmp_path: Path, workers: int) -> None:
    config = folder_run(image_folder(tmp_path), workers)
    broken = tmp_path / "train" / "dog" / "0.jpg"
    broken.write_bytes(broken.read_bytes()[:200])
    with pytest.raises(DataProblem) as caught:
        list(loader(config, data.load(config.data, tmp_path / "cache")).epoch(0))
    message = caught.value.message
    assert message.startswith(f"{broken} (200 bytes) cannot be decoded: ") and message.count("\n") == 0
    assert message.endswith("; replace or remove the file")


@pytest.mark.parametrize("stop_signal", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_workers_outlive_a_request_to_stop(tmp_path: Path, stop_signal: signal.Signals) -> None:
    """Schedulers signal every process of a job, and the trainer still wants to finish its step."""
    views = loader(folder_run(image_folder(tmp_path), 2), folder_data(tmp_path)).epoch(0)
    first = [next(views)]
    for worker in multiprocessing.active_children():
        wait_until_shielded(worker.pid or 0)
        os.kill(worker.pid or 0, stop_signal)
    assert_same(first + list(views), list(loader(folder_run(tmp_path), folder_data(tmp_path)).epoch(0)))


def wait_until_shielded(pid: int) -> None:
    """Wait for a worker that has only just been forked to ignore what it will ignore."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        (ignored,) = re.findall(r"SigIgn:\s*(\w+)", Path(f"/proc/{pid}/status").read_text())
        if int(ignored, 16) >> (signal.SIGTERM - 1) & 1:
            return
        time.sleep(0.005)
    raise AssertionError(f"worker {pid} does not ignore SIGTERM")


@pytest.mark.parametrize("workers", [1, 3])
def test_a_killed_worker_is_an_error_and_no_hang(tmp_path: Path, workers: int) -> None:
    """Batches are larger than a pipe holds, so that workers that are ahead are killed in the middle of an answer."""
    config = folder_run(image_folder(tmp_path, per_class=40), workers, image_size=224)
    views = loader(config, folder_data(tmp_path)).epoch(0)
    next(views)
    time.sleep(0.5)
    multiprocessing.active_children()[0].kill()
    with pytest.raises(WorkerDied, match="a process that decodes images was killed by signal 9"):
        list(views)


def test_no_worker_outlives_its_loader(tmp_path: Path) -> None:
    root = image_folder(tmp_path)
    views = loader(folder_run(root, 2), folder_data(root)).epoch(0)
    next(views)
    assert len(multiprocessing.active_children()) == 2
    del views
    images = folder_data(root)
    list(eval_batches(images.test, None, batch_size=4, size=8, device=CPU, mean=images.mean, std=images.std, workers=2))
    deadline = time.monotonic() + 20
    while multiprocessing.active_children() and time.monotonic() < deadline:
        gc.collect()
        time.sleep(0.02)
    assert not multiprocessing.active_children()


# --- batches of a probe


def probe_batches(images: ImageSet, indices: npt.NDArray[np.int64], **changes: object) -> list[tuple[Tensor, Tensor]]:
    arguments: dict[str, object] = {
        "epoch": 0, "seed": 5, "batch_size": 8, "size": 8, "device": CPU, "mean": (0.0,) * 3, "std": (1.0,) * 3
    }  # fmt: skip
    return list(view_batches(images, indices, CROP_AND_FLIP, **{**arguments, **changes}))  # type: ignore[arg-type]


def test_a_probe_visits_its_images_once_each_with_their_labels() -> None:
    shades = np.arange(40, dtype=np.uint8)
    images = ArrayImages(np.broadcast_to(shades[:, None, None, None], (40, 3, 8, 8)).copy(), shades + 100)
    indices = np.arange(3, 31)

    def labels(**changes: object) -> list[int]:
        batches = probe_batches(images, indices, **changes)
        for pixels, batch_labels in batches:
            assert torch.equal((pixels[:, 0, 0, 0] * 255).round().long() + 100, batch_labels)
        return torch.cat([batch_labels for _, batch_labels in batches]).tolist()

    assert [len(pixels) for pixels, _ in probe_batches(images, indices)] == [8, 8, 8, 4]
    assert sorted(labels()) == (indices + 100).tolist()
    assert labels() == labels() != labels(epoch=1) != labels(seed=6)
    assert [len(pixels) for pixels, _ in probe_batches(images, indices, drop_last=True)] == [8, 8, 8]


def test_processes_take_a_probes_batches_in_turn() -> None:
    images, indices = digits.load().train, np.arange(60)
    whole = probe_batches(images, indices)
    shares = [probe_batches(images, indices, rank=rank, world_size=3) for rank in range(3)]
    assert [len(share) for share in shares] == [3, 3, 2]
    for number, (pixels, labels) in enumerate(whole):
        own_pixels, own_labels = shares[number % 3][number // 3]
        assert torch.equal(own_pixels, pixels) and torch.equal(own_labels, labels)


def test_a_probe_sees_the_views_asked_for() -> None:
    images = digits.load().train
    indices = np.arange(20)
    order = rng.epoch_permutation(5, 2, 20)[:8]
    (stream,) = augment.view_streams((CROP_AND_FLIP,), seed=5, epoch=2, step=0, indices=order)
    assert isinstance(images, ArrayImages)
    pixels = torch.from_numpy(images.pixels[order])
    mean, std = (0.1, 0.2, 0.3), (0.5, 0.6, 0.7)
    (expected,) = augment.draw_views(pixels, (CROP_AND_FLIP,), (stream,), size=12, mean=mean, std=std)
    (first, _), *_ = probe_batches(images, indices, epoch=2, size=12, mean=mean, std=std)
    assert torch.equal(first, expected)


def test_a_probes_workers_change_no_bit_and_end_with_its_epoch(tmp_path: Path) -> None:
    images, indices = folder_data(image_folder(tmp_path)).train, np.arange(20)
    alone, together = probe_batches(images, indices), probe_batches(images, indices, workers=2)
    assert len(alone) == 3
    for (pixels, labels), (others, other_labels) in zip(alone, together, strict=True):
        assert torch.equal(pixels, others) and torch.equal(labels, other_labels)
    assert not multiprocessing.active_children()


# --- evaluation


def test_evaluation_keeps_the_order_and_the_last_short_batch() -> None:
    images = digits.load()
    batches = list(
        eval_batches(images.test, None, batch_size=128, size=8, device=CPU, mean=images.mean, std=images.std)
    )
    assert [len(labels) for _, labels in batches] == [128, 128, 128, 116]
    assert torch.equal(torch.cat([labels for _, labels in batches]), torch.from_numpy(images.test.labels))
    assert isinstance(images.test, ArrayImages)
    expected = (torch.from_numpy(images.test.pixels[:128]) / 255 - images.mean[0]) / images.std[0]
    torch.testing.assert_close(batches[0][0], expected, atol=1e-5, rtol=1e-5)


def test_evaluation_takes_the_images_asked_for() -> None:
    images = digits.load()
    indices = np.array([7, 3, 100])
    ((pixels, labels),) = eval_batches(
        images.train, indices, batch_size=8, size=16, device=CPU, mean=images.mean, std=images.std
    )
    assert pixels.shape == (3, 3, 16, 16)
    assert labels.tolist() == images.train.labels[indices].tolist()


def test_evaluation_crops_the_centre_of_files(tmp_path: Path) -> None:
    """A white square of a quarter of the shorter side, in the middle of a wide black image, ends in the middle."""
    root = image_folder(tmp_path)
    wide = np.zeros((64, 160, 3), np.uint8)
    wide[24:40, 72:88] = 255
    Image.fromarray(wide).save(root / "val" / "cat" / "0.png")
    (root / "val" / "cat" / "0.jpg").unlink()
    images = data.load(folder_run(root).data, tmp_path / "cache")
    arguments = {"batch_size": 4, "size": 56, "device": CPU, "mean": (0.0,) * 3, "std": (1.0,) * 3}
    sequential = list(eval_batches(images.test, None, **arguments))  # type: ignore[arg-type]
    picture = sequential[0][0][0, 0]
    assert picture.shape == (56, 56)
    lit = torch.nonzero(picture > 0.5)
    assert lit.amin(dim=0).tolist() == [20, 20] and lit.amax(dim=0).tolist() == [35, 35]  # 64 px tall: no resize


def test_the_subset_is_trained_on_and_nothing_else() -> None:
    config = run(10, data={"profile": {"name": "balanced", "size": 10}}, augment={"jitter_probability": 0.0})
    images = digits.load()
    subset = training_subset(config.data, images)
    pixels = np.zeros((len(images.train), 3, 8, 8), np.uint8)
    pixels[subset.indices] = 255
    train = ArrayImages(pixels, images.train.labels)
    marked = ImageData("digits", "", "", images.class_names, train, train, (0.0,) * 3, (1.0,) * 3)
    (((first, second), _),) = TrainLoader(marked, subset, config, rank=0, world_size=1, device=CPU).epoch(0)
    assert min(first.min(), second.min()) > 0.999
