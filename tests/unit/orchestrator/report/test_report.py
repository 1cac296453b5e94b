"""The report: who is averaged with whom, what the cells say, and every form it is written in."""

from __future__ import annotations

import csv
import io
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from rich.console import Console

from orchestrator.report import build_report, render_summary, write_report
from orchestrator.report.csv_tables import runs_csv, summary_csv
from orchestrator.report.html import html
from orchestrator.report.markdown import escape, markdown
from orchestrator.report.model import Cell, DrawnFigure, Estimate, Report, ReportedRun, RowKind
from orchestrator.report.statistics import estimate
from orchestrator.report.summary import summarise
from orchestrator.report.wording import caption, cell_text, metric_titles
from orchestrator.runs import ExperimentView, ReportOptions, RunView
from orchestrator.state import RunState
from trainers.config import ISD, RunConfig
from trainers.rundir import Result, RunDir, atomic

AXES = ("method", "data.profile", "seed")
CLASSES = ("cat", "dog", "eel")
TOP1 = "eval/knn/top1"
FIGURE = DrawnFigure("per_class", "Accuracy", "By class.", b"<svg/>", b"")


def run(method: str, profile: str, seed: int, top1: float | None, state: RunState = RunState.COMPLETED) -> ReportedRun:
    """A run whose classes are worse the rarer they are; without a value it has no result."""
    labels = {"method": method, "data.profile": profile, "seed": str(seed)}
    bare = ReportedRun(f"{method}{profile}{seed}", f"{method} · {profile} · seed={seed}", labels, state)
    if top1 is None:
        return bare
    by_group = {"many": top1 + 10, "medium": top1, "few": top1 - 10}
    return replace(
        bare,
        backbone="vit_tiny" if method == "sdssl" else "resnet18",
        metrics={TOP1: top1, "train/loss": 1.23456} | {f"eval/knn/{group}": value for group, value in by_group.items()},
        untrained={TOP1: 20.0 + seed},
        per_class={"knn": dict(zip(CLASSES, by_group.values(), strict=True))},
        class_counts=dict(zip(CLASSES, (100, 31, 10) if profile == "long_tailed" else (47, 47, 47), strict=True)),
        groups=dict(zip(CLASSES, by_group, strict=True)),
    )


def report_on(*runs: ReportedRun, options: ReportOptions | None = None) -> Report:
    return summarise("digits-lt", AXES, options or ReportOptions(), runs)


@pytest.fixture
def full() -> Report:
    return report_on(
        run("isd", "balanced", 0, 70.0),
        run("isd", "balanced", 1, 72.0),
        run("isd", "long_tailed", 0, 60.0),
        run("isd", "long_tailed", 1, None, RunState.RUNNING),
        run("moco_v2", "balanced", 0, None, RunState.FAILED),
        run("moco_v2", "balanced", 1, None, RunState.FAILED),
        run("moco_v2", "long_tailed", 0, 50.0),
        run("moco_v2", "long_tailed", 1, 54.0),
    )


def texts(report: Report, metric: str = TOP1) -> dict[str, dict[str, str]]:
    """Row label -> column group -> what the cell says."""
    table = report.table
    return {
        row.label: {
            column.group: cell_text(cell, metric)
            for column, cell in zip(table.columns, row.cells, strict=True)
            if column.metric == metric
        }
        for row in table.rows
    }


# --- arithmetic -------------------------------------------------------------------------------------------------------


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
        "No run has eval/linear/top1. "
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


# --- forms ------------------------------------------------------------------------------------------------------------


def test_markdown_is_a_table_of_equal_lines(full: Report) -> None:
    text = markdown(full, [FIGURE])
    table = [line for line in text.splitlines() if line.startswith("|")][:6]
    assert {line.count("|") for line in table} == {10}
    assert "| isd | 71.0 ± 1.4 (2) | 81.0 ± 1.4 (2) |" in text
    assert "| moco\\_v2 · balanced · seed=0 |" in text
    assert "![Accuracy](per_class.png)" in text


def test_text_from_files_cannot_break_the_table() -> None:
    assert escape("a|b\n<script> `x` [y]") == "a\\|b \\<script\\> \\`x\\` \\[y\\]"


class Page(HTMLParser):
    """Tags and texts of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.texts.append(data.strip())


def test_the_page_needs_nothing_from_elsewhere(full: Report) -> None:
    page = Page(html(full, [FIGURE]))
    assert not {tag for tag, _ in page.tags} & {"script", "link", "iframe"}
    sources = [attributes["src"] for _, attributes in page.tags if "src" in attributes]
    assert len(sources) == 1
    assert str(sources[0]).startswith("data:image/svg+xml;base64,")
    assert {"71.0 ± 1.4", "(2)", "failed: 2", "60.0", "(1 of 2)"} <= set(page.texts)


def test_the_page_escapes_what_users_wrote() -> None:
    made = run("<b>isd</b>", "balanced", 0, None, RunState.FAILED)
    page = Page(html(report_on(replace(made, reason="<script>alert(1)</script>"))))
    assert not {tag for tag, _ in page.tags} & {"script", "b"}
    assert "<script>alert(1)</script>" in page.texts


def test_csv_holds_every_value_in_full(full: Report) -> None:
    rows = list(csv.DictReader(io.StringIO(runs_csv(full))))
    failed = [row for row in rows if row["state"] == "failed"]
    assert [(row["metric"], row["value"]) for row in failed] == [("", "")] * 2
    first = next(row for row in rows if row["metric"] == "train/loss")
    assert (first["method"], first["data.profile"], first["seed"], first["value"]) == (
        "isd",
        "balanced",
        "0",
        "1.23456",
    )
    cells = list(csv.DictReader(io.StringIO(summary_csv(full))))
    isd = next(row for row in cells if (row["row"], row["column"], row["metric"]) == ("isd", "balanced", TOP1))
    assert (float(isd["mean"]), float(isd["std"]), isd["n"], isd["expected"]) == (71.0, 2**0.5, "2", "2")


@pytest.mark.parametrize("width", [200, 100, 80, 60, 30])
def test_the_terminal_shows_every_value_at_any_width(full: Report, width: int) -> None:
    stream = io.StringIO()
    console = Console(file=stream, width=width, color_system=None)
    console.print(render_summary(full, width))
    lines = stream.getvalue().splitlines()
    assert max(map(len, lines)) <= width
    shown = " ".join(" ".join(lines).split())
    if width >= 60:
        assert "71.0 ± 1.4 (2)" in shown
        assert "failed: 2" in shown
    assert "…" not in shown


def test_an_empty_cell_has_no_value() -> None:
    assert cell_text(Cell(None, 0), TOP1) == "–"
    assert cell_text(Cell(None, 2, {RunState.RUNNING: 1, RunState.FAILED: 1}), TOP1) == "running: 1, failed: 1"


# --- from run directories to files ------------------------------------------------------------------------------------


def test_files_are_written_from_run_directories(tmp_path: Path) -> None:
    views = []
    for position, seed in enumerate((1, 0)):
        run_dir = RunDir(tmp_path / "runs" / f"{seed:012x}")
        run_dir.path.mkdir(parents=True)
        config = RunConfig(method=ISD(), seed=seed).model_dump(mode="json")
        atomic.write_json(run_dir.spec_path, {"config": config})
        made = run("isd", "balanced", seed, 70.0 + seed)
        result = Result(
            run_id=f"{seed:012x}",
            steps=10,
            epochs=1,
            metrics=dict(made.metrics),
            per_class={"knn": dict(made.per_class["knn"])},
            class_counts=dict(made.class_counts),
            groups=dict(made.groups),
        )
        atomic.write_json(run_dir.result_path, result.to_json())
        axes = {"method": "isd", "seed": str(seed)}
        views.append(RunView(result.run_id, 1 - position, axes, RunState.RUNNING, "", "local", "", 1, run_dir))
    options = ReportOptions(columns=("data.profile", "train.epochs"))
    experiment = ExperimentView("digits", "", Path("digits.yaml"), ("method", "seed"), options)

    report = build_report(experiment, views)
    assert texts(report) == {"isd": {"balanced, 200": "70.5 ± 0.7 (2)"}, "chance": {"balanced, 200": "33.3"}}
    assert [item.labels["seed"] for item in report.runs] == ["0", "1"]

    paths = write_report(report, tmp_path / "report", [FIGURE])
    names = [path.name for path in paths]
    assert names[:6] == ["report.md", "report.html", "report.tex", "summary.csv", "differences.csv", "runs.csv"]
    assert {"per_class.svg", "per_class.png"} <= set(names)
    before = {path: path.read_bytes() for path in paths}
    write_report(report, tmp_path / "report", [FIGURE])
    assert {path: path.read_bytes() for path in paths} == before, "the same report is not the same file"
