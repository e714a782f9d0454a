"""A real browser, to open reports in."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

BROWSER = shutil.which('chromium') or shutil.which('chromium-browser') or shutil.which('google-chrome')
DRIVER = shutil.which('chromedriver')
FLAGS = ('--headless', '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-dev-shm-usage',
         '--disable-background-networking', '--disable-component-update', '--disable-sync', '--window-size=1200,1600')


@contextmanager
def opened_browser(profile: Path) -> Iterator[Any]:
    """Start a browser with an empty profile; skip the test where there is none."""
    if not (BROWSER and DRIVER):
        pytest.skip('No browser here, so the report was NOT opened: apt-get install chromium chromium-driver')
    from selenium import webdriver
    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    for flag in (*FLAGS, f'--user-data-dir={profile}'):
        options.add_argument(flag)
    options.set_capability('goog:loggingPrefs', {'browser': 'ALL', 'performance': 'ALL'})
    subprocess.run([BROWSER, '--version'], check=True)  # reads it from a slow disk, which the driver would not wait for
    driver = webdriver.Chrome(options, webdriver.ChromeService(DRIVER))
    driver.set_page_load_timeout(600)
    driver.set_script_timeout(600)
    yield driver
    driver.quit()


def column(driver: Any, table: int, number: int) -> list[str]:
    """Return the texts of a table's column, from top to bottom."""
    return driver.execute_script(
        'return [...document.querySelectorAll("table")[arguments[0]].tBodies[0].rows]'
        '.map(row => row.cells[arguments[1]].textContent)', table, number)


def requested(driver: Any) -> list[str]:
    """Return the requests of a page, of which those that leave the machine hold ``"url":"http``."""
    return [entry['message'] for entry in driver.get_log('performance')
            if '"Network.requestWillBeSent"' in entry['message']]
