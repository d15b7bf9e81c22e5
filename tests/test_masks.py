"""Masks and classes that are made of probabilities: what is stored is whole, or as it was."""

import numpy as np
import pytest

from pytc.io.volume import create_volume, open_volume
from pytc.segmentation import masks
from pytc.segmentation.edges import is_above
from pytc.segmentation.masks import argmax_volume, threshold_volume

SHAPE = (5, 9, 7)


def stored(path, channels):
    values = np.random.default_rng(0).random((channels, *SHAPE)).astype(np.float16)
    with create_volume(path, values.shape, values.dtype, voxel_size=(40.0, 4.0, 4.0)) as volume:
        volume[...] = values
    return values, open_volume(path)


def test_a_mask_and_classes_by_blocks(tmp_path, monkeypatch):
    monkeypatch.setattr(masks, "BLOCK", (2, 4, 4))
    values, probabilities = stored(tmp_path / "p.zarr", 3)
    threshold_volume(probabilities, tmp_path / "mask.zarr", 0.7)
    mask = open_volume(tmp_path / "mask.zarr")
    np.testing.assert_array_equal(mask[...], is_above(values[0], 0.7))
    assert mask.dtype == np.uint8 and mask.voxel_size == (40.0, 4.0, 4.0)
    assert mask.attributes["threshold"] == 0.7
    argmax_volume(probabilities, tmp_path / "classes.zarr")
    classes = open_volume(tmp_path / "classes.zarr")
    np.testing.assert_array_equal(classes[...], values.argmax(0))
    assert classes.attributes["classes"] == 3


@pytest.mark.parametrize("is_mask", (True, False))
def test_what_was_there_stays_when_the_work_is_cut_short(tmp_path, monkeypatch, is_mask):
    _, probabilities = stored(tmp_path / "p.zarr", 2)
    output = tmp_path / "segmentation.zarr"

    def write():
        if is_mask:
            threshold_volume(probabilities, output, 0.5)
        else:
            argmax_volume(probabilities, output)

    write()
    before = open_volume(output)[...]
    monkeypatch.setattr(masks, "BLOCK", (2, 9, 7))
    reads = []
    read = probabilities.read

    def fails_later(start, stop):
        reads.append(start)
        if len(reads) == 2:
            raise KeyboardInterrupt
        return read(start, stop)

    monkeypatch.setattr(probabilities, "read", fails_later)
    with pytest.raises(KeyboardInterrupt):
        write()
    np.testing.assert_array_equal(open_volume(output)[...], before)
    assert {path.name for path in tmp_path.iterdir()} == {"p.zarr", "segmentation.zarr"}
