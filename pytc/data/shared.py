"""Volumes decoded once a node into memory without a name (memfd), which the loaders of all its ranks map.

The kernel frees it with the process that decoded, however that ends: there is nothing to clean up. Linux only.
"""

from __future__ import annotations

import math
import os
import weakref
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from pytc import hardware
from pytc.data.sources import Source
from pytc.io.stores import open_npy
from pytc.io.volume import Volume

SLAB = 64  # slices decoded at once


def shared_sources(sources: list[Source], once_a_node: Callable[[Callable[[], list]], list]) -> list[Source]:
    """The same volumes, in memory that the ranks of a node share: an image in its own dtype, so that no sample
    changes, labels and masks in the smallest integer dtype that holds them.

    once_a_node(make) returns what make() does on one rank of the node, on all of them. ValueError if they do not fit.
    """
    decoded, shared = [], []

    def make() -> list:
        decoded.extend(_decode_all(sources))
        return decoded

    places = once_a_node(make)
    for source, of_source in zip(sources, places):
        spatial = source.image.axes.replace("c", "")
        parts = {name: Volume(open_npy(Path(f"/proc/{process}/fd/{file}")), source.parts[name].path,
                              "c" + spatial if name == "image" else spatial, source.image.voxel_size)
                 for name, (process, file) in of_source.items()}  # fmt: skip
        for name, (_, file) in of_source.items() if decoded else ():
            weakref.finalize(parts[name], os.close, file)
        shared.append(replace(source, **parts))
    return shared


def _decode_all(sources: list[Source]) -> list[dict[str, tuple[int, int]]]:
    """(process, file descriptor) of each part of each volume, as .npy."""
    if not hasattr(os, "memfd_create"):
        raise ValueError("expected Linux for data.cache 'memory', got another system; take 'none'")
    dtypes = {id(v): _smallest_dtype(v, name) for source in sources for name, v in source.parts.items()}
    volumes = [volume for source in sources for volume in source.parts.values()]
    needed, free = sum(math.prod(v.shape) * dtypes[id(v)].itemsize for v in volumes), hardware.memory()[1]
    if needed > free:
        raise ValueError(f"expected volumes that fit into the {free / 2**30:.2f} GiB of memory that this process may "
                         f"still take, got {needed / 2**30:.2f} GiB; train with --data.cache none")  # fmt: skip
    return [{name: (os.getpid(), _decode(v, dtypes[id(v)], name)) for name, v in source.parts.items()}
            for source in sources]  # fmt: skip


def _decode(volume: Volume, dtype: np.dtype, name: str) -> int:
    print(f"decoding into memory: {volume.path}", flush=True)
    file = os.memfd_create(volume.path[-200:])
    shape = (volume.n_channels, *volume.spatial_shape) if name == "image" else volume.spatial_shape
    array = np.lib.format.open_memmap(f"/proc/self/fd/{file}", "w+", dtype, shape)
    for start, block in _slabs(volume):
        array[..., start : start + block.shape[1], :, :] = block
    return file


def _slabs(volume: Volume) -> Iterator[tuple[int, np.ndarray]]:
    """(first slice, (C, Z, Y, X)) of the slabs of a volume."""
    depth, *plane = volume.spatial_shape
    volume.keep_decoded(2 * SLAB * volume.n_channels * math.prod(plane) * volume.dtype.itemsize)
    for start in range(0, depth, SLAB):
        yield start, volume.read((start, 0, 0), (min(start + SLAB, depth), *plane))


def _smallest_dtype(volume: Volume, name: str) -> np.dtype:
    if name == "image" or volume.dtype.itemsize == 1:
        return volume.dtype
    extremes = [int(extreme) for _, block in _slabs(volume) for extreme in (block.min(), block.max())]
    kinds = map(np.dtype, ("i1", "i2", "i4", "i8") if min(extremes) < 0 else ("u1", "u2", "u4", "u8"))
    return next(k for k in kinds if np.iinfo(k).min <= min(extremes) and max(extremes) <= np.iinfo(k).max)
