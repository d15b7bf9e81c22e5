"""Grey values: how what a volume stores becomes the float32 values that a network sees.

`to_float32` is the one function that does it, in training, validation, replay and inference: a
volume's range (low, high) becomes 0 to 1. A range is given, or measured once per volume: never per
block or patch, or a network would see one tissue in many ways.
"""

import math
from itertools import product
from typing import Any

import numpy as np

from pytc.checks import require
from pytc.config import Intensity
from pytc.geometry import Box
from pytc.io.volume import Volume

Range = tuple[float, float]
UINT8: Range = (0.0, 255.0)
PERCENTILES = (0.5, 99.5)
SAMPLE = 2**24  # voxels that are looked at: all of a volume of 256 x 256 x 256
SAMPLE_BOX = 64  # voxels along each axis of a box in the sample of a larger volume
SAMPLE_GRID = 4  # boxes along each axis
# A value is padding if it is a share of the sample, and its neighbours along the last axis have it.
PADDING_SHARE = 0.01
PADDING_RUNS = 0.9
BINS = 48
BIN_RANGE = (-1.0, 2.0)  # of the mapped values; what lies outside is counted at the ends
FAR = 0.15  # a mean shift of grey values, as a share of their range, that is worth a warning


def to_float32(stored: Any, grey_range: Range) -> Any:
    """Stored grey values as float32, `grey_range` as 0 to 1; values outside it go beyond.

    stored: an array, or a tensor of uint8 or float32. Both give the same bits: a difference and a
    product, rounded once each.
    """
    low, high = grey_range
    if not isinstance(stored, np.ndarray):
        return (stored.float() - low) * float(np.float32(1 / (high - low)))
    if np.can_cast(stored.dtype, np.float32):
        return (stored.astype(np.float32) - np.float32(low)) * np.float32(1 / (high - low))
    return ((stored.astype(np.float64) - low) / (high - low)).astype(np.float32)


def stays_uint8(image: Volume, grey_range: Range) -> bool:
    """Whether patches may be moved as uint8, a quarter of the bytes, and be mapped later."""
    return image.dtype == np.uint8 and grey_range == UINT8


def read_grey(
    image: Volume, start: tuple[int, int, int], stop: tuple[int, int, int], grey_range: Range
) -> np.ndarray:
    """The voxels from start up to stop as float32 (C, Z, Y, X), mapped.

    ValueError names the first voxel that is no finite number.
    """
    values: np.ndarray = to_float32(image.read(start, stop), grey_range)
    if image.dtype.kind == "f":
        _require_finite(values, image, start)
    return values


def _require_finite(values: np.ndarray, image: Volume, start: tuple[int, ...]) -> None:
    finite = np.isfinite(values)
    if not finite.all():
        channel, *voxel = np.argwhere(~finite)[0].tolist()
        at = tuple(map(sum, zip(voxel, start)))
        raise ValueError(
            f"expected finite grey values in {image.path}, got {values[channel, *voxel]} at voxel "
            f"{at} ({image.spatial_axes})"
        )


def grey_range(image: Volume, setting: Intensity) -> Range:
    """The range of an image: as set, or by its dtype, or by `auto` measured.

    auto: 0 to 255 for uint8, measured for any other dtype. dtype, as release 0.1 had it: 0 to the
    largest value of an integer dtype, 0 to 1 for floats.
    """
    if setting == "dtype":
        if image.dtype.kind in "iu":
            return (0.0, float(np.iinfo(image.dtype).max))
        return (0.0, 1.0)
    if setting != "auto":
        return setting
    if image.dtype == np.uint8:
        return UINT8
    if image.dtype == bool:
        return (0.0, 1.0)
    return measure_range(image)


def measure_range(image: Volume) -> Range:
    """The 0.5 and 99.5 percentiles of a sample of the image, without a constant padding value.

    ValueError if the sample has a NaN or infinity, or a single value.
    """
    boxes = take_sample(image)
    values = without_padding(boxes)
    low, high = np.percentile(values, PERCENTILES).tolist()
    if low == high:  # nearly all voxels have one value, such as the background of a mask
        low = float(min(box.min() for box in boxes))
        high = float(max(box.max() for box in boxes))
    require(
        low < high, f"grey values in {image.path}, or data.intensity LOW HIGH", f"{low} everywhere"
    )
    return low, high


def take_sample(volume: Volume) -> list[np.ndarray]:
    """Boxes (C, Z, Y, X) of a volume, at most about SAMPLE voxels a channel, evenly spread.

    The sample is the same in each process and at any time. ValueError names the first voxel in it
    that is no finite number.
    """
    boxes = []
    for box in sample_boxes(volume.spatial_shape):
        values = volume.read(box.start, box.stop)
        if values.dtype.kind == "f":
            _require_finite(values, volume, box.start)
        boxes.append(values)
    return boxes


def sample_boxes(shape: tuple[int, int, int]) -> list[Box]:
    """The whole volume if it is small, or boxes on a grid that reaches from border to border."""
    if math.prod(shape) <= SAMPLE:
        return [Box((0, 0, 0), tuple(shape))]
    starts = []
    for length in shape:
        last = max(0, length - SAMPLE_BOX)
        starts.append(sorted({last * i // (SAMPLE_GRID - 1) for i in range(SAMPLE_GRID)}))
    boxes = []
    for z, y, x in product(*starts):
        stop = [min(n, at + SAMPLE_BOX) for n, at in zip(shape, (z, y, x))]
        boxes.append(Box((z, y, x), (stop[0], stop[1], stop[2])))
    return boxes


def without_padding(boxes: list[np.ndarray]) -> np.ndarray:
    """The values (n,) of a sample that are no padding, or all of them if all are padding."""
    padding = padding_value(boxes)
    values = np.concatenate([box.ravel() for box in boxes])
    tissue = values if padding is None else values[values != padding]
    return tissue if tissue.size else values


def padding_value(boxes: list[np.ndarray]) -> Any:
    """The value that fills voxels without tissue, constant over long runs; None without one."""
    thinned = np.concatenate([box[:, ::2, ::2, ::4].ravel() for box in boxes])
    values, counts = np.unique(thinned, return_counts=True)
    commonest = values[counts.argmax()]
    if len(values) <= 2 or counts.max() < PADDING_SHARE * len(thinned):
        return None
    same = [box == commonest for box in boxes]
    pairs = sum(int(np.count_nonzero(box[..., :-1])) for box in same)
    runs = sum(int(np.count_nonzero(box[..., :-1] & box[..., 1:])) for box in same)
    return commonest if runs > PADDING_RUNS * pairs else None


def histogram(values: np.ndarray, grey_range: Range) -> list[float]:
    """Shares of the mapped grey values in BINS bins over BIN_RANGE."""
    mapped = np.clip(to_float32(values, grey_range), *BIN_RANGE)
    counts = np.histogram(mapped, BINS, BIN_RANGE)[0]
    shares: list[float] = (counts / counts.sum()).round(6).tolist()
    return shares


def shift_between(histogram: list[float], other: list[float]) -> float:
    """How far grey values would have to move, in the mean, to turn one histogram into the other.

    The earth mover's distance, as a share of the grey range: 0 for equal ones.
    """
    width = (BIN_RANGE[1] - BIN_RANGE[0]) / BINS
    between = np.cumsum(histogram) - np.cumsum(other)
    return float(np.abs(between).sum() * width)
