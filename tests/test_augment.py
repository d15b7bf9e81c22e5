"""Augmentations: what each does, and that a sample's fate hangs on its key alone."""

from dataclasses import fields, replace
from functools import partial

import numpy as np
import pytest
import reference_data as reference
import torch

from pytc.config import AugmentConfig
from pytc.data.augment import augment, deformation, imaging, section_axis
from pytc.data.counter_random import SampleRandom, sample_key
from pytc.io.intensity import UINT8, to_float32

SHAPE = (8, 9, 9)
ISOTROPIC = (1.0, 1.0, 1.0)


def drawn(apply, draw):
    """The augmentation f(image, labels, rng, *, prob, ...) that applies what `draw` draws."""

    def augmentation(image, labels, rng, **strengths):
        return apply(image, labels, draw(rng, image.shape[2:], **strengths))

    return augmentation


def deform_affine(image, labels, matrices):
    return deformation.deform(image, labels, matrices, {})


def deform_elastic(image, labels, knots):
    return deformation.deform(image, labels, {}, knots)


permute_axes = drawn(deformation.reorient, deformation.draw_permutations)
rot90 = drawn(deformation.reorient, deformation.draw_turns)
flip = drawn(deformation.reorient, deformation.draw_flips)
affine = drawn(deform_affine, deformation.draw_affine)
elastic = drawn(deform_elastic, deformation.draw_elastic)
GEOMETRY = {
    "permute_axes": permute_axes,
    "rot90": rot90,
    "flip": flip,
    "affine": partial(affine, scale=0.2, shear=0.3, rotation=40),
    "elastic": partial(elastic, spacing=5, magnitude=1.0),
    "misalign": partial(deformation.misalign, max_shift=3, max_rotation=20),
}
DAMAGE = {
    "drop_slices": partial(imaging.drop_slices, drop_prob=0.5),
    "shift_slices": partial(imaging.shift_slices, shift_prob=0.8, max_shift=3),
    "missing_section": imaging.missing_section,
    "blur_slices": partial(imaging.blur_slices, blur_prob=0.5, max_sigma=2.0),
    "slice_contrast": partial(imaging.slice_contrast, contrast_prob=0.5, scale=0.2, offset=0.2),
    "intensity": partial(imaging.intensity, scale=0.2, offset=0.2),
    "gamma": partial(imaging.gamma, low=0.5, high=2.0),
    "noise": partial(imaging.noise, max_sigma=0.3),
    "cutout": partial(imaging.cutout, size=0.5),
}
ALL = GEOMETRY | DAMAGE
STRONG = AugmentConfig(
    **{f.name: 0.6 for f in fields(AugmentConfig) if f.name.endswith("_prob")},
    affine_rotation=30,
    elastic_spacing=6,
)


def keys(count, step=0):
    return torch.tensor([sample_key(7, step, index) for index in range(count)])


def random_batch(count=6, channels=2, shape=SHAPE, seed=0):
    generator = torch.Generator().manual_seed(seed)
    image = torch.rand((count, channels, *shape), generator=generator)
    return image, torch.randint(-1, 5, (count, *shape), generator=generator, dtype=torch.int32)


def places_batch(count, shape):
    """Images whose channels are the place of a voxel, and labels that number the voxels.

    They must stay together.
    """
    z, y, x = torch.meshgrid(*(torch.arange(n) for n in shape), indexing="ij")
    image = torch.stack((z, y, x)).float().expand(count, 3, *shape).contiguous()
    labels = ((z * shape[1] + y) * shape[2] + x).to(torch.int32).expand(count, *shape).contiguous()
    return image, labels


# ---- random numbers


def test_hashes_are_splitmix64_of_key_and_stream():
    for key in (0, 1, -1, sample_key(3, 1, 4)):
        expected = reference.hashes(key, "noise", 7)
        rng = SampleRandom(torch.tensor([key]), "noise")
        assert rng.uniform(7)[0].tolist() == [(h >> 40) / 2**24 for h in expected]
        later = reference.hashes(key, "noise", 5, first=8)
        assert rng.integers(-3, 9, 5)[0].tolist() == [((h >> 33) * 12 >> 31) - 3 for h in later]


@pytest.mark.parametrize("count", [1, 4, 7])
def test_normal_numbers_are_quantiles_of_the_hashes(count):
    for key in (0, -1, sample_key(3, 1, 4)):
        drawn = SampleRandom(torch.tensor([key]), "noise").normal(count)[0]
        np.testing.assert_allclose(drawn, reference.normals(key, "noise", count), rtol=1e-6)


def test_samples_streams_and_calls_differ():
    draws = [
        SampleRandom(torch.tensor([sample_key(seed, step, index)]), stream).uniform().item()
        for seed in (0, 1)
        for step in (0, 1)
        for index in (0, 1)
        for stream in ("flip", "noise")
    ]
    assert len(set(draws)) == 16
    rng = SampleRandom(keys(1), "flip")
    assert rng.uniform() != rng.uniform()


def test_draws_are_the_same_for_any_batch():
    whole = SampleRandom(keys(5), "a").normal(3, 3)
    assert torch.equal(whole[3:4], SampleRandom(keys(5)[3:4], "a").normal(3, 3))
    assert torch.equal(whole[[1, 4]], SampleRandom(keys(5), "a").rows([1, 4]).normal(3, 3))


def test_distributions():
    rng = SampleRandom(keys(2), "a")
    normal = rng.normal(100_000)
    assert normal.mean(1).abs().max() < 0.02 and (normal.std(1) - 1).abs().max() < 0.02
    assert abs((normal.abs() < 1).float().mean() - 0.6827) < 0.01
    uniform = rng.uniform(100_000, low=-1, high=3)
    assert uniform.min() >= -1 and uniform.max() < 3 and (uniform.mean(1) - 1).abs().max() < 0.02
    counts = rng.integers(2, 5, 30_000).unique(return_counts=True)
    assert counts[0].tolist() == [2, 3, 4] and (counts[1] - 20_000).abs().max() < 600
    assert rng.bernoulli(1.0, 100).all() and not rng.bernoulli(0.0, 100).any()


# ---- what holds for all


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


@pytest.mark.parametrize("name", GEOMETRY)
def test_geometry_works_without_labels(name):
    image, labels = random_batch()
    with_labels = GEOMETRY[name](image, labels, SampleRandom(keys(6), name), prob=1.0)
    without = GEOMETRY[name](image, None, SampleRandom(keys(6), name), prob=1.0)
    assert torch.equal(with_labels[0], without[0]) and without[1] is None


# ---- geometry


@pytest.mark.parametrize("name", GEOMETRY)
def test_image_and_labels_move_together(name):
    image, labels = places_batch(6, (9, 9, 9))
    moved, label_moved = GEOMETRY[name](image, labels, SampleRandom(keys(6), name), prob=1.0)
    known = label_moved >= 0
    assert known.float().mean() > 0.3
    if name in ("permute_axes", "rot90", "flip"):
        assert known.all()
    number = (moved.round() * torch.tensor([81, 9, 1]).view(3, 1, 1, 1)).sum(1)
    inner = known & ((moved - moved.floor() - 0.5).abs() > 1e-3).all(1)  # away from ties
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
    image, labels = places_batch(40, (6, 6, 4))
    moved, _ = permute_axes(image, labels, SampleRandom(keys(40), "a"), prob=1.0)
    assert torch.equal(moved[:, 2], image[:, 2])  # x is shorter, so it stays
    assert torch.equal(moved[:, 0], image[:, 0]) is False
    image, labels = places_batch(60, (5, 5, 5))
    moved, _ = permute_axes(
        image, labels, SampleRandom(keys(60), "a"), prob=1.0, voxel_size=(9, 9, 20)
    )
    assert len(moved.flatten(1).unique(dim=0)) == 2
    moved, _ = permute_axes(image, labels, SampleRandom(keys(60), "a"), prob=1.0)
    assert len(moved.flatten(1).unique(dim=0)) == 6


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_rot90_turns_in_the_plane_of_the_section(axis):
    image, labels = places_batch(40, (5, 5, 5))
    moved, _ = rot90(image, labels, SampleRandom(keys(40), "a"), prob=1.0, axis=axis)
    assert torch.equal(moved[:, axis], image[:, axis])
    dims = [1 + a for a in range(3) if a != axis]
    turned = [torch.rot90(image[0], k, dims) for k in (1, 2, 3)]
    seen = {next(k for k in range(3) if torch.equal(sample, turned[k])) for sample in moved}
    assert seen == {0, 1, 2}


@pytest.mark.parametrize("shape, voxel_size", [((3, 4, 5), ISOTROPIC), ((4, 4, 4), (1, 1, 2))])
def test_rot90_of_unlike_axes_is_a_half_turn(shape, voxel_size):
    image, labels = places_batch(3, shape)
    moved, _ = rot90(image, labels, SampleRandom(keys(3), "a"), prob=1.0, voxel_size=voxel_size)
    assert torch.equal(moved, image.flip(3, 4))


def test_flips_reach_all_eight():
    image, labels = places_batch(60, (3, 4, 5))
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
    image, labels = places_batch(1, (12, 12, 12))
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
    image, labels = places_batch(60, shape)
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
        places = changed[row].nonzero().flatten().tolist()
        assert len(places) == 1 or places == list(range(depth - len(places), depth))
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


# ---- damage


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
    for row, place in reference.voxels((3, depth)):
        for channel in range(2):
            plane = image[row, channel].select(axis, place).numpy()
            if picked[row, place]:
                plane = reference.shift_plane(plane, *shifts[row][place], fill)
            np.testing.assert_array_equal(moved[row, channel].select(axis, place), plane)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_slices_shift_along_both_directions_in_plane_and_not_across(axis):
    image, _ = places_batch(10, (9, 9, 9))
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


# ---- the recipe


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
    image, _ = places_batch(90, (9, 9, 9))
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
