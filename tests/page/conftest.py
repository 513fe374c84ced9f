"""Fixtures of the tests of the page: a browser, and a server whose answers the test writes.

The tests write screenshots into the folder that SCREENSHOTS names, if it names one.
"""
from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any, Iterator

import pytest

from tests.support.browser import Page, start_chromium, why_missing
from tests.support.page_server import PageServer
from tests.support.services import require_service


@pytest.fixture(scope="session")
def driver(tmp_path_factory: Any) -> Iterator[Any]:
    """A browser for all tests."""
    if sys.version_info < (3, 10):
        pytest.skip("selenium needs Python 3.10, and a browser does not care which Python it is")
    require_service(why_missing())
    driver = start_chromium(tmp_path_factory.mktemp("chromium"))
    yield driver
    driver.quit()


@pytest.fixture
def server() -> Iterator[PageServer]:
    with PageServer() as server:
        yield server


@pytest.fixture
def page(driver: Any, server: PageServer) -> Iterator[Page]:
    """The page in a new tab; a test fails if the browser complains about anything."""
    first = driver.current_window_handle
    driver.switch_to.new_window("tab")
    driver.get_log("browser")
    page = Page(driver, server.url)
    yield page
    complaints = page.complaints()
    for tab in driver.window_handles:
        if tab != first:
            driver.switch_to.window(tab)
            driver.close()
    driver.switch_to.window(first)
    assert complaints == []


@pytest.fixture
def screenshots(tmp_path: Path) -> Path:
    folder = Path(os.environ.get("SCREENSHOTS") or tmp_path)
    folder.mkdir(parents=True, exist_ok=True)
    return folder
