"""Reading what the report needs of each run from its directory."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from orchestrator.report.model import Report, ReportedRun
from orchestrator.report.reference import setup_of
from orchestrator.report.summary import summarise
from orchestrator.runs import ExperimentView, RunView
from orchestrator.state import RunState


def build_report(experiment: ExperimentView, runs: Sequence[RunView]) -> Report:
    """The report on an experiment as it stands; runs without a result are in it as such.

    Raises:
        InputError: the baseline that the experiment file names is no row.
        ValueError: a file of a run directory is damaged; the message names it.
    """
    options = experiment.report
    names = dict.fromkeys([*experiment.axes, *options.rows, *options.columns, *options.over])
    ordered = sorted(runs, key=lambda run: run.position)
    return summarise(experiment.name, experiment.axes, options, [read_run(run, names) for run in ordered])


def read_run(run: RunView, names: Iterable[str]) -> ReportedRun:
    """One run, labelled by the named axes and settings."""
    config: Mapping[str, Any] = (run.run_dir.read_spec() or {}).get("config", {})
    result = run.run_dir.read_result()
    unfinished = ReportedRun(
        run_id=run.run_id,
        name=run.name,
        labels={name: run.axes[name] if name in run.axes else setting_label(config, name) for name in names},
        state=run.state,
        reason=run.reason,
        backbone=setting_label(config, "backbone"),
        setup=setup_of(config),
    )
    if result is None:
        early = run.run_dir.read_early_stop()
        if early is None or run.state is not RunState.COMPLETED:
            return unfinished
        return replace(unfinished, metrics=_measured_at(run, early.step), is_early=True)
    return replace(
        unfinished,
        # A result is proof, also for a ledger that has not seen it yet.
        state=RunState.COMPLETED,
        reason="",
        metrics=result.metrics,
        untrained=result.untrained,
        per_class=result.per_class,
        class_counts=result.class_counts,
        groups=result.groups,
        warnings=result.warnings,
    )


def _measured_at(run: RunView, step: int) -> Mapping[str, float]:
    """What the run was evaluated by at a step."""
    lines = (line.metrics for line in run.run_dir.read_metrics() if line.step == step)
    return {name: value for metrics in lines for name, value in metrics.items() if name.startswith("eval/")}


def setting_label(config: Mapping[str, Any], path: str) -> str:
    """The value of a setting that is no axis, for people: a component is its name; an unset option is ``-``."""
    value: Any = config
    for part in path.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    if isinstance(value, Mapping):
        value = value.get("name")
    return "-" if value is None else str(value)
