"""Tables of labels: labels of slabs that meet are united, then all get their final numbers.

Each slab of planes numbers its components from 1. A table has an entry for each label of each slab,
slab after slab, and entry 0 for the background. `join_face` unites the entries of labels that an
edge joins across a face, `final_numbers` turns the table into final labels, and `relabel` writes
them.
"""

import numpy as np

from pytc.segmentation.compiled import compiled
from pytc.segmentation.union_find import unite


@compiled
def join_face(
    flags: np.ndarray,
    before: np.ndarray,
    after: np.ndarray,
    first_before: int,
    first_after: int,
    parents: np.ndarray,
) -> None:
    """Unites components across the face of two slabs, where `flags` (Y, X) has an edge along z.

    before, after (Y, X): labels on either side, numbered within their slabs. In the table `parents`
    they begin behind first_before and first_after.
    """
    for y in range(flags.shape[0]):
        joined = (np.int64(0), np.int64(0))
        for x in range(flags.shape[1]):
            pair = (first_before + np.int64(before[y, x]), first_after + np.int64(after[y, x]))
            if flags[y, x] & 1 and pair != joined:
                joined = pair
                unite(parents[1:], parents.dtype.type(pair[0]), parents.dtype.type(pair[1]))


def component_sizes(labels: np.ndarray, count: int) -> np.ndarray:
    """Voxels of each label 0 .. count, int64."""
    return _count(labels.ravel(), np.zeros(count + 1, np.int64))


@compiled
def _count(labels: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    last, run = labels.dtype.type(0), 0
    for label in labels:
        if label != last:
            sizes[last] += run
            last, run = label, 0
        run += 1
    sizes[last] += run
    return sizes


@compiled
def final_numbers(parents: np.ndarray, sizes: np.ndarray, min_size: int) -> np.ndarray:
    """The final label of each entry: roots are numbered from 1 in their order.

    Those of fewer than min_size voxels get 0. parents: entry 0 is the background, and none points
    at a later one; overwritten. sizes: voxels of each entry, overwritten; or empty for no limit.
    """
    for i in range(1, len(parents)):
        parents[i] = parents[parents[i]]
        if len(sizes) and parents[i] != i:
            sizes[parents[i]] += sizes[i]
    numbers = np.zeros_like(parents)
    count = 0
    for i in range(1, len(parents)):
        if parents[i] != i:
            numbers[i] = numbers[parents[i]]
        elif len(sizes) == 0 or sizes[i] >= min_size:
            count += 1
            numbers[i] = count
    return numbers


@compiled
def relabel(labels: np.ndarray, table: np.ndarray) -> None:
    """Replaces each label by its entry in the table, in place; 0 stays."""
    last = number = labels.dtype.type(0)
    for i in range(len(labels)):
        if labels[i] != last:
            last = labels[i]
            number = table[last] if last > 0 else last
        labels[i] = number
