"""Kernels and strides along each axis, from the voxel size: nnU-Net's rule (Isensee et al. 2021, arXiv:1904.08128).

In a volume of thick sections a step across them is a larger step in the tissue than one within. Where it is more than
twice as large, neighbours across are almost strangers: a kernel there spends weights on little in common, and halving
the axis loses the sections that the finer axes still tell apart. So an axis of such voxels has kernels of 1 and is
left as it is, until halving the others has brought their voxels within a factor of 2; from that level on all are alike.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from pytc.config import ModelConfig, Triple

RATIO = 2  # an axis joins in when its voxels are less than this many times larger than those of the finest axis
SMALLEST = 4  # voxels of a patch that nnU-Net leaves along each axis at its coarsest level


@dataclass(frozen=True)
class Level:
    """One resolution of a network; axes in stored order."""

    stride: tuple[int, ...]  # from the next finer level, in its voxels; 1 everywhere at the finest level
    wide: tuple[bool, ...]  # whether kernels reach along this axis

    def kernel(self, size: int) -> tuple[int, ...]:
        """A kernel of `size` voxels along the wide axes, of 1 along the others."""
        return tuple(size if wide else 1 for wide in self.wide)


def plan_levels(voxel_size: tuple[float, ...] | None, count: int) -> list[Level]:
    """The first `count` levels, finest first, for voxels of this size (any unit; None: isotropic)."""
    levels = _levels(voxel_size or (1.0, 1.0, 1.0), None)
    return [next(levels) for _ in range(count)]


def plan_patch(voxel_size: tuple[float, ...] | None, patch_size: Triple) -> list[Level]:
    """As many levels as nnU-Net takes for patches of this size in voxels; kernels of the last are wide on all axes."""
    *levels, last = _levels(voxel_size or (1.0, 1.0, 1.0), patch_size)
    return [*levels, replace(last, wide=(True,) * 3)]


def _levels(voxel_size: tuple[float, ...], patch_size: tuple[int, ...] | None) -> Iterator[Level]:
    """Levels without end, or until the patch is too small to be halved along any axis that would be."""
    spacing, left = list(voxel_size), patch_size and list(patch_size)
    axes = range(len(spacing))
    stride, wide = (1,) * len(spacing), (False,) * len(spacing)
    while True:
        wide = tuple(was or spacing[axis] < RATIO * min(spacing) for axis, was in zip(axes, wide))
        yield Level(stride, wide)
        halved = [axis for axis in axes if left is None or left[axis] >= 2 * SMALLEST]
        finest = min((spacing[axis] for axis in halved), default=0.0)
        halved = [axis for axis in halved if spacing[axis] < RATIO * finest]
        if not halved or (left and len(halved) == 1 and left[halved[0]] < 3 * SMALLEST):
            return
        stride = tuple(2 if axis in halved else 1 for axis in axes)
        spacing = [size * step for size, step in zip(spacing, stride)]
        left = left and [-(-n // step) for n, step in zip(left, stride)]


def cumulative(strides: Sequence[tuple[int, ...]]) -> tuple[tuple[int, ...], ...]:
    """The stride of every level in voxels of the image, from 1 everywhere on."""
    first = (1,) * len(strides[0])
    return tuple(tuple(map(math.prod, zip(first, *strides[:level]))) for level in range(len(strides) + 1))


def fit_to_data(config: ModelConfig, patch_size: Triple, voxel_size: tuple[float, float, float]) -> ModelConfig:
    """The config with the fields that the training data decide filled in where they are None."""
    return replace(config, voxel_size=config.voxel_size or voxel_size, image_size=config.image_size or patch_size)
