"""Coloured slices of a result as PNGs. A segment wears the colour of the label it covers best, so that errors show."""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
from PIL import Image

from pytc.io.volume import Volume
from pytc.metrics.overlap import Contingency

MAX_PIXELS = 512  # larger slices are strided
SLICES = (("z", 0.25), ("z", 0.5), ("z", 0.75), ("y", 0.5), ("x", 0.5))  # axis a slice is cut across, and where
ERRORS = np.array([(0, 0, 0), (235, 40, 70), (40, 120, 255), (255, 200, 0)])  # colours of the codes of `errors`
ERROR_STRENGTH = np.array([0, 0.7, 0.7, 0.35])  # a voxel in no segment, often at a membrane, is the lesser error


@dataclass(frozen=True)
class Picture:
    """A PNG, its caption, and its true width over height (voxels may be anisotropic)."""

    caption: str
    png: bytes
    aspect: float


@dataclass(frozen=True)
class Scene:
    """What there is to see, arrays or volumes of one shape in stored axis order; image and labels may be missing."""

    image: Volume | None
    labels: np.ndarray | Volume | None
    segmentation: np.ndarray | Volume
    axes: str  # stored order of the spatial axes, e.g. zyx
    voxel_size: tuple[float, float, float]


class Matching:
    """Which label each segment covers best, and which segment each label; 0 apart, which in a mask is a label too."""

    def __init__(self, table: Contingency, task: str):
        self.task = task
        objects = (table.truth != 0) & (table.segmentation != 0)
        labels, segments, counts = (column[objects] for column in (table.truth, table.segmentation, table.count))
        order = np.lexsort((-labels.astype(np.int64), -segments.astype(np.int64), counts))  # the last one wins
        labels, segments = labels[order].tolist(), segments[order].tolist()
        self._label_of, self._segment_of = dict(zip(segments, labels)), dict(zip(labels, segments))

    def colours(self, segments: np.ndarray) -> np.ndarray:
        """Ids for `palette`: that of the label a segment covers best; one of its own for a smaller piece of a label."""
        label = _look_up(self._label_of, segments)
        whole = (label > 0) & (_look_up(self._segment_of, label) == segments)
        return np.where(whole, label, -segments)

    def errors(self, labels: np.ndarray, segments: np.ndarray) -> np.ndarray:
        """0: right, or not labelled; 1: in a segment of another label; 2: in a smaller piece; 3: in no segment."""
        unlabelled = labels < (0 if self.task == "semantic" else 1)
        merged = (_look_up(self._label_of, segments) != labels) & (segments > 0)
        split = _look_up(self._segment_of, labels) != segments
        return np.select([unlabelled, (segments == 0) & (labels > 0), merged, split], [0, 3, 1, 2])


def palette(ids: np.ndarray) -> np.ndarray:
    """A bright colour for each id, black for 0: (...) integers -> (..., 3) uint8; the same on every call."""
    from matplotlib.colors import hsv_to_rgb  # takes long to load: not before the scores

    mixed = ids.astype(np.int64).view(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    mixed ^= mixed >> np.uint64(29)
    hue, saturation, value = ((mixed >> np.uint64(bits)) % np.uint64(n) / n for bits, n in ((0, 360), (20, 8), (12, 8)))
    colours = 255 * hsv_to_rgb(np.stack([hue, 0.55 + 0.45 * saturation, 0.7 + 0.34 * value], -1))
    return np.where(ids[..., None] == 0, 0, colours).astype(np.uint8)


def draw(scene: Scene, matching: Matching | None) -> list[list[Picture]]:
    """Three slices across z, one across y and x: image, labels, segmentation and errors side by side, where present."""
    return [_draw_slice(scene, matching, axis, place) for axis, place in SLICES]


def _draw_slice(scene: Scene, matching: Matching | None, axis: str, place: float) -> list[Picture]:
    index = int(place * scene.segmentation.shape[scene.axes.index(axis)])
    segments = _cut(scene.segmentation, scene.axes, axis, index).astype(np.int64)
    grey = np.full(segments.shape, 255, np.uint8) if scene.image is None else _grey(scene, axis, index)
    drawn = {} if scene.image is None else {"image": _tint(grey)}
    if scene.labels is not None:
        labels = _cut(scene.labels, scene.axes, axis, index).astype(np.int64)
        drawn["labels"] = _overlay(grey, np.maximum(labels, 0))
    drawn["segmentation"] = _overlay(grey, matching.colours(segments) if matching else segments)
    if matching:
        codes = matching.errors(labels, segments)
        drawn["errors"] = _tint(grey, ERRORS[codes], ERROR_STRENGTH[codes])
    height, width = (scene.voxel_size[scene.axes.index(a)] for a in "zyx" if a != axis)
    aspect = segments.shape[1] * width / (segments.shape[0] * height)
    return [Picture(f"{what}, {axis} = {index}", _png(pixels), aspect) for what, pixels in drawn.items()]


def _cut(volume: np.ndarray | Volume, axes: str, axis: str, index: int) -> np.ndarray:
    """The first channel's slice across `axis`, rows and columns in the order z, y, x, strided to MAX_PIXELS."""
    view = volume[tuple(index if a == axis else 0 if a == "c" else slice(None) for a in axes)]
    rows, columns = (a for a in axes if a not in (axis, "c"))
    view = view.T if rows < columns else view  # z comes before y, and y before x
    step = -(-max(view.shape) // MAX_PIXELS)
    return view[::step, ::step]


def _grey(scene: Scene, axis: str, index: int) -> np.ndarray:
    """The image's slice in 8 bit, stretched between its 1st and 99th percentile."""
    spatial = iter(scene.axes)  # the image's own where it does not state them
    axes = "".join("c" if a == "c" else next(spatial) for a in scene.image.axes)
    pixels = _cut(scene.image, axes, axis, index).astype(np.float32)
    low, high = np.percentile(pixels, (1, 99))
    return (np.clip((pixels - low) / max(high - low, 1e-6), 0, 1) * 255).astype(np.uint8)


def _overlay(grey: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """Ids in colour over the grey image, their borders stronger."""
    border = np.zeros(ids.shape, bool)
    border[:-1] |= ids[:-1] != ids[1:]
    border[:, :-1] |= ids[:, :-1] != ids[:, 1:]
    return _tint(grey, palette(ids), (ids != 0) * np.where(border, 0.9, 0.5))


def _tint(grey: np.ndarray, colours: np.ndarray | float = 0.0, strength: np.ndarray | float = 0.0) -> np.ndarray:
    """(H, W, 3) uint8: grey (H, W) mixed with colours (H, W, 3) by a strength (H, W) in [0, 1]."""
    alpha = np.broadcast_to(strength, grey.shape)[..., None]
    return (grey[..., None] * (1 - alpha) + np.broadcast_to(colours, (*grey.shape, 3)) * alpha).astype(np.uint8)


def _png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def _look_up(table: dict[int, int], ids: np.ndarray) -> np.ndarray:
    """The entries of `ids`, 0 for those that have none."""
    distinct, place = np.unique(ids, return_inverse=True)
    return np.array([table.get(i, 0) for i in distinct.tolist()])[place].reshape(ids.shape)
