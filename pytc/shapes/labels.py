"""Reading labels block by block, for what is made of objects across blocks."""

from collections import Counter
from collections.abc import Iterator
from importlib import import_module
from types import ModuleType

import numpy as np

from pytc.checks import require
from pytc.config import Lengths, Triple
from pytc.geometry import Box, blocks
from pytc.io.labels import is_unlabelled
from pytc.io.volume import Volume, open_volume
from pytc.progress import Progress


def open_labels(
    path: str, axes: str | None, voxel_size: Lengths | None, transpose: str | None = None
) -> Volume:
    """A volume of integers with a voxel size, in stored axis order or in that of `transpose`."""
    volume = open_volume(path, axes=axes, voxel_size=voxel_size, transpose=transpose)
    is_labels = volume.dtype.kind in "iu" and "c" not in volume.axes
    require(is_labels, f"labels without channels in {path}", f"{volume.dtype} {volume.axes}")
    require(volume.voxel_size is not None, f"--voxel-size, as {path} has none", None)
    return volume


def read_blocks(
    volume: Volume, block: Triple, sizes: Counter[int], what: str
) -> Iterator[tuple[Box, np.ndarray]]:
    """Each block with one voxel of the next ones along each axis, where pieces of objects meet.

    Args:
        sizes: the voxels of each object are added to it.
        what: is made of the blocks, for the progress.

    Yields:
        The box that was read, and its labels as uint64, 0 where they are unlabelled.
    """
    boxes = blocks(volume.spatial_shape, block)
    with Progress(what, "blocks", len(boxes)) as bar:
        for number, inner in enumerate(boxes, start=1):
            stop = tuple(min(b + 1, n) for b, n in zip(inner.stop, volume.spatial_shape))
            box = Box(inner.start, stop)
            stored = volume[box.slices]
            labels = np.where(is_unlabelled(stored), 0, stored).astype(np.uint64)
            core = labels[tuple(slice(0, n) for n in inner.shape)]
            for label, count in zip(*np.unique(core[core > 0], return_counts=True)):
                sizes[int(label)] += int(count)
            yield box, labels
            bar.show(number)


def extra(name: str) -> ModuleType:
    """A package of the extra `shapes`; an ImportError says how to install it."""
    try:
        return import_module(name)
    except ImportError as error:
        raise ImportError(f"{name} is needed: pip install -e '.[shapes]' in a clone") from error
