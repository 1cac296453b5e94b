"""Linear probes: what they can and cannot learn, each protocol's row, and that nothing else decides their numbers."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from dataclasses import replace
from functools import cached_property
from multiprocessing import get_context
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from trainers.backbones import VisionTransformer
from trainers.config import Data, Linear
from trainers.config.evaluate import LinearProtocol as ProtocolName
from trainers.config.views import CROP_AND_FLIP, PAD_AND_FLIP
from trainers.data import ArrayImages, ImageData, digits, load_named, training_subset
from trainers.evaluate import (
    Accuracy,
    FrozenNetwork,
    Reading,
    evaluate_linear,
    evaluate_linear_by_block,
    features,
    few_labels,
    measure_accuracy,
)
from trainers.evaluate.linear import _Probe, _score
from trainers.evaluate.protocols import LINEAR_PROTOCOLS, linear_protocol
from trainers.schedule import learning_rate

CPU = torch.device("cpu")
DIGITS = digits.load()
ALL = np.arange(len(DIGITS.train))
GROUPS = training_subset(Data(), DIGITS).groups


def frozen(network: nn.Module, images: ImageData = DIGITS, batch_size: int = 512) -> FrozenNetwork:
    reading = Reading(size=8, batch_size=batch_size, mean=images.mean, std=images.std, device=CPU)
    return FrozenNetwork(network, images, reading)


def evaluated(
    network: FrozenNetwork, linear: Linear, indices: np.ndarray = ALL, seed: int = 0, split_seed: int = 0
) -> Accuracy:
    return evaluate_linear(network, linear, indices, GROUPS, seed=seed, split_seed=split_seed)


class Labels(nn.Module):
    """A perfect encoder of digits: it knows every image, and answers with its class, a constant and some noise."""

    def __init__(self, shuffled: bool = False) -> None:
        super().__init__()
        self.classes = {}
        for images in (DIGITS.train, DIGITS.test):
            assert isinstance(images, ArrayImages)
            labels = np.random.default_rng(0).permutation(images.labels) if shuffled else images.labels
            self.classes |= {pixels.tobytes(): label for pixels, label in zip(images.pixels, labels, strict=True)}

    def forward(self, images: Tensor) -> Tensor:
        mean, std = (torch.tensor(value)[:, None, None] for value in (DIGITS.mean, DIGITS.std))
        pixels = ((images * std + mean) * 255).round().to(torch.uint8).numpy()
        classes = torch.tensor([self.classes[image.tobytes()] for image in pixels])
        return F.one_hot(classes, 10) + 3 + 0.05 * images.flatten(1)[:, :10]


def test_classes_that_a_hyperplane_separates_are_told_apart_without_error() -> None:
    result = evaluated(frozen(Labels()), Linear(epochs=5))
    assert result.top1 == result.top5 == 100.0
    assert set(result.per_class.values()) == {100.0}
    assert set(result.groups.values()) == {100.0}


def test_labels_that_mean_nothing_are_guessed() -> None:
    result = evaluated(frozen(Labels(shuffled=True)), Linear(epochs=5))
    assert 3 < result.top1 < 20  # 500 images, 10 classes
    assert result.top5 is not None and 40 < result.top5 < 60


def test_the_fast_protocol_does_what_logistic_regression_does() -> None:
    """Some 96 % of raw digits can be classified right by a linear function of their pixels."""
    assert 95 < evaluated(frozen(nn.Flatten()), Linear()).top1 < 99


def colours() -> ImageData:
    """Images of one of six colours each, noisy: what crops, borders and mirrors leave as they find it."""
    random = np.random.default_rng(0)

    def images(count: int) -> ArrayImages:
        labels = np.arange(count) % 6
        colour = (labels[:, None] + 1 >> np.arange(3) & 1)[:, :, None, None]
        pixels = 60 + 120 * colour + random.integers(0, 60, (count, 3, 8, 8))
        return ArrayImages(pixels.astype(np.uint8), labels)

    return replace(DIGITS, class_names=tuple("abcdef"), train=images(600), test=images(120))


@pytest.mark.parametrize("name", get_args(ProtocolName))
def test_every_protocol_learns(name: ProtocolName) -> None:
    """At a learning rate that suits these features; the papers' belong to their encoders."""
    linear = Linear(protocol=name, epochs=4, batch_size=32, learning_rate=0.3)
    pooled = nn.Sequential(nn.MaxPool2d(8), nn.Flatten())
    result = evaluate_linear(frozen(pooled, colours()), linear, np.arange(600), None, seed=0, split_seed=0)
    assert result.top1 > 80, "six classes"
    assert result.top5 is not None and result.top5 >= result.top1


def test_the_rows_are_all_there_and_say_where_they_come_from() -> None:
    assert set(LINEAR_PROTOCOLS) == set(get_args(ProtocolName))
    for name, protocol in LINEAR_PROTOCOLS.items():
        assert "http" in protocol.source or name == "fast"
        assert protocol.train.learning_rate == protocol.learning_rates[0]


@pytest.mark.parametrize(
    ("name", "batch", "epochs", "rates"),
    [
        # after so many epochs, scaled to the batch
        ("isd", 256, 40, {0: 0.01, 14: 0.01, 15: 0.001, 30: 0.0001}),
        ("moco", 256, 100, {0: 30, 59: 30, 60: 3, 80: 0.3}),
        ("moco_v3_resnet", 1024, 90, {0: 0.4, 45: 0.2, 89: 0.2 * (1 + math.cos(math.pi * 89 / 90))}),
        ("moco_v3_vit", 1024, 90, {0: 12, 45: 6}),
        ("simclr", 4096, 90, {0: 1.6, 45: 0.8}),
        ("byol", 1024, 80, {0: 0.8, 40: 0.4}),
        ("sdssl", 1024, 100, {0: 0.008, 50: 0.004}),
        ("solo_imagenet100", 256, 100, {0: 0.3, 60: 0.03, 80: 0.003}),
        ("sdclr", 128, 30, {0: 30, 10: 3, 20: 0.3}),
    ],
)
def test_learning_rates_are_the_papers(name: ProtocolName, batch: int, epochs: int, rates: dict[int, float]) -> None:
    train = linear_protocol(Linear(protocol=name)).train
    assert (train.batch_size, train.epochs) == (batch, epochs)
    for epoch, rate in rates.items():
        assert learning_rate(train, step=10 * epoch, steps_per_epoch=10) == pytest.approx(rate)


def test_an_option_that_is_given_replaces_the_protocols_own() -> None:
    protocol = linear_protocol(
        Linear(protocol="moco", epochs=10, batch_size=32, learning_rate=(1.0, 2.0), weight_decay=0.5)
    )
    assert protocol.learning_rates == (1.0, 2.0)
    assert (protocol.train.epochs, protocol.train.batch_size, protocol.train.weight_decay) == (10, 32, 0.5)
    assert protocol.train.schedule.milestones == (6, 8)  # type: ignore[union-attr]
    assert linear_protocol(Linear(protocol="isd", weight_decay=0.0)).train.weight_decay == 0.0


def probe(network: FrozenNetwork, linear: Linear, seed: int = 0) -> _Probe:
    return _Probe(network, linear_protocol(linear), GROUPS, seed, 0)


def test_isds_normalisation_makes_unit_features_standard_over_the_training_images() -> None:
    network = frozen(nn.Sequential(nn.Flatten(), nn.Linear(192, 7)))
    raw, _ = network.train
    unit = raw / raw.norm(dim=1, keepdim=True)
    expected = (unit - unit.mean(0)) / torch.sqrt(unit.var(0, unbiased=True) + 1e-5)
    normalised = probe(network, Linear(protocol="isd"))._normalise(raw[:, None])
    torch.testing.assert_close(normalised[:, 0], expected)
    assert torch.equal(probe(network, Linear(protocol="moco"))._normalise(raw[:, None])[:, 0], raw)


@pytest.mark.parametrize("name", ["moco", "simclr", "isd"])
def test_training_is_that_of_torchs_own_parts(name: ProtocolName) -> None:
    """A second implementation on the same batches: nn.Linear, torch.optim.SGD, torch's schedule by hand."""
    network = frozen(nn.Sequential(nn.Flatten(), nn.Linear(192, 12)))
    linear = Linear(protocol=name, epochs=2, batch_size=100)
    tested = probe(network, linear)
    protocol = tested.protocol
    (head,) = tested._train(ALL[:250], [(0, protocol.learning_rates[0])])

    layer = nn.Linear(12, 10)
    start = tested._initial_head(0, 1.0)
    layer.load_state_dict({"weight": start.weight, "bias": start.bias})
    optimizer = torch.optim.SGD(
        layer.parameters(), lr=1.0, momentum=0.9, nesterov=name == "simclr", weight_decay=protocol.train.weight_decay
    )
    for step, (inputs, labels) in enumerate(b for epoch in range(2) for b in tested._batches(ALL[:250], epoch)):
        optimizer.param_groups[0]["lr"] = learning_rate(protocol.train, step=step, steps_per_epoch=3)
        optimizer.zero_grad()
        F.cross_entropy(layer(tested._normalise(inputs)[:, 0]), labels).backward()
        optimizer.step()
    torch.testing.assert_close(head.weight, layer.weight, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(head.bias, layer.bias, rtol=1e-4, atol=1e-5)


def test_classifiers_start_where_the_protocol_says() -> None:
    network = frozen(nn.Flatten())
    zeros, normal, torchs = (
        probe(network, Linear(protocol=name))._initial_head(0, 1.0) for name in ("simclr", "moco", "isd")
    )
    assert not zeros.weight.any() and not zeros.bias.any()
    assert normal.weight.std().item() == pytest.approx(0.01, rel=0.1) and not normal.bias.any()
    assert torchs.weight.abs().max().item() == pytest.approx(1 / math.sqrt(192), rel=0.01) and torchs.bias.all()


def test_the_encoder_gets_no_gradient_and_stays_as_it_is() -> None:
    encoder = nn.Sequential(nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(192, 8))
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    generator_state = torch.get_rng_state()
    evaluated(frozen(encoder), Linear(protocol="moco", epochs=1))
    assert all(torch.equal(value, before[name]) for name, value in encoder.state_dict().items())
    assert all(parameter.grad is None for parameter in encoder.parameters())
    assert encoder.training
    assert torch.equal(torch.get_rng_state(), generator_state)


def test_the_seed_decides_and_nothing_else() -> None:
    network, linear = frozen(nn.Flatten()), Linear(protocol="moco", epochs=1)
    torch.manual_seed(1)
    first = evaluated(network, linear)
    torch.manual_seed(2)
    assert evaluated(network, linear) == first != evaluated(network, linear, seed=1)


# --- several learning rates


class Recorder(_Probe):
    """Keeps which images the classifiers were trained on."""

    @cached_property
    def trained_on(self) -> list[np.ndarray]:
        return []

    def _train(self, indices, wanted):  # type: ignore[no-untyped-def]
        self.trained_on.append(indices)
        return super()._train(indices, wanted)


def test_learning_rates_are_compared_on_a_tenth_that_was_not_trained_on() -> None:
    linear = Linear(learning_rate=(1e-6, 0.03), epochs=3)
    tested = Recorder(frozen(nn.Flatten()), linear_protocol(linear), GROUPS, 0, 0)
    (accuracy,) = tested.evaluate(ALL)
    compared, final = tested.trained_on
    assert len(compared) == len(ALL) - len(ALL) // 10
    assert len(np.unique(compared)) == len(compared)
    assert np.array_equal(final, ALL)
    assert accuracy == evaluated(frozen(nn.Flatten()), Linear(learning_rate=0.03, epochs=3))


def test_a_learning_rate_that_diverges_is_not_chosen() -> None:
    network = frozen(nn.Flatten())
    linear = Linear(protocol="moco", learning_rate=(3e38, 1e-2), epochs=2)
    assert evaluated(network, linear) == evaluated(network, linear.model_copy(update={"learning_rate": (1e-2,)}))


def test_what_has_diverged_scores_less_than_what_is_always_wrong() -> None:
    wrong = _score(torch.tensor([[9.0, 0.0]] * 3), torch.ones(3, dtype=torch.int64))
    diverged = _score(torch.full((3, 2), math.nan), torch.zeros(3, dtype=torch.int64))
    assert diverged < wrong < _score(torch.zeros(3, 2), torch.zeros(3, dtype=torch.int64))


# --- blocks, images, few labels


def vision_transformer() -> FrozenNetwork:
    torch.manual_seed(0)
    return frozen(VisionTransformer(image_size=8, patch_size=4, depth=3, dim=16, heads=2, frozen_patch_projection=True))


@pytest.mark.parametrize("blocks_bytes", [features._BLOCKS_BYTES, 1])
@pytest.mark.parametrize("name", ["fast", "sdssl"])
def test_each_block_has_the_classifier_that_it_would_have_alone(
    name: ProtocolName, blocks_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(features, "_BLOCKS_BYTES", blocks_bytes)
    network, linear = vision_transformer(), Linear(protocol=name, epochs=1, learning_rate=(0.5, 0.05))
    by_block = dict(evaluate_linear_by_block(network, linear, ALL, GROUPS, seed=0, split_seed=0))
    assert list(by_block) == [1, 2, 3]
    assert by_block[3] == evaluated(network, linear)
    assert by_block[1] != by_block[3]


def test_which_images_a_protocol_sees() -> None:
    views = {name: probe(frozen(nn.Flatten()), Linear(protocol=name))._view for name in ("moco", "sdclr")}
    assert views == {"moco": CROP_AND_FLIP, "sdclr": PAD_AND_FLIP}


def test_new_crops_are_seen_in_each_epoch_and_plain_images_in_the_fast_protocol() -> None:
    network = frozen(nn.Flatten())
    crops, plain = probe(network, Linear(protocol="moco")), probe(network, Linear())

    def epochs(tested: _Probe) -> Iterator[tuple[Tensor, Tensor]]:
        for epoch in range(2):
            inputs, labels = zip(*tested._batches(ALL[:100], epoch), strict=True)
            yield torch.cat(inputs)[:, 0], torch.cat(labels)

    for tested, are_equal in ((crops, False), (plain, True)):
        (first, labels), (second, other_labels) = epochs(tested)
        assert labels.tolist() != other_labels.tolist(), "another order"
        assert sorted(labels.tolist()) == sorted(other_labels.tolist()) == sorted(DIGITS.train.labels[:100].tolist())
        assert torch.equal(first.sort(0).values, second.sort(0).values) is are_equal


def test_a_share_of_each_class_is_rounded_up_and_stable_for_ever() -> None:
    labels = DIGITS.train.labels
    counts = np.bincount(labels)
    for share in (0.01, 0.1, 0.5, 1.0):
        chosen = few_labels(labels, share, 0)
        assert np.bincount(labels[chosen]).tolist() == [math.ceil(share * count) for count in counts]
        assert np.array_equal(chosen, np.unique(chosen))
    assert set(few_labels(labels, 0.01, 0)) < set(few_labels(labels, 0.1, 0))
    assert not np.array_equal(few_labels(labels, 0.1, 0), few_labels(labels, 0.1, 1))
    digest = hashlib.sha256(few_labels(labels, 0.1, 0).astype("<i8").tobytes()).hexdigest()[:16]
    assert digest == "cce710ca17446b70"


def test_a_share_is_exact_where_its_product_is_not_and_leaves_out_what_has_no_label() -> None:
    assert 0.07 * 100 > 7
    labels = np.repeat([0, 1, -1], 100)
    assert np.bincount(labels[few_labels(labels, 0.07, 0)]).tolist() == [7, 7]


def test_few_labels_are_worse_than_many_and_better_than_none() -> None:
    network, linear = frozen(nn.Flatten()), Linear(epochs=20)
    few, many = (evaluated(network, linear, few_labels(DIGITS.train.labels, share, 0)).top1 for share in (0.01, 1.0))
    assert 25 < few < many - 5


def test_five_guesses_say_something_of_more_than_five_classes_only() -> None:
    ranked = torch.tensor([[0, 1, 2, 3, 4], [5, 4, 3, 2, 1]])
    six = measure_accuracy(ranked, torch.tensor([4, 0]), "abcdef", None)
    assert (six.top1, six.top5) == (0.0, 50.0)
    assert six.metrics() == {"top1": 0.0, "top5": 50.0}
    five = measure_accuracy(ranked % 5, torch.tensor([4, 0]), "abcde", None)
    assert five.metrics() == {"top1": 50.0}


# --- interruption, processes


class Asked(Exception):
    """A request to stop."""


@pytest.mark.parametrize(("name", "calls"), [("fast", 20), ("moco", 8)])
def test_a_request_to_stop_is_heard_between_steps(name: ProtocolName, calls: int) -> None:
    left = [calls]

    def ask() -> None:
        left[0] -= 1
        if not left[0]:
            raise Asked

    network = frozen(nn.Flatten())
    network = replace(network, reading=replace(network.reading, between_batches=ask))
    with pytest.raises(Asked):
        evaluated(network, Linear(protocol=name, epochs=50))


def test_nothing_depends_on_the_number_of_processes(tmp_path: Path) -> None:
    """In batches of 50 an epoch of 130 views has three batches, so that one of two processes is idle at its end."""
    with get_context("fork").Pool(2) as processes:
        results = processes.starmap(_evaluated_by_rank, [(rank, tmp_path / "store") for rank in range(2)], chunksize=1)
    assert results == [_accuracies()] * 2


def _evaluated_by_rank(rank: int, store: Path) -> list[Accuracy]:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    try:
        return _accuracies()
    finally:
        dist.destroy_process_group()


def _accuracies() -> list[Accuracy]:
    network = vision_transformer()
    options = {"seed": 0, "split_seed": 0}
    linear = Linear(protocol="moco", batch_size=50, epochs=2, learning_rate=(0.1, 1.0))
    blocks = evaluate_linear_by_block(network, linear, ALL[:130], GROUPS, **options)
    return [*(accuracy for _, accuracy in blocks), evaluated(network, Linear(epochs=2), ALL[:200])]


def test_files_of_any_size_are_cropped_and_not_padded(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    for split, count in (("train", 8), ("test", 3)):
        for label in "ab":
            (tmp_path / split / label).mkdir(parents=True)
            for number in range(count):
                height, width = random.integers(10, 30, 2)
                pixels = random.integers(0, 100, (height, width, 3)) + (150 if label == "b" else 0)
                Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / split / label / f"{number}.png")
    images = load_named("image_folder", tmp_path, tmp_path / "cache")
    network = frozen(nn.Sequential(nn.AvgPool2d(8), nn.Flatten()), images)
    linear = Linear(protocol="sdclr", epochs=4, batch_size=5, learning_rate=0.3)
    assert probe(network, linear)._view == CROP_AND_FLIP
    result = evaluate_linear(network, linear, np.arange(16), None, seed=0, split_seed=0)
    assert (result.top1, result.top5) == (100.0, None)
