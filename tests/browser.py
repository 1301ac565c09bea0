"""A headless browser for the pages that people look at."""

import shutil
import subprocess
from pathlib import Path

import pytest


def picture_of(page: Path, folder: Path, *, width: int, height: int) -> Path:
    """Return a PNG of a page as the browser shows it; skip the test where there is no browser."""
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no chromium or google-chrome on PATH")
    picture = folder / "page.png"
    quiet = ["--disable-background-networking", "--disable-component-update", "--disable-sync", "--no-first-run"]
    command = [browser, "--headless", "--no-sandbox", "--disable-gpu", *quiet]
    command += [f"--user-data-dir={folder / 'profile'}", f"--window-size={width},{height}", f"--screenshot={picture}"]
    subprocess.run([*command, page.as_uri()], capture_output=True, timeout=120, check=True)
    return picture
