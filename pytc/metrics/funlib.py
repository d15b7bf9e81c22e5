"""The same figures counted by funlib.evaluate, the reference implementation, as a cross-check.

It is not on the package index: build it from its public repository (github.com/funkelab/funlib.evaluate).
"""

from __future__ import annotations

import networkx
import numpy as np

from pytc.io.skeleton import Skeleton

try:
    from funlib import evaluate
except ImportError as error:
    raise ImportError("the backend funlib needs the package funlib.evaluate, which is installed from its public "
                      "repository: pip install git+https://github.com/funkelab/funlib.evaluate") from error


def overlap_metrics(truth: np.ndarray, segmentation: np.ndarray, mask: np.ndarray | None = None) -> dict[str, float]:
    """As `pytc.metrics.overlap.overlap_metrics`, of arrays."""
    truth = np.where((truth > 0) if mask is None else (truth > 0) & (mask != 0), truth, 0)
    report = evaluate.rand_voi(*(np.ascontiguousarray(labels, np.uint64) for labels in (truth, segmentation)))
    figures = {name: report[name] for name in ("voi_split", "voi_merge", "rand_split", "rand_merge")}
    harmonic_mean = 2 / (1 / report["rand_split"] + 1 / report["rand_merge"])
    return figures | {"voi_sum": report["voi_split"] + report["voi_merge"], "adapted_rand_error": 1 - harmonic_mean}


def skeleton_metrics(skeleton: Skeleton, segments: np.ndarray) -> dict[str, float]:
    """As `SkeletonMetrics.compute_nodes`, without the merge-tolerant nerl_N, which funlib.evaluate does not know."""
    graph = networkx.Graph()
    graph.add_nodes_from((node, {"id": int(i), "position": nm}) for node, (i, nm) in
                         enumerate(zip(skeleton.ids, skeleton.nm)))
    graph.add_edges_from(skeleton.edges.tolist())
    erl, report = _run_length(graph, segments)
    max_erl, _ = _run_length(graph, skeleton.ids)
    voi = overlap_metrics(skeleton.ids, segments)
    mergers = {int(segment): len(skeletons) for segment, skeletons in report["merge_stats"].items()}
    return {
        "erl": float(erl), "max_erl": float(max_erl), "nerl": float(erl / max_erl),
        **{name: voi[name] for name in ("voi_sum", "voi_split", "voi_merge")},
        "n_mergers": sum(mergers.values()),
        "n_non0_mergers": sum(n for segment, n in mergers.items() if segment != 0),
        "n_splits": sum(map(len, report["split_stats"].values())),
    }


def _run_length(graph: networkx.Graph, segments: np.ndarray) -> tuple[float, dict]:
    lookup = dict(enumerate(np.asarray(segments, np.uint64).tolist()))
    return evaluate.expected_run_length(graph, "id", "length", lookup, skeleton_position_attributes=["position"],
                                        return_merge_split_stats=True)
