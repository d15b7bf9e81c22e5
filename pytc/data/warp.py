"""Geometry: what moves image and labels together.

Every augmentation is f(image, labels, rng, *, ...) -> (image, labels) as in augment.py. Labels are taken from the
nearest voxel, so they stay whole; what comes from outside the patch is reflected in the image and unlabelled (-1).
Voxel sizes only matter by their ratios.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

from pytc.data.random import SampleRandom

UNLABELLED = -1
ISOTROPIC = (1.0, 1.0, 1.0)
PLANES = ((1, 2), (0, 2), (0, 1))

Result = tuple[torch.Tensor, torch.Tensor | None]
Size = tuple[float, float, float]


def permute_axes(image, labels, rng: SampleRandom, *, prob: float, voxel_size: Size = ISOTROPIC) -> Result:
    """Reorder at random the axes of a chosen sample that have the same voxel size and extent."""
    kinds = list(zip(voxel_size, image.shape[2:]))
    chosen, values = rng.bernoulli(prob).tolist(), rng.uniform(3).tolist()
    orders = []
    for value in values:
        order = [0, 1, 2]
        for kind in set(kinds):
            alike = [axis for axis in range(3) if kinds[axis] == kind]
            for axis, source in zip(alike, sorted(alike, key=value.__getitem__)):
                order[axis] = source
        orders.append(order)
    return _rearrange(image, labels, chosen, lambda x, row: x.permute(0, *(1 + axis for axis in orders[row])))


def rot90(image, labels, rng: SampleRandom, *, prob: float, voxel_size: Size = ISOTROPIC, axis: int = 0) -> Result:
    """Turn a chosen sample about `axis` by 90, 180 or 270 degrees; by 180 where the plane's axes are not alike."""
    plane = PLANES[axis]
    alike = len({(voxel_size[a], image.shape[2 + a]) for a in plane}) == 1
    chosen, turns = rng.bernoulli(prob).tolist(), rng.integers(1, 4).tolist()
    dims = [1 + a for a in plane]
    return _rearrange(image, labels, chosen, lambda x, row: x.rot90(turns[row] if alike else 2, dims))


def flip(image, labels, rng: SampleRandom, *, prob: float) -> Result:
    """Mirror each axis of a sample with probability `prob`."""
    flips = rng.bernoulli(prob, 3)
    dims = [(1 + row.nonzero().flatten()).tolist() for row in flips]
    return _rearrange(image, labels, flips.any(1).tolist(), lambda x, row: x.flip(dims[row]))


def affine(image, labels, rng: SampleRandom, *, prob: float, scale: float, shear: float, rotation: float,
           voxel_size: Size = ISOTROPIC) -> Result:  # fmt: skip
    """Scale, shear and rotate a chosen sample about its centre; strengths as in `draw_affine`."""
    return deform(image, labels, draw_affine(rng, prob, scale, shear, rotation, voxel_size), [None] * len(image))


def elastic(image, labels, rng: SampleRandom, *, prob: float, spacing: float, magnitude: float,
            voxel_size: Size = ISOTROPIC) -> Result:  # fmt: skip
    """Displace the voxels of a chosen sample smoothly; strengths as in `draw_elastic`."""
    knots = draw_elastic(rng, prob, tuple(image.shape[2:]), spacing, magnitude, voxel_size)
    return deform(image, labels, [None] * len(image), knots)


def misalign(image, labels, rng: SampleRandom, *, prob: float, max_shift: float, max_rotation: float,
             axis: int = 0) -> Result:  # fmt: skip
    """Move one section of a chosen sample, or all from a random one on, in plane: by a translation or a rotation.

    The translation is up to `max_shift` voxels along each in-plane axis, the rotation up to `max_rotation` degrees
    about the centre. Labels move with the image, as tracings of misaligned sections do.
    """
    depth = image.shape[2 + axis]
    rows = rng.bernoulli(prob).nonzero().flatten().tolist()
    alone, turned = rng.bernoulli(0.5, 2).unbind(1)
    first = rng.integers(0, depth).tolist()
    shifts = rng.uniform(2, low=-max_shift, high=max_shift).tolist()
    angles = torch.deg2rad(rng.uniform(low=-max_rotation, high=max_rotation)).tolist()
    if not rows:
        return image, labels
    image, labels = image.clone(), None if labels is None else labels.clone()
    for row in rows:
        section = slice(first[row], first[row] + 1 if alone[row] else depth)
        part = image[row].movedim(1 + axis, 1)[:, section]
        label_part = None if labels is None else labels[row].movedim(axis, 0)[section]
        angle, shift = (angles[row], (0.0, 0.0)) if turned[row] else (0.0, shifts[row])
        source = _affine_places(part.shape[1:], _rotation((1, 2), angle), (0.0, *shift), image.device)
        moved, label_moved = _resample(part, label_part, source)
        part.copy_(moved)
        if labels is not None:
            label_part.copy_(label_moved)
    return image, labels


def draw_affine(rng: SampleRandom, prob: float, scale: float, shear: float, rotation: float,
                voxel_size: Size) -> list[torch.Tensor | None]:  # fmt: skip
    """A matrix (3, 3) for each chosen sample, from the offset of an output voxel to that of its source, both from the
    centre; None for the others.

    Axes are scaled by 1 +- scale and sheared by six shears in +- shear, a product of unit triangular matrices, so
    that no map is singular. Rotations are up to `rotation` degrees in each plane of equal voxel sizes. Scale, shear
    and rotation act on lengths in nm, not on voxels.
    """
    chosen = rng.bernoulli(prob).tolist()
    scales = rng.uniform(3, low=1 - scale, high=1 + scale).double()
    shears = rng.uniform(2, 3, low=-shear, high=shear).double()
    angles = torch.deg2rad(rng.uniform(3, low=-rotation, high=rotation).double()).tolist()
    nm = torch.tensor(voxel_size, dtype=torch.float64)
    upper, lower = torch.triu_indices(3, 3, 1), torch.tril_indices(3, 3, -1)
    matrices: list[torch.Tensor | None] = []
    for row, is_chosen in enumerate(chosen):
        if not is_chosen:
            matrices.append(None)
            continue
        shear_up, shear_down = torch.eye(3, dtype=torch.float64), torch.eye(3, dtype=torch.float64)
        shear_up[*upper], shear_down[*lower] = shears[row]
        matrix = shear_down @ shear_up @ torch.diag(scales[row])
        for plane, angle in zip(PLANES, angles[row]):
            if voxel_size[plane[0]] == voxel_size[plane[1]]:
                matrix = _rotation(plane, angle) @ matrix
        matrices.append(matrix * nm / nm[:, None])
    return matrices


def draw_elastic(rng: SampleRandom, prob: float, shape: tuple[int, int, int], spacing: float, magnitude: float,
                 voxel_size: Size) -> list[torch.Tensor | None]:  # fmt: skip
    """The knots (3, kz, ky, kx) of a cubic B-spline field of displacements for each chosen sample; None for the others.

    Knots are at most `spacing` voxels apart, and along each axis the displacement's standard deviation is `magnitude`
    voxels; both are in voxels of the finest axis, so that the field is isotropic in nm.
    """
    chosen = rng.bernoulli(prob).tolist()
    ratios = [size / min(voxel_size) for size in voxel_size]
    spans = [max(1, math.ceil((n - 1) * ratio / spacing)) for n, ratio in zip(shape, ratios)]
    knots = rng.normal(3, *(span + 3 for span in spans))
    knots = knots * (magnitude / torch.tensor(ratios, dtype=torch.float32)).view(3, 1, 1, 1)
    return [knots[row] if is_chosen else None for row, is_chosen in enumerate(chosen)]


def deform(image: torch.Tensor, labels: torch.Tensor | None, matrices: list[torch.Tensor | None],
           knots: list[torch.Tensor | None]) -> Result:  # fmt: skip
    """Resample each sample once, through its affine map (`draw_affine`) and its field (`draw_elastic`) together.

    Samples with neither come back bit for bit.
    """
    rows = [row for row in range(len(image)) if matrices[row] is not None or knots[row] is not None]
    if not rows:
        return image, labels
    image, labels = image.clone(), None if labels is None else labels.clone()
    for row in rows:
        matrix = torch.eye(3) if matrices[row] is None else matrices[row]
        source = _affine_places(image.shape[2:], matrix, (0.0, 0.0, 0.0), image.device)
        if knots[row] is not None:
            field = _spline_field(knots[row].to(image.device), image.shape[2:])
            source = [places.add_(displacement) for places, displacement in zip(source, field)]
        image[row], label = _resample(image[row], None if labels is None else labels[row], source)
        if labels is not None:
            labels[row] = label
    return image, labels


def _rearrange(image, labels, chosen: list[bool], turn) -> Result:
    """Apply turn(sample, row) to the chosen samples; it may permute and mirror the last three axes."""
    if not any(chosen):
        return image, labels

    def rearrange(batch: torch.Tensor) -> torch.Tensor:
        result = torch.empty_like(batch)
        for row, is_chosen in enumerate(chosen):
            sample = batch[row].view(-1, *batch.shape[-3:])
            result[row] = (turn(sample, row) if is_chosen else sample).view(batch.shape[1:])
        return result

    return rearrange(image), None if labels is None else rearrange(labels)


def _rotation(plane: tuple[int, int], angle: float) -> torch.Tensor:
    """The rotation (3, 3) by an angle in radians in the plane of two axes."""
    a, b = plane
    matrix = torch.eye(3, dtype=torch.float64)
    matrix[a, a] = matrix[b, b] = math.cos(angle)
    matrix[a, b], matrix[b, a] = -math.sin(angle), math.sin(angle)
    return matrix


def _affine_places(shape: tuple[int, ...], matrix: torch.Tensor, shift: tuple[float, ...],
                   device: torch.device) -> list[torch.Tensor]:  # fmt: skip
    """Where each voxel v is read: matrix (v - centre) + centre - shift; one (Z, Y, X) tensor of voxels an axis."""
    centres = [(n - 1) / 2 for n in shape]
    z, y, x = (torch.arange(n, device=device, dtype=torch.float32) - c for n, c in zip(shape, centres))
    return [
        (a * z + (centre - move))[:, None, None] + ((b * y)[:, None] + c * x)
        for (a, b, c), centre, move in zip(matrix.tolist(), centres, shift)
    ]


def _spline_field(knots: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
    """The field (3, Z, Y, X) of a cubic B-spline, scaled so that it varies as much as its knots do, everywhere."""
    for axis, size in enumerate(shape, start=1):
        count = knots.shape[axis]
        place = torch.arange(size, device=knots.device) * ((count - 3) / max(size - 1, 1)) + 1
        distance = (place[:, None] - torch.arange(count, device=knots.device)).abs()
        near, far = 2 / 3 - distance**2 + distance**3 / 2, (2 - distance).clamp(min=0) ** 3 / 6
        weights = F.normalize(torch.where(distance < 1, near, far), dim=1)
        knots = torch.tensordot(weights, knots, ([1], [axis])).movedim(0, axis)
    return knots


def _resample(image: torch.Tensor, labels: torch.Tensor | None, source: list[torch.Tensor]) -> Result:
    """Image (C, Z, Y, X) by trilinear interpolation and labels (Z, Y, X) by the nearest voxel, at given places."""
    shape = image.shape[1:]
    moved = None
    if labels is not None:
        padded = F.pad(labels, (1,) * 6, value=UNLABELLED)  # what lies outside is read from the rim
        index = None
        for places, size in zip(source, shape):
            nearest = places.round().clamp_(-1, size).to(torch.int32).add_(1)
            index = nearest if index is None else index.mul_(size + 2).add_(nearest)
        moved = padded.view(-1).index_select(0, index.view(-1)).view(labels.shape)
    for places, size in zip(source, shape):  # reflect, and scale to the [-1, 1] of grid_sample
        places.abs_().sub_(size - 1).abs_().mul_(-2 / max(size - 1, 1)).add_(1)
    grid = torch.stack(source[::-1], -1)
    image = F.grid_sample(image[None], grid[None], mode="bilinear", padding_mode="border", align_corners=True)[0]
    return image, moved
