"""Neurites as walks: each goes both ways from a seed in free space, and branches.

A coarse grid, the room, stores how far each cell is from the nearest neurite. Neurites are made one
after another until no room is left. Lengths are in units of the cube root of a voxel's volume.
"""

from dataclasses import dataclass

import numpy as np

from pytc.io.synthetic.fields import ball

MIN_RADIUS, MEAN_RADIUS, MAX_RADIUS = 4.5, 7.0, 12.0
FAR = 1.5 * MAX_RADIUS  # from any neurite: all the room a walk can ask for
STEP = 2.0  # between the nodes of a walk
CELL = 3.0  # of the grid that stores how much room is left
LONGEST_WALK = 120  # nodes of a walk without a branch
SHORTEST_NEURITE = 48.0  # shorter neurites are left out; their neighbours take the room


@dataclass
class Tree:
    """A neurite's walk.

    points (N, 3) in units, the node each one continues (-1: none), and the radius at each.
    """

    points: list[np.ndarray]
    parents: list[int]
    radii: list[float]

    @property
    def length(self) -> float:
        return STEP * (len(self.points) - 1)


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
    shortest = min(SHORTEST_NEURITE, 0.4 * extent.min())
    kept = [tree for tree in trees if tree.length >= shortest]
    return kept if kept else [max(trees, key=lambda tree: tree.length)]


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
    for i in range(LONGEST_WALK):
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
    """How much room (N,) the cells of points (N, 3) have."""
    cells = np.clip((points / CELL).astype(int), 0, np.array(room.shape) - 1)
    found: np.ndarray = room[tuple(cells.T)]
    return found
