"""Slow, obvious twins of pytc.segmentation and pytc.metrics, and volumes to compare them on."""

import itertools
import math
from collections import Counter, defaultdict

import numpy as np


def only_those_of(reference, scores):
    """The scores that a reference has, too: it need not know a metric that is added later."""
    return {name: scores[name] for name in reference}


def slow_overlap(truth, segmentation):
    """Entropies and pair counts from dictionaries, as the formulas are written."""
    pairs = Counter((int(a), int(b)) for a, b in zip(truth.flat, segmentation.flat) if a > 0)
    total = sum(pairs.values())
    objects, segments = Counter(), Counter()
    for (a, b), n in pairs.items():
        objects[a] += n
        segments[b] += n

    def entropy(counts):
        return -sum(n / total * math.log2(n / total) for n in counts.values())

    def squares(counts):
        return sum(n * n for n in counts.values())

    split, merge = entropy(pairs) - entropy(objects), entropy(pairs) - entropy(segments)
    return {
        "voi_split": split,
        "voi_merge": merge,
        "voi_sum": split + merge,
        "rand_split": squares(pairs) / squares(objects),
        "rand_merge": squares(pairs) / squares(segments),
        "adapted_rand_error": 1 - 2 * squares(pairs) / (squares(objects) + squares(segments)),
    }


def slow_run_length(ids, nm, edges, segments, overlooked=0):
    """erl in nm, {segment: skeletons} of mergers and {skeleton: split edges}, edge by edge."""
    ids, segments = [int(i) for i in ids], [int(s) for s in segments]
    nodes = Counter(zip(ids, segments))
    held = defaultdict(set)
    for (skeleton, segment), n in nodes.items():
        if n > overlooked:
            held[segment].add(skeleton)
    mergers = {segment: skeletons for segment, skeletons in held.items() if len(skeletons) > 1}
    merged = set().union(*mergers.values())
    total, correct, splits = 0.0, defaultdict(float), defaultdict(list)
    for u, v in edges:
        length = math.dist(nm[u], nm[v])
        total += length
        if 0 in (segments[u], segments[v]):
            continue
        if segments[u] != segments[v]:
            splits[ids[u]].append((segments[u], segments[v]))
        elif not (segments[u] in mergers and ids[u] in merged):
            correct[ids[u], segments[u]] += length
    return sum(length**2 for length in correct.values()) / total, mergers, splits


def random_affinities(rng, shape, dtype=np.float16):
    """Affinities with many equal values, so that ties and thresholds are met exactly."""
    values = rng.integers(0, 17, (3, *shape)) / 16
    return (values * 255).astype(np.uint8) if dtype == np.uint8 else values.astype(dtype)


def voronoi(shape, n, seed, voxel_size=(1, 1, 1)):
    """Labels 1 to n of the nearest of n random points, distances in nm.

    They are the same for a seed on any machine.
    """
    points = np.random.Generator(np.random.PCG64(seed)).random((n, 3)) * shape
    nearest = np.full(shape, np.inf)
    labels = np.zeros(shape, np.uint64)
    grid = np.meshgrid(*map(np.arange, shape), indexing="ij", sparse=True)
    for label, point in enumerate(points, 1):
        distance = sum(((g - p) * size) ** 2 for g, p, size in zip(grid, point, voxel_size))
        closer = distance < nearest
        nearest[closer], labels[closer] = distance[closer], label
    return labels


def volume_cases():
    """name, truth, segmentation (uint64): what golden/overlap.json was recorded on."""
    draw = np.random.Generator(np.random.PCG64(7))
    shape = (12, 20, 25)
    yield (
        "noise",
        (draw.random(shape) * 9).astype(np.uint64),
        (draw.random(shape) * 30).astype(np.uint64),
    )
    truth = voronoi((40, 60, 60), 25, 1)
    yield "perfect", truth, truth * np.uint64(3)
    yield "all background", truth, np.zeros_like(truth)
    yield "one segment", truth, np.ones_like(truth)
    merged = voronoi((40, 60, 60), 60, 2) * (draw.random(truth.shape) > 0.1)
    yield "isotropic", truth, merged.astype(np.uint64)
    truth = voronoi((20, 96, 96), 30, 3, (40, 4, 4)) * (draw.random((20, 96, 96)) > 0.05)
    yield "anisotropic", truth.astype(np.uint64), voronoi((20, 96, 96), 45, 4, (40, 4, 4))
    large = np.uint64(2**64 - 1)
    yield "large ids", large - voronoi(shape, 9, 5), large - voronoi(shape, 12, 6)


def instance_cases():
    """name, truth, segmentation (uint64): what golden/instances.json was recorded on."""
    draw = np.random.Generator(np.random.PCG64(3))
    truth = voronoi((12, 40, 40), 40, 8)
    truth[truth % 5 == 0] = 0
    yield "perfect", truth, truth * np.uint64(3)
    yield "nothing", truth, np.zeros_like(truth)
    moved = np.roll(truth, 2, axis=2)
    yield "moved", truth, moved
    cut = moved + np.uint64(100) * ((np.arange(40) // 9) % 2 * (moved % 3 == 0)).astype(np.uint64)
    yield "cut", truth, np.where(moved > 0, cut, 0).astype(np.uint64)
    yield "merged", truth, np.where(truth > 0, truth // 2 + 1, 0).astype(np.uint64)
    worn = np.where(draw.random(truth.shape) < truth / 50, 0, truth)
    yield "worn", truth, worn.astype(np.uint64)
    yield "elsewhere", truth, np.where(truth == 0, 7, 0).astype(np.uint64)


def skeleton_cases():
    """name, ids, positions, nm, edges, segments at the nodes.

    golden/skeleton.json was recorded on these.
    """
    draw = np.random.Generator(np.random.PCG64(11))
    shape = np.array((40, 200, 200))
    positions, ids, edges = [], [], []
    for skeleton in range(1, 25):  # random walks that branch
        walk = [draw.random(3) * (shape - 1)]
        first = len(ids)
        for node in range(int(20 + draw.random() * 150)):
            parent = node if draw.random() > 0.05 else int(draw.random() * (node + 1))
            walk.append(np.clip(walk[parent] + (draw.random(3) - 0.5) * (2, 8, 8), 0, shape - 1))
            edges.append((first + parent, first + node + 1))
        positions += walk
        ids += [skeleton * 1000] * len(walk)
    positions, ids = np.array(positions).astype(np.int64), np.array(ids, np.uint64)
    nm = positions * np.array((40.0, 4.0, 4.0))
    coarse = voronoi(tuple(shape), 40, 12, (40, 4, 4))[tuple(positions.T)]
    neurons = ids // np.uint64(1000)
    some = draw.random(len(ids))
    segmentations = {
        "perfect": ids,
        "background": np.zeros_like(ids),
        "splits": neurons * np.uint64(100) + (positions[:, 1] // 40).astype(np.uint64),
        "mergers": neurons // np.uint64(3) + np.uint64(1),
        "small contacts": np.where(
            some < 0.01, np.roll(ids, 200), np.where(some > 0.97, np.uint64(0), ids)
        ),
        "regions": coarse,
        "noise": (some * 50).astype(np.uint64),
    }
    for name, segments in segmentations.items():
        yield name, ids, positions, nm, np.array(edges), segments


def edges_between(ids):
    """Edges from the first node of each skeleton to the first one of the next."""
    first = np.unique(ids, return_index=True)[1].tolist()
    return list(itertools.pairwise(first))


def small_shapes():
    """All shapes of 0 to 3 voxels along each axis, and some larger ones."""
    yield from itertools.product(range(4), repeat=3)
    yield from ((5, 1, 9), (1, 13, 2), (7, 5, 33), (4, 17, 3))
