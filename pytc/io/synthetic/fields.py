"""Balls, smooth noise and blur on grids of voxels."""

import numpy as np


def ball(
    centre: np.ndarray, radius: float, size: np.ndarray | float, shape: tuple[int, ...]
) -> tuple[tuple[slice, ...], np.ndarray]:
    """The box of voxels that a ball reaches, and their squared distances (Z, Y, X) to its centre.

    Args:
        centre: (3,); it, the radius and the distances are in units.
        size: of a voxel along each axis, in units.
        shape: of the volume, which the box does not leave.
    """
    first = np.clip((centre - radius) / size, 0, shape).astype(int)
    last = np.clip((centre + radius) / size, 0, shape).astype(int)
    box = tuple(map(slice, first, last + 1))
    sizes = np.broadcast_to(size, 3)
    z, y, x = (
        ((np.arange(n)[part] + 0.5) * s - c) ** 2
        for n, part, s, c in zip(shape, box, sizes, centre)
    )
    return box, z[:, None, None] + y[:, None] + x


def smooth_noise(
    shape: tuple[int, ...], spacing: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """(Z, Y, X) float32: normal draws every `spacing` voxels, linear in between."""
    coarse = [int(np.ceil((n - 1) / max(1, s))) + 2 for n, s in zip(shape, spacing)]
    noise: np.ndarray = rng.normal(size=coarse).astype(np.float32)
    for axis in (2, 1, 0):
        at = np.arange(shape[axis]) / max(1, spacing[axis])
        low = at.astype(int)
        weight = (at - low).astype(np.float32).reshape(-1, *(1,) * (2 - axis))
        noise = noise.take(low, axis) * (1 - weight) + noise.take(low + 1, axis) * weight
    return noise


def blur(image: np.ndarray, sigma: np.ndarray) -> None:
    """Gaussian blur in place; sigma in voxels along each axis, the border repeated."""
    for axis in np.flatnonzero(sigma):
        reach = int(np.ceil(2.5 * sigma[axis]))
        kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma[axis]) ** 2).astype(np.float32)
        lines = np.moveaxis(image, axis, 0)
        padded = np.concatenate([lines[:1].repeat(reach, 0), lines, lines[-1:].repeat(reach, 0)])
        lines[...] = 0
        for start, weight in enumerate(kernel / kernel.sum()):
            lines += weight * padded[start : start + len(lines)]
