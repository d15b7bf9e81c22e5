"""Where to look first: the skeletons that lose most, each with a voxel to go to."""

from __future__ import annotations

from typing import Any

import numpy as np

from pytc.io.skeleton import Skeleton
from pytc.metrics.skeleton import SkeletonMetrics

ROWS = 10


def worst_skeletons(skeleton: Skeleton, segmentation: Any, axes: str) -> list[dict[str, Any]]:
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
            rows.append({
                "skeleton": row["id"], "length, µm": f"{row['length'] / 1000:.2f}",
                "reached": f"{row['run_length'] / row['length']:.0%}", "splits": int(row["splits"]),
                "omitted": int(row["omitted_edges"]), "merged with": ", ".join(map(str, merged[:4])) or "none",
                f"look at {', '.join(axes)}": ", ".join(map(str, place)) or "anywhere",
            })  # fmt: skip
    return rows
