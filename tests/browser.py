"""Chromium without a window, for tests of pages: what it logs and asks for is kept."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, sync_playwright

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
FLAGS += " --disable-component-update --disable-sync"


@contextmanager
def chromium() -> Iterator[Browser]:
    """Start Chromium, with a profile of its own; skip the test where there is none."""
    if CHROMIUM is None:
        pytest.skip("there is no chromium: apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS.split())
        yield browser
        browser.close()


class Opened:
    """A page in the browser. problems: errors, and what it logs as one; asked: addresses of all that it loads."""

    def __init__(self, browser: Browser, path: Path, *, width: int = 1400, height: int = 900) -> None:
        self.page: Any = browser.new_page(viewport={"width": width, "height": height})
        self.problems: list[str] = []
        self.asked: list[str] = []
        self.page.set_default_timeout(20_000)
        self.page.on("pageerror", lambda error: self.problems.append(str(error)))
        self.page.on(
            "console", lambda line: self.problems.append(line.text) if line.type in ("error", "warning") else None
        )
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.on("requestfailed", self._failed)
        self.page.goto(path.absolute().as_uri())

    def _failed(self, request: Any) -> None:
        # a reload stops what is being loaded
        if request.failure != "net::ERR_ABORTED":
            self.problems.append(f"failed: {request.url}")
