"""Hands the runs of a submission to Tune, one after the other.

Only as many are handed out as can be of use: of each shape, one that waits for the cluster. The others wait here, and
not in placement groups.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

from ray.tune.search import Searcher

from orchestrator.backends.base import JobShape
from orchestrator.backends.carried import CarriedRun, Charge
from orchestrator.backends.ray.manifest import Manifest, TrialOptions, bundle_of
from orchestrator.backends.verdict import Step

_BYTES_PER_MIB = 1 << 20
#: Runs whose stop markers are looked at in one go.
_RUNS_PER_LOOK = 200


def bundles_of(shape: JobShape, options: TrialOptions) -> list[dict[str, float]]:
    """What a run asks of Ray: one bundle of resources for each node."""
    return [bundle_of(shape, options.runs_per_gpu, options.bundle)] * shape.nodes


def charge_of(manifest: Manifest, run_id: str, say: Callable[[str], None]) -> Charge:
    """What a trial is told about its run."""
    return Charge(
        token=manifest.token(run_id),
        run_dir=manifest.run_dir(run_id),
        backend="ray",
        job_id=manifest.submission_id,
        budgets=manifest.budgets,
        say=say,
        reset_at=manifest.reset_at.get(run_id, 0.0),
    )


class RunQueue(Searcher):
    """The runs that wait for a trial, in their order. To Tune it looks like a search algorithm.

    Attributes:
        waiting: run id -> shape.
        settled: run id -> why it gets no trial.
        pending: shape -> trials that wait for the cluster. Kept up by whoever watches the trials.
        live: trials that wait or run.
        fits: whether a living node of the cluster can hold a bundle of the shape.
    """

    def __init__(self, manifest: Manifest, say: Callable[[str], None]) -> None:
        super().__init__()
        self.manifest = manifest
        self.waiting: dict[str, JobShape] = dict(manifest.shapes)
        self.settled: dict[str, str] = {}
        self.pending: Counter[JobShape] = Counter()
        self.live = 0
        self.fits: Callable[[JobShape], bool] = lambda _: True
        self._say = say
        self._looked = 0

    def suggest(self, trial_id: str) -> Any:
        """The configuration of the next trial; None if none is to be made now, FINISHED if none will."""
        limit = self.manifest.max_parallel
        while limit is None or self.live < limit:
            run_id = self._choose()
            if run_id is None:
                break
            shape = self.waiting.pop(run_id)
            reason = self.reason_to_skip(run_id)
            if reason is None:
                self.pending[shape] += 1
                self.live += 1
                return self.trial_config(run_id, shape)
            self.settled[run_id] = reason
        return None if self.waiting else self.FINISHED

    def _choose(self) -> str | None:
        """The first run that waits, of those whose shape no pending trial has. What fits the cluster goes first.

        With ``max_parallel``, what does not fit has to wait until nothing else does: it would take a place for nothing.
        """
        first_of: dict[JobShape, str] = {}
        for run_id, shape in self.waiting.items():
            first_of.setdefault(shape, run_id)
        fitting = [shape for shape in first_of if self.fits(shape)]
        candidates = fitting if fitting and self.manifest.max_parallel is not None else list(first_of)
        free = [shape for shape in candidates if not self.pending[shape]]
        return first_of[next((shape for shape in free if shape in fitting), free[0])] if free else None

    def reason_to_skip(self, run_id: str) -> str | None:
        """Why nothing is to be started for a run; None if a trial has to look after it."""
        carried = CarriedRun(charge_of(self.manifest, run_id, self._say))
        if not carried.is_stopped and carried.open_attempts():
            return None  # what it comes to is known when its last launcher is gone
        carried.judge()
        return carried.reason if carried.step in (Step.DONE, Step.LEAVE, Step.GIVE_UP) else None

    def look_for_stops(self) -> None:
        """Settle waiting runs that were stopped: of many, some at each call."""
        run_ids = list(self.waiting)
        for offset in range(min(len(run_ids), _RUNS_PER_LOOK)):
            run_id = run_ids[(self._looked + offset) % len(run_ids)]
            if self.manifest.run_dir(run_id).stop_path(self.manifest.token(run_id)).exists():
                del self.waiting[run_id]
                self.settled[run_id] = "it was stopped on request"
        self._looked += _RUNS_PER_LOOK

    def trial_config(self, run_id: str, shape: JobShape) -> dict[str, Any]:
        """What a trial knows when it begins."""
        options = self.manifest.options
        return {
            "manifest": str(self.manifest.path),
            "run_id": run_id,
            "shape": asdict(shape),
            "bundles": bundles_of(shape, options),
            "strategy": options.strategy,
        }

    def on_trial_complete(self, trial_id: str, result: Mapping[str, Any] | None = None, error: bool = False) -> None:
        """Nothing is learnt from a trial."""

    def save(self, checkpoint_path: str) -> None:
        """Nothing is kept: see the module ``tuning``."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing was kept."""


def ask(bundle: Mapping[str, float]) -> str:
    """What a run asks of a node, for people: ``2 CPUs and 1 GPU``."""
    return " and ".join(_amount(name, value) for name, value in bundle.items())


def _amount(name: str, value: float) -> str:
    if name == "memory":
        return f"{value / _BYTES_PER_MIB:.0f} MiB memory"
    unit = f"{name}s" if name in ("CPU", "GPU") and value != 1 else name
    return f"{value:g} {unit}"
