"""The pages that pytc writes, in a browser: pictures are there, and nothing is beyond the edge."""

import html
import json
import re
import shutil
import subprocess
from dataclasses import asdict, replace

import pytest
from three_bars import score, store_bars
from tiny_runs import tiny

from pytc.evaluation.compare import compare

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")
# What the browser sees once the page is loaded, as an attribute of its body.
LOOK = """<script>
addEventListener("load", () => {
  const beyond = e => !e.closest(".wide") && e.getBoundingClientRect().right > innerWidth + 1
  document.body.dataset.seen = JSON.stringify({
    width: document.documentElement.scrollWidth,
    images: [...document.images].map(image => image.naturalWidth),
    outside: [...document.querySelectorAll("main *")].filter(beyond).map(e => e.outerHTML),
    heads: [...document.querySelectorAll("h2")].map(head => head.textContent),
    rows: document.querySelectorAll("tr").length,
  })
})
</script>"""


def seen(page, width):
    """What a browser with a window of that many pixels shows of a page."""
    watched = page.with_name("watched.html")
    watched.write_text(page.read_text() + LOOK)
    done = subprocess.run(
        [
            CHROMIUM,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            f"--user-data-dir={page.parent / 'browser'}",
            f"--window-size={width},900",
            "--dump-dom",
            watched.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=120,
    )
    found = re.search(r'data-seen="([^"]*)"', done.stdout)
    assert found, done.stderr
    return json.loads(html.unescape(found[1]))


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """The report of a sweep with every kind of truth, over a run that has a log of its training."""
    run = tmp_path_factory.mktemp("runs") / "bars"
    predictions = run / "predictions" / "cube"
    predictions.mkdir(parents=True)
    rows = [{"step": step, "train/loss_total": 1 / step} for step in (1, 2, 3)]
    (run / "config.json").write_text(json.dumps(asdict(tiny())))
    (run / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    files = store_bars(predictions)
    output = run / "evaluation" / "cube"
    score(replace(files, thresholds=(0.75, 0.8), output=str(output)))  # both split a bar
    return output / "report.html"


@pytest.mark.parametrize("width", [1280, 500])
def test_the_report(report, width):
    found = seen(report, width)
    assert found["width"] <= width and found["outside"] == []
    assert len(found["images"]) > 10 and all(found["images"])
    assert {"Slices", "Errors against the labels", "Training", "All scores"} <= set(found["heads"])
    assert found["rows"] > 20


def test_the_page_that_compares_runs(report, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = report.parents[2]
    other = shutil.copytree(run, tmp_path / "other")
    page = tmp_path / "compare.html"
    compare([str(run), str(other)], page)
    found = seen(page, 1280)
    assert found["width"] <= 1280 and found["outside"] == []
    assert found["images"] and all(found["images"]) and found["rows"] == 3
