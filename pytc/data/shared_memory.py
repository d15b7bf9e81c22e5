"""Volumes decoded once a node into memory that the loaders of all its ranks map.

The memory has no name (memfd). The kernel frees it with the process that decoded, however that
ends: there is nothing to clean up. Linux only.
"""

import logging
import math
import os
import weakref
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from pytc import hardware
from pytc.checks import require
from pytc.data.sources import Source
from pytc.io.stores import open_npy
from pytc.io.volume import CHUNK, Volume

LOGGER = logging.getLogger(__name__)


def shared_sources(
    sources: list[Source], once_a_node: Callable[[Callable[[], list]], list] | None
) -> list[Source]:
    """The same volumes, in memory that the ranks of a node share.

    ValueError if they do not fit there. once_a_node(make) returns what make() does on one rank of
    the node, on all of them; None: there is but one.
    """
    files = []

    def make() -> list[tuple[int, int]]:
        """(process, file descriptor) of each volume, as .npy."""
        require(hasattr(os, "memfd_create"), "Linux for data.cache 'memory'", os.name)
        needed, free = (
            sum(math.prod(v.shape) * v.dtype.itemsize for v in volumes),
            hardware.memory()[1],
        )
        require(
            needed <= free,
            f"volumes that fit into the {free / 2**30:.2f} GiB of memory that are free, or "
            "--data.cache none",
            f"{needed / 2**30:.2f} GiB",
        )
        files.extend(map(_decode, volumes))
        return [(os.getpid(), file) for file in files]

    volumes, mapped = [volume for source in sources for volume in source.parts.values()], []
    for volume, (process, file) in zip(volumes, once_a_node(make) if once_a_node else make()):
        axes = "c" * ("c" in volume.axes) + volume.spatial_axes
        mapped.append(
            Volume(
                open_npy(Path(f"/proc/{process}/fd/{file}")), volume.path, axes, volume.voxel_size
            )
        )
        if files:
            weakref.finalize(mapped[-1], os.close, file)
    rest = iter(mapped)
    return [replace(source, **{name: next(rest) for name in source.parts}) for source in sources]


def _decode(volume: Volume) -> int:
    """The descriptor of a file in memory with the array ([C,] Z, Y, X) of a volume as .npy."""
    LOGGER.info(f"decoding into memory: {volume.path}")
    depth, *plane = volume.spatial_shape
    file = os.memfd_create(volume.path[-200:])
    shape = (volume.n_channels,) * ("c" in volume.axes) + volume.spatial_shape
    array = np.lib.format.open_memmap(f"/proc/self/fd/{file}", "w+", volume.dtype, shape)
    volume.keep_decoded(2 * CHUNK * array.nbytes // depth)
    for start in range(0, depth, CHUNK):
        stop = min(start + CHUNK, depth)
        array[..., start:stop, :, :] = volume.read((start, 0, 0), (stop, *plane))
    return file
