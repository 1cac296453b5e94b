"""Every form in which a report is written."""

from __future__ import annotations

import csv
import io
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from rich.console import Console

from orchestrator.report import build_report, render_summary, write_report
from orchestrator.report.comparing import p_text
from orchestrator.report.csv_tables import differences_csv, runs_csv, summary_csv
from orchestrator.report.html import html
from orchestrator.report.latex import latex
from orchestrator.report.markdown import escape, markdown, markdown_note
from orchestrator.report.model import Cell, Report
from orchestrator.report.wording import cell_text, signed
from orchestrator.runs import ExperimentView, ReportOptions, RunView
from orchestrator.state import RunState
from tests.unit.orchestrator.report.fabricated import FIGURE, TOP1, report_on, run, texts, with_gaps
from trainers.config import ISD, RunConfig
from trainers.rundir import Result, RunDir, atomic


@pytest.fixture
def full() -> Report:
    return with_gaps()


def test_markdown_is_a_table_of_equal_lines(full: Report) -> None:
    text = markdown(full, [FIGURE])
    table = [line for line in text.splitlines() if line.startswith("|")][:6]
    assert {line.count("|") for line in table} == {10}
    assert "| isd | 71.0 ± 1.4 (2) | 81.0 ± 1.4 (2) |" in text
    assert "| moco\\_v2 · balanced · seed=0 |" in text
    assert "![Accuracy](per_class.png)" in text


def test_a_note_begins_with_the_headline(full: Report) -> None:
    note = markdown_note(full)
    assert note.splitlines()[:3] == [
        "| method | balanced top1 | long\\_tailed top1 |",
        "| --- | ---: | ---: |",
        "| isd | 71.0 ± 1.4 (2) | 60.0 (1 of 2) |",
    ]
    assert "chance" not in note.partition("\n\n")[0]
    assert note.partition("All metrics:\n\n")[2] in markdown(full, [FIGURE])
    alone = report_on(run("isd", "balanced", 0, 70.0), options=ReportOptions(metrics=("train/loss",)))
    assert markdown_note(alone) in markdown(alone)


def test_text_from_files_cannot_break_the_table() -> None:
    assert escape("a|b\n<script> `x` [y]") == "a\\|b &lt;script&gt; \\`x\\` \\[y\\]"


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


def test_the_terminal_says_why_runs_failed() -> None:
    reasons = ["loss is nan"] * 3 + ["out of memory"] * 2 + ["a", "b", "c"]
    failed = [
        replace(run("isd", "balanced", seed, None, RunState.FAILED), reason=reason)
        for seed, reason in enumerate(reasons)
    ]
    stream = io.StringIO()
    Console(file=stream, width=120).print(render_summary(report_on(*failed), 120))
    assert [line.rstrip() for line in stream.getvalue().splitlines()[-4:]] == [
        "3 of 8 runs failed or were lost: loss is nan",
        "2 of 8 runs failed or were lost: out of memory",
        "1 of 8 runs failed or were lost: a",
        "2 more failed or were lost, for other reasons: report.md names them",
    ]


@pytest.fixture
def clear() -> Report:
    """Three seeds, of which each says that ISD is better by about ten points."""
    isd = [run("isd", "balanced", seed, value) for seed, value in enumerate((70.0, 71.1, 69.4))]
    return report_on(*isd, *(run("moco_v2", "balanced", seed, value) for seed, value in enumerate((60.0, 61.2, 59.3))))


def test_the_best_is_bold_in_every_form(clear: Report) -> None:
    assert "| isd | **70.2 ± 0.9** (3) |" in markdown(clear)
    page = html(clear)
    assert "<strong>70.2 ± 0.9</strong>" in page
    assert page.count("<strong>") == len(clear.table.columns)
    stream = io.StringIO()
    Console(file=stream, width=100, force_terminal=True, color_system="standard").print(render_summary(clear, 100))
    assert "\x1b[1m70.2 ± 0.9\x1b[0m" in stream.getvalue()
    cells = list(csv.DictReader(io.StringIO(summary_csv(clear))))
    assert {row["row"] for row in cells if row["best_beyond_noise"]} == {"isd"}


def test_differences_are_listed_with_what_they_are_worth(clear: Report) -> None:
    line = next(line for line in markdown(clear).splitlines() if line.startswith("| balanced top1 | moco"))
    assert line == "| balanced top1 | moco\\_v2 | isd | −10.0 | \\[−10.2, −9.8\\] | &lt; 0.001 | 3 | about 3 |"
    assert {"−10.0", "[−10.2, −9.8]", "< 0.001"} <= set(Page(html(clear)).texts)
    row = next(csv.DictReader(io.StringIO(differences_csv(clear))))
    assert (row["row"], row["against"], row["pairs"]) == ("moco_v2", "isd", "3")
    assert float(row["difference"]) == pytest.approx(-10.0)
    assert float(row["low"]) < float(row["difference"]) < float(row["high"])
    assert 0 < float(row["p"]) == float(row["p_holm"]) < 0.001


def test_a_wide_table_is_printed_in_parts() -> None:
    report = report_on(*(run("isd", f"p{number}", 0, 50.0 + number) for number in range(5)))
    page = Page(html(report))
    assert sum(tag == "table" and attributes.get("class") == "main" for tag, attributes in page.tags) == 2
    assert {f"{50 + number}.0" for number in range(5)} <= set(page.texts)


def test_of_many_runs_without_a_result_some_are_named_and_the_others_counted() -> None:
    report = report_on(*(run("isd", "balanced", seed, None, RunState.QUEUED) for seed in range(300)))
    assert markdown(report).count("| queued |") == 200
    assert "… and 100 more" in markdown(report)
    page = Page(html(report))
    assert "… and 100 more" in page.texts


def test_an_experiment_without_runs_has_a_report() -> None:
    report = report_on()
    for form in (markdown, html, latex, summary_csv, differences_csv, runs_csv):
        assert form(report)
    assert "The experiment has no runs yet." in markdown(report)


def test_a_difference_has_its_sign() -> None:
    assert [signed(value, TOP1) for value in (0.26, -0.26, 0.04, -0.04)] == ["+0.3", "−0.3", "0.0", "0.0"]
    assert signed(-0.0123456, "train/loss") == "−0.01235"


def test_small_p_values_are_not_zero() -> None:
    assert [p_text(p) for p in (None, 1e-9, 0.00123, 0.0456, 0.456, 1.0)] == [
        "–",
        "< 0.001",
        "0.0012",
        "0.046",
        "0.46",
        "1.00",
    ]


def test_an_empty_cell_has_no_value() -> None:
    assert cell_text(Cell(None, 0), TOP1) == "–"
    assert cell_text(Cell(None, 2, {RunState.RUNNING: 1, RunState.FAILED: 1}), TOP1) == "running: 1, failed: 1"


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
