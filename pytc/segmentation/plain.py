"""The decode as a textbook would print it: from affinities to neurons in five plain functions.

Everything here is a loop over voxels, fragments or merges. The compiled forms in `fragments.py`,
`region_graph.py`, `linkage.py` and `merge_tree.py` give the same result, bit for bit, and are
thousands of times faster; the tests compare the two.

    affinities --flood_fill--> seeds --seeded_watershed--> fragments
               --region_graph--> graph --average_linkage--> merges --cut--> segmentation
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence

import numpy as np

Voxel = tuple[int, int, int]
Pair = tuple[int, int]  # two fragments, the lower id first
Merge = tuple[float, int, int]  # score, and the two fragments that are joined

NEIGHBOURS = ((1, 0, 0), (0, 1, 0), (0, 0, 1))  # the steps of affinity channels 0, 1 and 2
UNIT = 2**24  # affinities are summed as whole numbers of 2^-24, so that no order of adding matters


def affinity_edges(
    affinities: np.ndarray, offsets: Sequence[Voxel] = NEIGHBOURS
) -> Iterator[tuple[float, Voxel, Voxel, int]]:
    """Yields (affinity, voxel, other voxel, channel) for each edge inside the volume, in the order
    of the first voxel, then of the channel.

    Args:
        affinities: (C, Z, Y, X); the value of channel c at voxel v says how surely v and
            v + offsets[c] belong to one object. uint8 stands for value / 255.
        offsets: one for each of the first channels, in voxels along z, y, x.
    """
    scale = 255 if affinities.dtype == np.uint8 else 1
    shape = affinities.shape[1:]
    for voxel in np.ndindex(shape):
        for channel, offset in enumerate(offsets):
            other = tuple(v + o for v, o in zip(voxel, offset))
            if all(0 <= o < n for o, n in zip(other, shape)):
                yield float(affinities[(channel, *voxel)]) / scale, voxel, other, channel


def flood_fill(affinities: np.ndarray, threshold: float, min_size: int = 0) -> np.ndarray:
    """Connected components: voxels joined by affinities above a threshold get one label.

    Args:
        affinities: (3 or more, Z, Y, X), of which channels 0, 1, 2 are read.
        threshold: compared in float64.
        min_size: smaller components, in voxels, get the label 0.

    Returns:
        Labels (Z, Y, X) int64, 1, 2, ... in raster order of each component's first voxel; 0 where
        a voxel has no edge above the threshold, or its component has fewer than min_size voxels.
    """
    neighbours = defaultdict(list)
    for affinity, voxel, other, _ in affinity_edges(affinities):
        if affinity > threshold:
            neighbours[voxel].append(other)
            neighbours[other].append(voxel)

    labels = np.zeros(affinities.shape[1:], np.int64)
    visited = set()
    count = 0
    for start in np.ndindex(labels.shape):
        if start in visited or start not in neighbours:
            continue
        component = [start]
        visited.add(start)
        for voxel in component:  # the list grows while it is read
            for other in neighbours[voxel]:
                if other not in visited:
                    visited.add(other)
                    component.append(other)
        if len(component) >= min_size:
            count += 1
            for voxel in component:
                labels[voxel] = count
    return labels


def seeded_watershed(seeds: np.ndarray, affinities: np.ndarray, floor: float = 0.0) -> np.ndarray:
    """Joins unlabelled voxels to the seeds, over the strongest edges first.

    Edges are visited from the strongest to the weakest, equal ones in the order of their first
    voxel, then of the channel. Each joins the groups of voxels at its ends unless both hold a seed
    (Kruskal's algorithm: a maximum spanning forest rooted in the seeds). Edges whose affinity is
    not above the floor, or NaN, do not exist.

    Args:
        seeds: (Z, Y, X) integer, 0 where no seed is.
        affinities: (3 or more, Z, Y, X), of which channels 0, 1, 2 are read.

    Returns:
        Labels of the seeds' dtype; 0 where no path leads to a seed.

    Source: Cousty et al., "Watershed cuts: minimum spanning forests and the drop of water
    principle" (2009).
    """
    edges = []
    for affinity, voxel, other, channel in affinity_edges(affinities):
        if affinity > floor:
            edges.append((-affinity, voxel, channel, other))

    labels = seeds.copy()
    group_of = {voxel: [voxel] for voxel in np.ndindex(seeds.shape)}
    for _, voxel, _, other in sorted(edges):
        group, other_group = group_of[voxel], group_of[other]
        if group is other_group or (labels[voxel] and labels[other]):
            continue
        label = max(labels[voxel], labels[other])
        group.extend(other_group)
        for member in group:
            group_of[member] = group
            labels[member] = label
    return labels


def region_graph(
    fragments: np.ndarray,
    affinities: np.ndarray,
    offsets: Sequence[Voxel],
    edge_weights: Sequence[int],
) -> dict[Pair, list[int]]:
    """What the affinities say of each two fragments: the weighted sum over the edges between them.

    Args:
        fragments: (Z, Y, X) integer, 0 = background.
        affinities: (len(offsets), Z, Y, X), each channel with its whole-number weight.

    Returns:
        {(a, b): [sum, weight]}, a < b: the sum over all edges between a and b of weight times
        affinity, in whole numbers of 2^-24, and the sum of their weights.
    """
    graph: defaultdict[Pair, list[int]] = defaultdict(lambda: [0, 0])
    for affinity, voxel, other, channel in affinity_edges(affinities, offsets):
        a, b = int(fragments[voxel]), int(fragments[other])
        if a and b and a != b:
            value = 0 if np.isnan(affinity) else round(affinity * UNIT)
            entry = graph[min(a, b), max(a, b)]
            entry[0] += edge_weights[channel] * value
            entry[1] += edge_weights[channel]
    return dict(graph)


def average_linkage(graph: dict[Pair, list[int]]) -> list[Merge]:
    """Joins the two fragments of the highest mean affinity, again and again, to the last edge.

    After a merge the edges of both to a common neighbour become one: sums and weights are added.
    Its mean lies between the two, so scores never rise along the merges. Of equal scores the edge
    that holds the lowest pair of fragments comes first.

    Returns:
        Merges (score, a, b) in their order, a < b: the lowest fragments of the two that are joined.

    Source: Lance and Williams, "A general theory of classificatory sorting strategies" (1967);
    Funke et al., "Large scale image segmentation with structured loss based deep learning for
    connectome reconstruction" (2019).
    """
    edges = {pair: (total, weight, pair) for pair, (total, weight) in graph.items()}
    merges = []

    def order(pair: Pair) -> tuple[float, Pair]:
        total, weight, lowest_pair = edges[pair]
        return -(total / UNIT) / weight, lowest_pair

    while edges:
        a, b = min(edges, key=order)
        total, weight, _ = edges.pop((a, b))
        merges.append((total / UNIT / weight, a, b))
        for pair in [pair for pair in edges if b in pair]:
            neighbour = pair[0] if pair[1] == b else pair[1]
            joined = min(a, neighbour), max(a, neighbour)
            parts = [edges.pop(each) for each in (pair, joined) if each in edges]
            totals, weights, lowest_pairs = zip(*parts)
            edges[joined] = (sum(totals), sum(weights), min(lowest_pairs))
    return merges


def cut(fragments: np.ndarray, merges: list[Merge], threshold: float) -> np.ndarray:
    """The segmentation at a threshold: merges with a higher score are carried out.

    Returns:
        Labels (Z, Y, X) int64, 1, 2, ... in raster order of each segment's first voxel.
    """
    segment_of = {int(fragment): int(fragment) for fragment in np.unique(fragments)}
    segment_of[0] = 0
    for score, a, b in merges:
        if score > threshold:
            joined, kept = segment_of[b], segment_of[a]
            for fragment, segment in segment_of.items():
                if segment == joined:
                    segment_of[fragment] = kept

    numbers = {0: 0}
    labels = np.zeros(fragments.shape, np.int64)
    for voxel in np.ndindex(fragments.shape):
        segment = segment_of[int(fragments[voxel])]
        numbers.setdefault(segment, len(numbers))
        labels[voxel] = numbers[segment]
    return labels
