"""Options of the evaluation. None takes part in a run's identity: asking for more later never trains again."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, model_validator

from trainers.config.data import NATIVE_IMAGE_SIZE, DatasetName
from trainers.config.fields import (
    FloatTuple,
    IntTuple,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    Section,
    ShareTuple,
    as_tuple,
    names_as_tuple,
    outside_identity,
)
from trainers.config.identity import canonical_json, identity

Vote = Literal["weighted", "plain"]
Bank = Literal["full", "train"]


class KNN(Section):
    """k-nearest-neighbour classification on frozen, L2-normalised features (Wu et al. 2018)."""

    #: Neighbours. The first is the headline: its metrics are ``eval/knn/*``, the others' ``eval/knn_k<k>/*``.
    k: IntTuple = (20, 1, 200)
    #: ``weighted`` votes weigh exp(cos / temperature), ``plain`` ones 1. The first is the headline, the other one's
    #: metrics have ``_plain`` or ``_weighted`` in their names.
    vote: Annotated[tuple[Vote, ...], BeforeValidator(names_as_tuple), Field(min_length=1)] = ("weighted",)
    #: DINO and SDSSL use .07, MoCo's CIFAR notebook .1.
    temperature: PositiveFloat = 0.07
    #: ``full`` is the whole balanced training set (ISD, SDCLR); ``train`` the subset that was trained on. The first is
    #: the headline.
    bank: Annotated[tuple[Literal["full", "train"], ...], BeforeValidator(names_as_tuple), Field(min_length=1)] = (
        "full",
    )
    #: The representation, or what the projector makes of it (MoCo's CIFAR notebook); the representation where a method
    #: has no projector, so that its row stands beside the others'.
    features: Literal["backbone", "projection"] = "backbone"
    #: Every block of a vision transformer as well, by the headline's settings: ``eval/knn_layer<n>/*``.
    layers: bool = False
    #: Evaluate also during training, every so many epochs.
    every_epochs: PositiveInt | None = outside_identity(None)


LinearProtocol = Literal[
    "fast", "isd", "moco", "moco_v3_resnet", "moco_v3_vit", "simclr", "byol", "sdssl", "solo_imagenet100", "sdclr"
]


class Linear(Section):
    """A linear classifier on frozen representations.

    ``fast`` computes the features once, of centre crops, and trains on them; the other protocols are the papers' own
    (``trainers/evaluate/protocols.py``), which see new crops in every epoch. An option that is given replaces the
    protocol's own value. The labels of the whole balanced training set are used, and the accuracy of the last epoch is
    reported.
    """

    protocol: LinearProtocol = "fast"
    epochs: PositiveInt | None = None
    batch_size: PositiveInt | None = None
    #: Before the protocol scales it by the batch size. Several are tried, and the one that is best on a tenth of the
    #: training images, held out, is used.
    learning_rate: FloatTuple | None = None
    weight_decay: NonNegativeFloat | None = None
    #: Every block of a vision transformer as well: ``eval/linear_layer<n>/*`` (SDSSL's early exits).
    layers: bool = False


class FewLabels(Section):
    """A linear classifier trained on a part of the labels: ``eval/linear_1pct/*``, ``eval/linear_10pct/*``.

    The same share of each class, rounded up, drawn by ``data.split_seed``.
    """

    shares: ShareTuple = (0.01, 0.1)
    linear: Linear = Linear()


class Geometry(Section):
    """How the representations of the test images lie on the sphere: ``eval/geometry/*``.

    Alignment and uniformity (Wang and Isola 2020), and the effective rank (Roy and Vetterli 2007); where it shows that
    an encoder has collapsed, the result carries a warning.
    """

    #: Images that are looked at, drawn by ``data.split_seed``; all if there are fewer.
    images: PositiveInt = 1000


class Embedding(Section):
    """Test images in the plane, near each other where their representations are: a picture, and no metric.

    Of the network that the paper evaluates. t-SNE (van der Maaten and Hinton 2008), or UMAP (McInnes et al. 2018),
    which needs the package ``umap-learn``.
    """

    method: Literal["tsne", "umap"] = "tsne"
    #: Images that are shown, drawn by ``data.split_seed``; all if there are fewer.
    images: PositiveInt = 1000
    #: About how many neighbours an image has; UMAP's number of neighbours. Less for very few images.
    perplexity: Annotated[float, Field(ge=2)] = 30.0


class Transfer(Section):
    """Evaluation on another data set, with frozen representations: ``eval/transfer_<label>_knn/*`` and ``_linear``."""

    name: DatasetName
    root: str = outside_identity("data")
    #: What the metrics are called; the data set's name unless given.
    label: str = ""
    image_size: PositiveInt | None = None
    #: ``per_class`` reports the mean over the classes as well: ``class_mean`` (Pets, Caltech-101, Flowers).
    metric: Literal["top1", "per_class"] = "top1"
    knn: KNN | None = None
    linear: Linear | None = Linear()

    @property
    def title(self) -> str:
        return self.label or self.name

    @property
    def parts(self) -> tuple[KNN | None, Linear | None]:
        """What is measured on the data set."""
        return self.knn, self.linear

    @property
    def side(self) -> int:
        """Side of the square images that the networks see, in pixels."""
        return self.image_size or NATIVE_IMAGE_SIZE[self.name]


class Evaluate(Section):
    """What is measured, on the balanced test set. Asking for more later never trains again."""

    knn: KNN | None = KNN()
    linear: Linear | None = None
    few_labels: FewLabels | None = None
    geometry: Geometry | None = Geometry()
    embedding: Embedding | None = None
    transfer: Annotated[tuple[Transfer, ...], BeforeValidator(as_tuple)] = ()
    #: Evaluate every network that a method has (student and teacher), or only the one that its paper evaluates.
    networks: Literal["all", "paper"] = "all"
    #: Evaluate the untrained encoder before the first step, so that the report can show what training adds.
    untrained: bool = True
    batch_size: PositiveInt = 512

    @model_validator(mode="after")
    def _distinct(self) -> Evaluate:
        titles = [transfer.title for transfer in self.transfer]
        twice = sorted({title for title in titles if titles.count(title) > 1})
        if twice:
            raise ValueError(f"transfer has {twice[0]!r} twice; give each a label of its own")
        return self

    def layered(self) -> Iterator[str]:
        """Dotted names of the options that ask for every block of a vision transformer."""
        if self.knn is not None and self.knn.layers:
            yield "knn.layers"
        if self.linear is not None and self.linear.layers:
            yield "linear.layers"
        if self.few_labels is not None and self.few_labels.linear.layers:
            yield "few_labels.linear.layers"
        if any(part is not None and part.layers for transfer in self.transfer for part in transfer.parts):
            yield "transfer"

    def protocols(self) -> dict[str, str]:
        """What is asked for: key of each protocol -> digest (12 hex digits) of the settings that decide its numbers.

        A result says in the same way what it holds, so that a finished run is asked only for what is new. A digest
        covers what decides the numbers at the end of a run: not where images lie, nor evaluations on the way.
        """
        return {
            key: hashlib.sha256(canonical_json([self.networks, identity(section)]).encode()).hexdigest()[:12]
            for key, section in self.sections().items()
        }

    def sections(self) -> dict[str, KNN | Linear | FewLabels | Geometry | Embedding | Transfer]:
        """Options of each protocol that is asked for, by its key."""
        names = ("knn", "linear", "few_labels", "geometry", "embedding")
        named = {name: getattr(self, name) for name in names}
        transfers = {f"transfer_{transfer.title}": transfer for transfer in self.transfer}
        return {key: section for key, section in {**named, **transfers}.items() if section is not None}
