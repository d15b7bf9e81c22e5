"""evaluate.py on a volume made by hand.

Of three bars two merge at thresholds below 0.6 and one falls apart from 0.7 on, so that a sweep has
to find 0.65 and score it as perfect.
"""

import base64
import csv
import io
import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pytc.commands import EvaluateConfig
from pytc.config import SHORT_AND_LONG
from pytc.evaluate import evaluate
from pytc.evaluation.inputs import choose_metric
from pytc.evaluation.pictures import Matching, draw, palette
from pytc.io.skeleton import Skeleton, save_skeleton
from pytc.io.volume import create_volume, open_volume
from pytc.metrics.overlap import contingency_table, overlap_metrics
from pytc.metrics.semantic import boundaries
from pytc.segmentation.connected_components import connected_components_3d
from pytc.target_kinds import target_kind

SHAPE = (12, 20, 24)
VOXEL = (20.0, 10.0, 10.0)
THRESHOLDS = (0.5, 0.65, 0.8)


def bars() -> np.ndarray:
    """Labels 1 and 2 touch along y; 3 stands apart."""
    labels = np.zeros(SHAPE, np.uint16)
    labels[:, 2:6], labels[:, 6:10], labels[:, 14:18] = 1, 2, 3
    return labels


def score(config: EvaluateConfig) -> dict:
    """What metrics.json holds of the only volume."""
    (metrics,) = evaluate(config).values()
    return metrics


def bar_affinities(labels: np.ndarray) -> np.ndarray:
    affinities = np.zeros((6, *SHAPE), np.float32)
    for channel, offset in enumerate(SHORT_AND_LONG[:3]):
        here = tuple(slice(0, n - o) for n, o in zip(SHAPE, offset))
        there = tuple(slice(o, None) for o in offset)
        affinities[channel][here] = 0.9 * ((labels[here] == labels[there]) & (labels[here] > 0))
    affinities[1, :, 5, 12] = 0.6  # between bars 1 and 2
    affinities[2, :, 14:18, 11] = 0.7  # within bar 3
    return affinities


def bar_skeleton() -> Skeleton:
    """A straight line of 24 nodes in each bar."""
    positions = np.array([(6, y, x) for y in (4, 8, 16) for x in range(24)], np.int64)
    ids = np.repeat(np.array([1, 2, 3], np.uint64), 24)
    edges = np.array([(i, i + 1) for i in range(71) if (i + 1) % 24], np.int64)
    return Skeleton(ids, positions, positions * np.array(VOXEL), edges)


def store(path: Path, array: np.ndarray, axes: str = "zyx", **attributes) -> str:
    with create_volume(
        path, array.shape, array.dtype, axes=axes, voxel_size=VOXEL, attributes=attributes
    ) as volume:
        volume[...] = array
    return str(path)


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> EvaluateConfig:
    folder = tmp_path_factory.mktemp("bars")
    labels = bars()
    save_skeleton(folder / "skeleton.npz", bar_skeleton())
    image = np.random.default_rng(0).integers(0, 255, SHAPE).astype(np.uint8)
    return EvaluateConfig(
        affinities=store(
            folder / "affinities.zarr", bar_affinities(labels), "czyx", offsets=SHORT_AND_LONG
        ),
        labels=store(folder / "labels.zarr", labels),
        skeleton=str(folder / "skeleton.npz"),
        image=store(folder / "image.zarr", image),
        sweep=True,
        thresholds=THRESHOLDS,
    )


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
    assert {path.name for path in tmp_path.iterdir()} == names
    assert json.loads((tmp_path / "metrics.json").read_text()) == metrics
    rows = list(csv.DictReader(io.StringIO((tmp_path / "sweep.csv").read_text())))
    assert [float(row["threshold"]) for row in rows] == list(THRESHOLDS)
    assert [int(row["n_non0_mergers"]) for row in rows] == [2, 0, 0]
    assert [int(row["n_splits"]) for row in rows] == [0, 0, 1]
    best = open_volume(tmp_path / "best_segmentation.zarr")
    assert np.array_equal(best[...], connected_components_3d(bar_affinities(bars()), 0.65))
    assert best.voxel_size == VOXEL and best.attributes["threshold"] == 0.65


def test_report_carries_its_pictures(files, tmp_path):
    score(replace(files, output=str(tmp_path), attribution="made by <hand>"))
    page = (tmp_path / "report.html").read_text()
    assert not re.search(r"(src|href)=(?!\"data:image/png)", page) and "<script" not in page
    pictures = [
        base64.b64decode(found) for found in re.findall(r"data:image/png;base64,([^\"]+)", page)
    ]
    assert pictures[0] == (tmp_path / "sweep.png").read_bytes()
    sizes = [Image.open(io.BytesIO(png)).size for png in pictures[1:]]
    # image, labels, segmentation, errors
    assert sizes == 3 * 4 * [(24, 20)] + 4 * [(24, 12)] + 4 * [(20, 12)]
    assert "in a smaller piece of its label" in page and "wrongly in the mask" not in page
    assert "made by &lt;hand&gt;" in page and "Best by NERL: threshold 0.6500." in page


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
    replaced = {tmp_path / "metrics.json", tmp_path / "report.html"}
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
    assert score(masked)["dense_voi_sum"] == pytest.approx(0)


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


@pytest.fixture
def runs(files, tmp_path, monkeypatch):
    """Two runs with predictions, the second newer."""
    monkeypatch.chdir(tmp_path)
    for age, name in ((10, "old"), (0, "new")):
        folder = Path("runs", name, "predictions", "bars")
        folder.mkdir(parents=True)
        store(folder / "affinities.zarr", bar_affinities(bars()), "czyx", offsets=SHORT_AND_LONG)
        store(folder / "segmentation.zarr", connected_components_3d(bar_affinities(bars()), 0.8))
        source = {
            "image": files.image,
            "labels": files.labels,
            "mask": None,
            "skeleton": files.skeleton,
            "voxel_size": VOXEL,
            "axes": "zyx",
            "target": "affinity",
            "min_size": 0,
            "grow": False,
        }
        (folder / "source.json").write_text(json.dumps(source))
        time = (folder / "source.json").stat().st_mtime - age
        os.utime(folder / "source.json", (time, time))
    return tmp_path


def test_without_input_the_newest_results_are_scored(runs, capsys):
    assert score(EvaluateConfig())["n_splits"] == 1
    assert "runs/new/predictions/bars/segmentation.zarr" in capsys.readouterr().out
    assert Path("runs/new/evaluation/bars/report.html").is_file()
    metrics = score(EvaluateConfig(run="runs/old", sweep=True))
    # the first default one in [0.6, 0.7)
    assert metrics["threshold"] == pytest.approx(0.6457, abs=1e-4)
    assert metrics["output"] == "runs/old/evaluation/bars"


def test_source_beside_a_named_prediction_is_used(runs):
    Path("runs/old/predictions/bars").rename("elsewhere")  # as infer.py --output leaves it
    metrics = score(EvaluateConfig(affinities="elsewhere/affinities.zarr", thresholds=(0.65,)))
    assert metrics["nerl"] == 1 and metrics["dense_voi_sum"] == pytest.approx(0)
    assert Path("evaluation/report.html").is_file()


def test_what_the_network_predicts_is_the_task(runs):
    source = Path("runs/new/predictions/bars/source.json")
    source.write_text(json.dumps(json.loads(source.read_text()) | {"target": "binary"}))
    assert score(EvaluateConfig())["task"] == "semantic"
    source.write_text(json.dumps(json.loads(source.read_text()) | {"target": "boundary"}))
    assert score(EvaluateConfig())["jaccard"] < 0.5  # a mask of objects is none of boundaries
    truth = boundaries(bars(), np.ones(SHAPE, bool)).astype(np.uint8)
    shutil.rmtree("runs/new/predictions/bars/segmentation.zarr")
    store(Path("runs/new/predictions/bars/segmentation.zarr"), truth)
    assert score(EvaluateConfig())["jaccard"] == 1
    source.write_text(json.dumps(json.loads(source.read_text()) | {"target": "skeletons"}))
    with pytest.raises(ValueError, match="affinity, binary, boundary, classes, got 'skeletons'"):
        score(EvaluateConfig())


def test_no_run_is_an_error_that_says_so(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    expected = "--affinities FILE or .*--labels FILE or .*got no run with predictions"
    with pytest.raises(ValueError, match=expected):
        score(EvaluateConfig())


@pytest.mark.parametrize(
    "change, message",
    [
        ({"metric": "adopted_rand"}, "did you mean 'dense_adapted_rand_error'"),
        ({"metric": "nerl", "skeleton": None}, "--skeleton for the metric 'nerl'"),
        ({"labels": None, "skeleton": None}, "--skeleton or --labels to score against"),
        ({"labels": "image"}, "three axes and an integer dtype"),
        (
            {"labels": "small"},
            r"labels of the prediction's shape \(12, 20, 24\), got .*zyx \(12, 20, 23\)",
        ),
        ({"labels": "flipped"}, "labels with the prediction's axes zyx, got .* xzy"),
        ({"affinities": "nameless"}, "--offsets names them"),
        ({"affinities": "long"}, r"without \[\(1, 0, 0\), \(0, 1, 0\), \(0, 0, 1\)\]"),
        ({"skeleton": "outside"}, r"inside \(12, 20, 24\), got .1 outside, e.g. \[\[12, 0, 0\]\]"),
        ({"probabilities": "affinities", "affinities": None}, "probability map of one channel"),
        (
            {"probabilities": "probability", "affinities": None, "labels": None},
            "--labels to score against",
        ),
        (
            {"probabilities": "probability", "affinities": None, "min_size": 5},
            "affinities of instances",
        ),
        ({"affinities": "integers"}, "affinities of dtype float16"),
        ({"affinities": "missing.zarr"}, "no such file"),
    ],
)
def test_misfits_are_refused(files, tmp_path, change, message):
    skeleton = bar_skeleton()
    skeleton.positions[0] = (12, 0, 0)
    save_skeleton(tmp_path / "outside.npz", skeleton)
    affinities = bar_affinities(bars())
    files_made = {
        "image": lambda: store(tmp_path / "image.zarr", np.zeros(SHAPE, np.float32)),
        "small": lambda: store(tmp_path / "small.zarr", bars()[..., 1:]),
        "flipped": lambda: store(tmp_path / "flipped.zarr", bars(), "xzy"),
        "nameless": lambda: store(tmp_path / "nameless.zarr", affinities, "czyx"),
        "long": lambda: store(
            tmp_path / "long.zarr", affinities, "czyx", offsets=[(i, 0, 0) for i in range(2, 8)]
        ),
        "affinities": lambda: files.affinities,
        "probability": lambda: store(tmp_path / "probability.zarr", affinities[:1], "czyx"),
        "integers": lambda: store(tmp_path / "integers.zarr", affinities.astype(np.int16), "czyx"),
        "outside": lambda: str(tmp_path / "outside.npz"),
    }
    change = {
        key: files_made[value]() if value in files_made else value for key, value in change.items()
    }
    with pytest.raises(ValueError, match=message):
        score(replace(files, output=str(tmp_path / "out"), **change))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"affinities": "a", "segmentation": "s"}, "got '--affinities and --segmentation'"),
        ({"segmentation": "s", "sweep": True}, "affinities to sweep"),
        ({"affinities": "a"}, "--sweep or --thresholds with a prediction"),
        ({"affinities": "a", "volume": "v", "sweep": True}, "--volume with a run"),
        ({"probabilities": "p", "target": "affinity", "sweep": True}, "--affinities for --target"),
        ({"affinities": "a", "thresholds": (0.5,), "exact": True}, "--sweep with --exact"),
        ({"affinities": "a", "run": "r", "sweep": True}, "--run or the name of a prediction"),
        ({"thresholds": (0.5, 1.5)}, r"thresholds in \[0, 1\]"),
        ({"thresholds": ()}, "at least one threshold"),
    ],
)
def test_impossible_choices_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        EvaluateConfig(**fields)


def test_a_method_needs_affinities(files, tmp_path):
    with pytest.raises(ValueError, match="affinities of instances with --method"):
        score(
            EvaluateConfig(
                segmentation=files.labels,
                labels=files.labels,
                method="components_watershed",
                output=str(tmp_path),
            )
        )


AFFINITY = target_kind("affinity")


def test_default_metric_and_thresholds():
    assert choose_metric(None, AFFINITY, {"labels": 1, "skeleton": 1}) == "nerl"
    assert choose_metric(None, AFFINITY, {"labels": 1}) == "dense_voi_sum"
    assert choose_metric(None, target_kind("binary"), {"labels": 1}) == "jaccard"
    assert choose_metric("adapted_rand", AFFINITY, {"labels": 1}) == "dense_adapted_rand_error"
    with pytest.raises(ValueError, match="expected a metric, got 'nerf'; did you mean 'nerl'"):
        choose_metric("nerf", AFFINITY, {"skeleton": 1})


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


def test_errors_of_merged_split_and_missed_voxels():
    labels = np.array([[[1, 1, 1, 2, 2, 3, 3, 3, 0, 0]]])
    segments = np.array([[[7, 7, 8, 0, 9, 9, 9, 9, 9, 0]]])
    matching = Matching(contingency_table(labels, segments), "instance")
    assert matching.errors(labels, segments).tolist() == [[[0, 0, 2, 3, 1, 0, 0, 0, 0, 0]]]
    assert matching.colours(segments).tolist() == [[[1, 1, -8, 0, 3, 3, 3, 3, 3, 0]]]


def test_errors_of_a_mask():
    truth = np.array([[[-1, -1, 0, 0, 1, 1]]], np.int8)
    mask = np.array([[[0, 1, 0, 1, 0, 1]]], np.uint8)
    matching = Matching(contingency_table(truth, mask), "semantic")
    assert matching.errors(truth.astype(np.int64), mask.astype(np.int64)).tolist() == [
        [[0, 0, 0, 1, 3, 0]]
    ]
    empty = Matching(contingency_table(truth, 0 * mask), "semantic")
    assert empty.errors(truth.astype(np.int64), 0 * mask.astype(np.int64)).tolist() == [
        [[0, 0, 0, 0, 3, 3]]
    ]


def test_pictures_without_truth_and_of_anisotropic_voxels():
    rows = draw(bars(), "zyx", VOXEL)
    assert [[p.caption for p in row] for row in rows[::3]] == [
        ["segmentation, z = 3"],
        ["segmentation, y = 10"],
    ]
    assert rows[0][0].aspect == pytest.approx(24 / 20) and rows[3][0].aspect == pytest.approx(
        24 / (12 * 2)
    )


def test_palette_tells_ids_apart():
    colours = palette(np.arange(-50, 50))
    assert colours[50].tolist() == [0, 0, 0] and len(np.unique(colours, axis=0)) == 100
    assert colours.max(1)[np.arange(100) != 50].min() > 150


def test_worst_skeletons_name_the_voxel_of_an_error(files, tmp_path):
    def worst(threshold):
        segmentation = (
            connected_components_3d(bar_affinities(bars()), threshold) if threshold else bars()
        )
        path = store(tmp_path / "s.zarr", segmentation)
        score(
            EvaluateConfig(segmentation=path, skeleton=files.skeleton, output=str(tmp_path / "out"))
        )
        shutil.rmtree(path)
        page = (tmp_path / "out" / "report.html").read_text()
        table = page.partition("look at z, y, x</th></tr>")[2].partition("</table>")[0]
        return [re.findall("<td>(.*?)</td>", row) for row in table.split("<tr>")[1:]]

    merged = [
        ["1", "0.23", "0%", "0", "0", "2", "anywhere"],
        ["2", "0.23", "0%", "0", "0", "1", "anywhere"],
    ]
    assert worst(0.5) == merged
    assert worst(0.8) == [["3", "0.23", "46%", "1", "0", "none", "6, 16, 11"]]
    assert worst(None) == []


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
