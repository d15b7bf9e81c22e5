"""The dense scores after every merge equal those of each cut, scored afresh."""

import numpy as np
import pytest

from pytc.evaluation.dense_curve import dense_curve
from pytc.metrics.overlap import contingency_table, overlap_metrics
from pytc.segmentation.linkage import average_linkage
from pytc.segmentation.merge_tree import Merges, MergeTree, relabelled
from pytc.segmentation.region_graph import region_graph

OFFSETS = ((1, 0, 0), (0, 1, 0), (0, 0, 1))


@pytest.mark.parametrize("min_size", [0, 8, 30])
def test_every_row_equals_the_cut_scored_afresh(min_size):
    random = np.random.default_rng(0)
    for _ in range(12):
        shape = tuple(random.integers(3, 9, 3))
        affinities = random.random((3, *shape)).astype(np.float16)
        fragments = random.integers(0, 40, shape).astype(np.uint32)
        truth = random.integers(0, 9, shape)
        merges = average_linkage(region_graph(fragments, affinities, OFFSETS, (1, 1, 1)))
        flat = fragments.ravel()
        first = [int(np.argmax(flat == n)) for n in range(int(flat.max()) + 1)]
        tree = MergeTree(merges, np.bincount(flat), np.array(first))
        curve = dense_curve(tree, contingency_table(truth, fragments), min_size=min_size)
        thresholds = [*merges.scores.tolist(), -1.0]
        for row, threshold in enumerate(thresholds):
            if row > 0 and thresholds[row - 1] == threshold:
                continue  # several merges at one threshold: the last row is the cut
            segmentation = relabelled(fragments, tree.cut(threshold, min_size=min_size))
            for name, value in overlap_metrics(truth, segmentation).items():
                assert curve[name][row] == pytest.approx(value, abs=1e-9)


def test_sums_of_squares_exceed_64_bits():
    """Three fragments of 10^10 voxels, of one object: exact in integers of two parts."""
    size = 10**10
    merges = Merges(np.array([0.9, 0.8]), np.array([1, 1], np.uint64), np.array([2, 3], np.uint64))
    sizes = np.array([0, size, size, size])
    tree = MergeTree(merges, sizes, np.array([0, 0, size, 2 * size]))
    overlaps = contingency_table(np.array([[[1, 1, 1]]]), np.array([[[1, 2, 3]]]))
    overlaps.count[...] = size
    curve = dense_curve(tree, overlaps)
    np.testing.assert_allclose(curve["rand_split"], [1 / 3, 5 / 9, 1.0], rtol=1e-15)
    np.testing.assert_allclose(curve["voi_split"], [np.log2(3), np.log2(3) - 2 / 3, 0], atol=1e-9)
