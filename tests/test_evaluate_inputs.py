"""What evaluate.py scores: the newest results, files that are named, and what it refuses."""

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from three_bars import SHAPE, VOXEL, bar_affinities, bar_skeleton, bars, score, store, store_bars

from pytc.commands import EvaluateConfig
from pytc.config import SHORT_AND_LONG
from pytc.evaluation.inputs import choose_metric
from pytc.io.skeleton import save_skeleton
from pytc.metrics.semantic import boundaries
from pytc.segmentation.connected_components import connected_components_3d
from pytc.target_kinds import target_kind


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> EvaluateConfig:
    return store_bars(tmp_path_factory.mktemp("bars"))


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
    kinds = "affinity, binary, boundary, classes, mask_contour, distance"
    with pytest.raises(ValueError, match=f"{kinds}, got 'skeletons'"):
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
    if "probabilities" in change:  # a mask has no method
        change["method"] = None
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
