"""What Tune does is told to controllers, by the board, and to trials that begin again, by their configuration."""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import ray
from ray import cloudpickle, tune

from orchestrator.backends.base import JobShape
from orchestrator.backends.ray import draining
from orchestrator.backends.ray.board import Board, TrialNote
from orchestrator.backends.ray.losses import loss_of
from orchestrator.backends.ray.manifest import Manifest
from orchestrator.backends.ray.queue import RunQueue, ask, bundles_of

_BOARD_INTERVAL_S = 1.0
_CLUSTER_INTERVAL_S = 10.0
_DRAINING_INTERVAL_S = 3.0

_IS_OVER = frozenset({"TERMINATED", "ERROR"})


class Watch(tune.Callback):
    """Tune calls it on every event, and some ten times a second."""

    def __init__(self, manifest: Manifest, queue: RunQueue, say: Callable[[str], None]) -> None:
        self._manifest = manifest
        self._queue = queue
        self._say = say
        self._notes: dict[str, TrialNote] = {}
        self._written: dict[str, TrialNote] | None = None
        self._ends: dict[str, tuple[str, str]] = {}  # run id -> note and cause
        self._over: set[str] = set()
        self._nodes: list[dict[str, float]] = []
        self._cluster_at = self._draining_at = self._board_at = 0.0
        self._draining: frozenset[str] = frozenset()
        self._idle: Counter[str] = Counter()
        self._attempts: dict[str, int] = {}
        self._stopped: set[str] = set()
        queue.fits = self._fits
        for run_id, note in Board.read(manifest.board_path).trials.items():
            if note.status in _IS_OVER:
                # A controller may have seen it, and have submitted the run anew.
                self._notes[run_id] = note
                queue.waiting.pop(run_id, None)

    @property
    def is_all_stopped(self) -> bool:
        """Whether nothing is left but trials that wait for the cluster and were stopped meanwhile."""
        return bool(self._stopped) and not self._queue.waiting and self._queue.live == 0

    def on_step_begin(self, iteration: int, trials: Sequence[Any], **info: Any) -> None:
        now = time.monotonic()
        if now > self._cluster_at:
            self._cluster_at = now + _CLUSTER_INTERVAL_S
            self._nodes = resources_of_nodes()
        if now > self._draining_at:
            self._draining_at = now + _DRAINING_INTERVAL_S
            self._look_for_draining()
        if now > self._board_at:
            self._board_at = now + _BOARD_INTERVAL_S
            self._look_for_stops(trials)
            self._write(trials)
        pending = [trial for trial in trials if trial.status == "PENDING" and run_id_of(trial) not in self._stopped]
        self._queue.pending = Counter(shape_of(trial) for trial in pending)
        self._queue.live = len(pending) + sum(trial.status in ("RUNNING", "PAUSED") for trial in trials)

    def on_trial_start(self, iteration: int, trials: Sequence[Any], trial: Any, **info: Any) -> None:
        self._attempts[run_id_of(trial)] = self._newest_attempt(trial)

    def on_trial_result(
        self, iteration: int, trials: Sequence[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        self._idle.pop(run_id_of(trial), None)
        if "ended" in result:
            self._ends[run_id_of(trial)] = (result.get("note", ""), result.get("cause", ""))
            self._say(f"{run_id_of(trial)}: {result['ended'].lower()} ({result.get('note', '')})")

    def on_trial_complete(self, iteration: int, trials: Sequence[Any], trial: Any, **info: Any) -> None:
        self._over.add(run_id_of(trial))

    def on_trial_recover(self, iteration: int, trials: Sequence[Any], trial: Any, **info: Any) -> None:
        run_id = run_id_of(trial)
        error, text = error_of(trial)
        config = {**trial.config, "reported": trial.last_result.get("epoch", -1)}
        config.pop("loss", None)
        if "Elsewhere: " in text:
            self._say(f"{run_id}: goes on in another actor")
        else:
            before, newest = self._attempts.get(run_id, 0), self._newest_attempt(trial)
            self._attempts[run_id], began = newest, newest > before
            self._idle[run_id] = 0 if began else self._idle[run_id] + 1
            loss = loss_of(error, text, began=began)
            config["loss"] = loss.to_json()
            self._say(f"{run_id}: {loss.detail}\n{text}")
            if self._idle[run_id] >= self._manifest.budgets.without_progress:
                trial.max_failures = 0  # the next one is its last
        trial.set_config(config)

    def on_trial_error(self, iteration: int, trials: Sequence[Any], trial: Any, **info: Any) -> None:
        run_id = run_id_of(trial)
        loss = loss_of(*error_of(trial), began=False)
        note = f"its actor died again and again before it began an attempt: {loss.detail}"
        self._ends[run_id] = (note, str(loss.cause))
        self._over.add(run_id)
        self._say(f"{run_id}: {note}")

    def on_experiment_end(self, trials: Sequence[Any], **info: Any) -> None:
        self._write(trials)

    def _newest_attempt(self, trial: Any) -> int:
        return max(self._manifest.run_dir(run_id_of(trial)).attempt_numbers(), default=0)

    def _look_for_draining(self) -> None:
        draining_now = draining.ask()
        if draining_now != self._draining:
            try:
                draining.write(self._manifest, draining_now)
            except OSError as error:
                self._say(f"{error.filename}: {error.strerror}")
            else:
                self._draining = draining_now

    def _look_for_stops(self, trials: Sequence[Any]) -> None:
        with contextlib.suppress(OSError):
            self._queue.look_for_stops()
            for trial in trials:
                run_id = run_id_of(trial)
                if trial.status == "PENDING" and self._manifest.run_dir(run_id).stop_path(self._token(run_id)).exists():
                    self._stopped.add(run_id)

    def _token(self, run_id: str) -> str:
        return self._manifest.token(run_id)

    def _write(self, trials: Sequence[Any]) -> None:
        """Put what there is to say on the board. One that cannot be written is written later."""
        for trial in trials:
            run_id = run_id_of(trial)
            status, note, cause = trial.status, "", ""
            if run_id in self._stopped and run_id not in self._over:
                # Tune has it pending, until nothing else is left.
                status, note = "TERMINATED", "it was stopped on request"
            elif status == "PENDING":
                note = self._waits_for(trial)
            elif status in _IS_OVER:
                if run_id not in self._over:
                    continue  # Tune itself is ending, and stops all trials
                note, cause = self._ends.get(run_id, ("", ""))
            self._note(run_id, status, note, cause)
        for run_id, reason in self._queue.settled.items():
            self._note(run_id, "TERMINATED", reason, "")
        if self._notes == self._written:
            return
        try:
            Board(self._notes, time.time()).write(self._manifest.board_path)
            self._written = dict(self._notes)
        except OSError as error:
            self._say(f"{error.filename}: {error.strerror}; controllers see no news of the trials")

    def _note(self, run_id: str, status: str, note: str, cause: str) -> None:
        before = self._notes.get(run_id)
        since = before.since if before is not None and before.status == status else time.time()
        self._notes[run_id] = TrialNote(status, since, note, cause)

    def _fits(self, shape: JobShape) -> bool:
        return self._num_fitting(shape) >= (shape.nodes if self._is_spread else 1)

    @property
    def _is_spread(self) -> bool:
        return self._manifest.options.strategy == "STRICT_SPREAD"

    def _num_fitting(self, shape: JobShape) -> int:
        """Living nodes that could hold a bundle of the shape if they were empty."""
        bundle = bundles_of(shape, self._manifest.options)[0]
        times = shape.nodes if self._manifest.options.strategy == "STRICT_PACK" else 1
        return sum(all(node.get(name, 0) >= times * value for name, value in bundle.items()) for node in self._nodes)

    def _waits_for(self, trial: Any) -> str:
        shape = shape_of(trial)
        asked = ask(bundles_of(shape, self._manifest.options)[0])
        found, needed = self._num_fitting(shape), shape.nodes if self._is_spread else 1
        if found == 0:
            return f"no living node of the cluster has {asked}"
        if found < needed:
            return f"{needed} nodes with {asked} each are needed, and the cluster has {found} of them"
        return f"waits for {asked} on " + ("one node" if shape.nodes == 1 else f"each of {shape.nodes} nodes")


def run_id_of(trial: Any) -> str:
    """The run that a trial carries."""
    return str(trial.config["run_id"])


def shape_of(trial: Any) -> JobShape:
    """What a trial occupies."""
    return JobShape(**trial.config["shape"])


def error_of(trial: Any) -> tuple[BaseException | None, str]:
    """The error that Tune last got from a trial, where it kept it, and its text."""
    error, text = None, ""
    with contextlib.suppress(OSError, TypeError):
        text = Path(trial.error_file).read_text().rpartition("Failure # ")[2]
    with contextlib.suppress(OSError, TypeError):
        # Tune's own, from Ray's folder on this machine, whose pickles Ray itself loads; none of a run's files.
        kept: BaseException = cloudpickle.loads(Path(trial.pickled_error_file).read_bytes())
        error = kept if str(kept) in text else None  # Tune keeps errors of some kinds only; this is then an older one
    return error, text


def resources_of_nodes() -> list[dict[str, float]]:
    """What each living node of the cluster has."""
    nodes = ray.nodes()  # type: ignore[no-untyped-call]
    return [node["Resources"] for node in nodes if node["Alive"]]
