"""Options of the data: which data set, and which of its images are trained on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field, model_validator

from trainers.config.fields import (
    AreaRange,
    Imbalance,
    Jitter,
    NaturalInt,
    PositiveFloat,
    PositiveInt,
    Probability,
    Section,
    added_later,
    outside_identity,
)


class Full(Section):
    """Every training image there is, however many each class has: how the papers train on ImageNet."""

    name: Literal["full"] = "full"


class LongTailed(Section):
    """Exponential profile (Cui et al. 2019): class i keeps ``int(n_max * imbalance ** (-i / (C - 1)))`` images."""

    name: Literal["long_tailed"] = "long_tailed"
    imbalance: Imbalance = 100.0
    #: Total number of training images; None takes the largest class whole.
    size: PositiveInt | None = None


class StepProfile(Section):
    """Two sizes (LDAM, BBN): the first half of the classes keeps ``n_max`` images, the others ``n_max / imbalance``.

    Of an odd number of classes the smaller half is the large one.
    """

    name: Literal["step"] = "step"
    imbalance: Imbalance = 100.0


class Pareto(Section):
    """The quantiles of a Pareto distribution, the family of ImageNet-LT (Liu et al. 2019).

    With C classes, class i (from 0) has ``q_i = ((i + 1) / (C + 1)) ** (-1 / alpha) - 1`` and keeps
    ``max(n_min, int(n_max * q_i / q_0))`` images. ImageNet-LT was drawn once (115,846 images, at most 1280 of a class);
    with ``n_max: 1280`` this is within 2 % of its size.
    """

    name: Literal["pareto"] = "pareto"
    alpha: PositiveFloat = 6.0
    #: Images of the smallest classes.
    n_min: PositiveInt = 5
    #: Images of the largest class; None takes as many as the smallest class of the data set has.
    n_max: PositiveInt | None = None


class LargeAndRare(Section):
    """ISD's unbalanced protocol: a few classes with all their images, more with a few, the other classes left out.

    Classes are drawn by ``data.split_seed`` and sorted by name. In the authors' ten lists the large ones are always the
    first of the sorted names (``roles: sorted``), all of them animals; ``roles: drawn`` draws them too.
    """

    name: Literal["large_and_rare"] = "large_and_rare"
    large: PositiveInt = 8
    rare: PositiveInt = 30
    #: Images of each rare class.
    rare_images: PositiveInt = 100
    roles: Literal["sorted", "drawn"] = "sorted"


class ListFile(Section):
    """Exactly the images of a list: ISD's D1 … D10 files, or lines ``<path> [<label>]``.

    Paths are compared from the end: what precedes ``<class>/<file>`` may differ. The evaluation sees the classes that
    the list names. The file may move; ``label`` says in the run id which list it is, and a run refuses to go on with
    another content.
    """

    name: Literal["list_file"] = "list_file"
    path: str = outside_identity(...)
    label: Annotated[str, Field(min_length=1)]


#: Profiles that a balanced subset can be matched to.
Unbalanced = LongTailed | StepProfile | Pareto | LargeAndRare | ListFile


class Balanced(Section):
    """The same number of training images of every class; all of them unless a size is given."""

    name: Literal["balanced"] = "balanced"
    #: Total number of training images; the remainder of the division by classes goes to a seeded choice of classes.
    size: PositiveInt | None = None
    #: Take exactly as many images as the exponential profile with this imbalance factor has.
    match_imbalance: Imbalance | None = None
    #: Take exactly as many images, of the same classes, as this profile selects.
    match: Unbalanced | None = added_later(None, neutral=None, discriminator="name")

    @model_validator(mode="after")
    def _one_size(self) -> Balanced:
        given = [name for name in ("size", "match_imbalance", "match") if getattr(self, name) is not None]
        if len(given) > 1:
            raise ValueError(f"{given[0]} and {given[1]} both fix the number of images; keep one of them")
        return self


Profile = Annotated[
    Balanced | Full | LongTailed | StepProfile | Pareto | LargeAndRare | ListFile, Field(discriminator="name")
]

DatasetName = Literal[
    "digits", "cifar10", "cifar100", "stl10", "tiny_imagenet", "imagenet", "imagenet100", "image_folder"
]

NATIVE_IMAGE_SIZE: Mapping[str, int] = {
    "digits": 8,
    "cifar10": 32,
    "cifar100": 32,
    "stl10": 96,
    "tiny_imagenet": 64,
    "imagenet": 224,
    "imagenet100": 224,
    "image_folder": 224,
}


class Data(Section):
    """A labelled image data set and the subset of it that is trained on.

    Labels are used by evaluation only, except by method ``supervised``.
    """

    name: DatasetName = "digits"
    #: Folder (or zip file) that holds the data set. Not part of the identity: a data set may move.
    root: str = outside_identity("data")
    #: Distinguishes data sets that share a name, such as two image folders. Part of the identity.
    label: str = ""
    #: Side of the square that training and evaluation see, in pixels. None is the data set's own (8, 32, 224).
    image_size: PositiveInt | None = None
    profile: Profile = Balanced()
    #: Which class is the most frequent one: in label order, or in an order drawn from ``split_seed``.
    class_order: Literal["label", "shuffled"] = "label"
    #: What the groups of classes in the results are. ``profile``: what the profile makes of them, thirds of the classes
    #: from the most frequent to the rarest (SDCLR) or, where it knows two sizes, the large and the small ones.
    #: ``shots``: more than 100 training images, 20 to 100, fewer than 20 (ImageNet-LT). A balanced subset that is
    #: matched to a profile has that profile's groups.
    groups: Literal["profile", "shots"] = outside_identity("profile")
    #: Draws the subset (and the order of classes); the same for every run seed, so that seeds share one subset.
    split_seed: NaturalInt = 0
    #: Training images of each class that are set aside before the profile selects, drawn by ``split_seed``.
    holdout_per_class: NaturalInt = added_later(0, neutral=0)
    #: STL-10: train on the labelled images alone, or on them and the unlabelled ones.
    unlabelled: bool = added_later(False, neutral=False)
    #: File with the names of the classes to use, one a line; the others are left out. ``label`` must name it.
    class_list: str | None = outside_identity(None)

    @model_validator(mode="after")
    def _sensible(self) -> Data:
        if self.class_list is not None and not self.label:
            raise ValueError("class_list needs a label: paths are no part of a run's id, and the label names the list")
        if self.unlabelled and self.name != "stl10":
            raise ValueError(f"unlabelled=true needs name=stl10; {self.name} has no unlabelled images")
        if self.unlabelled and (not isinstance(self.profile, Full) or self.class_list is not None):
            raise ValueError(
                "unlabelled=true needs profile=full and no class_list: nothing can be selected by classes that are "
                f"not known (profile is {self.profile.name})"
            )
        unbalanced = self.partner
        if self.holdout_per_class and isinstance(unbalanced, ListFile):
            raise ValueError(
                f"holdout_per_class={self.holdout_per_class} would take images from the exact list of profile "
                "list_file; leave it at 0"
            )
        if self.class_order != "label" and isinstance(unbalanced, LargeAndRare | ListFile):
            remedy = "roles: drawn instead" if isinstance(unbalanced, LargeAndRare) else "label"
            raise ValueError(
                f"class_order={self.class_order} means nothing to profile {unbalanced.name}, which says itself which "
                f"classes are large; use {remedy}"
            )
        return self

    @property
    def partner(self) -> Unbalanced | None:
        """The unbalanced profile, or the one that a balanced subset is matched to; None if there is neither."""
        match self.profile:
            case Balanced(match_imbalance=float(imbalance)):
                return LongTailed(imbalance=imbalance)
            case Balanced(match=matched):
                return matched
            case Full():
                return None
            case unbalanced:
                return unbalanced

    @property
    def side(self) -> int:
        """Side of the square images that the networks see, in pixels."""
        return self.image_size or NATIVE_IMAGE_SIZE[self.name]


class ViewOverrides(Section):
    """Overrides of the views of a method. None keeps what the method's paper uses."""

    crop_area: AreaRange | None = None
    jitter: Jitter | None = None
    jitter_probability: Probability | None = None
    grayscale_probability: Probability | None = None
    blur_probability: Probability | None = None
    solarize_probability: Probability | None = None
    flip_probability: Probability | None = None
    interpolation: Literal["bilinear", "bicubic"] | None = added_later(None, neutral=None)
    grayscale_first: bool | None = added_later(None, neutral=None)

    @model_validator(mode="after")
    def _ordered(self) -> ViewOverrides:
        if self.crop_area is not None and not (self.crop_area[0] <= self.crop_area[1] <= 1):
            raise ValueError(
                f"crop_area={list(self.crop_area)} must be [smallest, largest] share of the image, at most 1"
            )
        return self


class Augment(ViewOverrides):
    """Overrides of both views at once; ``second`` of the second one alone, on top."""

    second: ViewOverrides | None = added_later(None, neutral=None)
    #: Normalise images by the mean and deviation of each channel; None does what the method's paper does.
    normalise: bool | None = added_later(None, neutral=None)
