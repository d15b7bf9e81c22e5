"""The levels of a pyramid, and the steps that fill them, block by block.

    source --CopyBlock--> level 0 --HalveBlock--> level 1 --HalveBlock--> level 2 ...

Each step is a function of one block of the level that it fills: it reads the voxels below it, and
writes whole chunks of its own. So the memory is that of the blocks in flight.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import numpy as np

from pytc.checks import require
from pytc.config import Lengths, Triple
from pytc.geometry import RATIO, Box, as_triple
from pytc.io.volume import Volume

Kind = Literal["image", "labels", "affinities"]
Method = Literal["mean", "mode"]
CHUNK = 64  # voxels along each side
BLOCK_BYTES = 2**26  # of the voxels that one step reads; a block of one chunk may need more
MOST_CHUNKS = 4  # along a side of a block
ISOTROPIC: Lengths = (1.0, 1.0, 1.0)

# Mean: of the voxels that exist, whole numbers rounded to the nearest, to the even one of two.
# Mode: the most frequent label; of several the lowest. 0 counts like every other label, or thin
# background between two objects would vanish, and both would touch.
METHODS: dict[Kind, Method] = {"image": "mean", "affinities": "mean", "labels": "mode"}


@dataclass(frozen=True)
class Level:
    """One level of a pyramid; axes in the order z, y, x.

    Attributes:
        number: 0 for the finest.
        factors: how many voxels of the finest level are one of this level, along each axis.
        origin: the position of its first voxel, in voxels of this level.
        shape: its voxels.
    """

    number: int
    factors: Triple
    origin: Triple
    shape: Triple

    @property
    def box(self) -> Box:
        """Its voxels, at their position."""
        return Box((0, 0, 0), self.shape).moved(self.origin)

    def voxel_size(self, finest: Lengths) -> Lengths:
        z, y, x = (size * factor for size, factor in zip(finest, self.factors))
        return z, y, x


def plan_levels(
    shape: Triple,
    voxel_size: Lengths | None,
    origin: Triple = (0, 0, 0),
    most: int | None = None,
) -> list[Level]:
    """The levels of a pyramid down to one that fits into a chunk.

    From a level to the next, those axes are halved whose voxels are less than twice as long as the
    shortest ones; so thick sections are kept until the voxels are nearly cubes. An axis of one
    voxel stays.

    Args:
        shape: voxels of the finest level along z, y, x.
        voxel_size: in any unit; None for cubes.
        origin: position of the first voxel. A voxel of a coarse level begins at a multiple of its
            factors, wherever the volume begins.
        most: how many levels at most.
    """
    levels = [Level(0, (1, 1, 1), origin, shape)]
    while max(levels[-1].shape) > CHUNK and (most is None or len(levels) < most):
        last = levels[-1]
        lengths = last.voxel_size(voxel_size or ISOTROPIC)
        can_be_halved = [length > 1 for length in last.shape]
        shortest = min(size for size, can in zip(lengths, can_be_halved) if can)
        ratio = [
            2 if can and size < RATIO * shortest else 1 for size, can in zip(lengths, can_be_halved)
        ]
        start = [at // n for at, n in zip(last.box.start, ratio)]
        stop = [-(-at // n) for at, n in zip(last.box.stop, ratio)]
        levels.append(
            Level(
                last.number + 1,
                as_triple(factor * n for factor, n in zip(last.factors, ratio)),
                as_triple(start),
                as_triple(b - a for a, b in zip(start, stop)),
            )
        )
    return levels


def block_shape(voxel_bytes: int) -> Triple:
    """Voxels of a block along each axis, a few chunks, so that a step reads BLOCK_BYTES at most.

    voxel_bytes: of a voxel with all its channels. A step reads eight voxels for each that it
    writes.
    """
    chunks = MOST_CHUNKS
    while chunks > 1 and 8 * voxel_bytes * (chunks * CHUNK) ** 3 > BLOCK_BYTES:
        chunks //= 2
    side = chunks * CHUNK
    return side, side, side


@dataclass(frozen=True)
class CopyBlock:
    """Copies one block of a volume into the finest level.

    Attributes:
        source: spatial axes in the order z, y, x.
        open_target: opens the level, as `HalveBlock` has it.
        origin: position of the first voxel in the level.
        convert: from the values of the source to those of the level.
    """

    source: Volume
    open_target: Callable[[], Any]
    origin: Triple
    convert: Callable[[np.ndarray], np.ndarray]

    def __call__(self, box: Box) -> None:
        values = self.convert(self.source.read(box.start, box.stop))
        target = self.open_target()
        target[box.moved(self.origin).channel_slices].write(values).result()


@dataclass(frozen=True)
class HalveBlock:
    """Makes one block of a level from the level below it.

    Attributes:
        open_finer, open_target: open the two levels, as arrays of tensorstore (C, Z, Y, X) in which
            a voxel has its position as its index.
        ratio: how many finer voxels are one of the target, along z, y, x.
        origin: position of the first voxel of the target.
        method: mean or mode, see METHODS.
    """

    open_finer: Callable[[], Any]
    open_target: Callable[[], Any]
    ratio: Triple
    origin: Triple
    method: Method

    def __call__(self, box: Box) -> None:
        import tensorstore

        slices = box.moved(self.origin).channel_slices
        coarse = tensorstore.downsample(self.open_finer(), [1, *self.ratio], self.method)
        values = coarse[slices].read().result()
        self.open_target()[slices].write(values).result()


@dataclass(frozen=True)
class Converted:
    """Values in another dtype, exactly, or as affinities from 0 to 1 are stored in it.

    Attributes:
        dtype: what the values become.
        kind: affinities may become whole numbers 0 to 255 for 0 to 1, and back.
        name: of the volume, for errors.
    """

    dtype: np.dtype
    kind: Kind
    name: str

    def __call__(self, values: np.ndarray) -> np.ndarray:
        if values.dtype == self.dtype:
            return values
        if self.kind == "affinities" and self.dtype.kind == "u" and values.dtype.kind == "f":
            return self._as_bytes(values)
        if self.kind == "affinities" and self.dtype.kind == "f" and values.dtype.kind == "u":
            return values.astype(self.dtype) / self.dtype.type(np.iinfo(values.dtype).max)
        converted = values.astype(self.dtype)
        if self.dtype.kind in "iu" and values.dtype.kind in "iu" and values.size:
            low, high = int(values.min()), int(values.max())
            limits = np.iinfo(self.dtype)
            require(
                limits.min <= low and high <= limits.max,
                f"values from {limits.min} to {limits.max} in {self.name} for {self.dtype}",
                low if low < limits.min else high,
            )
        return converted

    def _as_bytes(self, values: np.ndarray) -> np.ndarray:
        in_range = bool(((values >= 0) & (values <= 1)).all())  # False for NaN
        expected = f"affinities from 0 to 1 in {self.name}, to store them as uint8"
        require(in_range, expected, _range_in_words(values))
        scaled = np.rint(values.astype(np.float32) * np.float32(255))
        return scaled.astype(self.dtype)


def _range_in_words(values: np.ndarray) -> str:
    return f"values from {np.min(values)} to {np.max(values)}"


def ratios(levels: list[Level]) -> Iterator[tuple[Level, Level, Triple]]:
    """Each level with the coarser one after it, and how many voxels of it are one of those."""
    for finer, coarser in pairwise(levels):
        ratio = as_triple(a // b for a, b in zip(coarser.factors, finer.factors))
        yield finer, coarser, ratio


def translation(level: Level, finest: Lengths) -> Lengths:
    """The centre of a level's first voxel, in nm from the centre of the finest voxel at 0."""
    z, y, x = (
        size * (factor * at + (factor - 1) / 2)
        for size, factor, at in zip(finest, level.factors, level.origin)
    )
    return z, y, x
