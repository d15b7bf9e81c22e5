"""Records overlap.json, skeleton.json and skeleton_details.json from the reference implementations.

Not run by the tests.

In an environment with funlib.evaluate built from github.com/funkelab/funlib.evaluate (commit
d2852b35), and with metrics.py of github.com/StructuralNeurobiologyLab/banis (commit 7e4834c6) and
what it imports on the path:
    PYTHONPATH=tests:FUNLIB:BANIS python tests/golden/record_metrics.py
"""

import json
import pickle
import tempfile
from pathlib import Path

import networkx
import numpy as np
from funlib.evaluate import expected_run_length, rand_voi
from metrics import compute_metrics
from reference_segmentation import edges_between, skeleton_cases, volume_cases

HERE = Path(__file__).parent


def record(name, scores):
    (HERE / f"{name}.json").write_text(json.dumps(scores, indent=1) + "\n")


def overlap_scores(truth, segmentation):
    report = rand_voi(truth, segmentation)
    return {name: report[name] for name in ("voi_split", "voi_merge", "rand_split", "rand_merge")}


def skeleton_scores(ids, positions, nm, edges, segments):
    graph = networkx.Graph()
    for node, (i, position) in enumerate(zip(ids, nm)):
        graph.add_node(node, id=int(i), index_position=(node, 0, 0), nm_position=position)
    graph.add_edges_from(edges.tolist())
    with tempfile.NamedTemporaryFile(suffix=".pkl") as file:
        pickle.dump(graph, file)
        file.flush()
        report = compute_metrics(segments[:, None, None], file.name)
    report.pop("voi_report")
    return {name: float(value) for name, value in report.items()}


def detail_scores(ids, positions, nm, edges, segments):
    """rand_voi's report over nodes; run lengths and errors with edges between skeletons, too."""
    report = rand_voi(ids, np.ascontiguousarray(segments), return_cluster_scores=True)
    graph = networkx.Graph()
    for node, (i, (z, y, x)) in enumerate(zip(ids.tolist(), nm.tolist())):
        graph.add_node(node, id=i, z=z, y=y, x=x)
    graph.add_edges_from([*edges.tolist(), *edges_between(ids)])

    def run_length(segments):
        lookup = dict(enumerate(segments.tolist()))
        return expected_run_length(
            graph, "id", "length", lookup, None, ["z", "y", "x"], return_merge_split_stats=True
        )

    erl, stats = run_length(segments)
    crossing = {
        "erl": float(erl),
        "max_erl": float(run_length(ids)[0]),
        "n_mergers": sum(map(len, stats["merge_stats"].values())),
        "n_splits": sum(map(len, stats["split_stats"].values())),
    }
    return {"voi_report": report, "crossing": crossing}


if __name__ == "__main__":
    record("overlap", {name: overlap_scores(*case) for name, *case in volume_cases()})
    record("skeleton", {name: skeleton_scores(*case) for name, *case in skeleton_cases()})
    record("skeleton_details", {name: detail_scores(*case) for name, *case in skeleton_cases()})
