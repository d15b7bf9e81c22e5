"""Volumes decoded once per node, into memory that the loaders of all its ranks map.

The memory is a file without a name (memfd). The kernel frees it when the process that decoded it
ends, however it ends, so there is nothing to clean up. Linux only.
"""

import logging
import math
import os
import weakref
from collections.abc import Callable
from pathlib import Path

import numpy as np

from pytc import hardware
from pytc.checks import require
from pytc.data.sources import Source
from pytc.io.stores import open_npy
from pytc.io.volume import CHUNK, Volume

LOGGER = logging.getLogger(__name__)

OnceANode = Callable[[Callable[[], list[Path]]], list[Path]]


def shared_sources(sources: list[Source], once_a_node: OnceANode | None) -> list[Source]:
    """Decode all volumes of the sources into memory that the ranks of a node share.

    Args:
        sources: opened volumes.
        once_a_node: calls a function on one rank of the node, and returns its result on all of them
            (`Ranks.once_a_node`). None: there is one rank only.

    Returns:
        The same sources; their volumes read from that memory.

    Raises:
        ValueError: the volumes do not fit into the free memory.
    """
    volumes = [volume for source in sources for volume in source.parts.values()]
    descriptors: list[int] = []  # stays empty on a rank that does not decode

    def decode() -> list[Path]:
        descriptors.extend(decode_all(volumes))
        return [Path(f"/proc/{os.getpid()}/fd/{descriptor}") for descriptor in descriptors]

    paths = decode() if once_a_node is None else once_a_node(decode)
    mapped = [map_decoded(volume, path) for volume, path in zip(volumes, paths)]
    for volume, descriptor in zip(mapped, descriptors):
        weakref.finalize(volume, os.close, descriptor)
    rest = iter(mapped)
    return [source.with_parts({name: next(rest) for name in source.parts}) for source in sources]


def decode_all(volumes: list[Volume]) -> list[int]:
    """Decode each volume into a file in memory; returns the file descriptors.

    ValueError if they do not fit into the free memory.
    """
    require(hasattr(os, "memfd_create"), "Linux for data.cache 'memory'", os.name)
    needed = sum(math.prod(volume.shape) * volume.dtype.itemsize for volume in volumes)
    _, free = hardware.memory()
    require(
        needed <= free,
        f"volumes that fit into the {free / 2**30:.2f} GiB of memory that are free, or "
        "--data.cache none",
        f"{needed / 2**30:.2f} GiB",
    )
    return [decode_one(volume) for volume in volumes]


def decode_one(volume: Volume) -> int:
    """Write ([C,] Z, Y, X) of a volume as .npy to a file in memory; returns the descriptor."""
    LOGGER.info(f"decoding into memory: {volume.path}")
    depth, height, width = volume.spatial_shape
    descriptor = os.memfd_create(volume.path[-200:])
    channels = (volume.n_channels,) if "c" in volume.axes else ()
    shape = channels + volume.spatial_shape
    array = np.lib.format.open_memmap(f"/proc/self/fd/{descriptor}", "w+", volume.dtype, shape)
    volume.keep_decoded(2 * CHUNK * array.nbytes // depth)
    for start in range(0, depth, CHUNK):
        stop = min(start + CHUNK, depth)
        array[..., start:stop, :, :] = volume.read((start, 0, 0), (stop, height, width))
    return descriptor


def map_decoded(volume: Volume, path: Path) -> Volume:
    """The same volume, read from the file in memory at `path`."""
    axes = f"c{volume.spatial_axes}" if "c" in volume.axes else volume.spatial_axes
    return Volume(open_npy(path), volume.path, axes, volume.voxel_size)
