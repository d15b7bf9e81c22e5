"""Unlabelled voxels: what annotators did not label is not background."""

from typing import Any

import numpy as np

UNLABELLED = -1  # in every array of labels inside pytc; 0 is background


def is_unlabelled(labels: np.ndarray) -> np.ndarray:
    """Where labels (any integer dtype) are -1 or less, or the maximum of uint32 or uint64.

    The maxima are -1 in an unsigned type, as CREMI stores it.
    """
    marker = unlabelled_marker(labels.dtype)
    unlabelled: np.ndarray = np.zeros(labels.shape, bool)
    if marker is not None:
        unlabelled = labels == marker
    elif labels.dtype.kind == "i":
        unlabelled = labels < 0
    return unlabelled


def has_unlabelled(labels: np.ndarray) -> bool:
    """Whether any voxel is unlabelled, at the cost of a minimum or maximum."""
    if labels.size == 0:
        return False
    marker = unlabelled_marker(labels.dtype)
    if marker is not None:
        return bool(labels.max() == marker)
    return labels.dtype.kind == "i" and bool(labels.min() < 0)


def unlabelled_marker(dtype: Any) -> int | None:
    """The value that means unlabelled in uint32 or uint64; None for other dtypes."""
    dtype = np.dtype(dtype)
    is_wide = dtype.kind == "u" and dtype.itemsize >= 4
    return int(np.iinfo(dtype).max) if is_wide else None
