"""Overlap of a predicted mask with the true one."""

import numpy as np

from pytc.config import require

SEMANTIC_METRICS = ("jaccard", "dice", "precision", "recall")


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
