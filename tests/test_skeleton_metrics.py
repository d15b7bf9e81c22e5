import json
from pathlib import Path

import numpy as np
import pytest
from reference_segmentation import (
    edges_between,
    only_those_of,
    skeleton_cases,
    slow_overlap,
    slow_run_length,
)

from pytc.io.skeleton import Skeleton
from pytc.io.volume import create_volume, open_volume
from pytc.metrics.skeleton import SKELETON_METRICS, SkeletonMetrics

GOLDEN = json.loads((Path(__file__).parent / "golden" / "skeleton.json").read_text())

DETAILS = json.loads((Path(__file__).parent / "golden" / "skeleton_details.json").read_text())

CASES = [(name, graph, segments) for name, *graph, segments in skeleton_cases()]


def make_skeleton(ids, positions, nm, edges):
    return Skeleton(
        np.asarray(ids, np.uint64),
        np.asarray(positions, np.int64),
        np.asarray(nm, np.float64),
        np.asarray(edges, np.int64).reshape(-1, 2),
    )


def two_lines():
    """Skeletons 4 and 9: five nodes each along x, 10 nm apart, in rows y = 0 and y = 1."""
    positions = [(0, y, x) for y in range(2) for x in range(5)]
    edges = [(row + x, row + x + 1) for row in (0, 5) for x in range(4)]
    return make_skeleton([4] * 5 + [9] * 5, positions, np.array(positions) * 10.0, edges)


@pytest.mark.parametrize("name, graph, segments", CASES, ids=[name for name, *_ in CASES])
def test_equals_reference_implementation(name, graph, segments):
    scores = SkeletonMetrics(make_skeleton(*graph)).compute_nodes(segments)
    assert tuple(scores) == SKELETON_METRICS
    # recorded before there was nerl_50, which the twin below counts
    found = only_those_of(GOLDEN[name], scores)
    assert found == pytest.approx(GOLDEN[name], rel=1e-5, abs=1e-5)


def test_equals_twin_on_random_graphs():
    rng = np.random.default_rng(0)
    for _ in range(60):
        n = int(rng.integers(2, 80))
        ids = np.sort(rng.integers(0, 6, n)) * 1000
        edges = [(a, b) for a, b in rng.integers(0, n, (2 * n, 2)) if a != b and ids[a] == ids[b]]
        if not edges or not ids.any():
            continue
        segments = rng.integers(0, 7, n)
        nm = rng.random((n, 3)) * 50
        scores = SkeletonMetrics(make_skeleton(ids, np.zeros((n, 3)), nm, edges)).compute_nodes(
            segments
        )
        erl, mergers, splits = slow_run_length(ids, nm, edges, segments)
        max_erl, _, _ = slow_run_length(ids, nm, edges, ids)
        voi = slow_overlap(ids, segments)
        expected = {
            "erl": erl,
            "max_erl": max_erl,
            "nerl": erl / max_erl,
            "voi_sum": voi["voi_sum"],
            "voi_split": voi["voi_split"],
            "voi_merge": voi["voi_merge"],
            "n_mergers": sum(map(len, mergers.values())),
            "n_non0_mergers": sum(len(v) for segment, v in mergers.items() if segment),
            "n_splits": sum(map(len, splits.values())),
        }
        for name, overlooked in (
            ("nerl_5", 5),
            ("nerl_20", 20),
            ("nerl_50", 50),
            ("nerl_100", 100),
            ("nerl_inf", np.inf),
        ):
            expected[name] = slow_run_length(ids, nm, edges, segments, overlooked)[0] / max_erl
        assert only_those_of(expected, scores) == pytest.approx(expected, abs=1e-12)


def test_scores_counted_by_hand():
    metrics = SkeletonMetrics(two_lines())
    volume = np.zeros((1, 2, 5), np.int32)
    volume[0] = [[1, 1, 1, 2, 2], [3, 3, 0, 3, 3]]
    scores = metrics.compute(volume)
    assert scores["max_erl"] == 40 and scores["n_mergers"] == 0 and scores["n_splits"] == 1
    assert scores["erl"] == (20**2 + 10**2 + 20**2) / 80
    volume[0, 1, 4] = 1
    merged = metrics.compute(volume)
    assert merged["n_mergers"] == merged["n_non0_mergers"] == 2
    assert merged["erl"] == (10**2 + 10**2) / 80  # segment 1 is wrong on both
    assert merged["nerl_5"] == (20**2 + 10**2 + 10**2) / 80 / 40


def test_details():
    volume = np.array([[[1, 1, 1, 2, 2], [3, 3, 0, 1, 1]]], np.uint8)
    details = SkeletonMetrics(two_lines()).compute(volume, return_details=True)
    assert details["merge_stats"] == {1: [4, 9]}
    assert details["split_stats"] == {4: [(1, 2)]}
    perfect = SkeletonMetrics(two_lines()).compute(
        np.ones((1, 2, 5), np.uint8) * [[[1], [2]]], return_details=True
    )
    assert [row["place"] for row in perfect["skeletons"]] == [None, None]
    assert details["skeletons"] == [
        {
            "id": 4,
            "length": 40.0,
            "run_length": 10**2 / 40,
            "segments": 2,
            "splits": 1,
            "mergers": 1,
            "omitted_edges": 0,
            "place": [0, 0, 2],
        },
        {
            "id": 9,
            "length": 40.0,
            "run_length": 10**2 / 40,
            "segments": 2,
            "splits": 0,
            "mergers": 1,
            "omitted_edges": 2,
            "place": [0, 1, 1],
        },
    ]


def test_details_agree_with_scores():
    for _, (ids, _, nm, edges), segments in CASES:
        skeleton = make_skeleton(ids, np.arange(len(ids))[:, None] * (1, 0, 0), nm, edges)
        metrics = SkeletonMetrics(skeleton)
        details = metrics.compute(segments[:, None, None], return_details=True)
        scores = metrics.compute_nodes(segments)
        assert {name: details[name] for name in scores} == scores
        rows = details["skeletons"]
        assert (
            sum(map(len, details["merge_stats"].values()))
            == sum(r["mergers"] for r in rows)
            == scores["n_mergers"]
        )
        assert (
            sum(map(len, details["split_stats"].values()))
            == sum(r["splits"] for r in rows)
            == scores["n_splits"]
        )
        total = sum(r["length"] for r in rows)
        assert sum(r["length"] * r["run_length"] for r in rows) / total == pytest.approx(
            scores["erl"]
        )


@pytest.mark.parametrize("name, graph, segments", CASES, ids=[name for name, *_ in CASES])
def test_voi_report_equals_the_reference(name, graph, segments):
    ids, _, nm, edges = graph
    positions = np.arange(len(ids))[:, None] * (1, 0, 0)
    metrics = SkeletonMetrics(make_skeleton(ids, positions, nm, edges))
    report = metrics.compute(segments[:, None, None], return_details=True)["voi_report"]
    expected = DETAILS[name]["voi_report"]
    assert list(report) == list(expected)
    for part in ("voi_split_i", "voi_merge_j"):
        of_clusters = {str(cluster): bits for cluster, bits in report.pop(part).items()}
        assert of_clusters == pytest.approx(expected.pop(part), abs=1e-12)
    assert report == pytest.approx(expected, abs=1e-12)


def test_voi_report_of_one_neuron_in_one_segment():
    skeleton = make_skeleton([3, 3], [(0, 0, 0), (0, 0, 1)], [(0, 0, 0), (0, 0, 9)], [(0, 1)])
    whole = SkeletonMetrics(skeleton).compute(np.full((1, 1, 2), 8), return_details=True)
    assert whole["voi_report"] == {
        "rand_split": 1.0,
        "rand_merge": 1.0,
        "voi_split": 0.0,
        "voi_merge": 0.0,
        "nvi_split": 0.0,
        "nvi_merge": 0.0,
        "nid": 0.0,
        "voi_split_i": {3: 0.0},
        "voi_merge_j": {8: 0.0},
    }


@pytest.mark.parametrize("name, graph, segments", CASES, ids=[name for name, *_ in CASES])
def test_edges_between_skeletons_equal_the_reference(name, graph, segments):
    ids, positions, nm, edges = graph
    edges = [*edges.tolist(), *edges_between(ids)]
    metrics = SkeletonMetrics(make_skeleton(ids, positions, nm, edges))
    scores = metrics.compute_nodes(segments)
    expected = DETAILS[name]["crossing"]
    assert {key: scores[key] for key in expected} == pytest.approx(expected, rel=1e-5)


def test_an_edge_between_skeletons_in_a_merger_never_counts():
    lines = two_lines()
    ids, positions, nm = lines.ids, lines.positions, lines.nm
    joined = make_skeleton(ids, positions, nm, [*lines.edges.tolist(), (0, 5)])
    merged = np.array([[[1, 2, 2, 2, 2], [1, 3, 3, 3, 3]]])
    scores = SkeletonMetrics(joined).compute(merged)
    assert scores["max_erl"] == (40**2 + 40**2) / 90
    assert scores["erl"] == (30**2 + 30**2) / 90
    assert scores["nerl_5"] == scores["nerl"]  # also where the merger is overlooked
    assert scores["n_mergers"] == 2 and scores["n_splits"] == 2


def test_a_volume_is_read_where_nodes_are(tmp_path):
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 2**40, (20, 150, 300)).astype(np.uint64)
    positions = (rng.random((500, 3)) * labels.shape).astype(np.int64)
    skeleton = make_skeleton(np.ones(500), positions, positions, [(i, i + 1) for i in range(499)])
    with create_volume(tmp_path / "s.zarr", labels.shape, np.uint64) as volume:
        volume[...] = labels
    metrics = SkeletonMetrics(skeleton)
    np.testing.assert_array_equal(
        metrics.segments_at_nodes(open_volume(tmp_path / "s.zarr")), labels[tuple(positions.T)]
    )
    assert metrics.compute(open_volume(tmp_path / "s.zarr")) == metrics.compute(labels)


@pytest.mark.parametrize(
    "segmentation, message",
    [
        (
            np.zeros((1, 2, 4), np.uint32),
            r"nodes inside \(1, 2, 4\), got .2 outside, e.g. \[\[0, 0, 4\]\]",
        ),
        (np.zeros((1, 2, 5)), "float64"),
        (np.zeros((2, 5), int), "integer segmentation"),
        (np.full((1, 2, 5), -1), "0 or more"),
    ],
)
def test_refuses_segmentations(segmentation, message):
    with pytest.raises(ValueError, match=message):
        SkeletonMetrics(two_lines()).compute(segmentation)


def test_refuses_skeletons_without_length_and_segments_that_do_not_fit():
    with pytest.raises(ValueError, match="edges"):
        SkeletonMetrics(make_skeleton([1, 1], np.zeros((2, 3)), np.zeros((2, 3)), []))
    with pytest.raises(ValueError, match="edges"):
        SkeletonMetrics(make_skeleton([1, 1], np.zeros((2, 3)), np.zeros((2, 3)), [(0, 1)]))
    for ids in ([1, 2], [0, 0]):  # an edge between neurons, and one of the background
        with pytest.raises(ValueError, match="edges between nodes of one id"):
            SkeletonMetrics(make_skeleton(ids, np.zeros((2, 3)), [[0, 0, 0], [0, 0, 9]], [(0, 1)]))
    with pytest.raises(ValueError, match="10 nodes"):
        SkeletonMetrics(two_lines()).compute_nodes(np.zeros(9, np.uint64))
