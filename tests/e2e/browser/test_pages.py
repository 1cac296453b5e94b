"""What a person sees of an experiment in MLflow's UI, in a real browser on a real server."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

import pytest
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from orchestrator.workspace import Workspace
from tests.e2e.browser.browser import Browser
from tests.e2e.browser.conftest import Served
from tests.e2e.browser.finished_grid import NAME, FinishedRun

Grid = tuple[Workspace, Sequence[FinishedRun]]

RUN = "isd · long_tailed · seed=1"
#: A row of MLflow's table of runs is drawn in two halves: names, and what scrolls beside them.
CELL = '.ag-center-cols-container [role="row"] [col-id="{}"]'
HEADER = '.ag-header-viewport [role="columnheader"][col-id*="`"]'


def cells(grid: Grid) -> dict[tuple[str, str], list[FinishedRun]]:
    """The runs of each cell of the report's table, which differ in their seeds."""
    found: dict[tuple[str, str], list[FinishedRun]] = {}
    for run in grid[1]:
        found.setdefault((run.cell.axes["method"], run.cell.axes["data.profile"]), []).append(run)
    return found


def test_the_first_link_shows_the_runs_by_axes_and_metrics_with_the_best_first(
    browser: Browser, ui: Served, grid: Grid
) -> None:
    browser.open(ui.links["runs"], "isd · balanced · seed=1", "18 matching runs")
    assert browser.texts(HEADER)[:4] == ["method", "data.profile", "seed", "eval/knn/top1"]
    names = browser.texts('.ag-pinned-left-cols-container [role="row"] a')
    assert NAME not in names  # the parent is no run of the grid
    top1 = [float(text) for text in browser.texts(CELL.format("metrics.`eval/knn/top1`"))]
    expected = sorted((run.top1 for run in grid[1]), reverse=True)
    assert top1 == pytest.approx(expected[: len(top1)])
    assert len(top1) >= 10
    assert set(browser.texts(CELL.format("params.`data.profile`"))) == {"balanced", "long_tailed"}
    assert browser.texts(CELL.format("params.`method`"))[0] == "isd"


def test_charts_show_the_grid_the_metrics_of_the_report_and_the_loss(browser: Browser, ui: Served) -> None:
    browser.open(ui.links["charts"], NAME, "Parallel Coordinates", "eval/knn/few", "train/loss")
    card = '[data-testid="experiment-view-compare-runs-card"]'
    browser.wait_for(lambda: len(browser.all(f"{card} .js-plotly-plot")) >= 5, "bars and curves")
    browser.wait_for(lambda: len(browser.all(f"{card} .bars .point")) >= 18, "a bar for each run")


def test_means_are_over_seeds(browser: Browser, ui: Served, grid: Grid) -> None:
    browser.open(ui.links["means"], "Group by: method", "method: isd, data.profile: balanced")
    mean = fmean(run.top1 for run in cells(grid)["isd", "balanced"])
    browser.wait_for(lambda: f"{mean:.2f}" in browser.texts(".bartext, .bars text"), f"a bar of {mean:.2f}")


def test_two_runs_are_compared(browser: Browser, ui: Served) -> None:
    browser.open(ui.links["runs"], RUN)
    for name in (RUN, "byol · long_tailed · seed=1"):
        row = browser.driver.find_element(By.XPATH, f"//a[normalize-space()='{name}']/ancestor::*[@role='row']")
        row.find_element(By.CSS_SELECTOR, 'input[type="checkbox"]').click()
    browser.click_text("Compare")
    browser.wait_for_texts("Comparing 2 Runs from 1 Experiment", "Parallel Coordinates Plot", "eval/knn/few")
    assert "byol" in browser.text()


def test_the_last_link_compares_the_best_run_of_each_cell(browser: Browser, ui: Served, grid: Grid) -> None:
    best = [max(runs, key=lambda run: run.top1).name for runs in cells(grid).values()]
    browser.open(ui.links["compare"], "Comparing 6 Runs from 1 Experiment", *best)


@pytest.mark.parametrize(("run", "figure"), [(NAME, "report/groups.png"), (RUN, "figures/loss.png")])
def test_figures_are_shown(browser: Browser, ui: Served, run: str, figure: str) -> None:
    browser.open(ui.run_page(run, f"/artifacts/{figure}"), figure)
    browser.wait_for(lambda: [width for width, _ in pictures(browser) if width > 300], "the figure")


def pictures(browser: Browser) -> list[tuple[int, int]]:
    """Width and height in pixels of each picture that came with the page's artifacts."""
    script = "return [...document.images].filter(i => i.src.startsWith('blob:') || i.src.includes('artifact'))"
    found = browser.driver.execute_script(f"{script}.map(i => [i.naturalWidth, i.naturalHeight])")
    return [(int(width), int(height)) for width, height in found]


def test_a_model_page_has_the_metrics_of_its_run(browser: Browser, ui: Served, grid: Grid) -> None:
    run = next(run for run in grid[1] if run.name == RUN)
    few = str(run.accuracies(1)["eval/knn/few"])
    browser.open_model_of(ui.run_page(RUN), RUN, "Ready", "eval/knn/few", few, "digits")


def test_the_parent_run_begins_with_progress_and_report(browser: Browser, ui: Served, grid: Grid) -> None:
    browser.open(ui.run_page(NAME), NAME, "Description", "18 of 18 runs completed")
    more = browser.wait_for(lambda: browser.driver.find_elements(By.XPATH, "//*[text()='Show more']"), "more to show")[
        0
    ]
    mean = fmean(run.top1 for run in cells(grid)["moco_v2", "long_tailed"])
    (first, *_) = (cell for cell in browser.all("td") if cell.text.startswith(f"{mean:.1f} ±"))
    assert first.rect["y"] + first.rect["height"] <= more.rect["y"], "the first row is hidden"
    browser.click_text("Show more")
    browser.wait_for_texts("mean ± sample standard deviation over seed")
    assert "<!--" not in browser.text()
    mean = fmean(run.top1 for run in cells(grid)["isd", "long_tailed"])
    assert any(f"{mean:.1f} ±" in text for text in browser.texts("td"))
    browser.open(ui.run_page(NAME, "/artifacts/report/report.md"), "report/report.md", "long_tailed")


def test_the_report_asks_nothing_of_anyone(browser: Browser, grid: Grid) -> None:
    page = grid[0].report_dir(NAME) / "report.html"
    browser.complaints()
    browser.open(page.as_uri(), NAME, "isd", "long_tailed")
    addresses = [address for address in browser.requested() if not address.startswith("data:")]
    assert addresses == []
    assert browser.complaints() == []
    mean = fmean(run.top1 for run in cells(grid)["isd", "long_tailed"])
    assert any(text.startswith(f"{mean:.1f} ±") for text in browser.texts("td"))
    figures = browser.all("img, svg")
    assert figures and all(figure.rect["width"] > 300 for figure in figures if figure.tag_name == "img")


def test_a_person_searches_for_one_method(browser: Browser, ui: Served) -> None:
    browser.open(ui.links["runs"], "18 matching runs")
    field = browser.wait_for(lambda: browser.all('input[data-testid="search-box"], input[type="text"]'), "a field")[0]
    field.send_keys(" AND params.method = 'byol'", Keys.ENTER)
    browser.wait_for_texts("6 matching runs")
