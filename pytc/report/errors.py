"""Where to look first: the worst mergers, and the skeletons that lose most, each with a voxel to go to."""

from __future__ import annotations

from typing import Any

import numpy as np

from pytc.io.skeleton import Skeleton
from pytc.metrics.skeleton import SkeletonMetrics
from pytc.report.html import Table

ROWS = 10
MAX_NODES = 1500  # of each of two skeletons that are compared to find where they come closest


def worst_errors(skeleton: Skeleton, segmentation: Any, axes: str) -> list[Table]:
    """The tables of the ROWS worst mergers and losses, without those that are empty; segmentation: array or volume."""
    metrics = SkeletonMetrics(skeleton)
    segments = metrics.segments_at_nodes(segmentation)
    place = f"look at {', '.join(axes)}"
    details = metrics.details(segmentation)["skeletons"]
    tables = [_mergers(skeleton, segments, place), _losses(skeleton, segments, details, place)]
    return [table for table in tables if table.rows]


def _mergers(skeleton: Skeleton, segments: np.ndarray, place: str) -> Table:
    """The segments with most nodes outside of the skeleton they hold most of."""
    pairs, counts = np.unique(np.stack([segments, skeleton.ids])[:, segments > 0], axis=1, return_counts=True)
    found, starts = np.unique(pairs[0], return_index=True)
    foreign = np.add.reduceat(counts, starts) - np.maximum.reduceat(counts, starts) if len(starts) else counts
    rows = []
    for i in np.argsort(-foreign, kind="stable")[:ROWS]:
        inside = pairs[0] == found[i]
        ids = pairs[1][inside][np.argsort(-counts[inside], kind="stable")]
        if len(ids) > 1:
            joined = ", ".join(map(str, ids[:4])) + (f" and {len(ids) - 4} more" if len(ids) > 4 else "")
            first, second = (np.flatnonzero((segments == found[i]) & (skeleton.ids == k)) for k in ids[:2])
            rows.append((int(found[i]), joined, int(foreign[i]), _closest(skeleton, first, second)))
    note = "Segments that join several skeletons, by the number of nodes outside of the largest one."
    return Table("Worst mergers", note, ("segment", "joins skeletons", "foreign nodes", place), rows)


def _losses(skeleton: Skeleton, segments: np.ndarray, details: list[dict[str, Any]], place: str) -> Table:
    """The skeletons with the largest difference of length and run length."""
    start, end = segments[skeleton.edges].T
    wrong = np.where(start == end, start == 0, np.where((start > 0) & (end > 0), 2, 1))  # 2: split, 1: in no segment
    owner = skeleton.ids[skeleton.edges[:, 0]]
    rows = []
    for row in sorted(details, key=lambda row: row["run_length"] - row["length"])[:ROWS]:
        if row["run_length"] < row["length"]:
            edges = np.flatnonzero(owner == row["id"])
            worst = edges[np.argmax(wrong[edges])]
            where = skeleton.positions[skeleton.edges[worst, 0]] if wrong[worst] else None
            rows.append((row["id"], f"{row['length'] / 1000:.2f}", f"{row['run_length'] / row['length']:.0%}",
                         row["segments"], int(row["splits"]), int(row["omitted_edges"]), int(row["mergers"]),
                         "merged" if where is None else ", ".join(map(str, where.tolist()))))
    note = "Skeletons by the run length they lose; the voxel is at a split, or else at an edge outside of any segment."
    header = ("skeleton", "length, µm", "reached", "segments", "splits", "omitted edges", "mergers, 0 included", place)
    return Table("Largest losses", note, header, rows)


def _closest(skeleton: Skeleton, first: np.ndarray, second: np.ndarray) -> str:
    """The voxel of a node of `second` that is nearest to one of `first`, of at most MAX_NODES each."""
    first, second = (nodes[:: -(-len(nodes) // MAX_NODES)] for nodes in (first, second))
    a, b = skeleton.nm[first], skeleton.nm[second]
    squares = (a**2).sum(1)[:, None] + (b**2).sum(1) - 2 * a @ b.T
    node = second[squares.min(0).argmin()]
    return ", ".join(map(str, skeleton.positions[node].tolist()))
