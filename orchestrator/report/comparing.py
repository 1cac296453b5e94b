"""What the report says of differences: between rows, and to a paper. The same in every form."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from orchestrator.report.model import Difference, Report, RowKind, SeedsNeeded
from orchestrator.report.statistics import FEWEST_PAIRS, MOST_SEEDS, POWER, SPREAD_CONFIDENCE, effect_seen
from orchestrator.report.wording import averaged_over, column_title, interval_text, printed, signed, text_of
from orchestrator.runs import ReportOptions

#: Lines of a printed table of differences beyond which only the headline metric's are printed, and beyond which none.
_MANY_LINES, _MOST_LINES = 40, 200
#: More columns than this in one sentence are counted.
_MAX_NAMED = 6


@dataclass(frozen=True)
class Listing:
    """A table of texts below the main one.

    Attributes:
        left: how many of the first columns hold words, which are aligned on the left.
        about: what it shows, in a few sentences.
        shared: places of the columns that neighbouring lines have in common, where there are several.
    """

    title: str
    headings: tuple[str, ...]
    left: int
    lines: tuple[tuple[str, ...], ...]
    about: str
    shared: tuple[int, ...]


def listings(report: Report) -> tuple[Listing, ...]:
    """The tables below the main one that there is something for: differences between rows, and to the paper."""
    return tuple(listing for listing in (_differences(report), _paper(report)) if listing is not None)


def sentences(report: Report) -> tuple[str, ...]:
    """What must be known to read the table: what bold means, where it is missing, and what a paper's figures are."""
    return (*_on_baseline(report), *_on_noise(report), *_on_paper(report))


def _on_baseline(report: Report) -> Iterator[str]:
    table, baseline = report.table, report.options.baseline
    for row in table.rows:
        if row.kind is RowKind.RUNS and row.label == baseline:
            places = zip(table.columns, row.cells, strict=True)
            lacking = [column_title(table, column) for column, cell in places if cell.estimate is None or cell.is_early]
            if lacking:
                yield f"Nothing is compared with {baseline} where it has no result: {_named(lacking)}."


def _on_noise(report: Report) -> Iterator[str]:
    ranked = [comparison for comparison in report.comparisons if comparison.best is not None]
    if not report.comparisons:
        return
    over = averaged_over(report.table)
    pairs = max(comparison.pairs for comparison in report.comparisons)
    if pairs < 2:
        yield (
            f"Whether a difference is more than noise cannot be told: no two rows have two pairs of runs that agree in "
            f"{over}. So nothing is bold."
        )
        return
    if pairs < FEWEST_PAIRS:
        seen = (effect_seen(n, report.options.confidence) for n in (2, 3, 5))
        two, three, five = (f"{effect:.{0 if effect > 10 else 1}f}" for effect in seen)
        yield (
            f"Two pairs of runs that agree in {over} are hardly enough: to be shown in {100 * POWER:.0f} % of "
            f"experiments, a difference must be {two} times its standard deviation; over three pairs {three} times, "
            f"over five {five} times."
        )
    if not ranked:
        return
    test = (
        f"p < {1 - report.options.confidence:.3g} (paired t test over {over}, adjusted by Holm's method for the rows "
        "of the column)"
    )
    if any(comparison.is_beyond_noise for comparison in ranked):
        yield f"Bold is the best of a column that is beyond noise: every other row differs from it with {test}."
    else:
        yield f"Nothing is bold, since in no column does every other row differ from the best with {test}."
    noisy: dict[str, list[str]] = {}
    for comparison in ranked:
        if comparison.best is not None and not comparison.is_beyond_noise:
            noisy.setdefault(comparison.best, []).append(column_title(report.table, comparison.column))
    if noisy:
        leads = (f"{row} ({_named(columns)})" for row, columns in noisy.items())
        yield f"Best, but not beyond noise: {'; '.join(leads)}."


def _named(columns: list[str]) -> str:
    more = f" and {len(columns) - _MAX_NAMED} more" if len(columns) > _MAX_NAMED else ""
    return ", ".join(columns[:_MAX_NAMED]) + more


def _on_paper(report: Report) -> Iterator[str]:
    if report.paper is None:
        return
    if not any(cell.reference for row in report.table.rows for cell in row.cells):
        yield (
            f"{report.paper.name} has no figure for any cell here: none of the same method, metric, data set and "
            "profile."
        )
        return
    yield f"Paper: {report.paper.name} ({report.paper.source}); in brackets our mean minus the paper's figure."
    for place, note in enumerate(report.paper.notes, start=1):
        yield f"[{place}] {note}."


def _differences(report: Report) -> Listing | None:
    rows = [(comparison, item) for comparison in report.comparisons for item in comparison.differences]
    if not rows:
        return None
    table, options = report.table, report.options
    shown = rows
    if len(rows) > _MANY_LINES:
        shown = [(comparison, item) for comparison, item in rows if comparison.column.metric == table.metrics[0]]
    shown = shown[:_MOST_LINES]
    versus = f"the row {options.baseline}" if options.baseline is not None else "the best row of the column"
    about = f"Each row minus {versus}, over pairs of runs that agree in {averaged_over(table)}."
    headings = ["column", table.rows_title, "against", "difference"]
    if any(
        item.paired is not None and item.paired.n > 1 for _, item in rows
    ):  # else nothing is known but the differences
        headings += ["interval", "p", "pairs", "runs needed"]
        about += _about_noise(options)
    if len(shown) < len(rows):
        about += f" {len(rows) - len(shown)} more lines are in differences.csv."
    lines = tuple(
        (
            column_title(table, comparison.column),
            item.row,
            item.against,
            *_difference_texts(item, comparison.column.metric),
        )[: len(headings)]
        for comparison, item in shown
    )
    return Listing("Differences", tuple(headings), 3, lines, about, shared=(0, 2))


def _about_noise(options: ReportOptions) -> str:
    points = f"{options.detect:g} point{'' if options.detect == 1 else 's'}"
    return (
        f" Interval: {100 * options.confidence:.3g} %, of each difference by itself. p: paired t test, two-sided, "
        "adjusted by Holm's method within the column. Runs needed: pairs that would show a difference of "
        f"{points} in {100 * POWER:.0f} % of experiments, from the spread seen; in brackets from the upper "
        f"{100 * SPREAD_CONFIDENCE:.0f} % limit of that spread."
    )


def _difference_texts(item: Difference, metric: str) -> tuple[str, ...]:
    paired = item.paired
    if paired is None:
        return "–", "–", "–", "0", seeds_text(None, 0)
    difference = signed(paired.mean, metric)
    return (
        difference,
        interval_text(paired.interval, metric),
        p_text(item.adjusted_p),
        str(paired.n),
        seeds_text(item.seeds, paired.n),
    )


def p_text(p: float | None) -> str:
    """Two digits, down to a thousandth."""
    if p is None:
        return "–"
    return "< 0.001" if p < 0.001 else f"{p:.2g}" if p < 0.1 else f"{p:.2f}"


def seeds_text(seeds: SeedsNeeded | None, pairs: int) -> str:
    """``about 5 (up to 33)``, worked out from so many pairs."""
    if seeds is None:
        return "too few pairs" if pairs < FEWEST_PAIRS else "–"
    about, at_most = (
        f"over {MOST_SEEDS:,}" if value >= MOST_SEEDS else f"{value:,}" for value in (seeds.about, seeds.at_most)
    )
    return f"about {about} (up to {at_most})" if about != at_most else f"about {about}"


def _paper(report: Report) -> Listing | None:
    """Where there is an interval, ours beside the paper's; without one the main table says it all."""
    if report.paper is None:
        return None
    table = report.table
    found = [
        (column, row.label, cell, cell.reference)
        for place, column in enumerate(table.columns)
        for row in table.rows
        if row.kind is RowKind.RUNS
        and (cell := row.cells[place]).reference is not None
        and cell.reference.interval is not None
    ]
    if not found:
        return None
    lines = tuple(
        (
            column_title(table, column),
            label,
            text_of(cell, column.metric).whole,
            printed(reference.value) + ("" if reference.note is None else f" [{reference.note}]"),
            signed(reference.difference or 0.0, column.metric),
            interval_text(reference.interval, column.metric),
        )
        for column, label, cell, reference in found[:_MOST_LINES]
    )
    about = (
        f"Our mean minus the figure of {report.paper.name}, with an interval of {100 * report.options.confidence:.3g} "
        "% from the spread of our runs; the paper's own spread is not in it."
    )
    if len(lines) < len(found):
        about += f" {len(found) - len(lines)} more lines are in summary.csv."
    headings = ("column", table.rows_title, "ours", "paper", "difference", "interval")
    return Listing("Beside the paper", headings, 2, lines, about, shared=(0,))
