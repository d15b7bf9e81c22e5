"""Overlap of a predicted mask with the true one."""

import numpy as np

from pytc.config import require
from pytc.metrics.table import metric_names

SEMANTIC_METRICS = metric_names("semantic", "labels")


def semantic_metrics(truth: np.ndarray, prediction: np.ndarray) -> dict[str, float]:
    """Jaccard, Dice, precision and recall of a foreground mask.

    truth, prediction: bool or integer arrays of one shape, foreground where above 0; voxels where
    truth is negative (unlabelled) do not count. With both masks empty all figures are 1. ValueError
    if shapes or dtypes do not fit.
    """
    for name, mask in (("truth", truth), ("prediction", prediction)):
        require(mask.dtype.kind in "iub", f"a bool or integer {name}", str(mask.dtype))
    require(
        truth.shape == prediction.shape,
        f"a prediction of the truth's shape {truth.shape}",
        prediction.shape,
    )
    true, predicted = truth > 0, (prediction > 0) & (truth >= 0)
    both = np.count_nonzero(true & predicted)
    n_true, n_predicted = np.count_nonzero(true), np.count_nonzero(predicted)

    def share(part: int, whole: int) -> float:
        return part / whole if whole else 1.0

    return {
        "jaccard": share(both, n_true + n_predicted - both),
        "dice": share(2 * both, n_true + n_predicted),
        "precision": share(both, n_predicted),
        "recall": share(both, n_true),
    }


def foreground(labels: np.ndarray, labelled: np.ndarray) -> np.ndarray:
    """The true mask of objects, (Z, Y, X) int8: 1 in an object, 0 outside, -1 where not labelled.

    labels: integers (Z, Y, X); labelled: bool (Z, Y, X), where they count.
    """
    return np.where(labelled, labels > 0, -1).astype(np.int8)


def boundaries(labels: np.ndarray, labelled: np.ndarray) -> np.ndarray:
    """The true mask of boundaries, (Z, Y, X) int8: 1 on a boundary, 0 elsewhere, -1 where unknown.

    A voxel is on a boundary if one of its six neighbours has another label. Background counts as a
    label. It is known where a voxel is labelled, and is a boundary or has no unlabelled neighbour;
    neighbours outside the volume do not count. Arguments as in `foreground`.
    `pytc.data.targets.boundaries` makes the same for training.
    """
    boundary = np.zeros(labels.shape, bool)
    doubtful = ~labelled
    for axis in range(3):
        lower = [slice(None)] * 3
        upper = [slice(None)] * 3
        lower[axis], upper[axis] = slice(None, -1), slice(1, None)
        lower, upper = tuple(lower), tuple(upper)
        differs = (labels[lower] != labels[upper]) & labelled[lower] & labelled[upper]
        boundary[lower] |= differs
        boundary[upper] |= differs
        doubtful[lower] |= ~labelled[upper]
        doubtful[upper] |= ~labelled[lower]
    return np.where(boundary, 1, np.where(doubtful, -1, 0)).astype(np.int8)
