import warnings

import cc3d
import numpy as np
import pytest
import scipy.ndimage
import scipy.sparse
import torch
from reference_segmentation import random_affinities, small_shapes

from pytc.config import SHORT_AND_LONG
from pytc.segmentation import connected_components, merge_forest, plain, watershed
from pytc.segmentation.connected_components import (
    affinities_to_segmentation,
    connected_components_3d,
)
from pytc.segmentation.edges import is_above, label_dtype
from pytc.segmentation.merge_forest import build_merge_forest, roots_at_thresholds
from pytc.segmentation.watershed import seeded_watershed

DTYPES = (np.float16, np.float32, np.float64, np.uint8)


@pytest.mark.parametrize("dtype", DTYPES)
def test_equals_flood_fill_on_small_shapes(dtype):
    rng = np.random.default_rng(0)
    for shape in small_shapes():
        for threshold in (0.25, 0.5, 0.8):
            affinities = random_affinities(rng, shape, dtype)
            expected = plain.flood_fill(affinities, threshold)
            for threads in (1, 2, 3, 50):
                labels = connected_components_3d(affinities, threshold, threads=threads)
                assert labels.dtype == np.uint32
                np.testing.assert_array_equal(labels, expected)


def in_raster_order(labels):
    """The partition as the decode numbers it: single voxels 0, others by their first voxel."""
    _, first, inverse, count = np.unique(
        labels, return_index=True, return_inverse=True, return_counts=True
    )
    kept = np.flatnonzero(count > 1)
    numbers = np.zeros(len(count), int)
    numbers[kept[np.argsort(first[kept])]] = np.arange(1, len(kept) + 1)
    return numbers[inverse].reshape(labels.shape)


def components_by_cc3d(edges):
    """edges (3, Z, Y, X) bool, none of which leaves the volume.

    Of axis a, bits 2a and 2a + 1 lead on and back.
    """
    graph = np.zeros(edges.shape[1:], np.uint8, order="F")
    for axis, along in enumerate(edges):
        graph |= along.astype(np.uint8) << 2 * axis
        graph |= np.roll(along, 1, axis).astype(np.uint8) << 2 * axis + 1
    return cc3d.color_connectivity_graph(graph, connectivity=6)


def components_by_scipy(edges):
    voxels = np.arange(edges[0].size).reshape(edges.shape[1:])
    ends = [(voxels[along], np.roll(voxels, -1, axis)[along]) for axis, along in enumerate(edges)]
    start, end = (np.concatenate(column) for column in zip(*ends))
    graph = scipy.sparse.coo_array((np.ones(len(start)), (start, end)), (voxels.size, voxels.size))
    return scipy.sparse.csgraph.connected_components(graph, directed=False)[1].reshape(voxels.shape)


@pytest.mark.parametrize("dtype", DTYPES)
def test_equals_cc3d_and_scipy(dtype):
    rng = np.random.default_rng(10)
    for shape in small_shapes():
        affinities, threshold = random_affinities(rng, shape, dtype), rng.choice((0.25, 0.5, 0.75))
        true = affinities.astype(float) / (255 if dtype == np.uint8 else 1) > threshold
        for axis, along in enumerate(true):
            np.moveaxis(along, axis, 0)[-1:] = False
        expected = in_raster_order(components_by_scipy(true)) if true.size else np.zeros(shape)
        np.testing.assert_array_equal(
            in_raster_order(components_by_cc3d(true)) if true.size else expected, expected
        )
        spread = np.zeros((4, *(2 * n for n in shape)), dtype)[1:, ::2, ::-2, ::2]
        spread[...] = affinities
        for order in (affinities, np.asfortranarray(affinities), spread):
            for threads in (1, 2, 5):
                np.testing.assert_array_equal(
                    connected_components_3d(order, threshold, threads=threads), expected
                )


def test_min_size():
    rng = np.random.default_rng(1)
    for shape in [(6, 7, 8), (1, 9, 9), (9, 1, 2), (2, 2, 30)]:
        affinities = random_affinities(rng, shape)
        for min_size in (0, 1, 2, 3, 10, 1000):
            for threads in (1, 3):
                np.testing.assert_array_equal(
                    connected_components_3d(affinities, 0.7, min_size=min_size, threads=threads),
                    plain.flood_fill(affinities, 0.7, min_size),
                )


def test_any_memory_order():
    affinities = random_affinities(np.random.default_rng(2), (6, 7, 8))
    expected = plain.flood_fill(affinities, 0.6)
    strided = np.zeros((5, 12, 7, 24), np.float16)
    strided[1:4, ::2, ::-1, ::3] = affinities
    transposed = np.ascontiguousarray(affinities.transpose(3, 1, 2, 0)).transpose(3, 1, 2, 0)
    for same in (np.asfortranarray(affinities), transposed, strided[1:4, ::2, ::-1, ::3]):
        assert not same.flags.c_contiguous
        np.testing.assert_array_equal(connected_components_3d(same, 0.6, threads=2), expected)


@pytest.mark.parametrize("dtype", (np.float16, np.uint8))
def test_every_value_compares_as_in_float64(dtype):
    bits = np.arange(65536 if dtype == np.float16 else 256).astype(
        np.uint16 if dtype == np.float16 else np.uint8
    )
    values = bits.view(dtype)
    exact = values / 255 if dtype == np.uint8 else values.astype(np.float64)
    finite = exact[np.isfinite(exact)][:: 97 if dtype == np.float16 else 1]
    near = [
        f(t)
        for t in finite
        for f in (float, lambda t: np.nextafter(t, 9e9), lambda t: np.nextafter(t, -9e9))
    ]
    for threshold in (*near, 0.0, -0.0, 1e-9, -1e-9, 1 / 3, 1e5, -1e5):
        np.testing.assert_array_equal(is_above(values, threshold), exact > threshold)


@pytest.mark.parametrize("dtype", (np.float32, np.float64))
def test_threshold_between_floats(dtype):
    value = dtype(0.7)
    for threshold in (
        0.7,
        float(value),
        np.nextafter(float(value), 0),
        np.nextafter(float(value), 1),
    ):
        values = np.array(
            [value, np.nextafter(value, dtype(0)), np.nan, np.inf, -np.inf, -0.0], dtype
        )
        np.testing.assert_array_equal(
            is_above(values, threshold), values.astype(np.float64) > threshold
        )


def test_large_volume_equals_scipy():
    """On a plain mask, with edges between all foreground neighbours, scipy's components."""
    rng = np.random.default_rng(3)
    foreground = scipy.ndimage.gaussian_filter(rng.random((40, 300, 310)), 1) > 0.5
    affinities = np.zeros((3, *foreground.shape), np.float16)
    affinities[0, :-1] = foreground[:-1] & foreground[1:]
    affinities[1, :, :-1] = foreground[:, :-1] & foreground[:, 1:]
    affinities[2, :, :, :-1] = foreground[:, :, :-1] & foreground[:, :, 1:]
    labels, count = scipy.ndimage.label(foreground)
    single = np.flatnonzero(np.bincount(labels.ravel()) == 1)
    expected = np.zeros(count + 1, int)
    kept = np.setdiff1d(np.arange(1, count + 1), single)
    expected[kept] = np.arange(1, len(kept) + 1)
    for threads in (1, 2, 7):
        np.testing.assert_array_equal(
            connected_components_3d(affinities, 0.5, threads=threads), expected[labels]
        )


def test_components_that_meet_in_the_last_slab():
    """Columns that meet only in the last plane, in rows.

    Slabs label them apart, the last one joins them.
    """
    affinities = np.zeros((3, 30, 4, 50), np.float16)
    affinities[0] = 1
    affinities[2, -1] = 1
    labels = connected_components_3d(affinities, 0.5, threads=5)
    np.testing.assert_array_equal(
        labels, np.broadcast_to(np.arange(1, 5)[None, :, None], labels.shape)
    )


def test_unsigned_64_bit_labels(monkeypatch):
    """What volumes over 2^32 voxels take, on a small one."""
    assert [label_dtype((2**16, 2**8, n)) for n in (2**8 - 1, 2**8)] == [np.uint32, np.uint64]
    assert [label_dtype((n, 1, 1)) for n in (2**32 - 1, 2**32, 2**40)] == [
        np.uint32,
        np.uint64,
        np.uint64,
    ]
    assert [watershed._index_dtype(n) for n in (2**30 - 1, 2**30)] == [np.int32, np.int64]
    for module in (connected_components, merge_forest):
        monkeypatch.setattr(module, "label_dtype", lambda shape: np.uint64)
    monkeypatch.setattr(watershed, "_index_dtype", lambda size: np.int64)
    affinities = random_affinities(np.random.default_rng(4), (5, 6, 7))
    expected = plain.flood_fill(affinities, 0.7, 3)
    labels = connected_components_3d(affinities, 0.7, min_size=3, threads=2)
    assert labels.dtype == np.uint64
    np.testing.assert_array_equal(labels, expected)
    np.testing.assert_array_equal(
        seeded_watershed(labels, affinities), plain.seeded_watershed(expected, affinities)
    )
    forest = build_merge_forest(affinities, [0.9, 0.7], min_size=3)
    assert forest.fragments.dtype == forest.edges.dtype == np.uint64
    *_, roots = roots_at_thresholds(forest)
    np.testing.assert_array_equal(
        np.unique(roots(forest.fragments.ravel()), return_inverse=True)[1], expected.ravel()
    )


def test_unit_offsets_are_found():
    affinities = random_affinities(np.random.default_rng(5), (4, 5, 6))
    expected = plain.flood_fill(affinities, 0.5)
    np.testing.assert_array_equal(affinities_to_segmentation(affinities, 0.5), expected)
    six = np.concatenate([affinities, 1 - affinities])
    np.testing.assert_array_equal(affinities_to_segmentation(six, 0.5), expected)
    shuffled = six[[3, 2, 4, 0, 5, 1]]
    offsets = [SHORT_AND_LONG[c] for c in (3, 2, 4, 0, 5, 1)]
    np.testing.assert_array_equal(
        affinities_to_segmentation(shuffled, 0.5, offsets=offsets), expected
    )
    for n_channels in (4, 12):
        more = np.concatenate([affinities, np.ones((n_channels - 3, 4, 5, 6), np.float16)])
        np.testing.assert_array_equal(affinities_to_segmentation(more), expected)
        np.testing.assert_array_equal(connected_components_3d(more), expected)


def test_long_range_affinities_never_join_and_options_are_passed_on():
    affinities = random_affinities(np.random.default_rng(5), (4, 5, 6))
    six = np.concatenate([affinities, 1 - affinities])
    with pytest.warns(UserWarning, match="short-range affinities alone"):
        labels = affinities_to_segmentation(six, 0.6, True, min_size=3, threads=2)
    np.testing.assert_array_equal(labels, plain.flood_fill(affinities, 0.6, 3))
    with pytest.raises(TypeError, match=r"affinities_to_segmentation\(\) got an unexpected"):
        affinities_to_segmentation(six, 0.6, watershed=True)


INTEGERS = (np.bool_, np.int8, np.uint16, np.int16, np.int32, np.uint32, np.int64, np.uint64)


@pytest.mark.parametrize("dtype", INTEGERS)
def test_bool_and_integers_stand_for_themselves(dtype):
    rng = np.random.default_rng(12)
    for shape in [(5, 6, 7), (1, 9, 9), (0, 3, 3)]:
        affinities = rng.integers(0, 4, (3, *shape)).astype(dtype)
        if np.dtype(dtype).kind == "i":
            affinities -= 2
        for threshold in (-1.0, -0.5, 0, 0.5, 1, 1.5, 3):
            np.testing.assert_array_equal(
                connected_components_3d(affinities, threshold, threads=2),
                plain.flood_fill(affinities, threshold),
            )


@pytest.mark.parametrize("dtype", INTEGERS)
def test_integers_compare_exactly(dtype):
    least, most = (0, 1) if dtype == np.bool_ else (np.iinfo(dtype).min, np.iinfo(dtype).max)
    values = np.array([least, least + 1, (least + most) // 2, most - 1, most], dtype)
    for threshold in (-1e300, -1.0, -0.0, 0.5, 1.0, 2.0**53, 2.0**63, 2.0**64, 1e300, *values):
        exact = [int(value) > float(threshold) for value in values]
        assert is_above(values, float(threshold)).tolist() == exact


def test_edges_as_0_and_1_in_uint8_give_a_warning():
    affinities = np.ones((3, 3, 3, 3), np.uint8)
    with pytest.warns(UserWarning, match="uint8 affinities stand for value / 255"):
        assert not connected_components_3d(affinities).any()
    assert connected_components_3d(affinities.astype(bool)).all()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        connected_components_3d(affinities * 0)
        connected_components_3d(affinities * 100)
        connected_components_3d(affinities, 0.001)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda a: connected_components_3d(a[0], 0.5), "shape"),
        (lambda a: connected_components_3d(a[:2], 0.5), "3 or more"),
        (lambda a: connected_components_3d(a.astype(np.complex64), 0.5), "complex64"),
        (lambda a: seeded_watershed(np.zeros((4, 4, 4), int), a.astype(np.int32)), "int32"),
        (lambda a: connected_components_3d(a.tolist(), 0.5), "NumPy array, got builtins.list"),
        (
            lambda a: affinities_to_segmentation(torch.tensor(a)),
            r"as a NumPy array, got torch.Tensor; its \.numpy\(\) makes one",
        ),
        (lambda a: connected_components_3d(a, np.nan), "finite"),
        (lambda a: affinities_to_segmentation(a, offsets=SHORT_AND_LONG), "6 offsets, got 3"),
        (
            lambda a: affinities_to_segmentation(a, offsets=[(2, 0, 0), (0, 1, 0), (0, 0, 1)]),
            r"without \[\(1, 0, 0\)\]",
        ),
    ],
)
def test_refuses(call, message):
    with pytest.raises(ValueError, match=message):
        call(np.zeros((3, 4, 4, 4), np.float16))
