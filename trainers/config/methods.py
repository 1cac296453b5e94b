"""Options of the methods: one class each, which is all that the rest of the code needs to know of a method.

To add a method, write its class here, name the class in :data:`Method`, and put its networks and loss into one file of
:mod:`trainers.methods`, which ``implementation`` names. The class says what the method's options are, which views it
trains on, and which settings of a run cannot work with it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

from pydantic import Field, model_validator

from trainers.config import views
from trainers.config.backbones import Backbone, ViT
from trainers.config.data import Data
from trainers.config.fields import (
    Inconsistent,
    Momentum,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    Section,
    added_later,
)
from trainers.config.train import Train
from trainers.config.views import View


class Others(NamedTuple):
    """The sections of a run that a method may not go together with."""

    data: Data
    backbone: Backbone
    train: Train


class MethodOptions(Section, ABC):
    """What every method says about itself.

    Attributes:
        implementation: module and class of the networks and the loss.
        normalises_images: whether images are normalised by the mean and deviation of each channel, as all papers but
            SimCLR's do.
    """

    implementation: ClassVar[str]
    normalises_images: ClassVar[bool] = True

    @abstractmethod
    def views(self) -> tuple[View, ...]:
        """The views of an image that the method trains on, as its paper draws them."""

    def inconsistencies(self, others: Others) -> Iterator[Inconsistent]:
        """What of a run's other sections cannot work with this method, most important first."""
        yield from ()


# --- a queue of keys, batch norm in groups ---------------------------------------------------------------------------


class GroupedOptions(MethodOptions):
    """A method whose batch statistics are taken over small groups, as on the several GPUs of its paper."""

    momentum: Momentum
    #: Where the momentum ends, along half a cosine over the whole training. None keeps it constant.
    momentum_end: Momentum | None = added_later(None, neutral=None)
    #: Images over which batch statistics are taken, whatever the number of processes; None takes the global batch.
    bn_group_size: PositiveInt | None
    #: Embed the keys in another order than the queries, so that a group tells nothing about which key is whose.
    shuffle_keys: bool = added_later(True, neutral=True)

    def inconsistencies(self, others: Others) -> Iterator[Inconsistent]:
        group, batch = self.bn_group_size, others.train.batch_size // others.train.accumulation
        named = "train.batch_size" if others.train.accumulation == 1 else "train.batch_size / train.accumulation"
        if group is None:
            return
        if group < 2:
            yield Inconsistent(
                "method.bn_group_size", f"bn_group_size={group} gives batch norm nothing to average; use 2 or more"
            )
        elif batch % group:
            yield Inconsistent(
                "method.bn_group_size",
                f"{named}={batch} is not a multiple of bn_group_size={group}; "
                f"choose a group size that divides the batch",
            )


class QueueOptions(GroupedOptions):
    """A method that compares embeddings with a queue of its teacher's earlier ones."""

    queue_size: PositiveInt

    def inconsistencies(self, others: Others) -> Iterator[Inconsistent]:
        batch = others.train.batch_size
        if self.queue_size % batch:
            yield Inconsistent(
                "method.queue_size",
                f"queue_size={self.queue_size} is not a multiple of train.batch_size={batch}; "
                f"{_neighbouring_multiples(self.queue_size, batch)} would be",
            )
        yield from super().inconsistencies(others)


def _neighbouring_multiples(value: int, of: int) -> str:
    below = value // of * of
    return f"{below} or {below + of}" if below else f"{of}"


class MoCoV1(QueueOptions):
    """MoCo v1 (arXiv 1911.05722): InfoNCE against a queue of keys from a momentum encoder; a linear head."""

    implementation: ClassVar[str] = "trainers.methods.moco:MoCo"

    name: Literal["moco_v1"] = "moco_v1"
    queue_size: PositiveInt = 65536
    temperature: PositiveFloat = 0.07
    momentum: Momentum = 0.999
    projection_dim: PositiveInt = 128
    symmetric: bool = False
    bn_group_size: PositiveInt | None = 32

    def views(self) -> tuple[View, ...]:
        return views.MOCO_V1, views.MOCO_V1


class MoCoV2(QueueOptions):
    """MoCo v2 (arXiv 2003.04297): MoCo v1 with a two-layer head, stronger views and a longer schedule."""

    implementation: ClassVar[str] = "trainers.methods.moco:MoCo"

    name: Literal["moco_v2"] = "moco_v2"
    queue_size: PositiveInt = 65536
    temperature: PositiveFloat = 0.2
    momentum: Momentum = 0.999
    projection_dim: PositiveInt = 128
    #: Width of the projector's hidden layer; None is the width of the representation.
    hidden_dim: PositiveInt | None = added_later(None, neutral=None)
    symmetric: bool = False
    #: 8 GPUs of 32 images in the paper.
    bn_group_size: PositiveInt | None = 32

    def views(self) -> tuple[View, ...]:
        return views.MOCO_V2, views.MOCO_V2


class ISD(QueueOptions):
    """ISD (arXiv 2012.09259): the student matches the teacher's similarities to a queue of stored teacher embeddings.

    The authors publish two forms (``docs/methods.md``): one temperature and the plain encoder (default here), and
    ``projector: true`` with two temperatures and a weak view for the teacher.
    """

    implementation: ClassVar[str] = "trainers.methods.isd:ISD"

    name: Literal["isd"] = "isd"
    queue_size: PositiveInt = 128000
    teacher_temperature: PositiveFloat = 0.02
    student_temperature: PositiveFloat = 0.02
    momentum: Momentum = 0.999
    projector: bool = False
    teacher_view: Literal["strong", "weak"] = "strong"
    student_view: Literal["strong", "weak"] = "strong"
    #: ``rows`` makes every stored vector a unit vector, which is what the equations mean. ``columns`` is what
    #: the authors' R18 script does; the loss is then close to zero until the queue has been overwritten once.
    queue_init: Literal["rows", "columns"] = "rows"
    bn_group_size: PositiveInt | None = 64

    def views(self) -> tuple[View, ...]:
        return views.ISD_VIEWS[self.student_view], views.ISD_VIEWS[self.teacher_view]


class BYOLAsym(GroupedOptions):
    """BYOL in one direction with ISD's heads, views and optimizer: the baseline of ISD's paper.

    https://github.com/UMBCvision/ISD/blob/4bdd603/train_byol.py
    """

    implementation: ClassVar[str] = "trainers.methods.byol_asym:BYOLAsym"

    name: Literal["byol_asym"] = "byol_asym"
    momentum: Momentum = 0.99
    teacher_view: Literal["strong", "weak"] = "strong"
    student_view: Literal["strong", "weak"] = "strong"
    bn_group_size: PositiveInt | None = 64

    def views(self) -> tuple[View, ...]:
        return views.ISD_VIEWS[self.student_view], views.ISD_VIEWS[self.teacher_view]


# --- two views of the batch, batch norm over all of it ---------------------------------------------------------------


class BatchOptions(MethodOptions):
    """A method whose images are compared with each other, batch statistics taken over all of them."""

    def inconsistencies(self, others: Others) -> Iterator[Inconsistent]:
        if others.train.batch_size // others.train.accumulation < 2:
            yield Inconsistent(
                "train.batch_size",
                f"batch_size={others.train.batch_size} gives batch norm nothing to average; use 2 or more",
            )


class MoCoV3(BatchOptions):
    """MoCo v3 (arXiv 2104.02057): both views predict each other's key among those of the batch; no queue.

    Defaults are those for vision transformers; ``experiments/recipes/`` has the paper's for ResNet-50.
    """

    implementation: ClassVar[str] = "trainers.methods.moco_v3:MoCoV3"

    name: Literal["moco_v3"] = "moco_v3"
    temperature: PositiveFloat = 0.2
    momentum: Momentum = 0.99
    #: Where the momentum ends, along half a cosine over the whole training. None keeps it constant.
    momentum_end: Momentum | None = 1.0
    #: Linear layers of the projector: 3 for vision transformers, 2 for ResNet-50.
    projector_layers: PositiveInt = 3
    projection_dim: PositiveInt = 256
    hidden_dim: PositiveInt = 4096
    predictor_hidden_dim: PositiveInt = 4096
    #: Batch norm after the predictor's last layer; the paper has none with ResNet-50.
    predictor_last_norm: bool = True
    #: The teacher moves between queries and keys, from the weights before the step (authors' code), or after the
    #: optimizer's step (SDSSL's baselines).
    teacher_update: Literal["before_keys", "after_step"] = "before_keys"

    def views(self) -> tuple[View, ...]:
        return views.MOCO_V3_FIRST, views.MOCO_V3_SECOND


class SimCLR(BatchOptions):
    """SimCLR (arXiv 2002.05709): every view must find the other view of its image among all views of the batch."""

    implementation: ClassVar[str] = "trainers.methods.simclr:SimCLR"
    normalises_images: ClassVar[bool] = False

    name: Literal["simclr"] = "simclr"
    temperature: PositiveFloat = 0.1
    #: Linear layers of the projector: 3 in the authors' code and SimCLR v2, 2 in the first paper.
    projector_layers: PositiveInt = 3
    #: Width of the projector's hidden layers; None is the width of the representation.
    hidden_dim: PositiveInt | None = None
    projection_dim: PositiveInt = 128
    #: Batch norm after the projector's hidden layers.
    hidden_norm: bool = True
    #: Batch norm, with a scale and no offset, after the projector's last layer.
    last_norm: bool = True
    #: Strength of the colour distortion: 1 on ImageNet, .5 on CIFAR-10.
    color_strength: NonNegativeFloat = 1.0
    #: Losses of the two views are added (authors' code) or averaged (the paper's equation, and most ports).
    directions: Literal["sum", "mean"] = "sum"
    #: Gradients through the gather of all processes' embeddings: ``summed`` over the processes, which is the gradient
    #: of the global batch's loss, or ``local``: what SDSSL's code (and other ports) computes, which depends on the
    #: number of processes.
    gather_gradient: Literal["summed", "local"] = "summed"

    def views(self) -> tuple[View, ...]:
        view = views.simclr_view(self.color_strength)
        return view, view


class BYOL(BatchOptions):
    """BYOL (arXiv 2006.07733): the student predicts the teacher's embedding of the other view; no negatives."""

    implementation: ClassVar[str] = "trainers.methods.byol:BYOL"

    name: Literal["byol"] = "byol"
    momentum: Momentum = 0.996
    #: Where the momentum ends, along half a cosine over the whole training. None keeps it constant.
    momentum_end: Momentum | None = 1.0
    projection_dim: PositiveInt = 256
    hidden_dim: PositiveInt = 4096
    predictor_hidden_dim: PositiveInt = 4096
    symmetric: bool = True
    #: The teacher starts as a copy of the student (the paper's text, most ports) or with weights of its own (authors'
    #: code).
    teacher_init: Literal["copy", "independent"] = "copy"
    teacher_update: Literal["before_keys", "after_step"] = "after_step"

    def views(self) -> tuple[View, ...]:
        return views.BYOL_FIRST, views.BYOL_SECOND


class SDSSL(BatchOptions):
    """SDSSL (arXiv 2111.12958): intermediate ViT blocks learn from the last block's target of the other view."""

    implementation: ClassVar[str] = "trainers.methods.sdssl:build_sdssl"

    name: Literal["sdssl"] = "sdssl"
    base: Literal["moco_v3", "byol", "simclr"] = "moco_v3"
    #: Final weight of the intermediate loss; grows from 0 along half a cosine over the whole training. Authors'
    #: configurations: 1.0 on MoCo v3, .8 on BYOL and SimCLR.
    ratio: NonNegativeFloat = 1.0
    #: Not used by base byol.
    temperature: PositiveFloat = 0.2
    #: Momentum at the start. Not used by base simclr, which has no teacher.
    momentum: Momentum = 0.996
    #: Where the momentum ends, along half a cosine over the whole training. None keeps it constant.
    momentum_end: Momentum | None = added_later(1.0, neutral=1.0)
    projection_dim: PositiveInt = 256
    hidden_dim: PositiveInt = 4096
    #: Hidden width of the projectors of all blocks but the last.
    intermediate_hidden_dim: PositiveInt = 2048
    #: Not used by base simclr, which has no predictors.
    predictor_hidden_dim: PositiveInt = 4096
    #: Factor of the predictors' own loss. 1 gives each predictor its full loss whatever the ratio is (the release);
    #: February 2022's code had this as an option. Not used by base simclr.
    predictor_weight: NonNegativeFloat = added_later(1.0, neutral=1.0)
    #: Which heads end in a batch norm: all, the projectors of the blocks before the last (code of 2021-11-15), or none
    #: (BYOL).
    last_norm: Literal["all", "intermediate", "none"] = added_later("all", neutral="all")
    #: ``per_image`` is the release and what the paper means; ``per_batch`` all code before 2022-11-23: one draw for a
    #: whole batch, images squashed to 256x256 first, jitter with probability .3.
    augmentation: Literal["per_image", "per_batch"] = added_later("per_image", neutral="per_image")
    teacher_update: Literal["after_step", "before_keys"] = added_later("after_step", neutral="after_step")
    #: Base byol: in the first step, where the ratio is 0, average the loss of all blocks instead of taking the last
    #: one's, as the authors' code does.
    average_first_step: bool = added_later(False, neutral=False)
    #: Base simclr: compare the blocks of both views with the last block's outputs of both views (``joint``, the
    #: release), or those of each view with the other's, both directions added (``crossed``, training code of October
    #: 2021).
    intermediate_contrast: Literal["joint", "crossed"] = added_later("joint", neutral="joint")
    #: Base simclr: as in :class:`SimCLR`; ``local`` is what the authors' code computes.
    gather_gradient: Literal["summed", "local"] = added_later("summed", neutral="summed")

    #: Options that only some bases have.
    _ONLY: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "temperature": ("moco_v3", "simclr"),
        "momentum": ("moco_v3", "byol"),
        "momentum_end": ("moco_v3", "byol"),
        "teacher_update": ("moco_v3", "byol"),
        "predictor_hidden_dim": ("moco_v3", "byol"),
        "predictor_weight": ("moco_v3", "byol"),
        "average_first_step": ("byol",),
        "intermediate_contrast": ("simclr",),
        "gather_gradient": ("simclr",),
    }

    @model_validator(mode="before")
    @classmethod
    def _defaults_of_the_base(cls, values: Any) -> Any:
        """Defaults that differ between the authors' three configurations."""
        if not isinstance(values, dict):
            return values
        base = values.get("base", "moco_v3")
        defaults: dict[str, Any] = {} if base == "moco_v3" else {"ratio": 0.8}
        if base == "byol":
            defaults["last_norm"] = "none"
        return {**defaults, **values}

    def views(self) -> tuple[View, ...]:
        if self.augmentation == "per_batch":
            return views.sdssl_batch_views()
        return views.MOCO_V3_FIRST, views.MOCO_V3_SECOND

    def inconsistencies(self, others: Others) -> Iterator[Inconsistent]:
        backbone = others.backbone
        if not isinstance(backbone, ViT):
            yield Inconsistent(
                "backbone",
                f"method sdssl distils every block of a vision transformer, and {backbone.name} is none; "
                "use vit_tiny, vit_small or vit_base",
            )
        elif backbone.depth < 2:
            yield Inconsistent(
                "backbone.depth",
                f"depth={backbone.depth} leaves method sdssl no block before the last one to distil; use 2 or more",
            )
        for option, bases in self._ONLY.items():
            value, default = getattr(self, option), type(self).model_fields[option].default
            if self.base not in bases and value != default:
                yield Inconsistent(
                    f"method.{option}",
                    f"{option}={value} has no meaning with base={self.base}; it belongs to {' and '.join(bases)}",
                )
        yield from super().inconsistencies(others)


# --- the upper and the lower row of the papers' tables ---------------------------------------------------------------


class Supervised(BatchOptions):
    """Cross-entropy on the labels of the training images: the papers' upper row."""

    implementation: ClassVar[str] = "trainers.methods.supervised:Supervised"

    name: Literal["supervised"] = "supervised"

    def views(self) -> tuple[View, ...]:
        return (views.CROP_AND_FLIP,)

    def inconsistencies(self, others: Others) -> Iterator[Inconsistent]:
        if others.data.unlabelled:
            yield Inconsistent(
                "data.unlabelled", "unlabelled=true trains on images without labels, and method supervised needs them"
            )
        yield from super().inconsistencies(others)


class Random(MethodOptions):
    """An untrained encoder: the papers' lower row. ``train`` plays no part but for its place in the run id."""

    implementation: ClassVar[str] = "trainers.methods.random:Random"

    name: Literal["random"] = "random"

    def views(self) -> tuple[View, ...]:
        return (views.CROP_AND_FLIP,)


Method = Annotated[
    MoCoV1 | MoCoV2 | MoCoV3 | ISD | SimCLR | BYOL | BYOLAsym | SDSSL | Supervised | Random,
    Field(discriminator="name"),
]
