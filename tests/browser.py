"""A real browser for the tests of pages."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from playwright.sync_api import Browser, sync_playwright

SIDEWAYS = "() => document.documentElement.scrollWidth - document.documentElement.clientWidth"
"""pixels by which a page is wider than its window"""


@contextmanager
def chromium() -> Iterator[Browser]:
    """The machine's chromium; without one the test is skipped, and in continuous integration it fails."""
    path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if path is None:
        if os.environ.get("CI") in ("true", "1"):
            pytest.fail("no chromium on this machine; continuous integration installs it (apt-get install chromium)")
        pytest.skip("needs chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()
