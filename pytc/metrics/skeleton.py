"""Run lengths, mergers and splits of a segmentation, seen from skeletons of the true neurons."""

from __future__ import annotations

import itertools
from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import numpy as np

from pytc.io.skeleton import Skeleton
from pytc.metrics.hashing import number_ids
from pytc.metrics.overlap import Contingency, metrics_of_table

TOLERANCES = {"nerl_5": 5, "nerl_20": 20, "nerl_100": 100, "nerl_inf": np.inf}
SKELETON_METRICS = ("erl", "max_erl", "nerl", "voi_sum", "voi_split", "voi_merge",
                    "n_mergers", "n_non0_mergers", "n_splits", *TOLERANCES)
BLOCK = 128  # edge, in voxels, of the blocks by which nodes are read from a volume on disk


@dataclass(frozen=True)
class _Pairs:
    """The distinct (skeleton, segment) pairs of nodes, and what happens at the edges."""

    table: Contingency  # ids and number of nodes of each pair
    skeleton: np.ndarray  # (P,) index of the pair's skeleton
    segment: np.ndarray  # (P,) index of the pair's segment
    n_segments: int
    length: np.ndarray  # (P,) nm of edges with both nodes in the pair, segment 0 apart
    split: np.ndarray  # (E,) bool: edges between two segments other than 0
    omitted: np.ndarray  # (E,) bool: edges with a node in segment 0


class SkeletonMetrics:
    """Scores of segmentations against one set of skeletons, whose arrays are prepared once.

    An edge is correct if both nodes lie in one segment other than 0 that is not a merger; a segment is a merger if it
    holds nodes of two or more skeletons. erl (nm): sum over skeletons and segments of the squared length of correct
    edges, over the total length; max_erl: that of a perfect segmentation; nerl = erl / max_erl. nerl_N: the same, but
    (skeleton, segment) pairs of at most N nodes are overlooked when mergers are sought. n_mergers: (skeleton,
    segment) pairs on mergers, segment 0 included; n_non0_mergers: without it. n_splits: edges between two segments
    other than 0. voi_*: as `overlap_metrics`, over nodes.

    Source: Januszewski et al., "High-precision automated reconstruction of neurons with flood-filling networks"
    (2018), as counted by funlib.evaluate and the BANIS baseline.
    """

    def __init__(self, skeleton: Skeleton):
        self._lengths = skeleton.edge_lengths
        self.total_length = float(self._lengths.sum())
        if not self.total_length > 0:
            raise ValueError(f"expected skeletons with edges of some length, got {len(skeleton.ids)} nodes without")
        self.positions = skeleton.positions
        self._columns = tuple(np.ascontiguousarray(skeleton.positions.T))
        self._low, self._high = (np.array([f(column) for column in self._columns]) for f in (np.min, np.max))
        self._nodes, self._ids = number_ids(skeleton.ids)
        self._starts, self._ends = np.ascontiguousarray(skeleton.edges.T)
        self._skeleton_lengths = np.bincount(self._nodes[self._starts], self._lengths, len(self._ids))
        self.max_erl = float(np.sum(self._skeleton_lengths[self._ids != 0] ** 2) / self.total_length)

    def compute(self, segmentation) -> dict[str, float]:
        """All of SKELETON_METRICS, by name; segmentation as in `segments_at_nodes`."""
        return self.compute_nodes(self.segments_at_nodes(segmentation))

    def compute_nodes(self, segments: np.ndarray) -> dict[str, float]:
        """All of SKELETON_METRICS, by name, from the segment at each node, (N,) unsigned."""
        pairs = self._pairs(segments)
        erl = self._run_length(pairs, 0)
        voi = metrics_of_table(pairs.table)
        on_merger = _mergers(pairs, 0)[pairs.segment]
        return {
            "erl": erl,
            "max_erl": self.max_erl,
            "nerl": erl / self.max_erl,
            **{name: voi[name] for name in ("voi_sum", "voi_split", "voi_merge")},
            "n_mergers": int(on_merger.sum()),
            "n_non0_mergers": int((on_merger & (pairs.table.segmentation != 0)).sum()),
            "n_splits": int(pairs.split.sum()),
            **{name: self._run_length(pairs, nodes) / self.max_erl for name, nodes in TOLERANCES.items()},
        }

    def details(self, segmentation) -> dict[str, Any]:
        """Where the errors are; segmentation as in `segments_at_nodes`.

        "mergers": {segment: [skeletons]}; "splits": {skeleton: [(segment, segment) of each split edge]};
        "skeletons": a dict for each, with id, length and run_length (nm; the squares of its correct lengths over its
        length), and its numbers of segments, splits, mergers and omitted edges (a node in segment 0).
        """
        segments = self.segments_at_nodes(segmentation)
        pairs = self._pairs(segments)
        on_merger = _mergers(pairs, 0)[pairs.segment]
        mergers, splits = defaultdict(list), defaultdict(list)
        for segment, skeleton in zip(pairs.table.segmentation[on_merger], pairs.table.truth[on_merger]):
            mergers[int(segment)].append(int(skeleton))
        owner = self._nodes[self._starts]
        for edge in np.flatnonzero(pairs.split):
            ends = int(segments[self._starts[edge]]), int(segments[self._ends[edge]])
            splits[int(self._ids[owner[edge]])].append(ends)

        def per_skeleton(index, weights=None):
            return np.bincount(index, weights, len(self._ids))

        squares = per_skeleton(pairs.skeleton, np.where(_excluded(pairs, 0), 0, pairs.length) ** 2)
        run_length = np.divide(squares, self._skeleton_lengths, out=np.zeros_like(squares),
                               where=self._skeleton_lengths > 0)
        columns = {
            "id": self._ids, "length": self._skeleton_lengths, "run_length": run_length,
            "segments": per_skeleton(pairs.skeleton[pairs.table.segmentation != 0]),
            "splits": per_skeleton(owner[pairs.split]), "mergers": per_skeleton(pairs.skeleton[on_merger]),
            "omitted_edges": per_skeleton(owner[pairs.omitted]),
        }
        rows = [dict(zip(columns, row)) for row in zip(*(column.tolist() for column in columns.values()))]
        return {"mergers": dict(mergers), "splits": dict(splits), "skeletons": rows}

    def segments_at_nodes(self, segmentation) -> np.ndarray:
        """The segment at each node, (N,) uint64.

        segmentation (Z, Y, X) integer, in the axis order of the skeleton: an array, or a volume, of which only blocks
        that hold nodes are read. ValueError if a node lies outside it or a segment is negative.
        """
        shape = tuple(segmentation.shape)
        if len(shape) != 3 or np.dtype(segmentation.dtype).kind not in "iu":
            raise ValueError(f"expected an integer segmentation (Z, Y, X), got {segmentation.dtype} {shape}")
        if (self._low < 0).any() or (self._high >= shape).any():
            outside = ((self.positions < 0) | (self.positions >= shape)).any(1)
            raise ValueError(f"expected skeleton nodes inside a segmentation of shape {shape}, got one at "
                             f"{tuple(self.positions[outside][0].tolist())} and {outside.sum() - 1} more outside")
        if isinstance(segmentation, np.ndarray):
            segments = segmentation[self._columns]
        else:
            segments = self._read_blocks(segmentation)
        if segments.dtype.kind == "i" and segments.min() < 0:
            raise ValueError(f"expected segments of 0 or more, got {segments.min()}")
        return segments.astype(np.uint64)

    def _read_blocks(self, volume) -> np.ndarray:
        segments = np.empty(len(self.positions), volume.dtype)
        block = self.positions // BLOCK
        order = np.lexsort(block.T[::-1])
        bounds = np.flatnonzero(np.diff(block[order], axis=0, prepend=-1).any(1))
        for first, last in itertools.pairwise([*bounds, len(order)]):
            nodes = order[first:last]
            inside = self.positions[nodes]
            start, stop = inside.min(0), inside.max(0) + 1
            box = volume[tuple(map(slice, start.tolist(), stop.tolist()))]
            segments[nodes] = box[tuple((inside - start).T)]
        return segments

    def _pairs(self, segments: np.ndarray) -> _Pairs:
        segments = np.ascontiguousarray(segments, np.uint64)
        if segments.shape != self._nodes.shape:
            raise ValueError(f"expected a segment for each of {len(self._nodes)} nodes, got shape {segments.shape}")
        codes, ids = number_ids(segments)
        nodes, keys = number_ids((self._nodes * len(ids) + codes).astype(np.uint64))
        skeleton, segment = np.divmod(keys.astype(np.int64), len(ids))
        table = Contingency(self._ids[skeleton], ids[segment], np.bincount(nodes))

        start, end = codes[self._starts], codes[self._ends]
        background = ids == 0
        omitted = background[start] | background[end]
        kept = ~omitted & (start == end)
        length = np.bincount(nodes[self._starts[kept]], self._lengths[kept], len(keys))
        return _Pairs(table, skeleton, segment, len(ids), length, ~omitted & (start != end), omitted)

    def _run_length(self, pairs: _Pairs, overlooked: float) -> float:
        return float(np.sum(pairs.length[~_excluded(pairs, overlooked)] ** 2) / self.total_length)


def _mergers(pairs: _Pairs, overlooked: float) -> np.ndarray:
    """Which segments hold two or more skeletons, by pairs of more than `overlooked` nodes, (n_segments,) bool."""
    counted = pairs.table.count > overlooked
    return np.bincount(pairs.segment[counted], minlength=pairs.n_segments) > 1


def _excluded(pairs: _Pairs, overlooked: float) -> np.ndarray:
    """Which pairs' edges are wrong, (P,) bool: a merger and a skeleton that is part of any merger."""
    on_merger = _mergers(pairs, overlooked)[pairs.segment]
    merged = np.zeros(pairs.skeleton.max() + 1, bool)
    merged[pairs.skeleton[on_merger & (pairs.table.count > overlooked)]] = True
    return on_merger & merged[pairs.skeleton]
