"""`pytc.load`: what it predicts and segments equals what infer.py writes, bit for bit."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tiny_runs import tiny

import pytc
from pytc.commands import EvaluateConfig, InferConfig
from pytc.config import SegmentationConfig
from pytc.evaluate import evaluate
from pytc.inference.pipeline import infer
from pytc.io.results import read_source
from pytc.io.volume import open_volume

ROOT = Path(__file__).parent.parent
DECODES = ("components", "components_watershed", "agglomeration")


@pytest.fixture(scope="module")
def written(workplace):
    """The folder of results that infer.py leaves."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(workplace)
        (folder,) = infer(InferConfig(run="tiny", system=tiny().system))
        return workplace / folder


def image_of(folder):
    return str(folder.parents[3] / read_source(folder)["image"])


@pytest.mark.parametrize("form", ["path", "volume", "array"])
def test_a_prediction_is_that_of_infer(finished, written, form):
    image = image_of(written)
    volume = open_volume(image)
    given = {"path": image, "volume": volume, "array": volume[...]}[form]
    predicted = pytc.load("tiny").predict(given, voxel_size=volume.voxel_size)
    stored = open_volume(written / "affinities.zarr")
    assert predicted.dtype == stored.dtype and predicted.offsets == stored.offsets
    assert predicted.voxel_size == stored.voxel_size
    np.testing.assert_array_equal(predicted[...], stored[...])


@pytest.mark.parametrize("method", DECODES)
def test_a_segmentation_is_that_of_infer(finished, written, method):
    settings = {"threshold": 0.45, "min_size": 20, "method": method, "fragment_threshold": 0.48}
    config = SegmentationConfig(**settings)
    infer(InferConfig(run="tiny", segmentation=config, system=tiny().system))
    expected = open_volume(written / "segmentation.zarr")[...]
    assert expected.any()
    segmenter = pytc.load("runs/tiny")
    predicted = segmenter.predict(image_of(written))
    for affinities in (predicted, predicted[...], written / "affinities.zarr"):
        labels = segmenter.segment(affinities, **settings)
        assert labels.dtype == expected.dtype
        np.testing.assert_array_equal(labels, expected)
    again = segmenter.with_settings(**settings)
    np.testing.assert_array_equal(again.segment(predicted), expected)


def test_the_settings_of_the_run_hold_and_then_those_of_a_sweep(finished, written):
    segmenter = pytc.load("tiny", device="cpu")
    assert segmenter.segmentation == tiny().segmentation
    with pytest.raises(ValueError, match="evaluate.py --sweep makes one"):
        segmenter.swept()
    asked = EvaluateConfig(
        run="tiny", thresholds=(0.45, 0.52), method="components_watershed", min_size=7
    )
    (scores,) = evaluate(asked).values()
    swept = segmenter.swept()
    assert swept.segmentation.threshold == scores["threshold"]
    assert (swept.segmentation.method, swept.segmentation.min_size) == ("components_watershed", 7)
    kept = open_volume(next(finished.glob("evaluation/*/best_segmentation.zarr")))
    assert kept[...].any()
    np.testing.assert_array_equal(swept.segment(written / "affinities.zarr"), kept[...])
    assert "components_watershed" in repr(swept) and "min_size=7" in repr(swept)


def test_a_wrong_name_is_refused(finished):
    segmenter = pytc.load(finished / "checkpoints" / "last.pt")
    with pytest.raises(ValueError, match="no setting 'treshold'; did you mean 'threshold'"):
        segmenter.segment(np.zeros((3, 4, 4, 4), np.float16), treshold=0.5)
    with pytest.raises(ValueError, match="did you mean 'tiny'"):
        pytc.load("tinny")


def test_the_package_alone_loads_no_torch():
    code = "import pytc, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
