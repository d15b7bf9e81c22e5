"""Labels and mask that are stored in another order of axes than their image."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile

from pytc.config import DataConfig, VolumeConfig
from pytc.data.sources import open_source
from pytc.io.synthetic import make_neurites
from pytc.io.volume import create_volume

ROOT = Path(__file__).parent.parent
SHAPE = (17, 24, 30)
VOXEL_SIZE = (40.0, 4.0, 4.0)


@pytest.fixture
def stack(tmp_path):
    """An image z, y, x; its labels, and a mask of the upper half, x, y, z."""
    volume = make_neurites(SHAPE, 1, voxel_size=VOXEL_SIZE)
    mask = np.zeros(SHAPE, np.uint8)
    mask[:8] = 1
    tifffile.imwrite(tmp_path / "image.tif", volume.image)
    for name, array in (("labels", volume.labels.astype(np.uint16)), ("mask", mask)):
        tifffile.imwrite(tmp_path / f"{name}.tif", array.T)
    return volume, mask


def volume_config(folder, **settings):
    return VolumeConfig(
        image=str(folder / "image.tif"),
        labels=str(folder / "labels.tif"),
        axes="zyx",
        voxel_size=VOXEL_SIZE,
        **settings,
    )


def test_they_are_read_in_the_order_of_the_image(stack, tmp_path):
    volume, mask = stack
    config = volume_config(tmp_path, labels_axes="xyz", mask=str(tmp_path / "mask.tif"))
    source = open_source(config, DataConfig())
    assert (source.labels[...] == volume.labels).all()
    assert (source.mask[...] == mask).all()


def test_also_where_the_image_is_transposed(stack, tmp_path):
    volume, _ = stack
    config = volume_config(tmp_path, labels_axes="xyz", transpose="yxz")
    source = open_source(config, DataConfig())
    assert (source.labels[...] == volume.labels.transpose(1, 2, 0)).all()


def test_without_the_flag_the_error_names_it(stack, tmp_path):
    with pytest.raises(ValueError, match=r"got \(30, 24, 17\).*data\.\*\.labels-axes .*e\.g\. xyz"):
        open_source(volume_config(tmp_path), DataConfig())


def evaluate(folder, *words):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, ROOT / "evaluate.py", *words, "--output", folder / "scores"]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads((folder / "scores" / "metrics.json").read_text())


def test_a_true_segmentation_is_without_error(stack, tmp_path):
    """By a flag, and by the notes that infer.py leaves beside a prediction."""
    volume, _ = stack
    results = tmp_path / "results"
    with create_volume(
        results / "segmentation.zarr", SHAPE, np.uint32, axes="zyx", voxel_size=VOXEL_SIZE
    ) as segmentation:
        segmentation[...] = volume.labels.astype(np.uint32)
    words = "--segmentation", "results/segmentation.zarr"
    flags = "--labels", "labels.tif", "--labels-axes", "xyz"
    assert evaluate(tmp_path, *words, *flags)["dense_voi_sum"] == 0
    notes = {
        "image": str(tmp_path / "image.tif"),
        "labels": str(tmp_path / "labels.tif"),
        "labels_axes": "xyz",
        "mask": str(tmp_path / "mask.tif"),
        "axes": "zyx",
        "target": "affinity",
        "segmentation": {},
    }
    (results / "source.json").write_text(json.dumps(notes))
    scores = evaluate(tmp_path, *words)
    assert scores["dense_voi_sum"] == 0 and scores["frac_scored"] < 0.6
