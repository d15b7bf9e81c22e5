"""evaluate.py on three bars: sweeps, exact sweeps, single thresholds and masks."""

import csv
import io
import json
import os
import re
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from three_bars import (
    SHAPE,
    THRESHOLDS,
    VOXEL,
    bar_affinities,
    bar_skeleton,
    bars,
    score,
    store,
    store_bars,
)

from pytc.commands import EvaluateConfig
from pytc.config import SHORT_AND_LONG
from pytc.evaluation.printing import shortest
from pytc.io.skeleton import Skeleton, save_skeleton
from pytc.io.volume import create_volume, open_volume
from pytc.metrics.overlap import overlap_metrics
from pytc.segmentation.connected_components import connected_components_3d
from pytc.segmentation.edges import is_above


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> EvaluateConfig:
    return store_bars(tmp_path_factory.mktemp("bars"))


def test_sweep_finds_the_perfect_threshold_and_writes_everything(files, tmp_path):
    metrics = score(replace(files, output=str(tmp_path), attribution="made by <hand>"))
    assert metrics["threshold"] == 0.65 and metrics["metric"] == "nerl"
    perfect = {"nerl": 1, "voi_sum": 0, "n_mergers": 0, "n_splits": 0, "dense_voi_sum": 0}
    assert {key: metrics[key] for key in perfect} == pytest.approx(perfect, abs=1e-9)
    assert (
        metrics["merge_tolerance_nodes"] == 0
        and metrics["method"] == "components"
        and metrics["min_size"] == 0
    )

    names = {"metrics.json", "sweep.csv", "sweep.png", "report.html", "best_segmentation.zarr"}
    names.add("objects.csv")
    assert {path.name for path in tmp_path.iterdir()} == names
    assert json.loads((tmp_path / "metrics.json").read_text()) == metrics
    rows = list(csv.DictReader(io.StringIO((tmp_path / "sweep.csv").read_text())))
    assert [float(row["threshold"]) for row in rows] == list(THRESHOLDS)
    assert [int(row["n_non0_mergers"]) for row in rows] == [2, 0, 0]
    assert [int(row["n_splits"]) for row in rows] == [0, 0, 1]
    best = open_volume(tmp_path / "best_segmentation.zarr")
    assert np.array_equal(best[...], connected_components_3d(bar_affinities(bars()), 0.65))
    assert best.voxel_size == VOXEL and best.attributes["threshold"] == 0.65


def test_exact_sweep_finds_the_range_between(files, tmp_path):
    """Bars fall apart from 0.6 to 0.7: no given threshold is perfect, an affinity is."""
    config = replace(files, output=str(tmp_path), thresholds=(0.3, 0.8), exact=True)
    metrics = score(config)
    assert metrics["nerl"] == pytest.approx(1) and 0.55 < metrics["threshold"] < 0.7
    rows, curve = (
        list(csv.DictReader(io.StringIO((tmp_path / name).read_text())))
        for name in ("sweep.csv", "exact_sweep.csv")
    )
    assert [float(row["threshold"]) for row in rows] == [0.3, metrics["threshold"], 0.8]
    assert str(metrics["threshold"]) in [row["threshold"] for row in curve]
    assert max(float(row["nerl"]) for row in curve) == pytest.approx(1)
    assert json.loads((tmp_path / "metrics.json").read_text()) == metrics
    assert "No threshold is better" in (tmp_path / "report.html").read_text()
    score(replace(config, exact=False))
    assert not (tmp_path / "exact_sweep.csv").exists()
    for change, message in (
        ({"skeleton": None}, "skeletons .* with --exact; without them leave --exact out"),
        ({"metric": "n_splits"}, "--metric erl, nerl, .*with --exact; for another leave"),
    ):
        with pytest.raises(ValueError, match=message):
            score(replace(config, **change))


def test_first_compilation_is_announced(files, tmp_path):
    words = ["--affinities", files.affinities, "--labels", files.labels, "--thresholds", "0.65"]
    words += ["--output", str(tmp_path / "out")]
    code = f"from pytc import cli; cli.evaluate({words})"
    environment = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path / "cache")}
    first, second = (
        subprocess.run(
            [sys.executable, "-c", code],
            check=True,
            env=environment,
            capture_output=True,
            text=True,
        ).stdout
        for _ in range(2)
    )
    assert "compiling, as this is the first use" in first and "compiling" not in second


@pytest.mark.parametrize(
    "without, metric", [("skeleton", "dense_voi_sum"), ("labels", "nerl"), ("image", "nerl")]
)
def test_any_subset_of_the_truth(files, tmp_path, without, metric):
    metrics = score(replace(files, output=str(tmp_path), **{without: None}))
    assert metrics["metric"] == metric and metrics["threshold"] == 0.65
    assert ("nerl" in metrics) == (without != "skeleton") and ("dense_voi_sum" in metrics) == (
        without != "labels"
    )


def test_exact_sweep_before_a_seeded_watershed(files, tmp_path):
    """The curve scores components; the rows score what the seeded watershed makes of them."""
    config = replace(
        files,
        output=str(tmp_path),
        thresholds=(0.3, 0.8),
        exact=True,
        method="components_watershed",
    )
    metrics = score(config)
    assert metrics["method"] == "components_watershed" and metrics["nerl"] == pytest.approx(1)
    with_sweep = (tmp_path / "sweep.csv").read_text()
    assert len(with_sweep.splitlines()) == 4 and (tmp_path / "exact_sweep.csv").exists()
    page = (tmp_path / "report.html").read_text()
    assert "of components, before the seeded watershed" in page
    assert "No threshold is better" not in page
    alone = score(replace(config, exact=False, thresholds=(0.3, metrics["threshold"], 0.8)))
    assert (tmp_path / "sweep.csv").read_text() == with_sweep and alone["nerl"] == metrics["nerl"]


def test_segmentation_is_scored_as_it_is_and_leaves_what_a_sweep_found(files, tmp_path, capsys):
    score(replace(files, output=str(tmp_path)))
    swept = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    segmentation = connected_components_3d(bar_affinities(bars()), 0.5)
    path = store(tmp_path / "mine.zarr", segmentation, threshold=0.5)
    metrics = score(EvaluateConfig(segmentation=path, labels=files.labels, output=str(tmp_path)))
    expected = {
        f"dense_{key}": value for key, value in overlap_metrics(bars(), segmentation).items()
    }
    assert {key: metrics[key] for key in expected} == expected and metrics["threshold"] == 0.5
    replaced = {tmp_path / name for name in ("metrics.json", "objects.csv", "report.html")}
    for path, content in swept.items():
        assert (path.read_bytes() == content) == (path not in replaced), path
    assert "of an earlier sweep: " in capsys.readouterr().out
    score(replace(files, output=str(tmp_path), sweep=False, thresholds=(0.8,)))
    for path, content in swept.items():
        assert (path.read_bytes() == content) == (path not in replaced), path


def test_a_stored_best_segmentation_survives_being_scored(files, tmp_path):
    score(replace(files, output=str(tmp_path)))
    best = str(tmp_path / "best_segmentation.zarr")
    metrics = score(
        EvaluateConfig(segmentation=best, skeleton=files.skeleton, output=str(tmp_path))
    )
    assert metrics["nerl"] == 1 and open_volume(best).shape == SHAPE


def test_one_threshold_min_size_and_watershed(files, tmp_path):
    config = replace(files, output=str(tmp_path), sweep=False, thresholds=(0.8,))
    assert score(config)["n_splits"] == 1
    # the smaller half of bar 3, 12 x 4 x 12 voxels
    assert score(replace(config, min_size=600))["n_splits"] == 0
    metrics = score(replace(config, min_size=600, method="components_watershed"))
    assert metrics["method"] == "components_watershed" and metrics["min_size"] == 600
    assert not (tmp_path / "sweep.csv").exists()


def test_mask_hides_labels(files, tmp_path):
    inside = np.ones(SHAPE, np.uint8)
    inside[:, :, 12:] = 0
    wrong = bars()
    wrong[:, 2:10, 12:] = 9
    config = EvaluateConfig(
        segmentation=store(tmp_path / "wrong.zarr", wrong),
        labels=files.labels,
        output=str(tmp_path / "out"),
    )
    assert score(config)["dense_voi_sum"] > 0.1
    masked = replace(config, mask=store(tmp_path / "mask.zarr", inside))
    seen = score(masked)
    assert seen["dense_voi_sum"] == pytest.approx(0)
    assert seen["ap"] == seen["pq_75"] == 1  # what lies outside of the mask is no background


def test_stored_axis_order_does_not_change_scores_or_pictures(files, tmp_path):
    skeleton = bar_skeleton()
    flipped = Skeleton(
        skeleton.ids,
        skeleton.positions[:, ::-1].copy(),
        skeleton.nm[:, ::-1].copy(),
        skeleton.edges,
    )
    save_skeleton(tmp_path / "xyz.npz", flipped)

    def backwards(name, array, axes, **attributes):
        array = array.transpose(2, 1, 0) if array.ndim == 3 else array.transpose(3, 2, 1, 0)
        path = tmp_path / f"{name}.zarr"
        with create_volume(
            path, array.shape, array.dtype, axes=axes, voxel_size=VOXEL[::-1], attributes=attributes
        ) as volume:
            volume[...] = array
        return str(path)

    affinities = bar_affinities(bars())
    reversed_axes = EvaluateConfig(
        affinities=backwards(
            "affinities", affinities, "xyzc", offsets=[o[::-1] for o in SHORT_AND_LONG]
        ),
        labels=backwards("labels", bars(), "xyz"),
        skeleton=str(tmp_path / "xyz.npz"),
        image=backwards("image", open_volume(files.image)[...], "xyz"),
        method="components",
        sweep=True,
        thresholds=THRESHOLDS,
    )
    pictures, scores = [], []
    for config in (files, reversed_axes):
        metrics = score(replace(config, output=str(tmp_path / "out")))
        scores.append({key: value for key, value in metrics.items() if isinstance(value, float)})
        pictures.append(re.findall(r"base64,([^\"]+)", (tmp_path / "out/report.html").read_text()))
    assert scores[0] == pytest.approx(scores[1])
    assert pictures[0] == pictures[1]


def test_stored_bytes_are_affinities_too(files, tmp_path):
    affinities = np.round(bar_affinities(bars()) * 255).astype(np.uint8)
    path = store(tmp_path / "bytes.zarr", affinities, "czyx")
    metrics = score(
        replace(files, affinities=path, offsets=SHORT_AND_LONG, output=str(tmp_path / "out"))
    )
    assert metrics["threshold"] == 0.65 and metrics["nerl"] == 1


def test_semantic_mask_and_probability(files, tmp_path):
    truth = bars() > 0
    probability = np.where(truth, 0.7, 0.2).astype(np.float16)
    probability[:, 6:10], probability[:, 18:] = 0.55, 0.6
    path = store(tmp_path / "probability.zarr", probability[None], "czyx")
    config = EvaluateConfig(
        probabilities=path,
        labels=files.labels,
        output=str(tmp_path / "out"),
        sweep=True,
        thresholds=(0.3, 0.575, 0.65),
    )
    metrics = score(config)  # 12 true rows, at 0.3 all of them and 2 more; at 0.65 only 8
    assert metrics["metric"] == "jaccard" and metrics["threshold"] == 0.3
    expected = {"jaccard": 12 / 14, "dice": 24 / 26, "precision": 12 / 14, "recall": 1}
    assert {key: metrics[key] for key in expected} == pytest.approx(expected)
    assert score(replace(config, metric="precision"))["threshold"] == 0.65
    assert "wrongly in the mask" in (tmp_path / "out" / "report.html").read_text()
    mask = store(tmp_path / "mask.zarr", (probability > 0.3).astype(np.uint8))
    scored = score(
        replace(
            config,
            probabilities=None,
            segmentation=mask,
            target="binary",
            sweep=False,
            thresholds=None,
        )
    )
    assert {key: scored[key] for key in expected} == pytest.approx(expected)


def test_no_torch(files, tmp_path):
    code = (
        "import sys; from pytc.commands import EvaluateConfig; "
        "from pytc.evaluate import evaluate; "
        f"evaluate(EvaluateConfig(affinities={files.affinities!r}, labels={files.labels!r}, "
        f"thresholds=(0.65,), output={str(tmp_path)!r})); sys.exit('torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_missing_reference_is_named_before_any_work(files, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "funlib.evaluate", None)
    monkeypatch.delitem(sys.modules, "pytc.evaluation.crosscheck", raising=False)
    with pytest.raises(ValueError, match="pip install .*funlib.evaluate"):
        score(replace(files, output=str(tmp_path / "out"), backend="funlib"))
    assert not (tmp_path / "out").exists()


def test_reference_agrees(files, tmp_path, capsys):
    pytest.importorskip("funlib.evaluate")
    metrics = score(
        replace(files, output=str(tmp_path), backend="funlib", sweep=False, thresholds=(0.8,))
    )
    assert "funlib.evaluate agrees with" in capsys.readouterr().out
    assert metrics["funlib_erl"] == pytest.approx(metrics["erl"], rel=1e-5)


def test_require_fails_where_the_metric_is_worse(files, tmp_path):
    config = EvaluateConfig(
        segmentation=files.labels, labels=files.labels, output=str(tmp_path / "out")
    )
    score(replace(config, metric="dense_rand_split", require=0.99))
    score(replace(config, metric="dense_voi_sum", require=0.01))
    with pytest.raises(ValueError, match="expected dense_rand_split of at least 1.5, got 1.0000"):
        score(replace(config, metric="dense_rand_split", require=1.5))
    with pytest.raises(ValueError, match="expected dense_voi_sum of at most -1, got "):
        score(replace(config, metric="dense_voi_sum", require=-1.0))
    assert (tmp_path / "out" / "metrics.json").exists()


def test_the_shortest_threshold_decides_alike():
    values = {
        dtype: np.linspace(0, 1, 4001).astype(dtype) for dtype in ("float16", "float32", "float64")
    }
    values["uint8"] = np.arange(256, dtype=np.uint8)
    for threshold in np.random.default_rng(0).random(50):
        for some in values.values():
            short = shortest(float(threshold), some.dtype)
            assert np.array_equal(is_above(some, short), is_above(some, float(threshold)))
    assert shortest(1 / (1 + np.exp(-1.0)), np.dtype("float16")) in (0.731, 0.7311)
