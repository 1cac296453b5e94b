"""The papers' protocols of linear evaluation, as data: one row each. What they do is :mod:`trainers.evaluate.linear`.

Two things hold for every row, whatever the authors' code does. Accuracy is that of the last epoch, never the best one
on the test images. And with several learning rates, each is tried on nine tenths of the training images, the one that
classifies the other tenth best is used on all of them, and no test image plays a part in the choice.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from trainers.config import SGD, Cosine, Linear, Step, Train


@dataclass(frozen=True, kw_only=True)
class LinearProtocol:
    """How a linear classifier is trained on frozen representations.

    Attributes:
        source: where the values were read.
        images: what the encoder sees while the classifier is trained: ``plain`` images, as the test images are read, so
            that features are computed once; random ``crops``, flipped at random, new ones in each epoch; or
            ``padded_crops``, of the image's own size from the image with a border of 4 black pixels (files of any size:
            ``crops``).
        normalise: ``unit_then_standard`` divides each representation by its length, and then makes each of its numbers
            zero on average with variance one over the plain training images; the statistics are fixed (ISD).
        initial: the classifier starts at ``zeros``, at ``normal`` weights of deviation .01 and zero biases, or where
            ``torch`` starts a linear layer (uniform in +- 1 / sqrt(d), biases too).
        train: optimizer, schedule, epochs, batch size, weight decay; its learning rate is the first of
            ``learning_rates``.
        learning_rates: tried one against the other; before any scaling by the batch size.
    """

    source: str
    images: Literal["plain", "crops", "padded_crops"] = "crops"
    normalise: Literal["none", "unit_then_standard"] = "none"
    initial: Literal["zeros", "normal", "torch"]
    train: Train
    learning_rates: tuple[float, ...]


def _protocol(
    source: str,
    learning_rates: float | tuple[float, ...],
    *,
    epochs: int,
    batch_size: int,
    schedule: Cosine | Step,
    initial: Literal["zeros", "normal", "torch"],
    scaled: bool = False,
    nesterov: bool = False,
    weight_decay: float = 0.0,
    images: Literal["plain", "crops", "padded_crops"] = "crops",
    normalise: Literal["none", "unit_then_standard"] = "none",
) -> LinearProtocol:
    """A row: SGD with momentum .9; ``scaled`` multiplies the learning rate by batch_size / 256."""
    rates = learning_rates if isinstance(learning_rates, tuple) else (learning_rates,)
    return LinearProtocol(
        source=source,
        images=images,
        normalise=normalise,
        initial=initial,
        learning_rates=rates,
        train=Train(
            epochs=epochs,
            batch_size=batch_size,
            optimizer=SGD(momentum=0.9, nesterov=nesterov),
            learning_rate=rates[0],
            scale_learning_rate="linear" if scaled else "none",
            weight_decay=weight_decay,
            schedule=schedule,
        ),
    )


LINEAR_PROTOCOLS: Mapping[str, LinearProtocol] = {
    "fast": _protocol(
        "ours: ISD's normalisation, so that one range of learning rates fits every encoder, on cached features",
        (0.003, 0.01, 0.03, 0.1, 0.3),
        epochs=30,
        batch_size=256,
        schedule=Cosine(),
        initial="zeros",
        images="plain",
        normalise="unit_then_standard",
    ),
    "isd": _protocol(
        "https://github.com/UMBCvision/ISD/blob/4bdd603/eval_linear.py",
        0.01,
        epochs=40,
        batch_size=256,
        schedule=Step(milestones=(15, 30)),
        initial="torch",
        weight_decay=1e-4,
        normalise="unit_then_standard",
    ),
    "moco": _protocol(
        "arXiv 1911.05722, section 4.1; https://github.com/facebookresearch/moco/blob/132aea9/main_lincls.py",
        30.0,
        epochs=100,
        batch_size=256,
        schedule=Step(milestones=(60, 80)),
        initial="normal",
    ),
    "moco_v3_resnet": _protocol(
        "https://github.com/facebookresearch/moco-v3/blob/c349e6e/main_lincls.py",
        0.1,
        epochs=90,
        batch_size=1024,
        schedule=Cosine(per="epoch"),
        initial="normal",
        scaled=True,
    ),
    "moco_v3_vit": _protocol(
        "https://github.com/facebookresearch/moco-v3/blob/c349e6e/CONFIG.md",
        3.0,
        epochs=90,
        batch_size=1024,
        schedule=Cosine(per="epoch"),
        initial="normal",
        scaled=True,
    ),
    "simclr": _protocol(
        "arXiv 2002.05709, appendix B.6; the command in https://github.com/google-research/simclr/blob/383d414/README.md",
        0.1,
        epochs=90,
        batch_size=4096,
        schedule=Cosine(),
        initial="zeros",
        scaled=True,
        nesterov=True,
        weight_decay=1e-6,
    ),
    # Their classifier starts at a truncated normal draw of about the width of torch's uniform one.
    "byol": _protocol(
        "https://github.com/google-deepmind/deepmind-research/blob/4822a455/byol/configs/eval.py",
        0.2,
        epochs=80,
        batch_size=1024,
        schedule=Cosine(),
        initial="torch",
        scaled=True,
        nesterov=True,
    ),
    # Which of the three learning rates the paper's numbers come from is not stated.
    "sdssl": _protocol(
        "https://github.com/hagiss/SDSSL/blob/fca20d6/fine_tune.py, called by its linear_moco.py",
        (0.002, 0.005, 0.008),
        epochs=100,
        batch_size=1024,
        schedule=Cosine(),
        initial="torch",
        scaled=True,
    ),
    # Their learning rate depends on the method: .3 for BYOL and MoCo v3, 1 for SimCLR, 3 for MoCo v2+ and ReSSL.
    "solo_imagenet100": _protocol(
        "https://github.com/vturrisi/solo-learn/tree/9187ea3/scripts/linear/imagenet-100",
        0.3,
        epochs=100,
        batch_size=256,
        schedule=Step(milestones=(60, 80)),
        initial="torch",
    ),
    # On ImageNet-100 their batch is 512.
    "sdclr": _protocol(
        "https://github.com/VITA-Group/SDCLR/blob/f1490fc/cmds/shell_scrips/cifar-10-LT.sh and train_cifar.py",
        30.0,
        epochs=30,
        batch_size=128,
        schedule=Step(milestones=(10, 20)),
        initial="normal",
        images="padded_crops",
    ),
}


def linear_protocol(linear: Linear) -> LinearProtocol:
    """The protocol that ``linear`` names, with the options that it gives in place of the protocol's own.

    With another number of epochs, the steps of the learning rate keep their place in the training.
    """
    protocol = LINEAR_PROTOCOLS[linear.protocol]
    rates = linear.learning_rate or protocol.learning_rates
    epochs = linear.epochs or protocol.train.epochs
    schedule = protocol.train.schedule
    if isinstance(schedule, Step):
        stretched = tuple(max(1, round(m * epochs / protocol.train.epochs)) for m in schedule.milestones)
        schedule = schedule.model_copy(update={"milestones": stretched})
    weight_decay = protocol.train.weight_decay if linear.weight_decay is None else linear.weight_decay
    train = protocol.train.model_copy(
        update={
            "epochs": epochs,
            "batch_size": linear.batch_size or protocol.train.batch_size,
            "learning_rate": rates[0],
            "weight_decay": weight_decay,
            "schedule": schedule,
        }
    )
    return replace(protocol, train=train, learning_rates=rates)
