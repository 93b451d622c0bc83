"""Headless Chromium from Debian's packages, driven by selenium, which reaches nothing beyond this machine."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import box
import pytest
from selenium import webdriver
from selenium.webdriver.chrome.service import Service

# The font shows Chinese on the screenshots.
PACKAGES = ("chromium", "chromium-driver", "fonts-wqy-microhei")
SCREENSHOTS = box.ROOT / ".cache" / "screenshots"
WIDTH, HEIGHT = 1000, 700  # of the page, in pixels
OPTIONS = (
    "--headless=new",
    "--hide-scrollbars",
    "--lang=en",
    # Chromium as root has no sandbox, and containers have a small /dev/shm; the pages are our own.
    "--no-sandbox",
    "--disable-dev-shm-usage",
    # Nobody looks at the window; its page shall draw as if somebody did.
    "--disable-background-timer-throttling",
    "--disable-backgrounding-occluded-windows",
    "--disable-renderer-backgrounding",
    # No name is ever looked up, so that neither a page's fonts nor the browser itself asks anybody outside.
    "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1",
    "--no-proxy-server",
)


def ensure_packages() -> None:
    """Install Chromium on this machine where it is missing, saying so before. Raises BoxError."""
    asked = ["dpkg-query", "-W", "-f", "${Package} ${db:Status-Status}\n", *PACKAGES]
    listed = subprocess.run(asked, capture_output=True, text=True, check=False).stdout.splitlines()
    missing = [package for package in PACKAGES if f"{package} installed" not in listed]
    if not missing:
        return
    print(f"Installing with apt on this machine: {' '.join(missing)}", flush=True)
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for command in (["update"], ["install", "--yes", "--no-install-recommends", *missing]):
        box.run(*box.as_root("apt-get", "-qq", *command), env=environment)


@contextmanager
def chromium() -> Iterator[webdriver.Chrome]:
    """Open a browser that knows no password and no cookie, and close it at the end."""
    options = webdriver.ChromeOptions()
    options.binary_location = "/usr/bin/chromium"
    for option in OPTIONS:
        options.add_argument(option)
    with pytest.MonkeyPatch.context() as environment:
        # selenium talks to its driver on loopback, and heeds proxy variables.
        environment.setenv("no_proxy", "localhost,127.0.0.1")
        driver = webdriver.Chrome(options=options, service=Service("/usr/bin/chromedriver"))
        try:
            size = {"width": WIDTH, "height": HEIGHT, "deviceScaleFactor": 1, "mobile": False}
            driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
            yield driver
        finally:
            driver.quit()


class Album:
    """The screenshots of one test, numbered in the order in which they were taken; those of an earlier run go."""

    def __init__(self, test: str) -> None:
        self.folder = SCREENSHOTS / test
        self.folder.mkdir(parents=True, exist_ok=True)
        for old in self.folder.glob("*.png"):
            old.unlink()
        self._taken = 0

    def take(self, driver: webdriver.Chrome, name: str) -> None:
        """Keep what the browser shows now, from the top of the page."""
        self._taken += 1
        driver.execute_script("window.scrollTo(0, 0)")
        assert driver.save_screenshot(str(self.folder / f"{self._taken:02}-{name}.png"))


# The page itself takes notes: on a busy machine a look from outside now and then misses most of what was shown.
WATCH = """
const texts = () => [...document.querySelectorAll(arguments[0])].map(found => found.innerText.trim())
const read = () => texts().filter(text => text)
const before = read().length, seen = []
window.glmbox_watch?.disconnect()
window.glmbox_watch = new MutationObserver(() => {
    const now = read().slice(before).join("")
    if (now && now !== seen.at(-1)) seen.push(now)
})
window.glmbox_watch.observe(document.body, {subtree: true, childList: true, characterData: true})
window.glmbox_seen = seen
"""


def watch(driver: webdriver.Chrome, selector: str) -> Callable[[str, float], list[str]]:
    """Note from now on what comes after the texts that a CSS selector finds now.

    Returns a function of the whole text that has to come and the seconds until then. It returns every different text
    that was shown, in order; AssertionError says what was shown last where the whole one does not come.
    """
    driver.execute_script(WATCH, selector)

    def until(whole: str, seconds: float) -> list[str]:
        end = time.monotonic() + seconds
        seen: list[str] = []
        while whole not in seen[-1:]:
            assert time.monotonic() < end, f"{whole!r} did not come within {seconds} s, but {seen[-3:]}"
            time.sleep(0.05)
            seen = driver.execute_script("return window.glmbox_seen")
        return seen

    return until
