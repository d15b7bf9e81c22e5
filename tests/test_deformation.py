"""Augmentations that move image and labels, against loops over voxels."""

from functools import partial

import numpy as np
import pytest
import reference_data as reference
import torch
from augmentations import (
    GEOMETRY,
    ISOTROPIC,
    SHAPE,
    affine,
    elastic,
    flip,
    keys,
    permute_axes,
    position_batch,
    random_batch,
    rot90,
)

from pytc.data.augment import deformation
from pytc.data.counter_random import SampleRandom


@pytest.mark.parametrize("name", GEOMETRY)
def test_geometry_works_without_labels(name):
    image, labels = random_batch()
    with_labels = GEOMETRY[name](image, labels, SampleRandom(keys(6), name), prob=1.0)
    without = GEOMETRY[name](image, None, SampleRandom(keys(6), name), prob=1.0)
    assert torch.equal(with_labels[0], without[0]) and without[1] is None


@pytest.mark.parametrize("name", GEOMETRY)
def test_image_and_labels_move_together(name):
    image, labels = position_batch(6, (9, 9, 9))
    moved, label_moved = GEOMETRY[name](image, labels, SampleRandom(keys(6), name), prob=1.0)
    labelled = label_moved >= 0
    assert labelled.float().mean() > 0.3
    if name in ("permute_axes", "rot90", "flip"):
        assert labelled.all()
    number = (moved.round() * torch.tensor([81, 9, 1]).view(3, 1, 1, 1)).sum(1)
    inner = labelled & ((moved - moved.floor() - 0.5).abs() > 1e-3).all(1)  # away from ties
    edge = ((moved < 0.5) | (moved > 7.5)).any(1)  # reflected in the image
    assert torch.equal(number[inner & ~edge].int(), label_moved[inner & ~edge])


@pytest.mark.parametrize("name", GEOMETRY)
def test_no_background_is_made_up(name):
    image, labels = random_batch()
    labels = labels.abs() + 1
    labels[:, 2:4] = -1
    _, moved = GEOMETRY[name](image, labels, SampleRandom(keys(6), name), prob=1.0)
    assert (moved == -1).any() and not (moved == 0).any()


def test_permutations_respect_voxel_size_and_extent():
    image, labels = position_batch(40, (6, 6, 4))
    moved, _ = permute_axes(image, labels, SampleRandom(keys(40), "a"), prob=1.0)
    assert torch.equal(moved[:, 2], image[:, 2])  # x is shorter, so it stays
    assert torch.equal(moved[:, 0], image[:, 0]) is False
    image, labels = position_batch(60, (5, 5, 5))
    moved, _ = permute_axes(
        image, labels, SampleRandom(keys(60), "a"), prob=1.0, voxel_size=(9, 9, 20)
    )
    assert len(moved.flatten(1).unique(dim=0)) == 2
    moved, _ = permute_axes(image, labels, SampleRandom(keys(60), "a"), prob=1.0)
    assert len(moved.flatten(1).unique(dim=0)) == 6


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_rot90_turns_in_the_plane_of_the_section(axis):
    image, labels = position_batch(40, (5, 5, 5))
    moved, _ = rot90(image, labels, SampleRandom(keys(40), "a"), prob=1.0, axis=axis)
    assert torch.equal(moved[:, axis], image[:, axis])
    dims = [1 + a for a in range(3) if a != axis]
    turned = [torch.rot90(image[0], k, dims) for k in (1, 2, 3)]
    seen = {next(k for k in range(3) if torch.equal(sample, turned[k])) for sample in moved}
    assert seen == {0, 1, 2}


@pytest.mark.parametrize("shape, voxel_size", [((3, 4, 5), ISOTROPIC), ((4, 4, 4), (1, 1, 2))])
def test_rot90_of_unlike_axes_is_a_half_turn(shape, voxel_size):
    image, labels = position_batch(3, shape)
    moved, _ = rot90(image, labels, SampleRandom(keys(3), "a"), prob=1.0, voxel_size=voxel_size)
    assert torch.equal(moved, image.flip(3, 4))


def test_flips_reach_all_eight():
    image, labels = position_batch(60, (3, 4, 5))
    moved, _ = flip(image, labels, SampleRandom(keys(60), "a"), prob=0.5)
    assert len(moved.flatten(1).unique(dim=0)) == 8


@pytest.mark.parametrize("voxel_size", [ISOTROPIC, (30.0, 8.0, 8.0)])
def test_affine_matches_the_loop(voxel_size):
    image, labels = random_batch(2, shape=(5, 7, 6))
    strengths = {"prob": 1.0, "scale": 0.2, "shear": 0.4, "rotation": 30, "voxel_size": voxel_size}
    matrices = deformation.draw_affine(SampleRandom(keys(2), "a"), (5, 7, 6), **strengths)
    moved, label_moved = affine(image, labels, SampleRandom(keys(2), "a"), **strengths)
    centre = np.array([2.0, 3.0, 2.5])
    for row in range(2):
        expected = reference.resample(
            image[row].numpy(),
            labels[row].numpy(),
            lambda v: matrices[row].numpy() @ (v - centre) + centre,  # noqa: B023
        )
        np.testing.assert_allclose(moved[row], expected[0], atol=1e-4)
        np.testing.assert_array_equal(label_moved[row], expected[1])


def test_affine_of_no_strength_changes_nothing():
    image, labels = random_batch()
    moved, label_moved = affine(
        image, labels, SampleRandom(keys(6), "a"), prob=1.0, scale=0, shear=0, rotation=0
    )
    torch.testing.assert_close(moved, image, rtol=0, atol=1e-5)
    assert torch.equal(label_moved, labels)


def test_affine_strengths():
    def draw(**strengths):
        return torch.stack(
            [
                *deformation.draw_affine(
                    SampleRandom(keys(200), "a"), SHAPE, prob=1.0, **strengths
                ).values()
            ]
        )

    scaled = draw(scale=0.2, shear=0, rotation=0)
    diagonal = scaled.diagonal(dim1=1, dim2=2)
    assert torch.equal(scaled, torch.diag_embed(diagonal))
    assert 0.8 <= diagonal.min() < 0.82 and 1.18 < diagonal.max() <= 1.2
    sheared = draw(scale=0, shear=0.5, rotation=0)
    torch.testing.assert_close(torch.linalg.det(sheared), torch.ones(200, dtype=torch.float64))
    assert sheared[:, 0].abs().amax(0)[1:].max() <= 0.5
    turned = draw(scale=0, shear=0, rotation=180)
    torch.testing.assert_close(
        turned @ turned.mT, torch.eye(3, dtype=torch.float64).expand_as(turned)
    )
    assert turned[:, 0, 0].min() < -0.9
    in_plane = draw(scale=0, shear=0, rotation=180, voxel_size=(9, 9, 20))
    assert torch.equal(
        in_plane[:, 2], torch.tensor([0.0, 0, 1], dtype=torch.float64).expand(200, 3)
    )
    assert in_plane[:, 0, 0].min() < -0.9


def test_shear_is_in_nm():
    draw = partial(deformation.draw_affine, shape=SHAPE, prob=1.0, scale=0, shear=0.5, rotation=0)
    plain, in_voxels = (
        torch.stack([*draw(SampleRandom(keys(9), "a"), voxel_size=size).values()])
        for size in (ISOTROPIC, (40, 4, 4))
    )
    torch.testing.assert_close(in_voxels[:, 1, 0], plain[:, 1, 0] * 10)
    torch.testing.assert_close(in_voxels[:, 0, 2], plain[:, 0, 2] / 10)


def test_a_quarter_turn_by_affine_is_rot90():
    image, labels = random_batch(1, shape=(4, 6, 6))
    moved, label_moved = deformation.deform(
        image, labels, {0: deformation._rotation((1, 2), np.pi / 2)}, {}
    )
    torch.testing.assert_close(moved, image.rot90(-1, (3, 4)), rtol=0, atol=1e-5)
    assert torch.equal(label_moved, labels.rot90(-1, (2, 3)))


@pytest.mark.parametrize("shape, spacing", [((5, 7, 6), 3), ((1, 9, 8), 4), ((6, 6, 6), 90)])
def test_elastic_matches_the_loop(shape, spacing):
    image, labels = random_batch(2, shape=shape)
    strengths = {"prob": 1.0, "spacing": spacing, "magnitude": 1.5, "voxel_size": (2.0, 1.0, 1.0)}
    knots = deformation.draw_elastic(SampleRandom(keys(2), "a"), shape, **strengths)
    moved, label_moved = elastic(image, labels, SampleRandom(keys(2), "a"), **strengths)
    for row in range(2):
        field = reference.spline_field(knots[row], shape)
        expected = reference.resample(
            image[row].numpy(),
            labels[row].numpy(),
            lambda v: np.array(v) + field[(slice(None), *v)],  # noqa: B023
        )
        np.testing.assert_allclose(moved[row], expected[0], atol=1e-4)
        np.testing.assert_array_equal(label_moved[row], expected[1])


def test_elastic_field_has_the_stated_size_and_is_smooth():
    shape = (40, 50, 60)
    strengths = {"spacing": 12, "magnitude": 2.0, "voxel_size": (2.0, 1.0, 1.0)}
    knots = deformation.draw_elastic(SampleRandom(keys(30), "a"), shape, prob=1.0, **strengths)
    fields = torch.stack(
        [torch.tensor(reference.spline_field(field, shape)).float() for field in knots.values()]
    )
    spread = fields.pow(2).mean((0, 2, 3, 4)).sqrt()
    torch.testing.assert_close(spread, torch.tensor([1.0, 2.0, 2.0]), rtol=0.1, atol=0)
    ends = fields[..., 0, 0, 0].pow(2).mean(0).sqrt()  # as much at the corners as inside
    torch.testing.assert_close(ends, torch.tensor([1.0, 2.0, 2.0]), rtol=0.4, atol=0)
    assert (
        fields.diff(dim=4)[:, 1:].abs().max() < 2
        and fields.diff(dim=4, n=2)[:, 1:].abs().max() < 0.3
    )


def test_affine_and_elastic_together_are_one_resampling():
    image, labels = position_batch(1, (12, 12, 12))
    matrices = deformation.draw_affine(
        SampleRandom(keys(1), "a"), SHAPE, prob=1.0, scale=0.1, shear=0.1, rotation=10
    )
    knots = deformation.draw_elastic(
        SampleRandom(keys(1), "e"), (12, 12, 12), prob=1.0, spacing=8, magnitude=0.5
    )
    both = deformation.deform(image, labels, matrices, knots)[0][0]
    straight = deformation.deform(image, labels, matrices, {})[0][0]
    inner = ((straight > 2) & (straight < 9)).all(0)
    field = torch.tensor(reference.spline_field(knots[0], (12, 12, 12)), dtype=torch.float32)
    torch.testing.assert_close((both - straight)[:, inner], field[:, inner], rtol=0, atol=1e-4)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_misalignment_moves_sections_from_one_on_or_one_alone(axis):
    shape = (10, 11, 12)
    image, labels = position_batch(60, shape)
    moved, label_moved = deformation.misalign(
        image,
        labels,
        SampleRandom(keys(60), "a"),
        prob=1.0,
        max_shift=3,
        max_rotation=10,
        axis=axis,
    )
    torch.testing.assert_close(moved[:, axis], image[:, axis])
    changed = (moved - image).movedim(2 + axis, 1).flatten(2).abs().amax(2) > 1e-3
    counts, depth = changed.sum(1), shape[axis]
    for row in range(60):
        slices = changed[row].nonzero().flatten().tolist()
        assert len(slices) == 1 or slices == list(range(depth - len(slices), depth))
    assert (counts == 1).sum() > 15 and (counts > 1).sum() > 15
    assert (moved - image).abs().max() < 3 + 11 * np.tan(np.radians(10))
    assert (label_moved == -1).any()


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_misalignment_matches_the_loop(axis):
    shape = (5, 7, 6)
    image, labels = random_batch(8, shape=shape)
    strengths = {"prob": 0.9, "max_shift": 3, "max_rotation": 25}
    moved, label_moved = deformation.misalign(
        image, labels, SampleRandom(keys(8), "a"), axis=axis, **strengths
    )
    rng = SampleRandom(keys(8), "a")
    chosen = rng.bernoulli(0.9).flatten().tolist()
    alone, turned = rng.bernoulli(0.5, 2).unbind(1)
    first = rng.integers(0, shape[axis]).flatten().tolist()
    shifts = rng.uniform(2, low=-3, high=3).tolist()
    angles = rng.uniform(low=-25, high=25).flatten().tolist()
    assert {(bool(a), bool(t)) for a, t in zip(alone, turned)} == {
        (False, False),
        (False, True),
        (True, False),
        (True, True),
    }
    for row in range(8):
        sections = range(first[row], first[row] + 1 if alone[row] else shape[axis])
        shift, angle = (0, 0), 0.0
        if turned[row]:
            angle = np.radians(angles[row])
        else:
            shift = shifts[row]
        expected = reference.misaligned(
            image[row].numpy(),
            labels[row].numpy(),
            axis,
            sections if chosen[row] else (),
            shift,
            angle,
        )
        np.testing.assert_allclose(moved[row], expected[0], atol=1e-4)
        np.testing.assert_array_equal(label_moved[row], expected[1])
