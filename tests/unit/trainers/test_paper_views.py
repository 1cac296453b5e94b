"""The views of each paper, whole: pixel by pixel beside torchvision's operations, and how often each operation happens.

The second column of figures is written from the papers and their code, not taken from the views.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as TF

from trainers import augment
from trainers.config import views
from trainers.config.views import View
from trainers.data.archive import Folder
from trainers.data.decoding import RandomCrops, Request
from trainers.data.images import FileImages
from trainers.rng import Stream

FIRST_OF_BATCH, SECOND_OF_BATCH = views.sdssl_batch_views()

#: View, and the probabilities of jitter, grayscale, blur, solarization and flip.
PAPERS: dict[str, tuple[View, tuple[float, float, float, float, float]]] = {
    "moco_v1": (views.MOCO_V1, (1.0, 0.2, 0.0, 0.0, 0.5)),
    "moco_v2": (views.MOCO_V2, (0.8, 0.2, 0.5, 0.0, 0.5)),
    "moco_v3 first": (views.MOCO_V3_FIRST, (0.8, 0.2, 1.0, 0.0, 0.5)),
    "moco_v3 second": (views.MOCO_V3_SECOND, (0.8, 0.2, 0.1, 0.2, 0.5)),
    "simclr": (views.simclr_view(1.0), (0.8, 0.2, 0.5, 0.0, 0.5)),
    "simclr on cifar": (views.simclr_view(0.5), (0.8, 0.2, 0.5, 0.0, 0.5)),
    "byol first": (views.BYOL_FIRST, (0.8, 0.2, 1.0, 0.0, 0.5)),
    "byol second": (views.BYOL_SECOND, (0.8, 0.2, 0.1, 0.2, 0.5)),
    "isd strong": (views.ISD_VIEWS["strong"], (0.8, 0.2, 0.5, 0.0, 0.5)),
    "isd weak": (views.ISD_VIEWS["weak"], (0.0, 0.0, 0.0, 0.0, 0.5)),
    "sdssl first": (FIRST_OF_BATCH, (0.3, 0.2, 1.0, 0.0, 0.5)),
    "sdssl second": (SECOND_OF_BATCH, (0.3, 0.2, 0.1, 0.2, 0.5)),
    "crop and flip": (views.CROP_AND_FLIP, (0.0, 0.0, 0.0, 0.0, 0.5)),
}


def images(count: int, height: int, width: int) -> Tensor:
    """Smooth noise, so that neighbouring pixels have to do with each other as in photographs."""
    generator = torch.Generator().manual_seed(1)
    coarse = torch.rand(count, 3, height // 4, width // 4, generator=generator)
    fine = torch.nn.functional.interpolate(coarse, (height, width), mode="bilinear")
    return (fine * 255).to(torch.uint8)


def reference(image: Tensor, view: View, stream: Stream, size: int) -> Tensor:
    """One view of one image by torchvision, with the numbers that the image's stream holds.

    Args:
        image: (3, H, W), float in [0, 1].
    """
    if view.squash is not None:
        image = TF.resize(image, [view.squash, view.squash], antialias=True)
    box = augment.crop_boxes(view, stream, *image.shape[1:])[0].tolist()
    image = TF.resized_crop(image, *box, [size, size], interpolation=InterpolationMode(view.interpolation))
    return coloured_reference(image.clamp(0, 1), view, stream)


def coloured_reference(image: Tensor, view: View, stream: Stream) -> Tensor:
    flip, jitter, *order = stream.uniform(22, 6)[0]
    *factors, gray, blur, sigma, solarize = stream.uniform(28, 8)[0]
    operations = [TF.adjust_brightness, TF.adjust_contrast, TF.adjust_saturation, TF.adjust_hue]
    if view.grayscale_first and gray < view.grayscale_probability:
        image = TF.rgb_to_grayscale(image, num_output_channels=3)
    if jitter < view.jitter_probability:
        for number in np.argsort(order):
            centre = 0.0 if number == 3 else 1.0
            image = operations[number](image, float(centre + view.jitter[number] * (2 * factors[number] - 1)))
    if not view.grayscale_first and gray < view.grayscale_probability:
        image = TF.rgb_to_grayscale(image, num_output_channels=3)
    if blur < view.blur_probability:
        radius = 6 if view.blur_reach == "sigma" else max(1, image.shape[1] // 10 // 2)
        image = TF.gaussian_blur(image, [2 * radius + 1] * 2, [0.1 + 1.9 * float(sigma)] * 2)
    if solarize < view.solarize_probability:
        image = TF.solarize(image, view.solarize_threshold)
    return TF.horizontal_flip(image) if flip < view.flip_probability else image


def assert_nearly_equal(ours: Tensor, theirs: Tensor) -> None:
    """Equal but for rounding, and for the few pixels that rounding brings to the other side of a threshold."""
    assert ((ours - theirs).abs() > 1e-4).float().mean() < 1e-3


@pytest.mark.parametrize("view", [view for view, _ in PAPERS.values()], ids=PAPERS)
def test_every_view_is_torchvisions(view: View) -> None:
    batch, indices, size = images(24, 40, 56), np.arange(300, 324), 32
    (stream,) = augment.view_streams((view,), seed=1, epoch=2, step=3, indices=indices)
    (result,) = augment.draw_views(batch, (view,), (stream,), size=size, mean=(0.0,) * 3, std=(1.0,) * 3)
    for place, image in enumerate(batch):
        theirs = reference(image.float() / 255, view, stream.rows(np.array([place])), size)
        assert_nearly_equal(result[place], theirs)


@pytest.mark.parametrize("name", ["moco_v3 second", "byol second", "sdssl second", "isd weak"])
def test_views_of_files_are_cropped_by_pil_and_then_the_same(name: str, tmp_path: Path) -> None:
    view, size = PAPERS[name][0], 32
    originals = [Image.fromarray(image.permute(1, 2, 0).numpy()) for image in images(8, 60, 44)]
    for number, image in enumerate(originals):
        image.save(tmp_path / f"{number}.png")
    files = FileImages(Folder(tmp_path), [f"{number}.png" for number in range(8)], np.zeros(8, np.int64))
    request = Request(np.arange(8), epoch=1, step=2)
    (crops,) = RandomCrops(files, (view,), seed=4, size=size)(request)
    (stream,) = augment.view_streams((view,), seed=4, epoch=1, step=2, indices=request.indices)
    (result,) = augment.draw_views_of_crops(
        (torch.from_numpy(crops),), (view,), (stream,), mean=(0.0,) * 3, std=(1.0,) * 3
    )
    for place, image in enumerate(originals):
        own = stream.rows(np.array([place]))
        if view.squash is not None:
            image = TF.resize(image, [view.squash, view.squash])  # noqa: PLW2901 (as a chain of transforms does)
        box = augment.crop_boxes(view, own, image.height, image.width)[0].tolist()
        crop = TF.resized_crop(image, *box, [size, size], interpolation=InterpolationMode(view.interpolation))
        theirs = coloured_reference(TF.to_dtype(TF.to_image(crop), torch.float32, scale=True), view, own)
        assert_nearly_equal(result[place], theirs)


@pytest.mark.parametrize(("view", "probabilities"), PAPERS.values(), ids=PAPERS)
def test_each_operation_happens_as_often_as_the_paper_says(
    view: View, probabilities: tuple[float, float, float, float, float]
) -> None:
    names = ("jitter", "grayscale", "blur", "solarize", "flip")
    nothing = {f"{name}_probability": 0.0 for name in names}
    batch = images(1, 8, 8).expand(2000, 3, 8, 8)
    alone = replace(view, squash=None, crop_area=(1.0, 1.0), crop_ratio=(1.0, 1.0), one_draw=False)
    for name, probability in zip(names, probabilities, strict=True):
        key = f"{name}_probability"
        operation = replace(alone, **{**nothing, key: getattr(view, key)}, blur_sigma=(1.0, 2.0))
        (stream,) = augment.view_streams((operation,), seed=0, epoch=0, step=0, indices=np.arange(2000))
        (result,) = augment.draw_views(batch, (operation,), (stream,), size=8, mean=(0.0,) * 3, std=(1.0,) * 3)
        changed = ((result - batch / 255).abs().amax(dim=(1, 2, 3)) > 1e-4).float().mean()
        assert abs(changed - probability) < 5 * (probability * (1 - probability) / 2000) ** 0.5 + 1e-6, name


def test_what_the_papers_say_of_crops_and_colours() -> None:
    areas = {name: view.crop_area for name, (view, _) in PAPERS.items()}
    fifth = {name for name, area in areas.items() if area == (0.2, 1.0)}
    assert fifth == {"moco_v1", "moco_v2", "isd strong", "isd weak"}
    assert all(area == (0.08, 1.0) for name, area in areas.items() if name not in fifth)
    assert views.MOCO_V1.jitter == (0.4, 0.4, 0.4, 0.4) and views.MOCO_V1.grayscale_first
    assert views.MOCO_V2.jitter == (0.4, 0.4, 0.4, 0.1)
    assert {PAPERS[f"{paper} {place}"][0].jitter for paper in ("moco_v3", "byol", "sdssl")
            for place in ("first", "second")} == {(0.4, 0.4, 0.2, 0.1)}  # fmt: skip
    assert views.simclr_view(1.0).jitter == (0.8, 0.8, 0.8, 0.2)
    assert views.simclr_view(0.5).jitter == (0.4, 0.4, 0.4, 0.1)
    bicubic = {name for name, (view, _) in PAPERS.items() if view.interpolation == "bicubic"}
    assert bicubic == {"simclr", "simclr on cifar", "byol first", "byol second"}
    assert FIRST_OF_BATCH.squash == 256 and FIRST_OF_BATCH.solarize_threshold == pytest.approx(0.5098, abs=1e-4)
