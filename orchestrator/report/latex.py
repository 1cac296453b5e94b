"""The report's tables in LaTeX, for a paper. They need ``booktabs``, and ``graphicx`` to be no wider than its lines."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby

from orchestrator.report.blocks import Block, blocks_of, heading_lines
from orchestrator.report.comparing import Listing, listings, sentences
from orchestrator.report.model import Report, RowKind, Table
from orchestrator.report.wording import CellText, caption

#: Characters that stand side by side on a page: more than its text has, since what is too wide is set smaller.
_WIDTH = 100
#: Lines of a table that leave room for its caption and notes on a page.
_HEIGHT = 40
#: Lines that the rules of a tabular and the space around it take.
_RULES = 2

_HEAD = r"""% Needs \usepackage[T1]{fontenc}, \usepackage{booktabs} and \usepackage{graphicx}.
% A table that is wider than the line is made smaller.
\providecommand{\withinline}[1]{\sbox0{#1}\ifdim\wd0>\linewidth\resizebox{\linewidth}{!}{\usebox0}\else\usebox0\fi}"""

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
    r"""Tables to ``\input`` into a document with ``\usepackage{booktabs}`` and ``\usepackage{graphicx}``.

    What is too wide for a page stands in several tabulars, one below the other; what is too long, in several tables.
    """
    blocks = [_HEAD, *_floats(_tabulars(report.table), caption(report), sentences(report))]
    for listing in listings(report):
        blocks += _floats(_listing(listing), f"{listing.title}.", [listing.about])
    return "\n\n".join(blocks) + "\n"


def escape(text: str) -> str:
    """Text that LaTeX sets as it is."""
    return "".join(_ESCAPES.get(character, character) for character in " ".join(text.split()))


def _floats(tabulars: Iterable[tuple[str, int]], caption: str, below: Sequence[str]) -> list[str]:
    """Tables of as many tabulars each as a page has room for; the notes stand below the last."""
    pages: list[list[str]] = []
    room = 0
    for tabular, height in tabulars:
        if height > room:
            pages.append([])
            room = _HEIGHT
        pages[-1].append(tabular)
        room -= height
    notes = f"\\par\\smallskip\n\\parbox{{\\linewidth}}{{\\footnotesize {escape(' '.join(below))}}}\n" if below else ""
    return [
        "\\begin{table}\n\\centering\\small\\setlength{\\tabcolsep}{4pt}\n"
        f"\\caption{{{escape(caption if number == 1 else f'Continued: {caption}')}}}\\smallskip\n"
        + "\n\\par\\medskip\n".join(page)
        + f"\n{notes if number == len(pages) else ''}\\end{{table}}"
        for number, page in enumerate(pages, start=1)
    ]


def _tabulars(table: Table) -> Iterator[tuple[str, int]]:
    """The parts of the table, and how many lines each has."""
    for block in blocks_of(table, _WIDTH):
        yield from _ruled("l" + "r" * len(block.columns), _headings(table.rows_title, block), _rows(block))


def _headings(title: str, block: Block) -> list[str]:
    above, beside = heading_lines(title, max((len(line.label) for line in block.lines), default=0))
    rules, first = [], 2
    for _, columns in block.groups:
        rules.append(f"\\cmidrule(lr){{{first}-{first + columns - 1}}}")
        first += columns
    groups = (f"\\multicolumn{{{columns}}}{{c}}{{{escape(group)}}}" for group, columns in block.groups)
    return [_joined([escape(above), *groups]), " ".join(rules), _joined(map(escape, [beside, *block.titles]))]


def _rows(block: Block) -> Iterator[str]:
    """Each row, with the paper's figures below it."""
    kinds = [RowKind.RUNS, *(line.kind for line in block.lines)]
    row = ""
    for before, line in zip(kinds, block.lines, strict=False):
        if line.is_paper:
            row += "\n" + _joined([f"\\quad\\emph{{{escape(line.label)}}}", *map(_cell, line.texts)])
            continue
        if row:
            yield row
        rule = "\\midrule\n" if row and before is RowKind.RUNS and line.kind is not RowKind.RUNS else ""
        row = rule + _joined([escape(line.label), *map(_cell, line.texts)])
    if row:
        yield row


def _listing(listing: Listing) -> Iterator[tuple[str, int]]:
    """Where it is too wide, what neighbouring lines share stands once above them."""
    headings = listing.headings
    is_wide = sum(max(map(len, column)) for column in zip(headings, *listing.lines, strict=True)) > _WIDTH
    shared = listing.shared if is_wide else ()
    own = [place for place in range(len(headings)) if place not in shared]
    rows: list[str] = []
    for section, lines in groupby(listing.lines, lambda line: [line[place] for place in shared]):
        first, *others = (_joined(escape(line[place]) for place in own) for line in lines)
        rows += [_above(section, [headings[place] for place in shared], len(own)) + first, *others]
    columns = "".join("l" if place < listing.left else "r" for place in own)
    yield from _ruled(columns, [_joined(escape(headings[place]) for place in own)], rows)


def _above(section: Sequence[str], headings: Sequence[str], columns: int) -> str:
    """``balanced top1, against isd``, in a line of its own."""
    if not section:
        return ""
    others = (f"{heading} {text}" for heading, text in zip(headings[1:], section[1:], strict=True))
    return f"\\multicolumn{{{columns}}}{{@{{}}l}}{{\\emph{{{escape(', '.join([section[0], *others]))}}}}} \\\\\n"


def _ruled(columns: str, head: Sequence[str], rows: Iterable[str]) -> Iterator[tuple[str, int]]:
    """Tabulars that a page has room for, alike in length and each with the head, and how many lines each has."""
    rows = list(rows)
    pages = max(1, math.ceil(_height(rows) / (_HEIGHT - len(head) - _RULES)))
    step = max(1, math.ceil(len(rows) / pages))
    for first in range(0, max(1, len(rows)), step):
        page = rows[first : first + step]
        inside = "\n".join(["\\toprule", *head, "\\midrule", *page, "\\bottomrule"])
        tabular = f"\\begin{{tabular}}{{@{{}}{columns}@{{}}}}\n{inside}\n\\end{{tabular}}"
        yield f"\\withinline{{%\n{tabular}}}", len(head) + _height(page) + _RULES


def _height(rows: Iterable[str]) -> int:
    """Lines that rows take: some have a heading above them, or a paper's figures below."""
    return sum(row.count(r" \\") for row in rows)


def _joined(cells: Iterable[str]) -> str:
    line = " & ".join(cells)
    return f"{line} \\\\"


def _cell(text: CellText) -> str:
    value = f"\\textbf{{{escape(text.value)}}}" if text.is_bold else escape(text.value)
    return f"{value} {escape(text.beside)}".strip()
