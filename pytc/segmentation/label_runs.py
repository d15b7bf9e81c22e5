"""The components of one slab of planes, by one thread: runs along x, and union-find.

A run is a stretch of voxels along x that true edges join. All its voxels point at one root. Two
roots are united only where one run meets another across an edge along y or z:

    row y - 1    1--1--1  .  2--2          runs 1 and 2 meet row y in one run: the first true edge
                    |        |             hands it the root 1, the second unites 1 and 2
    row y        .  1--1--1--1  .

The union-find forest (union_find.py) lies in the label array itself: a voxel points at an earlier
voxel of its component, by index + 1. A last pass turns roots into numbers in raster order. Cost:
two passes over the slab. Plain form: `plain.flood_fill`.

Sources: He, Chao and Suzuki, "A run-based two-scan labeling algorithm" (2008); the union-find
is that of Rosenfeld and Pfaltz, "Sequential operations in digital picture processing" (1966).
"""

import numpy as np

from pytc.segmentation.compiled import compiled
from pytc.segmentation.edges import Ranges, edge_flags
from pytc.segmentation.union_find import unite

FLAG_BYTES = 1 << 18  # edge flags made at once: they stay in a core's cache until they are used
X_EDGE = 4  # the edge flag of a voxel for the next voxel along x
FOREGROUND, STARTS_RUN, JOINS_Y, JOINS_Z = 1, 2, 4, 8  # event bits of a voxel (`_find_events`)


def label_slab(
    edges: np.ndarray,
    ranges: Ranges,
    start: int,
    stop: int,
    labels: np.ndarray,
    shared: np.ndarray | None = None,
) -> int:
    """Fills `labels` (stop - start, Y, X) with the components of these planes, numbered from 1.

    Edges to the planes before and after make a voxel foreground, and join nothing.

    Args:
        edges: (3, Z, Y, X) as `comparable` gives them.
        ranges: as `ranges_above` gives them.
        shared: (labels.size + 1,) bool. If given, a voxel without an edge is a component too, not
            0, and shared[n] becomes whether component n has two voxels or more.

    Returns:
        The number of components.
    """
    if labels.size == 0:
        return 0
    with_lone_voxels = shared is not None
    if shared is None:
        shared = np.empty(labels.size + 1, np.bool_)
    step = max(1, FLAG_BYTES // labels[0].size)
    flags = np.zeros((step + 1, *labels.shape[1:]), np.uint8)  # plane 0: the one before
    if start > 0:
        edge_flags(edges, ranges, start - 1, start, flags[:1])
    events = np.empty(labels.shape[2], np.uint8)
    for z in range(start, stop, step):
        planes = min(step, stop - z)
        edge_flags(edges, ranges, z, z + planes, flags[1 : planes + 1])
        runs_are_long = _are_runs_long(flags[1 : planes + 1])
        _link_runs(flags[: planes + 1], labels, z - start, with_lone_voxels, runs_are_long, events)
        flags[0] = flags[planes]
    return _number_roots(labels.ravel(), shared)


def _are_runs_long(flags: np.ndarray) -> bool:
    """Whether more than two thirds of a sample of voxels have an edge along x."""
    sample = flags[:, ::16] & X_EDGE
    return bool(3 * np.count_nonzero(sample) > 2 * sample.size)


@compiled
def _find_events(
    flags: np.ndarray, z: int, y: int, joins_plane_before: bool, events: np.ndarray
) -> None:
    """Writes the event bits of each voxel of a row, from the edge flags of it and its neighbours.

    FOREGROUND: it has an edge. STARTS_RUN: it has one, but none to the voxel before along x.
    JOINS_Y, JOINS_Z: it has an edge to the voxel before along y, along z, across which two runs are
    to be united. That is left out where the other three edges of a square are true, as those voxels
    are joined already:

        o-----o    y - 1
        |     :             the edge on the right joins nothing new
        o-----o    y
    """
    here, before = flags[z, y], flags[z - 1, y]
    above, above_before = flags[z, max(y - 1, 0)], flags[z - 1, max(y - 1, 0)]
    inner = np.uint8(y > 0)
    inner_z = np.uint8(joins_plane_before)
    one = np.uint8(1)
    for x in range(len(events)):
        left = max(x - 1, 0)
        has_left = np.uint8(x > 0)
        run = (here[left] >> np.uint8(2)) & has_left
        to_y = (above[x] >> one) & inner
        to_z = before[x] & one
        square_xy = run & (above[left] >> np.uint8(2)) & (above[left] >> one)
        square_xz = run & (before[left] >> np.uint8(2)) & before[left]
        square_yz = to_y & (above_before[x] >> one) & above_before[x]
        foreground = np.uint8(here[x] != 0) | run | to_y | to_z
        events[x] = (
            foreground
            | ((foreground & ~run & one) << one)
            | ((to_y & ~square_xy & one) << np.uint8(2))
            | ((to_z & ~square_xz & ~square_yz & inner_z & one) << np.uint8(3))
        )


@compiled
def _link_runs(
    flags: np.ndarray,
    labels: np.ndarray,
    start: int,
    with_lone_voxels: bool,
    runs_are_long: bool,
    events: np.ndarray,
) -> None:
    """Points every voxel of the planes from `start` on at an earlier one of its component.

    A pointer is the index of that voxel + 1. Where runs are long, a voxel within one is passed over
    by a branch, which the processor predicts well. Where they are short it would fail too often:
    values are then chosen without a branch.
    """
    parents = labels.ravel()
    _, height, width = labels.shape
    nothing = labels.dtype.type(0)
    passed_over = np.uint8(FOREGROUND) if runs_are_long else np.uint8(255)  # 255: never
    for z in range(start, start + flags.shape[0] - 1):
        for y in range(height):
            _find_events(flags, z - start + 1, y, z > 0, events)
            offset = (z * height + y) * width
            row = parents[offset:]
            above = parents[max(offset - width, 0) :]
            before = parents[max(offset - height * width, 0) :]
            root = nothing
            for x in range(width):
                event = events[x]
                if event == passed_over:
                    row[x] = root
                    continue
                own = labels.dtype.type(offset + x + 1)
                in_y = above[x]
                in_z = before[x]
                to_y = event & JOINS_Y != 0
                to_z = event & JOINS_Z != 0
                if event & STARTS_RUN:
                    first = in_z if to_z else own
                    root = in_y if to_y else first
                lone = own if with_lone_voxels else nothing
                row[x] = root if event else lone
                if (to_y & (in_y != root)) | (to_z & (in_z != root)):  # seldom
                    if to_y:
                        root, _ = unite(parents, root, in_y)
                    if to_z:
                        root, _ = unite(parents, root, in_z)


@compiled
def _number_roots(labels: np.ndarray, shared: np.ndarray) -> int:
    """Turns pointers at earlier voxels into numbers from 1 in raster order, in place.

    A pointer's target has its number already. shared (labels.size + 1,) becomes, of each number,
    whether two voxels or more have it. Returns the number of roots.
    """
    count = 0
    for i in range(len(labels)):  # without a branch that could be mispredicted
        pointer = labels[i]
        is_root = pointer == i + 1
        count += is_root
        number = labels[max(np.int64(pointer), np.int64(1)) - 1] * labels.dtype.type(pointer > 0)
        number = labels.dtype.type(count) if is_root else number
        labels[i] = number
        shared[number] = not is_root
    return count
