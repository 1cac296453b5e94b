"""The report's tables in LaTeX, for a paper. They need ``booktabs`` and, for the bold and the signs, nothing else."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from orchestrator.report.comparing import Listing, listings, sentences
from orchestrator.report.model import Report, RowKind, Table
from orchestrator.report.wording import Block, CellText, Line, blocks_of, caption, lines_of, metric_titles

#: Columns of numbers that fit on a page side by side.
_MAX_COLUMNS = 6

_ESCAPES = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "#": r"\#",
    "%": r"\%",
    "_": r"\_",
    "^": r"\textasciicircum{}",
    "~": r"\textasciitilde{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    "[": "{[}",  # at the beginning of a line it would be an option of the line break before it, as would a star
    "*": "{*}",
    "±": r"$\pm$",
    "−": "$-$",
    "–": "--",
    "…": r"\dots{}",
    "·": r"$\cdot$",
    "†": r"$\dagger$",
}


def latex(report: Report) -> str:
    r"""Tables to ``\input`` into a document with ``\usepackage{booktabs}``.

    Column groups that are too many for a page stand in several tabulars, one below the other.
    """
    blocks = [
        "% Needs \\usepackage[T1]{fontenc} and \\usepackage{booktabs}.",
        _floating("\n\\par\\medskip\n".join(_tabulars(report.table)), caption(report), sentences(report)),
    ]
    blocks += [_floating(_listing(listing), f"{listing.title}.", [listing.about]) for listing in listings(report)]
    return "\n\n".join(blocks) + "\n"


def escape(text: str) -> str:
    """Text that LaTeX sets as it is."""
    return "".join(_ESCAPES.get(character, character) for character in " ".join(text.split()))


def _floating(body: str, caption: str, below: Sequence[str]) -> str:
    notes = f"\\par\\smallskip\n\\parbox{{\\linewidth}}{{\\footnotesize {escape(' '.join(below))}}}\n" if below else ""
    return f"\\begin{{table}}\n\\centering\\small\n\\caption{{{escape(caption)}}}\n{body}\n{notes}\\end{{table}}"


def _tabulars(table: Table) -> Iterator[str]:
    lines = list(lines_of(table))
    for block in blocks_of(table, _MAX_COLUMNS):
        yield _tabular(table, block, lines)


def _tabular(table: Table, block: Block, lines: Sequence[Line]) -> str:
    per_group, groups = len(table.metrics), block.groups
    head = [
        _joined(["", *(f"\\multicolumn{{{per_group}}}{{c}}{{{escape(group)}}}" for group in groups)]),
        " ".join(
            f"\\cmidrule(lr){{{2 + place * per_group}-{1 + (place + 1) * per_group}}}" for place in range(len(groups))
        ),
        _joined([escape(table.rows_title), *(escape(title) for _ in groups for title in metric_titles(table))]),
        r"\midrule",
    ]
    body: list[str] = []
    was_runs = True
    for line in lines:
        is_runs = line.kind is RowKind.RUNS
        if was_runs and not is_runs and body:
            body.append(r"\midrule")
        was_runs = is_runs
        label = f"\\quad\\emph{{{escape(line.label)}}}" if line.is_paper else escape(line.label)
        body.append(_joined([label, *map(_cell, block.texts(line))]))
    return _ruled("l" + "r" * len(block.columns), [*head, *body])


def _listing(listing: Listing) -> str:
    columns = "l" * listing.left + "r" * (len(listing.headings) - listing.left)
    lines = [_joined(map(escape, listing.headings)), r"\midrule"]
    return _ruled(columns, [*lines, *(_joined(map(escape, line)) for line in listing.lines)])


def _ruled(columns: str, lines: Sequence[str]) -> str:
    inside = "\n".join(lines)
    return f"\\begin{{tabular}}{{{columns}}}\n\\toprule\n{inside}\n\\bottomrule\n\\end{{tabular}}"


def _joined(cells: Iterable[str]) -> str:
    line = " & ".join(cells)
    return f"{line} \\\\"


def _cell(text: CellText) -> str:
    value = f"\\textbf{{{escape(text.value)}}}" if text.is_bold else escape(text.value)
    return f"{value} {escape(text.beside)}".strip()
