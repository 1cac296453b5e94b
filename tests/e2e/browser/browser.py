"""A person at MLflow's pages: opens, reads, clicks, and waits for what they see rather than for a time."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from selenium import webdriver
from selenium.common.exceptions import StaleElementReferenceException, TimeoutException
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.wait import WebDriverWait

Found = TypeVar("Found")

#: Two cores may be busy with other tests.
DEADLINE_S = 120.0
_OPTIONS = (
    "--headless=new --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --disable-dev-shm-usage --hide-scrollbars --window-size=1500,1000"
)
#: What MLflow otherwise opens over a third of its first page.
_WITHOUT_ASSISTANT = """
if (location.protocol === "http:") {
  localStorage.setItem("mlflow.assistant.panelOpen_v1", "false");
  localStorage.setItem("mlflow.assistant.fab.autoOpenedOnFirstLoad_v1", "true");
}
"""


@dataclass(frozen=True)
class Browser:
    """Chromium with one tab."""

    driver: webdriver.Chrome

    def open(self, url: str, *expected: str) -> None:
        """Open a page afresh and wait until it shows these texts."""
        self.driver.get("about:blank")  # the same page with another fragment would not be loaded again
        self.driver.get(url)
        self.wait_for_texts(*expected)

    def open_model_of(self, run_page: str, *expected: str) -> None:
        """Follow a run's link to its logged model, and wait until that page shows these texts."""
        self.open(run_page, "Logged models")
        link = self.wait_for(lambda: self.all('a[href*="/models/m-"]'), "a link to the model")[0]
        self.open(f"{link.get_attribute('href')}?workflowType=machine_learning", *expected)
        assert "/models/m-" in self.driver.current_url

    def wait_for_texts(self, *expected: str) -> None:
        self.wait_for(lambda: all(text in self.text() for text in expected), f"{expected} on the page")

    def text(self) -> str:
        """What the page shows as words."""
        return str(self.driver.find_element(By.TAG_NAME, "body").text)

    def all(self, css: str) -> list[WebElement]:
        return list(self.driver.find_elements(By.CSS_SELECTOR, css))

    def texts(self, css: str) -> list[str]:
        """Text of every element, from top to bottom and from left to right as the page shows them."""
        elements = sorted(self.all(css), key=lambda element: (element.rect["y"], element.rect["x"]))
        return [element.text for element in elements]

    def click_text(self, text: str) -> None:
        """Click what says exactly this, once it is there."""
        path = f"//*[normalize-space(text())='{text}']"
        self.wait_for(lambda: self.driver.find_elements(By.XPATH, path), f"'{text}' to click")[0].click()

    def wait_for(self, condition: Callable[[], Found], what: str) -> Found:
        """Wait until a condition is true, and return what it found."""

        def answer(_: webdriver.Chrome) -> Found:
            return condition()

        wait = WebDriverWait(self.driver, DEADLINE_S, 0.1, ignored_exceptions=[StaleElementReferenceException])
        try:
            return wait.until(answer)
        except TimeoutException as error:
            raise AssertionError(f"{self.driver.current_url} does not show {what}:\n{self.text()}") from error

    def settled_screenshot(self) -> bytes:
        """The page as PNG, once it no longer changes."""
        last = [b""]

        def is_settled() -> bytes:
            seen, last[0] = last[0], self.driver.get_screenshot_as_png()
            return last[0] if seen == last[0] else b""

        return self.wait_for(is_settled, "the same for a moment")

    def requested(self) -> list[str]:
        """Addresses of everything that the page loaded besides itself."""
        script = "return performance.getEntriesByType('resource').map(entry => entry.name)"
        return [str(name) for name in self.driver.execute_script(script)]

    def complaints(self) -> list[str]:
        """What the page wrote to the browser's console as errors since this was last asked."""
        return [entry["message"] for entry in self.driver.get_log("browser") if entry["level"] == "SEVERE"]


@contextmanager
def started(profile: Path) -> Iterator[Browser]:
    """A browser with a profile of its own."""
    chromium, driver = _program("chromium"), _program("chromedriver", "chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for option in (*_OPTIONS.split(), f"--user-data-dir={profile}"):
        options.add_argument(option)
    chrome = webdriver.Chrome(options=options, service=Service(driver))
    try:
        chrome.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": _WITHOUT_ASSISTANT})
        yield Browser(chrome)
    finally:
        chrome.quit()


def _program(name: str, package: str | None = None) -> str:
    found = shutil.which(name)
    assert found is not None, f"these tests need {name}; on Debian: apt-get install {package or name}"
    return found
