"""What is forecast of an experiment: measurements from the ledger and run directories, and the words for the answer."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from orchestrator.backends.local import available_cpus, visible_gpus
from orchestrator.cli.display import duration
from orchestrator.cli.session import Session
from orchestrator.controller import Snapshot
from orchestrator.experiment import Cell, Experiment
from orchestrator.forecast import Forecast, Measured, Planned, Range, forecast, kind_of
from orchestrator.ledger import RunRow
from orchestrator.state import RunState
from trainers.rundir import Phase, Status

#: Runs whose files are read for their durations, the newest first.
_MAX_MEASURED = 500
#: Share of a run that its final evaluation is taken for.
_EVALUATION = 0.1
#: Numbers of runs at once that a plan answers for, beside what this experiment would get.
_SERIES = (4, 16, 64)
#: Seconds between two forecasts of a live view; and how much longer than one takes.
_INTERVAL_S, _REST = 5.0, 20


def measured_runs(session: Session) -> list[Measured]:
    """Completed runs of all experiments, with the seconds that their attempts worked."""
    found = []
    for run_id, config, seconds in session.ledger.completed_durations()[:_MAX_MEASURED]:
        attempts = session.workspace.run_dir(run_id).read_attempts()
        worked = [attempt.ended - attempt.started for attempt in attempts if attempt.ended is not None]
        found.append(Measured(config, sum(worked) if worked else seconds))
    return found


def plan_outlook(experiment: Experiment, to_do: Sequence[Cell], measured: Sequence[Measured]) -> Forecast:
    """The forecast of runs that are to be done, for several numbers of runs at once."""
    planned = [Planned(cell.config.model_dump(mode="json"), _gpus(cell.resources.model_dump())) for cell in to_do]
    if not measured or not planned:
        return Forecast(0, len(planned))
    own = min(_own_slots(experiment, to_do[0]), len(planned))
    return forecast(
        planned, measured, at_once=sorted({own, *(count for count in _SERIES if own < count < len(planned))})
    )


def _own_slots(experiment: Experiment, cell: Cell) -> int:
    """Runs at once that the experiment's own backend allows; one where only the cluster knows."""
    limit = experiment.backend.max_parallel
    if experiment.backend.name != "local":
        return limit or 1
    slots = available_cpus() // cell.resources.cpus_per_node
    if cell.resources.gpus_per_node:
        slots = min(slots, len(visible_gpus()) // cell.resources.gpus_per_node)
    return max(1, min(slots, limit or slots))


def plan_lines(outlook: Forecast) -> list[str]:
    """The forecast in words; nothing where nothing is known."""
    if not outlook.known_runs:
        return []
    runs = "one earlier run" if outlook.measurements == 1 else f"{outlook.measurements} earlier runs"
    few = f" of the kind, which says little: 9 of 10 times {_between(outlook.job_seconds)}"
    spread = few if outlook.measurements < 3 else f": 9 of 10 times {_between(outlook.job_seconds)}"
    gpus = f", {outlook.gpu_hours.likely:.1f} GPU-hours" if outlook.gpu_hours.likely else ""
    lines = [f"{duration(outlook.job_seconds.likely)} of job time{gpus}, by {runs}{spread}"]
    clocks = [
        f"{duration(found.likely)} ({_between(found)}) with {slots} at once"
        for slots, found in outlook.wall_seconds.items()
    ]
    lines.append(f"on the clock: {'; '.join(clocks)}")
    if outlook.unknown_runs:
        lines.append(f"{outlook.unknown_runs} runs are like none measured yet, and are not in these figures")
    return lines


def _between(found: Range) -> str:
    return f"{duration(found.low)} to {duration(found.high)}"


class Outlook:
    """The forecast of a watched experiment, made anew every few seconds at most."""

    def __init__(self, session: Session, clock: Callable[[], float] = time.monotonic) -> None:
        self._session = session
        self._clock = clock
        self._configs: dict[str, Any] = {}
        self._measured: list[Measured] = []
        self._num_completed = -1
        self._slots = 1
        self._next = 0.0
        self._found: Forecast | None = None

    def of(self, snapshot: Snapshot) -> Forecast | None:
        """The newest forecast; None where nothing is left to do or nothing is known of it."""
        self._slots = max(self._slots, sum(run.state is RunState.RUNNING for run in snapshot.runs))
        if self._clock() >= self._next:
            begun = self._clock()
            self._found = self._forecast(snapshot)
            self._next = self._clock() + max(_INTERVAL_S, _REST * (self._clock() - begun))
        return self._found

    def _forecast(self, snapshot: Snapshot) -> Forecast | None:
        completed = sum(run.state is RunState.COMPLETED for run in snapshot.runs)
        if completed != self._num_completed:
            self._measured, self._num_completed = measured_runs(self._session), completed
        to_do = [run for run in snapshot.runs if not run.state.is_terminal]
        missing = [run.run_id for run in to_do if run.run_id not in self._configs]
        if missing:
            self._configs |= self._session.ledger.configs(missing)
        to_do.sort(key=lambda run: run.state is not RunState.RUNNING)
        planned = [planned_run(run, self._configs[run.run_id], snapshot.statuses.get(run.run_id)) for run in to_do]
        found = forecast(planned, [*self._measured, *self._at_work(snapshot)], at_once=[self._slots])
        return found if found.known_runs else None

    def _at_work(self, snapshot: Snapshot) -> Iterable[Measured]:
        """Working runs of kinds that none has completed of, as if they were done at their own throughput."""
        known = {kind_of(run.config) for run in self._measured}
        for run_id, status in snapshot.statuses.items():
            config = self._configs.get(run_id)
            if config is not None and status.images_per_s > 0 and kind_of(config) not in known:
                yield Measured(config, status.total_steps * config["train"]["batch_size"] / status.images_per_s)


def planned_run(run: RunRow, config: Mapping[str, Any], status: Status | None) -> Planned:
    """What is left of a run, by its own throughput where it trains."""
    gpus = _gpus(run.resources)
    if status is None or not status.total_steps:
        return Planned(config, gpus)
    steps = max(0, status.total_steps - status.step)
    if status.phase is Phase.TRAINING and status.images_per_s > 0:
        return Planned(config, gpus, seconds_left=steps * config["train"]["batch_size"] / status.images_per_s)
    left = _EVALUATION if status.phase is Phase.EVALUATING else steps / status.total_steps
    return Planned(config, gpus, left=left)


def _gpus(resources: Mapping[str, Any]) -> int:
    return int(resources.get("nodes", 1) * resources.get("gpus_per_node", 0))


def live_text(found: Forecast, to_suggest: int, now: float) -> str:
    """What is left, for the head of the live view: ``about 12m00s left (9m10s to 15m30s), done at 14:32``.

    Args:
        found: for the number of runs that work at once.
        to_suggest: runs that a search will add; nothing is known of them.
        now: seconds since the Unix epoch.
    """
    (left,) = found.wall_seconds.values()
    form = "%H:%M" if left.likely < 20 * 3600 else "%a %d %b %H:%M"
    done = time.strftime(form, time.localtime(now + left.likely))
    unknown = found.unknown_runs + to_suggest
    but = f", without {unknown} runs that nothing is known of" if unknown else ""
    return f"about {duration(left.likely)} left ({_between(left)}), done at {done}{but}"


def forecast_json(found: Forecast | None) -> dict[str, Any] | None:
    """For scripts."""
    return None if found is None else asdict(found)
