"""All scores that a merge tree gives, at every threshold at which its segmentation changes."""

import numpy as np

from pytc.evaluation.dense_curve import dense_curve
from pytc.evaluation.exact import skeleton_curve
from pytc.evaluation.sweep import Curve
from pytc.metrics.overlap import Labels, contingency_table
from pytc.metrics.skeleton import SkeletonMetrics
from pytc.segmentation.agglomeration import Agglomeration
from pytc.segmentation.merge_forest import line_up_points
from pytc.segmentation.merge_tree import MergeTree


def tree_curve(
    made: Agglomeration,
    *,
    skeletons: SkeletonMetrics | None = None,
    labels: Labels | None = None,
    min_size: int = 0,
) -> Curve:
    """Scores at every threshold of 0 or more at which a merge is carried out, in descending order.

    Args:
        labels: (Z, Y, X) true labels, 0 where they do not count.
        min_size: segments of fewer voxels are background, as in `MergeTree.cut`.

    Returns:
        {"threshold": (R,), and each score: (R,) float64}. A row holds from its threshold up to that
        of the row before; the first one up to 1.

    Raises:
        ValueError: if a node lies outside the volume, or there is no truth.
    """
    scores = made.tree.merges.scores
    thresholds = np.unique(np.append(scores[scores > 0], 0))[::-1]
    n_merges = np.array([made.tree.merges.above(threshold) for threshold in thresholds])
    curve = {"threshold": thresholds}
    if skeletons is not None:
        fragments = skeletons.segments_at_nodes(made.fragments)
        nodes, born, joined = _line(made.tree, fragments, n_merges, max(1, min_size))
        curve |= skeleton_curve(skeletons, nodes, born, joined, len(thresholds))
    if labels is not None:
        overlaps = contingency_table(labels, made.fragments)
        dense = dense_curve(made.tree, overlaps, min_size=min_size)
        curve |= {f"dense_{name}": values[n_merges] for name, values in dense.items()}
    return curve


def _line(
    tree: MergeTree, fragments: np.ndarray, n_merges: np.ndarray, min_size: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The nodes in a line, and the rows at which they get a label and are joined to the next one.

    Args:
        fragments: (N,) the fragment of each node.
        n_merges: (R,) the merges that are carried out at each row.
    """
    sizes = np.minimum(tree.sizes, min_size)
    sizes[0] = 0  # the background never has a label
    edges = np.column_stack([tree.merges.first, tree.merges.second])
    nodes, born, joined = line_up_points(fragments, sizes, edges, n_merges, min_size=min_size)
    n_rows = len(n_merges)
    return nodes, np.minimum(born, n_rows), np.minimum(joined, n_rows)
