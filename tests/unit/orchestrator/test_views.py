"""Shared views of MLflow's page."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from orchestrator.collect.views import experiment_tags
from orchestrator.runs import ExperimentView, ReportOptions

VIEWS = "mlflow.sharedViewState."


def experiment(*axes: str, metrics: tuple[str, ...] = ("eval/knn/top1",)) -> ExperimentView:
    report = ReportOptions(metrics=metrics, over=("seed",))
    return ExperimentView("digits", "name: digits\n", Path("digits.yaml"), axes, report)


def test_means_are_grouped_by_what_the_report_does_not_average() -> None:
    view = json.loads(experiment_tags(experiment("method", "train.epochs", "seed"), "p")[f"{VIEWS}sweep-means"])
    assert [key["groupByData"] for key in view["groupBy"]["groupByKeys"]] == ["method", "train.epochs"]


@pytest.mark.parametrize("axes", [("seed",), ("method", "train.epochs"), ()])
def test_there_are_no_means_where_nothing_is_averaged(axes: tuple[str, ...]) -> None:
    assert f"{VIEWS}sweep" in experiment_tags(experiment(*axes), "p")
    assert f"{VIEWS}sweep-means" not in experiment_tags(experiment(*axes), "p")


def test_a_view_of_too_many_metrics_drops_the_last_columns() -> None:
    metrics = tuple(f"eval/linear_simclr_layer{layer}_student/top1" for layer in range(200))
    text = experiment_tags(experiment("method", "seed", metrics=metrics), "p")[f"{VIEWS}sweep"]
    columns = json.loads(text)["selectedColumns"]
    assert len(text) <= 5000
    assert columns[:3] == ["params.`method`", "params.`seed`", f"metrics.`{metrics[0]}`"]
    assert 10 < len(columns) < 200
