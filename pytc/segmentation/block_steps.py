"""The steps of a decode by blocks, each a function of one block that can run on any machine.

    affinities --MakeFragments----> labels of blocks      --CountGraph--> fragments, graph
    affinities --LabelComponents--> labels of blocks, faces
    fragments or labels of blocks --WriteSegments--> segmentation

Labels of a block are numbered from 1 in each block. `first_numbers` says behind which number those
of each block begin in the whole volume.
"""

import functools
import math
import mmap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pytc.blocks import Result
from pytc.config import Triple
from pytc.geometry import Box, blocks
from pytc.io.volume import Volume
from pytc.segmentation.connected_components import label_planes
from pytc.segmentation.edges import comparable, is_above, ranges_above
from pytc.segmentation.fragments import FragmentSettings, fragments_of_block, measure
from pytc.segmentation.label_tables import relabel
from pytc.segmentation.region_graph import region_graph


@dataclass(frozen=True)
class MakeFragments:
    """Cuts one block into fragments.

    Writes their labels (uint32) into `labels`. Returns "sizes" and "first_voxels" of labels 0 .. N,
    as `measure` does.
    """

    affinities: Volume
    channels: Sequence[int]  # to the next voxel along z, y and x
    settings: FragmentSettings
    labels: Volume
    threads: int = 1

    def __call__(self, box: Box) -> Result:
        shape = self.affinities.spatial_shape
        region = box.grown(self.settings.halo, self.settings.halo, shape)
        values = self.affinities.read_box(region, self.channels)
        inside = box.seen_from(region)
        labels = fragments_of_block(values, inside, self.settings, threads=self.threads)
        self.labels[box.slices] = labels
        sizes, first_voxels = measure(labels, box, shape)
        return {"sizes": sizes, "first_voxels": first_voxels}


@dataclass(frozen=True)
class CountGraph:
    """Numbers the fragments of one block, and sums the affinities of edges that begin in it.

    Writes `fragments`. Returns the columns of its `RegionGraph`.
    """

    affinities: Volume
    channels: Sequence[int]
    offsets: Sequence[Sequence[int]]  # of these channels
    edge_weights: Sequence[int]
    labels: Volume  # as MakeFragments has written them
    block: Triple
    first_numbers: Path  # .npy
    fragments: Volume
    threads: int = 1

    def __call__(self, box: Box) -> Result:
        reach = [max(0, *along) for along in zip(*self.offsets)]
        region = box.grown((0, 0, 0), reach, self.labels.spatial_shape)
        fragments = self._numbered(region)
        inside = box.seen_from(region)
        self.fragments[box.slices] = fragments[inside.slices]
        graph = region_graph(
            fragments,
            self.affinities.read_box(box, self.channels),
            self.offsets,
            self.edge_weights,
            threads=self.threads,
        )
        return {"pairs": graph.pairs, "sums": graph.sums, "weights": graph.weights}

    def _numbered(self, region: Box) -> np.ndarray:
        """The fragments of a region, which may reach into other blocks."""
        first_numbers = read_table(self.first_numbers)
        shape = self.labels.spatial_shape
        grid = [-(-n // b) for n, b in zip(shape, self.block)]
        fragments: np.ndarray = np.empty(region.shape, self.fragments.dtype)
        for part in parts_of_blocks(region, self.block):
            index = [start // b for start, b in zip(part.start, self.block)]
            labels = self.labels[part.slices].astype(fragments.dtype)
            number = first_numbers[np.ravel_multi_index(index, grid)]
            np.add(labels, number, out=labels, where=labels > 0, casting="unsafe")
            fragments[part.seen_from(region).slices] = labels
        return fragments


class LabelsInMemory:
    """Labels (Z, Y, X) uint32 in the place of a stored volume of them, in one process.

    They are in small pages of memory, each taken when it is first written. NumPy asks for large
    ones; where memory is fragmented, finding hundreds of these at once takes seconds.
    """

    def __init__(self, shape: Triple) -> None:
        self.spatial_shape = shape
        memory = mmap.mmap(-1, max(1, 4 * math.prod(shape)))
        self.values = np.frombuffer(memory, np.uint32, math.prod(shape)).reshape(shape)

    def __getitem__(self, index: tuple[slice, ...]) -> np.ndarray:
        """A copy, as a read from a file is."""
        return self.values[index].copy()


@dataclass(frozen=True)
class LabelComponents:
    """Labels the connected components of one block, seen alone.

    Writes `labels` (uint32): a voxel without a true edge within the block is 0. Returns "sizes" and
    "first_voxels", as `measure` does, and for each axis a (0, 1, 2) along which another block
    follows or comes before: "low_a" and "high_a", the labels in the block's first and last plane
    across that axis, and "edge_a", which voxels of the last plane have a true edge to the next
    block.
    """

    affinities: Volume
    channels: Sequence[int]  # to the next voxel along z, y and x
    threshold: float
    labels: Volume | LabelsInMemory
    threads: int = 1

    def __call__(self, box: Box) -> Result:
        shape = self.affinities.spatial_shape
        values = self.affinities.read_box(box, self.channels)
        labels = self._labels_to_fill(box)
        ranges = ranges_above(self.threshold, values.dtype)
        label_planes(comparable(values), ranges, 0, len(labels), labels, threads=self.threads)
        if isinstance(self.labels, Volume):
            self.labels[box.slices] = labels
        sizes, first_voxels = measure(labels, box, shape)
        result: Result = {"sizes": sizes, "first_voxels": first_voxels}
        for axis in range(3):
            if box.start[axis] > 0:
                result[f"low_{axis}"] = labels.take(0, axis)
            if box.stop[axis] < shape[axis]:
                result[f"high_{axis}"] = labels.take(-1, axis)
                result[f"edge_{axis}"] = is_above(values[axis].take(-1, axis), self.threshold)
        return result

    def _labels_to_fill(self, box: Box) -> np.ndarray:
        if isinstance(self.labels, LabelsInMemory):
            return self.labels.values[box.slices]  # whole planes, filled where they lie
        return np.empty(box.shape, np.uint32)


@dataclass(frozen=True)
class WriteSegments:
    """Replaces the labels of one block by their segments, in `segmentation`."""

    labels: Volume | LabelsInMemory  # fragments, or labels of blocks
    # (N + 1,), in memory or .npy: the segment of each label of the whole volume
    segments: Path | np.ndarray
    segmentation: Volume
    block: Triple
    # in memory or .npy; None: labels are those of the whole volume
    first_numbers: Path | np.ndarray | None = None
    # in memory or .npz: "voxels", in rising raster order, that are in a segment without having a
    # label, and their "segments"
    more: Path | Result | None = None

    def __call__(self, box: Box) -> None:
        segments = table_of(self.segments)
        labels = self.labels[box.slices].astype(self.segmentation.dtype, copy=False)
        if self.first_numbers is not None:
            shape = self.labels.spatial_shape
            grid = [-(-n // b) for n, b in zip(shape, self.block)]
            index = [start // b for start, b in zip(box.start, self.block)]
            first = int(table_of(self.first_numbers)[np.ravel_multi_index(index, grid)])
            segments = segments[first:]
        relabel(labels.reshape(-1), segments)
        if self.more is not None:
            self._add_voxels(labels, box)
        self.segmentation[box.slices] = labels

    def _add_voxels(self, labels: np.ndarray, box: Box) -> None:
        assert self.more is not None
        more = self.more
        if isinstance(more, Path):
            with np.load(more) as stored:
                more = dict(stored)
        voxels, segments = more["voxels"], more["segments"]
        shape = self.labels.spatial_shape
        plane = math.prod(shape[1:])
        some = slice(*np.searchsorted(voxels, [box.start[0] * plane, box.stop[0] * plane]))
        places = np.unravel_index(voxels[some], shape)
        inside = np.ones(len(voxels[some]), bool)
        for along, start, stop in zip(places, box.start, box.stop):
            inside &= (along >= start) & (along < stop)
        here = tuple(along[inside] - start for along, start in zip(places, box.start))
        labels[here] = segments[some][inside]


def parts_of_blocks(region: Box, block: Sequence[int]) -> list[Box]:
    """The region, cut where blocks of a grid meet."""
    origin = tuple(start - start % b for start, b in zip(region.start, block))
    covered = tuple(stop - start for start, stop in zip(origin, region.stop))
    parts = (box.moved(origin).intersection(region) for box in blocks(covered, tuple(block)))
    return [part for part in parts if part is not None]


def table_of(table: Path | np.ndarray) -> np.ndarray:
    """A table in memory or in a file, see `read_table`."""
    return table if isinstance(table, np.ndarray) else read_table(table)


@functools.lru_cache(maxsize=4)
def read_table(path: Path) -> np.ndarray:
    """A table that all blocks look up, mapped into memory: each page is read when it is needed.

    The file must not change: it is opened once in each process.
    """
    return np.asarray(np.load(path, mmap_mode="c"))
