"""Slow, obvious twins of pytc.data and pytc.losses: plain Python loops, one voxel at a time."""

import hashlib
import itertools
import math
from statistics import NormalDist

import numpy as np

MASK = 2**64 - 1


def mix(number):
    number = ((number ^ (number >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    number = ((number ^ (number >> 27)) * 0x94D049BB133111EB) & MASK
    return number ^ (number >> 31)


def hashes(key, stream, count, first=1):
    """splitmix64 from the state mix(key ^ digest of the stream)."""
    state = mix(
        (key & MASK)
        ^ int.from_bytes(hashlib.blake2b(stream.encode(), digest_size=8).digest(), "little")
    )
    return [
        mix((state + counter * 0x9E3779B97F4A7C15) & MASK)
        for counter in range(first, first + count)
    ]


def voxels(shape):
    return itertools.product(*map(range, shape))


def inside(position, shape):
    return all(0 <= p < n for p, n in zip(position, shape))


def affinities(labels, offsets):
    affinity, valid = np.zeros((2, len(offsets), *labels.shape), bool)
    for channel, offset in enumerate(offsets):
        for v in voxels(labels.shape):
            w = tuple(a + o for a, o in zip(v, offset))
            if inside(w, labels.shape):
                affinity[channel][v] = labels[v] == labels[w] and labels[v] > 0
                valid[channel][v] = labels[v] != -1 and labels[w] != -1
    return affinity, valid


def erode(labels, width, axis=0):
    eroded = labels.copy()
    reach = [range(0, 1) if a == axis else range(-width, width + 1) for a in range(3)]
    for v in voxels(labels.shape):
        for step in itertools.product(*reach):
            w = tuple(a + s for a, s in zip(v, step))
            if labels[v] > 0 and inside(w, labels.shape) and labels[w] not in (-1, labels[v]):
                eroded[v] = 0
    return eroded


def boundaries(labels):
    boundary, valid = np.zeros((2, *labels.shape), bool)
    for v in voxels(labels.shape):
        steps = [np.eye(3, dtype=int)[a] * sign for a in range(3) for sign in (-1, 1)]
        around = [tuple(np.add(v, step)) for step in steps]
        around = [labels[w] for w in around if inside(w, labels.shape)]
        boundary[v] = labels[v] != -1 and any(w not in (-1, labels[v]) for w in around)
        valid[v] = labels[v] != -1 and (boundary[v] or -1 not in around)
    return boundary, valid


def normals(key, stream, count):
    """Quantiles (i + 1/2) / 65536 of the standard normal, i + 2^15 from 16 bits of each hash."""
    values = []
    for number in hashes(key, stream, -(-count // 4)):
        for part in range(4):
            bits = (number >> 16 * part) & 0xFFFF
            signed = bits - 2**16 if bits >= 2**15 else bits
            values.append(NormalDist().inv_cdf((signed + 2**15 + 0.5) / 2**16))
    return values[:count]


def b_spline(degree, t):
    """The uniform B-spline on [0, degree + 1), by Cox and de Boor's recursion."""
    if degree == 0:
        return 1.0 if 0 <= t < 1 else 0.0
    rising, falling = b_spline(degree - 1, t), b_spline(degree - 1, t - 1)
    return (t * rising + (degree + 1 - t) * falling) / degree


def spline_field(knots, shape):
    """The field (3, Z, Y, X) of cubic B-splines on knots (3, kz, ky, kx), which reach from the
    first voxel to the last; divided by the root of the sum of squares of the weights at a voxel."""
    field = np.asarray(knots, np.float64)
    for axis, size in enumerate(shape, start=1):
        count = field.shape[axis]
        weights = np.zeros((size, count))
        for voxel in range(size):
            position = voxel * (count - 3) / max(size - 1, 1)
            weights[voxel] = [b_spline(3, position - knot + 3) for knot in range(count)]
            weights[voxel] /= math.sqrt(sum(weight**2 for weight in weights[voxel]))
        field = np.moveaxis(np.tensordot(weights, field, (1, axis)), 0, axis)
    return field


def misaligned(image, labels, axis, sections, shift, angle):
    """Sections across `axis` whose content moves by a shift and turns by an angle in radians."""
    others = [a for a in range(3) if a != axis]
    centre = [(labels.shape[a] - 1) / 2 for a in others]

    def source(v):
        if v[axis] not in sections:
            return v
        row, column = (v[a] - c - s for a, c, s in zip(others, centre, shift))
        position = [0.0, 0.0, 0.0]
        position[axis] = v[axis]
        position[others[0]] = centre[0] + math.cos(angle) * row - math.sin(angle) * column
        position[others[1]] = centre[1] + math.sin(angle) * row + math.cos(angle) * column
        return position

    return resample(image, labels, source)


def reflected(position, size):
    """A position on the axis 0 .. size - 1, mirrored at its ends once, then clipped."""
    position = abs(position)
    position = (size - 1) - abs((size - 1) - position)
    return min(max(position, 0.0), size - 1.0)


def resample(image, labels, source):
    """image (C, Z, Y, X) trilinear and labels (Z, Y, X) nearest at the positions source(v)."""
    moved, label_moved = np.zeros_like(image), np.full_like(labels, -1)
    for v in voxels(labels.shape):
        position = source(v)
        nearest = tuple(int(np.rint(p)) for p in position)
        if inside(nearest, labels.shape):
            label_moved[v] = labels[nearest]
        position = [reflected(p, n) for p, n in zip(position, labels.shape)]
        for corner in itertools.product((0, 1), repeat=3):
            low = [math.floor(p) for p in position]
            weight = math.prod(
                (p - a) if c else (1 - p + a) for p, a, c in zip(position, low, corner)
            )
            at = tuple(min(a + c, n - 1) for a, c, n in zip(low, corner, labels.shape))
            moved[(slice(None), *v)] += weight * image[(slice(None), *at)]
    return moved, label_moved


def shift_plane(plane, rows, columns, fill):
    moved = np.zeros_like(plane)
    height, width = plane.shape
    for y, x in voxels(plane.shape):
        a, b = y - rows, x - columns
        if fill == "wrap":
            moved[y, x] = plane[a % height, b % width]
        else:
            moved[y, x] = plane[min(max(a, 0), height - 1), min(max(b, 0), width - 1)]
    return moved


def blur_plane(plane, sigma, radius):
    blurred = np.zeros_like(plane)
    for y, x in voxels(plane.shape):
        weights = np.zeros_like(plane)
        for a, b in voxels(plane.shape):
            if max(abs(y - a), abs(x - b)) <= radius:
                weights[a, b] = math.exp(-((y - a) ** 2 + (x - b) ** 2) / (2 * sigma**2))
        blurred[y, x] = (weights * plane).sum() / weights.sum()
    return blurred


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


def voxel_bce(x, t):
    return -math.log(sigmoid(x)) if t else -math.log(1 - sigmoid(x))


def voxel_sum(value, logits, target, valid):
    """Sum and count of value(logit, target) over the valid voxels."""
    counted = [v for v in voxels(logits.shape) if valid[v]]
    return sum(value(logits[v], target[v]) for v in counted), len(counted)


def balanced_bce(logits, target, valid, cap):
    total = 0.0
    for x, t, k in channels(logits, target, valid):
        positives, negatives = (t[k] == 1).sum(), (t[k] == 0).sum()
        weight = min(max(negatives / max(positives, 1), 1 / cap), cap)
        total += sum((weight if b else 1) * voxel_bce(a, b) for a, b in zip(x[k], t[k]))
    return total, valid.sum()


def tversky(logits, target, valid, alpha):
    total, count = 0.0, 0
    for x, t, k in channels(logits, target, valid):
        if k.any():
            hits = sum(sigmoid(a) * b for a, b in zip(x[k], t[k]))
            false_positives = sum(sigmoid(a) * (1 - b) for a, b in zip(x[k], t[k]))
            false_negatives = sum((1 - sigmoid(a)) * b for a, b in zip(x[k], t[k]))
            total += 1 - (hits + 1) / (
                hits + alpha * false_positives + (1 - alpha) * false_negatives + 1
            )
            count += 1
    return total, count


def cross_entropy(logits, target, valid, weights=None, gamma=0):
    total, count = 0.0, 0
    for b, *v in voxels(valid[:, 0].shape):
        if valid[(b, 0, *v)]:
            x, truth = logits[(b, slice(None), *v)], int(target[(b, 0, *v)])
            weight = 1 if weights is None else weights[truth]
            probability = softmax(x)[truth]
            total += weight * (1 - probability) ** gamma * -math.log(probability)
            count += weight
    return total, count


def class_tversky(logits, target, valid, alpha):
    """As `tversky` of the probabilities, each class against the rest."""
    total, count = 0.0, 0
    for b in range(len(logits)):
        counted = [v for v in voxels(valid.shape[2:]) if valid[(b, 0, *v)]]
        for channel in range(logits.shape[1]) if counted else ():
            hits = false_positives = false_negatives = 0.0
            for v in counted:
                probability = softmax(logits[(b, slice(None), *v)])[channel]
                if target[(b, 0, *v)] == channel:
                    hits += probability
                    false_negatives += 1 - probability
                else:
                    false_positives += probability
            misses = alpha * false_positives + (1 - alpha) * false_negatives
            total += 1 - (hits + 1) / (hits + misses + 1)
            count += 1
    return total, count


def softmax(x):
    return [math.exp(a) / sum(math.exp(b) for b in x) for a in x]


def channels(*arrays):
    """Each channel of each sample of arrays (B, C, ...)."""
    for b, c in voxels(arrays[0].shape[:2]):
        yield tuple(array[b, c] for array in arrays)
