"""Augmentation: `augment` does all that a config asks for, in a fixed order.

Two augmentations are meant for use elsewhere too: `drop_slices` and `shift_slices` for batches,
`DropSliced` and `ShiftSliced` as MONAI transforms. MONAI is imported when one of these is.
"""

from collections.abc import Callable
from typing import Any

import torch

from pytc.checks import require
from pytc.config import AugmentConfig, Lengths
from pytc.data.augment import deformation, imaging
from pytc.data.augment.imaging import drop_slices, shift_slices
from pytc.data.counter_random import SampleRandom
from pytc.io.intensity import UINT8, to_float32

__all__ = ["DropSliced", "ShiftSliced", "augment", "drop_slices", "section_axis", "shift_slices"]
SIGNED = (torch.int8, torch.int16, torch.int32, torch.int64)


def section_axis(voxel_size: Lengths) -> int:
    """The axis across which sections were cut: that of the largest voxels, the first if several."""
    return voxel_size.index(max(voxel_size))


def augment(
    image: torch.Tensor,
    labels: torch.Tensor | None,
    keys: torch.Tensor,
    config: AugmentConfig,
    voxel_size: Lengths,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Augment a batch as `config` says; what happens to a sample follows from its key alone.

    Args:
        image: (B, C, Z, Y, X) uint8, or float in [0, 1].
        labels: (B, Z, Y, X) of a signed integer dtype, or None.
        keys: (B,) from `sample_key`.
        config: probability and strength of each augmentation.
        voxel_size: nm along z, y, x.

    Returns:
        The image in float32, not clamped to [0, 1]; labels of the same dtype, -1 where a voxel
        comes from outside the patch.

    Raises:
        ValueError: shapes or dtypes do not fit.
    """
    _check(image, labels, keys, voxel_size)
    # each voxel is copied once, through all permutations, turns and flips
    orientations = _draw_orientations(image.shape[2:], keys, config, voxel_size)
    image, labels = deformation.reorient(image, labels, orientations)
    image = to_float32(image, UINT8) if image.dtype == torch.uint8 else image.float()
    # and resampled once, through the affine map and the elastic field
    matrices, knots = _draw_deformations(image.shape[2:], keys, config, voxel_size)
    image, labels = deformation.deform(image, labels, matrices, knots)
    axis = section_axis(voxel_size)
    image, labels = deformation.misalign(
        image,
        labels,
        SampleRandom(keys, "misalign"),
        prob=config.misalign_prob,
        max_shift=config.misalign_max,
        max_rotation=config.misalign_rotation,
        axis=axis,
    )
    for function, settings in imaging.list_damages(config, axis):
        if settings.get("axis") == "random":
            image = _across_random_axes(function, image, keys, settings)
        else:
            rng = SampleRandom(keys, function.__name__)
            image, labels = function(image, labels, rng, **settings)
    return image, labels


def _draw_orientations(
    shape: deformation.Shape, keys: torch.Tensor, config: AugmentConfig, voxel_size: Lengths
) -> torch.Tensor:
    """How each sample is permuted, turned and mirrored, as for `deformation.reorient`."""
    permutations = deformation.draw_permutations(
        SampleRandom(keys, "permute_axes"), shape, prob=config.permute_prob, voxel_size=voxel_size
    )
    turns = deformation.draw_turns(
        SampleRandom(keys, "rot90"),
        shape,
        prob=config.rot90_prob,
        voxel_size=voxel_size,
        axis=section_axis(voxel_size),
    )
    flips = deformation.draw_flips(SampleRandom(keys, "flip"), shape, prob=config.flip_prob)
    return flips @ turns @ permutations


def _draw_deformations(
    shape: deformation.Shape, keys: torch.Tensor, config: AugmentConfig, voxel_size: Lengths
) -> tuple[dict[int, torch.Tensor], dict[int, torch.Tensor]]:
    """The affine map and the elastic field of each sample, as for `deformation.deform`."""
    matrices = deformation.draw_affine(
        SampleRandom(keys, "affine"),
        shape,
        prob=config.affine_prob,
        scale=config.affine_scale,
        shear=config.affine_shear,
        rotation=config.affine_rotation,
        voxel_size=voxel_size,
    )
    knots = deformation.draw_elastic(
        SampleRandom(keys, "elastic"),
        shape,
        prob=config.elastic_prob,
        spacing=config.elastic_spacing,
        magnitude=config.elastic_magnitude,
        voxel_size=voxel_size,
    )
    return matrices, knots


def _across_random_axes(
    function: Callable, image: torch.Tensor, keys: torch.Tensor, settings: dict[str, Any]
) -> torch.Tensor:
    """Damage slices of each sample across a random axis, which follows from its key.

    function: the augmentation; each draws its axes.
    """
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


def _check(
    image: torch.Tensor,
    labels: torch.Tensor | None,
    keys: torch.Tensor,
    voxel_size: Lengths,
) -> None:
    """ValueError if the arguments of `augment` do not fit."""
    is_image = image.ndim == 5 and (image.dtype == torch.uint8 or image.is_floating_point())
    require(is_image, "an image (B, C, Z, Y, X), uint8 or float", (*image.shape, image.dtype))
    expected = (len(image), *image.shape[2:])
    if labels is not None:
        require(
            tuple(labels.shape) == expected and labels.dtype in SIGNED,
            f"labels {expected} of a signed integer dtype",
            (*labels.shape, labels.dtype),
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
