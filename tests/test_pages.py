"""The pages that pytc writes, in a browser: pictures are there, and nothing is beyond the edge."""

import html
import json
import re
import shutil
from dataclasses import asdict, replace

import pytest
from browser import WEBGL, dump, needs_chromium
from servers import open_server
from three_bars import score, store_bars
from tiny_runs import tiny
from viewed import write_results

from pytc.evaluation.compare import compare
from pytc.view.command import ViewConfig
from pytc.view.main import view

pytestmark = needs_chromium
# Goes before everything else, so that no error of a script or of a file that is not read is missed.
LISTEN = """<script>
const failures = []
const note = event => failures.push(event.message || event.target.outerHTML.slice(0, 200))
addEventListener("error", note, true)
</script>"""
# What the browser sees once the page is loaded, as an attribute of its body.
LOOK = """<script>
addEventListener("load", () => {
  const beyond = e => !e.closest(".wide") && (
    e.getBoundingClientRect().right > innerWidth + 1 ||
    e.clientWidth > 0 && e.scrollWidth > e.clientWidth + 1  // its text is wider than itself
  )
  document.body.dataset.seen = JSON.stringify({
    failures: failures,
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
    watched.write_text(
        page.read_text().replace('<html lang="en">', '<html lang="en">' + LISTEN) + LOOK
    )
    shown = dump(watched.as_uri(), page.parent / "browser", f"--window-size={width},900")
    found = re.search(r'data-seen="([^"]*)"', shown)
    assert found, shown[-2000:]
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
    assert found["width"] <= width and found["outside"] == [] and found["failures"] == []
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
    assert found["width"] <= 1280 and found["outside"] == [] and found["failures"] == []
    assert found["images"] and all(found["images"]) and found["rows"] == 3


@pytest.mark.parametrize(
    "change, found",
    [
        (("png;base64,", "png;base64,broken"), "failures"),
        (("<main>", '<main><p style="white-space: nowrap">' + 200 * "wide "), "outside"),
        (("</main>", '<svg onload="undefined.x"></svg></main>'), "failures"),
    ],
)
def test_what_is_wrong_with_a_page_is_seen(report, tmp_path, change, found):
    wrong = tmp_path / "wrong.html"
    wrong.write_text(report.read_text().replace(*change, 1))
    assert seen(wrong, 1280)[found]


def test_a_link_opens_in_neuroglancer(tmp_path, monkeypatch, capsys):
    """The client that the package neuroglancer brings; it reads the arrays from a plain server."""
    neuroglancer = pytest.importorskip("neuroglancer")
    from pytc.view.layers import LIVE

    monkeypatch.chdir(tmp_path)
    write_results(tmp_path / "runs" / "mine")
    neuroglancer.set_server_bind_address("127.0.0.1", 0)
    viewer = neuroglancer.Viewer()  # its address serves the client
    with open_server(tmp_path) as (files, asked):
        view(
            ViewConfig(
                what=("mine",), link=files, client=viewer.get_viewer_url(), position=(5, 20, 30)
            )
        )
        address = capsys.readouterr().out.strip().splitlines()[-1]
        shown = dump(address, tmp_path / "profile", *WEBGL, "--virtual-time-budget=20000")
    neuroglancer.stop()
    names = re.findall(r'neuroglancer-layer-item-label">([^<]*)<', shown)
    assert names == ["image", f"{LIVE} 0.5"]
    for volume in ("data/image.zarr", "mine/predictions/cube/fragments.zarr"):
        assert f"/runs/{volume}/0/0/0" in asked  # a chunk, so it is drawn
