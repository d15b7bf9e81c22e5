from itertools import islice, pairwise

import numpy as np
import pytest
from reference_segmentation import (
    only_those_of,
    random_affinities,
    slow_overlap,
    small_shapes,
)

from pytc.config import SegmentationConfig
from pytc.evaluation.exact import EXACT_METRICS, exact_sweep
from pytc.evaluation.sweep import DEFAULT_THRESHOLDS, semantic_sweep, threshold_sweep
from pytc.io.skeleton import Skeleton
from pytc.metrics.instances import INSTANCE_METRICS, dense_metrics
from pytc.metrics.overlap import OVERLAP_METRICS, contingency_table
from pytc.metrics.semantic import semantic_metrics
from pytc.metrics.skeleton import SKELETON_METRICS, SkeletonMetrics
from pytc.metrics.table import METRICS
from pytc.segmentation import decode, merge_forest, plain
from pytc.segmentation.connected_components import connected_components_3d
from pytc.segmentation.merge_forest import build_merge_forest, roots_at_thresholds
from pytc.segmentation.watershed import seeded_watershed

SHAPE = (6, 7, 8)


def scene(seed):
    """Affinities, labels with background and unlabelled voxels, and a skeleton of random nodes."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(rng.integers(-1, 4, (3, 7, 4)), 2, 0).repeat(2, 2)
    positions = (rng.random((40, 3)) * SHAPE).astype(np.int64)
    ids = np.sort(rng.integers(1, 5, 40)).astype(np.uint64)
    edges = np.array([(i, i + 1) for i in range(39) if ids[i] == ids[i + 1]])
    return random_affinities(rng, SHAPE), labels, Skeleton(ids, positions, positions * 10.0, edges)


def settings(min_size: int, watershed: bool = False) -> SegmentationConfig:
    method = "components_watershed" if watershed else "components"
    return SegmentationConfig(min_size=min_size, method=method)


def test_default_thresholds():
    np.testing.assert_allclose(
        DEFAULT_THRESHOLDS, [1 / (1 + np.exp(-0.2 * k)) for k in range(-1, 12)]
    )
    assert len(DEFAULT_THRESHOLDS) == 13


@pytest.mark.parametrize("watershed", (False, True))
@pytest.mark.parametrize("min_size", (0, 5))
def test_rows_equal_decoding_afresh(watershed, min_size):
    affinities, labels, skeleton = scene(0)
    thresholds = (0.9, 0.3, 0.6, 0.75)
    scored = threshold_sweep(
        affinities, skeleton, thresholds, labels=labels, config=settings(min_size, watershed)
    )
    assert [row["threshold"] for row in scored["all_results"]] == list(thresholds)
    for row in scored["all_results"]:
        segmentation = plain.flood_fill(affinities, row["threshold"], min_size)
        if watershed:
            segmentation = plain.seeded_watershed(segmentation, affinities)
        dense = slow_overlap(labels[labels >= 0], segmentation[labels >= 0])
        expected = SkeletonMetrics(skeleton).compute(segmentation) | {
            f"dense_{k}": v for k, v in dense.items()
        }
        assert only_those_of(expected, row) == pytest.approx(expected, abs=1e-12)
    assert scored["metric"] == "nerl"
    assert scored["best_metrics"]["nerl"] == max(row["nerl"] for row in scored["all_results"])


DTYPES = (np.float16, np.float32, np.float64, np.uint8)


def awkward_volumes(seed):
    """Affinities of all small shapes and dtypes, with every awkward value.

    Ties, NaN, -0, values below 0 and above 1, and infinity.
    """
    rng = np.random.default_rng(seed)
    for shape in small_shapes():
        for dtype in DTYPES:
            affinities = random_affinities(rng, shape, dtype)
            if dtype != np.uint8:
                odd = rng.random(affinities.shape)
                affinities[odd < 0.1] = np.nan
                affinities[odd > 0.9] = rng.choice(
                    (-0.0, -0.5, 1.25, np.inf), np.count_nonzero(odd > 0.9)
                )
            yield affinities


@pytest.mark.parametrize("watershed", (False, True))
@pytest.mark.parametrize("min_size", (0, 3, 6))
def test_names_equal_decoding_afresh(monkeypatch, min_size, watershed):
    """The same components, in the same order."""
    monkeypatch.setattr(
        merge_forest, "slabs_of", lambda length, n_floors: list(pairwise((0, length // 3, length)))
    )
    thresholds = (0.95, 0.9, 0.75, 0.5, 0.499, 0.1, 0.0, -0.25)
    rng = np.random.default_rng(6)
    for affinities in islice(awkward_volumes(min_size), min_size % 2, None, 2):
        chosen = sorted(rng.choice(thresholds, rng.integers(1, 6), replace=False), reverse=True)
        forest = build_merge_forest(affinities, chosen, min_size=min_size, watershed=watershed)
        for threshold, roots in zip(chosen, roots_at_thresholds(forest), strict=True):
            expected = connected_components_3d(affinities, threshold, min_size=min_size)
            if watershed:
                expected = seeded_watershed(expected, affinities)
            found = np.append(0, roots(forest.fragments.ravel()))
            numbers = np.unique(found, return_inverse=True)[1][1:]
            np.testing.assert_array_equal(numbers.reshape(expected.shape), expected)


@pytest.mark.parametrize("dtype", (np.uint32, np.uint64))
@pytest.mark.parametrize("n_slabs", (1, 2, 11))
@pytest.mark.parametrize("min_size", (0, 3, 30))
def test_names_of_followed_nodes(monkeypatch, min_size, n_slabs, dtype):
    """Few nodes are followed, so that most edges are let go.

    The names and their order stay those of all labels.
    """
    cuts = [11 * i // n_slabs for i in range(n_slabs + 1)]
    monkeypatch.setattr(merge_forest, "slabs_of", lambda length, n_floors: list(pairwise(cuts)))
    monkeypatch.setattr(merge_forest, "label_dtype", lambda shape: dtype)
    rng, thresholds = np.random.default_rng(min_size), (0.95, 0.9, 0.8, 0.7, 0.3, -0.1)
    for _ in range(6):
        affinities = random_affinities(rng, (11, 9, 10))
        affinities[rng.random(affinities.shape) < 0.1] = rng.choice((np.nan, -0.05, 0.9))
        voxels = rng.integers(0, 990, 6)
        forest = build_merge_forest(
            affinities,
            thresholds,
            min_size=min_size,
            query=lambda nodes, voxels=voxels: nodes.ravel()[voxels],
        )
        everything = build_merge_forest(affinities, thresholds, min_size=min_size)
        assert n_slabs > 2 or len(forest.edges) < len(everything.edges) / 2
        for threshold, roots in zip(thresholds, roots_at_thresholds(forest), strict=True):
            expected = connected_components_3d(affinities, threshold, min_size=min_size).ravel()[
                voxels
            ]
            found = np.append(0, roots(forest.queried))
            np.testing.assert_array_equal(
                np.unique(found, return_inverse=True)[1],
                np.unique(np.append(0, expected), return_inverse=True)[1],
            )


def walks(rng, shape):
    """Skeletons of 1 to 12 nodes, some on one voxel, with the ids 0 and up; one edge joins two."""
    ids, edges = [], []
    for skeleton, n in enumerate(rng.integers(1, 13, rng.integers(1, 6))):
        edges += [(len(ids) + rng.integers(i), len(ids) + i) for i in range(1, n)]
        ids += [skeleton] * n
    edges += [(len(ids), len(ids) + 1), (len(ids), 0)]
    ids = np.array([*ids, 9, 9], np.uint64)
    positions = (rng.random((len(ids), 3)) * shape).astype(np.int64)
    return Skeleton(
        ids, positions, positions * 7.0 + rng.random(positions.shape), np.array(edges, np.int64)
    )


@pytest.mark.parametrize("watershed", (False, True))
@pytest.mark.parametrize("min_size", (0, 20))
@pytest.mark.parametrize("edges_as_a_decode, n_groups", [(0, 3), (9, 2)])
def test_scores_are_the_same_bits(monkeypatch, min_size, watershed, edges_as_a_decode, n_groups):
    """With a forest for every threshold, and with one for those that leave few voxels alone."""
    monkeypatch.setattr(decode, "EDGES_AS_A_DECODE", edges_as_a_decode)
    affinities, labels, skeleton = scene(11)
    thresholds = (0.45, 0.9, 0.3, 0.45)
    assert len(decode._groups(affinities, [0.9, 0.45, 0.3])) == n_groups
    rows = threshold_sweep(
        affinities, skeleton, thresholds, labels=labels, config=settings(min_size, watershed)
    )["all_results"]
    assert [row["threshold"] for row in rows] == list(thresholds)
    for row in rows:
        segmentation = connected_components_3d(affinities, row["threshold"], min_size=min_size)
        if watershed:
            segmentation = seeded_watershed(segmentation, affinities)
        dense = dense_metrics(contingency_table(labels, segmentation))
        assert row == {
            "threshold": row["threshold"],
            **SkeletonMetrics(skeleton).compute(segmentation),
            **dense,
        }


@pytest.mark.parametrize("min_size", (0, 2, 4))
def test_exact_sweep_equals_a_sweep_of_every_value(min_size):
    rng = np.random.default_rng(8)
    for affinities in awkward_volumes(9):
        if affinities.size == 0:
            continue
        skeleton = walks(rng, affinities.shape[1:])
        exact = exact_sweep(affinities, skeleton, min_size=min_size)
        values = np.unique(affinities.astype(np.float64)) / (
            255 if affinities.dtype == np.uint8 else 1
        )
        values = [0.0, *values[(values > 0) & (values < np.inf)]]
        fresh = threshold_sweep(affinities, skeleton, thresholds=values, config=settings(min_size))
        thresholds = [row["threshold"] for row in exact["all_results"]]
        assert set(thresholds) <= set(values) and thresholds == sorted(
            set(thresholds), reverse=True
        )
        for row in fresh["all_results"]:  # the first row whose threshold is not above
            at = next(at for at in exact["all_results"] if at["threshold"] <= row["threshold"])
            assert {name: at[name] for name in EXACT_METRICS} == pytest.approx(
                {name: row[name] for name in EXACT_METRICS}, rel=1e-9, abs=1e-9
            )
        assert exact["best_metrics"]["nerl"] == pytest.approx(
            fresh["best_metrics"]["nerl"], rel=1e-9
        )


def test_exact_sweep_of_a_larger_volume():
    affinities, _, skeleton = scene(10)
    affinities = affinities * np.random.default_rng(0).random(affinities.shape).astype(np.float16)
    exact = exact_sweep(affinities, skeleton, metric="voi_sum")
    fresh = threshold_sweep(
        affinities,
        skeleton,
        thresholds=[row["threshold"] for row in exact["all_results"]],
        metric="voi_sum",
    )
    for name in EXACT_METRICS:
        np.testing.assert_allclose(
            [row[name] for row in exact["all_results"]],
            [row[name] for row in fresh["all_results"]],
            atol=1e-9,
        )
    assert len(exact["all_results"]) > 50 and exact["best_metrics"]["voi_sum"] == min(
        row["voi_sum"] for row in exact["all_results"]
    )
    with pytest.raises(ValueError, match="for an exact sweep, got 'n_splits'"):
        exact_sweep(affinities, skeleton, metric="n_splits")


def test_direction_of_each_metric():
    affinities, labels, skeleton = scene(1)
    dense = (f"dense_{name}" for name in OVERLAP_METRICS)
    for metric in (*SKELETON_METRICS, *dense, *INSTANCE_METRICS):
        scored = threshold_sweep(affinities, skeleton, metric=metric, labels=labels)
        best = min if METRICS[metric].lower_is_better else max
        values = [row[metric] for row in scored["all_results"]]
        assert scored["best_metrics"][metric] == best(values)
        assert (
            scored["best_metrics"]
            is scored["all_results"][values.index(scored["best_metrics"][metric])]
        )


def test_subsets_of_the_truth_and_unlabelled_voxels():
    affinities, labels, skeleton = scene(2)
    only_labels = threshold_sweep(
        affinities, labels=labels, metric="dense_voi_sum", thresholds=[0.5]
    )
    assert set(only_labels["best_metrics"]) == {
        "threshold",
        *(f"dense_{name}" for name in OVERLAP_METRICS),
        *INSTANCE_METRICS,
    }
    only_skeleton = threshold_sweep(affinities, skeleton, thresholds=[0.5])
    assert set(only_skeleton["best_metrics"]) == {"threshold", *SKELETON_METRICS}
    half = np.where(np.arange(8) < 4, labels, -1)
    scored = threshold_sweep(affinities, labels=half, metric="dense_voi_sum", thresholds=[0.5])
    segmentation = plain.flood_fill(affinities, 0.5)
    expected = dense_metrics(contingency_table(labels[..., :4], segmentation[..., :4]))
    assert scored["best_metrics"] == pytest.approx({"threshold": 0.5} | expected)
    assert scored["best_metrics"] != only_labels["best_metrics"]


def test_channels_by_offset():
    affinities, _, skeleton = scene(3)
    offsets = [(0, 0, 1), (5, 0, 0), (1, 0, 0), (0, 1, 0)]
    shuffled = threshold_sweep(affinities[[2, 0, 0, 1]], skeleton, offsets=offsets)
    assert shuffled == threshold_sweep(affinities, skeleton)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"metric": "accuracy"}, "a metric, got 'accuracy'; it has 'erl', .*'dense_voi_split'"),
        ({"metric": "nerl", "skeleton_path": None}, "skeletons for the metric 'nerl'"),
        ({"metric": "dense_voi_sum", "labels": None}, "labels for the metric"),
        ({"skeleton_path": None, "labels": None, "metric": "x"}, "to score against"),
        ({"thresholds": ()}, "at least one threshold"),
        (
            {"thresholds": np.zeros(SHAPE)},
            r"sequence of thresholds, got an array of shape \(6, 7, 8",
        ),
    ],
)
def test_refuses(options, message):
    affinities, labels, skeleton = scene(4)
    with pytest.raises(ValueError, match=message):
        threshold_sweep(affinities, **({"skeleton_path": skeleton, "labels": labels} | options))


def test_semantic_sweep():
    rng = np.random.default_rng(5)
    truth = rng.integers(0, 2, SHAPE)
    prediction = (truth * 0.4 + rng.random(SHAPE) * 0.6).astype(np.float16)
    scored = semantic_sweep(prediction, truth, thresholds=(0.1, 0.5, 0.9))
    for row in scored["all_results"]:
        mask = prediction.astype(np.float64) > row["threshold"]
        assert row == {"threshold": row["threshold"], **semantic_metrics(truth, mask)}
    assert scored["best_threshold"] == 0.5 and scored["metric"] == "jaccard"
    with pytest.raises(ValueError, match="'jaccard', 'dice', 'precision', 'recall'"):
        semantic_sweep(prediction, truth, metric="nerl")
