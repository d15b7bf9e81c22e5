"""Objects matched with segments by their intersection over union (IoU), from the table of overlaps.

A pair of an object and a segment matches where its IoU is at least a threshold, of 0.5 or more: so
no other pair of the two can match, but for ties at 0.5 itself. Of N objects and M segments, T of
which match:

    precision = T / M
    recall = T / N
    F1 = 2 T / (N + M)
    PQ (panoptic quality) = 2 (sum of the IoU of the pairs that match) / (N + M)

An object is what has a label above 0. Of a segment all labelled voxels count, those of background
(label 0) too.
"""

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pytc.config import Lengths
from pytc.metrics.overlap import PREFIX, Contingency, metrics_of_table
from pytc.metrics.table import metric_names

INSTANCE_METRICS = tuple(
    name for name in metric_names("instance", "labels") if not name.startswith(PREFIX)
)
LEAST_IOU = 0.5
THRESHOLDS = tuple(n / 20 for n in range(10, 20))  # 0.5, 0.55, ..., 0.95
NAMED = {50: 0.5, 75: 0.75}  # the thresholds that have scores of their own
RECALLS = 0.01 * np.arange(101)  # at which precision is read


@dataclass(frozen=True)
class Overlaps:
    """The overlaps of objects and segments, both without 0, as numbers of rows."""

    object_ids: np.ndarray  # (N,) uint64, ascending
    segment_ids: np.ndarray  # (M,) uint64, ascending
    object_sizes: np.ndarray  # (N,) int64, labelled voxels
    segment_sizes: np.ndarray  # (M,) int64
    objects: np.ndarray  # (P,) the object of each pair
    segments: np.ndarray  # (P,) its segment
    count: np.ndarray  # (P,) int64, voxels of both

    @property
    def iou(self) -> np.ndarray:
        """(P,) float64."""
        sizes = self.object_sizes[self.objects] + self.segment_sizes[self.segments]
        found: np.ndarray = self.count / (sizes - self.count)
        return found


def overlaps_of_objects(table: Contingency) -> Overlaps:
    """The table without 0, which still counts for the sizes."""
    in_object, in_segment = table.truth != 0, table.segmentation != 0
    object_ids, objects = np.unique(table.truth[in_object], return_inverse=True)
    segment_ids, segments = np.unique(table.segmentation[in_segment], return_inverse=True)
    both = in_object & in_segment
    return Overlaps(
        object_ids,
        segment_ids,
        np.bincount(objects, table.count[in_object], len(object_ids)).astype(np.int64),
        np.bincount(segments, table.count[in_segment], len(segment_ids)).astype(np.int64),
        objects[both[in_object]],
        segments[both[in_segment]],
        table.count[both],
    )


def instance_metrics(table: Contingency) -> dict[str, float]:
    """INSTANCE_METRICS of a segmentation, from the table of its overlaps with dense labels.

    ap_50, ap_75: average precision. Segments are taken by their voxels, the largest first; ap is
    the mean precision at recalls of 0, 0.01, ..., 1, each the best one at that recall or a higher
    one. ap: its mean over THRESHOLDS. precision_50, recall_50, f1_50 and pq_50 are those of the
    head of this file; without a match all are 0.

    Source: Schmidt et al., "Cell detection with star-convex polygons" (2018), whose accuracy is F1
    / (2 - F1); Kirillov et al., "Panoptic segmentation" (2019); Lin et al., "Microsoft COCO"
    (2014), and Wei et al., "MitoEM dataset" (2020), for average precision without confidences.
    """
    found = overlaps_of_objects(table)
    best = _matched(found)  # (M,) IoU of each segment with its object; 0 without one
    n_objects, n_segments = len(found.object_ids), len(found.segment_ids)
    by_size = np.argsort(-found.segment_sizes, kind="stable")
    precisions = {
        threshold: average_precision(best[by_size] >= threshold, n_objects)
        for threshold in THRESHOLDS
    }
    scores = {f"ap_{name}": precisions[threshold] for name, threshold in NAMED.items()}
    scores["ap"] = sum(precisions.values()) / len(precisions)
    for name, threshold in NAMED.items():
        ious = best[best >= threshold]
        scores[f"precision_{name}"] = _share(len(ious), n_segments)
        scores[f"recall_{name}"] = _share(len(ious), n_objects)
        scores[f"f1_{name}"] = _share(2 * len(ious), n_objects + n_segments)
        scores[f"pq_{name}"] = _share(2 * float(ious.sum()), n_objects + n_segments)
    return {name: scores[name] for name in INSTANCE_METRICS}


def dense_metrics(table: Contingency) -> dict[str, float]:
    """All scores against dense labels, by their names in the table of metrics."""
    named = {PREFIX + name: value for name, value in metrics_of_table(table).items()}
    return named | instance_metrics(table)


def _matched(found: Overlaps) -> np.ndarray:
    """(M,) the IoU of each segment with the object it matches, 0 where that is below LEAST_IOU.

    A pair is taken if neither of its two is in a better one. Of equal pairs the first one is taken.
    """
    iou = found.iou
    rows = np.flatnonzero(iou >= LEAST_IOU)
    rows = rows[np.argsort(-iou[rows], kind="stable")]
    matched = np.zeros(len(found.segment_ids))
    is_taken = np.zeros(len(found.object_ids), bool)
    for row in rows.tolist():
        an_object, segment = found.objects[row], found.segments[row]
        if not is_taken[an_object] and matched[segment] == 0:
            is_taken[an_object] = True
            matched[segment] = iou[row]
    return matched


def average_precision(is_right: np.ndarray, n_objects: int) -> float:
    """The mean of precision over RECALLS.

    Args:
        is_right: (M,) bool, whether each segment matches an object; the surest segment first.
        n_objects: that can be found.
    """
    if n_objects == 0 or not is_right.any():
        return 0.0
    hits = np.cumsum(is_right)
    precision = hits / np.arange(1, len(hits) + 1)
    best_from_here_on = np.maximum.accumulate(precision[::-1])[::-1]
    first = np.searchsorted(hits / n_objects, RECALLS)  # where so much is found; M if nowhere
    reached = first[first < len(hits)]
    return float(best_from_here_on[reached].sum() / len(RECALLS))


def _share(part: float, whole: int) -> float:
    return part / whole if whole else 0.0


@dataclass(frozen=True)
class ObjectRow:
    """What became of one object."""

    label: int
    voxels: int
    segment: int  # of the largest IoU; 0 for none
    iou: float
    missing: int  # voxels in no segment
    splits: int  # further segments that lie in this object for the most part
    merges: int  # other objects that are best covered by the segment that covers this one best


def object_rows(table: Contingency) -> list[ObjectRow]:
    """A row for each true object, by its label.

    A segment lies in an object for the most part if it shares more voxels with it than with any
    other one, so a border that is a few voxels off is no split and no merger.
    """
    found = overlaps_of_objects(table)
    n_objects = len(found.object_ids)
    iou, best_iou = found.iou, np.zeros(n_objects)
    order = np.argsort(iou, kind="stable")  # the last of an object is its best one
    best_iou[found.objects[order]] = iou[order]
    matching = np.full(n_objects, -1)
    matching[found.objects[order]] = found.segments[order]
    covered = np.bincount(found.objects, found.count, n_objects).astype(np.int64)
    best_object, best_segment = best_partners(
        found.objects, found.segments, found.count, np.ones(len(found.count), bool)
    )
    mostly_here = np.bincount(best_object[best_object >= 0], minlength=n_objects)
    objects_of = np.bincount(best_segment[best_segment >= 0], minlength=len(found.segment_ids))
    rows = []
    for number, label in enumerate(found.object_ids.tolist()):
        segment = matching[number]
        has_any = segment >= 0
        rows.append(
            ObjectRow(
                label,
                voxels=int(found.object_sizes[number]),
                segment=int(found.segment_ids[segment]) if has_any else 0,
                iou=float(best_iou[number]),
                missing=int(found.object_sizes[number] - covered[number]),
                splits=max(0, int(mostly_here[number]) - 1),
                merges=int(objects_of[best_segment[number]]) - 1 if has_any else 0,
            )
        )
    return rows


def best_partners(
    labels: np.ndarray, segments: np.ndarray, count: np.ndarray, counts: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The label that each segment covers best, and the segment that covers each label best.

    Numbers of rows; -1 for none. Of equal counts the lower number is best.

    Args:
        labels, segments: (P,) numbers from 0 on.
        count: (P,) voxels of each pair.
        counts: (P,) bool, whether a pair counts.
    """
    best_label = np.full(int(segments.max(initial=-1)) + 1, -1)
    best_segment = np.full(int(labels.max(initial=-1)) + 1, -1)
    rows = np.flatnonzero(counts)
    rows = rows[np.lexsort((-labels[rows], -segments[rows], count[rows]))]
    best_label[segments[rows]] = labels[rows]  # the last of equal entries stays: the best
    best_segment[labels[rows]] = segments[rows]
    return best_label, best_segment


def write_objects(rows: Sequence[ObjectRow], voxel_size: Lengths | None) -> bytes:
    """objects.csv: a row for each object, its volume in cubic micrometres if voxels have a size."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    names = ("label", "voxels", "volume_um3", "segment", "iou", "missing", "splits", "merges")
    writer.writerow(names)
    for row in rows:
        volume = ""
        if voxel_size is not None:
            volume = f"{row.voxels * math.prod(voxel_size) / 1e9:.6g}"
        errors = (row.missing, row.splits, row.merges)
        writer.writerow([row.label, row.voxels, volume, row.segment, f"{row.iou:.6g}", *errors])
    return text.getvalue().encode()
