"""Fragments and their merges in order, from which a segmentation at any threshold is cut.

    score  1.0 |  f1  f2  f3  f4  f5       Each merge joins two clusters of fragments, the highest
               |   \\__/   |   |   |        score first. A threshold is an index in the list: the
    threshold--|----|-----|---\\___/---     merges before it are carried out, those behind it are
               |    \\____/      |         not.
           0.0 |      \\_________/

The decode at any threshold, the sweep, the exact curve and the viewer's slider all read these two
files: fragments.zarr, the volume, and merges.npz, the list.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pytc.checks import require
from pytc.segmentation.compiled import compiled
from pytc.segmentation.edges import slabs_of
from pytc.segmentation.label_tables import relabel
from pytc.segmentation.union_find import unite

FORMAT = 1  # of merges.npz


@dataclass(frozen=True)
class Merges:
    """Which clusters are joined, in order; the scores never rise."""

    scores: np.ndarray  # (M,) float64
    first: np.ndarray  # (M,) uint64: the lowest fragment of one cluster
    second: np.ndarray  # (M,) uint64: that of the other, which is higher

    def above(self, threshold: float) -> int:
        """How many merges have a score above the threshold."""
        return int(np.searchsorted(-self.scores, -threshold, side="left"))


@dataclass(frozen=True)
class MergeTree:
    """The merges, and of each fragment its size and first voxel, so that a cut needs no volume."""

    merges: Merges
    sizes: np.ndarray  # (N + 1,) int64: voxels of each fragment; entry 0 is the background
    first_voxels: np.ndarray  # (N + 1,) int64: raster index of each fragment's first voxel
    key: str = ""  # names what a stored tree was made from

    def __post_init__(self) -> None:
        n = len(self.sizes)
        require(
            len(self.first_voxels) == n > 0, f"first voxels of {n} fragments", self.first_voxels
        )
        highest = int(self.merges.second.max(initial=0))
        require(highest < n, f"merges of fragments below {n}", highest)

    def cut(self, threshold: float, *, min_size: int = 0) -> np.ndarray:
        """The segment of each fragment at a threshold: merges with a higher score are carried out.

        Returns:
            (N + 1,) uint64: 1, 2, ... in raster order of each segment's first voxel; 0 for the
            background and for segments of fewer than min_size voxels.
        """
        n_merges = self.merges.above(threshold)
        roots = np.arange(len(self.sizes), dtype=np.uint64)
        _unite_all(roots, self.merges.first[:n_merges], self.merges.second[:n_merges])
        roots = roots.astype(np.int64)
        sizes = np.bincount(roots, self.sizes.astype(np.float64), len(roots)).astype(np.int64)
        first_voxels = np.full(len(roots), np.iinfo(np.int64).max)
        np.minimum.at(first_voxels, roots, self.first_voxels)

        is_segment = roots == np.arange(len(roots))
        is_segment[0] = False
        segments = np.flatnonzero(is_segment & (sizes >= max(1, min_size)))
        segments = segments[np.argsort(first_voxels[segments], kind="stable")]
        numbers = np.zeros(len(roots), np.uint64)
        numbers[segments] = np.arange(1, len(segments) + 1, dtype=np.uint64)
        return numbers[roots]

    def save(self, path: Path, key: str = "") -> None:
        """Writes the tree as an .npz file, with a key that names what it was made from."""
        np.savez(
            path,
            format=FORMAT,
            key=key,
            scores=self.merges.scores,
            first=self.merges.first,
            second=self.merges.second,
            sizes=self.sizes,
            first_voxels=self.first_voxels,
        )


def load_merge_tree(path: Path) -> MergeTree:
    """Reads what `MergeTree.save` wrote; ValueError if the file is none of these."""
    try:
        with np.load(path) as stored:
            require(int(stored["format"]) == FORMAT, f"format {FORMAT} in {path}", stored["format"])
            merges = Merges(stored["scores"], stored["first"], stored["second"])
            return MergeTree(merges, stored["sizes"], stored["first_voxels"], str(stored["key"]))
    except (OSError, KeyError, ValueError) as error:
        raise ValueError(f"expected a merge tree in {path}: {error}") from error


def relabelled(
    fragments: np.ndarray, segments: np.ndarray, *, threads: int | None = None
) -> np.ndarray:
    """The segmentation: each fragment replaced by its entry in `segments`, as from `cut`.

    Args:
        fragments: (Z, Y, X) unsigned integer.
        segments: (N + 1,) uint64, entry 0 is 0.

    Returns:
        A new array of the fragments' dtype.
    """
    labels = np.array(fragments, order="C")
    table = segments.astype(labels.dtype)
    slabs = [labels[start:stop] for start, stop in slabs_of(len(labels), threads=threads)]
    with ThreadPoolExecutor(len(slabs)) as pool:
        list(pool.map(lambda slab: relabel(slab.reshape(-1), table), slabs))
    return labels


@compiled
def _unite_all(roots: np.ndarray, first: np.ndarray, second: np.ndarray) -> None:
    """Joins the pairs (union-find), and points each fragment at its cluster's lowest."""
    parents = roots[1:]
    for i in range(len(first)):
        unite(parents, first[i], second[i])
    for i in range(len(parents)):
        parents[i] = parents[parents[i] - np.uint64(1)]
