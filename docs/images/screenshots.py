"""Pictures of the viewer and of a report for docs/images, by a headless Chromium.

    pip install playwright    # and a Chromium, e.g. that of the Linux distribution
    python docs/images/screenshots.py runs/fib val --thresholds 0.40 0.53

The run must have a merge tree and an evaluation of that volume.
"""

import argparse
import shlex
import signal
import subprocess
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

IMAGES = Path(__file__).parent
# WebGL without a GPU
FLAGS = ("--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader")
LARGEST = 400_000  # bytes
SECONDS = 15  # until all chunks are there


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("volume")
    parser.add_argument("--thresholds", type=float, nargs="+", default=[0.4, 0.53])
    parser.add_argument("--chromium", default="/usr/bin/chromium")
    asked = parser.parse_args()
    with sync_playwright() as tools:
        browser = tools.chromium.launch(executable_path=asked.chromium, args=list(FLAGS))
        for threshold in asked.thresholds:
            words = [str(asked.run), "--volume", asked.volume, "--threshold", str(threshold)]
            save_viewer(browser, ["pytc", "view", *words], f"view-{threshold:g}.png")
        page = browser.new_page(viewport={"width": 1200, "height": 1100})
        report = asked.run / "evaluation" / asked.volume / "report.html"
        page.goto(report.resolve().as_uri())
        heading = page.locator("h2", has_text="Errors against the labels")
        heading.evaluate("element => element.scrollIntoView()")
        save(page, "report-errors.png")
        command = page.locator("code.look").first.inner_text()
        save_viewer(browser, shlex.split(command), "view-error.png")
        browser.close()


def save_viewer(browser, command, name):
    """What the viewer of a command shows when all chunks are there."""
    viewer = subprocess.Popen([*command, "--quiet"], stdout=subprocess.PIPE, text=True)
    page = browser.new_page(viewport={"width": 1400, "height": 860})
    page.goto(viewer.stdout.readline().strip())
    page.wait_for_timeout(1000 * SECONDS)
    save(page, name)
    page.close()
    viewer.send_signal(signal.SIGINT)
    viewer.wait()


def save(page, name):
    """A screenshot, of fewer colours where it would be larger than LARGEST."""
    path = IMAGES / name
    page.screenshot(path=path)
    if path.stat().st_size > LARGEST:
        Image.open(path).convert("RGB").quantize(128).save(path, optimize=True)


if __name__ == "__main__":
    main()
