"""Synaptic clefts: CREMI's distances, and the preset from training to scores."""

import json
import math
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
from test_presets import small
from three_bars import bars, score, store

from pytc.commands import EvaluateConfig, InferConfig
from pytc.config_files import load_config_file
from pytc.evaluate import evaluate
from pytc.inference.pipeline import infer
from pytc.io.synthetic import make_neurites
from pytc.metrics.semantic import cleft_distances
from pytc.training.loop import train

CONFIGS = Path(__file__).parent.parent / "configs"
VOXEL = (40.0, 4.0, 4.0)


def slow_distances(truth, prediction):
    """The nearest voxel of the other mask, one by one."""
    true, found = np.argwhere(truth > 0), np.argwhere((prediction > 0) & (truth >= 0))

    def mean(voxels, others):
        return np.mean([math.sqrt((((others - v) * VOXEL) ** 2).sum(1).min()) for v in voxels])

    false_positives, false_negatives = mean(found, true), mean(true, found)
    return {
        "cleft_distance_fp": false_positives,
        "cleft_distance_fn": false_negatives,
        "cleft_distance": (false_positives + false_negatives) / 2,
    }


@pytest.mark.parametrize("seed", range(3))
def test_distances_equal_a_loop(seed):
    random = np.random.default_rng(seed)
    truth = random.choice([-1, 0, 5], (5, 9, 10), p=[0.1, 0.85, 0.05])
    prediction = random.random(truth.shape) < 0.1
    found = cleft_distances(truth, prediction, VOXEL)
    assert found == pytest.approx(slow_distances(truth, prediction))


def test_nothing_to_find_or_nothing_found_has_no_distance():
    truth = np.zeros((2, 3, 4), np.int8)
    truth[0, 0] = 1
    assert cleft_distances(truth, truth * 0, VOXEL) == {}
    assert cleft_distances(truth * 0, truth, VOXEL) == {}
    hidden = np.where(truth == 1, -1, 0)
    assert cleft_distances(hidden, truth, VOXEL) == {}
    perfect = cleft_distances(truth, truth, VOXEL)
    assert set(perfect.values()) == {0.0}


def test_distances_are_of_masks_alone(tmp_path):
    labels = store(tmp_path / "labels.zarr", bars())
    config = EvaluateConfig(segmentation=labels, labels=labels, output=str(tmp_path / "out"))
    with pytest.raises(ValueError, match="a mask with --cleft-distances, got 'affinity'"):
        score(replace(config, cleft_distances=True))
    moved = store(tmp_path / "moved.zarr", np.roll(bars() > 0, 1, axis=1).astype(np.uint8))
    scores = score(replace(config, segmentation=moved, target="binary", cleft_distances=True))
    # of twelve rows two are 10 nm off
    assert scores["cleft_distance_fp"] == scores["cleft_distance"] == pytest.approx(20 / 12)
    assert scores == json.loads((tmp_path / "out" / "metrics.json").read_text())


def test_the_preset_from_training_to_scores(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PYTC_DATA", raising=False)
    volume = make_neurites((24, 40, 40), 3)
    clefts = np.where(volume.labels % 5 == 1, volume.labels, 0).astype(np.uint64)
    clefts[:, :3] = 2**64 - 1  # not known
    for sample in "abc":
        path = tmp_path / "data" / f"cremi_{sample}" / f"cremi_{sample}_train.h5"
        path.parent.mkdir(parents=True)
        with h5py.File(path, "w") as file:
            for name, array in (
                ("raw", volume.image),
                ("labels", volume.labels),
                ("clefts", clefts),
            ):
                file[name] = array
                file[name].attrs.update({"axes": "zyx", "resolution": VOXEL, "unit": "nm"})
    config = load_config_file(CONFIGS / "cremi_clefts.py")
    shrunk = small(config)
    data = replace(
        shrunk.data, train=config.data.train[:1], val=config.data.val, patch_size=(16, 32, 32)
    )
    run = train(replace(shrunk, data=data, loop=replace(shrunk.loop, max_steps=1)))
    infer(InferConfig(run=str(run), system=shrunk.system))
    (scores,) = evaluate(
        EvaluateConfig(run=str(run), thresholds=(0.3,), cleft_distances=True)
    ).values()
    assert scores["task"] == "semantic" and 0 <= scores["jaccard"] <= 1
    assert scores["frac_scored"] == pytest.approx(37 / 40)
    found = {"cleft_distance", "cleft_distance_fp", "cleft_distance_fn"} & set(scores)
    assert len(found) in (0, 3)  # a network of one step may find nothing
