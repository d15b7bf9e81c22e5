import numpy as np
import pytest
from reference_segmentation import random_affinities, slow_components, slow_grow, slow_overlap

from pytc.io.skeleton import Skeleton
from pytc.metrics.overlap import OVERLAP_METRICS
from pytc.metrics.semantic import semantic_metrics
from pytc.metrics.skeleton import SKELETON_METRICS, SkeletonMetrics
from pytc.metrics.sweep import DEFAULT_THRESHOLDS, semantic_sweep, threshold_sweep

SHAPE = (6, 7, 8)


def scene(seed):
    """Affinities, labels with background and unlabelled voxels, and a skeleton of random nodes in the volume."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(rng.integers(-1, 4, (3, 7, 4)), 2, 0).repeat(2, 2)
    positions = (rng.random((40, 3)) * SHAPE).astype(np.int64)
    ids = np.sort(rng.integers(1, 5, 40)).astype(np.uint64)
    edges = np.array([(i, i + 1) for i in range(39) if ids[i] == ids[i + 1]])
    return random_affinities(rng, SHAPE), labels, Skeleton(ids, positions, positions * 10.0, edges)


def test_default_thresholds():
    np.testing.assert_allclose(DEFAULT_THRESHOLDS, [1 / (1 + np.exp(-0.2 * k)) for k in range(-1, 12)])
    assert len(DEFAULT_THRESHOLDS) == 13


@pytest.mark.parametrize("grow", (False, True))
@pytest.mark.parametrize("min_size", (0, 5))
def test_rows_equal_decoding_afresh(grow, min_size):
    affinities, labels, skeleton = scene(0)
    thresholds = (0.9, 0.3, 0.6, 0.75)
    sweep = threshold_sweep(affinities, skeleton, labels, thresholds=thresholds, grow=grow, min_size=min_size)
    assert [row["threshold"] for row in sweep.rows] == list(thresholds)
    for row in sweep.rows:
        segmentation = slow_components(affinities, row["threshold"], min_size)
        if grow:
            segmentation = slow_grow(segmentation, affinities)
        dense = slow_overlap(labels[labels >= 0], segmentation[labels >= 0])
        expected = SkeletonMetrics(skeleton).compute(segmentation) | {f"dense_{k}": v for k, v in dense.items()}
        assert row == pytest.approx(expected | {"threshold": row["threshold"]}, abs=1e-12)
    assert sweep.metric == "nerl"
    assert sweep.best["nerl"] == max(row["nerl"] for row in sweep.rows)


def test_direction_of_each_metric():
    affinities, labels, skeleton = scene(1)
    for metric in (*SKELETON_METRICS, *(f"dense_{name}" for name in OVERLAP_METRICS)):
        sweep = threshold_sweep(affinities, skeleton, labels, metric=metric)
        lower = "voi" in metric or "error" in metric or metric in ("n_mergers", "n_non0_mergers", "n_splits")
        values = [row[metric] for row in sweep.rows]
        assert sweep.best[metric] == (min(values) if lower else max(values))
        assert sweep.best is sweep.rows[values.index(sweep.best[metric])]


def test_subsets_of_the_truth_and_masks():
    affinities, labels, skeleton = scene(2)
    only_labels = threshold_sweep(affinities, labels=labels, metric="dense_voi_sum", thresholds=[0.5])
    assert set(only_labels.best) == {"threshold", *(f"dense_{name}" for name in OVERLAP_METRICS)}
    only_skeleton = threshold_sweep(affinities, skeleton, thresholds=[0.5])
    assert set(only_skeleton.best) == {"threshold", *SKELETON_METRICS}
    mask = np.arange(8) < 4
    masked = threshold_sweep(affinities, labels=labels, mask=np.broadcast_to(mask, SHAPE), metric="dense_voi_sum")
    zeroed = threshold_sweep(affinities, labels=np.where(mask, labels, -1), metric="dense_voi_sum")
    assert masked == zeroed != only_labels


def test_channels_by_offset():
    affinities, _, skeleton = scene(3)
    offsets = [(0, 0, 1), (5, 0, 0), (1, 0, 0), (0, 1, 0)]
    shuffled = threshold_sweep(affinities[[2, 0, 0, 1]], skeleton, offsets=offsets)
    assert shuffled == threshold_sweep(affinities, skeleton)


@pytest.mark.parametrize("options, message", [
    ({"metric": "accuracy"}, "metric from erl, .*dense_voi_split.*, got 'accuracy'"),
    ({"metric": "nerl", "skeleton": None}, "a skeleton for the metric 'nerl'"),
    ({"metric": "dense_voi_sum", "labels": None}, "labels for the metric"),
    ({"skeleton": None, "labels": None, "metric": "x"}, "to score against"),
    ({"thresholds": ()}, "at least one threshold"),
])
def test_refuses(options, message):
    affinities, labels, skeleton = scene(4)
    with pytest.raises(ValueError, match=message):
        threshold_sweep(affinities, **({"skeleton": skeleton, "labels": labels} | options))


def test_semantic_sweep():
    rng = np.random.default_rng(5)
    truth = rng.integers(0, 2, SHAPE)
    prediction = (truth * 0.4 + rng.random(SHAPE) * 0.6).astype(np.float16)
    sweep = semantic_sweep(prediction, truth, thresholds=(0.1, 0.5, 0.9))
    for row in sweep.rows:
        mask = prediction.astype(np.float64) > row["threshold"]
        assert row == {"threshold": row["threshold"], **semantic_metrics(truth, mask)}
    assert sweep.best["threshold"] == 0.5 and sweep.metric == "jaccard"
    with pytest.raises(ValueError, match="jaccard, dice, precision, recall"):
        semantic_sweep(prediction, truth, metric="nerl")
