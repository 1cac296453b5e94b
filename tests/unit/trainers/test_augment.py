"""Batched augmentation computes what torchvision computes image by image."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor
from torchvision.transforms import InterpolationMode, RandomResizedCrop
from torchvision.transforms.v2 import functional as TF

from trainers import augment, views
from trainers.config.views import View
from trainers.rng import Stream

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)
PLAIN = View(crop_area=(1.0, 1.0), crop_ratio=(1.0, 1.0), flip_probability=0.0)
"""A view that changes nothing of a square image."""


def images(count: int, height: int = 24, width: int = 24, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 3, height, width), dtype=torch.uint8, generator=generator)


def draw(batch: Tensor, view: View, size: int = 24, *, seed: int = 0, indices: list[int] | None = None) -> Tensor:
    """The first view of a batch, without normalisation."""
    numbers = np.arange(len(batch)) if indices is None else np.array(indices)
    neutral = {"mean": (0.0,) * 3, "std": (1.0,) * 3}
    first, _ = augment.draw_views(batch, (view, view), seed=seed, epoch=0, indices=numbers, size=size, **neutral)
    return first


def stream(count: int, *, seed: int = 0, view: int = 0) -> Stream:
    return Stream.of(seed, 0, view, np.arange(count))


# --- geometry


@pytest.mark.parametrize(("height", "width", "size"), [(24, 24, 24), (24, 24, 10), (20, 30, 32), (40, 16, 8)])
def test_crops_are_torchvisions_antialiased_crops(height: int, width: int, size: int) -> None:
    batch, view = images(12, height, width), View(crop_area=(0.1, 1.0), flip_probability=0.5)
    result = draw(batch, view, size)
    boxes = augment.crop_boxes(view, stream(12), height, width)
    mirrored = augment.flips(view, stream(12))
    assert 0 < mirrored.sum() < 12
    for image, box, mirror, ours in zip(batch, boxes.tolist(), mirrored, result, strict=True):
        theirs = TF.resized_crop(
            image.float() / 255, *box, [size, size], interpolation=InterpolationMode.BILINEAR, antialias=True
        )
        theirs = TF.horizontal_flip(theirs) if mirror else theirs
        torch.testing.assert_close(ours, theirs, atol=2e-5, rtol=0)


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


def test_blur_works_on_images_smaller_than_its_kernel() -> None:
    flat = torch.full((2, 3, 4, 4), 51, dtype=torch.uint8)
    torch.testing.assert_close(draw(flat, replace(PLAIN, blur_probability=1.0), 4), torch.full((2, 3, 4, 4), 0.2))


def test_solarize_is_torchvisions() -> None:
    batch = images(4)
    expected = TF.solarize(batch.float() / 255, 0.5)
    torch.testing.assert_close(draw(batch, replace(PLAIN, solarize_probability=1.0)), expected, atol=1e-6, rtol=0)


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
    first, second = augment.draw_views(
        batch, (PLAIN, PLAIN), seed=0, epoch=0, indices=np.arange(3), size=24, mean=MEAN, std=STD
    )
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


@pytest.mark.parametrize("view", [views.MOCO_V2, views.MOCO_V3_FIRST, views.MOCO_V3_SECOND, views.ISD_WEAK])
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
            batch, pair, seed=seed, epoch=epoch, indices=np.arange(4), size=24, mean=MEAN, std=STD
        )
    ]
    for number, one in enumerate(results):
        assert all(not torch.equal(one, other) for other in results[:number])


def test_values_stay_in_range_before_normalisation() -> None:
    result = draw(images(64), views.MOCO_V3_SECOND)
    assert result.min() >= -1e-5 and result.max() <= 1 + 1e-5


def test_crops_made_elsewhere_get_the_same_colours() -> None:
    batch, pair = images(16), (views.MOCO_V3_FIRST, views.MOCO_V3_SECOND)
    arguments = {"seed": 4, "epoch": 2, "indices": np.arange(50, 66), "mean": MEAN, "std": STD}
    square = tuple(replace(view, crop_area=(1.0, 1.0), crop_ratio=(1.0, 1.0), flip_probability=0.0) for view in pair)
    expected = augment.draw_views(batch, square, size=24, **arguments)  # type: ignore[arg-type]
    result = augment.draw_views_of_crops((batch, batch), pair, **arguments)  # type: ignore[arg-type]
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
    weights = augment._resize_matrices(start, length, torch.zeros(3), 32, 16)
    assert weights.min() >= 0 and math.isclose(weights.sum().item(), 3 * 16, rel_tol=1e-5)
    assert torch.equal(weights[2].argmax(dim=1), torch.full((16,), 31))
