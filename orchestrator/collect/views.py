"""How an experiment's page in MLflow's UI begins: shared views, which links open by name."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

from orchestrator.collect.payload import MLFLOW_PARENT_TAG
from orchestrator.runs import ExperimentView

#: The experiment's runs without their parent: axes of the grid first, then the report's metrics; best first.
VIEW = "sweep"
#: The same, averaged over what the report averages over.
MEANS_VIEW = "sweep-means"

#: What PostgreSQL and MySQL hold of an experiment's tag.
_MAX_TAG = 5000
#: MLflow draws three charts in a row.
_MAX_BARS = 4
_MAX_DRAWN = 20


def experiment_tags(experiment: ExperimentView, parent_id: str) -> dict[str, str]:
    """Tags of the MLflow experiment itself: it is model training, not generative AI, and has these views."""
    views = {VIEW: _text(experiment, parent_id, ())}
    averaged = averaged_axes(experiment)
    if averaged:
        views[MEANS_VIEW] = _text(experiment, parent_id, averaged)
    return {
        "mlflow.experimentKind": "custom_model_development",
        **{f"mlflow.sharedViewState.{name}": text for name, text in views.items()},
    }


def averaged_axes(experiment: ExperimentView) -> tuple[str, ...]:
    """The axes that keep runs apart when the report's ``over`` is averaged; none if that averages nothing."""
    kept = tuple(axis for axis in experiment.axes if axis not in experiment.report.over)
    return kept if len(kept) < len(experiment.axes) else ()


def _text(experiment: ExperimentView, parent_id: str, groups: Sequence[str]) -> str:
    """The view as MLflow stores it, with as many columns as a tag holds."""
    columns = [f"params.`{axis}`" for axis in experiment.axes]
    columns += [f"metrics.`{metric}`" for metric in experiment.report.metrics]
    while True:
        text = json.dumps(_view(experiment, parent_id, groups, columns))
        if len(text) <= _MAX_TAG or not columns:
            return text
        columns.pop()


def _view(
    experiment: ExperimentView, parent_id: str, groups: Sequence[str], columns: Sequence[str]
) -> dict[str, object]:
    """What MLflow's page keeps of its own state.

    Args:
        groups: axes that runs are averaged within; none shows each run.
        columns: in MLflow's names.
    """
    headline = experiment.report.metrics[0]
    view: dict[str, object] = {
        "searchFilter": f"tags.`{MLFLOW_PARENT_TAG}` = '{parent_id}'",
        "orderByKey": f"metrics.`{headline}`",
        "orderByAsc": False,
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "datasetsFilter": [],
        "modelVersionFilter": "All Runs",
        "selectedColumns": columns,
        # Without it metrics come first, by name, and the axes are off the screen.
        "columnOrder": columns,
        # The best are drawn in charts; MLflow's default is ten.
        "runsHiddenMode": "FIRST_20_RUNS",
        "compareRunCharts": list(_charts(experiment, is_grouped=bool(groups))),
        # Behind this section MLflow puts its own, with a chart for every metric.
        "compareRunSections": [{"uuid": VIEW, "name": experiment.name, "display": True, "isReordered": True}],
        "isAccordionReordered": True,
    }
    if groups:
        keys = [{"mode": "param", "groupByData": axis} for axis in groups]
        view["groupBy"] = {"aggregateFunction": "average", "groupByKeys": keys}
    return view


def _charts(experiment: ExperimentView, *, is_grouped: bool) -> Iterator[dict[str, object]]:
    """The grid against the headline, each metric of the report as bars, the loss as curves."""
    headline, *_ = metrics = experiment.report.metrics
    if not is_grouped:  # averages of words are not drawn
        yield _chart("PARALLEL", "grid", selectedParams=list(experiment.axes), selectedMetrics=[headline])
    for metric in metrics[:_MAX_BARS]:
        yield _chart("BAR", metric, metricKey=metric)
    yield _chart("LINE", "loss", metricKey="train/loss", selectedMetricKeys=["train/loss"], xAxisKey="step")


def _chart(kind: str, name: str, **options: Any) -> dict[str, object]:
    place = {"uuid": f"{VIEW}-{name}", "metricSectionId": VIEW, "isGenerated": False, "deleted": False}
    return {"type": kind, **place, "runsCountToCompare": _MAX_DRAWN, **options}
