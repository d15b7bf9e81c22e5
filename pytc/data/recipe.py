"""The augmentations of a config, one after another: geometry, then imaging, then what is missing from the tissue."""

from __future__ import annotations

import torch

from pytc.config import AugmentConfig
from pytc.data import augment as damage
from pytc.data import warp
from pytc.data.random import SampleRandom

SIGNED = (torch.int8, torch.int16, torch.int32, torch.int64)


def section_axis(voxel_size: tuple[float, float, float]) -> int:
    """The axis across which sections were cut: the one of the largest voxels, the first if several have it."""
    return voxel_size.index(max(voxel_size))


def augment(image: torch.Tensor, labels: torch.Tensor | None, keys: torch.Tensor, config: AugmentConfig,
            voxel_size: tuple[float, float, float]) -> tuple[torch.Tensor, torch.Tensor | None]:  # fmt: skip
    """Augment a batch as `config` says; what happens to a sample follows from its key alone.

    image: (B, C, Z, Y, X) uint8, or float in [0, 1]; labels: (B, Z, Y, X), a signed integer dtype, or None; keys: (B,)
    from `sample_key`; voxel_size: nm along z, y, x. Returns the image in float32, not clamped to [0, 1], and labels
    of the same dtype, -1 where a voxel comes from outside the patch. ValueError if shapes or dtypes do not fit.
    """
    _check(image, labels, keys, voxel_size)
    axis = section_axis(voxel_size)
    c = config

    def rng(stream: str) -> SampleRandom:
        return SampleRandom(keys, stream)

    shape = image.shape[2:]
    permutations = warp.draw_permutations(rng("permute_axes"), c.permute_prob, shape, voxel_size)
    turns = warp.draw_turns(rng("rot90"), c.rot90_prob, shape, voxel_size, axis)
    image, labels = warp.reorient(image, labels, warp.draw_flips(rng("flip"), c.flip_prob) @ turns @ permutations)
    image = image.float().div_(255) if image.dtype == torch.uint8 else image.float()

    matrices = warp.draw_affine(rng("affine"), c.affine_prob, c.affine_scale, c.affine_shear, c.affine_rotation,
                                voxel_size)  # fmt: skip
    knots = warp.draw_elastic(rng("elastic"), c.elastic_prob, shape, c.elastic_spacing, c.elastic_magnitude, voxel_size)
    batch = warp.deform(image, labels, matrices, knots)
    batch = warp.misalign(*batch, rng("misalign"), prob=c.misalign_prob, max_shift=c.misalign_max,
                          max_rotation=c.misalign_rotation, axis=axis)  # fmt: skip

    scale, offset = c.intensity_scale, c.intensity_offset
    batch = damage.intensity(*batch, rng("intensity"), prob=c.intensity_prob, scale=scale, offset=offset)
    batch = damage.gamma(*batch, rng("gamma"), prob=c.gamma_prob, low=c.gamma_range[0], high=c.gamma_range[1])
    slices = {"prob": c.slices_prob, "axis": axis}
    batch = damage.slice_contrast(*batch, rng("slice_contrast"), contrast_prob=c.slice_contrast_prob, scale=scale,
                                  offset=offset, **slices)  # fmt: skip
    batch = damage.blur_slices(*batch, rng("blur_slices"), blur_prob=c.blur_slice_prob, max_sigma=c.blur_sigma,
                               **slices)  # fmt: skip
    batch = damage.noise(*batch, rng("noise"), prob=c.noise_prob, max_sigma=c.noise_max)
    batch = damage.shift_slices(*batch, rng("shift_slices"), shift_prob=c.shift_slice_prob,
                                max_shift=c.shift_slice_max, fill=c.shift_slice_fill, **slices)  # fmt: skip
    batch = damage.drop_slices(*batch, rng("drop_slices"), drop_prob=c.drop_slice_prob, **slices)
    batch = damage.missing_section(*batch, rng("missing_section"), prob=c.missing_section_prob,
                                   longest=c.missing_section_max, axis=axis)  # fmt: skip
    return damage.cutout(*batch, rng("cutout"), prob=c.cutout_prob, size=c.cutout_size)


def _check(image, labels, keys, voxel_size) -> None:
    if image.ndim != 5 or not (image.dtype == torch.uint8 or image.is_floating_point()):
        raise ValueError(f"expected an image (B, C, Z, Y, X), uint8 or float, got {tuple(image.shape)} {image.dtype}")
    if labels is not None:
        expected = (len(image), *image.shape[2:])
        if tuple(labels.shape) != expected or labels.dtype not in SIGNED:
            got = f"{tuple(labels.shape)} {labels.dtype}"
            raise ValueError(f"expected labels {expected} of a signed integer dtype, got {got}")
    if tuple(keys.shape) != (len(image),):
        raise ValueError(f"expected a key for each of {len(image)} samples, got keys of shape {tuple(keys.shape)}")
    if len(voxel_size) != 3 or min(voxel_size) <= 0:
        raise ValueError(f"expected three positive voxel sizes, got {voxel_size!r}")
