"""A headless Chromium for tests: what a page looks like when a browser has drawn it."""

import shutil
import subprocess

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium on this machine")
SECONDS = 60  # after which a browser is stuck
WEBGL = ("--use-angle=swiftshader", "--enable-unsafe-swiftshader")  # without a GPU


def dump(address, profile, *flags):
    """The elements of a page after its scripts have run, as HTML."""
    words = ["--headless", "--no-sandbox", f"--user-data-dir={profile}", *flags]
    done = subprocess.run(
        [CHROMIUM, *words, "--dump-dom", address], capture_output=True, text=True, timeout=SECONDS
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
