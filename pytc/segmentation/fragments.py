"""Fragments (supervoxels): small pieces of which a neuron is put together by agglomeration.

              block                        Fragments are made block by block on a fixed grid, in
      +---------+---------+                memory too. A block is read with a halo, so that seeds at
      |  a  :   |   :  d  |                its faces are found as in the whole; what is kept ends at
      |.....:...|...:.....|  halo          the face. An object that a face cuts is joined again by
      |  b  :   |   :  e  |                the merges. So no number of threads, no machine and no
      +---------+---------+                order of blocks changes a bit.

In each block: seeds, which are connected components above a high threshold or peaks of the distance
to a membrane, then a seeded watershed that gives every other voxel to one of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import ndimage

from pytc.checks import require
from pytc.geometry import Box, blocks
from pytc.segmentation.compiled import compiled, thread_count
from pytc.segmentation.connected_components import label_planes
from pytc.segmentation.edges import (
    check_affinities,
    comparable,
    is_above,
    label_dtype,
    ranges_above,
)
from pytc.segmentation.watershed import flood, seeded_watershed

Shape = tuple[int, int, int]
Seeds = Literal["components", "distance_peaks"]


@dataclass(frozen=True)
class FragmentSettings:
    """How fragments are made; all of it changes the result, and is stored with it."""

    seeds: Seeds = "components"
    threshold: float = 0.8  # components: affinities above it join; peaks: above it is inside
    min_size: int = 20  # voxels of a seed; smaller components are flooded from others
    smoothing: float = 2.0  # distance_peaks: standard deviation of the Gaussian, in voxels
    block: Shape = (128, 128, 128)  # the fixed grid, in voxels
    halo: Shape = (16, 16, 16)  # voxels read around a block
    sections: int | None = None  # distance_peaks: the axis of thick sections, each on its own


@dataclass(frozen=True)
class Fragments:
    """Fragments numbered 1 .. N, block by block, in each block in raster order of first voxels."""

    labels: np.ndarray  # (Z, Y, X) uint32, or uint64 from 2^32 voxels on; 0 = background
    sizes: np.ndarray  # (N + 1,) int64: voxels of each
    first_voxels: np.ndarray  # (N + 1,) int64: raster index of each one's first voxel


def make_fragments(
    affinities: np.ndarray, settings: FragmentSettings, *, threads: int | None = None
) -> Fragments:
    """Cuts a volume into fragments.

    Args:
        affinities: (3 or more, Z, Y, X) float16, float32, float64, or uint8 for value / 255;
            channels 0, 1, 2 are the edges to the next voxel along z, y, x.
        settings: how; the result does not depend on `threads`, all of Numba's by default.

    Raises:
        ValueError: if the affinities do not fit, or the settings are impossible.
    """
    check_affinities(affinities)
    require(min(settings.block) > 0, "a fragment block of 1 voxel or more", settings.block)
    require(min(settings.halo) >= 0, "a fragment halo of 0 voxels or more", settings.halo)
    shape = affinities.shape[1:]
    labels: np.ndarray = np.empty(shape, label_dtype(shape))
    grid = blocks(shape, settings.block)
    threads = threads or thread_count()
    per_block = max(1, threads // max(1, len(grid)))

    def fill(box: Box) -> tuple[np.ndarray, np.ndarray]:
        region = box.grown(settings.halo, settings.halo, shape)
        inside = box.seen_from(region)
        values = affinities[(slice(0, 3), *region.slices)]
        part = fragments_of_block(values, inside, settings, threads=per_block)
        sizes, first_voxels = measure(part, box, shape)
        labels[box.slices] = part
        return sizes, first_voxels

    with ThreadPoolExecutor(threads) as pool:
        measured = list(pool.map(fill, grid))
        before = np.cumsum([0, *(len(sizes) - 1 for sizes, _ in measured)])
        list(pool.map(lambda box, n: _raise(labels[box.slices], n), grid, before))
    background = sum(int(sizes[0]) for sizes, _ in measured)
    return Fragments(
        labels,
        np.concatenate([[background], *(sizes[1:] for sizes, _ in measured)]).astype(np.int64),
        np.concatenate([[0], *(first[1:] for _, first in measured)]).astype(np.int64),
    )


def fragments_of_block(
    affinities: np.ndarray, inside: Box, settings: FragmentSettings, *, threads: int = 1
) -> np.ndarray:
    """Fragments of one block, numbered from 1 in raster order of their first voxels.

    Args:
        affinities: (3, Z, Y, X) of the block and its halo.
        inside: the block within them.
        threads: for this block; the result does not depend on it.

    Returns:
        Labels (*inside.shape) uint32.
    """
    if settings.seeds == "components":
        seeds = _components(affinities, settings, threads)
    else:
        seeds = _distance_peaks(affinities, settings)
    count = int(seeds.max(initial=0))
    _flood(seeds, affinities, settings.sections, threads)
    labels = np.ascontiguousarray(seeds[inside.slices])
    _number(labels.reshape(-1), np.zeros(count + 1, labels.dtype))
    return labels


def measure(labels: np.ndarray, box: Box, shape: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Sizes and first voxels of a block's labels 0 .. N.

    Args:
        labels: (*box.shape) unsigned integer.
        box: the block.
        shape: of the whole volume, in whose raster order first voxels are counted.

    Returns:
        (N + 1,) int64 each.
    """
    count = int(labels.max(initial=0))
    sizes = np.zeros(count + 1, np.int64)
    first = np.zeros(count + 1, np.int64)
    _measure(labels.reshape(-1), sizes, first)
    local = np.unravel_index(first, labels.shape)
    voxels = [axis + start for axis, start in zip(local, box.start)]
    return sizes, np.ravel_multi_index(voxels, shape)


def _flood(seeds: np.ndarray, affinities: np.ndarray, sections: int | None, threads: int) -> None:
    """Grows seeds by the seeded watershed, in place; with thick sections, each on its own."""
    if sections is None:
        flood(seeds, affinities, threads=threads)
        return
    for section in range(seeds.shape[sections]):
        inside: list[slice] = [slice(None)] * 3
        inside[sections] = slice(section, section + 1)
        seeds[tuple(inside)] = seeded_watershed(
            seeds[tuple(inside)], affinities[(slice(None), *inside)], threads=1
        )


def _components(affinities: np.ndarray, settings: FragmentSettings, threads: int) -> np.ndarray:
    """Connected components above the threshold that are not too small."""
    shape = affinities.shape[1:]
    seeds = np.empty(shape, np.uint32)
    label_planes(
        comparable(affinities),
        ranges_above(settings.threshold, affinities.dtype),
        0,
        shape[0],
        seeds,
        min_size=settings.min_size,
        threads=threads,
    )
    return seeds


def _distance_peaks(affinities: np.ndarray, settings: FragmentSettings) -> np.ndarray:
    """Seeds where the smoothed distance to the nearest membrane is largest.

    A voxel is inside where its weakest edge, in the axes that count, is above the threshold. Thick
    sections are treated each on its own.
    """
    axes = [axis for axis in range(3) if axis != settings.sections]
    is_inside = np.ones(affinities.shape[1:], bool)
    for axis in axes:
        above = np.moveaxis(is_above(affinities[axis], settings.threshold), axis, 0)[:-1]
        along = np.moveaxis(is_inside, axis, 0)
        along[:-1] &= above
        along[1:] &= above
    if settings.sections is None:
        parts = [is_inside]
    else:
        parts = list(np.moveaxis(is_inside, settings.sections, 0))

    seeds = np.zeros(is_inside.shape, np.uint32)
    to = [seeds] if settings.sections is None else np.moveaxis(seeds, settings.sections, 0)
    count = 0
    for part, out in zip(parts, to):
        distance = ndimage.distance_transform_edt(np.pad(part, 1, mode="edge"))
        distance = distance[tuple(slice(1, -1) for _ in range(part.ndim))]
        smooth = ndimage.gaussian_filter(distance, settings.smoothing)
        window = 2 * round(settings.smoothing) + 1
        is_peak = (smooth == ndimage.maximum_filter(smooth, window)) & (distance > 0)
        peaks, n_peaks = ndimage.label(is_peak, np.ones((3,) * part.ndim))
        out[...] = np.where(peaks > 0, peaks + count, 0)
        count += n_peaks
    return seeds


def _raise(labels: np.ndarray, by: int) -> None:
    """Adds a number to all labels but 0, in place."""
    np.add(labels, labels.dtype.type(by), out=labels, where=labels > 0)


@compiled
def _number(labels: np.ndarray, numbers: np.ndarray) -> None:
    """Renumbers labels as 1, 2, ... in the order in which they come, in place; numbers: all 0."""
    count = 0
    for i in range(len(labels)):
        label = labels[i]
        if label == 0:
            continue
        if numbers[label] == 0:
            count += 1
            numbers[label] = count
        labels[i] = numbers[label]


@compiled
def _measure(labels: np.ndarray, sizes: np.ndarray, first: np.ndarray) -> None:
    for i in range(len(labels)):
        label = labels[i]
        if sizes[label] == 0:
            first[label] = i
        sizes[label] += 1
