"""Affinities to instances: connected components by runs and union-find.

A run is a stretch of voxels along x that true edges join. All its voxels point at one root. Two
roots are united only where one run meets another across an edge along y or z:

    row y - 1    1--1--1  .  2--2          runs 1 and 2 meet row y in one run: the first true edge
                    |        |             hands it the root 1, the second unites 1 and 2
    row y        .  1--1--1--1  .

The union-find forest (union_find.py) lies in the label array itself: a voxel points at an earlier
voxel of its component, by index + 1. A last pass turns roots into numbers in raster order. Each
thread does this to a slab of planes; labels that meet at the faces between slabs are then united in
a small table. Roots are the earliest voxels, so slabs change no number. Cost: two passes over the
volume. Plain form: `plain.flood_fill`.

Sources: He, Chao and Suzuki, "A run-based two-scan labeling algorithm" (2008); the union-find
is that of Rosenfeld and Pfaltz, "Sequential operations in digital picture processing" (1966).
"""

import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from pytc.segmentation.compiled import compiled
from pytc.segmentation.edges import (
    Ranges,
    check_affinities,
    comparable,
    edge_flags,
    label_dtype,
    ranges_above,
    slabs_of,
)
from pytc.segmentation.union_find import unite

FLAG_BYTES = 1 << 18  # edge flags made at once: they stay in a core's cache until they are used
X_EDGE = 4  # the edge flag of a voxel for the next voxel along x
FOREGROUND, STARTS_RUN, JOINS_Y, JOINS_Z = 1, 2, 4, 8  # event bits of a voxel (`_find_events`)


def connected_components_3d(
    affinities: np.ndarray,
    threshold: float = 0.5,
    *,
    min_size: int = 0,
    mask: np.ndarray | None = None,
    threads: int | None = None,
) -> np.ndarray:
    """Components of voxels joined by affinities above a threshold.

    affinities (3 or more, Z, Y, X): channels 0, 1, 2 at v are the edges to v + (1, 0, 0),
    (0, 1, 0), (0, 0, 1), true where value > threshold, compared exactly; further channels are not
    read. float16, float32, float64, bool or an integer dtype; uint8 stands for value / 255, as
    predictions are stored. Any memory order; nothing is copied. mask (Z, Y, X) bool: voxels outside
    it have no edges.

    Returns labels (Z, Y, X) uint32 (uint64 above 2^32 - 1 voxels): 0 where a voxel has no true edge
    to any neighbour or its component has fewer than min_size voxels, otherwise 1, 2, ... in raster
    order of first voxels. A lone voxel whose only true edge leaves the volume is background. The
    result does not depend on `threads` (all of numba's by default). ValueError for other shapes,
    dtypes and kinds of arrays.

    >>> affinities = np.zeros((3, 1, 1, 4))
    >>> affinities[2, 0, 0] = [0.9, 0.2, 0.2, 0.9]  # the last one leaves the volume
    >>> connected_components_3d(affinities)
    array([[[1, 1, 0, 0]]], dtype=uint32)
    """
    check_affinities(affinities, integers=True)
    shape = affinities.shape[1:]
    if mask is not None and (mask.shape != shape or mask.dtype != np.bool_):
        raise ValueError(f"expected a bool mask of shape {shape}, got {mask.dtype} {mask.shape}")
    ranges = ranges_above(threshold, affinities.dtype)
    edges = comparable(affinities[:3])
    labels: np.ndarray = np.empty(shape, label_dtype(shape))
    count = label_planes(
        edges, ranges, 0, shape[0], labels, mask=mask, min_size=min_size, threads=threads
    )
    if count == 0 and edges.dtype == np.uint8 and affinities.dtype == np.uint8:
        _warn_of_zeros_and_ones(edges)
    return labels


def _warn_of_zeros_and_ones(edges: np.ndarray) -> None:
    """Tell whoever has stored decided edges as 0 and 1 why there is no component."""
    if edges.size > 0 and edges.max() == 1:
        warnings.warn(
            "no component found: uint8 affinities stand for value / 255, and none is above 1; "
            "pass bool where 1 means an edge",
            stacklevel=3,
        )


def affinities_to_segmentation(
    affinities: np.ndarray,
    threshold: float = 0.5,
    use_long_range: bool = False,
    *,
    offsets: Sequence[Sequence[int]] | None = None,
    min_size: int = 0,
    mask: np.ndarray | None = None,
    threads: int | None = None,
) -> np.ndarray:
    """Components of an affinity volume by its three short channels, those to the next voxels.

    affinities (3 or more, Z, Y, X): the short channels are the first three, or with offsets, one a
    channel, those of (1, 0, 0), (0, 1, 0) and (0, 0, 1). The rest as in `connected_components_3d`.
    Long channels never join voxels: use_long_range=True changes nothing, and warns. ValueError
    where the offsets do not fit the channels or lack one of the three.
    """
    check_affinities(affinities, integers=True)
    if use_long_range:
        warnings.warn("components are joined by short-range affinities alone", stacklevel=2)
    return connected_components_3d(
        short_range(affinities, offsets), threshold, min_size=min_size, mask=mask, threads=threads
    )


def short_range(affinities: np.ndarray, offsets: Sequence[Sequence[int]] | None) -> np.ndarray:
    """The channels of offsets (1, 0, 0), (0, 1, 0), (0, 0, 1), in this order, or the first three.

    It is a view where they stand in a row.
    """
    if offsets is None:
        return affinities[:3]
    channels = unit_channels(affinities.shape[0], offsets)
    first = channels[0]
    return (
        affinities[first : first + 3]
        if channels == [first, first + 1, first + 2]
        else affinities[channels]
    )


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


def label_planes(
    edges: np.ndarray,
    ranges: Ranges,
    start: int,
    stop: int,
    labels: np.ndarray,
    *,
    mask: np.ndarray | None = None,
    min_size: int = 0,
    threads: int | None = None,
) -> int:
    """Fills `labels` (stop - start, Y, X) with the components of these planes, numbered from 1.

    Returns how many. edges (3, Z, Y, X) as `comparable` gives them, ranges as `ranges_above`. Edges
    to the planes before and after make a voxel foreground, and join nothing.
    """
    assert labels.flags.c_contiguous
    if labels.size == 0:
        return 0
    bounds = slabs_of(stop - start, threads=threads)
    slabs = [labels[a:b] for a, b in bounds]

    def label(bound: tuple[int, int], slab: np.ndarray) -> int:
        return label_slab(edges, ranges, start + bound[0], start + bound[1], slab, mask=mask)

    with ThreadPoolExecutor(len(slabs)) as pool:
        counts = list(pool.map(label, bounds, slabs))
        before = np.cumsum([0, *counts])  # how many labels the slabs before have
        parents = np.arange(before[-1] + 1, dtype=labels.dtype)
        flags = np.empty((1, *labels.shape[1:]), np.uint8)
        for i in range(1, len(slabs)):
            last_plane = start + bounds[i][0] - 1
            edge_flags(edges, ranges, last_plane, last_plane + 1, mask, flags)
            join_face(flags[0], slabs[i - 1][-1], slabs[i][0], before[i - 1], before[i], parents)

        sizes = np.zeros(0, np.int64)
        if min_size > 1:
            of_slabs = pool.map(component_sizes, slabs, counts)
            sizes = np.concatenate([[0], *(of_slab[1:] for of_slab in of_slabs)])
        numbers = final_numbers(parents, sizes, min_size)

        def number(slab: np.ndarray, first: int) -> None:
            relabel(slab.ravel(), numbers[first:])

        list(pool.map(number, slabs, before[:-1]))
    return int(numbers.max())


def label_slab(
    edges: np.ndarray,
    ranges: Ranges,
    start: int,
    stop: int,
    labels: np.ndarray,
    shared: np.ndarray | None = None,
    *,
    mask: np.ndarray | None = None,
) -> int:
    """The same by one thread, without a size limit.

    shared (labels.size + 1,) bool: if given, a voxel without an edge is a component too, not 0, and
    shared[n] becomes whether component n has two voxels or more.
    """
    if labels.size == 0:
        return 0
    with_lone_voxels = shared is not None
    if shared is None:
        shared = np.empty(labels.size + 1, np.bool_)
    step = max(1, FLAG_BYTES // labels[0].size)
    flags = np.zeros((step + 1, *labels.shape[1:]), np.uint8)  # plane 0: the one before
    if start > 0:
        edge_flags(edges, ranges, start - 1, start, mask, flags[:1])
    events = np.empty(labels.shape[2], np.uint8)
    for z in range(start, stop, step):
        planes = min(step, stop - z)
        edge_flags(edges, ranges, z, z + planes, mask, flags[1 : planes + 1])
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


@compiled
def join_face(
    flags: np.ndarray,
    before: np.ndarray,
    after: np.ndarray,
    first_before: int,
    first_after: int,
    parents: np.ndarray,
) -> None:
    """Unites components across the face of two slabs, where `flags` (Y, X) has an edge along z.

    before, after (Y, X): labels on either side, numbered within their slabs. In the table `parents`
    they begin behind first_before and first_after.
    """
    for y in range(flags.shape[0]):
        joined = (np.int64(0), np.int64(0))
        for x in range(flags.shape[1]):
            pair = (first_before + np.int64(before[y, x]), first_after + np.int64(after[y, x]))
            if flags[y, x] & 1 and pair != joined:
                joined = pair
                unite(parents[1:], parents.dtype.type(pair[0]), parents.dtype.type(pair[1]))


def component_sizes(labels: np.ndarray, count: int) -> np.ndarray:
    """Voxels of each label 0 .. count, int64."""
    return _count(labels.ravel(), np.zeros(count + 1, np.int64))


@compiled
def _count(labels: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    last, run = labels.dtype.type(0), 0
    for label in labels:
        if label != last:
            sizes[last] += run
            last, run = label, 0
        run += 1
    sizes[last] += run
    return sizes


@compiled
def final_numbers(parents: np.ndarray, sizes: np.ndarray, min_size: int) -> np.ndarray:
    """The final label of each entry: roots are numbered from 1 in their order.

    Those of fewer than min_size voxels get 0. parents: entry 0 is the background, and none points
    at a later one; overwritten. sizes: voxels of each entry, overwritten; or empty for no limit.
    """
    for i in range(1, len(parents)):
        parents[i] = parents[parents[i]]
        if len(sizes) and parents[i] != i:
            sizes[parents[i]] += sizes[i]
    numbers = np.zeros_like(parents)
    count = 0
    for i in range(1, len(parents)):
        if parents[i] != i:
            numbers[i] = numbers[parents[i]]
        elif len(sizes) == 0 or sizes[i] >= min_size:
            count += 1
            numbers[i] = count
    return numbers


@compiled
def relabel(labels: np.ndarray, table: np.ndarray) -> None:
    """Replaces each label by its entry in the table, in place; 0 stays."""
    last = number = labels.dtype.type(0)
    for i in range(len(labels)):
        if labels[i] != last:
            last = labels[i]
            number = table[last] if last > 0 else last
        labels[i] = number
