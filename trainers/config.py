"""The typed configuration of a run, free of torch: what ``sweep plan`` validates against and what ``spec.json`` holds.

Owns every option of every method, backbone, data set and schedule, its default and its bounds, and the identity of a
run (:func:`identity`). Leaves what the options *do* to the modules that read them.

Two rules keep run ids stable (design: "Adding an option with a default later must not change old ids"):

* every option that exists since the first release takes part in the identity with its value, so a changed default
  changes the id, as it must, because it changes the numbers;
* an option that is added later is declared with :func:`added_later`, which freezes the value that stands for "as
  before"; while it has this value it is left out of the identity.
"""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

SCHEMA_VERSION = 1

#: Sections of a run's configuration that change its numbers. Everything else is outside the identity.
IDENTITY_SECTIONS = ("method", "data", "augment", "backbone", "train", "seed")


def _integral(value: object) -> object:
    """3.0 is accepted where an int is asked for: the spelling of a number never matters. 3.5 and True are not."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value


def _as_tuple(value: object) -> object:
    """YAML and JSON know lists only; a lone number stands for a list of one."""
    if isinstance(value, list):
        return tuple(value)
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return (value,)
    return value


Int = Annotated[int, BeforeValidator(_integral)]
PositiveInt = Annotated[int, BeforeValidator(_integral), Field(ge=1)]
NaturalInt = Annotated[int, BeforeValidator(_integral), Field(ge=0)]
PositiveFloat = Annotated[float, Field(gt=0)]
NonNegativeFloat = Annotated[float, Field(ge=0)]
Probability = Annotated[float, Field(ge=0, le=1)]
#: An exponential moving average keeps this share of the old value.
Momentum = Annotated[float, Field(ge=0, le=1)]
IntTuple = Annotated[tuple[PositiveInt, ...], BeforeValidator(_as_tuple), Field(min_length=1)]
AreaRange = Annotated[tuple[PositiveFloat, PositiveFloat], BeforeValidator(_as_tuple)]
Jitter = Annotated[
    tuple[NonNegativeFloat, NonNegativeFloat, NonNegativeFloat, NonNegativeFloat], BeforeValidator(_as_tuple)
]


def added_later(default: Any, *, neutral: Any, **kwargs: Any) -> Any:
    """A field added after the first release, left out of the identity while it equals ``neutral``.

    Args:
        default: the value of a run that does not name the option.
        neutral: the value that computes what was computed before the option existed. Never change it.
        kwargs: passed to :func:`pydantic.Field`.
    """
    return Field(default, json_schema_extra={"neutral": neutral}, **kwargs)


def outside_identity(default: Any, **kwargs: Any) -> Any:
    """A field that says where something is or how fast it goes, and cannot change a number (a path, say)."""
    return Field(default, json_schema_extra={"identity": False}, **kwargs)


class Section(BaseModel):
    """A mapping of the experiment file: unknown keys and wrong types are refused, values are never changed."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


# --- methods ---------------------------------------------------------------------------------------------------------


class MoCoV2(Section):
    """MoCo v2 (arXiv 2003.04297): InfoNCE against a queue of keys from a momentum encoder."""

    name: Literal["moco_v2"] = "moco_v2"
    queue_size: PositiveInt = 65536
    temperature: PositiveFloat = 0.2
    momentum: Momentum = 0.999
    projection_dim: PositiveInt = 128
    symmetric: bool = False
    #: Batch statistics are taken over groups of this many images, whatever the number of processes, and keys are
    #: shuffled across groups (8 GPUs of 32 images in the paper).
    bn_group_size: PositiveInt = 32


class ISD(Section):
    """ISD (arXiv 2012.09259): the student matches the teacher's similarities to a queue of stored teacher embeddings.

    The authors publish two forms (methods note in ``docs/methods.md``): one temperature and the plain encoder (default
    here), and ``projector: true`` with two temperatures and a weak view for the teacher.
    """

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
    bn_group_size: PositiveInt = 64


class SDSSL(Section):
    """SDSSL (arXiv 2111.12958): intermediate ViT blocks learn from the last block's target of the other view."""

    name: Literal["sdssl"] = "sdssl"
    base: Literal["moco_v3"] = "moco_v3"
    #: Final weight of the intermediate loss; grows from 0 along half a cosine over the whole training.
    ratio: NonNegativeFloat = 1.0
    temperature: PositiveFloat = 0.2
    #: Momentum at the start; goes to 1 along a cosine.
    momentum: Momentum = 0.996
    projection_dim: PositiveInt = 256
    hidden_dim: PositiveInt = 4096
    #: Hidden width of the projectors of all blocks but the last.
    intermediate_hidden_dim: PositiveInt = 2048
    predictor_hidden_dim: PositiveInt = 4096


Method = Annotated[MoCoV2 | ISD | SDSSL, Field(discriminator="name")]


# --- data ------------------------------------------------------------------------------------------------------------


class Balanced(Section):
    """The same number of training images of every class; all of them unless a size is given."""

    name: Literal["balanced"] = "balanced"
    #: Total number of training images; the remainder of the division by classes goes to a seeded choice of classes.
    size: PositiveInt | None = None
    #: Take exactly as many images as the exponential profile with this imbalance factor has.
    match_imbalance: Annotated[float, Field(ge=1)] | None = None

    @model_validator(mode="after")
    def _one_size(self) -> Balanced:
        if self.size is not None and self.match_imbalance is not None:
            raise ValueError("size and match_imbalance both fix the number of images; keep one of them")
        return self


class LongTailed(Section):
    """Exponential profile (Cui et al. 2019): class i keeps ``int(n_max * imbalance ** (-i / (C - 1)))`` images."""

    name: Literal["long_tailed"] = "long_tailed"
    #: Largest class over smallest class (the papers' IF), at least 1.
    imbalance: Annotated[float, Field(ge=1)] = 100.0
    #: Total number of training images; None takes the largest class whole.
    size: PositiveInt | None = None


Profile = Annotated[Balanced | LongTailed, Field(discriminator="name")]


class Data(Section):
    """A labelled image data set and the subset of it that is trained on. Labels are used by evaluation only."""

    name: Literal["digits", "cifar10", "image_folder"] = "digits"
    #: Folder (or zip file) that holds the data set. Not part of the identity: a data set may move.
    root: str = outside_identity("data")
    #: Distinguishes data sets that share a name, such as two image folders. Part of the identity.
    label: str = ""
    #: Side of the square that training and evaluation see, in pixels. None is the data set's own (8, 32, 224).
    image_size: PositiveInt | None = None
    profile: Profile = Balanced()
    #: Which class is the most frequent one: in label order, or in an order drawn from ``split_seed``.
    class_order: Literal["label", "shuffled"] = "label"
    #: Draws the subset (and the order of classes); the same for every run seed, so that seeds share one subset.
    split_seed: NaturalInt = 0


class Augment(Section):
    """Overrides of the method's own two views, for both views at once. None keeps what the method's paper uses."""

    crop_area: AreaRange | None = None
    jitter: Jitter | None = None
    jitter_probability: Probability | None = None
    grayscale_probability: Probability | None = None
    blur_probability: Probability | None = None
    solarize_probability: Probability | None = None
    flip_probability: Probability | None = None

    @model_validator(mode="after")
    def _ordered(self) -> Augment:
        if self.crop_area is not None and not (self.crop_area[0] <= self.crop_area[1] <= 1):
            raise ValueError(
                f"crop_area={list(self.crop_area)} must be [smallest, largest] share of the image, at most 1"
            )
        return self


# --- backbones -------------------------------------------------------------------------------------------------------


class ResNet18(Section):
    """ResNet-18 (He et al. 2016). ``stem: small`` is the CIFAR form: 3x3 stride 1 and no max-pooling."""

    name: Literal["resnet18"] = "resnet18"
    stem: Literal["small", "imagenet"] = "small"
    #: Channels of the first stage; the representation is 8 times as wide (512 for 64).
    width: PositiveInt = 64


class ViTTiny(Section):
    """ViT-Tiny (DeiT's Ti: 12 blocks, 192 wide, 3 heads) with MoCo v3's fixed positions and frozen patch projection."""

    name: Literal["vit_tiny"] = "vit_tiny"
    patch_size: PositiveInt = 4
    depth: PositiveInt = 12
    width: PositiveInt = 192
    heads: PositiveInt = 3
    frozen_patch_projection: bool = True

    @model_validator(mode="after")
    def _divisible(self) -> ViTTiny:
        if self.width % self.heads:
            raise ValueError(f"width={self.width} is not a multiple of heads={self.heads}")
        if self.width % 4:
            raise ValueError(f"width={self.width} is not a multiple of 4, which the 2-D sine-cosine positions need")
        return self


Backbone = Annotated[ResNet18 | ViTTiny, Field(discriminator="name")]


# --- training --------------------------------------------------------------------------------------------------------


class SGD(Section):
    """Stochastic gradient descent with momentum, as torch.optim.SGD computes it."""

    name: Literal["sgd"] = "sgd"
    momentum: Momentum = 0.9
    nesterov: bool = False


class AdamW(Section):
    """Adam with decoupled weight decay, as torch.optim.AdamW computes it."""

    name: Literal["adamw"] = "adamw"
    beta1: Annotated[float, Field(ge=0, lt=1)] = 0.9
    beta2: Annotated[float, Field(ge=0, lt=1)] = 0.999


Optimizer = Annotated[SGD | AdamW, Field(discriminator="name")]


class Cosine(Section):
    """Half a cosine from the learning rate to 0 after a linear warm-up.

    ``per: epoch`` is MoCo v2's and ISD's staircase (the last epoch still above 0); ``per: step`` is MoCo v3's.
    """

    name: Literal["cosine"] = "cosine"
    warmup_epochs: NonNegativeFloat = 0.0
    per: Literal["step", "epoch"] = "step"


class Step(Section):
    """Multiply the learning rate by ``factor`` once each number of completed epochs in ``milestones`` is reached."""

    name: Literal["step"] = "step"
    milestones: IntTuple = (120, 160)
    factor: PositiveFloat = 0.1


Schedule = Annotated[Cosine | Step, Field(discriminator="name")]


class Train(Section):
    """Optimisation. The batch is global: the world size divides it."""

    epochs: PositiveInt = 200
    batch_size: PositiveInt = 256
    optimizer: Optimizer = SGD()
    learning_rate: PositiveFloat = 0.03
    weight_decay: NonNegativeFloat = 1e-4
    #: Leave biases and the parameters of norms (everything with one dimension) out of weight decay.
    decay_matrices_only: bool = False
    schedule: Schedule = Cosine()
    #: Scale gradients down to this global L2 norm. None does not clip.
    clip_gradient_norm: PositiveFloat | None = None
    #: bf16 runs the networks under autocast; losses and weights stay in fp32.
    precision: Literal["fp32", "bf16"] = "fp32"


# --- outside the identity --------------------------------------------------------------------------------------------


class KNN(Section):
    """k-nearest-neighbour classification on frozen, L2-normalised features (Wu et al. 2018)."""

    #: Neighbours. The first is the headline: its metrics are ``eval/knn/*``, the others' ``eval/knn_k<k>/*``.
    k: IntTuple = (20, 1, 200)
    #: Votes weigh exp(cos / temperature); DINO and SDSSL use .07, MoCo's CIFAR notebook .1.
    temperature: PositiveFloat = 0.07
    weighted: bool = True
    #: ``full`` is the whole balanced training set (ISD, SDCLR); ``train`` the subset that was trained on.
    bank: Literal["full", "train"] = "full"
    #: Evaluate also during training, every so many epochs.
    every_epochs: PositiveInt | None = None


class Evaluate(Section):
    """What is measured, on the balanced test set. Asking for more later never trains again."""

    knn: KNN | None = KNN()
    #: Evaluate the untrained encoder before the first step, so that the report can show what training adds.
    untrained: bool = True
    batch_size: PositiveInt = 512


class Runtime(Section):
    """How a run is carried out. Changes speed and safety, never the numbers beyond rounding."""

    #: Processes that load data, per rank; 0 loads in the training process. Never changes a number.
    workers: NaturalInt = 0
    log_every_steps: PositiveInt = 10
    #: Wall-clock seconds between rolling checkpoints: what `kill -9` costs at most.
    checkpoint_every_s: NonNegativeFloat = 300.0
    #: Keep the encoder of every so many epochs for ever.
    keep_every_epochs: PositiveInt | None = None
    compile: bool = False
    channels_last: bool = False


class RunConfig(Section):
    """One run, fully resolved: what ``spec.json`` holds under ``config``."""

    method: Method = MoCoV2()
    data: Data = Data()
    augment: Augment = Augment()
    backbone: Backbone = ResNet18()
    train: Train = Train()
    seed: NaturalInt = 0
    evaluate: Evaluate = Evaluate()
    runtime: Runtime = Runtime()

    @model_validator(mode="after")
    def _consistent(self) -> RunConfig:
        for problem in inconsistencies(self):
            raise problem
        return self


# --- rules that involve two sections ----------------------------------------------------------------------------------


class Inconsistent(ValueError):
    """Two options that are each legal do not fit together.

    Attributes:
        key: dotted name of the option to point at, such as ``method.queue_size``.
        message: one sentence with the values, and what would be right.
    """

    def __init__(self, key: str, message: str) -> None:
        super().__init__(message)
        self.key = key
        self.message = message


NATIVE_IMAGE_SIZE: Mapping[str, int] = {"digits": 8, "cifar10": 32, "image_folder": 224}


def image_size(data: Data) -> int:
    """Side of the square images that the networks see, in pixels."""
    return data.image_size or NATIVE_IMAGE_SIZE[data.name]


def inconsistencies(config: RunConfig) -> Iterator[Inconsistent]:
    """Every pair of options of ``config`` that does not fit together, most important first."""
    method, train, backbone = config.method, config.train, config.backbone
    batch = train.batch_size
    if isinstance(method, (MoCoV2, ISD)):
        if method.queue_size % batch:
            yield Inconsistent(
                "method.queue_size",
                f"queue_size={method.queue_size} is not a multiple of train.batch_size={batch}; "
                f"{_neighbouring_multiples(method.queue_size, batch)} would be",
            )
        if batch % method.bn_group_size:
            yield Inconsistent(
                "method.bn_group_size",
                f"train.batch_size={batch} is not a multiple of bn_group_size={method.bn_group_size}; "
                f"choose a group size that divides the batch",
            )
        if method.bn_group_size < 2:
            yield Inconsistent(
                "method.bn_group_size", "bn_group_size=1 gives batch norm nothing to average; use 2 or more"
            )
    if isinstance(method, SDSSL) and not isinstance(backbone, ViTTiny):
        yield Inconsistent(
            "backbone",
            f"method sdssl distils every block of a vision transformer, and {backbone.name} is none; use vit_tiny",
        )
    if isinstance(method, SDSSL) and isinstance(backbone, ViTTiny) and backbone.depth < 2:
        yield Inconsistent(
            "backbone.depth",
            f"depth={backbone.depth} leaves method sdssl no block before the last one to distil; use 2 or more",
        )
    if isinstance(method, SDSSL) and batch < 2:
        yield Inconsistent("train.batch_size", "batch_size=1 gives batch norm nothing to average; use 2 or more")
    if isinstance(backbone, ViTTiny) and image_size(config.data) % backbone.patch_size:
        yield Inconsistent(
            "backbone.patch_size",
            f"patch_size={backbone.patch_size} does not divide the image size {image_size(config.data)}",
        )
    if isinstance(train.schedule, Cosine) and train.schedule.warmup_epochs > train.epochs:
        yield Inconsistent(
            "train.schedule.warmup_epochs",
            f"warmup_epochs={train.schedule.warmup_epochs:g} is longer than the training of epochs={train.epochs}",
        )
    if isinstance(train.optimizer, SGD) and train.optimizer.nesterov and train.optimizer.momentum == 0:
        yield Inconsistent("train.optimizer.nesterov", "nesterov=true needs a momentum above 0")


def _neighbouring_multiples(value: int, of: int) -> str:
    below = value // of * of
    return f"{below} or {below + of}" if below else f"{of}"


# --- identity --------------------------------------------------------------------------------------------------------


def identity(section: BaseModel) -> dict[str, Any]:
    """What of a validated section takes part in the run id, as plain JSON values with their declared types.

    Values of fields that are outside the identity, and neutral values of options added later, are left out.
    """
    result: dict[str, Any] = {}
    for name, neutral in _identity_fields(type(section)):
        value = getattr(section, name)
        if neutral is _NO_NEUTRAL or value != neutral:
            result[name] = _plain(value)
    return result


_NO_NEUTRAL = object()


@functools.cache
def _identity_fields(model: type[BaseModel]) -> tuple[tuple[str, Any], ...]:
    """Fields of ``model`` that take part in the identity, each with its neutral value if it was added later."""
    extras = {
        name: field.json_schema_extra if isinstance(field.json_schema_extra, dict) else {}
        for name, field in model.model_fields.items()
    }
    return tuple(
        (name, extra.get("neutral", _NO_NEUTRAL))
        for name, extra in extras.items()
        if extra.get("identity") is not False
    )


def _plain(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return identity(value)
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return 0.0 if value == 0 else value  # -0.0 and 0.0 are one number and must be one spelling
    return value


def canonical_json(value: Any) -> str:
    """The one spelling of a JSON value that is hashed: sorted keys, no spaces, ASCII, shortest round-trip floats."""
    return _CANONICAL.encode(value)


_CANONICAL = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def long_tailed_counts(num_max: int, num_classes: int, imbalance: float) -> list[int]:
    """Images per class, most frequent first, of the exponential profile (Cui et al. 2019; truncated, not rounded)."""
    if num_classes == 1:
        return [num_max]
    ratio = 1.0 / imbalance
    # The tiny addend keeps exact powers exact: 5000 * 0.01 ** 1.0 is 50.0, but 500 * 0.1 ** (1/1) may be 49.999….
    return [math.floor(num_max * ratio ** (i / (num_classes - 1)) + 1e-9) for i in range(num_classes)]
