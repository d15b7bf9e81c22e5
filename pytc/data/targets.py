"""What the network learns, made from labels: affinities, masks, boundaries, distances, classes.

Each target comes with a mask of where it is valid. Labels are (B, Z, Y, X) of an integer dtype: 0
is background, a negative label is unlabelled. Nothing outside the patch is valid. To add a kind of
target, write a function for `MAKERS`, and a row in `pytc.target_kinds`.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from scipy import ndimage

from pytc.config import Lengths, TargetConfig, Triple
from pytc.data.local_shape import local_shape_descriptors
from pytc.geometry import pairs

FACES = ((1, 0, 0), (-1, 0, 0), (0, 1, 0), (0, -1, 0), (0, 0, 1), (0, 0, -1))

Offsets = tuple[Triple, ...]
Scale = tuple[int, ...]  # voxels of the patch along each axis for a voxel of the scale
Target = tuple[torch.Tensor, torch.Tensor]  # target and valid, both (B, C, Z, Y, X)
FULL: Scale = (1, 1, 1)


class AtScale(NamedTuple):
    """What the voxels are of which a target is made."""

    offsets: Offsets  # target.offsets, in these voxels
    voxel_size: Lengths  # nm


def make_targets(
    labels: torch.Tensor,
    config: TargetConfig,
    scales: tuple[Scale, ...],
    axis: int = 0,
    voxel_size: Lengths = (1.0, 1.0, 1.0),
) -> list[Target]:
    """(target, valid) for each scale (sz, sy, sx), both (B, C, Z / sz, Y / sy, X / sx), rounded up.

    config.scale_by says how a coarse target is made:

    - stride: from every s-th label. Offsets are divided by the stride and rounded half up, to at
      least 1 where they are not 0. Two channels may then be the same.
    - nearest: every s-th voxel of the full target.
    - trilinear: the full target, resized from its valid voxels: float32 in [0, 1].

    Args:
        labels: (B, Z, Y, X).
        config: the kind of target, and how it is made.
        scales: voxels of the patch for each voxel of a scale.
        axis: the axis across which the sections lie: labels are eroded in their plane.
        voxel_size: nm along z, y, x, for targets that are lengths.

    Returns:
        valid is bool. The target is bool (or float32, see above); for classes it is the number of
        the class, an integer in a single channel. With config.lsd_sigma ten more channels follow,
        and the target is float32 (`pytc.data.local_shape`).
    """
    labels = erode(labels, config.erosion, axis)
    if config.scale_by != "stride":
        target, valid = _make(labels, config, FULL, voxel_size)
        if config.scale_by == "trilinear":
            return [_resized(target, valid, scale) for scale in scales]
        return [(_strided(target, scale), _strided(valid, scale)) for scale in scales]
    return [_make(_strided(labels, scale), config, scale, voxel_size) for scale in scales]


def _make(labels: torch.Tensor, config: TargetConfig, scale: Scale, voxel_size: Lengths) -> Target:
    """The target of labels at a scale. voxel_size: nm, of the patch."""
    z, y, x = (length * step for length, step in zip(voxel_size, scale))
    offsets = tuple(scaled_offset(offset, scale) for offset in config.offsets)
    target, valid = MAKERS[config.kind](labels, config, AtScale(offsets, (z, y, x)))
    if config.lsd_sigma is None:
        return target, valid
    stride = [max(1, n // step) for n, step in zip(config.lsd_stride, scale)]
    shape, inside = local_shape_descriptors(labels, config.lsd_sigma, (z, y, x), stride)
    return torch.cat([target.float(), shape], 1), torch.cat([valid, inside], 1)


def affinities(labels: torch.Tensor, offsets: Offsets) -> Target:
    """Whether v and v + offset are the same object: two bool tensors (B, N, Z, Y, X).

    Background is no object. Valid is where neither voxel is unlabelled and v + offset lies in the
    patch. Offsets may have any sign.
    """
    shape = (len(labels), len(offsets), *labels.shape[1:])
    affinity = torch.zeros(shape, dtype=torch.bool, device=labels.device)
    valid = torch.zeros_like(affinity)
    is_labelled = labels >= 0
    is_object = labels > 0
    for channel, offset in enumerate(offsets):
        source, target = pairs(offset, labels.shape[1:])
        is_same = labels[source] == labels[target]
        torch.logical_and(is_same, is_object[source], out=affinity[:, channel][source])
        torch.logical_and(is_labelled[source], is_labelled[target], out=valid[:, channel][source])
    return affinity, valid


def boundaries(labels: torch.Tensor) -> Target:
    """Whether one of v's six neighbours has another label: two bool tensors (B, 1, Z, Y, X).

    Background counts as a label. Valid is where v is labelled, and is a boundary or has no
    unlabelled neighbour. Neighbours outside the patch do not count.
    """
    is_labelled = labels >= 0
    boundary = torch.zeros_like(is_labelled)
    is_doubtful = ~is_labelled
    for offset in FACES:
        source, target = pairs(offset, labels.shape[1:])
        both_labelled = is_labelled[source] & is_labelled[target]
        boundary[source] |= (labels[source] != labels[target]) & both_labelled
        is_doubtful[source] |= ~is_labelled[target]
    valid = is_labelled & (boundary | ~is_doubtful)
    return boundary[:, None], valid[:, None]


def foreground(labels: torch.Tensor) -> Target:
    """Whether v belongs to any object: two bool tensors (B, 1, Z, Y, X)."""
    return (labels > 0)[:, None], (labels >= 0)[:, None]


def class_ids(labels: torch.Tensor, classes: int) -> Target:
    """The class of each voxel, and where it is valid, bool: two tensors (B, 1, Z, Y, X).

    With two classes every label above 0 is class 1.
    """
    ids = labels.clamp(0, 1) if classes == 2 else labels.clamp(min=0)
    return ids[:, None], (labels >= 0)[:, None]


def mask_and_contour(labels: torch.Tensor) -> Target:
    """`foreground` and `boundaries`: two bool tensors (B, 2, Z, Y, X)."""
    both = foreground(labels), boundaries(labels)
    return torch.cat([target for target, _ in both], 1), torch.cat([valid for _, valid in both], 1)


def signed_distance(labels: torch.Tensor, scale: float, voxel_size: Lengths) -> Target:
    """(1 + tanh(d / scale)) / 2 of the signed distance d: float32, and bool, (B, 1, Z, Y, X).

    d is the distance from a voxel to the nearest one that touches another label (`boundaries`), and
    half the shortest side of a voxel; it is negative in the background. Valid is where v is
    labelled and no unlabelled voxel, and no voxel outside the patch, is nearer than that, or d is
    at least 2 `scale` whatever they are.

    Args:
        scale: nm.
        voxel_size: nm along z, y, x.
    """
    border = boundaries(labels)[0][:, 0].cpu().numpy()
    labelled = (labels >= 0).cpu().numpy()
    nearest = np.stack([_distance_to(each, voxel_size) for each in border])
    unknown = np.stack([_distance_to(~each, voxel_size) for each in labelled])
    for axis, (length, size) in enumerate(zip(labels.shape[1:], voxel_size)):
        steps = np.minimum(np.arange(length), np.arange(length)[::-1]) + 1
        along = (steps * size).reshape([-1 if other == axis else 1 for other in range(3)])
        unknown = np.minimum(unknown, along)
    valid = labelled & ((nearest <= unknown) | (unknown >= 2 * scale))
    distance = torch.from_numpy(nearest + min(voxel_size) / 2).to(labels.device)
    signed = torch.where(labels > 0, distance, -distance)
    target = torch.sigmoid(2 * signed / scale).float()  # the same as (1 + tanh) / 2
    return target[:, None], torch.from_numpy(valid).to(labels.device)[:, None]


def _distance_to(voxels: np.ndarray, voxel_size: Lengths) -> np.ndarray:
    """nm from each voxel to the nearest one that is set, float64; infinite if none is."""
    if not voxels.any():
        return np.full(voxels.shape, np.inf)
    distance: np.ndarray = ndimage.distance_transform_edt(~voxels, sampling=voxel_size)
    return distance


# For each row of `pytc.target_kinds`: f(labels, config, at) -> (target, valid); `at` says at which
# scale the target is made.
MAKERS: dict[str, Callable[[torch.Tensor, TargetConfig, AtScale], Target]] = {
    "affinity": lambda labels, config, at: affinities(labels, at.offsets),
    "binary": lambda labels, config, at: foreground(labels),
    "boundary": lambda labels, config, at: boundaries(labels),
    "classes": lambda labels, config, at: class_ids(labels, config.classes),
    "mask_contour": lambda labels, config, at: mask_and_contour(labels),
    "distance": lambda labels, config, at: signed_distance(
        labels, config.distance_scale, at.voxel_size
    ),
}


def erode(labels: torch.Tensor, width: int, axis: int = 0) -> torch.Tensor:
    """Set each voxel to 0 that has another label, or 0, nearby in the plane across `axis`.

    Nearby is a square of 2 width + 1 voxels. Unlabelled voxels stay unlabelled. They erode nothing,
    nor does what lies outside the patch.
    """
    if width == 0:
        return labels
    largest = labels
    smallest = torch.where(labels < 0, torch.iinfo(labels.dtype).max, labels)
    for dim in {1, 2, 3} - {1 + axis}:
        largest = _spread(largest, width, dim, torch.maximum)
        smallest = _spread(smallest, width, dim, torch.minimum)
    return labels.masked_fill((labels > 0) & (largest != smallest), 0)


def scaled_offset(offset: Triple, scale: Scale) -> Triple:
    """The offset at a coarser scale.

    It is divided by the stride of the scale and rounded half up, to at least 1 where it is not 0.
    """
    z, y, x = (_divided(length, stride) for length, stride in zip(offset, scale))
    return z, y, x


def _divided(length: int, stride: int) -> int:
    if length < 0:
        return -_divided(-length, stride)
    if length == 0:
        return 0
    return max(1, (2 * length + stride) // (2 * stride))


def _strided(volume: torch.Tensor, scale: Scale) -> torch.Tensor:
    z, y, x = scale
    return volume[..., ::z, ::y, ::x]


def _resized(target: torch.Tensor, valid: torch.Tensor, scale: Scale) -> Target:
    """The mean of the valid voxels, with the weights of trilinear interpolation.

    It is valid where any of them is.
    """
    if scale == FULL:
        return target, valid
    size = [-(-n // step) for n, step in zip(target.shape[2:], scale)]
    weight = valid.float()
    share = F.interpolate(weight, size, mode="trilinear")
    sums = F.interpolate(target.float() * weight, size, mode="trilinear")
    coarse_valid = share > 0
    return (sums / torch.where(coarse_valid, share, 1)).clamp(max=1), coarse_valid


def _spread(
    labels: torch.Tensor, width: int, dim: int, pick: Callable[..., torch.Tensor]
) -> torch.Tensor:
    """The largest (or smallest) label within `width` voxels along `dim`, exact for any integer.

    pick: torch.maximum (or torch.minimum).
    """
    result = labels.clone()
    size = labels.shape[dim]
    for step in range(1, min(width, size - 1) + 1):
        for to, start in ((0, step), (step, 0)):
            part = result.narrow(dim, to, size - step)
            pick(part, labels.narrow(dim, start, size - step), out=part)
    return result
