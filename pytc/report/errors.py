"""Where to look first: the skeletons that lose most, each with a voxel to go to."""

from __future__ import annotations

from typing import Any

import numpy as np

from pytc.io.skeleton import Skeleton
from pytc.metrics.skeleton import SkeletonMetrics
from pytc.report.html import Table

ROWS = 10


def worst_skeletons(skeleton: Skeleton, segmentation: Any, axes: str) -> Table:
    """The ROWS skeletons with the largest difference of length and run length; segmentation: array or volume."""
    metrics = SkeletonMetrics(skeleton)
    details = metrics.details(segmentation)
    mergers = [set(ids) for segment, ids in details["mergers"].items() if segment > 0]
    start, end = metrics.segments_at_nodes(segmentation)[skeleton.edges].T
    wrong = np.where(start == end, start == 0, np.where((start > 0) & (end > 0), 2, 1))  # 2: split, 1: in no segment
    owner = skeleton.ids[skeleton.edges[:, 0]]
    rows = []
    for row in sorted(details["skeletons"], key=lambda row: row["run_length"] - row["length"])[:ROWS]:
        if row["run_length"] < row["length"]:
            merged = sorted(set().union(*(ids for ids in mergers if row["id"] in ids)) - {row["id"]})
            edges = np.flatnonzero(owner == row["id"])
            worst = edges[np.argmax(wrong[edges])]
            place = skeleton.positions[skeleton.edges[worst, 0]].tolist() if wrong[worst] else []
            rows.append((row["id"], f"{row['length'] / 1000:.2f}", f"{row['run_length'] / row['length']:.0%}",
                         int(row["splits"]), int(row["omitted_edges"]), ", ".join(map(str, merged[:4])) or "none",
                         ", ".join(map(str, place)) or "anywhere"))
    note = "By the run length they lose. The voxel is at a split, or else at an edge outside of any segment."
    header = ("skeleton", "length, µm", "reached", "splits", "omitted", "merged with", f"look at {', '.join(axes)}")
    return Table("Skeletons with the largest losses", note, header, rows)
