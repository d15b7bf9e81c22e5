"""Augmentations of slices and grey values, against loops over voxels."""

import numpy as np
import pytest
import reference_data as reference
import torch
from augmentations import SHAPE, keys, position_batch, random_batch

from pytc.data.augment import imaging
from pytc.data.counter_random import SampleRandom


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_dropped_slices_are_blank_and_the_others_whole(axis):
    image = random_batch(20)[0] + 0.1
    dropped, _ = imaging.drop_slices(
        image, None, SampleRandom(keys(20), "a"), drop_prob=0.3, axis=axis
    )
    before, after = image.movedim(2 + axis, 1), dropped.movedim(2 + axis, 1)
    blank = (after == 0).flatten(2).all(2)
    assert torch.equal(after[~blank], before[~blank])
    assert 0.15 < blank.float().mean() < 0.45


@pytest.mark.parametrize("fill", ["border", "wrap"])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_shifted_slices_match_the_loop(axis, fill):
    image, _ = random_batch(3)
    moved, _ = imaging.shift_slices(
        image,
        None,
        SampleRandom(keys(3), "a"),
        shift_prob=0.6,
        max_shift=4,
        axis=axis,
        prob=0.7,
        fill=fill,
    )
    rng, depth = SampleRandom(keys(3), "a"), SHAPE[axis]
    picked = rng.bernoulli(0.7)[:, None] & rng.bernoulli(0.6, depth)
    shifts = rng.integers(-4, 5, depth, 2).tolist()
    assert picked.any(1).sum() >= 2
    for row, index in reference.voxels((3, depth)):
        for channel in range(2):
            plane = image[row, channel].select(axis, index).numpy()
            if picked[row, index]:
                plane = reference.shift_plane(plane, *shifts[row][index], fill)
            np.testing.assert_array_equal(moved[row, channel].select(axis, index), plane)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_slices_shift_along_both_directions_in_plane_and_not_across(axis):
    image, _ = position_batch(10, (9, 9, 9))
    moved, _ = imaging.shift_slices(
        image, None, SampleRandom(keys(10), "a"), shift_prob=1.0, max_shift=3, axis=axis
    )
    distance = (moved - image).abs().amax((0, 2, 3, 4))
    assert distance[axis] == 0
    assert [distance[a] for a in range(3) if a != axis] == [3, 3]


def test_missing_sections_are_one_short_run():
    image = random_batch(40)[0] + 0.1
    missing, _ = imaging.missing_section(
        image, None, SampleRandom(keys(40), "a"), prob=1.0, longest=3
    )
    lengths = []
    for before, after in zip(image, missing):
        blank = (after == 0).all(0).flatten(1).all(1).nonzero().flatten().tolist()
        assert blank == list(range(blank[0], blank[0] + len(blank)))
        kept = [z for z in range(SHAPE[0]) if z not in blank]
        assert torch.equal(before[:, kept], after[:, kept])
        lengths.append(len(blank))
    assert set(lengths) == {1, 2, 3}


def test_blurred_slices_match_the_loop():
    image, _ = random_batch(1, channels=1, shape=(4, 5, 8))
    blurred, _ = imaging.blur_slices(
        image, None, SampleRandom(keys(1), "a"), blur_prob=0.7, max_sigma=1.5
    )
    rng = SampleRandom(keys(1), "a")
    picked = (rng.bernoulli(1.0)[:, None] & rng.bernoulli(0.7, 4))[0]
    sigma = rng.uniform(4, low=0.375, high=1.5)[0].tolist()
    assert 0 < picked.sum() < 4
    for z in range(4):
        plane = image[0, 0, z].double().numpy()
        expected = reference.blur_plane(plane, sigma[z], radius=5) if picked[z] else plane
        np.testing.assert_allclose(blurred[0, 0, z], expected, atol=1e-5)


def test_intensity_and_slice_contrast_are_linear():
    image, _ = random_batch(20)
    moved, _ = imaging.intensity(
        image, None, SampleRandom(keys(20), "a"), prob=1.0, scale=0.2, offset=0.1
    )
    for before, after in zip(image.flatten(1).numpy(), moved.flatten(1).numpy()):
        slope, offset = np.polyfit(before, after, 1)
        assert (
            0.8 <= slope <= 1.2
            and abs(offset) <= 0.1
            and np.abs(slope * before + offset - after).max() < 1e-5
        )
    moved, _ = imaging.slice_contrast(
        image, None, SampleRandom(keys(20), "a"), contrast_prob=1.0, scale=0.2, offset=0.1
    )
    slopes = [
        np.polyfit(image[row, :, z].flatten(), moved[row, :, z].flatten(), 1)[0]
        for row in range(3)
        for z in range(8)
    ]
    assert len(set(slopes)) == 24 and 0.8 <= min(slopes) < max(slopes) <= 1.2


def test_gamma_keeps_black_white_and_sign():
    image = torch.tensor([0.0, 1.0, 0.25, -0.25]).view(1, 1, 1, 2, 2).repeat(30, 1, 1, 1, 1)
    moved, _ = imaging.gamma(image, None, SampleRandom(keys(30), "a"), prob=1.0, low=0.5, high=2.0)
    black, white, grey, negative = moved.flatten(1).unbind(1)
    assert (black == 0).all() and (white == 1).all() and torch.equal(negative, -grey)
    power = grey.log() / np.log(0.25)
    assert (
        0.5 <= power.min() < 0.7
        and 1.6 < power.max() <= 2.0
        and 0.3 < (power < 1).float().mean() < 0.7
    )


def test_noise_is_gaussian_and_of_the_drawn_size():
    image = torch.full((20, 1, 12, 12, 12), 0.5)
    noisy, _ = imaging.noise(image, None, SampleRandom(keys(20), "a"), prob=1.0, max_sigma=0.4)
    rng = SampleRandom(keys(20), "a")
    rng.bernoulli(1.0)
    sigma = rng.uniform(high=0.4)
    torch.testing.assert_close((noisy - 0.5).flatten(1).std(1), sigma, rtol=0.08, atol=0)
    assert (noisy - 0.5).flatten(1).mean(1).div(sigma).abs().max() < 0.1


def test_cutout_levels_boxes_to_their_mean():
    image, _ = random_batch(20)
    cut, _ = imaging.cutout(image, None, SampleRandom(keys(20), "a"), prob=1.0, size=0.5, most=1)
    for before, after in zip(image, cut):
        z, y, x = (before != after).any(0).nonzero().unbind(1)
        box = (slice(None), *(slice(int(a.min()), int(a.max()) + 1) for a in (z, y, x)))
        assert all(s.stop - s.start <= n // 2 + 1 for s, n in zip(box[1:], SHAPE))
        torch.testing.assert_close(
            after[box], before[box].mean((1, 2, 3), keepdim=True).expand_as(after[box])
        )
        assert (before != after).sum() == after[box].numel()
