"""Kernels and strides along each axis, from the voxel size: nnU-Net's rule.

(Isensee et al. 2021, arXiv:1904.08128.) In a volume of thick sections a step across them is a
larger step in the tissue than one within. Where it is more than twice as large, neighbours across
are almost strangers: a kernel there spends weights on little in common, and halving the axis loses
the sections that the finer axes still tell apart. So an axis of such voxels has kernels of 1 and is
left as it is, until halving the others has brought their voxels within a factor of 2; from that
level on all are alike.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from operator import mul

from pytc.config import ModelConfig, Triple

# an axis joins in when its voxels are less than this many times larger than those of the finest
# axis
RATIO = 2
SMALLEST = 4  # voxels of a patch that nnU-Net leaves along each axis at its coarsest level
ENDLESS = 2**62  # voxels of a patch that can be halved as often as one likes


@dataclass(frozen=True)
class Level:
    """One resolution of a network; axes in stored order."""

    # from the next finer level, in its voxels; 1 everywhere at the finest level
    stride: tuple[int, ...]
    wide: tuple[bool, ...]  # whether kernels reach along this axis

    def kernel(self, size: int) -> tuple[int, ...]:
        """A kernel of `size` voxels along the wide axes, of 1 along the others."""
        return tuple(size if wide else 1 for wide in self.wide)


def plan_levels(
    voxel_size: tuple[float, ...] | None, count: int | None = None, patch_size: Triple | None = None
) -> list[Level]:
    """`count` levels, finest first, for voxels of this size (any unit; None: isotropic).

    Without a count, as many as nnU-Net takes for patches of `patch_size` voxels; the last is wide
    along all axes.
    """
    spacing = list(voxel_size or (1.0, 1.0, 1.0))
    axes = range(len(spacing))
    left = list(patch_size or (ENDLESS for _ in axes))
    stride, wide, levels = (1 for _ in axes), (False for _ in axes), []
    while len(levels) != count:
        wide = tuple(was or spacing[axis] < RATIO * min(spacing) for axis, was in zip(axes, wide))
        levels.append(Level(tuple(stride), wide))
        halved = [axis for axis in axes if left[axis] >= 2 * SMALLEST]
        halved = [
            axis
            for axis in halved
            if spacing[axis] < RATIO * min(spacing[other] for other in halved)
        ]
        if not halved or (len(halved) == 1 and left[halved[0]] < 3 * SMALLEST):
            levels[-1] = replace(levels[-1], wide=tuple(True for _ in axes))
            break
        stride = [2 if axis in halved else 1 for axis in axes]
        spacing = [size * step for size, step in zip(spacing, stride)]
        left = [-(-n // step) for n, step in zip(left, stride)]
    return levels


def level_strides(config: ModelConfig) -> tuple[Triple, ...]:
    """The step from each level of `features` to the next along each axis.

    It is in voxels of the finer level.
    """
    return config.strides or tuple(
        level.stride for level in plan_levels(config.voxel_size, len(config.features))[1:]
    )


def cumulative(strides: Sequence[tuple[int, ...]]) -> tuple[tuple[int, ...], ...]:
    """The stride of every level in voxels of the image, from 1 everywhere on."""
    first = tuple(1 for _ in strides[0])
    return tuple(
        accumulate(strides, lambda scale, stride: tuple(map(mul, scale, stride)), initial=first)
    )


def fit_to_data(
    config: ModelConfig, patch_size: Triple, voxel_size: tuple[float, float, float]
) -> ModelConfig:
    """The config with the fields that the training data decide filled in where they are None."""
    return replace(
        config,
        voxel_size=config.voxel_size or voxel_size,
        image_size=config.image_size or patch_size,
    )
