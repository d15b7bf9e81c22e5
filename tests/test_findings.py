"""What a report says beyond scores: errors with pictures and verdicts, coverage, the training."""

import base64
import csv
import io
import json
import re
import shlex
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from three_bars import VOXEL, bar_affinities, bars, score, store, store_bars
from viewed import write_results

from pytc.commands import EvaluateConfig, parse
from pytc.config import SegmentationConfig
from pytc.evaluation.error_pictures import COLOURS, REST, draw_crops
from pytc.evaluation.errors import DenseError
from pytc.evaluation.training_curves import draw_training, read_log, scores_of
from pytc.io.volume import create_volume
from pytc.metrics.overlap import overlap_metrics
from pytc.segmentation.connected_components import connected_components_3d
from pytc.segmentation.decode import settings_of
from pytc.segmentation.merge_tree import relabelled
from pytc.view.command import ViewConfig
from pytc.view.sources import find_sources
from pytc.view.threshold import SegmentsAtThreshold


@pytest.fixture
def wrong(tmp_path, monkeypatch):
    """A config that scores bars of which two merge; 3 is a third part unlabelled."""
    monkeypatch.chdir(tmp_path)
    config = store_bars(tmp_path)
    return EvaluateConfig(
        segmentation=store(
            tmp_path / "s.zarr", connected_components_3d(bar_affinities(bars()), 0.5)
        ),
        labels=config.labels,
        image=config.image,
        output="out",
    )


def rows_of(path="out/errors.csv"):
    return list(csv.DictReader(io.StringIO(Path(path).read_text())))


def write_verdict(verdict):
    path = Path("out/errors.csv")
    first, second, *rest = path.read_text().splitlines()
    path.write_text("\n".join([first, second + verdict, *rest]) + "\n")


def test_the_report_leads_to_the_errors(wrong):
    metrics = score(wrong)
    (row,) = rows_of()
    assert row["kind"] == "merger" and {row["label"], row["whole"]} == {"1", "2"}
    assert [row["z"], row["x"]] == ["5", "11"] and row["y"] in (
        "5",
        "6",
    )  # in the middle, at the face
    labels = bars()
    assert float(row["voi"]) == pytest.approx(
        overlap_metrics(labels, connected_components_3d(bar_affinities(labels), 0.5))["voi_sum"],
        rel=1e-5,
    )
    page = Path("out/report.html").read_text()
    section = page.partition("Errors against the labels")[2].partition("<h2>")[0]
    pictures = [base64.b64decode(found) for found in re.findall(r"base64,([^\"]+)", section)]
    assert len(pictures) == 3
    assert [Image.open(io.BytesIO(png)).size for png in pictures] == [(24, 20), (24, 12), (20, 12)]
    command = re.search(r"<code class=\"look\">(.*?)</code>", section)[1].replace("&#39;", "'")
    words = shlex.split(command)
    assert words[:2] == ["pytc", "view"]
    asked = parse(ViewConfig, "view", words[2:])
    assert asked.position == (int(row["z"]), int(row["y"]), int(row["x"]))
    assert asked.errors == "out/errors.csv" and asked.labels == wrong.labels
    assert asked.select == (int(row["segment"]),)
    assert metrics["frac_scored"] == pytest.approx((labels > 0).mean())
    assert metrics["frac_in_segments"] == 1
    assert metrics["dense_voi_sum_without_0"] == pytest.approx(metrics["dense_voi_sum"])
    assert (
        "predicted 0 is left out" in page
        and json.loads(Path("out/metrics.json").read_text()) == metrics
    )


def test_a_verdict_becomes_an_adjudicated_score(wrong, caplog):
    before = score(wrong)
    assert not any(name.startswith("adjudicated") for name in before)
    write_verdict("labels wrong")
    metrics = score(wrong)
    assert metrics["adjudicated_dense_voi_sum"] == pytest.approx(0, abs=1e-9)
    assert metrics["dense_voi_sum"] == before["dense_voi_sum"] > 0.5
    assert rows_of()[0]["verdict"] == "labels wrong"
    assert "With 1 verdicts: VOI 0.0000 bits" in Path("out/report.html").read_text()

    other = store(Path("t.zarr"), connected_components_3d(bar_affinities(bars()), 0.8))
    metrics = score(replace(wrong, segmentation=other))
    assert rows_of()[0]["kind"] == "split" and not rows_of()[0]["verdict"]
    assert rows_of("out/errors.earlier.csv")[0]["verdict"] == "labels wrong"
    assert "1 verdicts of out/errors.csv are on errors that this" in caplog.text
    perfect = store(Path("p.zarr"), bars())
    score(replace(wrong, segmentation=perfect))
    assert rows_of() == []  # not those of the segmentation before


def test_crops_show_the_piece_and_the_rest_in_any_order_of_axes():
    labels, segments = np.zeros((9, 12, 15), np.uint32), np.zeros((9, 12, 15), np.uint32)
    labels[2:6, 3:9, 4:12] = 7
    segments[2:6, 3:9, 4:8] = 1
    segments[2:6, 3:9, 8:12] = 2
    error = DenseError("split", 7, 2, 1, 96, 0.1, 0.5, position=(3, 4, 8))
    box = (slice(1, 9), slice(2, 12), slice(0, 15))
    pictures = draw_crops(error, box, labels, segments, None, "zyx", (40.0, 4.0, 4.0))
    turned = draw_crops(
        replace(error, position=(8, 4, 3)),
        box[::-1],
        labels.T,
        segments.T,
        None,
        "xyz",
        (4.0, 4.0, 40.0),
    )
    assert pictures == turned
    assert [picture.caption for picture in pictures] == ["z = 3", "y = 4", "x = 8"]
    assert [picture.aspect for picture in pictures] == [1.5, 15 / 80, 10 / 80]
    pixels = np.array(Image.open(io.BytesIO(pictures[0].png))).astype(int)
    blue = pixels[..., 2] - pixels[..., 0]
    green = pixels[..., 1] - pixels[..., 0]
    inside = segments[3, 2:12]
    assert COLOURS["split"][2] > COLOURS["split"][1] and REST[1] > REST[2]
    assert (blue[inside == 2] > 60).mean() > 0.6  # white lines point at the place
    assert (green[inside == 1] > 40).mean() > 0.6 and (blue[inside == 0] == 0).all()


def test_curves_of_a_training(tmp_path):
    lines = [
        {"step": 5, "time": 1.0, "train/loss_total": 0.5},
        {"step": 10, "train/loss_total": None, "val/loss": 0.4, "val/nerl": 0.2, "val/a/nerl": 0.1},
        {"step": 12, "skipped": [[0, 11, 1]]},
        {"step": 20, "train/loss_total": 0.25, "val/loss": 0.3, "val/nerl": 0.6},
    ]
    text = "\n".join(map(json.dumps, lines)) + '\n{"step": 21, "train/lo'
    (tmp_path / "log.jsonl").write_text(text)
    curves = read_log(tmp_path / "log.jsonl")
    assert curves["train/loss_total"] == ([5, 20], [0.5, 0.25])
    assert curves["val/nerl"] == ([10, 20], [0.2, 0.6]) and scores_of(curves) == ["nerl"]
    one = Image.open(io.BytesIO(draw_training({"mine": curves})))
    alone = {name: curves[name] for name in ("train/loss_total", "val/loss")}
    assert one.width == 2 * Image.open(io.BytesIO(draw_training({"mine": alone}))).width
    assert draw_training({"mine": {}}) is None


def test_the_report_of_a_run_shows_its_training(wrong):
    folder = Path("runs/mine/predictions/bars")
    folder.mkdir(parents=True)
    Path(wrong.segmentation).rename(folder / "segmentation.zarr")
    source = {"image": wrong.image, "labels": wrong.labels, "voxel_size": VOXEL}
    source |= {"axes": "zyx", "target": "affinity"}
    (folder / "source.json").write_text(json.dumps(source))
    score(EvaluateConfig(run="mine"))
    page = Path("runs/mine/evaluation/bars/report.html").read_text()
    assert "<h2>Training</h2>" not in page
    assert re.search(
        r"pytc view runs/mine --volume bars --position \d+ \d+ \d+ --select \d+<", page
    )
    Path("runs/mine/log.jsonl").write_text('{"step": 1, "train/loss_total": 0.5}\n')
    score(EvaluateConfig(run="mine"))
    page = Path("runs/mine/evaluation/bars/report.html").read_text()
    assert "<h2>Training</h2>" in page


def test_the_viewer_shows_an_error_as_it_was_scored(tmp_path, monkeypatch):
    """At the threshold of the evaluation, the segments of the error selected."""
    monkeypatch.chdir(tmp_path)
    fragments, tree = write_results(tmp_path / "runs" / "mine")
    folder = Path("runs/mine/predictions/cube")
    settings = settings_of(SegmentationConfig(threshold=0.3, min_size=150))
    made_by = {name: settings[name] for name in settings if name not in ("threshold", "min_size")}
    attributes = folder / "fragments.zarr" / ".zattrs"
    stored = json.loads(attributes.read_text())
    attributes.write_text(json.dumps(stored | made_by))
    segments = relabelled(fragments, tree.cut(0.3, min_size=150))
    with create_volume(
        folder / "segmentation.zarr",
        segments.shape,
        segments.dtype,
        voxel_size=(40.0, 8.0, 4.0),
        attributes=settings,
    ) as volume:
        volume[...] = segments

    def commands():
        score(EvaluateConfig(run="mine"))
        page = Path("runs/mine/evaluation/cube/report.html").read_text()
        found = re.findall(r"<code class=\"look\">(.*?)</code>", page)
        return [parse(ViewConfig, "view", shlex.split(command)[2:]) for command in found]

    said = commands()
    assert len(said) > 5 and {len(asked.select) for asked in said} >= {1, 2}
    for asked in said:
        sources = find_sources(asked)
        shown = SegmentsAtThreshold(
            sources.fragments.tree,
            asked.threshold,
            min_size=sources.fragments.min_size,
            numbers=asked.numbers,
        )
        assert asked.what == ("runs/mine",) and asked.volume == "cube"
        here = shown.table[fragments[asked.position]]
        assert here == segments[asked.position] and here in (0, *asked.select)
    other = stored | made_by | {"fragment_threshold": 0.25}  # fragments of another decode
    attributes.write_text(json.dumps(other))
    assert all(asked.select == () and asked.threshold is None for asked in commands())
