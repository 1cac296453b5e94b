"""The table: who is averaged with whom, what the cells say, and the classes beside it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from orchestrator.report.model import Estimate, Report, RowKind
from orchestrator.report.statistics import estimate
from orchestrator.report.summary import summarise
from orchestrator.report.wording import caption, metric_titles
from orchestrator.runs import ReportOptions
from orchestrator.state import RunState
from tests.unit.orchestrator.report.fabricated import AXES, CLASSES, report_on, run, texts, with_gaps


@pytest.fixture
def full() -> Report:
    return with_gaps()


def test_the_deviation_is_that_of_a_sample() -> None:
    assert estimate([1.0, 2.0, 3.0, 4.0]) == Estimate(2.5, pytest.approx(1.2909944487), 4)
    assert estimate([3.0]) == Estimate(3.0, None, 1)
    assert estimate([]) is None


def test_seeds_are_averaged_and_missing_runs_are_seen(full: Report) -> None:
    assert texts(full) == {
        "isd": {"balanced": "71.0 ± 1.4 (2)", "long_tailed": "60.0 (1 of 2)"},
        "moco_v2": {"balanced": "failed: 2", "long_tailed": "52.0 ± 2.8 (2)"},
        "untrained encoder": {"balanced": "20.5 ± 0.7 (2)", "long_tailed": "20.3 ± 0.6 (3)"},
        "chance": {"balanced": "33.3", "long_tailed": "33.3"},
    }
    assert (full.completed, len(full.unfinished)) == (5, 3)


def test_top1_brings_its_groups_along(full: Report) -> None:
    assert metric_titles(full.table) == ("top1", "many", "medium", "few")
    assert texts(full, "eval/knn/few")["isd"] == {"balanced": "61.0 ± 1.4 (2)", "long_tailed": "50.0 (1 of 2)"}


def test_runs_that_differ_in_another_axis_are_never_averaged() -> None:
    runs = []
    for number, momentum in enumerate(("0.99", "0.999")):
        made = run("isd", "balanced", 0, 70.0 + number)
        runs.append(replace(made, labels={**made.labels, "method.momentum": momentum}))
    report = summarise("digits", (*AXES, "method.momentum"), ReportOptions(), runs)
    assert [row.label for row in report.table.rows if row.kind is RowKind.RUNS] == ["isd, 0.99", "isd, 0.999"]
    assert report.table.rows_title == "method · method.momentum"


def test_a_cell_of_the_grid_that_was_excluded_is_empty() -> None:
    report = report_on(run("isd", "balanced", 0, 70.0), run("moco_v2", "long_tailed", 0, 50.0))
    assert texts(report)["isd"] == {"balanced": "70.0 (1)", "long_tailed": "–"}


def test_untrained_encoders_of_different_networks_have_a_row_each() -> None:
    report = report_on(run("isd", "balanced", 0, 70.0), run("sdssl", "balanced", 1, 60.0))
    assert texts(report)["untrained resnet18"] == {"balanced": "20.0 (1)"}
    assert texts(report)["untrained vit_tiny"] == {"balanced": "21.0 (1)"}


def test_what_runs_warn_of_is_said_once_for_all_that_do() -> None:
    sentence = "the encoder has collapsed"
    runs = [replace(run("isd", "balanced", seed, 10.0), warnings=(sentence,)) for seed in (0, 1)]
    report = report_on(*runs, run("moco_v2", "balanced", 0, 70.0))
    assert report.notes == (f"isd · balanced · seed=0, isd · balanced · seed=1: {sentence}",)


def test_a_metric_that_no_run_has_is_explained() -> None:
    report = report_on(run("isd", "balanced", 0, 70.0), options=ReportOptions(metrics=("eval/linear/top1",)))
    assert texts(report, "eval/linear/top1")["isd"] == {"balanced": "not measured: 1"}
    assert report.notes == (
        "No run has eval/linear/top1 (report.metrics). "
        "Measured are: eval/knn/few, eval/knn/many, eval/knn/medium, eval/knn/top1, train/loss.",
    )


def test_metrics_that_are_no_accuracies_have_no_chance_and_four_digits() -> None:
    report = report_on(run("isd", "balanced", 0, 70.0), options=ReportOptions(metrics=("train/loss",)))
    assert texts(report, "train/loss") == {"isd": {"balanced": "1.235 (1)"}}


def test_nothing_finished_yet_is_still_a_table() -> None:
    report = report_on(run("isd", "balanced", 0, None, RunState.QUEUED))
    assert texts(report) == {"isd": {"balanced": "queued: 1"}}
    assert report.panels == ()
    assert "0 of 1 runs are complete" in caption(report)


def test_a_run_that_has_diverged_is_in_the_table_and_named() -> None:
    runs = [run("isd", "balanced", seed, value) for seed, value in enumerate((float("nan"), float("inf"), 60.0))]
    report = report_on(*runs)
    assert texts(report)["isd"] == {"balanced": "nan ± nan (3)"}
    assert report.notes == ("Values that are not finite: isd · balanced · seed=0, isd · balanced · seed=1.",)


def test_the_order_of_the_grid_is_the_order_of_the_rows() -> None:
    report = report_on(run("sdssl", "long_tailed", 0, 1.0), run("isd", "balanced", 0, 2.0))
    assert [row.label for row in report.table.rows if row.kind is RowKind.RUNS] == ["sdssl", "isd"]
    assert report.table.groups == ("long_tailed", "balanced")


def test_classes_stand_by_frequency_also_in_the_balanced_partner() -> None:
    balanced = replace(run("isd", "balanced", 0, 70.0), class_counts={"eel": 48, "cat": 47, "dog": 47})
    report = report_on(balanced, run("isd", "long_tailed", 0, 60.0))
    assert [panel.classes for panel in report.panels] == [CLASSES, CLASSES]
    panel = report.panels[0]
    assert (panel.counts, panel.groups) == ((47, 47, 48), ("many", "medium", "few"))
    assert [item.mean for item in panel.curves[0].estimates if item] == [80.0, 70.0, 60.0]
    assert panel.chance == pytest.approx(100 / 3)


def test_curves_average_over_seeds(full: Report) -> None:
    isd = next(curve for curve in full.panels[0].curves if curve.label == "isd")
    assert isd.estimates[0] == Estimate(81.0, pytest.approx(2**0.5), 2)
    assert full.protocol == "knn"
