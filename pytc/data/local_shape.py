"""Local shape descriptors: statistics of an object in a Gaussian window around each of its voxels.

With j over the voxels of the object of voxel i, weighted by a Gaussian around i, and d = j - i in
nm, there are ten channels, all scaled to [0, 1]:

    0 to 2   mean of d along z, y, x        0.5 in the middle of an object
    3 to 5   variance of d                  in units of sigma^2
    6 to 8   correlation of zy, zx, yx      0.5 where there is none
    9        share of the window            1 deep inside a large object

The weight of a pair (i, j) is a product over the axes. So along each axis a sum over j is a product
with a matrix W[i, j] = weight(j - i) (j - i)^k, for k = 0, 1, 2, and all objects and patches use
the same three matrices. An object needs no more than the box around it.

Source: Sheridan et al., "Local shape descriptors for neuron segmentation" (2022).
"""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from scipy import ndimage

from pytc.config import Lengths
from pytc.config.learning import N_DESCRIPTORS

TRUNCATE = 3.0  # the window ends at so many standard deviations
LEAST_VARIANCE = 1e-3  # nm^2

Moments = tuple[torch.Tensor, torch.Tensor, torch.Tensor]  # (n, n) each, for k = 0, 1, 2


def local_shape_descriptors(
    labels: torch.Tensor,
    sigma: float,
    voxel_size: Lengths,
    stride: Sequence[int] = (1, 1, 1),
) -> tuple[torch.Tensor, torch.Tensor]:
    """The descriptors of each voxel that lies in an object.

    What lies outside of the patch belongs to no object.

    Args:
        labels: (B, Z, Y, X) integers; objects are above 0.
        sigma: standard deviation of the window, nm.
        voxel_size: nm along z, y, x.
        stride: they are counted at every n-th voxel of each axis, from every n-th voxel; the others
            have those of the last one before.

    Returns:
        Descriptors (B, 10, Z, Y, X) float32 in [0, 1], 0 outside of objects; and where they are
        valid, bool, of the same shape: in objects that have a voxel of the stride in the window.
    """
    steps = [min(step, length) for step, length in zip(stride, labels.shape[1:])]
    axes = [
        _moments(-(-length // step), sigma, size * step, labels.device)
        for length, step, size in zip(labels.shape[1:], steps, voxel_size)
    ]
    samples = [_describe(of_sample, steps, axes, sigma) for of_sample in labels]
    found = torch.stack(samples)
    return found, (found[:, -1:] > 0).expand_as(found)


def _describe(
    labels: torch.Tensor, steps: Sequence[int], axes: Sequence[Moments], sigma: float
) -> torch.Tensor:
    """The descriptors (10, Z, Y, X) of labels (Z, Y, X)."""
    objects, numbers = torch.unique(labels.clamp(min=0), return_inverse=True)
    boxes = ndimage.find_objects(numbers.cpu().numpy() + 1)
    table = [torch.zeros((N_DESCRIPTORS, 1), device=labels.device)]  # a column for no object
    columns = torch.zeros(labels.shape, dtype=torch.int32, device=labels.device)  # of each voxel
    n_columns = 1
    for number, box in zip(objects.tolist(), boxes):
        if number == 0:
            continue
        inside = labels[box] == number
        # The box on the stride, from the last voxel before it on: so each voxel has one.
        coarse = [
            slice(each.start // step, -(-each.stop // step)) for each, step in zip(box, steps)
        ]
        on_stride = tuple(
            slice(each.start * step, each.stop * step, step) for each, step in zip(coarse, steps)
        )
        mask = (labels[on_stride] == number).float()
        parts = [_part(axis, length) for axis, length in zip(axes, mask.shape)]
        before = [each.start % step for each, step in zip(box, steps)]
        needed = _any_of_each_step(inside, before, steps)
        described = _statistics(mask, parts, sigma)[:, needed]
        table.append(described)
        of_box = torch.zeros(mask.shape, dtype=torch.int32, device=labels.device)
        numbers_of = torch.arange(described.shape[1], device=labels.device)
        of_box[needed] = numbers_of.int() + n_columns
        for axis, (start, step, length) in enumerate(zip(before, steps, inside.shape)):
            if step > 1:
                of_box = of_box.repeat_interleave(step, axis).narrow(axis, start, length)
        columns[box] = torch.where(inside, of_box, columns[box])
        n_columns += described.shape[1]
    found = torch.cat(table, 1).index_select(1, columns.flatten())
    return found.reshape(N_DESCRIPTORS, *labels.shape)


def _any_of_each_step(
    inside: torch.Tensor, before: Sequence[int], steps: Sequence[int]
) -> torch.Tensor:
    """Which voxels of the stride are the last one before a voxel of the object: bool.

    before: voxels from the first voxel of the stride to the box of `inside`, along each axis.
    """
    if max(steps) == 1:
        return inside
    padding: list[int] = []
    for start, step, length in zip(before, steps, inside.shape):
        padding = [start, -(start + length) % step, *padding]  # of the last axis first
    padded = F.pad(inside, padding)
    z, y, x = padded.shape
    grid = (z // steps[0], steps[0], y // steps[1], steps[1], x // steps[2], steps[2])
    return padded.reshape(grid).any(5).any(3).any(1)


def _part(moments: Moments, length: int) -> Moments:
    """Of a box of so many voxels, wherever it lies: the weights depend on distances alone."""
    count, mean, square = (matrix[:length, :length] for matrix in moments)
    return count, mean, square


def _moments(length: int, sigma: float, step: float, device: torch.device) -> Moments:
    """W[i, j] = weight(j - i) (j - i)^k for k = 0, 1, 2, of `length` voxels of `step` nm."""
    distance = np.arange(length)[None] - np.arange(length)[:, None]
    radius = int(TRUNCATE * sigma / step + 0.5)
    window = np.exp(-0.5 * (np.arange(-radius, radius + 1) * step / sigma) ** 2)
    weight = np.exp(-0.5 * (distance * step / sigma) ** 2) / window.sum()
    weight[abs(distance) > radius] = 0
    count, mean, square = (
        torch.from_numpy(weight * (distance * step) ** power).float().to(device)
        for power in range(3)
    )
    return count, mean, square


def _statistics(mask: torch.Tensor, axes: Sequence[Moments], sigma: float) -> torch.Tensor:
    """The descriptors (10, z, y, x) at each voxel of a mask (z, y, x) float32."""
    of_z, of_y, of_x = axes
    along_x = [mask @ weights.T for weights in of_x]  # by the power of x

    def along_zy(z: int, y: int, x: int) -> torch.Tensor:
        """The sum over the window of d_z^z d_y^y d_x^x."""
        of_planes = of_y[y] @ along_x[x]
        return torch.tensordot(of_z[z], of_planes, 1)

    share = along_zy(0, 0, 0)
    total = torch.where(share > 0, share, 1)
    powers = ((1, 0, 0), (0, 1, 0), (0, 0, 1))
    means = [along_zy(*power) / total for power in powers]
    variances = [
        (along_zy(*(2 * n for n in power)) / total - mean**2).clamp(min=LEAST_VARIANCE)
        for power, mean in zip(powers, means)
    ]
    correlations = []
    for one, other in ((0, 1), (0, 2), (1, 2)):
        both = along_zy(*(a + b for a, b in zip(powers[one], powers[other])))
        covariance = both / total - means[one] * means[other]
        correlations.append(covariance / torch.sqrt(variances[one] * variances[other]))
    channels = [mean / sigma * 0.5 + 0.5 for mean in means]
    channels += [variance / sigma**2 for variance in variances]
    channels += [correlation * 0.5 + 0.5 for correlation in correlations]
    return (torch.stack([*channels, share]) * (share > 0)).clamp(0, 1)
