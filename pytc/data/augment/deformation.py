"""Geometry: augmentations that move image and labels together.

`misalign` is f(image, labels, rng, *, ...) -> (image, labels), as the functions of imaging.py are.
The others come in two parts, so that voxels are moved as few times as possible:

- draw_permutations, draw_turns, draw_flips draw orientations; `reorient` applies their product.
- draw_affine, draw_elastic draw maps; `deform` applies both in one resampling.

Labels are taken from the nearest voxel. Outside the patch, the image is mirrored and labels are -1
(unlabelled). Of a voxel size only the ratios matter.
"""

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F

from pytc.config import Lengths
from pytc.data.counter_random import SampleRandom
from pytc.io.labels import UNLABELLED

ISOTROPIC = (1.0, 1.0, 1.0)
PLANES = ((1, 2), (0, 2), (0, 1))
SLAB = 2**17  # voxels resampled at once on a CPU, so that the coordinates stay in its cache

Result = tuple[torch.Tensor, torch.Tensor | None]
Shape = tuple[int, ...]
# of some z-slices: the coordinates z, y and x, in voxels, at which each voxel is read
Coordinates = Callable[[slice], list[torch.Tensor]]


def misalign(
    image: torch.Tensor,
    labels: torch.Tensor | None,
    rng: SampleRandom,
    *,
    prob: float,
    max_shift: float,
    max_rotation: float,
    axis: int = 0,
) -> Result:
    """Move a random section of a chosen sample, or all sections from it on, in plane.

    It is either translated by up to `max_shift` voxels along each in-plane axis, or rotated by up
    to `max_rotation` degrees about the centre. Labels move with the image, as tracings of
    misaligned sections do.
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
        sections = slice(first[row], first[row] + 1 if alone[row] else depth)
        part = image[row].movedim(1 + axis, 1)[:, sections]
        label_part = None if labels is None else labels[row].movedim(axis, 0)[sections]
        angle, shift = 0.0, shifts[row]
        if turned[row]:
            angle, shift = angles[row], (0.0, 0.0)
        rotation = _rotation((1, 2), angle)
        coordinates = _affine_coordinates(part.shape[1:], rotation, image.device, shift)
        _resample(part, label_part, coordinates)
    return image, labels


def draw_permutations(
    rng: SampleRandom, shape: Shape, *, prob: float, voxel_size: Lengths = ISOTROPIC
) -> torch.Tensor:
    """Orientations (B, 3, 3) that put the axes of each chosen sample into a random order.

    Only axes of equal voxel size and extent are exchanged.
    """
    kinds = list(zip(voxel_size, shape))
    chosen = rng.bernoulli(prob).tolist()
    values = rng.uniform(3).tolist()  # axes of one kind are sorted by them
    orders = []
    for is_chosen, value in zip(chosen, values):
        order = [0, 1, 2]
        if is_chosen:
            for kind in set(kinds):
                axes = [axis for axis in range(3) if kinds[axis] == kind]
                shuffled = sorted(axes, key=lambda axis: value[axis])
                for axis, source in zip(axes, shuffled):
                    order[axis] = source
        orders.append(order)
    return torch.eye(3, dtype=torch.float64)[torch.tensor(orders)]


def draw_turns(
    rng: SampleRandom, shape: Shape, *, prob: float, voxel_size: Lengths = ISOTROPIC, axis: int = 0
) -> torch.Tensor:
    """Orientations (B, 3, 3) that turn each chosen sample about `axis` by 1, 2 or 3 quarter turns.

    It is always 2 if the two axes of the plane differ in voxel size or extent.
    """
    a, b = PLANES[axis]
    quarter = _rotation(PLANES[axis], math.pi / 2).round()
    turns = torch.stack([torch.linalg.matrix_power(quarter, count) for count in range(4)])
    chosen, counts = rng.bernoulli(prob), rng.integers(1, 4)
    alike = (voxel_size[a], shape[a]) == (voxel_size[b], shape[b])
    return turns[chosen * (counts if alike else 2)]


def draw_flips(rng: SampleRandom, shape: Shape, *, prob: float) -> torch.Tensor:
    """Orientations (B, 3, 3): each axis of each sample mirrored with probability `prob`."""
    return torch.diag_embed(1 - 2 * rng.bernoulli(prob, 3).double())


def draw_affine(
    rng: SampleRandom,
    shape: Shape,
    *,
    prob: float,
    scale: float,
    shear: float,
    rotation: float,
    voxel_size: Lengths = ISOTROPIC,
) -> dict[int, torch.Tensor]:
    """Draw an affine map for each chosen sample.

    Scale, shear and rotation act on lengths in nm, not on voxels. The six shears form a product of
    two unit triangular matrices, so that no map is singular.

    Args:
        rng: of the batch.
        shape: of the patch.
        prob: probability that a sample is chosen.
        scale: each axis is scaled by 1 +- scale.
        shear: each of the six shears is within +- shear.
        rotation: largest angle in degrees, in each plane whose axes have equal voxel sizes.
        voxel_size: along z, y, x.

    Returns:
        Row of each chosen sample -> matrix (3, 3) that maps an output voxel to its source, both as
        offsets from the centre in voxels.
    """
    rows = rng.bernoulli(prob).nonzero().flatten().tolist()
    scales = rng.uniform(3, low=1 - scale, high=1 + scale).double()
    shears = rng.uniform(2, 3, low=-shear, high=shear).double()
    angles = torch.deg2rad(rng.uniform(3, low=-rotation, high=rotation)).tolist()
    nm = torch.tensor(voxel_size, dtype=torch.float64)
    matrices = {}
    for row in rows:
        up, down = torch.eye(3, dtype=torch.float64), torch.eye(3, dtype=torch.float64)
        up[*torch.triu_indices(3, 3, 1)], down[*torch.tril_indices(3, 3, -1)] = shears[row]
        matrix = down @ up @ torch.diag(scales[row])
        for plane, angle in zip(PLANES, angles[row]):
            if voxel_size[plane[0]] == voxel_size[plane[1]]:
                matrix = _rotation(plane, angle) @ matrix
        matrices[row] = matrix * nm / nm[:, None]
    return matrices


def draw_elastic(
    rng: SampleRandom,
    shape: Shape,
    *,
    prob: float,
    spacing: float,
    magnitude: float,
    voxel_size: Lengths = ISOTROPIC,
) -> dict[int, torch.Tensor]:
    """Draw a smooth displacement field for each chosen sample: a cubic B-spline.

    Its knots are at most `spacing` voxels apart. Along each axis the displacement has the standard
    deviation `magnitude`. Both are in voxels of the finest axis, so the field is isotropic in nm.

    Returns:
        Row of each chosen sample -> knots (3, kz, ky, kx) in voxels.
    """
    rows = rng.bernoulli(prob).nonzero().flatten().tolist()
    ratios = [size / min(voxel_size) for size in voxel_size]
    spans = [max(1, math.ceil((n - 1) * ratio / spacing)) for n, ratio in zip(shape, ratios)]
    knots = rng.normal(3, *(span + 3 for span in spans))
    knots = knots * (magnitude / torch.tensor(ratios, dtype=torch.float32)).view(3, 1, 1, 1)
    return {row: knots[row] for row in rows}


def reorient(
    image: torch.Tensor, labels: torch.Tensor | None, orientations: torch.Tensor
) -> Result:
    """Permute and mirror the axes of each sample.

    Args:
        image: (B, C, Z, Y, X) of any dtype.
        labels: (B, Z, Y, X) or None.
        orientations: (B, 3, 3), signed permutation matrices. The 1 or -1 in row i stands in the
            column of the axis that becomes axis i. In a product, the right factor acts first.
    """
    if (orientations == torch.eye(3)).all():
        return image, labels
    if labels is not None:
        labels = _reoriented(labels, orientations)
    return _reoriented(image, orientations), labels


def _reoriented(batch: torch.Tensor, orientations: torch.Tensor) -> torch.Tensor:
    result = torch.empty_like(batch)
    channel_dims = batch.ndim - 4  # of a sample
    for sample, source, matrix in zip(result, batch, orientations):
        axes = channel_dims + matrix.abs().argmax(1)
        source = source.permute(*range(channel_dims), *axes.tolist())
        mirrored = channel_dims + (matrix.sum(1) < 0).nonzero().flatten()
        sample.copy_(source.flip(mirrored.tolist()) if len(mirrored) else source)
    return result


def deform(
    image: torch.Tensor,
    labels: torch.Tensor | None,
    matrices: dict[int, torch.Tensor],
    knots: dict[int, torch.Tensor],
) -> Result:
    """Resample each sample once, through its affine map and its field together.

    A sample with neither is not changed.

    Args:
        image: (B, C, Z, Y, X) float.
        labels: (B, Z, Y, X) or None.
        matrices: from `draw_affine`.
        knots: from `draw_elastic`.
    """
    moved = {**matrices, **knots}
    shape = image.shape[2:]
    if not moved:
        return image, labels
    image = image.clone()
    labels = None if labels is None else labels.clone()
    for row in moved:
        matrix = matrices.get(row, torch.eye(3))
        coordinates = _affine_coordinates(shape, matrix, image.device)
        field = _spline_field(knots[row].to(image.device), shape) if row in knots else None
        _resample(image[row], None if labels is None else labels[row], coordinates, field)
    return image, labels


def _rotation(plane: tuple[int, int], angle: float) -> torch.Tensor:
    """The rotation (3, 3) by an angle in radians in the plane of two axes."""
    a, b = plane
    matrix = torch.eye(3, dtype=torch.float64)
    matrix[a, a] = matrix[b, b] = math.cos(angle)
    matrix[a, b], matrix[b, a] = -math.sin(angle), math.sin(angle)
    return matrix


def _affine_coordinates(
    shape: Shape,
    matrix: torch.Tensor,
    device: torch.device,
    shift: Sequence[float] = (0.0, 0.0),
) -> Coordinates:
    """Voxel v is read at matrix (v - centre) + centre - shift, with a shift along y and x.

    Each coordinate is a sum of a part that depends on z and a part that depends on y and x.
    """
    centres = [(size - 1) / 2 for size in shape]
    z, y, x = [
        torch.arange(size, device=device, dtype=torch.float32) - centre
        for size, centre in zip(shape, centres)
    ]
    parts = []
    for (by_z, by_y, by_x), centre, move in zip(matrix.tolist(), centres, (0.0, *shift)):
        along = by_z * z + (centre - move)
        across = (by_y * y)[:, None] + by_x * x
        parts.append((along[:, None, None], across))
    return lambda slab: [along[slab] + across for along, across in parts]


def _spline_field(knots: torch.Tensor, shape: Shape) -> Callable[[slice], torch.Tensor]:
    """The field (3, z, Y, X) of a cubic B-spline on some z-slices.

    It has the same standard deviation everywhere, that of the knots.

    knots: (3, kz, ky, kx).
    """
    z_taps, y_taps, x_taps = [
        _spline_taps(size, count, knots.device) for size, count in zip(shape, knots.shape[1:])
    ]
    in_plane = _spline(_spline(knots, 2, *y_taps), 3, *x_taps)
    first, weights = z_taps
    return lambda slab: _spline(in_plane, 1, first[slab], weights[slab])


def _spline_taps(size: int, count: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """The first of the four knots of each of `size` voxels, and their weights (size, 4).

    The four weights are scaled to a norm of 1. count: number of knots.
    """
    position = torch.arange(size, device=device) * ((count - 3) / max(size - 1, 1))
    first = position.floor().clamp(max=count - 4)
    t = position - first
    s = 1 - t
    weights = torch.stack((s**3 / 6, 2 / 3 - t**2 + t**3 / 2, 2 / 3 - s**2 + s**3 / 2, t**3 / 6), 1)
    return first.long(), F.normalize(weights, dim=1)


def _spline(
    knots: torch.Tensor, axis: int, first: torch.Tensor, weights: torch.Tensor
) -> torch.Tensor:
    """The weighted sum of four knots along `axis`, at each position.

    It is summed tap by tap: the rounding of a matrix product depends on threads and alignment.
    """
    weights = weights.view(-1, 4, *(1,) * (knots.ndim - 1 - axis))
    taps = [knots.index_select(axis, first + tap) * weights[:, tap] for tap in range(4)]
    return taps[0] + taps[1] + taps[2] + taps[3]


def _resample(
    image: torch.Tensor,
    labels: torch.Tensor | None,
    coordinates: Coordinates,
    field: Callable[[slice], torch.Tensor] | None = None,
) -> None:
    """Replace image (C, Z, Y, X) and labels (Z, Y, X) by what lies at the coordinates plus a field.

    The image is interpolated trilinearly; labels are those of the nearest voxel.
    """
    depth, *plane = image.shape[1:]
    step = max(1, SLAB // math.prod(plane)) if image.device.type == "cpu" else depth
    source = image.clone(memory_format=torch.contiguous_format)
    # a rim of unlabelled voxels, which stand for all that is outside
    label_source = None if labels is None else F.pad(labels, (1,) * 6, value=UNLABELLED)
    for first in range(0, depth, step):
        slab = slice(first, first + step)
        at = coordinates(slab)
        if field is not None:
            for along_axis, displacement in zip(at, field(slab)):
                along_axis.add_(displacement)
        if labels is not None and label_source is not None:
            labels[slab] = _nearest(label_source, at)
        image[:, slab] = _trilinear(source, at)


def _nearest(padded: torch.Tensor, at: list[torch.Tensor]) -> torch.Tensor:
    """The labels nearest to some coordinates.

    padded: the labels with a rim of one voxel, which the coordinates do not count.
    """
    index = torch.zeros((), dtype=torch.int32, device=padded.device)
    for along_axis, size in zip(at, padded.shape):
        nearest = along_axis.round().clamp_(-1, size - 2).to(torch.int32)
        index = index * size + nearest.add_(1)
    return padded.view(-1).index_select(0, index.view(-1)).view(index.shape)


def _trilinear(image: torch.Tensor, at: list[torch.Tensor]) -> torch.Tensor:
    """Values of a contiguous (C, Z, Y, X) at some coordinates, by trilinear interpolation.

    The coordinates are overwritten. Outside the image they are mirrored once at a face, and beyond
    that the value at the face is taken. Whole numbers give the voxel itself. On a CPU this is two
    to three times faster than grid_sample, and it is as exact.
    """
    shape = image.shape[1:]
    index = torch.zeros((), dtype=torch.int32, device=image.device)
    for along_axis, size in zip(at, shape):
        mirrored = 2 * (size - 1) - along_axis.abs_()
        torch.minimum(along_axis, mirrored, out=along_axis).clamp_(min=0)
        low = along_axis.floor().clamp_(max=max(size - 2, 0))
        along_axis.sub_(low)  # now the weight of the upper neighbour
        index = index * size + low.to(torch.int32)
    index = index.view(-1)
    strides = [math.prod(shape[axis + 1 :]) if shape[axis] > 1 else 0 for axis in range(3)]

    def between(channel: torch.Tensor, axis: int) -> torch.Tensor:
        """Values interpolated along `axis` and the axes after it.

        channel: flat, from the lower corner on along the axes before `axis`.
        """
        if axis == 3:
            return channel.index_select(0, index).view(at[0].shape)
        low, high = between(channel, axis + 1), between(channel[strides[axis] :], axis + 1)
        return high.sub_(low).mul_(at[axis]).add_(low)

    return torch.stack([between(channel, 0) for channel in image.view(len(image), -1)])
