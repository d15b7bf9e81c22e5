import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from reference_segmentation import only_those_of, slow_overlap, volume_cases

from pytc.io.volume import create_volume, open_volume
from pytc.metrics.overlap import OVERLAP_METRICS, contingency_table, overlap_metrics
from pytc.metrics.semantic import semantic_metrics

GOLDEN = json.loads((Path(__file__).parent / "golden" / "overlap.json").read_text())
VOLUMES = list(volume_cases())
DTYPES = (np.uint8, np.int8, np.uint16, np.int32, np.uint32, np.int64, np.uint64)


def as_counter(table):
    assert (table.truth.dtype, table.segmentation.dtype, table.count.dtype) == (
        np.uint64,
        np.uint64,
        np.int64,
    )
    return {
        (int(a), int(b)): int(n) for a, b, n in zip(table.truth, table.segmentation, table.count)
    }


def slow_table(truth, segmentation):
    return Counter((int(a), int(b)) for a, b in zip(truth.flat, segmentation.flat))


@pytest.mark.parametrize("dtype", DTYPES)
def test_table_of_any_dtype(dtype):
    rng = np.random.default_rng(0)
    top = np.iinfo(dtype).max
    if dtype in (np.uint32, np.uint64):
        top -= 1  # the maximum itself is unlabelled
    ids = np.array([0, 1, 2, 77, top - 1, top], dtype)
    for shape in [(9, 10, 11), (1, 1, 1), (0, 3, 3), (5, 0, 2), (30,), (4, 50)]:
        truth, other = ids[rng.integers(0, 6, shape)], rng.integers(0, 9, shape).astype(np.uint16)
        for threads in (1, 2, 5):
            assert as_counter(contingency_table(truth, other, threads=threads)) == slow_table(
                truth, other
            )
            assert as_counter(contingency_table(other, truth, threads=threads)) == slow_table(
                other, truth
            )


@pytest.mark.parametrize("marker", [np.int32(-1), np.uint32(2**32 - 1), np.uint64(2**64 - 1)])
def test_unlabelled_voxels_do_not_count(marker):
    truth = np.array([1, 1, 2, 2, 2, marker, marker], marker.dtype)
    segmentation = np.array([7, 7, 8, 8, 8, 7, 9], np.uint32)
    assert as_counter(contingency_table(truth, segmentation)) == {(1, 7): 2, (2, 8): 3}
    assert overlap_metrics(truth, segmentation)["voi_sum"] == 0


def test_rows_are_sorted_and_distinct_after_growth():
    """More pairs than the hash table starts with, in many pieces."""
    rng = np.random.default_rng(1)
    truth, segmentation = rng.integers(0, 3000, (2, 150, 100, 90)).astype(np.uint64)
    table = contingency_table(truth, segmentation, threads=2)
    keys = table.truth * np.uint64(3000) + table.segmentation
    expected, counts = np.unique(truth * np.uint64(3000) + segmentation, return_counts=True)
    np.testing.assert_array_equal(keys, expected)
    np.testing.assert_array_equal(table.count, counts)


def test_unlabelled_voxels_of_a_volume_do_not_count(tmp_path):
    rng = np.random.default_rng(2)
    truth, segmentation = rng.integers(-1, 4, (6, 7, 8)), rng.integers(0, 4, (6, 7, 8))
    counted = truth >= 0
    expected = slow_table(truth[counted], segmentation[counted])
    assert as_counter(contingency_table(truth, segmentation)) == expected
    assert as_counter(contingency_table(np.asfortranarray(truth), segmentation)) == expected
    twin = slow_overlap(truth[counted], segmentation[counted])
    scores = overlap_metrics(truth, segmentation)
    assert only_those_of(twin, scores) == pytest.approx(twin)
    with create_volume(tmp_path / "s.zarr", truth.shape, np.int64, chunks=(2, 3, 4)) as volume:
        volume[...] = segmentation
    assert as_counter(contingency_table(truth, open_volume(tmp_path / "s.zarr"))) == expected


@pytest.mark.parametrize("name, truth, segmentation", VOLUMES, ids=[name for name, *_ in VOLUMES])
def test_metrics_equal_reference_implementation_and_twin(name, truth, segmentation):
    scores = overlap_metrics(truth, segmentation)
    assert tuple(scores) == OVERLAP_METRICS
    assert all(type(value) is float for value in scores.values())
    for expected in (GOLDEN[name], slow_overlap(truth, segmentation)):
        found = only_those_of(expected, scores)
        assert found == pytest.approx(expected, rel=1e-9, abs=1e-9)


def test_scores_counted_by_hand():
    truth = np.array([1, 1, 2, 2, 0])
    perfect = {
        "voi_split": 0,
        "voi_merge": 0,
        "voi_sum": 0,
        "rand_split": 1,
        "rand_merge": 1,
        "adapted_rand_error": 0,
    }
    assert only_those_of(perfect, overlap_metrics(truth, truth + 4)) == perfect
    merged = {
        "voi_split": 0,
        "voi_merge": 1,
        "voi_sum": 1,
        "rand_split": 1,
        "rand_merge": 0.5,
        "adapted_rand_error": pytest.approx(1 / 3),
    }
    assert only_those_of(merged, overlap_metrics(truth, np.ones(5, int))) == merged
    split = overlap_metrics(truth, np.array([0, 1, 2, 3, 0]))
    assert split["voi_split"] == 1 and split["voi_merge"] == 0  # 0 is a segment


@pytest.mark.parametrize(
    "truth, segmentation, message",
    [
        (np.ones(3), np.ones(3, int), "truth of dtype float64"),
        (np.ones(3, int), np.ones(3, np.float16), "segmentation of dtype float16"),
        (np.ones(3, int), np.ones(4, int), "shape"),
        (np.ones(3, int), np.array([0, -1, 2]), "0 or more, got -1"),
        (np.zeros(3, int), np.ones(3, int), "at least one voxel"),
        (np.full(3, -1), np.ones(3, int), "at least one voxel"),
    ],
)
def test_refuses(truth, segmentation, message):
    with pytest.raises(ValueError, match=message):
        overlap_metrics(truth, segmentation)


def test_semantic_metrics():
    truth = np.array([1, 2, 1, 0, 0, 0, -1, -1])
    prediction = np.array([1, 1, 0, 1, 0, 0, 1, 0])
    expected = {
        "jaccard": 2 / 4,
        "dice": 4 / 6,
        "precision": 2 / 3,
        "recall": 2 / 3,
        "jaccard_all": (2 / 4 + 2 / 4) / 2,
        "dice_all": (4 / 6 + 4 / 6) / 2,
    }
    assert only_those_of(expected, semantic_metrics(truth, prediction)) == expected
    empty = semantic_metrics(np.zeros(4, int), np.zeros(4, bool))
    assert set(only_those_of(expected, empty).values()) == {1.0}
    missed = only_those_of(expected, semantic_metrics(np.ones(4, bool), np.zeros(4, bool)))
    assert missed.pop("precision") == 1 and set(missed.values()) == {0}
    with pytest.raises(ValueError, match="shape"):
        semantic_metrics(truth, prediction[:3])
    with pytest.raises(ValueError, match="float64"):
        semantic_metrics(truth, prediction / 2)
