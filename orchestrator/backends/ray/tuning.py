"""Runs Tune for a submission: every run a trial, with a placement group of its own.

    python -m orchestrator.backends.ray.tuning MANIFEST --tied-to=PID

Nothing that Tune keeps is ever read again. When this process is started anew it makes a new Tuner of the manifest and
of what the run directories say is left to do.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import logging
import os
import shutil
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.backends.ray.driver import say
from orchestrator.backends.ray.manifest import Manifest
from orchestrator.launch.outcome import EXIT_DONE, EXIT_FAILED, EXIT_RESUMABLE
from orchestrator.launch.supervision import tie_to_parent

#: What Tune reads when it is imported, or when it begins.
_ENVIRONMENT = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": "86400",
    "TUNE_WARN_INSUFFICENT_RESOURCE_THRESHOLD_S": "86400",  # the board says it better
    "TUNE_MAX_PENDING_TRIALS_PG": "100000",  # it is the queue that limits them
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",  # the watch says them
    "RAY_AIR_NEW_OUTPUT": "0",
}


@dataclass(frozen=True)
class MetricSpec:
    """What a search goes by.

    Attributes:
        mode: ``max`` or ``min``.
    """

    name: str
    mode: str


def main(command_line: Sequence[str] | None = None) -> int:
    """Run the trials to their end; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m orchestrator.backends.ray.tuning")
    parser.add_argument("manifest", type=Path)
    parser.add_argument("--tied-to", type=int, required=True, help="its parent process, with which it stops")
    options = parser.parse_args(command_line)
    if not tie_to_parent(options.tied_to):
        return EXIT_FAILED
    try:
        manifest = Manifest.read(options.manifest)
    except (OSError, ValueError) as error:
        say(str(error))
        return EXIT_FAILED
    os.environ.update(_ENVIRONMENT)
    import ray

    logging.getLogger("ray.tune").setLevel(logging.ERROR)  # it warns of files that nobody asked it for
    address = os.environ.get("RAY_ADDRESS")
    if address is None:
        say("RAY_ADDRESS is not set; this program runs as the entrypoint of a Ray job only, whose cluster it names")
        return EXIT_FAILED
    try:
        # Said and not found: Ray would find whichever cluster was last started on this machine.
        ray.init(address=address, namespace=manifest.namespace, log_to_driver=False, logging_level=logging.WARNING)
    except ConnectionError as error:
        say(f"the cluster does not answer: {error}")
        return EXIT_FAILED
    # Ray's own handler prints stacks. With this one Ray is left in order, and told of the end at once.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(EXIT_RESUMABLE))
    tune_runs(manifest)
    return EXIT_DONE


def take_memory_kills_for_losses() -> None:
    """Have Tune survive what Ray's memory monitor does: it knows one kind of error for the end of an actor only."""
    from ray.air.execution._internal import actor_manager
    from ray.exceptions import OutOfMemoryError, RayActorError
    from ray.tune.execution import tune_controller

    for module in (actor_manager, tune_controller):
        module.RayActorError = (RayActorError, OutOfMemoryError)  # type: ignore[attr-defined]


def tune_runs(manifest: Manifest) -> None:
    """Run Tune until every run has come to an end."""
    from ray import tune

    from orchestrator.backends.ray.queue import RunQueue
    from orchestrator.backends.ray.trial import RunTrial
    from orchestrator.backends.ray.watch import Watch, run_id_of

    take_memory_kills_for_losses()
    queue, scheduler, metric = search_of(manifest)
    assert isinstance(queue, RunQueue)
    watch = Watch(manifest, queue, say)
    with contextlib.suppress(OSError):
        shutil.rmtree(manifest.folder / "tune")

    class AllStopped(tune.Stopper):
        def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
            return False

        def stop_all(self) -> bool:
            return watch.is_all_stopped

    tuner = tune.Tuner(
        RunTrial,
        tune_config=tune.TuneConfig(
            search_alg=queue,
            scheduler=scheduler,
            metric=None if metric is None else metric.name,
            mode=None if metric is None else metric.mode,
            num_samples=-1,
            trial_name_creator=run_id_of,
            trial_dirname_creator=run_id_of,
        ),
        run_config=tune.RunConfig(
            name="tune",
            storage_path=str(manifest.folder),
            failure_config=tune.FailureConfig(max_failures=-1),
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
            callbacks=[watch],
            stop=AllStopped(),
            verbose=0,
        ),
    )
    say(f"{len(manifest.shapes)} runs of {manifest.experiment}, submission {manifest.submission}")
    tuner.fit()
    say("every run has come to an end")


def search_of(manifest: Manifest) -> tuple[Any, Any, MetricSpec | None]:
    """Where trials come from, who stops them early, and by which metric.

    The first is a :class:`orchestrator.backends.ray.queue.RunQueue`, or one that goes on with suggestions after it.
    """
    if manifest.search is not None:
        searching: Any = importlib.import_module("orchestrator.backends.ray.searching")
        searcher, scheduler, metric = searching.search_of(manifest, say)
        return searcher, scheduler, metric
    from orchestrator.backends.ray.queue import RunQueue

    return RunQueue(manifest, say), None, None


if __name__ == "__main__":
    sys.exit(main())
