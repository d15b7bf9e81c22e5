"""What holds for every augmentation, and the recipe of a config."""

from dataclasses import fields, replace

import pytest
import torch
from augmentations import (
    ALL,
    DAMAGE,
    ISOTROPIC,
    STRONG,
    keys,
    position_batch,
    random_batch,
)

from pytc.config import AugmentConfig
from pytc.data.augment import augment, section_axis
from pytc.data.counter_random import SampleRandom
from pytc.io.intensity import UINT8, to_float32


@pytest.mark.parametrize("name", ALL)
def test_inputs_stay_and_shapes_and_dtypes_hold(name):
    image, labels = random_batch()
    before = image.clone(), labels.clone()
    moved, label_moved = ALL[name](image, labels, SampleRandom(keys(6), name), prob=1.0)
    assert torch.equal(image, before[0]) and torch.equal(labels, before[1])
    assert moved.shape == image.shape and moved.dtype == image.dtype
    assert label_moved.shape == labels.shape and label_moved.dtype == labels.dtype
    assert not torch.equal(moved, image)
    if name in DAMAGE:
        assert label_moved is labels


@pytest.mark.parametrize("name", ALL)
def test_each_sample_is_its_own(name):
    image, labels = random_batch()
    together = ALL[name](image, labels, SampleRandom(keys(6), name), prob=0.5)
    for row in range(6):
        part = slice(row, row + 1)
        alone = ALL[name](image[part], labels[part], SampleRandom(keys(6)[part], name), prob=0.5)
        torch.testing.assert_close(alone[0], together[0][part], rtol=0, atol=0)
        assert torch.equal(alone[1], together[1][part])


@pytest.mark.parametrize("name", ALL)
def test_samples_not_chosen_are_untouched(name):
    image, labels = random_batch(12)
    same = ALL[name](image, labels, SampleRandom(keys(12), name), prob=0.0)
    assert same[0] is image and same[1] is labels
    some, some_labels = ALL[name](image, labels, SampleRandom(keys(12), name), prob=0.4)
    untouched = [torch.equal(some[row], image[row]) for row in range(12)]
    assert 2 <= sum(untouched) <= 11
    for row in (row for row in range(12) if untouched[row]):
        assert torch.equal(some_labels[row], labels[row])


def test_recipe_of_a_sample_hangs_on_its_key_alone():
    image, labels = random_batch(8, shape=(9, 9, 9))
    together = augment(image, labels, keys(8), STRONG, ISOTROPIC)
    assert torch.isfinite(together[0]).all() and not torch.equal(together[0], image)
    for rows in ([5], [6, 2]):
        apart = augment(image[rows], labels[rows], keys(8)[rows], STRONG, ISOTROPIC)
        torch.testing.assert_close(apart[0], together[0][rows], rtol=0, atol=0)
        assert torch.equal(apart[1], together[1][rows])
    other = augment(image, labels, keys(8, step=1), STRONG, ISOTROPIC)
    assert not torch.equal(other[1], together[1])


def test_recipe_is_the_same_for_any_number_of_threads():
    image, labels = random_batch(4, 1, (48, 48, 48))
    config = replace(STRONG, cutout_prob=1.0, cutout_size=1.0)
    threads, results = torch.get_num_threads(), []
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            results.append(augment(image, labels, keys(4), config, ISOTROPIC))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(results[0][0], results[1][0]) and torch.equal(results[0][1], results[1][1])


def test_recipe_adds_one_augmentation_without_changing_another():
    image, labels = random_batch(4)
    config = AugmentConfig(noise_prob=1.0, affine_prob=0.5)
    plain = augment(image, labels, keys(4), config, ISOTROPIC)
    dropping = augment(image, labels, keys(4), replace(config, drop_slice_prob=0.4), ISOTROPIC)
    kept = (dropping[0] != 0).flatten(3).any(3)[:, 0]
    assert 0 < (~kept).sum() < kept.numel() and torch.equal(plain[1], dropping[1])
    assert torch.equal(plain[0].movedim(2, 1)[kept], dropping[0].movedim(2, 1)[kept])


def test_recipe_takes_uint8_and_leaves_it_alone():
    image, labels = random_batch(3)
    grey = (image * 255).byte()
    before = grey.clone()
    result, _ = augment(grey, labels, keys(3), STRONG, (30.0, 4.0, 4.0))
    as_float, _ = augment(to_float32(grey, UINT8), labels, keys(3), STRONG, (30.0, 4.0, 4.0))
    assert result.dtype == torch.float32 and torch.equal(grey, before)
    assert torch.equal(result, as_float)


def test_recipe_switched_off_changes_nothing():
    off = AugmentConfig(**{f.name: 0.0 for f in fields(AugmentConfig) if f.name.endswith("_prob")})
    image, labels = random_batch(3)
    result = augment(image, labels, keys(3), off, ISOTROPIC)
    assert torch.equal(result[0], image) and torch.equal(result[1], labels)


def test_slices_lie_across_the_largest_voxels():
    assert [section_axis(size) for size in (ISOTROPIC, (40, 4, 4), (9, 9, 20), (4, 8, 8))] == [
        0,
        0,
        2,
        1,
    ]
    off = AugmentConfig(**{f.name: 0.0 for f in fields(AugmentConfig) if f.name.endswith("_prob")})
    image, labels = random_batch(3)
    config = replace(off, drop_slice_prob=0.5, slices_prob=1.0)
    result, _ = augment(image + 0.1, labels, keys(3), config, (9, 9, 20))
    assert (result == 0).flatten(2, 3).all(2).any() and not (result == 0).flatten(3).all(3).any()


def test_slices_lie_across_the_axis_that_is_named_or_a_random_one():
    off = AugmentConfig(**{f.name: 0.0 for f in fields(AugmentConfig) if f.name.endswith("_prob")})
    image = random_batch(60, 1, (5, 6, 7))[0] + 0.1

    def axes_of_blank_slices(config, voxel_size=(40, 4, 4), rows=slice(None)):
        config = replace(config, drop_slice_prob=0.4, slices_prob=1.0)
        result, _ = augment(image[rows], None, keys(60)[rows], config, voxel_size)
        blank = (result == 0).squeeze(1)
        across = [blank.movedim(1 + axis, 1).flatten(2).all(2).any(1).tolist() for axis in range(3)]
        return [[axis for axis in range(3) if row[axis]] for row in zip(*across)]

    for axis in (0, 1, 2):
        found = axes_of_blank_slices(replace(off, slices_axis=axis))
        assert all(axes in ([], [axis]) for axes in found) and [axis] in found
    assert [1] in axes_of_blank_slices(replace(off, slices_axis="thick"), (4, 40, 4))
    config = replace(off, slices_axis="random")
    drawn_axes = axes_of_blank_slices(config)
    assert all(len(axes) <= 1 for axes in drawn_axes)
    assert all(drawn_axes.count([axis]) > 8 for axis in range(3))
    assert axes_of_blank_slices(config, rows=slice(7, 9)) == drawn_axes[7:9]


def test_kinds_of_damage_have_random_axes_of_their_own():
    off = AugmentConfig(**{f.name: 0.0 for f in fields(AugmentConfig) if f.name.endswith("_prob")})
    image, _ = position_batch(90, (9, 9, 9))
    damaged = replace(off, slices_axis="random", slices_prob=1.0)
    shifted = replace(damaged, shift_slice_prob=1.0, shift_slice_max=3, shift_slice_fill="wrap")
    dropped = replace(damaged, drop_slice_prob=0.5)
    moved, _ = augment(image, None, keys(90), shifted, ISOTROPIC)
    blank, _ = augment(image + 1, None, keys(90), dropped, ISOTROPIC)
    pairs = set()
    for row in range(90):
        still = [axis for axis in range(3) if torch.equal(moved[row, axis], image[row, axis])]
        assert len(still) == 1  # it shifts along both directions of the plane
        gone = blank[row, 0] == 0
        across = [a for a in range(3) if gone.movedim(a, 0).flatten(1).all(1).any()]
        pairs.update((still[0], axis) for axis in across)
    assert len(pairs) == 9


@pytest.mark.parametrize(
    "change, message",
    [
        ({"image": torch.rand(2, 9, 9, 9)}, "B, C, Z, Y, X"),
        ({"image": torch.zeros((2, 1, 9, 9, 9), dtype=torch.int32)}, "uint8 or float"),
        ({"labels": torch.zeros((2, 9, 9, 8), dtype=torch.int32)}, "labels"),
        ({"labels": torch.zeros((2, 9, 9, 9), dtype=torch.uint8)}, "signed"),
        ({"keys": keys(3)}, "key for each of 2"),
        ({"voxel_size": (4, 4)}, "three positive"),
    ],
)
def test_recipe_refuses_what_does_not_fit(change, message):
    image, labels = random_batch(2, 1, (9, 9, 9))
    arguments = {
        "image": image,
        "labels": labels,
        "keys": keys(2),
        "config": STRONG,
        "voxel_size": ISOTROPIC,
    }
    with pytest.raises(ValueError, match=message):
        augment(**{**arguments, **change})
