"""Synthetic neurites that look like EM: touching, branching tubes, labels and skeletons.

Lengths here are in units of the cube root of a voxel's volume, so a neurite has as many voxels at
any voxel size; with isotropic voxels a unit is a voxel. Everything follows from the seed.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numba
import numpy as np

from pytc.checks import require
from pytc.config import Lengths, SyntheticConfig, Triple
from pytc.io.skeleton import Skeleton

MIN_RADIUS, MEAN_RADIUS, MAX_RADIUS = 4.5, 7.0, 12.0
FAR = 1.5 * MAX_RADIUS  # from any neurite: all the room a walk can ask for
STEP = 2.0  # between the nodes of a walk
CELL = 3.0  # of the grid that stores how much room is left
LONGEST = 120  # nodes of a walk without a branch
LONG = 48.0  # shorter neurites are left out; their neighbours take the room
STEPS = 4  # walks, labels, image, noise
CYTOPLASM, MEMBRANE, ORGANELLE = 0.68, 0.50, 0.30  # brightness, and how much darker than it


@dataclass(frozen=True)
class SyntheticVolume:
    """image (Z, Y, X) uint8, labels (Z, Y, X) uint32 without background, and skeletons.

    The ids of the skeletons are the labels.
    """

    image: np.ndarray
    labels: np.ndarray
    skeleton: Skeleton
    voxel_size: Lengths


@dataclass
class Tree:
    """A neurite's walk.

    points (N, 3) in units, the node each one continues (-1: none), and the radius there.
    """

    points: list[np.ndarray]
    parents: list[int]
    radii: list[float]

    @property
    def length(self) -> float:
        return STEP * (len(self.points) - 1)


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
    image = render(labels, size, grow_organelles(trees, rng), rng)
    on_step(3)
    image += noise * rng.standard_normal(shape, np.float32)
    damage(image, defects, rng)
    image = np.round(np.clip(image, 0, 1) * 255).astype(np.uint8)
    on_step(STEPS)
    return SyntheticVolume(image, labels, trees_to_skeleton(trees, size, voxel_size), voxel_size)


def grow_trees(extent: np.ndarray, rng: np.random.Generator) -> list[Tree]:
    """Neurites one after another in free space, until none is left."""
    # distance to the nearest neurite
    room = np.full(np.ceil(extent / CELL).astype(int), FAR, np.float32)
    trees = []
    while (widest := room.max()) >= MIN_RADIUS:
        radius = min(
            np.clip(rng.lognormal(np.log(MEAN_RADIUS), 0.3), MIN_RADIUS, MAX_RADIUS), float(widest)
        )
        seed = np.array(np.unravel_index(rng.choice(np.flatnonzero(room >= radius)), room.shape))
        seed = np.minimum((seed + 0.5) * CELL, extent - 1e-3)
        trees.append(grow_tree(seed, radius, room, extent, rng))
        for point, thickness in zip(trees[-1].points, trees[-1].radii):
            box, squared = ball(point, FAR + thickness, CELL, room.shape)
            room[box] = np.minimum(room[box], np.sqrt(squared) - thickness)
    long = min(LONG, 0.4 * extent.min())
    return [tree for tree in trees if tree.length >= long] or [
        max(trees, key=lambda tree: tree.length)
    ]


def grow_tree(
    seed: np.ndarray, radius: float, room: np.ndarray, extent: np.ndarray, rng: np.random.Generator
) -> Tree:
    """A walk both ways from the seed, with branches off it."""
    tree = Tree([seed], [-1], [radius])
    ahead = random_direction(rng)
    walk(tree, 0, ahead, radius, room, extent, rng)
    walk(tree, 0, -ahead, radius, room, extent, rng)
    for _ in range(min(5, rng.poisson(tree.length / 80))):
        before = len(tree.points)
        walk(
            tree,
            int(rng.integers(before)),
            random_direction(rng),
            max(MIN_RADIUS, 0.8 * radius),
            room,
            extent,
            rng,
        )
        if len(tree.points) - before < 8:  # a stump, not a branch
            del tree.points[before:], tree.parents[before:], tree.radii[before:]
    return tree


def walk(
    tree: Tree,
    start: int,
    direction: np.ndarray,
    radius: float,
    room: np.ndarray,
    extent: np.ndarray,
    rng: np.random.Generator,
) -> None:
    """Append nodes to a tree from node `start` on.

    The walk ends where it leaves the volume or finds no way.
    """
    node, position = start, tree.points[start]
    earlier = np.array(tree.points)  # of this tree; the walk keeps away from them
    earlier = earlier[np.linalg.norm(earlier - position, axis=1) > 3 * radius]
    for i in range(LONGEST):
        directions = direction + 0.22 * rng.normal(size=(16, 3))
        directions /= np.linalg.norm(directions, axis=1, keepdims=True)
        next_points = position + STEP * directions
        if (next_points < 0).any() or (next_points >= extent).any():
            return
        free = look_up(room, next_points) >= 0.8 * radius
        if len(earlier):
            distances = np.linalg.norm(next_points[:, None] - earlier, axis=2)
            free &= distances.min(1) >= 1.8 * radius
        if not free.any():
            return
        score = np.minimum(
            look_up(room, position + 4 * STEP * directions) / radius, 1.5
        ) + 0.5 * rng.random(16)
        best = int(np.argmax(np.where(free, score, -1)))
        position, direction = next_points[best], directions[best]
        tree.points.append(position)
        tree.parents.append(node)
        tree.radii.append(radius * (1 + 0.15 * np.sin(i / 5)))
        node = len(tree.points) - 1


def random_direction(rng: np.random.Generator) -> np.ndarray:
    """A vector (3,) of length 1."""
    direction: np.ndarray = rng.normal(size=3)
    direction /= np.linalg.norm(direction)
    return direction


def look_up(room: np.ndarray, points: np.ndarray) -> np.ndarray:
    """The room (N,) in the cells of points (N, 3)."""
    cells = np.clip((points / CELL).astype(int), 0, np.array(room.shape) - 1)
    found: np.ndarray = room[tuple(cells.T)]
    return found


def ball(
    centre: np.ndarray, radius: float, size: np.ndarray | float, shape: tuple[int, ...]
) -> tuple[tuple[slice, ...], np.ndarray]:
    """The box of voxels that a ball in units reaches, and their squared distances to its centre.

    The distances are (Z, Y, X).

    size: of a voxel, in units. shape: of the volume, which the box does not leave.
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


def grow_organelles(
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


def fill(
    shape: Triple, size: np.ndarray, trees: list[Tree], rng: np.random.Generator
) -> np.ndarray:
    """Labels (Z, Y, X) uint32 of neurites that grow from their walks until they meet.

    All grow at the same speed.
    """
    parts = []
    for label, tree in enumerate(trees, start=1):
        ends = np.array(tree.points)
        starts = ends[np.maximum(tree.parents, 0)]
        for t in np.arange(0.25, 1.01, 0.25):
            parts.append(
                (starts + t * (ends - starts), tree.radii, np.full(len(ends), label, np.uint32))
            )
    points, radii, ids = (np.concatenate(arrays) for arrays in zip(*parts))
    warp = np.stack([smooth_noise(shape, 12 / size, rng) * 1.5 for _ in range(3)], axis=-1)
    nearest = grow_points(shape, size, points, radii, warp)
    return np.asarray(ids.take(nearest))


@numba.njit(cache=True)
def grow_points(
    shape: Triple, size: np.ndarray, points: np.ndarray, radii: np.ndarray, warp: np.ndarray
) -> np.ndarray:
    """The point each voxel belongs to: that whose ball has the nearest surface.

    Distances are in a space bent by `warp`. Voxels join in order of that distance and only where a
    neighbour already has, so every label is connected. They are counted in a volume with a rim of
    one voxel, which is never FREE.
    """
    FREE, RIM, PER_UNIT = -1, -2, 8.0  # distances are sorted into 1 / 8 of a unit
    padded = np.full((shape[0] + 2, shape[1] + 2, shape[2] + 2), RIM, np.int32)
    padded[1:-1, 1:-1, 1:-1] = FREE
    sources = padded.reshape(-1)
    row, plane = shape[2] + 2, (shape[1] + 2) * (shape[2] + 2)
    # the voxels at each distance, as linked lists
    head = np.full(int(PER_UNIT * 400), -1, np.int64)
    following = np.full(padded.size, -1, np.int64)
    bent = np.empty_like(points)
    for n in range(len(points)):
        z, y, x = (points[n] / size).astype(np.int64)
        bent[n] = points[n] + warp[z, y, x]
        voxel = (z + 1) * plane + (y + 1) * row + x + 1
        if sources[voxel] == FREE:
            sources[voxel] = n
            bucket = int(PER_UNIT * (2 * MAX_RADIUS - radii[n]))
            following[voxel], head[bucket] = head[bucket], voxel
    steps = np.array([plane, -plane, row, -row, 1, -1])
    for bucket in range(len(head)):
        while head[bucket] >= 0:
            taken = head[bucket]
            head[bucket] = following[taken]
            for step in steps:
                voxel = taken + step
                if sources[voxel] != FREE:
                    continue
                z, y, x = voxel // plane - 1, voxel // row % (shape[1] + 2) - 1, voxel % row - 1
                pz = (z + 0.5) * size[0] + warp[z, y, x, 0]
                py = (y + 0.5) * size[1] + warp[z, y, x, 1]
                px = (x + 0.5) * size[2] + warp[z, y, x, 2]
                nearest, source = np.inf, -1
                for back in steps:
                    n = sources[voxel + back]
                    if n >= 0 and n != source:
                        distance = np.sqrt(
                            (pz - bent[n, 0]) ** 2 + (py - bent[n, 1]) ** 2 + (px - bent[n, 2]) ** 2
                        )
                        if distance - radii[n] < nearest:
                            nearest, source = distance - radii[n], n
                sources[voxel] = source
                target = min(len(head) - 1, max(bucket, int(PER_UNIT * (nearest + 2 * MAX_RADIUS))))
                following[voxel], head[target] = head[target], voxel
    return padded[1:-1, 1:-1, 1:-1]


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
