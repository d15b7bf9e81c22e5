"""Where there is tissue: a mask of the voxels of an image, or of larger ones."""

import math
from collections.abc import Sequence

from pytc.checks import require
from pytc.geometry import Box, as_triple
from pytc.io.volume import Volume


def scale_of(mask: Volume, image: Volume) -> tuple[float, ...]:
    """Voxels of the image for one of the mask, along each axis.

    ValueError unless the mask covers the image: it has its shape, or states its voxel size.
    """
    require(
        mask.n_channels == 1 and mask.dtype.kind in "iub",
        f"a mask {mask.path} of integers, without channels",
        f"{mask.axes} {mask.dtype}",
    )
    if mask.spatial_shape == image.spatial_shape:
        return (1.0, 1.0, 1.0)
    if mask.voxel_size is None or image.voxel_size is None:
        raise ValueError(
            f"expected a mask {mask.path} of shape {image.spatial_shape}, or voxel sizes of mask "
            f"and image, got {mask.spatial_shape} and {mask.voxel_size} and {image.voxel_size}"
        )
    scale = tuple(of_mask / voxel for of_mask, voxel in zip(mask.voxel_size, image.voxel_size))
    covered = tuple(n * s for n, s in zip(mask.spatial_shape, scale))
    fits = all(abs(c - n) < s + 1 for c, n, s in zip(covered, image.spatial_shape, scale))
    require(
        fits,
        f"a mask {mask.path} that covers the image of {image.spatial_shape} voxels",
        f"one that covers {tuple(map(round, covered))}",
    )
    return scale


def blocks_without_tissue(mask: Volume, image: Volume, boxes: Sequence[Box]) -> list[int]:
    """The numbers of the boxes, of the image, in which the mask is 0."""
    scale = scale_of(mask, image)
    return [number for number, box in enumerate(boxes) if not _has_tissue(mask, box, scale)]


def _has_tissue(mask: Volume, box: Box, scale: tuple[float, ...]) -> bool:
    shape = mask.spatial_shape
    start = as_triple(min(math.floor(a / s), n - 1) for a, s, n in zip(box.start, scale, shape))
    stop = as_triple(
        max(a + 1, min(math.ceil(b / s), n)) for a, b, s, n in zip(start, box.stop, scale, shape)
    )
    return bool(mask.read(start, stop).any())
