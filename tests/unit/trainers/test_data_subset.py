"""Subsets: exact sizes, fair pairs, and the same images for ever."""

import numpy as np
import pytest

from trainers import data
from trainers.config import Data
from trainers.data import ArrayImages, DataProblem, ImageData, digits, training_subset
from trainers.data.profiles import long_tailed_counts
from trainers.data.record import dataset_record

CIFAR_COUNTS = {
    10: [5000, 3871, 2997, 2320, 1796, 1391, 1077, 834, 645, 500],
    100: [5000, 2997, 1796, 1077, 645, 387, 232, 139, 83, 50],
}
CIFAR_SUMS = {10: 20431, 20: 17023, 50: 13996, 100: 12406, 200: 11203}


def pool(*counts: int, seed: int = 0) -> ImageData:
    """A data set with so many training images of each class, in mixed order."""
    labels = np.repeat(np.arange(len(counts)), counts)
    labels = np.random.default_rng(seed).permutation(labels)
    pixels = np.zeros((len(labels), 3, 1, 1), np.uint8)
    names = tuple(f"class{number}" for number in range(len(counts)))
    train = ArrayImages(pixels, labels)
    return ImageData("cifar10", "the pool", "0" * 32, names, train, train, (0.5,) * 3, (0.5,) * 3)


def asked(**options: object) -> Data:
    return Data.model_validate(options)


LONG_TAILED = {"name": "long_tailed", "imbalance": 100}


@pytest.mark.parametrize("imbalance", CIFAR_SUMS)
def test_long_tailed_cifar10_has_the_published_size(imbalance: int) -> None:
    subset = training_subset(asked(profile={"name": "long_tailed", "imbalance": imbalance}), pool(*[5000] * 10))
    assert len(subset) == sum(subset.class_counts) == CIFAR_SUMS[imbalance]
    assert list(subset.class_counts) == CIFAR_COUNTS.get(imbalance, list(subset.class_counts))


def test_cifar100_with_a_factor_of_100_has_the_published_size() -> None:
    assert len(training_subset(asked(profile=LONG_TAILED), pool(*[500] * 100))) == 10847


def test_indices_select_the_classes_that_are_counted() -> None:
    images = pool(60, 40, 50, 44)
    subset = training_subset(asked(profile={"name": "long_tailed", "imbalance": 8}), images)
    assert np.bincount(images.train.labels[subset.indices]).tolist() == list(subset.class_counts)
    assert list(subset.class_counts) == long_tailed_counts(40, 4, 8)  # the smallest class decides
    assert subset.indices.dtype == np.int64
    assert np.all(np.diff(subset.indices) > 0)  # ascending, nothing twice


def test_balanced_takes_as_many_of_each_class_as_the_smallest_has() -> None:
    assert training_subset(asked(profile={"name": "balanced"}), pool(9, 7, 8)).class_counts == (7, 7, 7)


@pytest.mark.parametrize("size", [30, 31, 33, 39])
def test_balanced_with_a_size_has_exactly_that_many_and_classes_differ_by_one(size: int) -> None:
    subset = training_subset(asked(profile={"name": "balanced", "size": size}), pool(*[20] * 10))
    assert len(subset) == size
    assert set(subset.class_counts) <= {size // 10, size // 10 + 1}


def test_the_remainder_goes_to_classes_that_the_split_seed_chooses() -> None:
    chosen = {
        training_subset(
            asked(profile={"name": "balanced", "size": 33}, split_seed=split_seed), pool(*[20] * 10)
        ).class_counts
        for split_seed in range(10)
    }
    assert len(chosen) > 5


@pytest.mark.parametrize("class_order", ["label", "shuffled"])
@pytest.mark.parametrize("imbalance", [1, 10, 100])
def test_a_matched_pair_has_equal_size_and_equal_groups(class_order: str, imbalance: int) -> None:
    images = pool(*[500] * 10)
    tailed = training_subset(
        asked(profile={"name": "long_tailed", "imbalance": imbalance}, class_order=class_order), images
    )
    balanced = training_subset(
        asked(profile={"name": "balanced", "match_imbalance": imbalance}, class_order=class_order), images
    )
    assert len(tailed) == len(balanced)
    assert (tailed.groups, tailed.order) == (balanced.groups, balanced.order)


@pytest.mark.parametrize("size", [100, 999, 1240])
def test_long_tailed_with_a_size_has_exactly_that_many_in_the_shape_of_the_profile(size: int) -> None:
    counts = training_subset(
        asked(profile={"name": "long_tailed", "imbalance": 10, "size": size}), pool(*[500] * 10)
    ).class_counts
    assert sum(counts) == size
    assert list(counts) == sorted(counts, reverse=True)
    exact = size * 10 ** (-np.arange(10) / 9) / (10 ** (-np.arange(10) / 9)).sum()
    assert np.abs(np.array(counts) - exact).max() < 1


def test_a_shuffled_class_order_gives_the_same_counts_to_other_classes() -> None:
    images = pool(*[500] * 10)
    plain = training_subset(asked(profile=LONG_TAILED), images)
    shuffled = training_subset(asked(profile=LONG_TAILED, class_order="shuffled"), images)
    assert sorted(plain.class_counts) == sorted(shuffled.class_counts)
    assert plain.class_counts != shuffled.class_counts
    assert shuffled.class_counts[shuffled.order[0]] == 500 and shuffled.class_counts[shuffled.order[-1]] == 5


def test_groups_are_thirds_of_the_classes_by_frequency() -> None:
    subset = training_subset(asked(profile=LONG_TAILED, class_order="shuffled"), pool(*[500] * 10))
    by_frequency = [subset.groups[label] for label in np.argsort(-np.array(subset.class_counts))]
    assert by_frequency == ["many"] * 4 + ["medium"] * 3 + ["few"] * 3


def test_a_smaller_subset_lies_inside_a_larger_one() -> None:
    images = pool(*[100] * 5)
    small, large = (
        set(training_subset(asked(profile={"name": "balanced", "size": size}), images).indices) for size in (50, 200)
    )
    assert small < large


def test_the_split_seed_draws_other_images() -> None:
    images = pool(*[100] * 5)
    first, again, other = (
        training_subset(asked(profile={"name": "balanced", "size": 50}, split_seed=split_seed), images)
        for split_seed in (0, 0, 1)
    )
    assert first.digest == again.digest and np.array_equal(first.indices, again.indices)
    assert first.digest != other.digest


GOLDEN = [
    ({"name": "balanced"}, "label", 1240, "54b2f39960bcea686e4d297d57cf2685"),
    ({"name": "balanced", "match_imbalance": 100}, "label", 304, "ee998f840098e252a5d9d8455f12afca"),
    ({"name": "long_tailed", "imbalance": 100}, "label", 304, "2fcd458248145f7c91b468ec93b6e9a4"),
    ({"name": "long_tailed", "imbalance": 100}, "shuffled", 304, "791c182cf274f22b802f50b23b0ea4de"),
    ({"name": "long_tailed", "imbalance": 10, "size": 300}, "label", 300, "fbb3ba722f185e9bf12d4cdf32b2cd6b"),
]


@pytest.mark.parametrize(("profile", "class_order", "size", "digest"), GOLDEN)
def test_the_images_of_digits_runs_never_change(
    profile: dict[str, object], class_order: str, size: int, digest: str
) -> None:
    subset = training_subset(asked(profile=profile, class_order=class_order), digits.load())
    assert (len(subset), subset.digest) == (size, digest)


@pytest.mark.parametrize(
    ("profile", "message"),
    [
        (
            {"name": "balanced", "size": 60},
            "data.profile asks for 20 training images of class 'class1', and the pool has 12; lower data.profile.size "
            "(now 60)",
        ),
        (
            {"name": "long_tailed", "imbalance": 4, "size": 36},
            "data.profile asks for 21 training images of class 'class0', and the pool has 15; lower data.profile.size "
            "(now 36)",
        ),
        (
            {"name": "long_tailed", "imbalance": 100},
            "data.profile leaves class 'class2' of the pool without a training image (its smallest class has 12); "
            "lower data.profile.imbalance (now 100)",
        ),
        (
            {"name": "balanced", "size": 2},
            "data.profile leaves class 'class0' of the pool without a training image (its smallest class has 12); "
            "raise data.profile.size",
        ),
    ],
)
def test_profiles_that_the_pool_cannot_give_are_refused_in_one_sentence(
    profile: dict[str, object], message: str
) -> None:
    with pytest.raises(DataProblem) as caught:
        training_subset(asked(profile=profile), pool(15, 12, 20))
    assert caught.value.message == message


def test_digits_have_a_fixed_balanced_test_set() -> None:
    images = digits.load()
    assert images.digest == "4e620b970812b1346f92a9d7ee1b89a9"
    assert isinstance(images.train, ArrayImages) and isinstance(images.test, ArrayImages)
    assert np.bincount(images.test.labels).tolist() == [50] * 10
    assert len(images.train) == 1797 - 500
    assert images.train.pixels.shape[1:] == (3, 8, 8) and images.train.pixels.max() == 255
    assert np.array_equal(images.train.pixels[:, 0], images.train.pixels[:, 2])
    scaled = images.train.pixels / 255
    assert abs(scaled.mean() - images.mean[0]) < 2e-3 and abs(scaled.std() - images.std[0]) < 2e-3


def test_the_record_tells_which_images_were_used() -> None:
    images, wanted = digits.load(), asked(profile=LONG_TAILED, label="mine")
    subset = training_subset(wanted, images)
    record = dataset_record(wanted, images, subset)
    assert record["name"] == "digits" and record["label"] == "mine"
    assert (record["num_train"], record["num_test"]) == (304, 500)
    assert record["class_counts"] == {str(n): count for n, count in enumerate(subset.class_counts)}
    assert record["groups"]["0"] == "many" and record["groups"]["9"] == "few"
    assert len(record["digest"]) <= 36
    parts = [part.split("-") for part in record["indices"].split(",")]
    listed = [index for part in parts for index in range(int(part[0]), int(part[-1]) + 1)]
    assert listed == subset.indices.tolist()


def test_the_records_digest_changes_with_the_images_and_with_the_selection() -> None:
    wanted = asked(profile=LONG_TAILED)
    digests = set()
    for images, options in [(digits.load(), wanted), (digits.load(), asked(profile=LONG_TAILED, split_seed=1))]:
        digests.add(dataset_record(options, images, training_subset(options, images))["digest"])
    other = pool(*np.bincount(digits.load().train.labels))
    digests.add(dataset_record(wanted, other, training_subset(wanted, other))["digest"])
    assert len(digests) == 3


def test_loading_digits_needs_no_root(tmp_path) -> None:  # type: ignore[no-untyped-def]
    images = data.load(asked(root="/does/not/exist"), tmp_path / "cache")
    assert len(images.train) == 1297
    assert not (tmp_path / "cache").exists()
