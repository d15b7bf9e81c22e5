"""Synthetic neurites that look like EM: touching, branching tubes, labels and skeletons.

    walks.py     neurites as branching walks through free space
    labels.py    labels: every voxel joins the walk that is nearest to it
    image.py     brightness: cytoplasm, membranes, organelles, noise, defects
    fields.py    balls, smooth noise and blur, which the others use

Lengths in these files are in units of the cube root of a voxel's volume, so a neurite has as many
voxels at any voxel size; with isotropic voxels a unit is a voxel. Everything follows from the seed.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from pytc.checks import require
from pytc.config import Lengths, SyntheticConfig, Triple
from pytc.io.skeleton import Skeleton
from pytc.io.synthetic.image import damage, draw_organelles, render
from pytc.io.synthetic.labels import fill
from pytc.io.synthetic.walks import MIN_RADIUS, Tree, grow_trees

STEPS = 4  # walks, labels, image, noise


@dataclass(frozen=True)
class SyntheticVolume:
    """image (Z, Y, X) uint8, labels (Z, Y, X) uint32 without background, and skeletons.

    The ids of the skeletons are the labels.
    """

    image: np.ndarray
    labels: np.ndarray
    skeleton: Skeleton
    voxel_size: Lengths


def make_neurites(
    shape: Triple,
    seed: int,
    *,
    voxel_size: Lengths = (10.0, 10.0, 10.0),
    noise: float = 0.08,
    defects: float = 0.0,
    on_step: Callable[[int], None] = lambda done: None,
) -> SyntheticVolume:
    """A volume of synthetic neurites, axes z, y, x; the same for the same arguments.

    voxel_size: nm. noise: standard deviation, as a share of the grey range. defects: share of
    z-slices whose image is dropped, shifted or blurred. on_step: called with the number of finished
    STEPS. Every node of a skeleton lies on its own label. ValueError for an impossible shape.
    """
    config = SyntheticConfig(shape, voxel_size, noise, defects)  # refuses what is out of range
    shape, voxel_size = config.shape, config.voxel_size
    rng = np.random.default_rng(seed)
    size = np.asarray(voxel_size) / np.cbrt(np.prod(voxel_size))  # of a voxel, in units
    require(
        max(size) <= MIN_RADIUS + 1,
        "voxels at most 12 times as long as wide, or neurites share them",
        voxel_size,
    )
    trees = grow_trees(np.asarray(shape) * size, rng)
    on_step(1)
    labels = fill(shape, size, trees, rng)
    on_step(2)
    image = render(labels, size, draw_organelles(trees, rng), rng)
    on_step(3)
    image += noise * rng.standard_normal(shape, np.float32)
    damage(image, defects, rng)
    image = np.round(np.clip(image, 0, 1) * 255).astype(np.uint8)
    on_step(STEPS)
    return SyntheticVolume(image, labels, trees_to_skeleton(trees, size, voxel_size), voxel_size)


def trees_to_skeleton(trees: list[Tree], size: np.ndarray, voxel_size: Lengths) -> Skeleton:
    """A node where a walk enters a voxel; nm = voxel index times voxel size."""
    ids: list[int] = []
    voxels: list[np.ndarray] = []
    pairs: list[tuple[int, int]] = []
    for label, tree in enumerate(trees, start=1):
        node_of: list[int] = []
        for voxel, parent in zip((np.array(tree.points) / size).astype(np.int64), tree.parents):
            if parent >= 0 and (voxel == voxels[node_of[parent]]).all():
                node_of.append(node_of[parent])
                continue
            if parent >= 0:
                pairs.append((node_of[parent], len(ids)))
            node_of.append(len(ids))
            ids.append(label)
            voxels.append(voxel)
    positions = np.array(voxels, np.int64)
    nm = positions * np.asarray(voxel_size, np.float64)
    edges = np.array(pairs, np.int64).reshape(-1, 2)
    return Skeleton(np.array(ids, np.uint64), positions, nm, edges)
