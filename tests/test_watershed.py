import numpy as np
import pytest
from reference_segmentation import random_affinities, small_shapes

from pytc.config import SHORT_AND_LONG, SegmentationConfig
from pytc.io.volume import create_volume, open_volume
from pytc.segmentation import plain
from pytc.segmentation.blockwise import segment_volume
from pytc.segmentation.watershed import seeded_watershed


@pytest.mark.parametrize("dtype", (np.float16, np.float32, np.float64, np.uint8))
def test_equals_joining_sets(dtype):
    rng = np.random.default_rng(0)
    for shape in small_shapes():
        affinities = random_affinities(rng, shape, dtype)
        labels = plain.flood_fill(affinities, 0.85).astype(np.uint32)
        for floor in (0.0, 0.5):
            np.testing.assert_array_equal(
                seeded_watershed(labels, affinities, floor=floor),
                plain.seeded_watershed(labels, affinities, floor),
            )


def test_given_labels_stay_and_nothing_merges():
    rng = np.random.default_rng(1)
    affinities = random_affinities(rng, (8, 9, 10))
    labels = plain.flood_fill(affinities, 0.8, min_size=4)
    before = labels.copy()
    filled = seeded_watershed(labels, affinities)
    np.testing.assert_array_equal(labels, before)
    assert filled.dtype == labels.dtype
    np.testing.assert_array_equal(filled[labels > 0], labels[labels > 0])
    assert set(np.unique(filled)) - {0} == set(np.unique(labels)) - {0}
    assert (filled > 0).mean() > 0.95 > (labels > 0).mean()


def test_strongest_path_wins():
    """The voxel between goes to the side with the stronger weakest edge.

    Nothing crosses an edge of 0 or NaN.
    """
    affinities = np.zeros((3, 1, 1, 8), np.float16)
    affinities[2, 0, 0] = [0.9, 0.4, 0.6, 0.3, 0.8, 0.0, np.nan, 0]
    labels = np.array([[[7, 0, 0, 0, 0, 5, 0, 0]]], np.uint64)
    affinities[2, 0, 0, 4] = 0.35
    assert seeded_watershed(labels, affinities).tolist() == [[[7, 7, 7, 7, 5, 5, 0, 0]]]
    assert seeded_watershed(labels, affinities, floor=0.5).tolist() == [[[7, 7, 0, 0, 0, 5, 0, 0]]]


def test_negative_values_are_below_the_floor():
    affinities = np.full((3, 1, 1, 3), -1, np.float16)
    labels = np.array([[[1, 0, 0]]])
    np.testing.assert_array_equal(seeded_watershed(labels, affinities), labels)


def test_segment_volume_fills_by_a_seeded_watershed(tmp_path):
    affinities = random_affinities(np.random.default_rng(2), (6, 7, 8))
    path = tmp_path / "a.zarr"
    with create_volume(
        path, affinities.shape, np.float16, attributes={"offsets": SHORT_AND_LONG[:3]}
    ) as volume:
        volume[...] = affinities
    segment_volume(
        open_volume(path),
        tmp_path / "s.zarr",
        SegmentationConfig(0.8, min_size=3, method="components_watershed"),
    )
    expected = plain.seeded_watershed(plain.flood_fill(affinities, 0.8, 3), affinities)
    np.testing.assert_array_equal(open_volume(tmp_path / "s.zarr")[...], expected)


@pytest.mark.parametrize(
    "labels, floor, message",
    [
        (np.zeros((2, 2, 3), np.uint32), 0.0, "shape"),
        (np.zeros((2, 2, 2), np.float32), 0.0, "float32"),
        (np.zeros((2, 2, 2), np.uint32), -0.5, "floor"),
    ],
)
def test_refuses(labels, floor, message):
    with pytest.raises(ValueError, match=message):
        seeded_watershed(labels, np.zeros((3, 2, 2, 2), np.float16), floor=floor)


@pytest.mark.parametrize(
    "label_of",
    (
        np.array([0, 10**12, -7, 3]),
        np.array([0, 1, 2, 3]),
        np.array([0, -1, -2, 5], np.int8),
        # more digits than a float64 has
        np.array([0, 2**63 + 1, 2**63 + 2, 2**64 - 1], np.uint64),
    ),
)
def test_labels_may_be_any_integers(label_of):
    """Those that are no small numbers are numbered first, and come back as they were."""
    random = np.random.default_rng(0)
    affinities = random_affinities(random, (5, 7, 9))
    numbers = random.integers(0, 4, (5, 7, 9)) * (random.random((5, 7, 9)) < 0.1)
    labels = label_of[numbers]
    expected = label_of[plain.seeded_watershed(numbers, affinities)]
    for threads in (1, 3):
        found = seeded_watershed(labels, affinities, threads=threads)
        np.testing.assert_array_equal(found, expected)
