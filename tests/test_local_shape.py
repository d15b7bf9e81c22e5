"""Local shape descriptors: equal to the package lsds and to their definition; training by them."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from reference_shapes import LSD_CASES, descriptors, some_objects
from tiny_runs import read_log, tiny

from pytc.check import draw_target
from pytc.commands import InferConfig
from pytc.config import Config, LossConfig, ModelConfig, SyntheticConfig, TargetConfig
from pytc.data.local_shape import local_shape_descriptors
from pytc.data.targets import affinities, make_targets
from pytc.inference.pipeline import infer
from pytc.io.volume import open_volume
from pytc.losses import bce, build_loss, channel_losses, mse
from pytc.training.loop import train

GOLDEN = json.loads((Path(__file__).parent / "golden" / "lsd.json").read_text())
STEPS = ((1, 0, 0), (0, 1, 0), (0, 0, 1))
BOTH = TargetConfig(offsets=STEPS, lsd_sigma=40.0)


def as_batch(labels):
    return torch.from_numpy(labels.astype(np.int32))[None]


@pytest.mark.parametrize("name", LSD_CASES)
def test_they_equal_those_of_the_package_lsds(name):
    voxel_size, sigma, stride = LSD_CASES[name]
    labels = some_objects()
    found, valid = local_shape_descriptors(as_batch(labels), sigma, voxel_size, (stride,) * 3)
    assert found.dtype == torch.float32 and torch.equal(valid[0, 3], as_batch(labels)[0] > 0)
    picked = [channel[labels > 0][::37] for channel in found[0].numpy()]
    np.testing.assert_allclose(picked, GOLDEN[name], atol=2e-5)


@pytest.mark.parametrize("stride", [(1, 1, 1), (1, 2, 3)])
def test_they_equal_a_loop_over_pairs_of_voxels(stride):
    random = np.random.default_rng(0)
    labels = random.integers(-1, 3, (3, 3, 4)).repeat(2, 1).repeat(2, 2)
    found, valid = local_shape_descriptors(as_batch(labels), 30.0, (30, 10, 12), stride)
    expected = descriptors(labels, 30.0, (30, 10, 12), stride)
    np.testing.assert_allclose(found[0], expected, atol=2e-5)
    np.testing.assert_array_equal(valid[0, 0], expected[9] > 0)
    assert (labels[~valid[0, 0].numpy()] <= 0).any()


def test_samples_of_a_batch_and_other_objects_do_not_matter():
    labels = some_objects()
    alone = np.where(labels == 9, 9, 0)
    batch = torch.cat([as_batch(labels), as_batch(alone)])
    (together, single), _ = local_shape_descriptors(batch, 40.0, (10, 10, 10))
    of_tube = torch.from_numpy(alone > 0)
    assert torch.equal(together[:, of_tube], single[:, of_tube])
    assert not single[:, ~of_tube].any()


def test_nothing_is_labelled():
    found, valid = local_shape_descriptors(torch.full((2, 3, 4, 5), -1), 40.0, (10, 10, 10))
    assert found.shape == (2, 10, 3, 4, 5) and not found.any() and not valid.any()


def test_they_follow_the_affinities_at_every_scale():
    labels = as_batch(some_objects())
    (target, valid), (coarse, coarse_valid) = make_targets(
        labels, replace(BOTH, lsd_stride=(2, 2, 2)), ((1, 1, 1), (1, 2, 2)), 0, (40.0, 8.0, 8.0)
    )
    edges, known = affinities(labels, STEPS)
    shape, inside = local_shape_descriptors(labels, 40.0, (40.0, 8.0, 8.0), (2, 2, 2))
    assert torch.equal(target, torch.cat([edges.float(), shape], 1))
    assert torch.equal(valid, torch.cat([known, inside], 1))
    strided = labels[:, :, ::2, ::2]
    shape, inside = local_shape_descriptors(strided, 40.0, (40.0, 16.0, 16.0), (2, 1, 1))
    assert torch.equal(coarse[:, 3:], shape) and torch.equal(coarse_valid[:, 3:], inside)


def test_each_loss_reads_its_own_channels():
    labels = as_batch(some_objects())
    ((target, valid),) = make_targets(labels, BOTH, ((1, 1, 1),), 0, (10.0, 10.0, 10.0))
    logits = torch.randn(target.shape, generator=torch.Generator().manual_seed(0))
    loss = build_loss(LossConfig(lsd_weight=0.25), BOTH)
    values = loss.value(*loss.sums(logits, target, valid))
    of_edges = bce(logits[:, :3], target[:, :3], valid[:, :3])
    of_shape = mse(logits[:, 3:], target[:, 3:], valid[:, 3:])
    expected = of_edges[0] / of_edges[1] + 0.25 * of_shape[0] / of_shape[1]
    torch.testing.assert_close(values, expected)
    per_channel = channel_losses(logits, target, valid, loss)
    assert len(per_channel) == 13
    sums = mse(logits[:, 5:6], target[:, 5:6], valid[:, 5:6])
    assert per_channel[5] == pytest.approx(0.25 * float(sums[0] / sums[1]))
    assert per_channel[0] == pytest.approx(
        float(bce(logits[:, :1], target[:, :1], valid[:, :1])[0] / valid[:, 0].sum())
    )


def test_the_network_needs_a_channel_for_each():
    with pytest.raises(ValueError, match="out_channels 16 for this target"):
        Config(target=TargetConfig(lsd_sigma=80.0))
    assert (
        Config(
            target=TargetConfig(lsd_sigma=80.0), model=ModelConfig(out_channels=16)
        ).target.channels
        == 6
    )
    with pytest.raises(ValueError, match="target.lsd_sigma with target.kind affinity"):
        TargetConfig(kind="binary", lsd_sigma=80.0)
    with pytest.raises(ValueError, match="lsd_sigma"):
        TargetConfig(lsd_sigma=0.0)


def test_pytc_check_draws_them_by_threes():
    target, valid = np.zeros((13, 1, 4, 4), np.float32), np.ones((13, 1, 4, 4), bool)
    target[3:6] = 0.5
    pictures = draw_target(target, valid, "affinity", STEPS, 0)
    assert list(pictures) == [
        "affinity 1,0,0 0,1,0 0,0,1",
        "LSD mean",
        "LSD variance",
        "LSD correlation",
        "LSD share",
    ]
    assert pictures["LSD mean"][0, 0].tolist() == [127] * 3


def test_they_are_learned_and_not_predicted(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = tiny(max_steps=1)
    config = replace(
        config,
        target=replace(config.target, lsd_sigma=60.0, lsd_stride=(2, 2, 2)),
        model=ModelConfig("unet", features=(4, 8), out_channels=13),
        data=replace(config.data, synthetic=SyntheticConfig((24, 32, 32)), val_samples=1),
    )
    run = train(config)
    logged = read_log(run)[0]
    assert (
        0 < logged["train/loss_lsd"] < 0.5 and logged["train/loss_total"] > logged["train/loss_bce"]
    )
    assert "train/loss_channel_12" in logged and "train/loss_channel_13" not in logged
    (folder,) = infer(InferConfig(run=str(run), system=config.system))
    stored = open_volume(folder / "affinities.zarr")
    assert stored.n_channels == 3 and [tuple(offset) for offset in stored.offsets] == list(STEPS)
