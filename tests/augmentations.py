"""The augmentations by name, and batches for them, as their tests need them."""

from dataclasses import fields
from functools import partial

import torch

from pytc.config import AugmentConfig
from pytc.data.augment import deformation, imaging
from pytc.data.counter_random import sample_key

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


def position_batch(count, shape):
    """Images whose channels are the position of a voxel, and labels that number the voxels.

    They must stay together.
    """
    z, y, x = torch.meshgrid(*(torch.arange(n) for n in shape), indexing="ij")
    image = torch.stack((z, y, x)).float().expand(count, 3, *shape).contiguous()
    labels = ((z * shape[1] + y) * shape[2] + x).to(torch.int32).expand(count, *shape).contiguous()
    return image, labels
