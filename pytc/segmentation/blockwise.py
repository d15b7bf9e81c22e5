"""Segmentation of volumes larger than memory, slab by slab.

It is equal to that of the whole, bit for bit.
"""

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import numpy as np
import psutil

from pytc.checks import require
from pytc.config import Lengths, SegmentationConfig
from pytc.io.chunked import is_zarr
from pytc.io.volume import CHUNK, Volume, create_volume
from pytc.progress import Progress, track
from pytc.runs import replacing
from pytc.segmentation.agglomeration import fragment_settings
from pytc.segmentation.connected_components import label_planes
from pytc.segmentation.decode import (
    Offsets,
    channels_to_read,
    decode,
    merge_tree,
    method_of,
    settings_of,
)
from pytc.segmentation.edges import check_dtype, comparable, edge_flags, label_dtype, ranges_above
from pytc.segmentation.label_tables import component_sizes, final_numbers, join_face, relabel
from pytc.segmentation.stored_tree import read_tree, write_tree


def segment_volume(
    affinities: Volume, output: str | Path, config: SegmentationConfig, *, planes: int | None = None
) -> None:
    """Segments a stored affinity volume into a new label volume, (Z, Y, X) uint32 or uint64.

    An older one is replaced.

    affinities: with channels, and with the attribute offsets. planes: along the first axis, held in
    memory at once; by default as many as fit into half of the memory that is free. The result does
    not depend on it. ValueError if there are no offsets, or one slab does not hold the volume and
    config.method has no exact form by slabs. The output appears under its name when it is whole.
    """
    offsets = affinities.offsets
    if offsets is None or "c" not in affinities.axes:
        raise ValueError(
            f"expected affinities with channels and the attribute offsets, got {affinities!r}"
        )
    check_dtype(affinities.dtype)
    channels = channels_to_read(affinities.n_channels, offsets, config)
    length = affinities.spatial_shape[0]
    if planes is None:
        planes = fitting_planes(affinities.spatial_shape, affinities.dtype, len(channels), config)
    _require_in_memory(affinities.spatial_shape, planes, config)

    output = Path(output)
    # a single file appears when it is whole; so a Zarr array is renamed when it is whole
    whole: AbstractContextManager[Path] = nullcontext(output)
    if any(part.endswith(".zarr") for part in output.parts):
        whole = replacing(output)
        replaceable = not output.exists() or is_zarr(output)
        require(
            replaceable, f"nothing at {output} but an array to replace", "what is not a Zarr array"
        )
    with (
        whole as path,
        create_volume(
            path,
            affinities.spatial_shape,
            label_dtype(affinities.spatial_shape),
            axes=affinities.axes.replace("c", ""),
            voxel_size=affinities.voxel_size,
            attributes=settings_of(config),
            overwrite=True,
        ) as labels,
    ):
        if planes >= length:
            _segment_whole(affinities, offsets, config, labels)
        else:
            _component_slabs(affinities, channels, config, planes, labels)


def fitting_planes(
    shape: Sequence[int], dtype: np.dtype, n_channels: int, config: SegmentationConfig
) -> int:
    """Planes of affinities (Z, Y, X) that half of the free memory can segment, at least 1."""
    voxel = n_channels * np.dtype(dtype).itemsize + np.dtype(label_dtype(shape)).itemsize
    voxel += method_of(config).memory
    plane = voxel * math.prod(shape[1:])
    planes = max(1, int(psutil.virtual_memory().available) // 2 // plane)
    # slabs of whole chunks, as create_volume makes them, are read and written fastest
    if planes >= shape[0] or planes < CHUNK:
        return planes
    return planes - planes % CHUNK


def require_segmentable(
    shape: Sequence[int],
    dtype: np.dtype,
    offsets: Offsets,
    config: SegmentationConfig,
    voxel_size: Lengths | None,
) -> None:
    """ValueError, before a prediction, unless config.method can segment it on this machine.

    Args:
        shape, dtype: of the affinities, one channel of (Z, Y, X) for each of the offsets.
        voxel_size: nm along z, y, x; None for voxels of equal sides.
    """
    channels = channels_to_read(len(offsets), offsets, config)
    if method_of(config).tree is not None:
        fragment_settings(config, voxel_size)  # fit, or are refused
    planes = fitting_planes(shape, dtype, len(channels), config)
    _require_in_memory(shape, planes, config)


def _require_in_memory(shape: Sequence[int], planes: int, config: SegmentationConfig) -> None:
    """ValueError unless all planes are in memory at once, or the method works by slabs."""
    require(
        planes >= shape[0] or method_of(config).by_slabs,
        "a volume that fits into memory, or --segmentation.method components",
        f"{planes} of {shape[0]} planes for {config.method}",
    )


def _segment_whole(
    affinities: Volume, offsets: Offsets, config: SegmentationConfig, labels: Volume
) -> None:
    """Segment a volume that fits into memory; offsets: of each of its channels."""
    channels = channels_to_read(affinities.n_channels, offsets, config)
    offsets = [offsets[channel] for channel in channels]
    made = None
    if method_of(config).tree is not None:
        made = read_tree(affinities, offsets, config, affinities.voxel_size)
    with Progress("segmenting", "steps", 3) as progress:
        if made is None:
            values = affinities.read_channels(channels)
            progress.show(1, "read")
            made = merge_tree(values, offsets, config, affinities.voxel_size)
            if made is not None:
                write_tree(made, affinities, offsets, config, affinities.voxel_size)
        if made is None:
            segmentation = decode(values, offsets, config, affinities.voxel_size)
        else:
            segmentation = made.segmentation(config.threshold, min_size=config.min_size)
        progress.show(2, config.method)
        labels[...] = segmentation
        progress.show(3, "written")


def _component_slabs(
    affinities: Volume, channels: list[int], config: SegmentationConfig, planes: int, labels: Volume
) -> None:
    """Label each slab on its own, then join labels that meet at faces between slabs.

    Last, the final numbers are written.
    """
    length, *plane = affinities.spatial_shape
    slabs = [(start, min(start + planes, length)) for start in range(0, length, planes)]
    ranges = ranges_above(config.threshold, affinities.dtype)
    first = [0]  # numbers of a slab begin at first + 1
    sizes = [np.zeros(1, np.int64)]
    parents = np.zeros(1, labels.dtype)
    # of the plane before the slab
    last_values: np.ndarray = np.empty((3, *plane), affinities.dtype)
    last_labels: np.ndarray = np.empty(plane, labels.dtype)
    for start, stop in track(slabs, "components", "slabs"):
        # planes beyond the slab; the one after is never read
        before = int(start > 0)
        after = int(stop < length)
        values = np.empty((3, before + stop - start + after, *plane), affinities.dtype)
        inside = slice(before, before + stop - start)
        affinities.read_channels(channels, slice(start, stop), values[:, inside])
        if before:
            values[:, 0] = last_values
        slab = np.empty((stop - start, *plane), labels.dtype)
        count = label_planes(comparable(values), ranges, inside.start, inside.stop, slab)
        parents = np.append(
            parents, np.arange(len(parents), len(parents) + count, dtype=parents.dtype)
        )
        if before:
            flags = np.empty((1, *plane), np.uint8)
            edge_flags(comparable(values), ranges, 0, 1, flags)
            join_face(flags[0], last_labels, slab[0], first[-2], first[-1], parents)
        if config.min_size > 1:
            sizes.append(component_sizes(slab, count)[1:])
        first.append(first[-1] + count)
        last_values[...] = values[:, inside.stop - 1]
        last_labels[...] = slab[-1]
        labels[start:stop] = slab
    numbers = final_numbers(
        parents, np.concatenate(sizes) if config.min_size > 1 else sizes[0][:0], config.min_size
    )
    for (start, stop), n in zip(track(slabs, "numbering", "slabs"), first):
        slab = labels[start:stop]
        relabel(slab.ravel(), numbers[n:])
        labels[start:stop] = slab
