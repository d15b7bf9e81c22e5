"""Boxes of voxels: how a volume is cut into blocks, and a block into windows.

One axis order, the stored one.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pytc.checks import require

# An axis counts as fine while its voxels are less than this many times those of the finest one.
RATIO = 2
REGION_AXIS = re.compile(r"(\d*):(\d*)")  # of z0:z1,y0:y1,x0:x1


@dataclass(frozen=True)
class Box:
    """A region of a volume, from `start` up to but not including `stop`, in voxels.

    Both have an entry for each spatial axis.
    """

    start: tuple[int, ...]
    stop: tuple[int, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(b - a for a, b in zip(self.start, self.stop))

    @property
    def slices(self) -> tuple[slice, ...]:
        return tuple(slice(a, b) for a, b in zip(self.start, self.stop))

    @property
    def channel_slices(self) -> tuple[slice, ...]:
        """Of an array (C, *spatial): all channels of this box."""
        return (slice(None), *self.slices)

    def moved(self, offset: tuple[int, ...]) -> Box:
        """This box, `offset` voxels further on."""
        return Box(
            *(tuple(a + o for a, o in zip(corner, offset)) for corner in (self.start, self.stop))
        )

    def seen_from(self, other: Box) -> Box:
        """This box in the coordinates of another, whose start is their origin."""
        return self.moved(tuple(-a for a in other.start))

    def grown(self, before: Sequence[int], after: Sequence[int], shape: Sequence[int]) -> Box:
        """This box with a halo of so many voxels at either end, as far as the volume goes."""
        return Box(
            tuple(max(0, a - h) for a, h in zip(self.start, before)),
            tuple(min(n, b + h) for b, h, n in zip(self.stop, after, shape)),
        )

    def intersection(self, other: Box) -> Box | None:
        """The voxels in both boxes, or None."""
        start = tuple(map(max, self.start, other.start))
        stop = tuple(map(min, self.stop, other.stop))
        return Box(start, stop) if all(a < b for a, b in zip(start, stop)) else None


def parse_region(text: str) -> tuple[tuple[int | None, int | None], ...]:
    """The bounds that z0:z1,y0:y1,x0:x1 names along each axis; None where a number is left out.

    ValueError for any other text.
    """
    bounds = [REGION_AXIS.fullmatch(part.strip()) for part in text.split(",")]
    if len(bounds) != 3 or not all(bounds):
        raise ValueError(f"expected a region z0:z1,y0:y1,x0:x1 in voxels, got {text!r}")
    found = [bound.groups() for bound in bounds if bound is not None]
    return tuple(
        (int(start) if start else None, int(stop) if stop else None) for start, stop in found
    )


def region_of(text: str, shape: tuple[int, ...]) -> Box:
    """The region z0:z1,y0:y1,x0:x1 of a volume; ValueError unless it lies in it."""
    bounds = parse_region(text)
    starts = tuple(0 if start is None else start for start, _ in bounds)
    stops = tuple(n if stop is None else stop for (_, stop), n in zip(bounds, shape))
    inside = all(a < b <= n for a, b, n in zip(starts, stops, shape))
    require(inside, f"a region inside of {shape} voxels", text)
    return Box(starts, stops)


def thick_axis(voxel_size: Sequence[float] | None) -> int | None:
    """The axis across thick sections: the only one with voxels of at least RATIO times the finest.

    Args:
        voxel_size: along each axis, in any unit; None for voxels of equal sides.
    """
    if voxel_size is None:
        return None
    thick = [axis for axis, size in enumerate(voxel_size) if size >= RATIO * min(voxel_size)]
    return thick[0] if len(thick) == 1 else None


def as_triple(values: Iterable[int]) -> tuple[int, int, int]:
    """Three numbers, one for each spatial axis, as a tuple."""
    z, y, x = values
    return z, y, x


def blocks(shape: tuple[int, ...], block: tuple[int, ...]) -> list[Box]:
    """Boxes of at most `block` voxels that cover `shape` without overlap, in raster order."""
    starts = itertools.product(*(range(0, n, b) for n, b in zip(shape, block)))
    return [Box(s, tuple(min(a + b, n) for a, b, n in zip(s, block, shape))) for s in starts]


def tile(
    shape: tuple[int, ...],
    window: tuple[int, ...],
    stride: tuple[int, ...],
    touching: Box | None = None,
) -> list[Box]:
    """Windows of one size every `stride` voxels, in raster order.

    The last one along each axis is snapped to the edge. touching: a region; only windows of the
    same grid that share voxels with it are returned.
    """
    require(
        all(w <= n for w, n in zip(window, shape)),
        f"a window no larger than the volume {shape}",
        window,
    )
    require(
        all(0 < s <= w for s, w in zip(stride, window)),
        f"strides between 1 and the window {window}",
        stride,
    )
    region = touching or Box((0,) * len(shape), shape)
    starts = map(window_starts, shape, window, stride, region.start, region.stop)
    return [Box(s, tuple(a + w for a, w in zip(s, window))) for s in itertools.product(*starts)]


def window_starts(length: int, window: int, stride: int, low: int, high: int) -> list[int]:
    """Along one axis of `length` voxels: where the windows start that touch [low, high)."""
    starts = {min(start, length - window) for start in range(0, length - window + stride, stride)}
    return sorted(start for start in starts if start < high and start + window > low)


def pairs(
    offset: tuple[int, ...], shape: tuple[int, ...]
) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """Slices (source, target) of a batch (B, *shape): target is source moved by `offset`.

    They hold every voxel v and its neighbour v + offset for which both lie inside the shape.
    """
    source = [slice(None)]
    target = [slice(None)]
    for distance, size in zip(offset, shape):
        source.append(slice(max(0, -distance), max(0, size - max(0, distance))))
        target.append(slice(max(0, distance), max(0, size + min(0, distance))))
    return tuple(source), tuple(target)
