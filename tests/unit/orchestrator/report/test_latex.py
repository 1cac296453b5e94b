"""The report in LaTeX: its structure, and where LaTeX is installed, that it compiles."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator.report.latex import escape, latex
from orchestrator.report.model import Report, Setup
from orchestrator.report.wording import lines_of
from orchestrator.runs import ReportOptions
from orchestrator.state import RunState
from tests.unit.orchestrator.report.fabricated import report_on, run, with_gaps

NASTY = r"100% of $x_1^2 & {a}\b #~ [c] * <d> | ± − – … · † é"


def everything() -> Report:
    """Bold, a paper's figures, differences, two column groups, a failed run, and a label full of special characters."""
    runs = []
    for number, method in enumerate(("isd", "moco_v2", NASTY)):
        for seed in range(3):
            for profile in ("isd-D1", "isd-D2"):
                value = 60.0 - 5 * number + seed + 0.1 * number * seed * seed
                made = run(method, profile, seed, None if (method, seed) == ("moco_v2", 2) else value)
                setup = Setup(method, None, "resnet18", 200, 256, "imagenet38", "unbalanced", profile[4:], k=1)
                runs.append(replace(made, setup=setup))
    return report_on(*runs, options=ReportOptions(reference="isd/table5"))


def large() -> Report:
    """More columns than a page is wide, more rows than it is high, and names that are long."""
    metrics = tuple(f"eval/transfer_{name}_linear/top1" for name in ("food101", "cifar10", "cars196", "pets"))
    made = [
        replace(
            run(f"resnet50, moco_v2 symmetric=true, {rows}", "full", 0, 50.0 + rows),
            metrics=dict.fromkeys(metrics, 9.0),
        )
        for rows in range(60)
    ]
    return report_on(*made, options=ReportOptions(metrics=metrics))


REPORTS = {
    "everything": everything(),
    "large": large(),
    "gaps": with_gaps(),
    "queued": report_on(run("isd", "balanced", 0, None, RunState.QUEUED)),
}


def tabulars(text: str) -> list[tuple[str, list[str]]]:
    """Column letters and lines of every tabular."""
    found = re.findall(r"\\begin\{tabular\}\{@\{\}([lr]+)@\{\}\}\n(.*?)\\end\{tabular\}", text, re.DOTALL)
    return [(columns, body.strip().splitlines()) for columns, body in found]


def width(line: str) -> int:
    """Columns that a line of a tabular fills."""
    spans = [int(number) for number in re.findall(r"\\multicolumn\{([0-9]+)\}", line)]
    return len(re.findall(r"(?<!\\)&", line)) + 1 + sum(span - 1 for span in spans)


@pytest.mark.parametrize("report", REPORTS.values(), ids=REPORTS)
def test_every_line_fills_its_table(report: Report) -> None:
    found = tabulars(latex(report))
    assert found
    for columns, lines in found:
        assert (lines[0], lines[-1]) == (r"\toprule", r"\bottomrule")
        for line in lines[1:-1]:
            if not line.startswith((r"\midrule", r"\cmidrule")):
                assert line.endswith(r" \\"), line
                assert width(line) == len(columns), line


@pytest.mark.parametrize("report", REPORTS.values(), ids=REPORTS)
def test_braces_and_environments_are_closed(report: Report) -> None:
    text = latex(report)
    bare = re.sub(r"\\[\\{}]", "", text)
    depth = 0
    for character in bare:
        depth += {"{": 1, "}": -1}.get(character, 0)
        assert depth >= 0
    assert depth == 0
    opened: list[str] = []
    for kind, name in re.findall(r"\\(begin|end)\{(\w+)\}", text):
        if kind == "begin":
            opened.append(name)
        else:
            assert opened.pop() == name
    assert opened == []


def test_what_users_wrote_is_set_as_it_is() -> None:
    text = escape(NASTY)
    assert text.startswith(r"100\% of \$x\_1\textasciicircum{}2 \& \{a\}\textbackslash{}b \#\textasciitilde{} {[}c]")
    bare = re.sub(r"\\[a-zA-Z]+\{\}|\\[%$_&{}#]|\$\\?[-\w]+\$", "", text)
    assert not set(bare) & set("%_&#~^\\$<>|±−–…·†")


def test_the_best_is_bold_and_the_paper_stands_below_it() -> None:
    lines = latex(everything()).splitlines()
    (place,) = [number for number, line in enumerate(lines) if line.startswith("isd & ") and "isd-D1" not in line][:1]
    assert r"\textbf{61.0 $\pm$ 1.0} (3)" in lines[place]
    assert lines[place + 1].startswith(r"\quad\emph{paper} & 49.6 (+11.4) {[}1] & ")


def test_many_column_groups_stand_in_several_tables() -> None:
    runs = [run("isd", f"p{number}", 0, 50.0) for number in range(5)]
    widths = [len(columns) - 1 for columns, _ in tabulars(latex(report_on(*runs)))]
    assert widths == [8, 8, 4]


def test_what_is_larger_than_a_page_stands_in_several_tables_with_every_line_once() -> None:
    report = large()
    text = latex(report)
    found = [part for part in tabulars(text) if r"\multicolumn" in part[1][1] and "food101" in part[1][3]]
    assert len(found) > 1
    rows = [line.partition(" & ")[0] for _, lines in found for line in lines if line.startswith("resnet50")]
    assert rows == [escape(line.label) for line in lines_of(report.table) if line.label != "chance"]
    assert text.count("Continued: ") == text.count(r"\caption") - 2  # the table and the differences


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="pdflatex is not installed")
@pytest.mark.parametrize("report", REPORTS.values(), ids=REPORTS)
def test_it_compiles(report: Report, tmp_path: Path) -> None:
    (tmp_path / "report.tex").write_text(latex(report))
    (tmp_path / "paper.tex").write_text(
        "\\documentclass{article}\n\\usepackage[T1]{fontenc}\n\\usepackage{booktabs}\n\\usepackage{graphicx}\n"
        "\\begin{document}\n\\input{report}\n\\end{document}\n"
    )
    done = subprocess.run(
        ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "paper.tex"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:]
    assert not re.findall("Overfull.*|Float too large.*", done.stdout)
