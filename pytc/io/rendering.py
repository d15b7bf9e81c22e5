"""What labels look like under the microscope: membranes, organelles, texture, damaged slices. Used by synthetic.py."""

from __future__ import annotations

import numpy as np

CYTOPLASM, MEMBRANE, ORGANELLE = 0.68, 0.50, 0.30  # brightness, and how much darker than it


def render(labels: np.ndarray, size: np.ndarray, organelles: tuple, rng: np.random.Generator) -> np.ndarray:
    """Brightness (Z, Y, X) float32, about [0, 1]: cytoplasm, texture, organelles, and membranes of uneven contrast.

    size: of a voxel, in units. organelles: balls as centres (N, 3) and radii (N,) in units, and labels (N,).
    """
    shape = labels.shape
    image = (CYTOPLASM + 0.03 * rng.normal(size=labels.max() + 1)).astype(np.float32)[labels]
    image += 0.05 * smooth_noise(shape, 4 / size, rng)
    texture = rng.standard_normal(shape, np.float32)
    blur(texture, 1.0 / size)
    image += 0.05 / texture.std() * texture
    dark = np.zeros(shape, np.float32)
    draw_balls(dark, labels, size, *organelles)
    blur(dark, 0.6 / size)
    image -= ORGANELLE * dark
    membrane = draw_membranes(labels, np.minimum(1, 1 / size).astype(np.float32))
    blur(membrane, 0.8 / size)
    contrast = np.clip(0.65 + 0.45 * smooth_noise(shape, 6 / size, rng), 0.15, 1)
    image -= MEMBRANE * np.minimum(1, 1.3 * membrane) * contrast
    return image


def draw_membranes(labels: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """At each voxel the largest weight of the axes along which a neighbour has another label, else 0."""
    membrane = np.zeros(labels.shape, np.float32)
    for axis, weight in enumerate(weights):
        lines, drawn = np.moveaxis(labels, axis, 0), np.moveaxis(membrane, axis, 0)
        border = weight * (lines[1:] != lines[:-1])
        np.maximum(drawn[1:], border, out=drawn[1:])
        np.maximum(drawn[:-1], border, out=drawn[:-1])
    return membrane


def draw_balls(image: np.ndarray, labels: np.ndarray, size: np.ndarray, centres, radii, ids) -> None:
    """Set a ball to 1 wherever it is inside its own label."""
    for centre, radius, label in zip(centres, radii, ids):
        first, last = (np.clip((centre + reach) / size, 0, image.shape).astype(int) for reach in (-radius, radius))
        box = tuple(map(slice, first, last + 1))
        z, y, x = (((np.arange(n)[part] + 0.5) * s - c) ** 2 for n, part, s, c in zip(image.shape, box, size, centre))
        image[box][(labels[box] == label) & (z[:, None, None] + y[:, None] + x <= radius**2)] = 1


def damage(image: np.ndarray, share: float, rng) -> None:
    """Drop, shift or blur a share of the z-slices, in place."""
    count = round(share * len(image))
    for i, z in enumerate(rng.permutation(len(image))[:count]):
        if i % 3 == 0:
            image[z] = rng.uniform(0, 0.1)
        elif i % 3 == 1:
            image[z] = np.roll(image[z], rng.integers(-10, 11, 2), (0, 1))
        else:
            blur(image[z : z + 1], np.array([0, 3.0, 3.0]))


def smooth_noise(shape: tuple, spacing: np.ndarray, rng) -> np.ndarray:
    """(Z, Y, X) float32: normal draws every `spacing` voxels, linear in between."""
    coarse = [int(np.ceil((n - 1) / max(1, s))) + 2 for n, s in zip(shape, spacing)]
    noise = rng.normal(size=coarse).astype(np.float32)
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
