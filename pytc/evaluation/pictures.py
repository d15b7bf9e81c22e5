"""The pictures of a report as PNGs: coloured slices, and the curves of a sweep.

A segment has the colour of the label that it covers best, so that errors show. matplotlib takes
long to load, so it is imported where it is used.
"""

import io
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from PIL import Image

from pytc.evaluation.sweep import Sweep
from pytc.io.labels import is_unlabelled
from pytc.io.volume import Volume
from pytc.metrics.overlap import Contingency
from pytc.metrics.table import panels

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MAX_PIXELS = 512  # larger slices are strided
# the axis that a slice is cut across, and how far along it
SLICES = (("z", 0.25), ("z", 0.5), ("z", 0.75), ("y", 0.5), ("x", 0.5))
# colours of the codes of `errors`
ERRORS = np.array([(0, 0, 0), (235, 40, 70), (40, 120, 255), (255, 200, 0)])
# a voxel in no segment, often at a membrane, is the lesser error
ERROR_STRENGTH = np.array([0, 0.7, 0.7, 0.35])
COLOURS = ("#1f5fbf", "#d1495b", "#2a9d8f", "#e9a03b", "#7b5ea7")


class Picture(NamedTuple):
    """A PNG, its caption, and its true width over height (voxels may be anisotropic)."""

    caption: str
    png: bytes
    aspect: float


class Matching:
    """Which label each segment covers best, and which segment covers each label best.

    Label 0 and segment 0 are left out.
    """

    def __init__(self, table: Contingency, task: str):
        self.task = task
        objects = (table.truth != 0) & (table.segmentation != 0)
        labels, segments, counts = (
            column[objects] for column in (table.truth, table.segmentation, table.count)
        )
        # Sorted so that the best pair comes last, and stays in the dictionary.
        order = np.lexsort((-labels.astype(np.int64), -segments.astype(np.int64), counts))
        labels, segments = labels[order].tolist(), segments[order].tolist()
        self._label_of = dict(zip(segments, labels))
        self._segment_of = dict(zip(labels, segments))

    def colours(self, segments: np.ndarray) -> np.ndarray:
        """Ids for `palette`: that of the label a segment covers best.

        A smaller piece of a label gets an id that no label has.
        """
        label = _look_up(self._label_of, segments)
        whole = (label > 0) & (_look_up(self._segment_of, label) == segments)
        return np.where(whole, label, -segments)

    def errors(self, labels: np.ndarray, segments: np.ndarray) -> np.ndarray:
        """The kind of error at each voxel, uint8.

        0: right, or not labelled; 1: in a segment of another label; 2: in a smaller piece;
        3: in no segment.
        """
        unlabelled = labels < (0 if self.task == "semantic" else 1)
        merged = (_look_up(self._label_of, segments) != labels) & (segments > 0)
        split = _look_up(self._segment_of, labels) != segments
        return np.select([unlabelled, (segments == 0) & (labels > 0), merged, split], [0, 3, 1, 2])


class ClassMatching:
    """Classes instead of objects: each has its colour, and another class is an error."""

    def colours(self, segments: np.ndarray) -> np.ndarray:
        """Ids for `palette`: the classes themselves."""
        return segments

    def errors(self, labels: np.ndarray, segments: np.ndarray) -> np.ndarray:
        """The kind of error at each voxel, uint8.

        0: right, or not labelled; 1: in another class; 3: in class 0, the true class is another.
        """
        wrong = (labels >= 0) & (labels != segments)
        return np.select([~wrong, segments == 0], [0, 3], 1).astype(np.uint8)


def palette(ids: np.ndarray) -> np.ndarray:
    """A bright colour for each id, and black for 0; the same on every call.

    (...) integers -> (..., 3) uint8.
    """
    from matplotlib.colors import hsv_to_rgb

    mixed = ids.astype(np.int64).view(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    mixed ^= mixed >> np.uint64(29)
    hue, saturation, value = (
        (mixed >> np.uint64(bits)) % np.uint64(n) / n for bits, n in ((0, 360), (20, 8), (12, 8))
    )
    colours = 255 * hsv_to_rgb(np.stack([hue, 0.55 + 0.45 * saturation, 0.7 + 0.34 * value], -1))
    return np.where(ids[..., None] == 0, 0, colours).astype(np.uint8)


def draw(
    segmentation: np.ndarray | Volume,
    axes: str,
    voxel_size: tuple[float, float, float],
    *,
    image: Volume | None = None,
    labels: np.ndarray | Volume | None = None,
    matching: Matching | ClassMatching | None = None,
) -> list[list[Picture]]:
    """Three slices across z, one across y and x: image, labels, segmentation and errors.

    Those that are given stand side by side. All have one shape, with spatial axes in the order
    `axes`.
    """
    rows = []
    for axis, fraction in SLICES:
        index = int(fraction * segmentation.shape[axes.index(axis)])
        segments = _cut(segmentation, axes, axis, index).astype(np.int64)
        grey = np.full(segments.shape, 255, np.uint8)
        drawn = {}
        if image is not None:
            grey = _grey(image, axes, axis, index)
            drawn["image"] = tint(grey)
        if labels is not None:
            truth = _cut(labels, axes, axis, index)
            truth = np.where(is_unlabelled(truth), -1, truth.astype(np.int64))
            drawn["labels"] = overlay(grey, np.maximum(truth, 0))
        ids = segments if matching is None else matching.colours(segments)
        drawn["segmentation"] = overlay(grey, ids)
        if matching is not None:
            codes = matching.errors(truth, segments)
            drawn["errors"] = tint(grey, ERRORS[codes], ERROR_STRENGTH[codes])
        height, width = (voxel_size[axes.index(a)] for a in "zyx" if a != axis)
        aspect = segments.shape[1] * width / (segments.shape[0] * height)
        rows.append(
            [
                Picture(f"{what}, {axis} = {index}", as_png(pixels), aspect)
                for what, pixels in drawn.items()
            ]
        )
    return rows


def _cut(volume: np.ndarray | Volume, axes: str, axis: str, index: int) -> np.ndarray:
    """The first channel's slice across `axis`, in the order z, y, x, strided to MAX_PIXELS."""
    lengths = dict(zip(axes, volume.shape))
    step = -(-max(lengths[a] for a in "zyx" if a != axis) // MAX_PIXELS)
    cut = {axis: index, "c": 0}
    view: np.ndarray = volume[tuple(cut.get(a, slice(None, None, step)) for a in axes)]
    rows, columns = (a for a in axes if a not in cut)
    # z comes before y, and y before x
    return view.T if rows < columns else view


def _grey(image: Volume, axes: str, axis: str, index: int) -> np.ndarray:
    """The image's slice in 8 bit."""
    spatial = iter(axes)  # the image may not say its axes
    axes = "".join("c" if a == "c" else next(spatial) for a in image.axes)
    return stretched(_cut(image, axes, axis, index).astype(np.float32))


def stretched(pixels: np.ndarray) -> np.ndarray:
    """Grey values in 8 bit, stretched between their 1st and 99th percentile."""
    low, high = np.percentile(pixels, (1, 99))
    grey: np.ndarray = np.clip((pixels - low) / max(high - low, 1e-6), 0, 1) * 255
    return grey.astype(np.uint8)


def overlay(grey: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """Ids in colour over the grey image, their borders stronger."""
    border = np.zeros(ids.shape, bool)
    border[:-1] |= ids[:-1] != ids[1:]
    border[:, :-1] |= ids[:, :-1] != ids[:, 1:]
    return tint(grey, palette(ids), (ids != 0) * np.where(border, 0.9, 0.5))


def tint(
    grey: np.ndarray, colours: np.ndarray | float = 0.0, strength: np.ndarray | float = 0.0
) -> np.ndarray:
    """(H, W, 3) uint8: grey (H, W) mixed with colours (H, W, 3) by a strength (H, W) in [0, 1]."""
    alpha = np.broadcast_to(strength, grey.shape)[..., None]
    over = np.broadcast_to(colours, (*grey.shape, 3))
    mixed: np.ndarray = grey[..., None] * (1 - alpha) + over * alpha
    return mixed.astype(np.uint8)


def as_png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def _look_up(table: dict[int, int], ids: np.ndarray) -> np.ndarray:
    """The entries of `ids`, 0 for those that have none."""
    distinct, index = np.unique(ids, return_inverse=True)
    entries = np.array([table.get(i, 0) for i in distinct.tolist()])
    return entries[index].reshape(ids.shape)


def draw_sweep(sweep: Sweep) -> bytes:
    """PNG of the scores over the threshold, one panel for each family, the best row marked.

    Behind the points is the curve of an exact sweep, for the scores that it has.
    """
    from matplotlib.figure import Figure

    best = sweep["best_metrics"]
    drawn = panels(best, sweep["metric"])
    figure = Figure(figsize=(4.2 * len(drawn), 3.4), dpi=160, layout="constrained")
    all_axes = figure.subplots(1, len(drawn), squeeze=False)[0]
    for axes, (title, names) in zip(all_axes, drawn.items()):
        for order, (name, colour) in enumerate(zip(names, COLOURS)):
            _draw_score(axes, sweep, name, colour, zorder=9 - order)
        axes.axvline(best["threshold"], color="#888", linewidth=1, linestyle=":")
        axes.set_title(title, fontsize=11, loc="left", fontweight="bold")
        axes.set(xlabel="threshold", ylim=(0, None), ymargin=0.18)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", color="#e4e7eb")
        axes.legend(frameon=False, fontsize=8)
    figure.set_layout_engine("constrained", wspace=0.05)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def _draw_score(axes: "Axes", sweep: Sweep, name: str, colour: str, zorder: int) -> None:
    """One score over the threshold; the metric that decides is drawn larger, its best starred."""
    rows, curve, best = sweep["all_results"], sweep["curve"], sweep["best_metrics"]
    has_curve = name in curve
    if has_curve:
        changes, values = curve["threshold"][::-1], curve[name][::-1]
        axes.step(changes, values, where="post", linewidth=0.8, color=colour)
    is_chosen = name == sweep["metric"]
    axes.plot(
        [row["threshold"] for row in rows],
        [row[name] for row in rows],
        "o" if has_curve else "o-",
        markersize=4 if is_chosen else 2.5,
        linewidth=2.2 if is_chosen else 1.2,
        color=colour,
        label=name,
        zorder=zorder,
    )
    if not is_chosen:
        return
    if sweep["plateau"] is not None:
        axes.axvspan(*sweep["plateau"], color=colour, alpha=0.1, linewidth=0)
    axes.plot(
        best["threshold"],
        best[name],
        marker="*",
        markersize=17,
        color=colour,
        markeredgecolor="white",
        zorder=10,
    )
    heading = f"{best[name]:.3f} at {best['threshold']:.3f}"
    axes.set_title(heading, fontsize=10, loc="right", color=colour)
