"""Chromium for tests: the page as its user sees it; it knows no server.

Debian's packages chromium and chromium-driver have what is needed.
"""
from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import Any, Dict, List, Optional

# Generous, because only a failing test waits so long.
PATIENCE_SECONDS = 60
DESKTOP = (1200, 800)
PHONE = (360, 740)
# Keys as WebDriver writes them; a modifier stays down until RELEASE.
ENTER, ESCAPE, SHIFT, TAB, RELEASE = "\ue007", "\ue00c", "\ue008", "\ue004", "\ue000"


def why_missing() -> Optional[str]:
    """Why there is no browser to test with; None if there is one."""
    try:
        import selenium  # noqa: F401
    except ImportError:
        return "selenium is not installed"
    missing = [name for name in ("chromium", "chromedriver") if not shutil.which(name)]
    return f"{' and '.join(missing)} not found" if missing else None


def start_chromium(folder: Path) -> Any:
    """Start a browser that keeps its profile in a folder."""
    from selenium.webdriver import Chrome, ChromeOptions, ChromeService

    options = ChromeOptions()
    options.binary_location = shutil.which("chromium")
    for argument in ("--headless=new", "--disable-gpu", "--no-first-run", "--disable-extensions",
                     "--disable-dev-shm-usage", f"--user-data-dir={folder}",
                     "--disable-background-networking", "--disable-component-update"):
        options.add_argument(argument)
    if sys.platform == "linux" and os.geteuid() == 0:
        options.add_argument("--no-sandbox")  # It does not run as root otherwise.
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    return Chrome(options=options, service=ChromeService(shutil.which("chromedriver")))


class Page:
    """The page in a browser's tab."""

    def __init__(self, driver: Any, url: str) -> None:
        self.driver = driver
        self.url = url
        self.show_as(DESKTOP)

    def open(self, path: str = "/") -> Page:
        self.driver.get(self.url + path)
        return self

    def show_as(self, size: Any, **features: str) -> None:
        """Set the size of the window, and media features such as `prefers_color_scheme="dark"`."""
        width, height = size
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", {
            "width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500})
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [
            {"name": name.replace("_", "-"), "value": value} for name, value in features.items()]})

    def run(self, script: str, *arguments: Any) -> Any:
        return self.driver.execute_script(script, *arguments)

    def find(self, selector: str) -> Any:
        """Wait for an element and return it."""
        return self.wait_for(lambda: (self.all(selector) or [None])[0], selector)

    def all(self, selector: str) -> List[Any]:
        return list(self.driver.find_elements("css selector", selector))

    def text(self, selector: str) -> str:
        """The text of an element as it is shown; empty if there is none."""
        return str(self.run(
            "return document.querySelector(arguments[0])?.innerText || ''", selector))

    def texts(self, selector: str) -> List[str]:
        """The text of each element as it is shown, in one line. All at once, because the page may
        replace the elements at any time."""
        found = self.run("return [...document.querySelectorAll(arguments[0])]"
                         ".map((e) => e.innerText)", selector)
        return [" ".join(text.split()) for text in found]

    def click(self, selector: str) -> None:
        """Wait until an element can be clicked, and click it."""
        from selenium.common.exceptions import (
            ElementNotInteractableException,
            StaleElementReferenceException,
        )

        def can_be_clicked() -> bool:
            try:
                self.find(selector).click()
                return True
            except (ElementNotInteractableException, StaleElementReferenceException):
                return False

        self.wait_for(can_be_clicked, f"{selector} can be clicked")

    def try_now(self) -> None:
        """Press the button beside the trouble, unless the page has tried again by itself."""
        self.run("document.querySelector('#try-now').click()")

    def press(self, *keys: str) -> None:
        """Press keys where the focus is."""
        self.driver.switch_to.active_element.send_keys(*keys)

    def focused(self) -> Dict[str, Any]:
        """The element that has the focus: id, text and label."""
        return dict(self.run(
            "const e = document.activeElement; return {id: e.id, text: e.innerText || '',"
            " label: e.getAttribute('aria-label') || ''}"))

    def ask(self, prompt: str) -> None:
        self.find("#prompt").send_keys(prompt, ENTER)

    def give_token(self, token: str) -> None:
        """Answer the question for a token, once it is there."""
        self.wait_for(lambda: self.is_shown("#token-dialog"), "the question for a token")
        self.find("#token").send_keys(token, ENTER)

    def wait_for(self, true: Any, what: str) -> Any:
        """Wait until `true()` is true, and return it."""
        from selenium.common.exceptions import TimeoutException
        from selenium.webdriver.support.ui import WebDriverWait

        try:
            return WebDriverWait(self.driver, PATIENCE_SECONDS, 0.05).until(lambda _: true())
        except TimeoutException:
            raise AssertionError(f"{what!r} did not come; the page shows: "
                                 + self.text("body")[:2000]) from None

    def wait_for_text(self, selector: str, text: str) -> None:
        self.wait_for(lambda: text in self.text(selector), f"{text} in {selector}")

    def wait_until_gone(self, selector: str) -> None:
        self.wait_for(lambda: not self.is_shown(selector), f"no {selector}")

    def is_shown(self, selector: str) -> bool:
        return bool(self.run(
            "return [...document.querySelectorAll(arguments[0])].some((e) => e.checkVisibility())",
            selector))

    def complaints(self) -> List[str]:
        """What the browser complained about since the last call, such as scripts that it refused;
        failed requests are none."""
        return [entry["message"] for entry in self.driver.get_log("browser")
                if "Failed to load resource" not in entry["message"]]

    def screenshot(self, path: Path) -> None:
        self.driver.save_screenshot(str(path))
