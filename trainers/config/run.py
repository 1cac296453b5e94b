"""The configuration of a run: all sections together, and the rules that involve two of them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Annotated

from pydantic import AfterValidator, model_validator

from trainers.config.backbones import Backbone, ResNet18, ViT
from trainers.config.data import Augment, Data, ViewOverrides
from trainers.config.evaluate import Evaluate
from trainers.config.fields import Inconsistent, NaturalInt, NonNegativeFloat, PositiveInt, Section
from trainers.config.methods import SDSSL, Method, MoCoV2, Others
from trainers.config.train import SGD, Train
from trainers.config.views import View

SCHEMA_VERSION = 1


def _accuracy_of_knn(metric: str) -> str:
    if not re.fullmatch(r"eval/knn[^/]*/(top1|many|medium|few)", metric):
        raise ValueError(f"{metric!r} is no accuracy of k-NN; write it like eval/knn/top1")
    return metric


class Runtime(Section):
    """How a run is carried out. Changes speed and safety, never the numbers beyond rounding."""

    #: Processes that load data, per rank; 0 loads in the training process. Never changes a number.
    workers: NaturalInt = 0
    log_every_steps: PositiveInt = 10
    #: Wall-clock seconds between rolling checkpoints: what `kill -9` costs at most.
    checkpoint_every_s: NonNegativeFloat = 300.0
    #: Keep the encoder of every so many epochs for ever.
    keep_every_epochs: PositiveInt | None = None
    #: Keep the encoder as of the highest value of this metric of k-NN, such as ``eval/knn/top1``; of equals, the first.
    #: It is measured at ``evaluate.knn.every_epochs`` and at the end.
    keep_best: Annotated[str, AfterValidator(_accuracy_of_knn)] | None = None
    compile: bool = False
    channels_last: bool = False
    #: Compute the blocks of a vision transformer again in the backward pass instead of keeping what they computed:
    #: a third more time, a fraction of the memory (ViT-B).
    gradient_checkpointing: bool = False


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

    @property
    def normalises_images(self) -> bool:
        """Whether images are normalised by the mean and deviation of each channel."""
        asked = self.augment.normalise
        return self.method.normalises_images if asked is None else asked


def method_views(config: RunConfig) -> tuple[View, ...]:
    """The views of a run: those of its method's paper, with the overrides of ``config.augment``.

    For ISD the first view is the student's and the second the teacher's.
    """
    views = [_overridden(view, config.augment) for view in config.method.views()]
    if config.augment.second is not None and len(views) > 1:
        views[1] = _overridden(views[1], config.augment.second)
    return tuple(views)


def _overridden(view: View, overrides: ViewOverrides) -> View:
    changes = {name: value for name in ViewOverrides.model_fields if (value := getattr(overrides, name)) is not None}
    return replace(view, **changes)


def inconsistencies(config: RunConfig) -> Iterator[Inconsistent]:
    """Every pair of options of ``config`` that does not fit together, most important first."""
    train, backbone = config.train, config.backbone
    yield from config.method.inconsistencies(Others(config.data, backbone, train))
    if isinstance(backbone, ViT):
        if config.data.side % backbone.patch_size:
            yield Inconsistent(
                "backbone.patch_size",
                f"patch_size={backbone.patch_size} does not divide the image size {config.data.side}",
            )
        if backbone.layer_norm == "per_layer" and not isinstance(config.method, SDSSL):
            yield Inconsistent(
                "backbone.layer_norm",
                f"layer_norm=per_layer gives every block a norm that method {config.method.name} does not train; "
                "it belongs to sdssl",
            )
        for transfer in config.evaluate.transfer:
            if transfer.side != config.data.side:
                yield Inconsistent(
                    "evaluate.transfer",
                    f"{transfer.title} has images of {transfer.side} pixels, and {backbone.name} is built for "
                    f"{config.data.side}; set its image_size to {config.data.side}",
                )
    else:
        for option in config.evaluate.layered():
            yield Inconsistent(
                f"evaluate.{option}",
                f"layers=true evaluates every block of a vision transformer, and {backbone.name} is none",
            )
    if config.runtime.gradient_checkpointing and not isinstance(backbone, ViT):
        yield Inconsistent(
            "runtime.gradient_checkpointing",
            f"gradient_checkpointing=true computes the blocks of a vision transformer again, and {backbone.name} is "
            "none; set it to false",
        )
    knn = config.evaluate.knn
    if config.runtime.keep_best is not None and (knn is None or knn.every_epochs is None):
        yield Inconsistent(
            "runtime.keep_best",
            f"keep_best={config.runtime.keep_best} is not measured before the end; set evaluate.knn.every_epochs",
        )
    if train.schedule.warmup_epochs > train.epochs:
        yield Inconsistent(
            "train.schedule.warmup_epochs",
            f"warmup_epochs={train.schedule.warmup_epochs:g} is longer than the training of epochs={train.epochs}",
        )
    if isinstance(train.optimizer, SGD) and train.optimizer.nesterov and train.optimizer.momentum == 0:
        yield Inconsistent("train.optimizer.nesterov", "nesterov=true needs a momentum above 0")
    if config.augment.second is not None and len(config.method.views()) < 2:
        yield Inconsistent("augment.second", f"method {config.method.name} trains on one view and has no second one")
