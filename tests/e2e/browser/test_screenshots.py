"""The pictures of the documentation, made anew: ``pytest -m soak tests/e2e/browser -k screenshots``.

The quickstart is run for them, which takes minutes; QUICKSTART_WORKSPACE names a workspace where that was done before.
"""

from __future__ import annotations

import io
import os
import subprocess
from pathlib import Path

import pytest
from PIL import Image

from orchestrator.workspace import Workspace
from tests.e2e.browser.browser import Browser
from tests.e2e.browser.conftest import command, served

REPOSITORY = Path(__file__).parents[3]
IMAGES = REPOSITORY / "docs" / "images"
WIDTH = 1200
MAX_BYTES = 150_000
#: Where artifacts lie on this machine is nobody's business.
WITHOUT_PATH = """
const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
while (texts.nextNode()) {
  if (texts.currentNode.data.startsWith("Path:")) texts.currentNode.parentElement.style.visibility = "hidden";
}
"""


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_screenshots(browser: Browser, tmp_path: Path) -> None:
    workspace = Workspace(Path(os.environ.get("QUICKSTART_WORKSPACE", tmp_path)))
    file = REPOSITORY / "experiments" / "quickstart.yaml"
    curves = ("--set", "evaluate.knn.every_epochs=5")
    subprocess.run(command("run", file, *curves, workspace=workspace), check=True, cwd=workspace.path)
    with served(workspace, "quickstart") as ui:
        browser.open(ui.links["runs"], "12 matching runs")
        save(browser, "mlflow-runs")
        browser.open(ui.links["charts"], "Parallel Coordinates", "train/loss")
        browser.wait_for(lambda: len(browser.all(".bars .point")) >= 2 * 12, "bars of two metrics")
        save(browser, "mlflow-charts")
        browser.open(ui.links["means"], "Group by: method", "train/loss")
        browser.wait_for(lambda: len(browser.all(".bars .point")) >= 3 * 6, "bars of three metrics")
        save(browser, "mlflow-means")
        browser.open(ui.run_page("quickstart"), "12 of 12 runs completed")
        save(browser, "mlflow-experiment")
        run = "isd · long_tailed · seed=1"
        browser.open(ui.run_page(run, "/artifacts/figures/loss.png"), "figures/loss.png")
        browser.wait_for(lambda: browser.all('img[src^="blob:"]'), "the figure")
        browser.driver.execute_script(WITHOUT_PATH)
        save(browser, "mlflow-artifacts")
        browser.open_model_of(ui.run_page(run), "eval/knn/few")
        save(browser, "mlflow-model")
    browser.open((workspace.report_dir("quickstart") / "report.html").as_uri(), "quickstart")
    save(browser, "report")


def save(browser: Browser, name: str) -> None:
    """Write what the browser shows as ``docs/images/<name>.png``."""
    picture = Image.open(io.BytesIO(browser.settled_screenshot())).convert("RGB")
    picture = picture.resize((WIDTH, round(picture.height * WIDTH / picture.width)), Image.Resampling.LANCZOS)
    path = IMAGES / f"{name}.png"
    picture.quantize(256, Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE).save(path, optimize=True)
    assert path.stat().st_size <= MAX_BYTES, f"{path} has {path.stat().st_size} bytes"
