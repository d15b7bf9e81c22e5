"""What the network learns, from labels: affinities, a foreground mask, boundaries, or classes.

Each comes with where it is known. Labels are (B, Z, Y, X) of an integer dtype: 0 background,
negative unlabelled. Nothing outside the patch is known.
"""

import torch
import torch.nn.functional as F

from pytc.config import TargetConfig, Triple

FACES = ((1, 0, 0), (-1, 0, 0), (0, 1, 0), (0, -1, 0), (0, 0, 1), (0, 0, -1))


def make_targets(
    labels: torch.Tensor, config: TargetConfig, scales: tuple[Triple, ...], axis: int = 0
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """(target, valid) for each scale (sz, sy, sx), both (B, C, Z / sz, Y / sy, X / sx), rounded up.

    valid is bool; the target is bool, or for classes the number of each voxel's class as an integer
    in a single channel. Labels are eroded first, in the plane of the sections that lie across
    `axis`. With scale_by "stride", a scale's target is made from every s-th label, with offsets
    divided by the stride, rounded half up, to at least 1 where they are not 0 (two channels may
    then coincide). With "nearest", it is every s-th voxel of the full target. With "trilinear", it
    is the full target resized from the voxels that are known, float32 in [0, 1].
    """
    labels = erode(labels, config.erosion, axis)
    if config.scale_by == "trilinear":
        target, valid = _target(labels, config, config.offsets)
        return [_resized(target, valid, scale) for scale in scales]
    if config.scale_by == "nearest":
        target, valid = _target(labels, config, config.offsets)
        return [(_strided(target, scale), _strided(valid, scale)) for scale in scales]
    offsets = [tuple(scaled_offset(offset, scale) for offset in config.offsets) for scale in scales]
    return [
        _target(_strided(labels, scale), config, scaled) for scale, scaled in zip(scales, offsets)
    ]


def affinities(
    labels: torch.Tensor, offsets: tuple[Triple, ...]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Whether v and v + offset are the same object, and where that is known.

    Returns two bool tensors (B, N, Z, Y, X). Background is no object. Known is where neither voxel
    is unlabelled and v + offset lies in the patch. Offsets may have any sign.
    """
    affinity = torch.zeros(
        len(labels), len(offsets), *labels.shape[1:], dtype=torch.bool, device=labels.device
    )
    valid = torch.zeros_like(affinity)
    labelled, object_ = labels >= 0, labels > 0
    for channel, offset in enumerate(offsets):
        here, there = pairs(offset, labels.shape[1:])
        torch.logical_and(
            labels[here] == labels[there], object_[here], out=affinity[:, channel][here]
        )
        torch.logical_and(labelled[here], labelled[there], out=valid[:, channel][here])
    return affinity, valid


def boundaries(labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Whether one of v's six neighbours has another label, and where that is known.

    Returns two bool tensors (B, 1, Z, Y, X). Background counts as a label. Known is where v is
    labelled, and is a boundary or has no unlabelled neighbour; neighbours outside the patch do not
    count.
    """
    labelled = labels >= 0
    boundary, doubtful = torch.zeros_like(labelled), ~labelled
    for offset in FACES:
        here, there = pairs(offset, labels.shape[1:])
        boundary[here] |= (labels[here] != labels[there]) & labelled[here] & labelled[there]
        doubtful[here] |= ~labelled[there]
    return boundary[:, None], (labelled & (boundary | ~doubtful))[:, None]


def class_ids(labels: torch.Tensor, classes: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The class of each voxel, and where it is known, bool: two tensors (B, 1, Z, Y, X).

    With two classes every label above 0 is class 1.
    """
    ids = labels.clamp(0, 1) if classes == 2 else labels.clamp(min=0)
    return ids[:, None], (labels >= 0)[:, None]


def erode(labels: torch.Tensor, width: int, axis: int = 0) -> torch.Tensor:
    """Set to 0 each voxel with another label or 0 nearby, in the plane across `axis`.

    Nearby is a square of 2 width + 1 voxels. Unlabelled voxels stay so, and like those outside the
    patch erode nothing.
    """
    if width == 0:
        return labels
    largest, smallest = labels, torch.where(labels < 0, torch.iinfo(labels.dtype).max, labels)
    for dim in {1, 2, 3} - {1 + axis}:
        largest, smallest = (
            _spread(largest, width, dim, torch.maximum),
            _spread(smallest, width, dim, torch.minimum),
        )
    return labels.masked_fill((labels > 0) & (largest != smallest), 0)


def scaled_offset(offset: Triple, scale: Triple) -> Triple:
    """The offset at a coarser scale.

    It is divided by the scale's stride and rounded half up, to at least 1 where it is not 0.
    """

    def divided(length: int, stride: int) -> int:
        return max(1, (2 * length + stride) // (2 * stride)) if length else 0

    return tuple(divided(o, s) if o >= 0 else -divided(-o, s) for o, s in zip(offset, scale))


def _target(labels: torch.Tensor, config: TargetConfig, offsets: tuple[Triple, ...]):
    """Target and valid, both (B, C, Z, Y, X)."""
    if config.kind == "affinity":
        return affinities(labels, offsets)
    if config.kind == "boundary":
        return boundaries(labels)
    if config.kind == "classes":
        return class_ids(labels, config.classes)
    return (labels > 0)[:, None], (labels >= 0)[:, None]


def _strided(volume: torch.Tensor, scale: Triple) -> torch.Tensor:
    return volume[(..., *(slice(None, None, s) for s in scale))]


def _resized(
    target: torch.Tensor, valid: torch.Tensor, scale: Triple
) -> tuple[torch.Tensor, torch.Tensor]:
    """The mean of the known voxels, weighted as trilinear interpolation weighs them.

    It is known where one of them is.
    """
    if scale == (1, 1, 1):
        return target, valid
    size = [-(-n // s) for n, s in zip(target.shape[2:], scale)]
    known = valid.float()
    share = F.interpolate(known, size, mode="trilinear")
    sums = F.interpolate(target.float() * known, size, mode="trilinear")
    coarse_valid = share > 0
    return (sums / torch.where(coarse_valid, share, 1)).clamp(max=1), coarse_valid


def pairs(offset: Triple, shape: tuple[int, ...]) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """Where v is, and where v + offset is, for all v for which both lie inside (B, *shape)."""
    here = (slice(None), *(slice(max(0, -o), max(0, n - max(0, o))) for o, n in zip(offset, shape)))
    there = (slice(None), *(slice(max(0, o), max(0, n + min(0, o))) for o, n in zip(offset, shape)))
    return here, there


def _spread(labels: torch.Tensor, width: int, dim: int, pick) -> torch.Tensor:
    """The largest (or smallest) label within `width` voxels along `dim`, exact for any integer."""
    result, size = labels.clone(), labels.shape[dim]
    for step in range(1, min(width, size - 1) + 1):
        for to, start in ((0, step), (step, 0)):
            part = result.narrow(dim, to, size - step)
            pick(part, labels.narrow(dim, start, size - step), out=part)
    return result
