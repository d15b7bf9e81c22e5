"""Segmentation of volumes larger than memory, slab by slab.

It is equal to that of the whole, bit for bit.
"""

from contextlib import nullcontext
from pathlib import Path

import numpy as np
import psutil

from pytc.config import SegmentationConfig, require
from pytc.io.stores import is_zarr
from pytc.io.volume import Volume, create_volume
from pytc.progress import track
from pytc.runs import replacing
from pytc.segmentation.connected_components import (
    component_sizes,
    connected_components_3d,
    final_numbers,
    join_face,
    label_planes,
    relabel,
    unit_channels,
)
from pytc.segmentation.edges import check_dtype, comparable, edge_flags, label_dtype, ranges_above
from pytc.segmentation.growing import grow

# planes: slabs of whole chunks, as create_volume makes them, are read and written fastest
ALIGNMENT = 64


def segment_volume(
    affinities: Volume, output: str | Path, config: SegmentationConfig, *, planes: int | None = None
) -> None:
    """Segment a stored affinity volume into a new label volume, (Z, Y, X) uint32 or uint64.

    An older one is replaced.

    affinities: with channels, and with the attribute offsets. planes: along the first axis, held in
    memory at once; by default as many as fit into half of the memory that is free. The result does
    not depend on it. ValueError if there are no offsets, or config.grow is on and one slab does not
    hold the volume (growing has no exact form by slabs). The output appears under its name when it
    is whole.
    """
    stated = affinities.offsets is not None and "c" in affinities.axes
    require(stated, "affinities with channels and the attribute offsets", affinities)
    check_dtype(affinities.dtype)
    channels = unit_channels(affinities.n_channels, affinities.offsets)
    length = affinities.spatial_shape[0]
    planes = _fitting_planes(affinities, config.grow) if planes is None else planes
    fits = planes >= length or not config.grow
    require(
        fits,
        "a volume that fits into memory, or grow off",
        f"{planes} of {length} planes for growing",
    )

    output = Path(output)
    # single files appear when they are whole; a Zarr array takes its place then
    whole = nullcontext(output)
    if any(part.endswith(".zarr") for part in output.parts):
        whole = replacing(output)
        replaceable = not output.exists() or is_zarr(output)
        require(
            replaceable, f"nothing at {output} but an array to replace", "what is not a Zarr array"
        )
    attributes = {"threshold": config.threshold, "min_size": config.min_size, "grow": config.grow}
    with (
        whole as path,
        create_volume(
            path,
            affinities.spatial_shape,
            label_dtype(affinities.spatial_shape),
            axes=affinities.axes.replace("c", ""),
            voxel_size=affinities.voxel_size,
            attributes=attributes,
            overwrite=True,
        ) as labels,
    ):
        if planes >= length:
            values = affinities.read_channels(channels)
            segmentation = connected_components_3d(
                values, config.threshold, min_size=config.min_size
            )
            labels[...] = grow(segmentation, values) if config.grow else segmentation
        else:
            _segment_slabs(affinities, channels, config, planes, labels)


def _fitting_planes(affinities: Volume, growing: bool) -> int:
    voxel = 3 * affinities.dtype.itemsize + np.dtype(label_dtype(affinities.spatial_shape)).itemsize
    if growing:
        voxel += (
            52  # a copy of the labels, parents, flags, and three edges of 14 bytes a voxel at worst
        )
    plane = voxel * int(np.prod(affinities.spatial_shape[1:]))
    planes = max(1, psutil.virtual_memory().available // 2 // plane)
    return (
        planes
        if planes >= affinities.spatial_shape[0] or planes < ALIGNMENT
        else planes - planes % ALIGNMENT
    )


def _segment_slabs(
    affinities: Volume, channels: list[int], config: SegmentationConfig, planes: int, labels: Volume
) -> None:
    """Label each slab on its own, then join labels that meet at faces between slabs.

    Last, the final numbers are written.
    """
    length, *plane = affinities.spatial_shape
    slabs = [(start, min(start + planes, length)) for start in range(0, length, planes)]
    ranges = ranges_above(config.threshold, affinities.dtype)
    first, sizes = [0], [np.zeros(1, np.int64)]  # numbers of a slab begin at first + 1
    parents = np.zeros(1, labels.dtype)
    last_values = last_labels = None  # of the plane before the slab
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
            edge_flags(comparable(values), ranges, 0, 1, None, flags)
            join_face(flags[0], last_labels, slab[0], first[-2], first[-1], parents)
        if config.min_size > 1:
            sizes.append(component_sizes(slab, count)[1:])
        first.append(first[-1] + count)
        last_values, last_labels = values[:, inside.stop - 1].copy(), slab[-1].copy()
        labels[start:stop] = slab
    numbers = final_numbers(
        parents, np.concatenate(sizes) if config.min_size > 1 else sizes[0][:0], config.min_size
    )
    for (start, stop), n in zip(track(slabs, "numbering", "slabs"), first):
        slab = labels[start:stop]
        relabel(slab.ravel(), numbers[n:])
        labels[start:stop] = slab
