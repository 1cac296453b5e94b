"""Searches on a cluster: which runs Optuna suggests, by Tune's own search, and which are stopped, by Tune's schedulers.

Neither is asked to remember anything. What a study has brought so far stands in its folder and in the run directories,
and is told to a new sampler for each suggestion, and to new schedulers whenever this process begins again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import optuna
from ray.tune.schedulers import AsyncHyperBandScheduler, FIFOScheduler, MedianStoppingRule
from ray.tune.search.optuna import OptunaSearch

from orchestrator.backends.base import JobShape
from orchestrator.backends.ray.manifest import Manifest
from orchestrator.backends.ray.queue import RunQueue
from orchestrator.experiment.search import Distribution, Scalar, draw
from orchestrator.studies import Study, StudyDir, Suggestion, config_with
from trainers.rundir import EarlyStop

#: How often a suggestion that is no valid run, or one that is there already, is replaced by another.
_MAX_TRIES = 20
_LOOK_INTERVAL_S = 1.0

optuna.logging.set_verbosity(optuna.logging.WARNING)  # it tells of every study that it makes


# --- suggestions ------------------------------------------------------------------------------------------------------


def suggest(study_dir: StudyDir, number: int, token_of: Callable[[str], str] = lambda _: "") -> Suggestion:
    """Suggest the sample ``number`` of a study, by what the others have brought; or take the one that was suggested.

    Args:
        token_of: run id -> the token of the trial that is to carry it.

    Raises:
        ValueError: no run of the study was submitted yet, or a file is damaged.
        OSError: the workspace cannot be written.
    """
    study, base = study_dir.study, study_dir.first_spec()["config"]
    taken = set(runs_of(study_dir))
    why = ""
    for values in _candidates(study_dir, number):
        try:
            run_id, config = config_with(study, base, values)
        except ValueError as error:
            why = str(error)
            continue
        if run_id not in taken:
            return study_dir.add(Suggestion(number, run_id, values, config, token_of(run_id)))
    return study_dir.add(Suggestion(number, "", why=why or "every suggestion was a run that is there already"))


def _candidates(study_dir: StudyDir, number: int) -> Iterator[dict[str, Scalar]]:
    """Samples to try, in order: what Optuna suggests, then random ones."""
    study = study_dir.study
    space = {axis: Distribution.of(written) for axis, written in study.space.items()}
    evidence = study_dir.evidence()
    for attempt in range(_MAX_TRIES):
        # A seed of its own for each number: suggestions that are made on the same evidence differ.
        seed = int(f"{study.id}{number:06d}{attempt:02d}", 16) % 2**32
        sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=study.startup)
        search = OptunaSearch(
            {axis: _optuna(distribution) for axis, distribution in space.items()},
            metric=study.metric,
            mode=study.mode,
            sampler=sampler,
        )
        for values, value in evidence:
            search.add_evaluated_point(dict(values), value)
        suggested = search.suggest("next") or {}
        yield {axis: distribution.rounded(suggested[axis]) for axis, distribution in space.items()}
    for attempt in range(_MAX_TRIES):
        yield draw(space, 0, study.id, number, attempt)


def _optuna(distribution: Distribution) -> optuna.distributions.BaseDistribution:
    if distribution.kind == "choice":
        return optuna.distributions.CategoricalDistribution(distribution.values)
    low, high = distribution.bounds
    if distribution.kind == "randint":
        return optuna.distributions.IntDistribution(int(low), int(high) - 1)
    return optuna.distributions.FloatDistribution(low, high, log=distribution.kind == "loguniform")


class SuggestingQueue(RunQueue):
    """The runs that are known beforehand, then those that are suggested by what these bring.

    A study's first suggestion waits until none of its known runs waits or runs in this submission. The next ones come
    as the cluster has room for them, and go by whatever has ended until then.

    Attributes:
        study_dirs: the studies that the submission has runs of.
    """

    def __init__(self, manifest: Manifest, say: Callable[[str], None]) -> None:
        super().__init__(manifest, say)
        self.study_dirs = study_dirs(manifest)
        self._running: dict[str, str] = {}  # trial id -> run id
        self._looked_at = -_LOOK_INTERVAL_S
        self._trouble = ""
        for study_dir in self.study_dirs:
            for found in study_dir.suggestions():
                if found.run_id and found.token == manifest.token(found.run_id):  # by a driver that died
                    study_dir.write_spec(found)
                    self.waiting[found.run_id] = self._shape(study_dir)

    def suggest(self, trial_id: str) -> Any:
        """The configuration of the next trial; None if none is to be made now, FINISHED if none will."""
        config = super().suggest(trial_id)
        if config == self.FINISHED:
            config = self._suggest_now_and_then()
        if isinstance(config, Mapping):
            self._running[trial_id] = config["run_id"]
        return config

    def _suggest_now_and_then(self) -> Any:
        """Tune asks many times a second, and the answer stands in files."""
        if time.monotonic() < self._looked_at + _LOOK_INTERVAL_S:
            return None
        self._looked_at = time.monotonic()
        try:
            return self._suggest()
        except (OSError, ValueError) as error:
            if str(error) != self._trouble:
                self._trouble = str(error)
                self._say(f"nothing can be suggested at present: {error}")
            return None

    def _suggest(self) -> Any:
        missing = [(study_dir, numbers) for study_dir in self.study_dirs if (numbers := self._missing(study_dir))]
        limit = self.manifest.max_parallel
        for study_dir, numbers in missing:
            shape = self._shape(study_dir)
            if self.pending[shape] or (limit is not None and self.live >= limit) or self._is_starting(study_dir):
                continue
            found = suggest(study_dir, numbers[0], self.manifest.token)
            if found.run_id and found.token == self.manifest.token(found.run_id):
                study_dir.write_spec(found)
                self._say(f"{found.run_id}: suggested by what {len(study_dir.evidence())} runs brought")
                self.pending[shape] += 1
                self.live += 1
                return self.trial_config(found.run_id, shape)
        return None if missing else self.FINISHED

    def _missing(self, study_dir: StudyDir) -> list[int]:
        """Numbers that are to be suggested."""
        if study_dir.is_paused:
            return []
        return sorted(set(study_dir.study.numbers) - {found.number for found in study_dir.suggestions()})

    def _is_starting(self, study_dir: StudyDir) -> bool:
        busy = {*self.waiting, *self._running.values()}
        return any(sample.run_id in busy for sample in study_dir.study.known)

    def _shape(self, study_dir: StudyDir) -> JobShape:
        """The one shape of all runs of a study."""
        shapes = self.manifest.shapes
        return next(shapes[run_id] for run_id in runs_of(study_dir) if run_id in shapes)

    def on_trial_complete(self, trial_id: str, result: Mapping[str, Any] | None = None, error: bool = False) -> None:
        """Its run is over; what it brought is read from its directory."""
        self._running.pop(trial_id, None)


# --- early ends -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Past:
    """What schedulers know of a trial: a name."""

    trial_id: str


class _NoTrials:
    """What a scheduler is told about other trials when it wants to pause one in their favour: there are none."""

    @staticmethod
    def get_live_trials() -> list[Any]:
        return []


class StudyScheduler(FIFOScheduler):
    """One of Tune's schedulers for each study, because runs of different cells are not compared.

    A run that is to be stopped is marked so in its directory, before Tune is told to stop the trial: from then on
    nobody starts it again, however drivers and clusters die.
    """

    def __init__(self, manifest: Manifest, dirs: list[StudyDir], say: Callable[[str], None]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        assert manifest.search is not None, "a manifest without a search needs no scheduler"
        self._manifest = manifest
        self._dirs = dirs
        self._say = say
        self._stop: Mapping[str, Any] = manifest.search["stop"]
        self._schedulers: dict[str, Any] = {}
        self._study_of: dict[str, StudyDir] = {}
        self._epochs: dict[str, int] = {}
        self._seen: dict[str, float] = {}
        for study_dir in dirs:
            self._replay(study_dir)

    def set_search_properties(self, metric: str | None, mode: str | None, **spec: Any) -> bool:
        """Each study has its own."""
        return True

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Stop the trial if its study's scheduler says so, unless its training is over."""
        run_id = str(trial.config["run_id"])
        study_dir = self._dir_of(run_id)
        if study_dir is None or study_dir.study.metric not in result:
            return self.CONTINUE
        epoch, value = result["epoch"], result[study_dir.study.metric]
        if not self._is_worse(study_dir, run_id, epoch, value) or epoch >= self._epochs[run_id]:
            return self.CONTINUE
        step = next((line.step for line in study_dir.run_dir(run_id).read_metrics() if line.epoch == epoch), 0)
        stop = EarlyStop(
            token=self._manifest.token(run_id),
            rule=self._stop["name"],
            metric=study_dir.study.metric,
            value=value,
            step=step,
            epoch=epoch,
            time=time.time(),
        )
        try:
            study_dir.run_dir(run_id).stop_early(stop)
        except OSError as error:
            self._say(f"{run_id}: goes on, because its end cannot be written ({error.strerror})")
            return self.CONTINUE
        self._say(f"{run_id}: {stop.sentence}")
        return self.STOP

    def _is_worse(self, study_dir: StudyDir, run_id: str, epoch: float, value: float) -> bool:
        """Tell the study's scheduler of an evaluation, once. A trial that begins again reports what it had."""
        if epoch <= self._seen.get(run_id, -1.0):
            return False
        self._seen[run_id] = epoch
        scheduler, trial = self._scheduler(study_dir, run_id), _Past(run_id)
        return bool(
            scheduler.on_trial_result(_NoTrials, trial, {"epoch": epoch, study_dir.study.metric: value}) == self.STOP
        )

    def _scheduler(self, study_dir: StudyDir, run_id: str) -> Any:
        study = study_dir.study
        if run_id not in self._epochs:
            spec = study_dir.run_dir(run_id).read_spec() or study_dir.first_spec()
            self._epochs[run_id] = spec["config"]["train"]["epochs"]
            if study.id not in self._schedulers:
                self._schedulers[study.id] = _scheduler_of(study, self._stop, self._epochs[run_id])
            self._schedulers[study.id].on_trial_add(_NoTrials, _Past(run_id))
        return self._schedulers[study.id]

    def _dir_of(self, run_id: str) -> StudyDir | None:
        if run_id not in self._study_of:
            self._study_of |= {known: study_dir for study_dir in self._dirs for known in runs_of(study_dir)}
        return self._study_of.get(run_id)

    def _replay(self, study_dir: StudyDir) -> None:
        """Tell the scheduler of runs that no trial will report: they have ended before."""
        for run_id in runs_of(study_dir):
            run_dir = study_dir.run_dir(run_id)
            if run_dir.read_result() is None and run_dir.read_early_stop() is None:
                continue
            for line in run_dir.read_metrics():
                if study_dir.study.metric in line.metrics:
                    self._is_worse(study_dir, run_id, line.epoch, line.metrics[study_dir.study.metric])


def _scheduler_of(study: Study, stop: Mapping[str, Any], epochs: int) -> Any:
    common = {"time_attr": "epoch", "metric": study.metric, "mode": study.mode, "grace_period": stop["grace_epochs"]}
    if stop["name"] == "median":
        return MedianStoppingRule(**common, min_samples_required=stop["min_samples"], hard_stop=True)
    factor = stop["reduction_factor"]
    return AsyncHyperBandScheduler(**common, max_t=epochs, reduction_factor=factor, stop_last_trials=False)


# --- what the manifest says of them -----------------------------------------------------------------------------------


def runs_of(study_dir: StudyDir) -> list[str]:
    """Run ids of a study: known beforehand, and suggested so far."""
    suggested = (found.run_id for found in study_dir.suggestions() if found.run_id)
    return [*(sample.run_id for sample in study_dir.study.known), *suggested]


def study_dirs(manifest: Manifest) -> list[StudyDir]:
    """The studies that a submission has runs of."""
    studies = [] if manifest.search is None else manifest.search["studies"]
    return [StudyDir(Study.from_json(study), manifest.workspace) for study in studies]


def search_of(manifest: Manifest, say: Callable[[str], None]) -> tuple[RunQueue, Any, None]:
    """Where the trials of a search come from, and who stops them early; None if nobody does.

    The metric is known to the schedulers, and not to Tune, which would insist on it in the last report of a trial too.
    """
    assert manifest.search is not None, "a manifest without a search has no studies"
    queue = SuggestingQueue(manifest, say)
    scheduler = None if manifest.search["stop"] is None else StudyScheduler(manifest, queue.study_dirs, say)
    return queue, scheduler, None
