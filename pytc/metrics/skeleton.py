"""Run lengths, mergers and splits of a segmentation, seen from skeletons of the true neurons."""

import itertools
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numba
import numpy as np

from pytc.checks import require
from pytc.io.skeleton import Skeleton, as_skeleton
from pytc.io.volume import Volume
from pytc.metrics.overlap import Contingency, metrics_of_table, voi_report
from pytc.metrics.pair_table import add_pairs, empty_table, number_ids
from pytc.metrics.table import metric_names, with_formulas

if TYPE_CHECKING:
    import networkx

TOLERANCES = {"nerl_5": 5, "nerl_20": 20, "nerl_50": 50, "nerl_100": 100, "nerl_inf": np.inf}
SKELETON_METRICS = metric_names("instance", "skeleton")
BLOCK = 128  # edge, in voxels, of the blocks by which nodes are read from a volume on disk


@dataclass(frozen=True)
class _Pairs:
    """The distinct (skeleton, segment) pairs of nodes, and what happens at the edges."""

    table: Contingency  # ids and number of nodes of each pair
    skeleton: np.ndarray  # (P,) index of the pair's skeleton
    segment: np.ndarray  # (P,) index of the pair's segment
    length: np.ndarray  # (P,) nm of edges with both nodes in the pair, segment 0 apart
    split: np.ndarray  # (E,) bool: edges between two segments other than 0
    omitted: np.ndarray  # (E,) bool: edges with a node in segment 0


class SkeletonMetrics:
    """Scores of segmentations against one set of skeletons, whose arrays are prepared once.

    skeleton_path: a file of skeletons as `load_skeleton` reads it, a networkx graph as NISB stores
    it, or a Skeleton. ValueError if it is none of these or has no edges, FileNotFoundError if the
    file is missing.

    >>> import networkx
    >>> graph = networkx.path_graph(3)
    >>> for x, node in graph.nodes.items():
    ...     node.update(id=1, index_position=(0, 0, x), nm_position=(0, 0, 10 * x))
    >>> SkeletonMetrics(graph).compute(np.array([[[5, 5, 5]]]))["nerl"]
    1.0

    An edge is correct if both nodes lie in one segment other than 0 that is not a merger; a segment
    is a merger if it holds nodes of two or more skeletons. erl (nm): sum over skeletons and
    segments of the squared length of correct edges, over the total length; max_erl: that of a
    perfect segmentation; nerl = erl / max_erl. nerl_N: the same, but (skeleton, segment) pairs of
    at most N nodes are overlooked when mergers are sought. n_mergers: (skeleton, segment) pairs on
    mergers, segment 0 included; n_non0_mergers: without it. n_splits: edges between two segments
    other than 0. voi_*: as `overlap_metrics`, over nodes.

    Source: Januszewski et al., "High-precision automated reconstruction of neurons with
    flood-filling networks" (2018), as counted by funlib.evaluate and the BANIS baseline.
    """

    def __init__(self, skeleton_path: "str | Path | Skeleton | networkx.Graph"):
        skeleton = as_skeleton(skeleton_path)
        self.skeleton, self._lengths = skeleton, skeleton.edge_lengths
        self.total_length = float(self._lengths.sum())
        require(
            self.total_length > 0,
            "skeletons with edges of some length",
            f"{len(skeleton.ids)} nodes without",
        )
        self._columns = tuple(np.ascontiguousarray(skeleton.positions.T))
        self._low, self._high = np.array([(along.min(), along.max()) for along in self._columns]).T
        skeletons, self._ids = number_ids(skeleton.ids)
        self._starts, self._ends = np.ascontiguousarray(skeleton.edges.T)
        self._skeletons = skeletons.astype(np.uint64)  # of nodes
        self._owners = skeletons[self._starts]  # of edges
        self._skeleton_lengths = self._per_skeleton(self._owners, self._lengths)
        within = self._owners == skeletons[self._ends]
        correct = self._per_skeleton(self._owners[within], self._lengths[within])
        self.max_erl = float(np.sum(correct[self._ids != 0] ** 2) / self.total_length)
        require(
            self.max_erl > 0,
            "edges between nodes of one id, other than 0",
            f"{len(skeleton.edges)} edges, none of them such",
        )

    def compute(
        self, pred_seg: np.ndarray | Volume, return_details: bool = False
    ) -> dict[str, Any]:
        """All of SKELETON_METRICS, by name; pred_seg as in `segments_at_nodes`.

        With details also where the errors are: "merge_stats": {segment: [skeletons]};
        "split_stats": {skeleton: [(segment, segment) of each split edge]}; "voi_report": as
        `overlap.voi_report`, over nodes; "skeletons": a dict for each, with id, length and
        run_length (nm; the squares of its correct lengths over its length), its numbers of
        segments, splits, mergers and omitted edges (a node in segment 0), and as `place` the voxel
        at a split edge, or else at an omitted one, or None.
        """
        segments = self.segments_at_nodes(pred_seg)
        pairs = self._pairs(segments)
        scores: dict[str, Any] = self._scores(pairs)
        if return_details:
            scores["merge_stats"] = self._merge_stats(pairs)
            scores["split_stats"] = self._split_stats(pairs, segments)
            scores["voi_report"] = voi_report(pairs.table)
            scores["skeletons"] = self._skeleton_rows(pairs)
        return scores

    def compute_nodes(self, segments: np.ndarray) -> dict[str, float]:
        """All of SKELETON_METRICS, by name, from the segment at each node, (N,) unsigned."""
        return self._scores(self._pairs(segments))

    def _scores(self, pairs: _Pairs) -> dict[str, float]:
        erl = self._run_length(pairs, 0)
        voi = metrics_of_table(pairs.table)
        on_merger = _on_mergers(pairs)
        counted = {
            "erl": erl,
            "max_erl": self.max_erl,
            "voi_split": voi["voi_split"],
            "voi_merge": voi["voi_merge"],
            "n_mergers": int(on_merger.sum()),
            "n_non0_mergers": int((on_merger & (pairs.table.segmentation != 0)).sum()),
            "n_splits": int(pairs.split.sum()),
            **{
                name: self._run_length(pairs, nodes) / self.max_erl
                for name, nodes in TOLERANCES.items()
            },
        }
        return with_formulas(counted, "instance", "skeleton")

    def _merge_stats(self, pairs: _Pairs) -> dict[int, list[int]]:
        mergers = defaultdict(list)
        on_merger = _on_mergers(pairs)
        segments = pairs.table.segmentation[on_merger].tolist()
        skeletons = pairs.table.truth[on_merger].tolist()
        for segment, skeleton in zip(segments, skeletons):
            mergers[segment].append(skeleton)
        return dict(mergers)

    def _split_stats(self, pairs: _Pairs, segments: np.ndarray) -> dict[int, list[tuple[int, int]]]:
        splits = defaultdict(list)
        skeletons = self._ids[self._owners[pairs.split]].tolist()
        ends = segments[self.skeleton.edges[pairs.split]].tolist()
        for skeleton, (start, end) in zip(skeletons, ends):
            splits[skeleton].append((start, end))
        return dict(splits)

    def _skeleton_rows(self, pairs: _Pairs) -> list[dict[str, Any]]:
        count = self._per_skeleton
        correct = np.where(_excluded(pairs), 0, pairs.length)
        squares = count(pairs.skeleton, correct**2)
        columns = {
            "id": self._ids,
            "length": self._skeleton_lengths,
            "run_length": squares / np.where(self._skeleton_lengths > 0, self._skeleton_lengths, 1),
            "segments": count(pairs.skeleton[pairs.table.segmentation != 0]),
            "splits": count(self._owners[pairs.split]),
            "mergers": count(pairs.skeleton[_on_mergers(pairs)]),
            "omitted_edges": count(self._owners[pairs.omitted]),
        }
        voxels = self._voxels_of_errors(pairs)
        rows = []
        for number, values in enumerate(zip(*(column.tolist() for column in columns.values()))):
            rows.append(dict(zip(columns, values)) | {"place": voxels.get(number)})
        return rows

    def _voxels_of_errors(self, pairs: _Pairs) -> dict[int, list[int]]:
        """{number of a skeleton: the voxel at its first split edge, or else omitted edge}.

        A skeleton without such an edge has no entry.
        """
        voxels: dict[int, list[int]] = {}
        for is_wrong in (pairs.omitted, pairs.split):  # a split edge replaces an omitted one
            edges = np.flatnonzero(is_wrong)
            owners, first = np.unique(self._owners[edges], return_index=True)
            nodes = self._starts[edges[first]]
            voxels |= dict(zip(owners.tolist(), self.skeleton.positions[nodes].tolist()))
        return voxels

    def segments_at_nodes(self, segmentation: np.ndarray | Volume) -> np.ndarray:
        """The segment at each node, (N,) uint64.

        segmentation (Z, Y, X) integer, in the axis order of the skeleton: an array, or a volume, of
        which only blocks that hold nodes are read. ValueError if a node lies outside it or a
        segment is negative.
        """
        shape, dtype = tuple(segmentation.shape), np.dtype(segmentation.dtype)
        fits = len(shape) == 3 and dtype.kind in "iu"
        require(fits, "an integer segmentation (Z, Y, X)", f"{dtype} {shape}")
        if (self._low < 0).any() or (self._high >= shape).any():
            self.skeleton.require_inside(shape)
        if not isinstance(segmentation, np.ndarray):
            segments = self._read_blocks(segmentation)
        elif segmentation.flags.c_contiguous:  # twice as fast
            segments = segmentation.ravel()[np.ravel_multi_index(self._columns, shape)]
        else:
            segments = segmentation[self._columns]
        require(dtype.kind == "u" or segments.min() >= 0, "segments of 0 or more", segments.min())
        return segments.astype(np.uint64)

    def _read_blocks(self, volume: Volume) -> np.ndarray:
        """The segment at each node, read block by block."""
        positions = self.skeleton.positions
        segments = np.empty(len(positions), volume.dtype)
        block = positions // BLOCK
        order = np.lexsort(block.T[::-1])
        bounds = np.flatnonzero(np.diff(block[order], axis=0, prepend=-1).any(1))
        for first, last in itertools.pairwise([*bounds, len(order)]):
            nodes = order[first:last]
            inside = positions[nodes]
            start, stop = inside.min(0), inside.max(0) + 1
            box = volume[tuple(map(slice, start.tolist(), stop.tolist()))]
            segments[nodes] = box[tuple((inside - start).T)]
        return segments

    def _pairs(self, segments: np.ndarray) -> _Pairs:
        segments = np.ascontiguousarray(segments, np.uint64)
        nodes = np.empty(len(self._skeletons), np.int64)
        require(
            segments.shape == nodes.shape,
            f"a segment for each of {len(nodes)} nodes",
            segments.shape,
        )
        once = np.empty(0, np.int64)
        counted = add_pairs(self._skeletons, segments, once, nodes, empty_table())
        n = counted.n_pairs
        skeleton = counted.ids_first[:n].astype(np.int64)
        segment = counted.ids_second[:n]
        codes, _ = number_ids(segment)
        table = Contingency(self._ids[skeleton], segment, counted.counts[:n])
        length, split, omitted = _follow_edges(
            self._starts, self._ends, self._lengths, nodes, segment
        )
        return _Pairs(table, skeleton, codes, length, split, omitted)

    def _per_skeleton(self, index: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
        return np.bincount(index, weights, len(self._ids))

    def _run_length(self, pairs: _Pairs, overlooked: float) -> float:
        return float(np.sum(pairs.length[~_excluded(pairs, overlooked)] ** 2) / self.total_length)


@numba.njit(cache=True, nogil=True)
def _follow_edges(
    starts: np.ndarray,
    ends: np.ndarray,
    lengths: np.ndarray,
    pairs: np.ndarray,
    segments: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """`length`, `split` and `omitted` of `_Pairs`, in one pass over the edges.

    starts, ends: (E,) nodes of each edge; lengths: (E,) nm; pairs: (N,) the pair of each node;
    segments: (P,) the segment of each pair.
    """
    length = np.zeros(len(segments))
    split = np.zeros(len(starts), np.bool_)
    omitted = np.zeros(len(starts), np.bool_)
    # Edges of a pair follow one another: their sum is kept in a register until the pair changes.
    current = 0
    total = 0.0
    for edge in range(len(starts)):
        pair, end_pair = pairs[starts[edge]], pairs[ends[edge]]
        segment, end_segment = segments[pair], segments[end_pair]
        if segment == 0 or end_segment == 0:
            omitted[edge] = True
        elif segment != end_segment:
            split[edge] = True
        elif pair == end_pair:  # otherwise the edge joins two skeletons, within a merger
            if pair != current:
                length[current] = total
                current = pair
                total = length[pair]
            total += lengths[edge]
    length[current] = total
    return length, split, omitted


def _on_mergers(pairs: _Pairs, overlooked: float = 0) -> np.ndarray:
    """Which pairs' segments hold two or more skeletons, (P,) bool.

    Pairs of at most `overlooked` nodes do not make a merger.
    """
    n_skeletons = np.bincount(pairs.segment, pairs.table.count > overlooked)
    on_merger: np.ndarray = (n_skeletons > 1)[pairs.segment]
    return on_merger


def _excluded(pairs: _Pairs, overlooked: float = 0) -> np.ndarray:
    """Which pairs' edges are wrong, (P,) bool: those on a merger to which their skeleton adds.

    A skeleton of which all pairs on mergers have at most `overlooked` nodes is not to blame.
    """
    on_merger = _on_mergers(pairs, overlooked)
    adds_to_merger = on_merger & (pairs.table.count > overlooked)
    is_to_blame = np.bincount(pairs.skeleton, adds_to_merger) > 0
    excluded: np.ndarray = on_merger & is_to_blame[pairs.skeleton]
    return excluded
