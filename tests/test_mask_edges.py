"""Mask and contour, and signed distance: targets by their definition, and decodes to objects."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from reference_shapes import some_objects
from tiny_runs import tiny

from pytc.commands import EvaluateConfig, InferConfig
from pytc.config import ModelConfig, SegmentationConfig, SyntheticConfig, TargetConfig
from pytc.data.targets import boundaries, foreground, make_targets, signed_distance
from pytc.evaluate import evaluate
from pytc.inference.pipeline import infer, segment
from pytc.io.volume import create_volume, open_volume
from pytc.segmentation import plain
from pytc.segmentation.mask_edges import as_affinities
from pytc.target_kinds import target_kind
from pytc.training.loop import train

FULL = ((1, 1, 1),)
VOXEL = (30.0, 10.0, 12.0)


def test_mask_and_contour_are_both_targets():
    labels = torch.randint(-1, 3, (2, 4, 5, 6), generator=torch.Generator().manual_seed(0))
    ((target, valid),) = make_targets(labels, TargetConfig(kind="mask_contour"), FULL)
    for channel, (expected, known) in enumerate((foreground(labels), boundaries(labels))):
        assert torch.equal(target[:, channel], expected[:, 0])
        assert torch.equal(valid[:, channel], known[:, 0])


def slow_distance(labels, scale, voxel_size):
    """Distances to every voxel, one by one; a rim of unlabelled voxels stands for the outside."""
    border = boundaries(torch.from_numpy(labels)[None])[0][0, 0].numpy()
    padded = np.pad(labels, 1, constant_values=-1)
    expected, valid = np.zeros(labels.shape), np.zeros(labels.shape, bool)
    for v in itertools.product(*map(range, labels.shape)):

        def nearest(voxels, v=v):
            apart = (voxels - v) * voxel_size
            return math.sqrt((apart**2).sum(1).min(initial=math.inf))

        to_border, to_unknown = nearest(np.argwhere(border)), nearest(np.argwhere(padded < 0) - 1)
        signed = (to_border + min(voxel_size) / 2) * (1 if labels[v] > 0 else -1)
        expected[v] = (1 + math.tanh(signed / scale)) / 2
        valid[v] = labels[v] >= 0 and (to_border <= to_unknown or to_unknown >= 2 * scale)
    return expected, valid


@pytest.mark.parametrize("scale", [8.0, 40.0])
@pytest.mark.parametrize("has_objects", [True, False])
def test_the_signed_distance_equals_a_loop(scale, has_objects):
    labels = np.zeros((4, 9, 10), np.int64)
    labels[1:, 2:7, 1:5] = 3 * has_objects
    labels[1:, 2:7, 5:8] = 4 * has_objects  # two objects that touch
    labels[0, 0, 8:] = -1
    target, valid = signed_distance(torch.from_numpy(labels)[None], scale, VOXEL)
    assert target.dtype == torch.float32 and target.shape == (1, 1, 4, 9, 10)
    expected, known = slow_distance(labels, scale, VOXEL)
    np.testing.assert_array_equal(valid[0, 0], known)
    np.testing.assert_allclose(target[0, 0], expected, atol=1e-6)
    assert not known.all() and (known.any() or not has_objects)


def test_coarse_scales_have_larger_voxels():
    labels = torch.from_numpy(some_objects().astype(np.int32))[None]
    config = TargetConfig(kind="distance", distance_scale=20.0)
    _, (target, valid) = make_targets(labels, config, ((1, 1, 1), (1, 2, 2)), 0, (40.0, 8.0, 8.0))
    expected = signed_distance(labels[:, :, ::2, ::2], 20.0, (40.0, 16.0, 16.0))
    assert torch.equal(target, expected[0]) and torch.equal(valid, expected[1])


def prediction_of(labels, config, path):
    """What a perfect network would predict, stored."""
    batch = torch.from_numpy(labels.astype(np.int32))[None]
    ((target, _),) = make_targets(batch, config, FULL, 0, (10.0, 10.0, 10.0))
    values = target[0].float().numpy()
    attributes = {"channels": config.kind}
    with create_volume(
        path, values.shape, np.float16, axes="czyx", voxel_size=(10, 10, 10), attributes=attributes
    ) as volume:
        volume[...] = values.astype(np.float16)
    return open_volume(path)


@pytest.mark.parametrize("kind", ["mask_contour", "distance"])
def test_an_affinity_is_about_the_lower_of_two_neighbours(tmp_path, kind):
    random = np.random.default_rng(0)
    stored = random.random((2 if kind == "mask_contour" else 1, 4, 5, 6)).astype(np.float16)
    with create_volume(tmp_path / "p.zarr", stored.shape, np.float16, axes="czyx") as volume:
        volume[...] = stored
    edges = as_affinities(open_volume(tmp_path / "p.zarr"), target_kind(kind))
    assert edges.offsets == plain.NEIGHBOURS and edges.shape == (3, 4, 5, 6)
    found = edges[...]
    values = stored.astype(np.float64)
    for channel, v in itertools.product(range(3), np.ndindex(4, 5, 6)):
        w = tuple(np.add(v, plain.NEIGHBOURS[channel]))
        if any(a >= n for a, n in zip(w, (4, 5, 6))):
            assert found[(channel, *v)] == 0
            continue
        both = [values[(slice(None), *at)] for at in (v, w)]
        if kind == "distance":
            inside = [max(0, 2 * each[0] - 1) for each in both]
        else:
            inside = [each[0] * (1 - 0.9 * each[1]) if each[0] > 0.5 else 0 for each in both]
        expected = 0.9 * min(inside) + 0.1 * max(inside) if min(inside) > 0 else 0
        assert found[(channel, *v)] == pytest.approx(expected, abs=1e-3)
    for part in (
        (slice(0, 3), slice(1, 3), slice(0, 5), slice(2, 6)),
        (slice(1, 2), slice(0, 4, 2), slice(3, 5), slice(1, 6, 3)),
    ):
        np.testing.assert_array_equal(edges[part], found[part])


@pytest.mark.parametrize("kind", ["mask_contour", "distance"])
def test_a_perfect_prediction_becomes_its_objects(tmp_path, kind):
    """Two objects that touch come apart, and background stays background."""
    labels = np.zeros((10, 20, 24), np.uint8)
    labels[1:9, 2:18, 2:12] = 1
    labels[1:9, 2:18, 12:22] = 2
    config = TargetConfig(kind=kind, distance_scale=30.0)
    prediction = prediction_of(labels, config, tmp_path / "probabilities.zarr")
    decode = SegmentationConfig(threshold=0.5, method="components_watershed", min_size=10)
    segment(prediction, tmp_path / "segmentation.zarr", target_kind(kind), decode)
    found = open_volume(tmp_path / "segmentation.zarr")[...]
    assert found.max() == 2 and not found[labels == 0].any()
    wrong = (found > 0) & (found != labels)
    missing = (found == 0) & (labels > 0)
    # where an edge of an object meets the other one, all neighbours lie equally deep
    assert not missing.any() and wrong.sum() < 0.03 * (labels > 0).sum()


@pytest.mark.parametrize("kind, channels", [("mask_contour", 2), ("distance", 1)])
def test_from_training_to_scores(tmp_path, monkeypatch, kind, channels):
    monkeypatch.chdir(tmp_path)
    config = tiny(max_steps=1)
    config = replace(
        config,
        target=TargetConfig(kind=kind),
        model=ModelConfig("unet", features=(4, 8), out_channels=channels),
        data=replace(config.data, synthetic=SyntheticConfig((24, 32, 32)), val_samples=1),
        segmentation=SegmentationConfig(method="components_watershed"),
        loop=replace(config.loop, volumes_every=1),
    )
    run = train(config)
    (folder,) = infer(
        InferConfig(run=str(run), system=config.system, segmentation=config.segmentation)
    )
    assert open_volume(folder / "probabilities.zarr").n_channels == channels
    assert (folder / "segmentation.zarr").is_dir()
    (scores,) = evaluate(EvaluateConfig(run=str(run), sweep=True)).values()
    assert scores["method"] == "components_watershed" and scores["target"] == kind
    assert 0 <= scores["ap_50"] <= 1 and scores["dense_voi_sum"] >= 0
