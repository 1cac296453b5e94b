"""Accuracy by class: what the figure of accuracy against class frequency shows. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from orchestrator.report.grouping import grouped
from orchestrator.report.model import ClassPanel, Curve, Estimate, ReportedRun
from orchestrator.report.statistics import estimate


def class_panels(
    row_axes: Sequence[str], columns: Sequence[str], protocol: str, runs: Sequence[ReportedRun]
) -> tuple[ClassPanel, ...]:
    """A panel for each column group, with a curve for each row.

    Args:
        row_axes, columns: names of the axes of the rows and of the columns.
        protocol: whose accuracies are shown, such as ``knn``; runs without it are left out.
    """
    measured = [run for run in runs if protocol in run.per_class and run.class_counts]
    panels = []
    for group, members in grouped(measured, columns).items():
        first = members[0]
        classes = _by_frequency(first, measured)
        # Runs on other classes (two data sets in one column) cannot share an axis with the first.
        comparable = [run for run in members if run.class_counts.keys() == first.class_counts.keys()]
        curves = tuple(
            Curve(row, tuple(_accuracy(of_row, protocol, name) for name in classes))
            for row, of_row in grouped(comparable, row_axes).items()
        )
        panels.append(
            ClassPanel(
                group,
                classes,
                tuple(first.class_counts[name] for name in classes),
                tuple(first.groups[name] for name in classes) if set(classes) <= set(first.groups) else (),
                curves,
                100 / len(classes),
            )
        )
    return tuple(panels)


def _by_frequency(run: ReportedRun, runs: Iterable[ReportedRun]) -> tuple[str, ...]:
    """The run's classes, most frequent first as in the most imbalanced run on the same classes.

    So every panel has one order, and a balanced panel can be read beside its long-tailed partner.
    """
    partners = (other for other in runs if other.class_counts.keys() == run.class_counts.keys())
    counts = max(partners, key=_imbalance).class_counts
    return tuple(sorted(counts, key=lambda name: -counts[name]))


def _imbalance(run: ReportedRun) -> float:
    return max(run.class_counts.values()) / max(1, min(run.class_counts.values()))


def _accuracy(runs: Iterable[ReportedRun], protocol: str, class_name: str) -> Estimate | None:
    values = (run.per_class[protocol].get(class_name) for run in runs)
    return estimate(value for value in values if value is not None)
