"""The image of each block, read while the network predicts the block before, and the last written.

There is one thread that reads and one that writes, and each is at most one block ahead or behind.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
import torch

from pytc.blocks import ATTEMPTS, MOST_FAILED, Manifest, explain_failures
from pytc.geometry import Box, as_triple
from pytc.inference.blending import Grid
from pytc.io.intensity import Range, read_grey, stays_uint8, to_float32
from pytc.io.volume import Volume
from pytc.script import RunError

LOGGER = logging.getLogger(__name__)

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Part:
    """What is to be done for a block.

    Attributes:
        number: of the block.
        layers: the first planes of the layers of windows that are to be predicted.
        pixels: of these windows, (C, Z, Y, X) as stored or float32; None without layers.
        corner: where the pixels start in the volume.
        goes_on: whether the part before was the block above, whose sums are carried over.
        is_constant: whether the image is constant in all windows that touch the block.
        is_finished: whether another process has predicted it meanwhile.
        error: why it could not be read; None if it could.
    """

    number: int
    layers: tuple[int, ...] = ()
    pixels: np.ndarray | None = field(default=None, repr=False)
    corner: tuple[int, ...] = (0, 0, 0)
    goes_on: bool = False
    is_constant: bool = False
    is_finished: bool = False
    error: str | None = None

    def on_device(self, device: torch.device, grey_range: Range) -> torch.Tensor:
        """The pixels as the network sees them, float32 with `grey_range` as 0 to 1."""
        if self.pixels is None:
            return torch.empty(0, device=device)
        pixels = torch.from_numpy(self.pixels).to(device)
        if pixels.dtype == torch.uint8:
            mapped: torch.Tensor = to_float32(pixels, grey_range)
            return mapped
        return pixels


class BlockReader:
    """Reads the parts of a prediction, in the order in which they are predicted."""

    def __init__(
        self,
        image: Volume,
        grey_range: Range,
        grid: Grid,
        boxes: Sequence[Box],
        manifest: Manifest,
    ) -> None:
        self.image = image
        self.grey_range = grey_range
        self.grid = grid
        self.boxes = boxes
        self.manifest = manifest
        self.predicted: int | None = None  # the block of the last part, if it is predicted

    def read(self, number: int) -> Part:
        """The part of a block; with its error if the image cannot be read there."""
        try:
            return self._read(number)
        except Exception as error:
            LOGGER.debug(f"block {number}", exc_info=True)
            self.predicted = None
            return Part(number, error=f"{type(error).__name__}: {error}")

    def _read(self, number: int) -> Part:
        if self.manifest.has(number):
            self.predicted = None
            return Part(number, is_finished=True)
        box = self.boxes[number]
        goes_on = is_below(self.boxes, number, self.predicted)
        layers = layers_of(self.grid, box, goes_on=goes_on)
        self.predicted = number
        if not layers:
            return Part(number, goes_on=goes_on)
        region = self.grid.region(layers, box)
        pixels = self._pixels(region)
        if is_constant(pixels) and self._is_constant_around(box, region):
            self.predicted = None
            return Part(number, is_constant=True)
        return Part(number, tuple(layers), pixels, region.start, goes_on)

    def _is_constant_around(self, box: Box, region: Box) -> bool:
        """Whether the image is constant in all windows that touch a block."""
        whole = self.grid.region(layers_of(self.grid, box, goes_on=False), box)
        return whole == region or is_constant(self._pixels(whole))

    def _pixels(self, region: Box) -> np.ndarray:
        """A region of the image, reflected where it leaves the volume at the far end.

        (C, Z, Y, X) uint8, or float32 with the grey range as 0 to 1.
        """
        stop = as_triple(min(b, n) for b, n in zip(region.stop, self.image.spatial_shape))
        start = as_triple(region.start)
        if stays_uint8(self.image, self.grey_range):
            pixels = self.image.read(start, stop)
        else:
            pixels = read_grey(self.image, start, stop, self.grey_range)
        beyond = [(0, 0), *((0, b - s) for b, s in zip(region.stop, stop))]
        return np.pad(pixels, beyond, mode="reflect") if np.any(beyond) else pixels


def parts_of(reader: BlockReader, numbers: Sequence[int], name: str) -> Iterator[Part]:
    """The parts of these blocks, each read while the caller works on the one before.

    As in `pytc.blocks.map_blocks`, a block that cannot be read is tried again after the others.

    Args:
        name: what is done with the blocks, for errors.

    Raises:
        RunError: if a block cannot be read at the last attempt either.
    """
    failures: dict[int, str] = {}
    for _ in range(ATTEMPTS):
        failures = {}
        for part in read_ahead(reader.read, numbers):
            if part.error is None:
                yield part
                continue
            LOGGER.warning(f"{name}: block {part.number}: {part.error}")
            failures[part.number] = part.error
            if len(failures) >= MOST_FAILED:
                break
        if not failures:
            return
        if len(failures) >= MOST_FAILED:
            break
        numbers = sorted(failures)
    raise RunError(explain_failures(name, reader.boxes, failures))


def is_below(boxes: Sequence[Box], number: int, other: int | None) -> bool:
    """Whether a block lies below another one, in the same column."""
    if other is None:
        return False
    box, above = boxes[number], boxes[other]
    same_column = box.start[1:] == above.start[1:] and box.stop[1:] == above.stop[1:]
    return same_column and box.start[0] == above.stop[0]


def layers_of(grid: Grid, box: Box, *, goes_on: bool) -> list[int]:
    """The first planes of the layers that touch a block; with `goes_on` those that start in it."""
    return [start for start in grid.starts(0, box) if not goes_on or start >= box.start[0]]


def is_constant(pixels: np.ndarray) -> bool:
    """Whether each channel of (C, Z, Y, X) has one value."""
    first = pixels[:, :1, :1, :1]
    sparse = pixels[:, ::16, ::16, ::16]  # tells nearly all others without a look at all voxels
    return bool((sparse == first).all() and (pixels == first).all())


def read_ahead(read: Callable[[Item], Result], items: Sequence[Item]) -> Iterator[Result]:
    """read(item) of each item; a thread reads the next one while the caller works on one."""
    with ThreadPoolExecutor(1, "read") as thread:
        upcoming = [thread.submit(read, item) for item in items[:1]]
        for following in [*items[1:], None]:
            result = upcoming.pop().result()
            if following is not None:
                upcoming.append(thread.submit(read, following))
            yield result


class Writer:
    """Calls functions in another thread, one after another, within a `with` block.

    A call waits until the one before is done, and raises its error.
    """

    def __init__(self) -> None:
        self.thread = ThreadPoolExecutor(1, "write")
        self.pending: Future[None] | None = None

    def call(self, function: Callable[..., None], *arguments: Any) -> None:
        self.wait()
        self.pending = self.thread.submit(function, *arguments)

    def wait(self) -> None:
        """Until all is written."""
        if self.pending is not None:
            self.pending.result()

    def __enter__(self) -> "Writer":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.thread.shutdown()
        if kind is None:
            self.wait()
