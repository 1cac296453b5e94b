"""Runs without files, and what the report on them says."""

from __future__ import annotations

from dataclasses import replace

from orchestrator.report.model import DrawnFigure, Report, ReportedRun
from orchestrator.report.summary import summarise
from orchestrator.report.wording import cell_text
from orchestrator.runs import ReportOptions
from orchestrator.state import RunState

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


def with_gaps() -> Report:
    """Two methods in two profiles and two seeds, of which one cell has failed and one run still works."""
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
