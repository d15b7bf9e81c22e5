"""Geometry: what moves image and labels together.

Every augmentation is f(image, labels, rng, *, ...) -> (image, labels) as in imaging.py. Labels are
taken from the nearest voxel, so they stay whole; what comes from outside the patch is reflected in
the image and unlabelled (-1). Of a voxel size only the ratios matter.

What is drawn (draw_*, with the strengths) is apart from what is done with it (`reorient`,
`deform`), so that a recipe moves the voxels once for all the permutations, turns and flips, and
once for the affine map and the elastic field.
"""

import math
from collections.abc import Callable

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
# where the voxels of some z-slices are read: z, y, x in voxels
Places = Callable[[slice], list[torch.Tensor]]


def misalign(
    image,
    labels,
    rng: SampleRandom,
    *,
    prob: float,
    max_shift: float,
    max_rotation: float,
    axis: int = 0,
) -> Result:
    """Move one section of a chosen sample, or all from a random one on, in plane.

    The translation is up to `max_shift` voxels along each in-plane axis, the rotation up to
    `max_rotation` degrees about the centre. Labels move with the image, as tracings of misaligned
    sections do.
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
        angle, shift = (angles[row], (0.0, 0.0)) if turned[row] else (0.0, shifts[row])
        _resample(
            part,
            label_part,
            _affine_places(part.shape[1:], _rotation((1, 2), angle), image.device, shift),
        )
    return image, labels


def draw_permutations(
    rng: SampleRandom, shape: Shape, *, prob: float, voxel_size: Lengths = ISOTROPIC
) -> torch.Tensor:
    """Orientations (B, 3, 3) that put the axes of each chosen sample into a random order.

    Only axes of equal voxel size and extent are exchanged.
    """
    kinds = list(zip(voxel_size, shape))
    alike = [[other for other in range(3) if kinds[other] == kind] for kind in kinds]
    axes = torch.arange(3).repeat(len(rng.state), 1)
    for row, is_chosen, value in zip(axes, rng.bernoulli(prob).tolist(), rng.uniform(3).tolist()):
        if is_chosen:
            row[:] = torch.tensor(
                [sorted(a, key=value.__getitem__)[a.index(axis)] for axis, a in enumerate(alike)]
            )
    return torch.eye(3, dtype=torch.float64)[axes]


def draw_turns(
    rng: SampleRandom, shape: Shape, *, prob: float, voxel_size: Lengths = ISOTROPIC, axis: int = 0
) -> torch.Tensor:
    """Orientations (B, 3, 3): each chosen sample turned about `axis` by 1 to 3 quarters.

    By 2 where the voxel size or the extent differs between the plane's axes.
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
    """Row of each chosen sample -> matrix (3, 3) from an output voxel to its source.

    Both are offsets from the centre. Axes are scaled by 1 +- scale and sheared by six shears in +-
    shear, a product of unit triangular matrices, so that no map is singular. Rotations are up to
    `rotation` degrees in each plane of equal voxel sizes. Scale, shear and rotation act on lengths
    in nm, not on voxels.
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
    """Row of each chosen sample -> knots (3, kz, ky, kx) of a cubic B-spline field in voxels.

    Knots are at most `spacing` voxels apart, and along each axis the displacement's standard
    deviation is `magnitude` voxels; both are in voxels of the finest axis, so that the field is
    isotropic in nm.
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
    """Give each sample its orientation (B, 3, 3).

    An orientation is a signed permutation whose row i says which axis becomes axis i. Orientations
    are combined by matrix products, the first one on the right. The image is of any dtype.
    """
    if (orientations == torch.eye(3)).all():
        return image, labels

    def reoriented(batch: torch.Tensor) -> torch.Tensor:
        result, extra = torch.empty_like(batch), batch.ndim - 4
        for sample, source, matrix in zip(result, batch, orientations):
            source = source.permute(*range(extra), *(extra + matrix.abs().argmax(1)).tolist())
            dims = (extra + (matrix.sum(1) < 0).nonzero()).flatten().tolist()
            sample.copy_(source.flip(dims) if dims else source)
        return result

    return reoriented(image), None if labels is None else reoriented(labels)


def deform(
    image: torch.Tensor,
    labels: torch.Tensor | None,
    matrices: dict[int, torch.Tensor],
    knots: dict[int, torch.Tensor],
) -> Result:
    """Resample each sample once, through its affine map and its field together.

    They come from `draw_affine` and `draw_elastic`. Samples with neither come back bit for bit.
    """
    moved, shape = {**matrices, **knots}, image.shape[2:]
    if not moved:
        return image, labels
    image, labels = image.clone(), None if labels is None else labels.clone()
    for row in moved:
        places = _affine_places(shape, matrices.get(row, torch.eye(3)), image.device)
        field = _spline_field(knots[row].to(image.device), shape) if row in knots else None
        _resample(image[row], None if labels is None else labels[row], places, field)
    return image, labels


def _rotation(plane: tuple[int, int], angle: float) -> torch.Tensor:
    """The rotation (3, 3) by an angle in radians in the plane of two axes."""
    a, b = plane
    matrix = torch.eye(3, dtype=torch.float64)
    matrix[a, a] = matrix[b, b] = math.cos(angle)
    matrix[a, b], matrix[b, a] = -math.sin(angle), math.sin(angle)
    return matrix


def _affine_places(
    shape: Shape, matrix: torch.Tensor, device: torch.device, shift=(0.0, 0.0)
) -> Places:
    """Voxel v is read at matrix (v - centre) + centre - shift, with a shift along y and x."""
    centres = [(n - 1) / 2 for n in shape]
    z, y, x = (
        torch.arange(n, device=device, dtype=torch.float32) - c for n, c in zip(shape, centres)
    )
    parts = [
        ((a * z + (centre - move))[:, None, None], (b * y)[:, None] + c * x)
        for (a, b, c), centre, move in zip(matrix.tolist(), centres, (0.0, *shift))
    ]
    return lambda slab: [along[slab] + across for along, across in parts]


def _spline_field(knots: torch.Tensor, shape: Shape) -> Callable[[slice], torch.Tensor]:
    """The field (3, z, Y, X) of a cubic B-spline on some z-slices.

    It varies as much as the knots do, everywhere.
    """
    (first, weights), *in_plane = (
        _spline_taps(n, k, knots.device) for n, k in zip(shape, knots.shape[1:])
    )
    for axis, taps in enumerate(in_plane, start=2):
        knots = _spline(knots, axis, *taps)
    return lambda slab: _spline(knots, 1, first[slab], weights[slab])


def _spline_taps(size: int, count: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Of each of `size` voxels the first of its four knots, and their weights (size, 4), of norm 1.

    `count` is the number of knots.
    """
    place = torch.arange(size, device=device) * ((count - 3) / max(size - 1, 1))
    first = place.floor().clamp(max=count - 4)
    t = place - first
    s = 1 - t
    weights = torch.stack((s**3 / 6, 2 / 3 - t**2 + t**3 / 2, 2 / 3 - s**2 + s**3 / 2, t**3 / 6), 1)
    return first.long(), F.normalize(weights, dim=1)


def _spline(
    knots: torch.Tensor, axis: int, first: torch.Tensor, weights: torch.Tensor
) -> torch.Tensor:
    """Knots along `axis` combined tap by tap.

    The rounding of a matrix product would depend on threads and alignment.
    """
    weights = weights.view(-1, 4, *(1,) * (knots.ndim - 1 - axis))
    return sum(knots.index_select(axis, first + tap) * weights[:, tap] for tap in range(4))


def _resample(image: torch.Tensor, labels: torch.Tensor | None, places: Places, field=None) -> None:
    """Replace image (C, Z, Y, X) and labels (Z, Y, X) by what is at the places plus a field.

    The image is interpolated trilinearly, labels come from the nearest voxel.
    """
    depth, *plane = image.shape[1:]
    step = max(1, SLAB // math.prod(plane)) if image.device.type == "cpu" else depth
    source = image.clone(memory_format=torch.contiguous_format)
    # a rim for what is outside
    label_source = None if labels is None else F.pad(labels, (1,) * 6, value=UNLABELLED)
    for first in range(0, depth, step):
        slab = slice(first, first + step)
        at = (
            places(slab)
            if field is None
            else [p.add_(move) for p, move in zip(places(slab), field(slab))]
        )
        if labels is not None:
            labels[slab] = _nearest(label_source, at)
        image[:, slab] = _trilinear(source, at)


def _nearest(padded: torch.Tensor, at: list[torch.Tensor]) -> torch.Tensor:
    """Labels of a volume with a rim of one voxel, nearest to places counted without it."""
    index = torch.zeros((), dtype=torch.int32, device=padded.device)
    for place, size in zip(at, padded.shape):
        index = index * size + place.round().clamp_(-1, size - 2).to(torch.int32).add_(1)
    return padded.view(-1).index_select(0, index.view(-1)).view(index.shape)


def _trilinear(image: torch.Tensor, at: list[torch.Tensor]) -> torch.Tensor:
    """Values of a contiguous (C, Z, Y, X) at places, which are overwritten.

    Reflected once at a face, then held there. Whole places give the voxel itself. Two to three
    times faster than grid_sample on a CPU, and as exact anywhere.
    """
    shape = image.shape[1:]
    index = torch.zeros((), dtype=torch.int32, device=image.device)
    for place, size in zip(at, shape):
        torch.minimum(place.abs_(), 2 * (size - 1) - place, out=place).clamp_(min=0)
        low = place.floor().clamp_(max=max(size - 2, 0))
        place.sub_(low)
        index = index * size + low.to(torch.int32)
    index = index.view(-1)
    strides = [math.prod(shape[axis + 1 :]) if shape[axis] > 1 else 0 for axis in range(3)]

    def between(channel: torch.Tensor, axis: int) -> torch.Tensor:
        """Values interpolated along the axes from `axis` on.

        They are of a channel that starts at the first corner.
        """
        if axis == 3:
            return channel.index_select(0, index).view(at[0].shape)
        low, high = between(channel, axis + 1), between(channel[strides[axis] :], axis + 1)
        return high.sub_(low).mul_(at[axis]).add_(low)

    return torch.stack([between(channel, 0) for channel in image.view(len(image), -1)])
