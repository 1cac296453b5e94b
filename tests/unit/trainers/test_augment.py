"""Batched augmentation computes what torchvision computes image by image."""

import math
from dataclasses import replace
from typing import Literal

import numpy as np
import pytest
import torch
from torch import Tensor
from torchvision.transforms import InterpolationMode, RandomResizedCrop
from torchvision.transforms.v2 import functional as TF

from trainers import augment
from trainers.augment import geometry
from trainers.config import views
from trainers.config.views import View
from trainers.rng import Stream

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)
PLAIN = View(crop_area=(1.0, 1.0), crop_ratio=(1.0, 1.0), flip_probability=0.0)
"""A view that changes nothing of a square image."""


def images(count: int, height: int = 24, width: int = 24, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 3, height, width), dtype=torch.uint8, generator=generator)


def streams_of(pair: tuple[View, ...], indices: np.ndarray, *, seed: int = 0, epoch: int = 0) -> tuple[Stream, ...]:
    return augment.view_streams(pair, seed=seed, epoch=epoch, step=0, indices=indices)


def draw(batch: Tensor, view: View, size: int = 24, *, seed: int = 0, indices: list[int] | None = None) -> Tensor:
    """One view of a batch, without normalisation."""
    numbers = np.arange(len(batch)) if indices is None else np.array(indices)
    streams = streams_of((view,), numbers, seed=seed)
    (result,) = augment.draw_views(batch, (view,), streams, size=size, mean=(0.0,) * 3, std=(1.0,) * 3)
    return result


def stream(count: int, *, seed: int = 0, view: int = 0) -> Stream:
    return Stream.of(seed, 0, view, np.arange(count))


# --- geometry


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize(("height", "width", "size"), [(24, 24, 24), (24, 24, 10), (20, 30, 32), (40, 16, 8)])
def test_crops_are_torchvisions_antialiased_crops(
    height: int, width: int, size: int, interpolation: Literal["bilinear", "bicubic"]
) -> None:
    batch = images(12, height, width)
    view = View(crop_area=(0.1, 1.0), flip_probability=0.5, interpolation=interpolation)
    result = draw(batch, view, size)
    boxes = augment.crop_boxes(view, stream(12), height, width)
    mirrored = augment.flips(view, stream(12))
    assert 0 < mirrored.sum() < 12
    for image, box, mirror, ours in zip(batch, boxes.tolist(), mirrored, result, strict=True):
        theirs = TF.resized_crop(
            image.float() / 255, *box, [size, size], interpolation=InterpolationMode(interpolation), antialias=True
        ).clamp(0, 1)
        theirs = TF.horizontal_flip(theirs) if mirror else theirs
        torch.testing.assert_close(ours, theirs, atol=2e-5, rtol=0)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_squashed_images_are_resized_to_a_square_before_the_crop(
    interpolation: Literal["bilinear", "bicubic"],
) -> None:
    batch = images(6, 20, 30)
    view = View(squash=40, crop_area=(0.1, 1.0), flip_probability=0.0, interpolation=interpolation)
    boxes = augment.crop_boxes(view, stream(6), 20, 30)
    assert boxes.tolist() == augment.crop_boxes(replace(view, squash=None), stream(6), 40, 40).tolist()
    for image, box, ours in zip(batch, boxes.tolist(), draw(batch, view, 16), strict=True):
        square = TF.resize(image.float() / 255, [40, 40], antialias=True)
        theirs = TF.resized_crop(square, *box, [16, 16], interpolation=InterpolationMode(interpolation))
        torch.testing.assert_close(ours, theirs.clamp(0, 1), atol=2e-5, rtol=0)


def test_boxes_never_change() -> None:
    first = augment.crop_boxes(views.MOCO_V2, stream(4), 32, 32)
    assert first.tolist() == [[2, 2, 23, 29], [0, 2, 30, 28], [14, 16, 14, 16], [7, 12, 18, 18]]
    second = augment.crop_boxes(views.MOCO_V3_FIRST, stream(3, view=1), 375, 500)
    assert second.tolist() == [[69, 105, 197, 196], [99, 6, 188, 160], [136, 142, 201, 170]]


def test_boxes_lie_inside_and_have_the_area_and_ratio_asked_for() -> None:
    view = View(crop_area=(0.2, 1.0))
    top, left, height, width = augment.crop_boxes(view, stream(5000), 100, 80).T
    assert top.min() >= 0 and left.min() >= 0 and (top + height).max() <= 100 and (left + width).max() <= 80
    ratio, area = width / height, width * height / 8000
    assert ratio.min() > 0.73 and ratio.max() < 1.37
    assert area.min() > 0.19 and area.max() <= 1.0


def test_boxes_are_distributed_as_torchvisions() -> None:
    view = views.MOCO_V2
    ours = augment.crop_boxes(view, stream(3000), 32, 32)
    torch.manual_seed(0)
    image = torch.zeros(3, 32, 32)
    draws = [RandomResizedCrop.get_params(image, view.crop_area, view.crop_ratio) for _ in range(3000)]
    theirs = np.array(draws)
    # Standard errors of both means are below 0.17 pixels, of both deviations below 0.12.
    assert np.abs(ours.mean(axis=0) - theirs.mean(axis=0)).max() < 0.8
    assert np.abs(ours.std(axis=0) - theirs.std(axis=0)).max() < 0.6


def test_images_that_no_box_fits_get_the_largest_centred_one() -> None:
    whole = View(crop_area=(1.0, 1.0))  # every try has the area of the image, so only its own ratio could fit
    assert augment.crop_boxes(whole, stream(3), 40, 100).tolist() == [[0, 23, 40, 53]] * 3
    assert augment.crop_boxes(whole, stream(3), 100, 40).tolist() == [[23, 0, 53, 40]] * 3


def test_images_of_different_sizes_get_the_boxes_they_would_get_alone() -> None:
    heights, widths = np.array([30, 300, 64]), np.array([50, 200, 64])
    together = augment.crop_boxes(views.MOCO_V2, stream(3), heights, widths)
    for index in range(3):
        one = Stream.of(0, 0, 0, np.array([index]))
        alone = augment.crop_boxes(views.MOCO_V2, one, int(heights[index]), int(widths[index]))
        assert together[index].tolist() == alone[0].tolist()


# --- colour


def jitter_only(place: int, amount: float) -> View:
    jitter = tuple(amount if number == place else 0.0 for number in range(4))
    return replace(PLAIN, jitter=jitter, jitter_probability=1.0)


def factors(count: int, low: float, high: float, place: int) -> list[float]:
    return [float(low + (high - low) * value) for value in stream(count).uniform(28 + place, 1)[:, 0]]


@pytest.mark.parametrize(
    ("place", "amount", "low", "high", "reference"),
    [
        (0, 0.4, 0.6, 1.4, TF.adjust_brightness),
        (1, 0.4, 0.6, 1.4, TF.adjust_contrast),
        (2, 0.4, 0.6, 1.4, TF.adjust_saturation),
        (2, 2.0, 0.0, 3.0, TF.adjust_saturation),
        (3, 0.1, -0.1, 0.1, TF.adjust_hue),
        (3, 0.5, -0.5, 0.5, TF.adjust_hue),
    ],
)
def test_each_jitter_is_torchvisions(place, amount, low, high, reference) -> None:  # type: ignore[no-untyped-def]
    batch = images(16)
    batch[0, 1:] = batch[0, :1]  # a gray image has no hue
    batch[1] = 0
    batch[2, :2] = 255
    result = draw(batch, jitter_only(place, amount))
    for image, factor, ours in zip(batch, factors(16, low, high, place), result, strict=True):
        torch.testing.assert_close(ours, reference(image.float() / 255, factor), atol=1e-5, rtol=0)


def test_the_order_of_jitter_is_drawn_for_each_image() -> None:
    view = replace(PLAIN, jitter=(0.4, 0.4, 0.4, 0.1), jitter_probability=1.0)
    batch = images(40)
    result = draw(batch, view)
    operations = (TF.adjust_brightness, TF.adjust_contrast, TF.adjust_saturation, TF.adjust_hue)
    uniform = stream(40).uniform(24, 8)
    orders = np.argsort(uniform[:, :4], axis=1)
    assert len({tuple(order) for order in orders.tolist()}) > 12
    for image, order, numbers, ours in zip(batch, orders, uniform[:, 4:], result, strict=True):
        theirs = image.float() / 255
        for operation in order:
            strength = 0.1 if operation == 3 else 0.4
            centre = 0.0 if operation == 3 else 1.0
            theirs = operations[operation](theirs, float(centre + strength * (2 * numbers[operation] - 1)))
        torch.testing.assert_close(ours, theirs, atol=3e-5, rtol=0)


def test_grayscale_may_come_before_the_jitter() -> None:
    """The order shows where contrast is cut off at 0 and 1, which happens to single channels or to gray values."""
    view = replace(PLAIN, jitter=(0.0, 0.9, 0.0, 0.0), jitter_probability=1.0, grayscale_probability=1.0)
    batch = images(8)
    first, last = draw(batch, replace(view, grayscale_first=True)), draw(batch, view)
    for image, number, gray_first, gray_last in zip(batch, stream(8).uniform(29, 1)[:, 0], first, last, strict=True):
        factor = float(0.1 + 1.8 * number)
        gray = TF.rgb_to_grayscale(image.float() / 255, num_output_channels=3)
        torch.testing.assert_close(gray_first, TF.adjust_contrast(gray, factor), atol=1e-5, rtol=0)
        contrasted = TF.adjust_contrast(image.float() / 255, factor)
        expected = TF.rgb_to_grayscale(contrasted, num_output_channels=3)
        torch.testing.assert_close(gray_last, expected, atol=1e-5, rtol=0)
    assert not torch.allclose(first, last, atol=1e-3)


def test_grayscale_is_torchvisions() -> None:
    batch = images(4)
    expected = TF.rgb_to_grayscale(batch.float() / 255, num_output_channels=3)
    torch.testing.assert_close(draw(batch, replace(PLAIN, grayscale_probability=1.0)), expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize(("height", "width"), [(24, 24), (8, 8)])
def test_blur_is_torchvisions(height: int, width: int) -> None:
    batch = images(6, height, width)
    result = draw(batch, replace(PLAIN, blur_probability=1.0), height)
    for image, value, ours in zip(batch, stream(6).uniform(34, 1)[:, 0], result, strict=True):
        sigma = 0.1 + 1.9 * float(value)
        theirs = TF.gaussian_blur(image.float() / 255, kernel_size=[13, 13], sigma=[sigma, sigma])
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("size", "kernel"), [(8, 3), (32, 3), (64, 7), (224, 23)])
def test_the_blurs_kernel_may_be_a_tenth_of_the_view(size: int, kernel: int) -> None:
    batch = images(2, size, size)
    result = draw(batch, replace(PLAIN, blur_probability=1.0, blur_reach="tenth"), size)
    for image, value, ours in zip(batch, stream(2).uniform(34, 1)[:, 0], result, strict=True):
        sigma = 0.1 + 1.9 * float(value)
        theirs = TF.gaussian_blur(image.float() / 255, kernel_size=[kernel, kernel], sigma=[sigma, sigma])
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)


def test_blur_works_on_images_smaller_than_its_kernel() -> None:
    flat = torch.full((2, 3, 4, 4), 51, dtype=torch.uint8)
    torch.testing.assert_close(draw(flat, replace(PLAIN, blur_probability=1.0), 4), torch.full((2, 3, 4, 4), 0.2))


@pytest.mark.parametrize("threshold", [0.5, 130 / 255])
def test_solarize_is_torchvisions(threshold: float) -> None:
    batch = images(4)
    view = replace(PLAIN, solarize_probability=1.0, solarize_threshold=threshold)
    # Values just beside the threshold may be on either side of it; those of the images are 1/255 apart.
    expected = TF.solarize(batch.float() / 255, threshold - 1e-4)
    torch.testing.assert_close(draw(batch, view), expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("name", "change"),
    [("jitter_probability", {"jitter": (0.8, 0.0, 0.0, 0.0)}), ("grayscale_probability", {}),
     ("blur_probability", {"blur_sigma": (1.0, 2.0)}), ("solarize_probability", {}), ("flip_probability", {})],
)  # fmt: skip
def test_an_operation_happens_as_often_as_its_probability_says(name: str, change: dict[str, object]) -> None:
    batch = images(1, 8, 8).expand(2000, 3, 8, 8)
    result = draw(batch, replace(PLAIN, **{name: 0.3}, **change), 8)
    changed = (result - batch / 255).abs().amax(dim=(1, 2, 3)) > 1e-4
    assert 0.25 < changed.float().mean() < 0.35  # 5 standard deviations


# --- the whole


def test_a_view_that_changes_nothing_returns_the_image_normalised() -> None:
    batch = images(3)
    streams = streams_of((PLAIN, PLAIN), np.arange(3))
    first, second = augment.draw_views(batch, (PLAIN, PLAIN), streams, size=24, mean=MEAN, std=STD)
    expected = TF.normalize(batch.float() / 255, list(MEAN), list(STD))
    torch.testing.assert_close(first, expected, atol=1e-5, rtol=1e-5)
    assert torch.equal(first, second)
    assert first.is_contiguous() and first.dtype == torch.float32


def test_float_and_uint8_images_give_the_same_views() -> None:
    batch = images(8)
    torch.testing.assert_close(draw(batch / 255, views.MOCO_V3_SECOND), draw(batch, views.MOCO_V3_SECOND))


def test_the_batch_is_left_as_it_was() -> None:
    batch = images(8).float() / 255
    before = batch.clone()
    draw(batch, views.MOCO_V3_FIRST)
    assert torch.equal(batch, before)


@pytest.mark.parametrize(
    "view",
    [views.MOCO_V2, views.MOCO_V3_FIRST, views.MOCO_V3_SECOND, views.CROP_AND_FLIP, views.MOCO_V1, views.BYOL_SECOND],
)
def test_an_images_view_does_not_depend_on_the_rest_of_the_batch(view: View) -> None:
    batch = images(32)
    whole = draw(batch, view)
    part = draw(batch[[20, 3, 9]], view, indices=[20, 3, 9])
    torch.testing.assert_close(part, whole[[20, 3, 9]], atol=1e-6, rtol=0)


def test_the_two_views_epochs_and_seeds_differ() -> None:
    batch, pair = images(4), (views.MOCO_V2, views.MOCO_V2)
    results = [
        view
        for seed, epoch in [(0, 0), (0, 1), (1, 0)]
        for view in augment.draw_views(
            batch, pair, streams_of(pair, np.arange(4), seed=seed, epoch=epoch), size=24, mean=MEAN, std=STD
        )
    ]
    for number, one in enumerate(results):
        assert all(not torch.equal(one, other) for other in results[:number])


def test_values_stay_in_range_before_normalisation() -> None:
    result = draw(images(64), views.MOCO_V3_SECOND)
    assert result.min() >= -1e-5 and result.max() <= 1 + 1e-5


def test_crops_made_elsewhere_get_the_same_colours() -> None:
    batch, pair = images(16), (views.MOCO_V3_FIRST, views.MOCO_V3_SECOND)
    streams = streams_of(pair, np.arange(50, 66), seed=4, epoch=2)
    square = tuple(replace(view, crop_area=(1.0, 1.0), crop_ratio=(1.0, 1.0), flip_probability=0.0) for view in pair)
    expected = augment.draw_views(batch, square, streams, size=24, mean=MEAN, std=STD)
    result = augment.draw_views_of_crops((batch, batch), pair, streams, mean=MEAN, std=STD)
    for ours, theirs in zip(result, expected, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)


def test_evaluation_resizes_only_what_has_another_size() -> None:
    batch = images(3)
    same = augment.resize_and_normalise(batch, 24, MEAN, STD)
    torch.testing.assert_close(same, TF.normalize(batch / 255, list(MEAN), list(STD)))
    smaller = augment.resize_and_normalise(batch, 10, MEAN, STD)
    expected = TF.normalize(TF.resize(batch / 255, [10, 10], antialias=True), list(MEAN), list(STD))
    torch.testing.assert_close(smaller, expected, atol=1e-4, rtol=0)


def test_interpolation_weights_are_positive_and_sum_to_one() -> None:
    start, length = torch.tensor([0.0, 3.0, 31.0]), torch.tensor([32.0, 7.0, 1.0])
    weights = geometry._interpolation(start, length, torch.zeros(3), 32, 16, "bilinear")
    assert weights.min() >= 0 and math.isclose(weights.sum().item(), 3 * 16, rel_tol=1e-5)
    assert torch.equal(weights[2].argmax(dim=1), torch.full((16,), 31))


# --- one draw for a whole batch

TOGETHER = replace(views.MOCO_V3_SECOND, one_draw=True, blur_probability=0.5, solarize_probability=0.5)


def together(batch: Tensor, *, step: int = 0, epoch: int = 0, seed: int = 0) -> Tensor:
    streams = augment.view_streams((TOGETHER,), seed=seed, epoch=epoch, step=step, indices=np.arange(len(batch)))
    (result,) = augment.draw_views(batch, (TOGETHER,), streams, size=24, mean=MEAN, std=STD)
    return result


def test_one_draw_serves_every_image_of_the_batch() -> None:
    batch = images(1).expand(9, 3, 24, 24)
    alike = [together(batch, step=step) for step in range(20)]
    assert all(torch.equal(result, result[:1].expand_as(result)) for result in alike)
    assert not torch.equal(draw(batch, replace(TOGETHER, one_draw=False))[0], draw(batch, TOGETHER)[1])


def test_one_draw_is_another_one_in_each_step_epoch_and_run() -> None:
    batch = images(2)
    results = [together(batch, step=step, epoch=epoch, seed=seed) for step, epoch, seed in
               [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1)]]  # fmt: skip
    for number, one in enumerate(results):
        assert all(not torch.equal(one, other) for other in results[:number])


def test_one_draw_depends_neither_on_the_images_nor_on_how_many_a_process_has() -> None:
    few, many = (
        augment.view_streams((TOGETHER,), seed=0, epoch=2, step=3, indices=indices)[0].uniform(0, 36)
        for indices in (np.array([40, 7]), np.arange(100, 108))
    )
    assert np.array_equal(many, np.broadcast_to(few[0], many.shape))


# --- what runs have computed ever since

GOLDEN = {
    "moco_v2": (views.MOCO_V2, [0.65593, 0.4931, 0.5365, 0.55547], [0.71665, 0.78628, 0.87996, 0.86925]),
    "moco_v3_first": (views.MOCO_V3_FIRST, [0.65944, 0.49111, 0.54102, 0.54195], [0.73881, 0.56969, 0.73458, 0.49536]),
    "moco_v3_second": (views.MOCO_V3_SECOND, [0.66008, 0.48946, 0.541, 0.54076], [0.90537, 0.71228, 0.7509, 0.63057]),
    "weak": (views.ISD_VIEWS["weak"], [0.49578, 0.47734, 0.49332, 0.51067], [0.68411, 0.73413, 0.70692, 0.81533]),
}


@pytest.mark.parametrize(("view", "means", "pixels"), GOLDEN.values(), ids=GOLDEN)
def test_views_never_change(view: View, means: list[float], pixels: list[float]) -> None:
    result = draw(images(4), view)
    assert result.mean(dim=(1, 2, 3)).tolist() == pytest.approx(means, abs=2e-5)
    assert result[:, 1, 5, 17].tolist() == pytest.approx(pixels, abs=2e-5)
