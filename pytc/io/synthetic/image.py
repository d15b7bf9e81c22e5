"""The image of neurites as an electron microscope shows it, with its noise and its defects."""

import numpy as np

from pytc.io.synthetic.fields import ball, blur, smooth_noise
from pytc.io.synthetic.walks import Tree, random_direction

CYTOPLASM, MEMBRANE, ORGANELLE = 0.68, 0.50, 0.30  # brightness, and how much darker than it


def draw_organelles(
    trees: list[Tree], rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Centres, radii and labels of organelles.

    Mitochondria are balls strung along a walk, vesicles a cloud of small ones.
    """
    parts = [(np.empty((0, 3)), np.empty(0), np.empty(0, int))]
    for label, tree in enumerate(trees, start=1):
        points, thickness = np.array(tree.points), np.array(tree.radii)
        for _ in range(rng.poisson(tree.length / 120)):
            start = int(rng.integers(len(points)))
            chain = points[start : start + int(rng.integers(5, 14))] + 0.25 * thickness[
                start
            ] * random_direction(rng)
            radii = np.full(len(chain), rng.uniform(0.35, 0.5) * thickness[start])
            parts.append((chain, radii, np.full(len(chain), label)))
        for _ in range(rng.poisson(tree.length / 40)):
            middle, count = int(rng.integers(len(points))), int(rng.integers(4, 16))
            cloud = points[middle] + 0.5 * thickness[middle] * rng.normal(size=(count, 3))
            parts.append((cloud, rng.uniform(1.3, 2.2, count), np.full(count, label)))
    centres, radii, labels = (np.concatenate(arrays) for arrays in zip(*parts))
    return centres, radii, labels


def render(
    labels: np.ndarray,
    size: np.ndarray,
    organelles: tuple[np.ndarray, np.ndarray, np.ndarray],
    rng: np.random.Generator,
) -> np.ndarray:
    """Brightness (Z, Y, X) float32, about [0, 1].

    It shows cytoplasm, texture, organelles, and membranes of uneven contrast.

    size: of a voxel, in units. organelles: balls as centres (N, 3) and radii (N,) in units, and
    labels (N,).
    """
    shape = labels.shape
    brightness = CYTOPLASM + 0.03 * rng.normal(size=labels.max() + 1)
    image: np.ndarray = brightness.astype(np.float32)[labels]
    image += 0.05 * smooth_noise(shape, 4 / size, rng)
    texture = rng.standard_normal(shape, np.float32)
    blur(texture, 1.0 / size)
    image += 0.05 / texture.std() * texture
    dark = np.zeros(shape, np.float32)
    for centre, radius, label in zip(*organelles):
        box, squared = ball(centre, radius, size, shape)
        # a ball stays inside its label
        dark[box][(labels[box] == label) & (squared <= radius**2)] = 1
    blur(dark, 0.6 / size)
    image -= ORGANELLE * dark
    membrane = draw_membranes(labels, np.minimum(1, 1 / size).astype(np.float32))
    blur(membrane, 0.8 / size)
    contrast = np.clip(0.65 + 0.45 * smooth_noise(shape, 6 / size, rng), 0.15, 1)
    image -= MEMBRANE * np.minimum(1, 1.3 * membrane) * contrast
    return image


def draw_membranes(labels: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The largest weight of the axes along which a voxel's neighbour has another label, else 0."""
    membrane = np.zeros(labels.shape, np.float32)
    for axis, weight in enumerate(weights):
        lines, drawn = np.moveaxis(labels, axis, 0), np.moveaxis(membrane, axis, 0)
        border = weight * (lines[1:] != lines[:-1])
        np.maximum(drawn[1:], border, out=drawn[1:])
        np.maximum(drawn[:-1], border, out=drawn[:-1])
    return membrane


def damage(image: np.ndarray, share: float, rng: np.random.Generator) -> None:
    """Drop, shift or blur a share of the z-slices, in place."""
    count = round(share * len(image))
    for i, z in enumerate(rng.permutation(len(image))[:count]):
        if i % 3 == 0:
            image[z] = rng.uniform(0, 0.1)
        elif i % 3 == 1:
            image[z] = np.roll(image[z], rng.integers(-10, 11, 2), (0, 1))
        else:
            blur(image[z : z + 1], np.array([0, 3.0, 3.0]))
