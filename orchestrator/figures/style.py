"""How every figure looks, and how it becomes a file: drawn without a display and without pyplot's global state.

Readable in black and white: lines differ in marker and dash, bars in hatching. Wide as a page of text, so that LaTeX
takes the PDF as it is.
"""

from __future__ import annotations

import io
import math
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure
    from matplotlib.gridspec import SubplotSpec
    from matplotlib.legend import Legend

Form = Literal["svg", "png", "pdf"]

#: Okabe and Ito's palette, which colour-blind readers can tell apart; its yellow is too pale for lines.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
# Their numbers have no common divisor with that of the colours: it takes 56 rows until two look alike.
_MARKERS = "osD^vPX*"
_DASHES = ("-", "--", "-.", ":")
_HATCHES = ("", "///", "...", "xx", "\\\\\\", "++", "oo", "--")

#: Inches: the width of a page's text, of a lone panel, and the height of a panel.
PAGE, LONE, PANEL_HEIGHT = 6.9, 4.8, 2.3
#: Inches that a character takes on average, at the size of the labels.
CHARACTER = 0.067
#: Panels that stand side by side.
_MAX_COLUMNS = 3
_MAX_LABEL = 40
GREY = "#555555"
CHANCE = "chance"

_STYLE: dict[str, Any] = {
    "font.size": 8,
    "axes.titlesize": 8.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "lines.linewidth": 1.3,
    "lines.markersize": 4,
    "hatch.linewidth": 0.6,
    "text.parse_math": False,  # a label is a label, whatever dollars it has
    "svg.fonttype": "none",  # text stays text: small files, and it can be searched
    "svg.hashsalt": "sweep",  # the same report is the same file
    "pdf.fonttype": 42,  # conferences refuse the default, Type 3
}
#: Neither a date nor a version in a file: the same report is the same file.
_METADATA: dict[Form, dict[str, None]] = {
    "svg": {"Date": None, "Creator": None},
    "png": {"Software": None},
    "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
}
_DRAWING = threading.RLock()


@dataclass(frozen=True)
class Look:
    """What tells one row from the others, in every figure alike."""

    colour: str
    marker: str
    dash: Literal["-", "--", "-.", ":"]
    hatch: str


def look(number: int) -> Look:
    """The look of the row with this number, from 0."""
    dash: Any = _DASHES[number % len(_DASHES)]
    return Look(
        _COLOURS[number % len(_COLOURS)], _MARKERS[number % len(_MARKERS)], dash, _HATCHES[number % len(_HATCHES)]
    )


@contextmanager
def drawing() -> Iterator[None]:
    """The style, whatever the user's own settings are. One thread draws at a time: matplotlib's settings are global."""
    from matplotlib import style

    with _DRAWING, style.context(["default", _STYLE]), warnings.catch_warnings():
        # A name in a script that the font lacks is drawn as boxes; nobody could do anything about it here.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        yield


def panel_grid(
    number: int, *, groups: int = 1, height: float = PANEL_HEIGHT, share_y: bool = False
) -> tuple[Figure, list[Axes]]:
    """A figure with so many panels, row by row; as wide as a page, a lone panel less.

    Args:
        groups: where this is more than one, every so many panels begin a new line.
        height: of a panel, in inches.
        share_y: all panels have one vertical scale.
    """
    together = groups if groups > 1 else number
    columns = columns_for(together)
    padded = columns * math.ceil(together / columns)  # places that panels which stand together take
    rows = padded * math.ceil(number / together) // columns
    figure = blank(PAGE if columns > 1 else LONE, height * rows)
    axes = list(figure.subplots(rows, columns, sharey=share_y, squeeze=False).flat)
    taken = [padded * (panel // together) + panel % together for panel in range(number)]
    for place in set(range(len(axes))) - set(taken):
        axes[place].remove()
    return figure, [axes[place] for place in taken]


def columns_for(number: int) -> int:
    """How many of so many panels stand side by side: four make a square, not three and one."""
    return 2 if number == 4 else min(number, _MAX_COLUMNS)


def share_y(axes: Sequence[Axes], groups: int) -> None:
    """One vertical scale for every ``groups`` panels, named where a line of panels begins."""
    for number, axis in enumerate(axes):
        axis.sharey(axes[number - number % groups])
        if not at(axis).is_first_col() and groups > 1:
            axis.set_ylabel("")


def blank(width: float, height: float) -> Figure:
    """An empty figure, in inches."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def add_legend(figure: Figure, axes: Sequence[Axes]) -> Legend | None:
    """One legend for all panels, below them, in as many columns as fit; the figure grows by its height."""
    handles: dict[str, Any] = {}
    for axis in axes:
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    if not handles:
        return None
    labels = sorted(handles, key=lambda label: label == CHANCE)  # chance comes last
    width, height = figure.get_size_inches()
    fitting = max(1, int(width / (CHARACTER * max(map(len, labels)) + 0.5)))
    rows = math.ceil(len(labels) / fitting)
    columns = math.ceil(len(labels) / rows)
    figure.set_size_inches(width, height + 0.17 * rows + 0.1)
    return figure.legend([handles[label] for label in labels], labels, loc="outside lower center", ncols=columns)


def saved(figure: Figure, *forms: Form, dpi: int = 200) -> tuple[bytes, ...]:
    """The figure as files of these forms."""
    # The layout is worked out once. Left in place, it would be worked out again, and drawn twice, for every form.
    layout = figure.get_layout_engine()
    assert layout is not None, "a figure is saved once"
    layout.execute(figure)
    figure.set_layout_engine(None)
    contents = []
    for form in forms:
        data = io.BytesIO()
        figure.savefig(data, format=form, dpi=dpi, metadata=_METADATA[form])
        contents.append(data.getvalue())
    return tuple(contents)


def short_labels(labels: Sequence[str], most: int = _MAX_LABEL) -> tuple[str, ...]:
    """Labels of at most so many characters that still differ: the middle goes first, else the start, else the end."""
    labels = [f" {label}" if label.startswith("_") else label for label in labels]  # legends leave out "_name"
    distinct = len(set(labels))
    keep = most - 1
    ways: tuple[Callable[[str], str], ...] = (
        lambda label: f"{label[: keep - keep // 2]}…{label[-(keep // 2) :]}",
        lambda label: f"…{label[-keep:]}",
        lambda label: f"{label[:keep]}…",
    )
    for way in ways:
        cut = tuple(label if len(label) <= most else way(label) for label in labels)
        if len(set(cut)) == distinct:
            return cut
    number = {label: place for place, label in enumerate(dict.fromkeys(labels), start=1)}
    return tuple(f"{label[: most - 6]}… #{number[label]}" if len(label) > most else label for label in labels)


def percent_axis(axis: Axes) -> None:
    """All of 0 to 100 percent, with room for a marker at the top."""
    axis.set_ylim(0, 103)
    axis.set_yticks(range(0, 101, 20))


def is_wide(counts: Sequence[int]) -> bool:
    """Whether numbers of images are so different that they need a logarithmic axis."""
    return min(counts) > 0 and max(counts) >= 20 * min(counts)


def plain_ticks(axis: Axis) -> None:
    """Ticks of a logarithmic axis as plain numbers, two or three a decade."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axis.set_major_locator(LogLocator(subs=(1, 2, 5), numticks=12))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axis.set_minor_formatter(NullFormatter())


def at(axis: Axes) -> SubplotSpec:
    """Where in the figure's grid a panel stands."""
    place = axis.get_subplotspec()
    assert place is not None, "every panel is part of a grid"
    return place


def whole_numbers(axis: Axes) -> None:
    """Ticks of the horizontal axis at whole numbers only: there is no block 2.5."""
    from matplotlib.ticker import MaxNLocator

    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
