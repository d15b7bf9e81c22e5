"""Components of a volume from those of its blocks: labels that meet at a face are joined.

      block A    |    block B        An edge across a face joins the labels at its two ends. A voxel
     . a . . a --|-- b . . b .       whose only true edge crosses a face has no label in its block:
     . . . . 0 --|-- b . . . .       it becomes an entry of its own.

The labels of all blocks are fragments, and the edges across faces are merges that are all carried
out, so `MergeTree.cut` joins and numbers them: in raster order of first voxels, as in the whole.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pytc.blocks import Result
from pytc.geometry import Box
from pytc.segmentation.merge_tree import Merges, MergeTree


@dataclass(frozen=True)
class JoinedComponents:
    """The component of every label of every block."""

    segments: np.ndarray  # (N + 1,) uint64, of the labels of all blocks, block after block
    voxels: np.ndarray  # (V,) int64: raster index of those without a label, in rising order
    voxel_segments: np.ndarray  # (V,) uint64: their components


def components_of_blocks(
    results: Sequence[Result],
    grid: Sequence[Box],
    shape: Sequence[int],
    *,
    min_size: int = 0,
) -> JoinedComponents:
    """Joins the components of blocks.

    Args:
        results: of each block, what `LabelComponents` returns.
        grid: the blocks, in raster order.
        shape: of the volume.
        min_size: components of fewer voxels are background.
    """
    numbers = {box.start: number for number, box in enumerate(grid)}
    firsts = first_numbers(results)
    ends = [np.empty((0, 2), np.int64)]
    for number, box in enumerate(grid):
        result = results[number]
        for axis in range(3):
            if f"edge_{axis}" not in result:
                continue
            start = tuple(box.stop[a] if a == axis else box.start[a] for a in range(3))
            other = numbers[start]
            before = result[f"high_{axis}"], int(firsts[number])
            after = results[other][f"low_{axis}"], int(firsts[other])
            last_plane = Box(
                tuple(box.stop[a] - 1 if a == axis else box.start[a] for a in range(3)), box.stop
            )
            ends.append(_joined(result[f"edge_{axis}"], before, after, last_plane, axis, shape))

    pairs = np.concatenate(ends)
    sizes = np.concatenate([[0], *(result["sizes"][1:] for result in results)])
    first_voxels = np.concatenate([[0], *(result["first_voxels"][1:] for result in results)])
    n_labels = len(sizes)
    is_voxel = pairs < 0
    voxels = np.unique(-1 - pairs[is_voxel])
    pairs[is_voxel] = n_labels + np.searchsorted(voxels, -1 - pairs[is_voxel])
    pairs.sort(axis=1)
    tree = MergeTree(
        Merges(np.ones(len(pairs)), pairs[:, 0].astype(np.uint64), pairs[:, 1].astype(np.uint64)),
        np.concatenate([sizes, np.ones(len(voxels), np.int64)]).astype(np.int64),
        np.concatenate([first_voxels, voxels]).astype(np.int64),
    )
    segments = tree.cut(0, min_size=min_size)
    return JoinedComponents(segments[:n_labels], voxels, segments[n_labels:])


def first_numbers(results: Sequence[Result]) -> np.ndarray:
    """(B,) int64: behind which number the labels of each block begin in the whole volume."""
    counts = [len(result["sizes"]) - 1 for result in results]
    return np.cumsum([0, *counts[:-1]])


def _joined(
    edges: np.ndarray,
    before: tuple[np.ndarray, int],
    after: tuple[np.ndarray, int],
    last_plane: Box,
    axis: int,
    shape: Sequence[int],
) -> np.ndarray:
    """The two ends of each edge across a face, each pair of labels about once.

    Args:
        edges: bool, in the plane of the face.
        before, after: the labels on either side, and behind which number they begin.
        last_plane: before the face.

    Returns:
        (E, 2) int64: the label in the whole volume, or -1 - raster index of a voxel without one.
    """
    places = np.argwhere(np.expand_dims(edges, axis)) + last_plane.start
    ends = np.empty((len(places), 2), np.int64)
    for side, (labels, first) in enumerate((before, after)):
        voxels = np.ravel_multi_index(tuple(places.T), tuple(shape))
        found = labels[edges].astype(np.int64)
        ends[:, side] = np.where(found > 0, first + found, -1 - voxels)
        places[:, axis] += 1
    is_new = np.ones(len(ends), bool)
    is_new[1:] = (ends[1:] != ends[:-1]).any(axis=1)
    return ends[is_new]
