"""Crops around an error in three planes: the piece in the colour of its kind, the rest in green."""

import numpy as np

from pytc.config import Lengths
from pytc.evaluation.errors import DenseError, Kind
from pytc.evaluation.pictures import Picture, as_png, stretched, tint
from pytc.io.volume import Volume
from pytc.metrics.overlap import Labels

Colour = tuple[int, int, int]
COLOURS: dict[Kind, Colour] = {
    "split": (40, 120, 255),
    "merger": (235, 40, 70),
    "missing": (255, 200, 0),
}
REST: Colour = (40, 180, 90)
CROSS: Colour = (255, 255, 255)
STRENGTH = 0.45


def draw_crops(
    error: DenseError,
    box: tuple[slice, ...],
    labels: Labels,
    segmentation: Labels,
    image: Volume | None,
    axes: str,
    voxel_size: Lengths,
) -> list[Picture]:
    """Slices across z, y and x through the error, inside a box around it.

    Args:
        box: of the spatial axes in stored order.
        labels, segmentation: (Z, Y, X), and the image, with or without channels.
        axes: their spatial axes in stored order, as the voxel size.
    """
    truth, segments = labels[box], segmentation[box]
    piece = (truth == error.label) & (segments == error.segment)
    if error.kind == "merger":
        rest = (truth == error.whole) & (segments == error.segment)
    else:
        rest = (truth == error.label) & ~piece
    codes = np.select([piece, rest], [1, 2], 0)
    grey = np.full(codes.shape, 200, np.uint8) if image is None else _grey(image, axes, box)
    palette = np.array([(0, 0, 0), COLOURS[error.kind], REST])
    strengths = np.array([0.0, STRENGTH, STRENGTH])
    centre = {axis: at - part.start for axis, at, part in zip(axes, error.position, box)}
    lengths = dict(zip(axes, voxel_size))
    pictures = []
    for axis in "zyx":
        here = _plane(codes, axes, axis, centre[axis])
        grey_here = _plane(grey, axes, axis, centre[axis])
        pixels = tint(grey_here, palette[here], strengths[here])
        rows, columns = (other for other in "zyx" if other != axis)
        _mark(pixels, centre[rows], centre[columns])
        height, width = here.shape
        aspect = width * lengths[columns] / (height * lengths[rows])
        at = error.position[axes.index(axis)]
        pictures.append(Picture(f"{axis} = {at}", as_png(pixels), aspect))
    return pictures


def _grey(image: Volume, axes: str, box: tuple[slice, ...]) -> np.ndarray:
    """The first channel of a part of the image, in 8 bit."""
    parts = iter(box)
    index = tuple(0 if axis == "c" else next(parts) for axis in image.axes)
    return stretched(image[index].astype(np.float32))


def _plane(volume: np.ndarray, axes: str, axis: str, index: int) -> np.ndarray:
    """A slice across an axis, its own axes in the order z, y, x."""
    plane: np.ndarray = np.take(volume, index, axes.index(axis))
    first, second = (each for each in axes if each != axis)
    return plane if first > second else plane.T  # z comes before y, and y before x


def _mark(pixels: np.ndarray, row: int, column: int) -> None:
    """Four short lines that point at a pixel and leave it free."""
    for gap in range(4, 9):
        vertical = ((row - gap, column), (row + gap, column))
        horizontal = ((row, column - gap), (row, column + gap))
        for r, c in (*vertical, *horizontal):
            if 0 <= r < pixels.shape[0] and 0 <= c < pixels.shape[1]:
                pixels[r, c] = CROSS
