"""Entry point of a rank: read the run's spec, build everything, train, evaluate, write the result.

Knows of no scheduler and of no tracking server; what it has to say goes into the run directory. The result is the last
file it writes.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist

from trainers import failure
from trainers.assessment import QUICK
from trainers.best import consider, show
from trainers.build import build, read_spec
from trainers.checkpoint import write_encoder
from trainers.config.advice import long_queue
from trainers.data import dataset_record
from trainers.distributed import rank, world_size
from trainers.evidence import write_evidence
from trainers.failure import ConfigProblem
from trainers.journal import Journal, StatusFile
from trainers.lock import sole_writer
from trainers.loop import Stopped, StoppedEvaluating, fit
from trainers.rundir import Phase, RankFailure, Result, RunDir, StopReason, atomic
from trainers.stopping import SignalWatch, die_with_parent, end_workers
from trainers.training import Training, restore

logger = logging.getLogger(__name__)

#: Exit codes of a rank.
EXIT_DONE, EXIT_FAILED, EXIT_STOPPED = 0, 1, 75


@dataclass(frozen=True)
class Arguments:
    """The command line of a rank.

    Attributes:
        attempt: number of the attempt; None when started by hand, without a launcher.
        grace_s: seconds to reach a step boundary in after a request to stop.
    """

    run_dir: Path
    attempt: int | None
    grace_s: float


def parse_arguments(command_line: Sequence[str] | None = None) -> Arguments:
    parser = argparse.ArgumentParser(prog="python -m trainers", description="Train one run, as a rank of torchrun.")
    parser.add_argument("run_dir", type=Path, help="the run's folder, with spec.json in it")
    parser.add_argument("--attempt", type=int, help="number of the attempt; its folder gets an account of a failure")
    parser.add_argument("--grace-s", type=float, default=30.0, help="seconds to stop in when asked to (30)")
    return Arguments(**vars(parser.parse_args(command_line)))


def run(arguments: Arguments, parent_pid: int | None = None) -> int:
    """Carry out the run in this process, as one of its ranks.

    Args:
        parent_pid: the process that must not be outlived; None for no such process.

    Returns:
        0 if the run is done, 75 if it was asked to stop (it may be done even so), 1 if it failed. What happened, and
        why, is in the run directory.
    """
    run_dir = RunDir(arguments.run_dir)
    own_rank = int(os.environ.get("RANK", "0"))
    _start_logging(run_dir, arguments.attempt, own_rank)
    journal = Journal(StatusFile(run_dir.status_path, arguments.attempt or 0) if own_rank == 0 else None)
    with SignalWatch(arguments.grace_s) as stop_requested:
        if parent_pid is not None:
            die_with_parent(parent_pid)
        try:
            carry_out(run_dir, journal, arguments.attempt or 0, stop_requested)
        except Stopped as stopped:
            logger.info("%s", stopped)
            journal.enter(Phase.STOPPED, reason=StopReason.PREEMPTED, message=str(stopped))
        except Exception as error:
            own = failure.describe(error, own_rank)
            cause = own if arguments.attempt is None else failure.root_cause(run_dir, arguments.attempt, own)
            if cause.is_consequence and stop_requested():
                # Another rank has left an evaluation, and with it the collective that this one was in.
                logger.info("stopped on request: %s", cause.message)
                return EXIT_STOPPED
            logger.exception("rank %d failed", own_rank)
            _report(run_dir, journal, arguments.attempt, own, cause)
            return EXIT_FAILED
        finally:
            journal.close()
            end_workers()
        return EXIT_STOPPED if stop_requested() else EXIT_DONE


def _start_logging(run_dir: RunDir, attempt: int | None, own_rank: int) -> None:
    logging.basicConfig(
        level=logging.INFO if own_rank == 0 else logging.WARNING,
        format=f"%(asctime)s %(levelname)s run {run_dir.path.name} attempt {attempt} rank {own_rank}: %(message)s",
        stream=sys.stderr,
        force=True,
    )


def _report(run_dir: RunDir, journal: Journal, attempt: int | None, own: RankFailure, cause: RankFailure) -> None:
    try:
        if attempt is not None:
            failure.record(run_dir, attempt, own)
        journal.enter(Phase.STOPPED, reason=cause.reason, message=cause.message)
    except OSError as error:
        logger.error("the failure cannot be recorded in %s: %s", run_dir.path, error)  # the log has it, at least


def carry_out(run_dir: RunDir, journal: Journal, attempt: int, stop_requested: Callable[[], bool]) -> None:
    """Train, evaluate and write the result, from wherever an earlier attempt has left off.

    Raises:
        Stopped: the run was asked to stop; its state is saved.
        ConfigProblem, DataProblem, Diverged, CheckpointError: what the names say, in one sentence.
    """
    spec = read_spec(run_dir)
    with sole_writer(run_dir, stop_requested), _process_group():
        if run_dir.is_complete():
            logger.info("%s stands; nothing to do", run_dir.result_path)
            return
        journal.enter(Phase.STARTING)
        training = build(run_dir, spec, journal, attempt, stop_requested)
        logger.info(
            "%s on %s: %d images, %d steps, %d process(es) on %s",
            spec.config.method.name,
            training.assessor.images.source,
            len(training.assessor.subset),
            training.total_steps,
            world_size(),
            training.device,
        )
        _warn_of_long_queue(training)
        earlier = run_dir.read_result()
        resume(training, earlier)
        if spec.config.evaluate.untrained and training.untrained is None and training.method.is_trained:
            journal.enter(Phase.EVALUATING)
            training.untrained = training.assessor.assess(training.method, only_first=True, protocols=QUICK)
        fit(training)
        finish(training, earlier)


def _warn_of_long_queue(training: Training) -> None:
    """Says what ``sweep plan`` can only say of data sets whose sizes are known without reading them."""
    for sentence in long_queue(getattr(training.config.method, "queue_size", 0), len(training.assessor.subset)):
        logger.warning(sentence)


@contextmanager
def _process_group() -> Iterator[None]:
    """The processes that torchrun started, connected; nothing in a run of one process."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield
        return
    # Tensors on the CPU (what ranks agree on) go through gloo in any case, gradients through NCCL where there are GPUs.
    dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")
    try:
        yield
    except StoppedEvaluating:
        raise
    except Stopped:
        dist.barrier()
        raise
    # All ranks leave together: torchrun takes the first to go with another code than 0 as the sign to end the others,
    # of which rank 0 may still be writing. After a failure there is nobody to wait for.
    dist.barrier()
    dist.destroy_process_group()


def resume(training: Training, earlier: Result | None) -> None:
    """Go on from the newest whole checkpoint, on every rank the same, or from the beginning.

    Args:
        earlier: of a run that is only to be evaluated by further protocols. Its lines of metrics stay.

    Raises:
        ForeignCheckpoint: the checkpoints are another run's.
        ConfigProblem: the run is to be evaluated again, and its final checkpoint is gone.
    """
    found = [(-1, 0, 0)]  # step, length of the metrics then, length that readers may have seen
    if rank() == 0:
        final_offset = training.checkpoints.final_metrics_offset()
        manifest = training.checkpoints.find()
        found = [(manifest.step, manifest.metrics_offset, final_offset) if manifest else (-1, 0, final_offset)]
    if world_size() > 1:
        dist.broadcast_object_list(found, src=0)
    ((step, metrics_offset, final_offset),) = found
    if earlier is not None:
        if step != training.total_steps:
            raise ConfigProblem(
                f"{training.run_dir.path} has a result, but not the checkpoint of step {training.total_steps} that "
                f"further evaluation needs; remove {training.run_dir.result_path.name} there to train it again"
            )
        metrics_offset = final_offset = training.run_dir.committed_metrics_offset()
    training.journal.open_metrics(training.run_dir.metrics_path, metrics_offset, final_offset)
    if step >= 0:
        restore(training, training.checkpoints.read(step))
        logger.info("going on from step %d of %d", step, training.total_steps)
    if earlier is None:
        show(training)


def finish(training: Training, earlier: Result | None) -> None:
    """Evaluate the trained encoders and write what remains of the run: the encoder, and last of all the result.

    Args:
        earlier: of a run that is only to be evaluated by further protocols; the new result holds what it holds, too.
    """
    asked = training.config.evaluate.protocols()
    known = {} if earlier is None else earlier.protocols
    training.journal.enter(Phase.EVALUATING)
    assessment = training.assessor.assess(training.method, skip={key for key in asked if asked[key] == known.get(key)})
    if earlier is None:
        consider(training, assessment.metrics)
    training.journal.write(training.step, training.progress.epoch, assessment.metrics)
    metrics_offset = training.journal.sync()
    if rank() != 0:
        return
    images, subset = training.assessor.images, training.assessor.subset
    network, encoder = next(iter(training.method.encoders().items()))
    write_encoder(
        training.run_dir.encoder_path,
        encoder.state_dict(),
        run_id=training.run_id,
        network=network,
        step=training.step,
        more={"images": {"size": training.config.data.side, "mean": images.mean, "std": images.std}},
    )
    write_evidence(
        training.run_dir,
        assessment,
        training.config.evaluate.embedding,
        class_names=images.class_names,
        split_seed=training.config.data.split_seed,
    )
    dataset = dataset_record(training.config.data, images, subset)
    result = Result(
        run_id=training.run_id,
        steps=training.step,
        epochs=training.config.train.epochs,
        metrics=_final_metrics(training.run_dir),
        untrained=training.untrained.metrics if training.untrained is not None else {},
        per_class=({} if earlier is None else earlier.per_class) | assessment.per_class,
        class_counts=dict(zip(subset.class_names, subset.class_counts, strict=True)),
        groups=dict(zip(subset.class_names, subset.groups, strict=True)),
        dataset={key: dataset[key] for key in ("name", "label", "digest", "num_train", "num_test")},
        protocols={**known, **asked},
        warnings=tuple(dict.fromkeys((() if earlier is None else earlier.warnings) + assessment.warnings)),
        metrics_offset=metrics_offset,
        finished=time.time(),
    )
    atomic.write_json(training.run_dir.result_path, result.to_json())
    training.journal.enter(Phase.DONE)


def _final_metrics(run_dir: RunDir) -> dict[str, float]:
    """The last value of every metric that the run measured, without those of the machine it ran on.

    Read from the file, because the last line of the training may be an earlier attempt's.
    """
    last = {name: value for line in run_dir.read_metrics() for name, value in line.metrics.items()}
    return {name: value for name, value in last.items() if not name.startswith("system/")}
