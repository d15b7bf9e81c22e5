"""Slow, obvious twins of the blended prediction."""

import itertools
import math

import numpy as np


def chessboard_distance(window):
    """Distance of each voxel to the nearest voxel outside the window, largest 1, voxel by voxel."""
    weights = np.zeros(window, np.float32)
    for at in np.ndindex(*window):
        weights[at] = min(min(i + 1, n - i) for i, n in zip(at, window))
    return weights / weights.max()


def gaussian_bell(window):
    """A Gaussian about the centre, its deviation an eighth of the window, voxel by voxel.

    The largest weight is 1, the smallest 1e-3.
    """
    weights = np.zeros(window)
    for at in np.ndindex(*window):
        distances = [(i - (n - 1) / 2) / (n / 8) for i, n in zip(at, window)]
        weights[at] = math.exp(-sum(d * d for d in distances) / 2)
    return np.maximum(weights / weights.max(), 1e-3)


def blended_logits(network, image, channels, window, overlap, weights):
    """The whole volume at once: image (C, Z, Y, X) float32 at least as large as a window."""
    shape = image.shape[1:]
    starts = []
    for n, w in zip(shape, window):
        stride = max(1, round(w * (1 - overlap)))
        along = list(range(0, n - w + 1, stride))
        starts.append(along if along[-1] == n - w else [*along, n - w])
    total, norm = np.zeros((channels, *shape), np.float64), np.zeros(shape, np.float64)
    for start in itertools.product(*starts):
        region = tuple(slice(a, a + w) for a, w in zip(start, window))
        total[(slice(None), *region)] += network(image[(slice(None), *region)]) * weights
        norm[region] += weights
    return total / norm
