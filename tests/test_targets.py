"""Targets from labels: equal to their twins, and honest about what is unlabelled."""

import numpy as np
import pytest
import reference_data as reference
import torch
import torch.nn.functional as F

from pytc.config import SHORT_AND_LONG, TargetConfig
from pytc.data.targets import affinities, boundaries, erode, make_targets, scaled_offset


def random_labels(shape=(2, 5, 6, 7), dtype=torch.int32, low=-1, seed=0):
    return torch.randint(low, 4, shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


@pytest.mark.parametrize("dtype", [torch.int8, torch.int32, torch.int64])
@pytest.mark.parametrize("shape", [(2, 5, 6, 7), (1, 1, 4, 4), (2, 3, 0, 2)])
def test_affinities_match_the_loop(dtype, shape):
    labels = random_labels(shape, dtype)
    offsets = (
        (1, 0, 0),
        (0, 1, 0),
        (0, 0, 1),
        (0, 3, 0),
        (2, 1, 3),
        (-1, 0, 2),
        (10, 0, 0),
        (0, -9, 0),
    )
    affinity, valid = affinities(labels, offsets)
    assert affinity.dtype == valid.dtype == torch.bool
    for sample in range(shape[0]):
        expected = reference.affinities(labels[sample].numpy(), offsets)
        np.testing.assert_array_equal(affinity[sample], expected[0])
        np.testing.assert_array_equal(valid[sample], expected[1])


def test_ids_beyond_float_precision_stay_apart():
    labels = torch.tensor([2**24, 2**24 + 1, 2**40, 2**40 + 1])[None, None, None]
    affinity, valid = affinities(labels, ((0, 0, 1),))
    assert not affinity.any() and valid.flatten().tolist() == [True, True, True, False]
    assert (erode(labels, 1) == 0).all()


@pytest.mark.parametrize("width", [0, 1, 2, 9])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_erosion_matches_the_loop(width, axis):
    labels = random_labels((2, 4, 6, 5), seed=width)
    labels[1, 1:, 1:, 1:] = 3  # something large enough to survive
    before = labels.clone()
    eroded = erode(labels, width, axis)
    assert torch.equal(labels, before) and eroded.dtype == labels.dtype
    for sample in range(2):
        np.testing.assert_array_equal(
            eroded[sample], reference.erode(labels[sample].numpy(), width, axis)
        )


def test_erosion_leaves_unlabelled_voxels_and_what_they_touch():
    labels = torch.full((1, 3, 6, 6), 7)
    labels[..., 3:] = -1
    assert torch.equal(erode(labels, 2), labels)


@pytest.mark.parametrize("low", [-1, 0])
def test_boundaries_match_the_loop(low):
    labels = random_labels(low=low)
    labels[0, :3, :3, :3] = 2  # an inside
    boundary, valid = boundaries(labels)
    for sample in range(2):
        expected = reference.boundaries(labels[sample].numpy())
        np.testing.assert_array_equal(boundary[sample, 0], expected[0])
        np.testing.assert_array_equal(valid[sample, 0], expected[1])


def test_binary_target_is_the_labelled_foreground():
    labels = random_labels()
    ((target, valid),) = make_targets(labels, TargetConfig(kind="binary"), ((1, 1, 1),))
    assert target.dtype == valid.dtype == torch.bool and target.shape == valid.shape == (
        2,
        1,
        5,
        6,
        7,
    )
    assert torch.equal(target[:, 0], labels > 0) and torch.equal(valid[:, 0], labels >= 0)


def test_scaled_offsets_are_rounded_and_never_vanish():
    assert scaled_offset((10, 1, 0), (2, 2, 2)) == (5, 1, 0)
    assert scaled_offset((10, 10, 10), (4, 1, 8)) == (3, 10, 1)
    assert scaled_offset((-10, -1, 6), (4, 2, 4)) == (-3, -1, 2)


def test_strided_scales_come_from_strided_labels():
    labels = random_labels((1, 24, 24, 24)).repeat_interleave(2, 3)
    config = TargetConfig(offsets=SHORT_AND_LONG, erosion=1)
    scales = ((1, 1, 1), (1, 2, 2), (2, 4, 4))
    targets = make_targets(labels, config, scales)
    for (target, valid), scale in zip(targets, scales):
        coarse = erode(labels, 1)[:, :: scale[0], :: scale[1], :: scale[2]]
        expected = affinities(
            coarse, tuple(scaled_offset(offset, scale) for offset in SHORT_AND_LONG)
        )
        assert torch.equal(target, expected[0]) and torch.equal(valid, expected[1])
        assert target.shape == (1, 6, *coarse.shape[1:])


def test_nearest_scales_are_taken_from_the_full_target():
    labels = random_labels((1, 9, 12, 12))
    config = TargetConfig(offsets=((1, 0, 0), (0, 0, 3)), scale_by="nearest")
    (full, full_valid), (target, valid) = make_targets(labels, config, ((1, 1, 1), (1, 2, 4)))
    assert torch.equal(target, full[..., ::2, ::4]) and torch.equal(
        valid, full_valid[..., ::2, ::4]
    )


def test_erosion_follows_the_section_axis():
    labels = torch.ones((1, 4, 4, 4), dtype=torch.int32)
    labels[..., 2:] = 2  # two slabs that meet in x
    config = TargetConfig(kind="binary", erosion=1)
    ((across_z, _),), ((across_x, _),) = (
        make_targets(labels, config, ((1, 1, 1),), axis) for axis in (0, 2)
    )
    assert across_z.float().mean() == 0.5 and across_x.all()


def test_classes_are_the_labels_and_with_two_of_them_anything_above_0_is_the_second():
    labels = torch.randint(-1, 5, (2, 5, 6, 7), generator=torch.Generator().manual_seed(0))
    labels[0, 0, 0] = -7
    scales = ((1, 1, 1), (1, 2, 2))
    for scale_by in ("stride", "nearest"):
        config = TargetConfig(kind="classes", classes=5, scale_by=scale_by)
        (target, valid), (coarse, coarse_valid) = make_targets(labels, config, scales)
        labelled = labels >= 0
        assert torch.equal(valid[:, 0], labelled) and torch.equal(
            target[:, 0][labelled], labels[labelled]
        )
        assert torch.equal(coarse[:, 0], target[:, 0, :, ::2, ::2])
        assert torch.equal(coarse_valid[:, 0], labelled[:, :, ::2, ::2])
    two = TargetConfig(kind="classes", classes=2)
    ((target, valid),) = make_targets(labels * 51, two, scales[:1])
    assert torch.equal(target[:, 0], (labels > 0).long()) and torch.equal(valid[:, 0], labelled)


@pytest.mark.parametrize("kind", ["affinity", "binary", "boundary"])
def test_trilinear_scales_are_the_full_target_resized(kind):
    """Where all is labelled they are what torch's interpolation makes of the target."""
    labels = random_labels((2, 8, 12, 12), low=1)
    config = TargetConfig(kind=kind, scale_by="trilinear", offsets=((1, 0, 0), (0, 0, 3)))
    (full, full_valid), *coarser = make_targets(labels, config, ((1, 1, 1), (1, 2, 2), (2, 4, 4)))
    everything = TargetConfig(kind=kind, offsets=((1, 0, 0), (0, 0, 3)))
    ((plain, _),) = make_targets(labels, everything, ((1, 1, 1),))
    assert torch.equal(full, plain)
    for (target, valid), size in zip(coarser, ((8, 6, 6), (4, 3, 3))):
        share = F.interpolate(full_valid.float(), size=size, mode="trilinear")
        expected = F.interpolate(full.float(), size=size, mode="trilinear")
        assert torch.equal(valid, share > 0) and target.dtype == torch.float32
        torch.testing.assert_close(target[share == 1], expected[share == 1])
        assert target.min() >= 0 and target.max() <= 1


def test_trilinear_scales_average_only_what_is_labelled():
    labels = torch.ones((1, 2, 2, 4), dtype=torch.int32)
    labels[..., :2] = 0
    labels[0, 0, 0, 0] = -1
    labels[0, :, 1, 1] = 3
    labels[..., 2:] = -1
    config = TargetConfig(kind="binary", scale_by="trilinear")
    _, (target, valid) = make_targets(labels, config, ((1, 1, 1), (2, 2, 2)))
    assert valid.flatten().tolist() == [True, False]
    # seven labelled voxels, two of them foreground
    assert target.flatten().tolist() == [pytest.approx(2 / 7), 0]


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"scale_by": "trilinear"}, "scale_by stride or nearest for class ids"),
        ({"erosion": 1}, "erosion 0 for class ids"),
        ({"classes": 1}, "target.classes from 2 to 256, got 1"),
        ({"classes": 257}, "target.classes from 2 to 256, got 257"),
    ],
)
def test_what_class_ids_do_not_allow_is_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        TargetConfig(**{"kind": "classes", **wrong})
