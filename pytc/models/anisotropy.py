"""Kernels and strides along each axis, from the voxel size: nnU-Net's rule.

Where voxels along an axis are at least twice as large as along the finest axis, as across thick
sections, neighbours along it have little in common. So kernels have size 1 along that axis, and
it is not downsampled, until downsampling the other axes has brought the ratio below 2. From that
level on all axes are treated alike (Isensee et al. 2021, arXiv:1904.08128).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from operator import mul

from pytc.config import Lengths, ModelConfig, Triple
from pytc.geometry import RATIO, as_triple

SMALLEST = 4  # voxels of a patch that nnU-Net leaves along each axis at its coarsest level
ENDLESS = 2**62  # voxels along an axis without a patch: it can be halved at every level


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
    """The levels of a network for voxels of this size, finest first.

    Args:
        voxel_size: along each axis, in any unit; None for three axes of equal voxels.
        count: the number of levels. By default as many as nnU-Net takes for the patch; then the
            last level has kernels along all axes.
        patch_size: voxels of a patch; an axis is halved only while enough of them are left. None
            for no such limit.
    """
    spacing = (1.0, 1.0, 1.0) if voxel_size is None else voxel_size
    axes = range(len(spacing))
    left = (ENDLESS,) * len(spacing) if patch_size is None else patch_size
    stride = (1,) * len(spacing)
    wide = (False,) * len(spacing)
    levels: list[Level] = []
    while len(levels) != count:
        # an axis that was wide at a finer level stays so
        finest = min(spacing)
        wide = tuple(wide[axis] or spacing[axis] < RATIO * finest for axis in axes)
        levels.append(Level(stride, wide))

        halved = _axes_to_halve(spacing, left)
        if not halved:
            levels[-1] = replace(levels[-1], wide=(True,) * len(spacing))
            break
        stride = tuple(2 if axis in halved else 1 for axis in axes)
        spacing = tuple(size * step for size, step in zip(spacing, stride))
        left = tuple(-(-voxels // step) for voxels, step in zip(left, stride))
    return levels


def _axes_to_halve(spacing: Sequence[float], left: Sequence[int]) -> list[int]:
    """The axes that the next level has at half the resolution; none at the coarsest level.

    Of those along which enough voxels are left, the ones with voxels less than RATIO times the
    finest. A single axis needs half as many voxels again.
    """
    long_enough = [axis for axis, voxels in enumerate(left) if voxels >= 2 * SMALLEST]
    if not long_enough:
        return []
    finest = min(spacing[axis] for axis in long_enough)
    halved = [axis for axis in long_enough if spacing[axis] < RATIO * finest]
    if len(halved) == 1 and left[halved[0]] < 3 * SMALLEST:
        return []
    return halved


def level_strides(config: ModelConfig) -> tuple[Triple, ...]:
    """The step from each level of `features` to the next, in voxels of the finer one."""
    if config.strides is not None:
        return config.strides
    levels = plan_levels(config.voxel_size, len(config.features))
    return tuple(as_triple(level.stride) for level in levels[1:])


def cumulative(strides: Sequence[tuple[int, ...]]) -> tuple[tuple[int, ...], ...]:
    """The stride of every level in voxels of the image, from 1 everywhere on."""
    finest = (1,) * len(strides[0])
    return tuple(
        accumulate(strides, lambda scale, stride: tuple(map(mul, scale, stride)), initial=finest)
    )


def fit_to_data(
    config: ModelConfig, patch_size: Triple | None, voxel_size: Lengths | None
) -> ModelConfig:
    """The config with the fields that the training data decide filled in where they are None."""
    if config.voxel_size is None:
        config = replace(config, voxel_size=voxel_size)
    if config.image_size is None:
        config = replace(config, image_size=patch_size)
    return config
