"""Labels that are smaller than their image, as a volume of the image's shape.

image   . . . . . . . . . .        The offset of the labels is where their first voxel lies in
        . . +-------+ . . .        the image. What lies outside of them is unlabelled: it is
        . . |labels | . . .        context for the network, and never background.
        . . +-------+ . . .
        . . . . . . . . . .
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from pytc.checks import require
from pytc.config import Lengths, Triple
from pytc.geometry import Box, as_triple
from pytc.io.labels import UNLABELLED, is_unlabelled, unlabelled_marker
from pytc.io.metadata import Origin
from pytc.io.stored import Stored
from pytc.io.volume import Volume

# An offset in nm is a whole number of voxels if it is one to within this share of a voxel.
WHOLE = 1e-2


@dataclass(frozen=True)
class Frame:
    """The image, or the prediction of it, in which labels lie."""

    name: str  # in errors, e.g. "the image a.zarr"
    shape: Triple
    voxel_size: Lengths | None  # nm
    origin: Origin | None = None

    @property
    def box(self) -> Box:
        return Box((0, 0, 0), self.shape)


@dataclass(frozen=True)
class Piece:
    """A volume of labels or of a mask, (Z, Y, X), and where it lies in its frame."""

    volume: Volume
    box: Box


class PlacedVolume(Volume):
    """Pieces as one volume of the frame's shape; `outside` is the value of all other voxels."""

    def __init__(self, pieces: Sequence[Piece], frame: Frame, *, is_mask: bool = False):
        first = pieces[0].volume
        dtype = np.result_type(*(each.volume.dtype for each in pieces))
        outside = 0
        if not is_mask:
            dtype = _dtype_with_unlabelled(pieces)
            marker = unlabelled_marker(dtype)
            outside = UNLABELLED if marker is None else marker
        opens = partial(_Mosaic, tuple(pieces), frame.shape, dtype, outside)
        path = ", ".join(each.volume.path for each in pieces)
        stored = Stored(frame.shape, dtype, {}, opens)
        super().__init__(stored, path, axes=first.axes, voxel_size=first.voxel_size)
        self.axes_from = first.axes_from
        self.voxel_size_from = first.voxel_size_from
        if first.axes_from == "attributes":
            self.attributes["axes"] = first.axes
        self.pieces = tuple(pieces)
        self.frame = frame
        self.is_mask = is_mask

    def with_volumes(self, volumes: Sequence[Volume]) -> "PlacedVolume":
        """The same, read from other volumes of the same shapes."""
        pieces = [Piece(volume, piece.box) for volume, piece in zip(volumes, self.pieces)]
        return PlacedVolume(pieces, self.frame, is_mask=self.is_mask)


class _Mosaic:
    """Pieces, sliced like one array."""

    def __init__(self, pieces: tuple[Piece, ...], shape: Triple, dtype: Any, outside: int):
        self.pieces = pieces
        self.shape = shape
        self.dtype = dtype
        self.outside = outside

    def __getitem__(self, slices: tuple[slice, ...]) -> np.ndarray:
        """slices: each has a start, a stop and a positive step."""
        asked = [range(part.start, part.stop, part.step) for part in slices]
        result = np.full([len(each) for each in asked], self.outside, self.dtype)
        for piece in self.pieces:
            spans = zip(asked, piece.box.start, piece.box.stop)
            to = [_positions_inside(each, start, stop) for each, start, stop in spans]
            if any(each.start >= each.stop for each in to):
                continue
            inside = [each[part] for each, part in zip(asked, to)]
            source = [
                slice(each.start - first, each[-1] - first + 1, each.step)
                for each, first in zip(inside, piece.box.start)
            ]
            result[tuple(to)] = self._converted(piece.volume[tuple(source)])
        return result

    def _converted(self, values: np.ndarray) -> np.ndarray:
        """Values of a piece in the common dtype; unlabelled ones get the mark of that dtype."""
        if values.dtype == self.dtype or self.outside == 0:
            return values
        converted = values.astype(self.dtype)
        converted[is_unlabelled(values)] = self.outside
        return converted


def _positions_inside(asked: range, start: int, stop: int) -> slice:
    """Which of the positions asked for lie in [start, stop)."""
    first = max(0, -((asked.start - start) // asked.step))
    last = min(len(asked), -((asked.start - stop) // asked.step))
    return slice(first, last)


def _dtype_with_unlabelled(pieces: Sequence[Piece]) -> np.dtype:
    """A dtype for the labels of all pieces that has a value for unlabelled, too."""
    dtypes = [piece.volume.dtype for piece in pieces]
    signed = {"b1": "i1", "u1": "i2", "u2": "i4"}
    wide = [np.dtype(signed.get(dtype.str[1:], dtype)) for dtype in dtypes]
    common = np.result_type(*wide)
    require(
        common.kind in "iu",
        "label volumes of one dtype, or of dtypes that fit into one",
        ", ".join(map(str, dtypes)),
    )
    return common


def place_labels(
    volumes: Sequence[Volume], frame: Frame, offsets: Sequence[Triple] | None = None
) -> Volume:
    """The labels of an image as one volume of its shape.

    Args:
        volumes: labels (Z, Y, X) of integers, one or several that do not overlap. An id means the
            same object in all of them.
        frame: the image.
        offsets: of each volume: the voxel of the image at which its first voxel lies, in the order
            in which the volume is stored. None: the stored attribute `voxel_offset` (voxels) or
            `offset` (nm) says it, relative to that of the image if that has one, too.

    Returns:
        Where a single volume has the image's shape, or nothing says where it lies: that volume. Its
        shape is then still to be checked.

    Raises:
        ValueError: an offset is no whole number of voxels, the labels reach out of the image or
            overlap, or have voxels of another size.
    """
    require(
        offsets is None or len(offsets) == len(volumes),
        f"an offset for each of {len(volumes)} label volumes of {frame.name}",
        offsets,
    )
    given: Sequence[Triple | None] = offsets or [None] * len(volumes)
    starts = [_start_of(volume, frame, offset) for volume, offset in zip(volumes, given)]
    if len(volumes) == 1:
        fills_the_frame = volumes[0].shape == frame.shape and starts[0] == (0, 0, 0)
        if starts[0] is None or fills_the_frame:
            return volumes[0]
    pieces = []
    for volume, start in zip(volumes, starts):
        if start is None:
            raise ValueError(
                f"expected an offset of each of the label volumes of {frame.name}, as an attribute "
                f"or by data.*.offset, got none for {volume.path}"
            )
        pieces.append(_piece(volume, start, frame))
    for one, other in itertools.combinations(pieces, 2):
        require(
            one.box.intersection(other.box) is None,
            f"label volumes of {frame.name} that do not overlap",
            f"{one.volume.path} at {one.box.start} and {other.volume.path} at {other.box.start}",
        )
    return PlacedVolume(pieces, frame)


def place_mask(mask: Volume, labels: Volume | None, frame: Frame) -> Volume:
    """A mask as a volume of the image's shape: 0 outside.

    A mask that is as large as the only piece of labels lies where that lies. One of another shape
    than the image needs an attribute, as labels do.
    """
    if mask.shape == frame.shape or "c" in mask.axes:
        return mask
    start = _start_of(mask, frame, None)
    if start is None and isinstance(labels, PlacedVolume) and len(labels.pieces) == 1:
        (piece,) = labels.pieces
        if mask.shape == piece.volume.shape:
            return PlacedVolume([Piece(mask, piece.box)], frame, is_mask=True)
    if start is None:
        return mask
    return PlacedVolume([_piece(mask, start, frame)], frame, is_mask=True)


def crop(volume: Volume, region: Box) -> Volume:
    """A region of a volume (Z, Y, X), read when it is asked for; `region` lies in the volume."""
    frame = Frame(f"a region of {volume.path}", as_triple(region.shape), volume.voxel_size)
    box = Box((0, 0, 0), volume.spatial_shape).seen_from(region)
    return PlacedVolume([Piece(volume, box)], frame, is_mask=True)


def label_boxes(labels: Volume) -> list[Box]:
    """Where the volumes of labels lie in their image; of labels as large as it, the whole image."""
    if isinstance(labels, PlacedVolume):
        return [piece.box for piece in labels.pieces]
    return [Box((0, 0, 0), labels.spatial_shape)]


def _piece(volume: Volume, start: Triple, frame: Frame) -> Piece:
    """A volume at its place; ValueError unless it lies in the frame."""
    box = Box(start, tuple(at + length for at, length in zip(start, volume.shape)))
    require(
        box.intersection(frame.box) == box,
        f"{volume.path} inside {frame.name} of shape {frame.shape}",
        f"shape {volume.shape} at the offset {start}, which ends at {box.stop}",
    )
    size, size_of_frame = volume.voxel_size, frame.voxel_size
    require(
        size is None or size_of_frame is None or np.allclose(size, size_of_frame, rtol=WHOLE),
        f"voxels of {frame.voxel_size} nm, as in {frame.name}, in {volume.path} that lies in it",
        volume.voxel_size,
    )
    return Piece(volume, box)


def _start_of(volume: Volume, frame: Frame, given: Triple | None) -> Triple | None:
    """The voxel of the frame at which the first voxel of a volume lies; None if nothing says it."""
    if "c" in volume.axes:
        return None
    if given is not None:
        return volume.presented(given)
    if volume.origin is None:
        return None
    if volume.shape == frame.shape and frame.origin in (None, volume.origin):
        return (0, 0, 0)  # both are the same part of something larger
    at = _in_voxels(volume.origin, volume.voxel_size or frame.voxel_size, volume.path)
    if frame.origin is not None:
        of_frame = _in_voxels(frame.origin, frame.voxel_size or volume.voxel_size, frame.name)
        at = at - of_frame
    z, y, x = np.rint(at).astype(int).tolist()
    require(
        bool(np.abs(at - (z, y, x)).max() < WHOLE),
        f"an offset of {volume.path} in {frame.name} that is a whole number of voxels of "
        f"{volume.voxel_size or frame.voxel_size} nm",
        f"{_words(volume.origin)}, which is {tuple(at.round(3).tolist())} voxels",
    )
    return z, y, x


def _in_voxels(origin: Origin, voxel_size: Lengths | None, name: str) -> np.ndarray:
    """An origin in voxels, which need not be whole: (3,) float64."""
    if not origin.in_nm:
        return np.array(origin.at)
    if voxel_size is None:
        raise ValueError(
            f"expected a voxel size for {name}, as its offset is in nm, {origin.at}, got None"
        )
    return np.array(origin.at) / voxel_size


def _words(origin: Origin) -> str:
    unit = "nm" if origin.in_nm else "voxels"
    return f"{tuple(f'{length:g}' for length in origin.at)} {unit}".replace("'", "")


def share_of(labels: Volume) -> float:
    """The share of the image that its volumes of labels take up."""
    voxels = sum(math.prod(box.shape) for box in label_boxes(labels))
    return voxels / math.prod(labels.spatial_shape)
