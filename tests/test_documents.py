"""The calls that the plan behind this library writes down work as written, with pytc's imports."""

import doctest
import importlib
import pickle
import subprocess
import sys
from collections import Counter
from pathlib import Path

import networkx
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset, RandomSampler

from pytc.data.augment import DropSliced, ShiftSliced
from pytc.data.mixing import StratifiedConcatDataset, WeightedConcatDataset
from pytc.evaluation.sweep import threshold_sweep
from pytc.metrics.skeleton import SkeletonMetrics
from pytc.segmentation.connected_components import (
    affinities_to_segmentation,
    connected_components_3d,
)

BASE_METRICS = {
    "nerl", "erl", "max_erl", "voi_sum", "voi_split", "voi_merge", "n_mergers",
    "n_non0_mergers", "n_splits",
}  # fmt: skip


def two_cubes():
    """Affinities (3, 10, 10, 10) of two cubes of 4 voxels an edge, at opposite corners."""
    affinities = np.zeros((3, 10, 10, 10), np.float32)
    for corner in (0, 6):
        for axis in range(3):
            box = [slice(corner, corner + 4)] * 3
            box[axis] = slice(corner, corner + 3)
            affinities[(axis, *box)] = 1.0
    return affinities


def two_neurites():
    """A graph of two straight skeletons along x, ids 1 and 2, in the cubes' first and last rows."""
    graph = networkx.Graph()
    for neurite, corner in ((1, 0), (2, 6)):
        for x in range(4):
            position = (corner, corner, corner + x)
            nm = tuple(10.0 * p for p in position)
            graph.add_node((neurite, x), id=neurite, index_position=position, nm_position=nm)
        networkx.add_path(graph, [(neurite, x) for x in range(4)])
    return graph


@pytest.fixture
def skeleton_path(tmp_path):
    path = tmp_path / "skeleton.pkl"
    path.write_bytes(pickle.dumps(two_neurites()))
    return path


class Constant(Dataset):
    """100 items that are all the same."""

    def __init__(self, value):
        self.value = value

    def __len__(self):
        return 100

    def __getitem__(self, index):
        if not 0 <= index < 100:
            raise IndexError(index)
        return self.value


class Numbers(Constant):
    """100 items that say where they come from, and which they are."""

    def __getitem__(self, index):
        super().__getitem__(index)
        return self.value, index


# ---- slice augmentations


@pytest.mark.parametrize("shape", [(1, 32, 33, 34), (32, 33, 34)])
def test_drop_sliced_blanks_whole_slices(shape):
    aug = DropSliced(keys=["image"], prob=1.0, drop_prob=0.5)
    data = {"image": torch.rand(shape) + 0.1, "label": "kept"}
    augmented = aug(data)
    assert augmented["image"].shape == shape and augmented["label"] == "kept"
    blank = (augmented["image"] == 0).reshape(shape[-3:])
    assert 0.2 < blank.float().mean() < 0.8
    across = [blank.movedim(axis, 0).flatten(1) for axis in range(3)]
    assert any(torch.equal(planes.any(1), planes.all(1)) for planes in across)
    assert (data["image"] > 0).all()


@pytest.mark.parametrize("shape", [(1, 16, 17, 18), (16, 17, 18)])
def test_shift_sliced_rolls_slices_in_plane(shape):
    aug = ShiftSliced(keys=["image"], prob=1.0, shift_prob=0.5, max_shift=3)
    axes = set()
    for seed in range(8):
        aug.set_random_state(seed)
        image = torch.rand(shape)
        before = image.reshape(shape[-3:])
        after = aug({"image": image})["image"]
        assert after.shape == shape
        after = after.reshape(before.shape)
        for axis in range(3):
            planes = list(zip(before.unbind(axis), after.unbind(axis)))
            rolled = [is_rolled(*pair, 3) for pair in planes]
            if all(rolled) and not torch.equal(before, after):
                axes.add(axis)
                break
        else:
            raise AssertionError("no axis whose slices are rolled")
    assert len(axes) > 1


def is_rolled(before, after, most):
    """Whether a plane is another one, rolled along both directions by up to `most`."""
    reach = range(-most, most + 1)
    return any(torch.equal(before.roll((dy, dx), (0, 1)), after) for dy in reach for dx in reach)


def test_probabilities_and_positions_of_arguments():
    image = {"image": torch.ones(1, 20, 20, 20)}
    never = DropSliced(["image"], 0.0, 1.0)
    assert torch.equal(never(image)["image"], image["image"])
    always = DropSliced(["image", "absent"], 1.0, 1.0, True)
    assert not always(image)["image"].any()
    assert ShiftSliced(["absent"], 1.0, 0.5, 10, True)(image) == image
    with pytest.raises(KeyError):
        ShiftSliced(["absent"], 1.0, 0.5, 10)(image)


# ---- connected components


def test_two_cubes_are_two_components():
    labels = connected_components_3d(two_cubes(), threshold=0.5)
    assert labels.dtype == np.uint32 and labels.shape == (10, 10, 10)
    expected = np.zeros((10, 10, 10), int)
    expected[:4, :4, :4] = 1
    expected[6:, 6:, 6:] = 2
    np.testing.assert_array_equal(labels, expected)
    np.testing.assert_array_equal(connected_components_3d(two_cubes()), expected)
    np.testing.assert_array_equal(connected_components_3d(two_cubes() > 0.5), expected)
    np.testing.assert_array_equal(connected_components_3d(two_cubes().astype(int), 0.5), expected)


@pytest.mark.filterwarnings("ignore:components are joined by short-range")
@pytest.mark.parametrize("channels", [3, 6, 12])
@pytest.mark.parametrize("use_long_range", [False, True])
def test_affinities_of_any_number_of_channels(channels, use_long_range):
    affinities = np.ones((channels, 10, 10, 10), np.float32)
    affinities[:3] = two_cubes()
    expected = connected_components_3d(two_cubes())
    labels = affinities_to_segmentation(affinities, 0.5, use_long_range)
    np.testing.assert_array_equal(labels, expected)
    labels = affinities_to_segmentation(affinities, use_long_range=use_long_range)
    np.testing.assert_array_equal(labels, expected)


# ---- mixing


def test_mixed_samples_have_the_shares_of_the_weights():
    mixed = WeightedConcatDataset([Constant(1.0), Constant(2.0)], weights=[0.8, 0.2])
    assert len(mixed) == 100 and len(list(mixed)) == 100
    drawn = Counter(mixed[i] for i in range(1000))
    assert 750 < drawn[1.0] < 850 and 150 < drawn[2.0] < 250
    assert len(WeightedConcatDataset([Constant(1), Constant(2)], [0.8, 0.2], 500)) == 500


def test_a_shuffling_loader_shows_every_item_in_a_few_epochs():
    mixed = WeightedConcatDataset([Numbers("synthetic"), Numbers("real")], weights=[0.8, 0.2])
    loader = DataLoader(mixed, batch_size=None, sampler=RandomSampler(mixed))
    seen = Counter()
    for epoch in range(5):
        mixed.set_epoch(epoch)
        seen.update((name, int(item)) for name, item in loader)
    assert all(seen["real", item] == 1 for item in range(100))
    assert all(seen["synthetic", item] == 4 for item in range(100))


def test_stratified_datasets_take_turns():
    mixed = StratifiedConcatDataset([Numbers("a"), Numbers("b")])
    assert len(mixed) == 200
    assert [mixed[i] for i in range(4)] == [("a", 0), ("b", 0), ("a", 1), ("b", 1)]
    assert mixed[200] == ("a", 0)
    assert len(StratifiedConcatDataset([Numbers("a"), Numbers("b")], 500)) == 500


# ---- skeleton metrics


def test_skeleton_metrics_of_a_path(skeleton_path):
    segmentation = connected_components_3d(two_cubes())
    for source in (str(skeleton_path), skeleton_path, two_neurites()):
        results = SkeletonMetrics(source).compute(segmentation)
        assert set(results) >= BASE_METRICS
        assert results["nerl"] == 1.0 and results["erl"] == results["max_erl"] == 30.0
        assert results["voi_sum"] == results["n_mergers"] == results["n_splits"] == 0
    assert SkeletonMetrics(skeleton_path=skeleton_path).compute(pred_seg=segmentation) == results


def test_details_name_mergers_and_splits(skeleton_path):
    segmentation = np.zeros((10, 10, 10), np.uint64)
    segmentation[0, 0, :2], segmentation[0, 0, 2:4] = 5, 7
    segmentation[6, 6, 6:] = 7
    metrics = SkeletonMetrics(skeleton_path)
    results = metrics.compute(segmentation, return_details=True)
    assert results["merge_stats"] == {7: [1, 2]}
    assert results["split_stats"] == {1: [(5, 7)]}
    report = results["voi_report"]
    for name in ("voi_split", "voi_merge"):
        assert report[name] == results[name] > 0
    for name in ("rand_split", "rand_merge", "nvi_split", "nvi_merge", "nid"):
        assert 0 < report[name] < 1
    assert set(metrics.compute(segmentation)).isdisjoint(
        {"merge_stats", "split_stats", "voi_report"}
    )


def test_a_missing_skeleton_is_said_at_once():
    for call in (SkeletonMetrics, lambda path: threshold_sweep(two_cubes(), path)):
        with pytest.raises(FileNotFoundError, match=r"Skeleton not found: missing\.pkl"):
            call("missing.pkl")


# ---- threshold sweep


def test_the_best_threshold_is_found(skeleton_path):
    affinities = two_cubes() * 0.65
    affinities[:2, 0, 0, :4] = 0.0  # the first neurite hangs on its edges along x alone
    affinities[2, 0, 0, 1] = 0.5
    result = threshold_sweep(affinities, str(skeleton_path))
    thresholds = 1 / (1 + np.exp(-0.2 * np.arange(-1, 12)))
    found = [row["threshold"] for row in result["all_results"]]
    np.testing.assert_allclose(found, thresholds)
    best = max(row["nerl"] for row in result["all_results"])
    assert result["best_nerl"] == result["best_metrics"]["nerl"] == best
    assert result["best_threshold"] == result["best_metrics"]["threshold"]
    assert result["best_threshold"] in found
    assert best == 1.0
    assert {row["nerl"] < 1 for row in result["all_results"]} == {False, True}
    again = affinities_to_segmentation(affinities, result["best_threshold"])
    assert SkeletonMetrics(skeleton_path).compute(again)["nerl"] == best


@pytest.mark.parametrize("channels", [3, 6])
def test_thresholds_and_metric_by_position(skeleton_path, channels):
    affinities = np.ones((channels, 10, 10, 10), np.float16)
    affinities[:3] = two_cubes() * 0.5
    result = threshold_sweep(affinities, Path(skeleton_path), np.array([0.6, 0.4]), "voi_sum")
    assert result["best_threshold"] == 0.4 and result["best_voi_sum"] == 0.0
    assert [row["threshold"] for row in result["all_results"]] == [0.6, 0.4]
    assert set(result["best_metrics"]) >= {*BASE_METRICS, "threshold"}
    named = threshold_sweep(
        affinities=affinities, skeleton_path=skeleton_path, thresholds=None, metric="nerl"
    )
    assert named["best_nerl"] == 1.0


# ---- the documents' promises about imports and examples


def test_the_light_rooms_do_not_import_torch():
    code = (
        "import sys; import pytc.metrics.skeleton, pytc.evaluation.sweep; "
        "import pytc.segmentation.connected_components; print('torch' in sys.modules)"
    )
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert printed.stdout.strip() == "False", printed.stderr


@pytest.mark.parametrize(
    "module",
    [
        "pytc.metrics.skeleton",
        "pytc.data.mixing",
        "pytc.segmentation.connected_components",
        "pytc.launch.grid",
        "pytc.launch.launcher",
    ],
)
def test_the_examples_in_docstrings_run(module):
    results = doctest.testmod(importlib.import_module(module))
    assert results.attempted > 0 and results.failed == 0
