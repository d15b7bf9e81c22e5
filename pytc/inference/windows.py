"""How much each voxel of a window counts where windows overlap."""

from __future__ import annotations

import numpy as np


def blending_weights(window: tuple[int, ...], kind: str) -> np.ndarray:
    """Weights of `window`'s voxels, float32 in (0, 1], largest at the centre, the same seen from either side.

    `distance`: chessboard distance to the nearest voxel outside (the distance transform of BANIS); `gaussian`:
    a Gaussian of one eighth of the window (nnU-Net's importance map), no smaller than 1e-3.
    """
    if kind == "distance":
        ramps = [np.minimum(np.arange(n) + 1, n - np.arange(n)) for n in window]
        weights = np.min(np.stack(np.meshgrid(*ramps, indexing="ij")), axis=0).astype(np.float32)
        return weights / weights.max()
    bells = [np.exp(-0.5 * ((np.arange(n) - (n - 1) / 2) / (n / 8)) ** 2) for n in window]
    weights = np.prod(np.stack(np.meshgrid(*bells, indexing="ij")), axis=0)
    return np.maximum(weights / weights.max(), 1e-3).astype(np.float32)
