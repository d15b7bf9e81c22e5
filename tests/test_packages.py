import sys

import numpy as np
import pytest
from reference_segmentation import random_affinities

from pytc.segmentation.packages import mutex_watershed, waterz_segments

STEPS = ((1, 0, 0), (0, 1, 0), (0, 0, 1))


def line(values):
    """Affinities of a row of voxels along x."""
    affinities = np.zeros((3, 1, 1, len(values) + 1), np.float16)
    affinities[2, 0, 0, :-1] = values
    return affinities


@pytest.mark.parametrize(
    "package, call",
    [
        ("waterz", lambda a: waterz_segments(a, np.ones(a.shape[1:], int), 0.5)),
        ("mwatershed", lambda a: mutex_watershed(a, STEPS)),
    ],
)
def test_says_which_extra_is_missing(monkeypatch, package, call):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(
        ImportError,
        match=rf"{package} is needed: pip install -e '\.\[agglomeration\]' in a clone",
    ):
        call(line([0.5]))


def test_mean_affinity_decides():
    pytest.importorskip("waterz")
    affinities = line([0.9, 0.2, 0.9, 0.7, 0.9])
    fragments = np.array([[[3, 3, 5, 5, 8, 8]]], np.uint16)
    before = fragments.copy()
    assert waterz_segments(affinities, fragments, 0.6).tolist() == [[[3, 3, 5, 5, 5, 5]]]
    assert len(np.unique(waterz_segments(affinities, fragments, 0.1))) == 1
    assert waterz_segments(affinities, fragments, 0.8).tolist() == fragments.tolist()
    np.testing.assert_array_equal(fragments, before)


@pytest.mark.parametrize("axis", range(3))
def test_edges_lead_forward_along_each_axis(axis):
    """Only the edge between planes 1 and 2 is strong, stored at plane 1."""
    pytest.importorskip("waterz")
    pytest.importorskip("mwatershed")
    affinities = random_affinities(np.random.default_rng(0), (4, 4, 4)) * np.float16(0.25)
    along = np.moveaxis(affinities[axis], axis, 0)
    along[:] = 0
    along[1] = 1
    fragments = np.moveaxis(
        np.broadcast_to(np.array([1, 2, 3, 4])[:, None, None], (4, 4, 4)), 0, axis
    )
    joined = np.moveaxis(waterz_segments(affinities, fragments, 0.5), axis, 0)[:, 0, 0]
    assert joined[1] == joined[2] and len(set(joined)) == 3
    pairs = np.moveaxis(mutex_watershed(affinities, STEPS), axis, 0)
    assert (pairs[1] == pairs[2]).all() and (pairs[1] != 0).all()
    assert (pairs[[0, 3]] == 0).all() and len(np.unique(pairs)) == 17


def test_long_edges_keep_apart():
    pytest.importorskip("mwatershed")
    affinities = np.concatenate([line([0.9, 0.7, 0.9]), np.full((1, 1, 1, 4), 0.5, np.float16)])
    offsets = (*STEPS, (0, 0, 3))
    assert len(np.unique(mutex_watershed(affinities, offsets))) == 1
    affinities[3, 0, 0, 0] = 0.05
    apart = mutex_watershed(affinities, offsets)[0, 0]
    assert apart[0] == apart[1] != apart[2] == apart[3]


def test_refuses():
    pytest.importorskip("waterz")
    pytest.importorskip("mwatershed")
    with pytest.raises(ValueError, match="fragments"):
        waterz_segments(line([0.5]), np.ones((2, 2, 2), int), 0.5)
    with pytest.raises(ValueError, match="2 offsets, got 3"):
        mutex_watershed(line([0.5]), STEPS[:2])
