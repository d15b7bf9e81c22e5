"""Agglomeration: equal to its plain form, and a curve equal to scoring every cut afresh."""

from dataclasses import replace

import numpy as np
import pytest
from reference_segmentation import random_affinities

from pytc.config import SegmentationConfig
from pytc.evaluation.exact import EXACT_METRICS
from pytc.evaluation.sweep import plateau
from pytc.evaluation.tree_curve import tree_curve
from pytc.io.skeleton import Skeleton
from pytc.metrics.overlap import overlap_metrics
from pytc.metrics.skeleton import SkeletonMetrics
from pytc.segmentation import plain
from pytc.segmentation.agglomeration import agglomerate, edge_weights, fragment_settings
from pytc.segmentation.decode import channels_to_read, decode, levels_of_tree, merge_tree

STEPS = ((1, 0, 0), (0, 1, 0), (0, 0, 1))
OFFSETS = (*STEPS, (2, 0, 0), (0, 3, 0), (0, 0, 2))
CONFIG = SegmentationConfig(
    0.5, method="agglomeration", fragment_threshold=0.7, fragment_min_size=2
)


def six_channels(random, shape):
    return np.concatenate([random_affinities(random, shape), random_affinities(random, shape)])


@pytest.mark.parametrize("threshold", (0.3, 0.6))
def test_equals_the_textbook(threshold):
    random = np.random.default_rng(0)
    for _ in range(10):
        shape = tuple(random.integers(1, 7, 3))
        affinities = six_channels(random, shape)
        seeds = plain.flood_fill(affinities, 0.7, 2)
        fragments = plain.seeded_watershed(seeds, affinities)
        graph = plain.region_graph(fragments, affinities, OFFSETS, (9, 9, 9, 3, 3, 3))
        merges = plain.average_linkage(graph)
        labels = decode(affinities, OFFSETS, replace(CONFIG, threshold=threshold))
        np.testing.assert_array_equal(labels, plain.cut(fragments, merges, threshold))


def test_the_order_of_channels_does_not_matter():
    random = np.random.default_rng(1)
    affinities = six_channels(random, (5, 8, 9))
    order = [4, 0, 2, 5, 1, 3]
    expected = decode(affinities, OFFSETS, CONFIG)
    found = decode(affinities[order], [OFFSETS[channel] for channel in order], CONFIG)
    np.testing.assert_array_equal(found, expected)


def test_long_edges_hold_an_object_together():
    """A gap in the short edges, bridged by long ones: their weights decide."""
    affinities = np.full((6, 1, 6, 12), 0.95, np.float32)
    affinities[2, :, :, 5] = 0.3
    config = replace(CONFIG, min_size=1)
    assert decode(affinities, OFFSETS, config).max() == 1
    without = replace(config, edge_weights=(1, 1, 1, 0, 0, 0))
    assert decode(affinities, OFFSETS, without).max() == 2
    assert decode(affinities[:3], STEPS, config).max() == 2


def test_edges_across_thick_sections_weigh_less():
    assert edge_weights(CONFIG, OFFSETS, None) == (9, 9, 9, 3, 3, 3)
    assert edge_weights(CONFIG, OFFSETS, (10, 10, 10)) == (9, 9, 9, 3, 3, 3)
    assert edge_weights(CONFIG, OFFSETS, (40, 4, 4)) == (3, 9, 9, 1, 3, 3)
    assert edge_weights(CONFIG, OFFSETS, (4, 4, 30)) == (9, 9, 3, 3, 3, 1)


def test_fragments_of_thick_sections_stay_in_their_section():
    assert fragment_settings(CONFIG, (8, 8, 8)).sections is None
    settings = fragment_settings(CONFIG, (8, 40, 8))
    assert (settings.seeds, settings.sections, settings.threshold) == ("distance_peaks", 1, 0.7)
    by_default = replace(CONFIG, fragment_threshold=None)
    assert fragment_settings(by_default, (8, 40, 8)).threshold == 0.5
    assert fragment_settings(by_default, (8, 8, 8)).threshold == 0.8
    affinities = 0.69 + 0.3 * np.random.default_rng(2).random((6, 8, 3, 9))  # few are below 0.7
    made = agglomerate(affinities, OFFSETS, CONFIG, (8, 40, 8))
    sections = np.moveaxis(made.fragments, 1, 0)
    ids = [set(np.unique(section)) - {0} for section in sections]
    assert all(ids) and not (ids[0] & ids[1] or ids[0] & ids[2] or ids[1] & ids[2])


def test_a_dumbbell_has_two_peaks():
    """Two discs that a neck joins: components make one fragment of them, peaks make two."""
    y, x = np.mgrid[:24, :44]
    inside = (np.hypot(y - 12, x - 11) < 9) | (np.hypot(y - 12, x - 32) < 9) | (abs(y - 12) < 3)
    inside[:, :2] = inside[:, -2:] = False
    affinities = np.zeros((3, 2, *inside.shape), np.float32)
    affinities[0, 0] = 0.9 * inside
    affinities[1, :, :-1] = 0.9 * (inside[:-1] & inside[1:])
    affinities[2, :, :, :-1] = 0.9 * (inside[:, :-1] & inside[:, 1:])
    assert agglomerate(affinities, STEPS, CONFIG, (8, 8, 8)).fragments.max() == 1
    peaks = agglomerate(affinities, STEPS, CONFIG, (40, 8, 8)).fragments
    assert [sorted(np.unique(section)) for section in peaks] == [[0, 1, 2], [0, 3, 4]]
    assert peaks[0, 12, 11] != peaks[0, 12, 32]


def test_sections_need_a_thick_axis():
    config = replace(CONFIG, fragment_seeds="sections")
    with pytest.raises(ValueError, match=r"at least 2 times as large along one axis .*sections"):
        decode(np.zeros((3, 2, 2, 2), np.float32), STEPS, config, (8, 8, 8))


def test_weights_are_one_for_each_channel():
    config = replace(CONFIG, edge_weights=(1, 1, 1))
    with pytest.raises(ValueError, match=r"edge_weights for 6 channels, .*\(1, 1, 1\)"):
        channels_to_read(6, OFFSETS, config)
    with pytest.raises(ValueError, match=r"one above 0 at least, got \(0, 0, 0\)"):
        channels_to_read(3, STEPS, replace(config, edge_weights=(0, 0, 0)))


def nodes_of(random, shape, count):
    """Two skeletons whose nodes lie anywhere."""
    positions = np.column_stack([random.integers(0, n, count) for n in shape])
    ids = np.sort(random.integers(0, 3, count))
    edges = np.column_stack([np.arange(count - 1), np.arange(1, count)])
    edges = edges[ids[edges[:, 0]] == ids[edges[:, 1]]]
    return Skeleton(ids.astype(np.uint64), positions, 10.0 * positions, edges)


@pytest.mark.parametrize("min_size", (0, 6, 25))
def test_every_row_of_the_curve_equals_the_cut_scored_afresh(min_size):
    random = np.random.default_rng(3)
    for _ in range(8):
        shape = tuple(random.integers(4, 9, 3))
        affinities = six_channels(random, shape)
        truth = random.integers(0, 5, shape)
        skeletons = SkeletonMetrics(nodes_of(random, shape, 40))
        made = merge_tree(affinities, OFFSETS, CONFIG)
        curve = tree_curve(made, skeletons=skeletons, labels=truth, min_size=min_size)
        assert (np.diff(curve["threshold"]) < 0).all() and curve["threshold"][-1] == 0
        for row, threshold in enumerate(curve["threshold"].tolist()):
            config = replace(CONFIG, threshold=threshold, min_size=min_size)
            labels = decode(affinities, OFFSETS, config)
            fresh = skeletons.compute(labels)
            dense = overlap_metrics(truth, labels)
            expected = {name: fresh[name] for name in EXACT_METRICS}
            expected |= {f"dense_{name}": value for name, value in dense.items()}
            found = {name: curve[name][row] for name in expected}
            assert found == pytest.approx(expected, rel=1e-9, abs=1e-9)
        (levels,) = levels_of_tree(made, replace(CONFIG, min_size=min_size), [0.6])
        segments = next(levels.segments)(levels.fragments)
        at = replace(CONFIG, threshold=0.6, min_size=min_size)
        np.testing.assert_array_equal(segments, decode(affinities, OFFSETS, at))


def test_components_have_no_tree():
    affinities = np.zeros((3, 2, 2, 2), np.float32)
    assert merge_tree(affinities, STEPS, SegmentationConfig(0.5, method="components")) is None


@pytest.mark.parametrize("holds_to_next, highest", ((True, 0.9), (False, 0.8)))
def test_the_plateau_is_where_scores_are_nearly_as_good(holds_to_next, highest):
    thresholds = [0.9, 0.8, 0.7, 0.5, 0.3, 0.1]
    voi = [2.0, 1.04, 1.0, 1.05, 1.2, 1.01]  # the last one is as good, but beyond a worse one
    found = plateau(thresholds, voi, "dense_voi_sum", holds_to_next=holds_to_next)
    assert found == (0.5, highest)
    assert plateau(thresholds, voi, "n_splits", holds_to_next=holds_to_next) is None
    nerl = [0.1, 0.2, 0.5, 0.49, 0.3, 0.2]
    assert plateau(thresholds, nerl, "nerl", holds_to_next=False) == (0.5, 0.7)
