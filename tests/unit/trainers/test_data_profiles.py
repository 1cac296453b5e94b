"""Profiles: the sizes of the published tables, fair pairs, pools without some classes, and the same images for ever."""

import numpy as np
import pytest
from pydantic import ValidationError

from trainers.config import Data
from trainers.data import ArrayImages, DataProblem, ImageData, Subset, digits, training_subset
from trainers.data.pool import select_pool
from trainers.data.profiles import long_tailed_counts, pareto_counts


def pool(*counts: int, test: int = 2) -> ImageData:
    """A data set with so many training images of each class, the classes taking turns; image n has the pixel n."""
    labels = np.array([label for turn in range(max(counts)) for label, count in enumerate(counts) if turn < count])
    pixels = np.arange(len(labels)).astype(np.uint8)[:, None, None, None].repeat(3, 1)
    names = tuple(f"class{number:03}" for number in range(len(counts)))
    test_labels = np.repeat(np.arange(len(counts)), test)
    return ImageData(
        name="cifar10",
        source="the pool",
        digest="0" * 32,
        class_names=names,
        train=ArrayImages(pixels, labels),
        test=ArrayImages(np.zeros((len(test_labels), 3, 1, 1), np.uint8), test_labels),
        mean=(0.5,) * 3,
        std=(0.5,) * 3,
    )


def selected(images: ImageData, **options: object) -> tuple[ImageData, Subset]:
    data = Data.model_validate(options)
    chosen = select_pool(data, images)
    return chosen, training_subset(data, chosen)


def counts(images: ImageData, **options: object) -> list[int]:
    return list(selected(images, **options)[1].class_counts)


LARGE_AND_RARE = {"name": "large_and_rare", "large": 2, "rare": 3, "rare_images": 4}


# --- the published tables


@pytest.mark.parametrize(
    ("imbalance", "total", "smallest", "shots"),
    [
        (10, 19573, 50, (69, 31, 0)),
        (20, 15907, 25, (53, 47, 0)),
        (50, 12608, 10, (41, 41, 18)),
        (100, 10847, 5, (35, 35, 30)),
        (200, 9502, 2, (30, 31, 39)),
    ],
)
def test_long_tailed_cifar100_has_the_published_sizes_and_shots(
    imbalance: int, total: int, smallest: int, shots: tuple[int, ...]
) -> None:
    profile = {"name": "long_tailed", "imbalance": imbalance}
    _, subset = selected(pool(*[500] * 100), profile=profile, groups="shots")
    assert (len(subset), subset.class_counts[-1]) == (total, smallest)
    assert tuple(subset.groups.count(group) for group in ("many", "medium", "few")) == shots


@pytest.mark.parametrize(("imbalance", "total"), [(10, 18388), (50, 12596), (100, 11165)])
def test_cifar10_without_its_validation_images_has_the_published_sizes(imbalance: int, total: int) -> None:
    profile = {"name": "long_tailed", "imbalance": imbalance}
    images, subset = selected(pool(*[5000] * 10), profile=profile, holdout_per_class=500)
    assert (len(images.train), len(images.held_out), len(subset)) == (45000, 5000, total)


def test_sdclrs_cifar100_split_has_its_sizes() -> None:
    long_tailed = counts(pool(*[500] * 100), profile={"name": "long_tailed", "imbalance": 100}, holdout_per_class=50)
    assert (sum(long_tailed), max(long_tailed), min(long_tailed)) == (9754, 450, 4)


@pytest.mark.parametrize(("classes", "per_class", "imbalance", "total"), [
    (10, 5000, 100, 25250), (100, 500, 100, 25250), (10, 5000, 10, 27500), (100, 500, 10, 27500),
])  # fmt: skip
def test_step_profiles_have_the_published_sizes(classes: int, per_class: int, imbalance: int, total: int) -> None:
    _, subset = selected(pool(*[per_class] * classes), profile={"name": "step", "imbalance": imbalance})
    half = classes // 2
    assert len(subset) == total
    assert subset.class_counts == (per_class,) * half + (per_class // imbalance,) * half
    assert subset.groups == ("many",) * half + ("few",) * half


def test_of_an_odd_number_of_classes_the_smaller_half_is_large() -> None:
    assert counts(pool(*[40] * 5), profile={"name": "step", "imbalance": 10}) == [40, 40, 4, 4, 4]


def test_the_pareto_profile_is_near_imagenet_lt() -> None:
    """ImageNet-LT was drawn once: 115,846 images; 385 classes with many, 479 with 20 to 100, 136 with few."""
    ours = pareto_counts(1280, 1000, alpha=6.0, num_min=5)
    assert (max(ours), min(ours), ours == sorted(ours, reverse=True)) == (1280, 5, True)
    assert sum(ours) == 117137
    many, few = sum(count > 100 for count in ours), sum(count < 20 for count in ours)
    assert (many, 1000 - many - few, few) == (388, 432, 180)


def test_pareto_counts_follow_the_distributions_quantiles() -> None:
    """The share of classes with n images or more is what a Pareto distribution of this shape says."""
    alpha, ours = 2.0, np.array(pareto_counts(10_000, 999, alpha=2.0, num_min=1))
    scale = ours[0] / ((1 / 1000) ** (-1 / alpha) - 1)
    for size in (100, 500, 2000):
        assert (ours >= size).mean() == pytest.approx((1 + size / scale) ** -alpha, abs=2e-3)


def test_pareto_takes_its_largest_class_from_the_smallest_of_the_data_set_unless_told() -> None:
    images = pool(*[60] * 4)
    assert counts(images, profile={"name": "pareto"})[0] == 60
    assert counts(images, profile={"name": "pareto", "n_max": 40, "n_min": 9}) == pareto_counts(40, 4, 6.0, 9)


# --- large and rare


def test_large_and_rare_takes_large_classes_whole_and_leaves_the_others_out() -> None:
    images = pool(*range(20, 32))
    chosen, subset = selected(images, profile=LARGE_AND_RARE)
    assert len(chosen.class_names) == 5 and list(chosen.class_names) == sorted(chosen.class_names)
    sizes = {f"class{number:03}": number + 20 for number in range(12)}
    assert subset.class_counts == (*[sizes[name] for name in chosen.class_names[:2]], 4, 4, 4)
    assert subset.groups == ("many", "many", "few", "few", "few")
    assert len(chosen.test) == 10 and np.unique(chosen.test.labels).tolist() == [0, 1, 2, 3, 4]


def test_classes_keep_their_images_when_others_are_left_out() -> None:
    images = pool(*[10] * 8)
    chosen, subset = selected(images, profile=LARGE_AND_RARE)
    assert isinstance(images.train, ArrayImages) and isinstance(chosen.train, ArrayImages)
    numbers = chosen.original_numbers(np.arange(len(chosen.train)))
    assert np.array_equal(images.train.pixels[numbers], chosen.train.pixels)
    for new, name in enumerate(chosen.class_names):
        assert {images.class_names[label] for label in images.train.labels[numbers[chosen.train.labels == new]]} == {
            name
        }
    assert np.bincount(chosen.train.labels[subset.indices]).tolist() == list(subset.class_counts)


def test_the_split_seed_draws_the_classes_and_roles_can_be_drawn_too() -> None:
    images = pool(*[10] * 12)
    drawn = [selected(images, profile=LARGE_AND_RARE, split_seed=seed) for seed in range(6)]
    assert len({chosen.class_names for chosen, _ in drawn}) > 3
    profile = {**LARGE_AND_RARE, "roles": "drawn"}
    roles = [selected(images, profile=profile, split_seed=seed) for seed in range(6)]
    assert [chosen.class_names for chosen, _ in roles] == [chosen.class_names for chosen, _ in drawn]
    assert len({subset.groups for _, subset in roles}) > 3
    for _, subset in roles:
        assert [subset.class_counts[label] for label in subset.order] == [10, 10, 4, 4, 4]


# --- fair pairs


@pytest.mark.parametrize(
    "profile",
    [
        {"name": "long_tailed", "imbalance": 10},
        {"name": "long_tailed", "imbalance": 10, "size": 333},
        {"name": "step", "imbalance": 7},
        {"name": "pareto", "alpha": 2.0},
        LARGE_AND_RARE,
        {**LARGE_AND_RARE, "roles": "drawn"},
    ],
)
@pytest.mark.parametrize("groups", ["profile", "shots"])
def test_a_matched_balanced_subset_has_the_partners_size_classes_and_groups(
    profile: dict[str, object], groups: str
) -> None:
    images = pool(*[130] * 12)
    theirs, unbalanced = selected(images, profile=profile, groups=groups, split_seed=3)
    ours, balanced = selected(images, profile={"name": "balanced", "match": profile}, groups=groups, split_seed=3)
    assert len(balanced) == len(unbalanced)
    assert (ours.class_names, balanced.groups, balanced.order) == (
        theirs.class_names,
        unbalanced.groups,
        unbalanced.order,
    )
    assert max(balanced.class_counts) - min(balanced.class_counts) <= 1


def test_matching_by_profile_is_matching_by_imbalance() -> None:
    images = pool(*[500] * 10)
    _, by_factor = selected(images, profile={"name": "balanced", "match_imbalance": 100}, class_order="shuffled")
    match = {"name": "long_tailed", "imbalance": 100}
    _, by_profile = selected(images, profile={"name": "balanced", "match": match}, class_order="shuffled")
    assert by_factor.digest == by_profile.digest and by_factor.groups == by_profile.groups


def test_full_takes_everything_however_unequal() -> None:
    _, subset = selected(pool(9, 3, 7), profile={"name": "full"})
    assert subset.class_counts == (9, 3, 7) and subset.indices.tolist() == list(range(19))


# --- pools


def test_images_that_are_set_aside_are_in_no_profile_and_no_bank() -> None:
    images = pool(*[30] * 4)
    chosen, subset = selected(images, profile={"name": "full"}, holdout_per_class=5)
    held = set(chosen.held_out.tolist())
    assert np.bincount(images.train.labels[chosen.held_out]).tolist() == [5] * 4
    assert held.isdisjoint(chosen.original_numbers(subset.indices).tolist())
    assert len(chosen.train) == 100 and len(held) == 20
    assert held.isdisjoint(chosen.original_numbers(np.arange(100)).tolist())


def test_the_split_seed_draws_what_is_set_aside() -> None:
    images = pool(*[30] * 4)
    held = [selected(images, holdout_per_class=5, split_seed=seed)[0].held_out.tolist() for seed in (0, 0, 1)]
    assert held[0] == held[1] != held[2]


def test_a_class_list_leaves_out_the_other_classes(tmp_path) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path / "classes.txt"
    path.write_text("# mine\nclass004\n\nclass001\n")
    images = pool(*[10] * 6)
    chosen, subset = selected(images, class_list=str(path), label="mine", profile={"name": "balanced", "size": 6})
    assert chosen.class_names == ("class001", "class004") and subset.class_counts == (3, 3)
    assert set(images.train.labels[chosen.original_numbers(subset.indices)]) == {1, 4}
    assert chosen.test.labels.tolist() == [0, 0, 1, 1]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "class001\ntoad\n",
            "data.class_list={path} names 'toad', which is no class of the pool (1 of 2 are not; its first is "
            "'class000')",
        ),
        ("class001\n\nclass001\n", "{path}:3: 'class001' is in the list twice; remove one"),
        ("# nothing\n", "data.class_list={path} names nothing; write one name a line"),
        (None, "data.class_list={path} cannot be read: No such file or directory"),
        (b"\xff\xfe", "data.class_list={path} is no text (invalid start byte at byte 0)"),
    ],
)
def test_class_lists_that_do_not_fit_are_refused(tmp_path, text, message) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path / "classes.txt"
    if text is not None:
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(DataProblem) as caught:
        selected(pool(5, 5), class_list=str(path), label="mine")
    assert caught.value.message == message.format(path=path)
    assert caught.value.option == "data.class_list"


# --- what is refused


@pytest.mark.parametrize(
    ("options", "option", "message"),
    [
        (
            {"holdout_per_class": 12},
            "data.holdout_per_class",
            "data.holdout_per_class=12 leaves class 'class001' of the pool without a training image (it has 12)",
        ),
        (
            {"profile": {"name": "large_and_rare"}},
            "data.profile.rare",
            "data.profile=large_and_rare draws large=8 and rare=30 classes, and the pool has 3",
        ),
        (
            {"profile": {"name": "large_and_rare", "large": 1, "rare": 2}},
            "data.profile.rare_images",
            "data.profile asks for 100 training images of class 'class001', and the pool has 12; lower "
            "data.profile.rare_images (now 100)",
        ),
        (
            {"profile": {"name": "pareto", "n_max": 16}},
            "data.profile.n_max",
            "data.profile asks for 16 training images of class 'class000', and the pool has 15; lower "
            "data.profile.n_max (now 16)",
        ),
        (
            {"profile": {"name": "pareto", "n_min": 13}},
            "data.profile.n_min",
            "data.profile asks for 13 training images of class 'class001', and the pool has 12; lower "
            "data.profile.n_min (now 13)",
        ),
        (
            {"profile": {"name": "step", "imbalance": 100}},
            "data.profile.imbalance",
            "data.profile leaves class 'class001' of the pool without a training image (its smallest class has 12); "
            "lower data.profile.imbalance (now 100)",
        ),
        (
            {"profile": {"name": "balanced", "match": {"name": "long_tailed", "size": 46}}},
            "data.profile.name",
            "data.profile asks for 16 training images of class 'class001', and the pool has 12; match a smaller "
            "profile",
        ),
    ],
)
def test_what_the_pool_cannot_give_is_refused_with_the_option_to_change(
    options: dict[str, object], option: str, message: str
) -> None:
    with pytest.raises(DataProblem) as caught:
        selected(pool(15, 12, 20), **options)
    assert (caught.value.option, caught.value.message) == (option, message)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "stl10", "unlabelled": True}, "unlabelled=true needs profile=full and no class_list"),
        ({"name": "cifar10", "unlabelled": True, "profile": {"name": "full"}}, "unlabelled=true needs name=stl10"),
        ({"class_list": "x"}, "class_list needs a label"),
        (
            {"holdout_per_class": 1, "profile": {"name": "list_file", "path": "x", "label": "x"}},
            "holdout_per_class=1 would take images from the exact list",
        ),
        (
            {"class_order": "shuffled", "profile": {"name": "large_and_rare"}},
            "class_order=shuffled means nothing to profile large_and_rare, which says itself which classes are large; "
            "use roles: drawn instead",
        ),
        (
            {"profile": {"name": "balanced", "size": 5, "match": {"name": "step"}}},
            "size and match both fix the number of images; keep one of them",
        ),
    ],
)
def test_options_that_contradict_each_other_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError) as caught:
        Data.model_validate(options)
    assert message in str(caught.value)


# --- for ever


GOLDEN = [
    ({"profile": {"name": "full"}}, 500, "0c3fc3e2e8b0514136a044efedc6d6aa"),
    ({"profile": {"name": "balanced", "size": 123}}, 123, "c278962fd1ad197c27dc07549836b98d"),
    ({"profile": {"name": "balanced", "size": 123}, "split_seed": 1}, 123, "6ca75d533572818425af651d4fc1e57e"),
    ({"profile": {"name": "long_tailed", "imbalance": 10}}, 199, "0f7c9a6187bf5c6e83d5bc44a57194a7"),
    (
        {"profile": {"name": "long_tailed", "imbalance": 10}, "class_order": "shuffled", "split_seed": 2},
        199,
        "76d17c4c741d9037008416f51406d697",
    ),
    (
        {"profile": {"name": "long_tailed", "imbalance": 10}, "holdout_per_class": 5},
        178,
        "b5d26e2a854ba210fa2ae85bea14821d",
    ),
    ({"profile": {"name": "step", "imbalance": 10}}, 275, "52d61082e56080fdef70290358860ef6"),
    (
        {"profile": {"name": "step", "imbalance": 10}, "class_order": "shuffled"},
        275,
        "3ffeab4e988286aab82c7d811bdcc2dc",
    ),
    ({"profile": {"name": "pareto", "alpha": 2.0}}, 149, "2c2b84856b389ff3111f93234b108699"),
    ({"profile": LARGE_AND_RARE}, 112, "06c92494996dca03a161d32f43a5572b"),
    ({"profile": {**LARGE_AND_RARE, "roles": "drawn"}, "split_seed": 4}, 112, "c90ccc5b0384f106e58966e1dea06cdc"),
    ({"profile": {"name": "balanced", "match": {"name": "pareto"}}}, 171, "ca4174d6ca5814447682075d8d32b140"),
    (
        {"profile": {"name": "balanced", "match": {**LARGE_AND_RARE, "roles": "drawn"}}},
        112,
        "d8c44a3872561841b68896e6efdc52ad",
    ),
]


@pytest.mark.parametrize(("options", "size", "digest"), GOLDEN)
def test_the_images_of_a_split_never_change(options: dict[str, object], size: int, digest: str) -> None:
    _, subset = selected(pool(*[50] * 10), **options)
    assert (len(subset), subset.digest) == (size, digest)


def test_the_images_of_digits_that_are_set_aside_never_change() -> None:
    chosen, subset = selected(digits.load(), holdout_per_class=10, profile={"name": "step", "imbalance": 10})
    assert (len(subset), subset.digest) == (625, "b76dbf796f3fcac70970b79ac0ce8afb")
    assert chosen.held_out[:8].tolist() == [15, 22, 29, 46, 68, 75, 84, 86]


def test_long_tailed_counts_of_one_class_are_all_of_it() -> None:
    assert long_tailed_counts(7, 1, 100.0) == [7] == pareto_counts(7, 1, 6.0, 5)
