"""Labels of neurites: every voxel joins the walk whose surface is nearest to it."""

import numba
import numpy as np

from pytc.config import Triple
from pytc.io.synthetic.fields import smooth_noise
from pytc.io.synthetic.walks import MAX_RADIUS, Tree


def fill(
    shape: Triple, size: np.ndarray, trees: list[Tree], rng: np.random.Generator
) -> np.ndarray:
    """Labels (Z, Y, X) uint32: neurites widen from their walks, equally fast, until they meet."""
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
    nearest = nearest_points(shape, size, points, radii, warp)
    return np.asarray(ids.take(nearest))


@numba.njit(cache=True)
def nearest_points(
    shape: Triple, size: np.ndarray, points: np.ndarray, radii: np.ndarray, warp: np.ndarray
) -> np.ndarray:
    """The index (Z, Y, X) of the point that each voxel joins: its ball has the nearest surface.

    Dijkstra's algorithm with a bucket queue. Voxels join in order of their distance, and only next
    to a voxel that has joined already, so every label is connected. Distances are in a space bent
    by `warp` (Z, Y, X, 3). The volume has a rim of one voxel, which is never FREE.
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
