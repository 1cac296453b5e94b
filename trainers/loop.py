"""The training loop: steps, and what happens at the boundary between two of them.

Every boundary may be the end. A run that is stopped at one and resumed computes what it would have computed, because
a boundary's work has a fixed order around the checkpoint: the line of metrics comes before it and empties the sums that
it is made of, so that it is not written again; whatever comes after it is done when the run goes on from there.
"""

from __future__ import annotations

import logging
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from trainers.assessment import QUICK
from trainers.batch import Batch
from trainers.best import consider
from trainers.checkpoint import write_encoder
from trainers.distributed import rank
from trainers.means import Sums
from trainers.methods.base import Progress
from trainers.optimizers import set_learning_rate
from trainers.rng import derive
from trainers.rundir import Phase
from trainers.training import Training, capture

logger = logging.getLogger(__name__)


class Stopped(Exception):
    """The run was asked to stop, and does so where nothing is lost; all ranks together."""


class StoppedEvaluating(Stopped):
    """The run was asked to stop in the middle of an evaluation; each rank leaves by itself, for the state is saved."""


class Diverged(Exception):
    """The loss, something else that the method logs, or a weight is not finite."""


def fit(training: Training) -> None:
    """Train from where the training is to its last step. Then the newest checkpoint holds the final state.

    Raises:
        Stopped: it was asked to stop; a checkpoint was written.
        Diverged: the loss is not finite; no checkpoint holds what came after.
        DataProblem: an image cannot be decoded.
        CheckpointError: a checkpoint cannot be written.
    """
    training.journal.enter(Phase.TRAINING)
    cross_boundary(training)
    while training.step < training.total_steps:
        train_epoch(training)


def train_epoch(training: Training) -> None:
    """Train to the end of the epoch, from wherever in it the training is."""
    epoch, first_step = divmod(training.step, training.loader.steps_per_epoch)
    for batch in training.loader.epoch(epoch, first_step):
        train_step(training, batch)
        cross_boundary(training)


def train_step(training: Training, batch: Batch) -> None:
    """One optimizer step on this rank's share of the global batch."""
    config, progress = training.config.train, training.progress
    # Whatever a network draws (dropout, say) is a function of the step, so that no generator needs saving.
    torch.manual_seed(derive(training.config.seed, "step", training.step, rank()))
    set_learning_rate(training.optimizer, training.learning_rate(training.step))
    if training.config.runtime.channels_last:
        views = tuple(view.contiguous(memory_format=torch.channels_last) for view in batch.views)
        batch = Batch(views, batch.labels)
    for number, part in enumerate(batch.parts(config.accumulation)):
        is_last = number == config.accumulation - 1
        with nullcontext() if is_last else _without_averaging(training.model):
            accumulate_gradients(training, part, replace(progress, part=number))
    if config.clip_gradient_norm is not None:
        nn.utils.clip_grad_norm_(training.method.parameters(), config.clip_gradient_norm)
    training.optimizer.step()
    training.optimizer.zero_grad(set_to_none=True)
    training.method.after_step(progress)
    training.speed.add(config.batch_size)
    training.step += 1


def accumulate_gradients(training: Training, part: Batch, progress: Progress) -> None:
    """Forward and backward pass of one part of the step's batch: adds its share of the batch's gradient."""
    config = training.config.train
    with torch.autocast(training.device.type, torch.bfloat16, enabled=config.precision == "bf16"):
        loss, logs = training.model(part, progress)
    training.means.add({"loss": loss, **logs}, images=len(part.labels))
    (loss / config.accumulation).backward()


def _without_averaging(model: nn.Module) -> AbstractContextManager[None]:
    """Backward passes inside keep gradients to this rank; the next one outside averages what has come together."""
    return model.no_sync() if isinstance(model, DistributedDataParallel) else nullcontext()


def cross_boundary(training: Training) -> None:
    """Everything that may happen between two steps, the same on every rank.

    Raises:
        Stopped, Diverged, CheckpointError: as in :func:`fit`.
    """
    if _is_line_due(training):
        write_line(training)
    training.journal.at(step=training.step, total_steps=training.total_steps, epoch=training.progress.epoch)
    decision = training.boundary.decide()
    is_last = training.step == training.total_steps
    if decision.save or is_last:
        save(training)
    if decision.stop:
        raise Stopped(f"stopped on request after step {training.step}; the state is saved")
    runtime, knn = training.config.runtime, training.config.evaluate.knn
    if training.ends_epochs(runtime.keep_every_epochs):
        keep_encoder(training)
    # The encoders of the last step are evaluated anyway, as the result.
    if knn is not None and training.ends_epochs(knn.every_epochs) and not is_last:
        if not decision.save:
            save(training)  # an evaluation may be left at any moment, and then nothing but it has to be done again
        assess(training)


def _is_line_due(training: Training) -> bool:
    is_due = training.step % training.config.runtime.log_every_steps == 0 or training.ends_epochs(1)
    return is_due and not training.means.is_empty


def write_line(training: Training) -> None:
    """Write the means since the last line, and begin the next ones."""
    means = _finite(training, training.means.gather()).means()
    images_per_s = training.speed.rate()
    metrics = {f"train/{name}": value for name, value in means.items()}
    metrics["train/lr"] = training.learning_rate(training.step - 1)
    metrics["system/images_per_s"] = images_per_s
    if training.system is not None:
        metrics |= training.system.look()
    training.journal.write(training.step, training.progress.epoch, metrics)
    training.journal.measured(loss=means["loss"], images_per_s=images_per_s)
    if training.ends_epochs(1):
        epochs = f"epoch {training.progress.epoch:.0f} of {training.config.train.epochs}"
        logger.info("%s: loss %.4f, %.0f images/s", epochs, means["loss"], images_per_s)
    training.means.reset()
    training.speed.restart()


def save(training: Training) -> None:
    """Write a checkpoint of this step.

    A state that came from a loss that is not finite is never saved, nor one whose next loss could not be finite.
    """
    sums = _finite(training, training.means.gather())
    if not torch.stack([parameter.isfinite().all() for parameter in training.method.parameters()]).all():
        raise _diverged(training, f"after step {training.step}: a weight is not finite")
    metrics_offset = training.journal.sync()
    if rank() == 0:
        training.checkpoints.save(
            capture(training, sums),
            step=training.step,
            epoch=training.progress.epoch,
            metrics_offset=metrics_offset,
        )
    training.boundary.saved()
    training.speed.restart()


def assess(training: Training) -> None:
    """Evaluate the encoders in the middle of the training."""
    training.journal.enter(Phase.EVALUATING)
    assessment = training.assessor.assess(training.method, protocols=QUICK)
    consider(training, assessment.metrics)
    training.journal.write(training.step, training.progress.epoch, assessment.metrics)
    training.journal.enter(Phase.TRAINING)
    training.speed.restart()


def keep_encoder(training: Training) -> None:
    """Write the weights of the encoder at the end of this epoch to a file of its own, which stays."""
    epoch = training.step // training.loader.steps_per_epoch
    if rank() == 0:
        network, encoder = next(iter(training.method.encoders().items()))
        write_encoder(
            training.run_dir.epoch_encoder_path(epoch),
            encoder.state_dict(),
            run_id=training.run_id,
            network=network,
            step=training.step,
        )


def _finite(training: Training, sums: Sums) -> Sums:
    """The sums, which every rank has alike, if no NaN and no infinity went into them.

    Raises:
        Diverged: one did. A sum keeps it, so that looking now and then is enough, and no step waits for the device.
    """
    if sums.is_finite():
        return sums
    means = sums.means()
    named = ", ".join(f"{name}={value}" for name, value in means.items() if not torch.tensor(value).isfinite())
    raise _diverged(training, f"before step {training.step}: {named}")


def _diverged(training: Training, what: str) -> Diverged:
    return Diverged(
        f"the training diverged {what}; lower train.learning_rate={training.config.train.learning_rate:g} "
        "or clip gradients (train.clip_gradient_norm)"
    )
