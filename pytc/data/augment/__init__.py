"""The augmentations of a config, in their order: geometry, imaging, then what tissue lacks.

Single ones for use elsewhere: `drop_slices` and `shift_slices` for batches, and as MONAI transforms
`DropSliced` and `ShiftSliced`, with which MONAI is imported.
"""

from collections.abc import Callable
from typing import Any

import torch

from pytc.checks import require
from pytc.config import AugmentConfig
from pytc.data.augment import deformation, imaging
from pytc.data.augment.imaging import drop_slices, shift_slices
from pytc.data.counter_random import SampleRandom
from pytc.io.intensity import UINT8, to_float32

__all__ = ["DropSliced", "ShiftSliced", "augment", "drop_slices", "section_axis", "shift_slices"]
SIGNED = (torch.int8, torch.int16, torch.int32, torch.int64)


def section_axis(voxel_size: tuple[float, float, float]) -> int:
    """The axis across which sections were cut: the one of the largest voxels.

    If several have the largest, it is the first of them.
    """
    return voxel_size.index(max(voxel_size))


def augment(
    image: torch.Tensor,
    labels: torch.Tensor | None,
    keys: torch.Tensor,
    config: AugmentConfig,
    voxel_size: tuple[float, float, float],
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Augment a batch as `config` says; what happens to a sample follows from its key alone.

    image: (B, C, Z, Y, X) uint8, or float in [0, 1]; labels: (B, Z, Y, X), a signed integer dtype,
    or None; keys: (B,) from `sample_key`; voxel_size: nm along z, y, x. Returns the image in
    float32, not clamped to [0, 1], and labels of the same dtype, -1 where a voxel comes from
    outside the patch. ValueError if shapes or dtypes do not fit.
    """
    _check(image, labels, keys, voxel_size)
    axis, shape, c = section_axis(voxel_size), image.shape[2:], config

    def rng(stream: str) -> SampleRandom:
        return SampleRandom(keys, stream)

    permutations = deformation.draw_permutations(
        rng("permute_axes"), shape, prob=c.permute_prob, voxel_size=voxel_size
    )
    turns = deformation.draw_turns(
        rng("rot90"), shape, prob=c.rot90_prob, voxel_size=voxel_size, axis=axis
    )
    flips = deformation.draw_flips(rng("flip"), shape, prob=c.flip_prob)
    image, labels = deformation.reorient(image, labels, flips @ turns @ permutations)
    image = to_float32(image, UINT8) if image.dtype == torch.uint8 else image.float()

    matrices = deformation.draw_affine(
        rng("affine"),
        shape,
        prob=c.affine_prob,
        scale=c.affine_scale,
        shear=c.affine_shear,
        rotation=c.affine_rotation,
        voxel_size=voxel_size,
    )
    knots = deformation.draw_elastic(
        rng("elastic"),
        shape,
        prob=c.elastic_prob,
        spacing=c.elastic_spacing,
        magnitude=c.elastic_magnitude,
        voxel_size=voxel_size,
    )
    image, labels = deformation.deform(image, labels, matrices, knots)

    image, labels = deformation.misalign(
        image,
        labels,
        rng("misalign"),
        prob=c.misalign_prob,
        max_shift=c.misalign_max,
        max_rotation=c.misalign_rotation,
        axis=axis,
    )
    for function, settings in imaging.list_damages(config, axis):
        if settings.get("axis") == "random":
            image = _across_random_axes(function, image, keys, settings)
        else:
            image, labels = function(image, labels, rng(function.__name__), **settings)
    return image, labels


def _across_random_axes(
    function: Callable, image: torch.Tensor, keys: torch.Tensor, settings: dict[str, Any]
) -> torch.Tensor:
    """Damage slices of each sample across an axis that is drawn from its key, for each kind."""
    rng = SampleRandom(keys, function.__name__)
    axes = SampleRandom(keys, f"{function.__name__} axis").integers(0, 3).flatten().tolist()
    damaged = {}
    for row, axis in enumerate(axes):
        sample = image[row : row + 1]
        result, _ = function(sample, None, rng.rows([row]), **{**settings, "axis": axis})
        if result is not sample:
            damaged[row] = result[0]
    if damaged:
        image = image.clone()
        for row, sample in damaged.items():
            image[row] = sample
    return image


def _check(image, labels, keys, voxel_size) -> None:
    fit = image.ndim == 5 and (image.dtype == torch.uint8 or image.is_floating_point())
    require(fit, "an image (B, C, Z, Y, X), uint8 or float", (*image.shape, image.dtype))
    expected = (len(image), *image.shape[2:])
    fit = labels is None or (tuple(labels.shape) == expected and labels.dtype in SIGNED)
    require(
        fit,
        f"labels {expected} of a signed integer dtype",
        labels is None or (*labels.shape, labels.dtype),
    )
    require(
        tuple(keys.shape) == expected[:1],
        f"a key for each of {len(image)} samples",
        tuple(keys.shape),
    )
    require(len(voxel_size) == 3 and min(voxel_size) > 0, "three positive voxel sizes", voxel_size)


def __getattr__(name: str) -> Any:
    """The MONAI transforms, imported when they are asked for: MONAI takes seconds to load."""
    if name in ("DropSliced", "ShiftSliced"):
        from pytc.data.augment import monai_transforms

        return getattr(monai_transforms, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
