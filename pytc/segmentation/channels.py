"""The affinity channels of a volume: which of them lead to the next voxel along z, y and x."""

from collections.abc import Sequence

import numpy as np


def short_range(affinities: np.ndarray, offsets: Sequence[Sequence[int]] | None) -> np.ndarray:
    """The channels of offsets (1, 0, 0), (0, 1, 0), (0, 0, 1), in this order, or the first three.

    The result is a view if these channels follow each other in the array, and a copy if not.
    """
    if offsets is None:
        return affinities[:3]
    channels = unit_channels(affinities.shape[0], offsets)
    first = channels[0]
    if channels == [first, first + 1, first + 2]:
        return affinities[first : first + 3]
    return affinities[channels]


def unit_channels(n_channels: int, offsets: Sequence[Sequence[int]]) -> list[int]:
    """Which channels have the offsets (1, 0, 0), (0, 1, 0), (0, 0, 1).

    ValueError if one is missing.
    """
    offsets = [tuple(int(o) for o in offset) for offset in offsets]
    if len(offsets) != n_channels:
        raise ValueError(
            f"expected an affinity channel for each of {len(offsets)} offsets, got {n_channels}"
        )
    units = ((1, 0, 0), (0, 1, 0), (0, 0, 1))
    missing = [unit for unit in units if unit not in offsets]
    if missing:
        raise ValueError(
            f"expected offsets with (1, 0, 0), (0, 1, 0) and (0, 0, 1), got {offsets} "
            f"without {missing}"
        )
    return [offsets.index(unit) for unit in units]
