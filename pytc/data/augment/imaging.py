"""Defects of imaging: damaged slices and changed grey values. Labels are returned as they are.

Every function is f(image, labels, rng, *, ...) -> (image, labels):

- image: (B, C, Z, Y, X) float with a grey range of [0, 1]; results are not clamped to it.
- labels: (B, Z, Y, X) or None.
- rng: draws for each sample of the batch.
- prob: probability that a sample is chosen. A sample that is not chosen is returned bit for bit; if
  none is chosen, the input itself is returned.
- axis: the axis across which the slices lie: 0, 1 or 2 for z, y or x.

To add one, write a function here, its line in `list_damages`, and its fields in
`pytc.config.augment`.
"""

import math
from collections.abc import Callable
from typing import Any, Literal

import torch

from pytc.config import AugmentConfig
from pytc.data.counter_random import SampleRandom

Labels = torch.Tensor | None
Result = tuple[torch.Tensor, Labels]


def drop_slices(
    image: torch.Tensor,
    labels: Labels,
    rng: SampleRandom,
    *,
    drop_prob: float,
    prob: float = 1.0,
    axis: int = 0,
) -> Result:
    """Blank (set to 0) each slice of a chosen sample with probability `drop_prob`."""
    picked = _pick_slices(image, rng, prob, drop_prob, axis)
    return _change(image, picked, torch.zeros_like, axis), labels


def shift_slices(
    image: torch.Tensor,
    labels: Labels,
    rng: SampleRandom,
    *,
    shift_prob: float,
    max_shift: int,
    prob: float = 1.0,
    axis: int = 0,
    fill: Literal["border", "wrap"] = "border",
) -> Result:
    """Shift each slice of a chosen sample in plane, with probability `shift_prob`.

    The shifts along the two in-plane axes are independent whole numbers, up to `max_shift`. The gap
    is filled with the nearest voxels of the slice (fill="border") or with its opposite side
    ("wrap").
    """
    picked = _pick_slices(image, rng, prob, shift_prob, axis)
    shifts = rng.integers(-max_shift, max_shift + 1, image.shape[2 + axis], 2)[picked].to(
        image.device
    )

    def shift(slices: torch.Tensor) -> torch.Tensor:
        for dim, distance in zip((2, 3), shifts.unbind(1)):
            size = slices.shape[dim]
            source = torch.arange(size, device=slices.device) - distance[:, None]
            source = source % size if fill == "wrap" else source.clamp(0, size - 1)
            slices = slices.take_along_dim(source[:, None].unsqueeze(5 - dim), dim)
        return slices

    return _change(image, picked, shift, axis), labels


def missing_section(
    image: torch.Tensor,
    labels: Labels,
    rng: SampleRandom,
    *,
    prob: float,
    longest: int = 3,
    axis: int = 0,
) -> Result:
    """Blank (set to 0) a run of 1 to `longest` neighbouring slices of a chosen sample."""
    depth = image.shape[2 + axis]
    chosen = rng.bernoulli(prob)
    length = rng.integers(1, min(longest, depth) + 1)
    start = (rng.uniform() * (depth - length + 1)).long()
    slices = torch.arange(depth)
    picked = chosen[:, None] & (slices >= start[:, None]) & (slices < (start + length)[:, None])
    return _change(image, picked, torch.zeros_like, axis), labels


def blur_slices(
    image: torch.Tensor,
    labels: Labels,
    rng: SampleRandom,
    *,
    blur_prob: float,
    max_sigma: float,
    prob: float = 1.0,
    axis: int = 0,
) -> Result:
    """Blur each slice of a chosen sample in plane by a Gaussian, with probability `blur_prob`.

    Its standard deviation is drawn from [max_sigma / 4, max_sigma) voxels. The Gaussian ends at 3
    max_sigma; at the border, the weights inside the slice are scaled to a sum of 1.
    """
    picked = _pick_slices(image, rng, prob, blur_prob, axis)
    sigma = rng.uniform(image.shape[2 + axis], low=max_sigma / 4, high=max_sigma)[picked].to(image)
    radius = math.ceil(3 * max_sigma)
    return _change(image, picked, lambda slices: _blur(slices, sigma, radius), axis), labels


def slice_contrast(
    image: torch.Tensor,
    labels: Labels,
    rng: SampleRandom,
    *,
    contrast_prob: float,
    scale: float,
    offset: float,
    prob: float = 1.0,
    axis: int = 0,
) -> Result:
    """Change the contrast and brightness of each slice of a chosen sample by itself.

    With probability `contrast_prob` a slice is multiplied by 1 +- scale, and +- offset is added.
    """
    picked = _pick_slices(image, rng, prob, contrast_prob, axis)
    return _scale_and_add(image, rng, picked, scale, offset, axis), labels


def intensity(
    image: torch.Tensor,
    labels: Labels,
    rng: SampleRandom,
    *,
    prob: float,
    scale: float,
    offset: float,
) -> Result:
    """Multiply a chosen sample by a number in 1 +- scale, and add a number in +- offset."""
    picked = rng.bernoulli(prob)
    return _scale_and_add(image, rng, picked, scale, offset), labels


def gamma(
    image: torch.Tensor, labels: Labels, rng: SampleRandom, *, prob: float, low: float, high: float
) -> Result:
    """Raise a chosen sample to a power in [low, high), whose logarithm is uniform.

    A value keeps its sign.
    """
    picked = rng.bernoulli(prob)
    power = (low * (high / low) ** rng.uniform())[picked].to(image)

    def raise_to_power(x: torch.Tensor) -> torch.Tensor:
        return (x.abs() ** _column(power, x)).copysign(x)

    return _change(image, picked, raise_to_power), labels


def noise(
    image: torch.Tensor, labels: Labels, rng: SampleRandom, *, prob: float, max_sigma: float
) -> Result:
    """Add Gaussian noise to a chosen sample, its standard deviation drawn from [0, max_sigma)."""
    picked = rng.bernoulli(prob)
    sigma = rng.uniform(high=max_sigma)[picked].to(image)

    def add_noise(x: torch.Tensor) -> torch.Tensor:
        normal = rng.rows(picked).normal(*x.shape[1:], device=x.device)
        return normal.mul_(_column(sigma, x)).add_(x)

    return _change(image, picked, add_noise), labels


def cutout(
    image: torch.Tensor,
    labels: Labels,
    rng: SampleRandom,
    *,
    prob: float,
    size: float,
    most: int = 3,
) -> Result:
    """Set 1 to `most` boxes of a chosen sample to their mean grey value, in each channel.

    An edge of a box is at least 1 voxel and at most a share `size` of the patch along that axis.
    """
    rows = rng.bernoulli(prob).nonzero().flatten().tolist()
    counts = rng.integers(1, most + 1)
    edges = rng.uniform(most, 3, high=size)  # as shares of the patch
    positions = rng.uniform(most, 3)
    if not rows:
        return image, labels
    extent = torch.tensor(image.shape[2:])
    lengths = (edges * extent).long() + 1
    starts = (positions * (extent - lengths + 1)).long()
    image = image.clone()
    for row in rows:
        for start, length in zip(starts[row, : counts[row]].tolist(), lengths[row].tolist()):
            box = image[(row, slice(None), *(slice(a, a + n) for a, n in zip(start, length)))]
            # a sum in float32 depends on the number of threads
            box.copy_(box.mean((1, 2, 3), keepdim=True, dtype=torch.float64))
    return image, labels


def list_damages(
    config: AugmentConfig, thick: int
) -> list[tuple[Callable[..., Result], dict[str, Any]]]:
    """Each function of this file with the settings of a config, in the order of their use.

    thick: the axis across which sections were cut, 0, 1 or 2. An axis "random" among the settings
    stands for one that is drawn for each sample.
    """
    c = config
    linear = {"scale": c.intensity_scale, "offset": c.intensity_offset}
    slices = {
        "prob": c.slices_prob,
        "axis": thick if c.slices_axis == "thick" else c.slices_axis,
    }
    gamma_range = {"low": c.gamma_range[0], "high": c.gamma_range[1]}
    shift = {"max_shift": c.shift_slice_max, "fill": c.shift_slice_fill}
    missing = {"longest": c.missing_section_max, "axis": thick}
    return [
        (intensity, {"prob": c.intensity_prob, **linear}),
        (gamma, {"prob": c.gamma_prob, **gamma_range}),
        (slice_contrast, {"contrast_prob": c.slice_contrast_prob, **linear, **slices}),
        (blur_slices, {"blur_prob": c.blur_slice_prob, "max_sigma": c.blur_sigma, **slices}),
        (noise, {"prob": c.noise_prob, "max_sigma": c.noise_max}),
        (shift_slices, {"shift_prob": c.shift_slice_prob, **shift, **slices}),
        (drop_slices, {"drop_prob": c.drop_slice_prob, **slices}),
        (missing_section, {"prob": c.missing_section_prob, **missing}),
        (cutout, {"prob": c.cutout_prob, "size": c.cutout_size}),
    ]


def _pick_slices(
    image: torch.Tensor, rng: SampleRandom, prob: float, slice_prob: float, axis: int
) -> torch.Tensor:
    """Which slices of which samples: bool (B, slices)."""
    return rng.bernoulli(prob)[:, None] & rng.bernoulli(slice_prob, image.shape[2 + axis])


def _change(
    image: torch.Tensor,
    picked: torch.Tensor,
    change: Callable[[torch.Tensor], torch.Tensor],
    axis: int = 0,
) -> torch.Tensor:
    """The image after `change` was applied to what is picked.

    Args:
        image: (B, C, Z, Y, X).
        picked: bool, samples (B,) or slices (B, n).
        change: maps (k, C, ...), the k picked samples or slices, to the same shape.
        axis: across which the slices lie.
    """
    if not picked.any():
        return image
    if picked.ndim == 1 and picked.all():
        return change(image)
    image = image.clone()
    parts = image if picked.ndim == 1 else image.movedim(2 + axis, 1)
    where = tuple(index.to(image.device) for index in picked.nonzero(as_tuple=True))
    parts[where] = change(parts[where])
    return image


def _column(values: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """The values, one for each entry of the first axis of `like`, in a shape that broadcasts."""
    return values.view(-1, *(1,) * (like.ndim - 1))


def _scale_and_add(
    image: torch.Tensor,
    rng: SampleRandom,
    picked: torch.Tensor,
    scale: float,
    offset: float,
    axis: int = 0,
) -> torch.Tensor:
    """Multiply what is picked by numbers in 1 +- scale, and add numbers in +- offset."""
    factors = rng.uniform(*picked.shape[1:], low=1 - scale, high=1 + scale)[picked].to(image)
    offsets = rng.uniform(*picked.shape[1:], low=-offset, high=offset)[picked].to(image)

    def change(x: torch.Tensor) -> torch.Tensor:
        return (x * _column(factors, x)).add_(_column(offsets, x))

    return _change(image, picked, change, axis)


def _blur(slices: torch.Tensor, sigma: torch.Tensor, radius: int) -> torch.Tensor:
    """Blur slices (n, C, H, W) in plane by a Gaussian, each with its own sigma (n,).

    It is summed tap by tap: the rounding of a matrix product depends on the number of slices.
    """
    for dim in (2, 3):
        reach = min(radius, slices.shape[dim] - 1)
        total, weights = torch.zeros_like(slices), torch.zeros_like(slices)
        for step in range(-reach, reach + 1):
            weight = _column(torch.exp(-0.5 * (step / sigma) ** 2), slices)
            count, to = slices.shape[dim] - abs(step), max(0, -step)
            total.narrow(dim, to, count).add_(slices.narrow(dim, to + step, count) * weight)
            weights.narrow(dim, to, count).add_(weight)
        slices = total / weights
    return slices
