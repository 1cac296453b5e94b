"""Labels, looks, grids and legends: what keeps a figure readable with many rows."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.figures.style import (
    LONE,
    PAGE,
    add_legend,
    at,
    columns_for,
    drawing,
    look,
    panel_grid,
    saved,
    short_labels,
)


@pytest.fixture(autouse=True)
def style() -> Iterator[None]:
    with drawing():
        yield


def test_thirty_rows_differ_without_their_colours() -> None:
    looks = [look(number) for number in range(30)]
    assert len(set(looks)) == 30
    for one, other in itertools.combinations(looks[:8], 2):
        assert one.marker != other.marker
        assert one.hatch != other.hatch


# --- labels -----------------------------------------------------------------------------------------------------------


@given(labels=st.lists(st.text(min_size=1, max_size=80), min_size=1, max_size=40), most=st.integers(14, 40))
def test_short_labels_are_short_and_still_differ(labels: list[str], most: int) -> None:
    cut = short_labels(labels, most)
    assert [len(label) <= most for label in cut] == [True] * len(cut)
    assert len(dict(zip(labels, cut, strict=True))) == len(set(labels))
    if not any(label.startswith("_") for label in labels):
        assert len(set(cut)) == len(set(labels))


@pytest.mark.parametrize(
    ("labels", "cut"),
    [
        (("isd", "moco_v2"), ("isd", "moco_v2")),
        (("isd with a long tail, 1", "isd with a long tail, 2"), ("isd wit…ail, 1", "isd wit…ail, 2")),
        (("a" * 20 + "x" + "b" * 20, "a" * 20 + "y" + "b" * 20), ("aaaaaaaa… #1", "aaaaaaaa… #2")),
        (("_background", "cat"), (" _background", "cat")),
    ],
    ids=["short", "long", "different in the middle", "left out of legends"],
)
def test_labels(labels: tuple[str, ...], cut: tuple[str, ...]) -> None:
    assert short_labels(labels, 14) == cut


# --- grids ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("number", "groups", "places"),
    [
        (1, 1, [(0, 0)]),
        (3, 1, [(0, 0), (0, 1), (0, 2)]),
        (4, 1, [(0, 0), (0, 1), (1, 0), (1, 1)]),
        (4, 2, [(0, 0), (0, 1), (1, 0), (1, 1)]),
        (10, 5, [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (2, 0), (2, 1), (2, 2), (3, 0), (3, 1)]),
    ],
)
def test_every_metric_begins_a_new_line(number: int, groups: int, places: list[tuple[int, int]]) -> None:
    figure, axes = panel_grid(number, groups=groups)
    assert [(at(axis).rowspan.start, at(axis).colspan.start) for axis in axes] == places
    assert figure.axes == axes, "places without a panel are empty"
    assert figure.get_figwidth() == (LONE if number == 1 else PAGE)


def test_no_more_than_three_panels_stand_side_by_side() -> None:
    assert [columns_for(number) for number in range(1, 8)] == [1, 2, 3, 2, 3, 3, 3]


# --- legends ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("panels", [1, 2])
@pytest.mark.parametrize("rows", [1, 4, 12, 30])
@pytest.mark.parametrize("length", [3, 40])
def test_a_legend_lies_inside_the_figure_and_below_the_panels(panels: int, rows: int, length: int) -> None:
    figure, axes = panel_grid(panels)
    labels = [f"{number:0{length}d}" for number in range(rows)]
    for axis in axes:
        for number, label in enumerate(labels):
            axis.plot([0, 1], [number, number], label=label)
        axis.set_xlabel("epoch")
    legend = add_legend(figure, axes)
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == labels
    saved(figure, "png", dpi=50)  # works out the layout
    box, page = legend.get_window_extent(), figure.bbox
    assert page.x0 <= box.x0
    assert box.x1 <= page.x1
    assert page.y0 <= box.y0
    for axis in axes:
        panel = axis.get_tightbbox()
        assert panel is not None
        assert panel.y0 >= box.y1 - 1
        assert axis.get_window_extent().height > 0.5 * 2.3 * figure.dpi, "the legend does not eat the panel"


def test_a_legend_names_rows_that_only_one_panel_has_and_chance_last() -> None:
    figure, axes = panel_grid(2)
    axes[0].plot([0, 1], label="chance")
    axes[0].plot([0, 1], label="isd")
    axes[1].plot([0, 1], label="moco_v2")
    legend = add_legend(figure, axes)
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == ["isd", "moco_v2", "chance"]


def test_without_rows_there_is_no_legend() -> None:
    assert add_legend(*panel_grid(1)) is None
