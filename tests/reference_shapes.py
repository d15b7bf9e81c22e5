"""Objects for tests of shape, and local shape descriptors as the paper defines them."""

import math

import numpy as np
from reference_data import voxels

# name: voxel size in nm, sigma in nm, stride
LSD_CASES = {
    "isotropic": ((10, 10, 10), 40.0, 1),
    "isotropic, every second voxel": ((10, 10, 10), 40.0, 2),
    "thick sections": ((40, 8, 8), 50.0, 1),
}


def some_objects():
    """(8, 12, 14) uint64: a tube, a slab and a ball between background."""
    z, y, x = np.indices((8, 12, 14))
    labels = np.zeros(z.shape, np.uint64)
    labels[x >= 10] = 5  # of two voxels on a stride of 2: where one is flat, lsds gives noise
    labels[(z - 3) ** 2 + (y - 2) ** 2 <= 5] = 9
    labels[(z - 4) ** 2 + (y - 8) ** 2 + (x - 4) ** 2 <= 10] = 2
    return labels


def descriptors(labels, sigma, voxel_size, stride=(1, 1, 1)):
    """A loop over pairs of voxels (Sheridan et al. 2022), in float64; labels above 0."""
    found = np.zeros((10, *labels.shape))
    normals = []
    for size, step in zip(voxel_size, stride):
        radius = int(3 * sigma / (size * step) + 0.5)
        steps = [
            math.exp(-0.5 * (n * size * step / sigma) ** 2) for n in range(-radius, radius + 1)
        ]
        normals.append((radius, sum(steps)))
    for v in voxels(labels.shape):
        if labels[v] <= 0:
            continue
        centre = [a // step for a, step in zip(v, stride)]
        moments = np.zeros((4, 4))  # of (1, z, y, x)
        for w in voxels([-(-n // step) for n, step in zip(labels.shape, stride)]):
            if labels[tuple(a * step for a, step in zip(w, stride))] != labels[v]:
                continue
            apart = [a - b for a, b in zip(w, centre)]
            if any(abs(n) > radius for n, (radius, _) in zip(apart, normals)):
                continue
            distance = [n * step * size for n, step, size in zip(apart, stride, voxel_size)]
            weight = math.exp(-0.5 * sum(d**2 for d in distance) / sigma**2)
            weight /= math.prod(total for _, total in normals)
            moments += weight * np.outer([1, *distance], [1, *distance])
        share = moments[0, 0]
        if share == 0:
            continue
        mean = moments[0, 1:] / share
        covariance = moments[1:, 1:] / share - np.outer(mean, mean)
        variance = np.maximum(np.diag(covariance), 1e-3)
        correlation = [
            covariance[a, b] / math.sqrt(variance[a] * variance[b])
            for a, b in ((0, 1), (0, 2), (1, 2))
        ]
        found[(slice(None), *v)] = [
            *(mean / sigma / 2 + 0.5),
            *(variance / sigma**2),
            *(np.array(correlation) / 2 + 0.5),
            share,
        ]
    return found.clip(0, 1)
