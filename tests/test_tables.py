"""The tables of metrics and targets, from which directions, help, decodes and reports follow."""

import subprocess
import sys
import typing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from pytc.config import LoopConfig, TargetConfig
from pytc.data import targets
from pytc.evaluation.sweep import sweep_result
from pytc.io.skeleton import Skeleton
from pytc.metrics.instances import instance_metrics
from pytc.metrics.overlap import contingency_table, overlap_metrics
from pytc.metrics.semantic import boundaries, foreground, semantic_metrics
from pytc.metrics.skeleton import SkeletonMetrics
from pytc.metrics.table import METRICS, ROWS, full_name, headlines, metric, metric_names, panels
from pytc.models.checkpoint import loss_of
from pytc.target_kinds import TARGET_KINDS, TargetName, target_kind
from pytc.thresholds import DEFAULT_THRESHOLDS, parse_thresholds
from pytc.training.checkpoint_keeper import CheckpointKeeper

ROOT = Path(__file__).parent.parent


def perfect_and_wrong():
    """Every score of a perfect and of a wrong prediction: two bars, merged, one of them cut."""
    labels = np.zeros((4, 6, 8), np.uint8)
    labels[:, :2], labels[:, 2:4] = 1, 2
    wrong = np.where(labels > 0, 1, 0).astype(np.uint8)
    wrong[:, 3:4, 5:] = 7
    positions = np.array([(1, y, x) for y in (0, 3) for x in range(8)])
    edges = np.array([(i, i + 1) for i in range(15) if i != 7])
    ids = np.repeat(np.array([1, 2], np.uint64), 8)
    skeletons = SkeletonMetrics(Skeleton(ids, positions, positions * 10.0, edges))
    found = []
    masks = (labels > 0, np.roll(labels > 0, 1, axis=1))
    for segmentation, mask in zip((labels, wrong), masks):
        dense = overlap_metrics(labels, segmentation)
        found.append(
            skeletons.compute(segmentation)
            | {f"dense_{name}": value for name, value in dense.items()}
            | instance_metrics(contingency_table(labels, segmentation))
            | semantic_metrics(labels > 0, mask)
        )
    return found


def test_every_metric_that_is_counted_has_a_row_and_every_row_is_counted():
    perfect, _ = perfect_and_wrong()
    assert set(perfect) == set(METRICS)
    for family in (("instance", "skeleton"), ("instance", "labels"), ("semantic", "labels")):
        names = metric_names(*family)
        assert tuple(name for name in perfect if name in names) == names


def test_the_better_of_two_is_the_perfect_one_by_every_metric():
    perfect, wrong = perfect_and_wrong()
    differing = [name for name in METRICS if perfect[name] != wrong[name]]
    # a perfect segmentation's ERL depends on the skeletons alone; nothing forgives these mergers
    assert set(METRICS) - set(differing) <= {
        "max_erl",
        "nerl_inf",
        "nerl_20",
        "nerl_50",
        "nerl_100",
    }
    rows = [wrong | {"threshold": 0.4}, perfect | {"threshold": 0.6}]
    for name in differing:
        assert sweep_result(rows, name)["best_metrics"] is rows[1], name
        assert loss_of(f"val/{name}", perfect[name]) < loss_of(f"val/a_raw/{name}", wrong[name])


def test_a_formula_may_use_one_whose_row_is_above(monkeypatch):
    row = replace(METRICS["voi_sum"], name="half", formula=lambda found: found["voi_sum"] / 2)
    monkeypatch.setattr("pytc.metrics.table.ROWS", (*ROWS, row))
    scores = perfect_and_wrong()[1]
    assert scores["half"] == scores["voi_sum"] / 2 > 0


@pytest.mark.parametrize(
    "first, second",
    [("n_splits", "n_mergers"), ("dense_rand_split", "dense_rand_merge"), ("jaccard", "dice")],
)
def test_a_metric_with_a_formula_is_counted_with_its_family(first, second, monkeypatch):
    row = replace(
        METRICS[first],
        name="dense_sum_of_two",
        formula=lambda found: found[first] + found[second],
    )
    monkeypatch.setattr("pytc.metrics.table.ROWS", (*ROWS, row))
    if row.task == "semantic":
        names = (first, second, row.name)
        monkeypatch.setattr("pytc.metrics.semantic.SEMANTIC_METRICS", names)
    scores = perfect_and_wrong()[1]
    assert scores["dense_sum_of_two"] == scores[first] + scores[second]


def test_a_metric_that_is_not_in_the_table_cannot_choose_anything(tmp_path):
    for name in ("nerll", "my_error", "threshold"):
        with pytest.raises(ValueError, match=f"expected a metric, got '{name}'"):
            metric(name)
        with pytest.raises(ValueError, match=f"expected a metric, got '{name}'"):
            sweep_result([{name: 1.0, "threshold": 0.5}], name)
    keeper = CheckpointKeeper(tmp_path, LoopConfig(monitor="val/my_error", volumes_every=1))
    with pytest.raises(ValueError, match="expected a metric, got 'my_error'"):
        keeper.save({"step": 1}, {"val/my_error": 1.0})
    assert not list(tmp_path.glob("*.pt"))


def test_names_headlines_and_panels():
    assert full_name("adapted_rand") == "dense_adapted_rand_error" and full_name("nerl") == "nerl"
    perfect, _ = perfect_and_wrong()
    shown = headlines(perfect, "nerl_50")
    assert shown[:5] == ["nerl_50", "nerl", "voi_sum", "n_non0_mergers", "n_splits"]
    assert "n_mergers" not in shown
    drawn = panels(perfect, "n_splits")
    assert drawn["Run length"] == ["nerl", "nerl_5", "nerl_20", "nerl_50", "nerl_100"]
    assert drawn["splits"] == ["n_splits"]
    assert metric_names("semantic", "skeleton") == ()


def test_thresholds_are_numbers_and_ranges():
    assert parse_thresholds(["0.5"]) == (0.5,)
    assert parse_thresholds(["0.1:0.9:0.05"]) == tuple(round(0.1 + 0.05 * n, 12) for n in range(17))
    assert parse_thresholds(["0.2", "0.5:0.79:0.1"]) == (0.2, 0.5, 0.6, 0.7)
    assert parse_thresholds(DEFAULT_THRESHOLDS) == DEFAULT_THRESHOLDS
    for words in (["a"], ["0.1:0.9"], ["0.9:0.1:0.05"], ["0.1:0.9:0"], ["0:2:0.5"], ["1:2:3:4"]):
        with pytest.raises(ValueError, match="expected (a threshold|thresholds in)"):
            parse_thresholds(words)


def test_the_tables_of_targets_name_the_same_kinds():
    assert set(typing.get_args(TargetName)) == set(TARGET_KINDS) == set(targets.MAKERS)


def test_a_target_kind_has_a_row_for_every_choice_of_the_config():
    channels = {"affinity": 6, "classes": 2, "mask_contour": 2}
    for name in TARGET_KINDS:
        assert TargetConfig(kind=name).channels == channels.get(name, 1)
    with pytest.raises(ValueError, match="a target from affinity, binary, boundary"):
        target_kind("edges")


@pytest.mark.parametrize("dtype", [np.int32, np.uint64, np.uint8])
def test_true_masks_equal_the_targets_of_training(dtype):
    random = np.random.default_rng(0)
    labels = random.integers(0, 4, (7, 6, 5)).repeat(2, 2).astype(dtype)
    labelled = random.random(labels.shape) < 0.9
    twins = {
        "binary": foreground(labels, labelled),
        "boundary": boundaries(labels, labelled),
    }
    hidden = torch.from_numpy(np.where(labelled, labels.astype(np.int64), -1))[None]
    for kind, true_mask in twins.items():
        ((target, valid),) = targets.make_targets(hidden, TargetConfig(kind=kind), ((1, 1, 1),))
        expected = torch.where(valid, target.to(torch.int8), torch.tensor(-1, dtype=torch.int8))
        np.testing.assert_array_equal(true_mask, expected[0, 0].numpy())
        assert set(np.unique(true_mask)) == {-1, 0, 1}


def test_the_tables_are_read_without_numpy_or_torch():
    code = (
        "import pytc.metrics.table, pytc.target_kinds, pytc.thresholds, sys; "
        "sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
