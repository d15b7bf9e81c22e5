"""Objects matched with segments: equal to StarDist, to MitoEM's evaluation, and to plain loops."""

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from reference_segmentation import instance_cases
from scipy.optimize import linear_sum_assignment
from three_bars import score, store_bars

from pytc.io.labels import UNLABELLED
from pytc.metrics.instances import (
    INSTANCE_METRICS,
    THRESHOLDS,
    average_precision,
    instance_metrics,
    object_rows,
    write_objects,
)
from pytc.metrics.overlap import contingency_table

GOLDEN = json.loads((Path(__file__).parent / "golden" / "instances.json").read_text())
CASES = list(instance_cases())


def metrics_of(truth, segmentation):
    return instance_metrics(contingency_table(np.asarray(truth), np.asarray(segmentation)))


@pytest.mark.parametrize("name, truth, segmentation", CASES, ids=[name for name, *_ in CASES])
def test_scores_equal_those_of_stardist_and_of_mitoem(name, truth, segmentation):
    scores = metrics_of(truth, segmentation)
    assert tuple(scores) == INSTANCE_METRICS and all(
        type(each) is float for each in scores.values()
    )
    for key, expected in GOLDEN[name].items():
        found = scores.get(key)
        if key.startswith("accuracy"):
            f1 = scores[f"f1_{key[-2:]}"]
            found = f1 / (2 - f1)
        assert found == pytest.approx(expected, rel=1e-6), key


def slow_metrics(truth, segmentation):
    """The definitions, by sets of voxels and the best assignment at each threshold."""
    counted = truth >= 0
    objects = {a: truth == a for a in np.unique(truth[truth > 0]).tolist()}
    sizes = {a: int((segmentation[counted] == a).sum()) for a in np.unique(segmentation).tolist()}
    segments = [a for a in sizes if a > 0 and sizes[a] > 0]
    segments.sort(key=lambda a: -sizes[a])
    iou = np.zeros((len(segments), len(objects)))
    for row, segment in enumerate(segments):
        mask = (segmentation == segment) & counted
        for column, inside in enumerate(objects.values()):
            iou[row, column] = (mask & inside).sum() / (mask | inside).sum()
    found, precisions = {}, []
    for threshold in THRESHOLDS:
        rows, columns = linear_sum_assignment(-1.0 * (iou >= threshold) - iou / 1000)
        pairs = [(r, c) for r, c in zip(rows, columns) if iou[r, c] >= threshold]
        matched = {r for r, _ in pairs}
        curve = []
        for n in range(1, len(segments) + 1):
            hits = sum(r < n for r in matched)
            curve.append((hits / len(objects), hits / n))
        precision = 0.0
        for recall in np.arange(101) * 0.01:
            precision += max((p for r, p in curve if r >= recall and p > 0), default=0) / 101
        precisions.append(precision)
        name = f"{100 * threshold:.0f}"
        if name in ("50", "75"):
            n_both = len(segments) + len(objects)
            found[f"ap_{name}"] = precision
            found[f"precision_{name}"] = len(pairs) / len(segments)
            found[f"recall_{name}"] = len(pairs) / len(objects)
            found[f"f1_{name}"] = 2 * len(pairs) / n_both
            found[f"pq_{name}"] = 2 * sum(iou[pair] for pair in pairs) / n_both
    return found | {"ap": float(np.mean(precisions))}


@pytest.mark.parametrize("seed", range(6))
def test_scores_equal_plain_loops(seed):
    """Small random volumes, with unlabelled voxels; seed 0 has pairs of an IoU of just 0.5."""
    random = np.random.default_rng(seed)
    truth = random.integers(-1, 7, (4, 3, 4)).repeat(3, 0).repeat(2, 1).repeat(2, 2)
    segmentation = np.where(random.random(truth.shape) < 0.15, 3, np.maximum(truth, 0) * 2)
    if seed == 0:
        truth = np.repeat([1, 2, 3, 3, 4, -1], 4)[None, None]
        segmentation = np.repeat([5, 5, 6, 7, 0, 8], 4)[None, None]
    assert metrics_of(truth, segmentation) == pytest.approx(slow_metrics(truth, segmentation))


def test_precision_is_the_best_at_a_recall_or_a_higher_one():
    right = np.array([True, False, True, True, False])
    # recall 1/4 at precision 1, then 1/2 and 3/4 at the best of 2/3 and 3/4
    assert average_precision(right, 4) == pytest.approx((26 * 1 + 50 * 0.75) / 101)
    assert average_precision(right[:0], 4) == average_precision(right, 0) == 0


def test_background_counts_and_what_is_unlabelled_does_not():
    truth = np.array([[[1, 1, 1, 1, 0, 0, 0, 0]]])
    segmentation = np.array([[[3, 3, 3, 3, 3, 3, 3, 3]]])
    assert metrics_of(truth, segmentation)["pq_50"] == 0.5
    truth[0, 0, 6:] = UNLABELLED
    assert metrics_of(truth, segmentation)["pq_50"] == pytest.approx(4 / 6)


def test_a_row_for_each_object():
    truth = np.array([4] * 6 + [9] * 4 + [2] * 3 + [7] * 2 + [0] * 3)
    segments = np.array([1] * 3 + [5] * 2 + [0] + [8] * 4 + [8] * 3 + [0] * 2 + [6] * 3)
    rows = object_rows(contingency_table(truth, segments))
    found = [(r.label, r.voxels, r.segment, r.missing, r.splits, r.merges) for r in rows]
    assert found == [(2, 3, 8, 0, 0, 1), (4, 6, 1, 1, 1, 0), (7, 2, 0, 2, 0, 0), (9, 4, 8, 0, 0, 1)]
    assert [row.iou for row in rows] == pytest.approx([3 / 7, 3 / 6, 0, 4 / 7])
    lines = write_objects(rows, (40.0, 5.0, 5.0)).decode().splitlines()
    assert lines[:2] == [
        "label,voxels,volume_um3,segment,iou,missing,splits,merges",
        "2,3,3e-06,8,0.428571,0,0,1",
    ]
    (row, *_) = csv.DictReader(write_objects(rows, None).decode().splitlines())
    assert row["volume_um3"] == "" and row["merges"] == "1"


def test_a_border_that_is_off_by_a_few_voxels_is_no_split_and_no_merger():
    truth = np.repeat([1, 2], 50)
    segments = np.repeat([10, 20], [53, 47])
    rows = object_rows(contingency_table(truth, segments))
    assert [(row.splits, row.merges, row.segment) for row in rows] == [(0, 0, 10), (0, 0, 20)]


def test_evaluate_prints_and_reports_objects_and_chooses_by_them(tmp_path, capsys):
    config = replace(store_bars(tmp_path), output=str(tmp_path / "out"), metric="ap_75")
    metrics = score(config)
    assert metrics["threshold"] == 0.65 and metrics["metric"] == "ap_75" and metrics["ap"] == 1
    printed = capsys.readouterr().out
    assert "objects at an IoU of 0.5: precision 1.000, recall 1.000, F1 1.000" in printed
    page = (tmp_path / "out" / "report.html").read_text()
    assert "<h2>Objects</h2>" in page and "each of the 3 objects" in page
    with open(tmp_path / "out" / "objects.csv") as file:
        rows = list(csv.DictReader(file))
    assert [row["label"] for row in rows] == ["1", "2", "3"]
    # 12 x 4 x 24 voxels of 20 x 10 x 10 nm
    assert {(row["volume_um3"], row["iou"], row["splits"]) for row in rows} == {
        ("0.002304", "1", "0")
    }
