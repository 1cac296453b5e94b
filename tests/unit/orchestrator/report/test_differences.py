"""Rows against rows: who is paired with whom, which row is best, and what is said of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path

import pytest

from orchestrator.errors import InputError
from orchestrator.experiment import load_experiment
from orchestrator.report.comparing import listings, sentences
from orchestrator.report.model import Comparison, Report, ReportedRun, RowKind
from orchestrator.report.planned import check_report
from orchestrator.report.summary import summarise
from orchestrator.runs import ReportOptions
from orchestrator.state import RunState
from tests.unit.orchestrator.report.fabricated import AXES, TOP1, report_on, run

#: One column, so that there is one comparison.
ONE = ReportOptions(metrics=("eval/linear/top1",))


def runs(method: str, values: Sequence[float | None], metric: str = "eval/linear/top1") -> list[ReportedRun]:
    """A run for each seed, in one profile; None is a run without a result."""
    made = [run(method, "balanced", seed, value) for seed, value in enumerate(values)]
    return [item if not item.metrics else replace(item, metrics={metric: item.metrics[TOP1]}) for item in made]


def compared(*methods: list[ReportedRun], options: ReportOptions = ONE) -> Comparison:
    (comparison,) = report_on(*chain(*methods), options=options).comparisons
    return comparison


def bold(report: Report) -> list[str]:
    return [row.label for row in report.table.rows for cell in row.cells if cell.is_best]


def test_runs_of_the_same_seed_are_paired() -> None:
    """Seeds differ by much more than methods do: only pairs can show the difference."""
    isd, moco = runs("isd", [60.0, 70.0, 80.0]), runs("moco_v2", [59.0, 68.9, 79.1])
    (item,) = compared(moco, isd).differences
    assert (item.row, item.against) == ("moco_v2", "isd")
    assert item.paired is not None
    assert item.paired.mean == pytest.approx(-1.0)
    assert item.paired.interval is not None
    assert item.paired.interval.high < 0
    assert bold(report_on(*moco, *isd, options=ONE)) == ["isd"]


def test_a_pair_needs_both() -> None:
    isd, moco = runs("isd", [70.0, 71.0, None, 74.0]), runs("moco_v2", [69.0, None, 68.0, 72.5])
    (item,) = compared(isd, moco).differences
    assert item.paired is not None
    assert (item.paired.n, item.paired.mean) == (2, pytest.approx(-1.25))


def test_runs_that_were_stopped_early_are_no_pairs() -> None:
    stopped = [replace(item, is_early=True) for item in runs("moco_v2", [75.0, 76.0])]
    report = report_on(*runs("isd", [70.0, 71.0]), *stopped, *runs("byol", [60.0, 61.1]), options=ONE)
    (comparison,) = report.comparisons
    assert (comparison.best, [item.row for item in comparison.differences]) == ("isd", ["byol"])


def test_runs_that_share_a_seed_are_nobodys_pair() -> None:
    """Two lists of images in one cell, say: which of them would belong to the other row's run?"""
    twice = [*runs("isd", [70.0, 71.0]), *(replace(item, run_id=item.run_id + "b") for item in runs("isd", [72.0]))]
    (item,) = compared(twice, runs("moco_v2", [69.0, 69.5])).differences
    assert item.paired is not None
    assert (item.paired.n, item.paired.mean) == (1, -1.5)


def test_nothing_is_paired_across_axes_that_are_not_averaged() -> None:
    """Another learning rate makes another row, not another pair."""
    made = []
    for rate, shift in (("0.1", 0.0), ("0.2", 3.0)):
        for item in [*runs("isd", [70.0, 71.0]), *runs("moco_v2", [69.0, 69.5])]:
            labels = {**item.labels, "train.learning_rate": rate}
            metrics = {name: value + shift for name, value in item.metrics.items()}
            made.append(replace(item, run_id=item.run_id + rate, labels=labels, metrics=metrics))
    report = summarise("digits", (*AXES, "train.learning_rate"), ONE, made)
    (comparison,) = report.comparisons
    assert comparison.best == "isd, 0.2"
    assert {item.row: item.paired.n for item in comparison.differences if item.paired} == {
        "isd, 0.1": 2,
        "moco_v2, 0.1": 2,
        "moco_v2, 0.2": 2,
    }


def test_p_values_are_adjusted_for_all_rows_of_the_column() -> None:
    best, *others = (runs(f"m{n}", [70.0 - n, 71.1 - n, 69.4 - n + 0.3 * n % 1]) for n in range(4))
    comparison = compared(best, *others)
    tests = [item for item in comparison.differences if item.paired and item.paired.p is not None]
    assert tests
    smallest = min(tests, key=lambda item: item.paired.p or 0 if item.paired else 0)
    assert smallest.paired is not None
    assert smallest.paired.p is not None
    assert smallest.adjusted_p == pytest.approx(min(1, len(tests) * smallest.paired.p))


def test_the_best_is_bold_only_where_every_other_row_is_clearly_worse() -> None:
    isd, near, far = runs("isd", [70.0, 71.1, 69.4]), runs("near", [69.9, 71.3, 69.2]), runs("far", [60.0, 61.2, 59.3])
    assert bold(report_on(*isd, *far, options=ONE)) == ["isd"]
    report = report_on(*isd, *near, *far, options=ONE)
    assert bold(report) == []
    assert any(sentence.startswith("Nothing is bold") for sentence in sentences(report))
    assert any("isd (balanced top1)" in sentence and "not beyond noise" in sentence for sentence in sentences(report))


def test_lower_is_better_where_it_is() -> None:
    for metric, best in (("train/loss", "low"), ("eval/knn/class_std", "low"), ("eval/linear/top5", "high")):
        low, high = runs("low", [1.0, 1.1, 1.2], metric), runs("high", [3.0, 3.2, 3.1], metric)
        report = report_on(*low, *high, options=ReportOptions(metrics=(metric,)))
        assert bold(report) == [best], metric


def test_nobody_knows_which_way_an_unknown_metric_is_better() -> None:
    metric = "eval/geometry/effective_rank"
    low, high = runs("low", [1.0, 1.1, 1.2], metric), runs("high", [3.0, 3.2, 3.1], metric)
    report = report_on(*low, *high, options=ReportOptions(metrics=(metric,)))
    assert (bold(report), report.comparisons[0].best, report.comparisons[0].differences) == ([], None, ())
    against = ReportOptions(metrics=(metric,), baseline="low")
    (item,) = report_on(*low, *high, options=against).comparisons[0].differences
    assert (item.row, item.seeds) == ("high", None)


def test_a_baseline_is_compared_with_whatever_is_best() -> None:
    three = [*runs("isd", [70.0, 71.1, 69.4]), *runs("far", [60.0, 61.2, 59.3]), *runs("base", [65.0, 66.3, 64.2])]
    report = report_on(*three, options=replace(ONE, baseline="base"))
    (comparison,) = report.comparisons
    assert [(item.row, item.against) for item in comparison.differences] == [("isd", "base"), ("far", "base")]
    assert bold(report) == ["isd"]


def test_a_baseline_without_a_result_is_said_and_the_others_are_compared_all_the_same() -> None:
    isd, far = runs("isd", [70.0, 71.1, 69.4]), runs("far", [60.0, 61.2, 59.3])
    report = report_on(*isd, *far, *runs("base", [None]), options=replace(ONE, baseline="base"))
    assert (bold(report), listings(report)) == (["isd"], ())
    assert sentences(report)[0] == "Nothing is compared with base where it has no result: balanced top1."
    assert "Bold is the best" in sentences(report)[1]


def test_a_baseline_that_is_no_row_is_refused_with_the_rows() -> None:
    with pytest.raises(InputError, match=r"no row is called 'moco'; did you mean 'moco_v2'\?.*'isd', 'moco_v2'"):
        report_on(*runs("isd", [70.0]), *runs("moco_v2", [69.0]), options=replace(ONE, baseline="moco"))


def test_the_confidence_decides() -> None:
    isd, moco = runs("isd", [70.0, 71.1, 69.4]), runs("moco_v2", [69.0, 69.6, 68.6])
    assert bold(report_on(*isd, *moco, options=replace(ONE, confidence=0.9))) == ["isd"]
    assert bold(report_on(*isd, *moco, options=replace(ONE, confidence=0.999))) == []


def test_one_seed_is_told_so() -> None:
    report = report_on(*runs("isd", [70.0]), *runs("moco_v2", [60.0]), options=ONE)
    assert bold(report) == []
    assert "cannot be told" in sentences(report)[0]
    (listing,) = listings(report)
    (line,) = listing.lines
    assert line == ("balanced top1", "moco_v2", "isd", "−10.0")
    assert "Interval" not in listing.about


def test_two_seeds_are_told_what_they_can_show() -> None:
    two = report_on(*runs("isd", [70.0, 71.0]), *runs("moco_v2", [68.0, 69.2]), options=ONE)
    assert "a difference must be 12 times its standard deviation; over three pairs 3.3 times" in sentences(two)[0]
    (listing,) = listings(two)
    ((*_, pairs, needed),) = listing.lines
    assert (pairs, needed) == ("2", "too few pairs")
    three = report_on(*runs("isd", [70.0, 71.0, 69.0]), *runs("moco_v2", [68.0, 69.2, 67.1]), options=ONE)
    assert not any("hardly enough" in sentence for sentence in sentences(three))
    ((*_, pairs, needed),) = listings(three)[0].lines
    assert (pairs, needed) == ("3", "about 3")


def test_equal_differences_are_no_proof() -> None:
    """With 360 test images, two seeds that differ by the same two images are nothing rare."""
    report = report_on(*runs("isd", [70.0, 71.0]), *runs("moco_v2", [69.0, 70.0]), options=ONE)
    assert bold(report) == []


def test_values_that_are_not_finite_are_compared_with_nothing() -> None:
    nan = float("nan")
    report = report_on(
        *runs("isd", [70.0, 71.1, 69.4]),
        *runs("far", [60.0, 61.2, 59.3]),
        *runs("broken", [nan, 1.0, 2.0]),
        options=ONE,
    )
    (comparison,) = report.comparisons
    assert (comparison.best, [item.row for item in comparison.differences]) == ("isd", ["far"])


def test_rows_that_stand_for_no_runs_are_not_compared() -> None:
    report = report_on(run("isd", "balanced", 0, 10.0), run("isd", "balanced", 1, 10.1))
    assert {row.kind for row in report.table.rows} == set(RowKind)
    assert (report.comparisons, sentences(report)) == ((), ())


def test_a_table_of_many_differences_shows_the_headline_alone() -> None:
    made = [run(f"m{number:02}", "balanced", seed, 50.0 + number) for number in range(40) for seed in (0, 1)]
    report = report_on(*made)
    (listing,) = listings(report)
    assert len(listing.lines) == 39
    assert {line[0] for line in listing.lines} == {"balanced top1"}
    assert "117 more lines are in differences.csv" in listing.about


def test_runs_without_results_leave_nothing_to_compare() -> None:
    report = report_on(run("isd", "balanced", 0, None, RunState.QUEUED), run("moco_v2", "balanced", 0, 60.0))
    assert report.comparisons == ()


@pytest.mark.parametrize(
    ("rows", "baseline", "is_row"),
    [
        ("method", "moco_v2", True),
        ("method", "moco", False),
        ("[method, train.epochs]", "moco_v2, 3", True),
        ("[method, train.epochs]", "moco_v2", False),
    ],
)
def test_a_plan_knows_the_rows_already(tmp_path: Path, rows: str, baseline: str, is_row: bool) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(
        "name: a\nbase: {train: {epochs: 3}}\ngrid: {method: [isd, moco_v2], seed: [0, 1]}\n"
        f"report: {{rows: {rows}, baseline: '{baseline}'}}\n"
    )
    experiment = load_experiment(path, environment={})
    if is_row:
        check_report(experiment)
        return
    with pytest.raises(InputError, match=rf"a.yaml: report.baseline: no row is called '{baseline}'.*moco_v2"):
        check_report(experiment)


def test_a_search_may_bring_rows_that_a_plan_does_not_know(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(
        "name: a\nsearch: {samples: 2, space: {train.learning_rate: {loguniform: [0.01, 1]}}, metric: eval/knn/top1}\n"
        "report: {rows: train.learning_rate, baseline: '0.1'}\n"
    )
    check_report(load_experiment(path, environment={}))
