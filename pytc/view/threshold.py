"""The merge tree at a threshold that moves: a table of segments, and a selection that follows.

No volume is read or written here. A viewer reads a chunk of fragments and looks each voxel up in
the table.
"""

from typing import Literal

import numpy as np

from pytc.segmentation.merge_tree import MergeTree

# stable: a segment has the number of its largest fragment, so its colour stays while others merge
# cut: as `MergeTree.cut` numbers segments, so as in segmentation.zarr of the same threshold
Numbers = Literal["stable", "cut"]


class SegmentsAtThreshold:
    """The segment of each fragment at the present threshold.

    table: (N + 1,) uint64, the segment of each fragment; entry 0 is 0. It is replaced as a whole,
        never changed, so a reader in another thread sees one threshold at a time.
    """

    def __init__(
        self,
        tree: MergeTree,
        threshold: float,
        *,
        min_size: int = 0,
        numbers: Numbers = "stable",
    ) -> None:
        self.tree = tree
        self.min_size = min_size
        self.numbers = numbers
        # of two fragments of one size the lower one comes last
        self._by_size = np.lexsort((-np.arange(len(tree.sizes)), tree.sizes))
        self.move(threshold)

    def move(self, threshold: float) -> None:
        """Cut the tree at another threshold."""
        cut = self.tree.cut(threshold, min_size=self.min_size)
        self.threshold = threshold
        self.n_segments = int(cut.max(initial=0))
        self.table = self._largest_fragments(cut) if self.numbers == "stable" else cut

    def look_up(self, fragments: np.ndarray) -> np.ndarray:
        """The segments of a chunk of fragments: any shape, the same dtype."""
        segments: np.ndarray = self.table.astype(fragments.dtype)[fragments]
        return segments

    def _largest_fragments(self, cut: np.ndarray) -> np.ndarray:
        """Segments numbered by their largest fragment instead of 1, 2, ...: (N + 1,) uint64."""
        largest = np.zeros(self.n_segments + 1, np.uint64)
        # where several fragments write one entry the last one stays: the largest
        largest[cut[self._by_size]] = self._by_size
        largest[0] = 0
        return largest[cut]

    def next_change(self, *, upwards: bool) -> float:
        """The nearest threshold at which one more merge is undone, or one more is carried out.

        It is the score of the next merge, or a little less, where that merge happens.
        """
        scores = self.tree.merges.scores
        done = self.tree.merges.above(self.threshold)
        if upwards:
            return float(scores[done - 1]) if done > 0 else self.threshold
        if done == len(scores):
            return self.threshold
        below = np.nextafter(scores[done], -np.inf)
        return float(max(0.0, below))


class Selection:
    """Which fragments a user has selected, so that a selection follows the threshold.

    It remembers the fragments of the segments that the user chose. When the threshold falls and
    rises again, the same segments are selected as before.
    """

    def __init__(self) -> None:
        self._fragments = np.empty(0, np.int64)
        self._shown: set[int] = set()

    def note(self, segments: set[int], table: np.ndarray) -> None:
        """Note what is selected in the viewer; what `segments_in` returned last is no change."""
        if segments == self._shown:
            return
        chosen = np.array(sorted(segments), np.uint64)
        self._fragments = np.flatnonzero(np.isin(table, chosen) & (table > 0))
        self._shown = set(segments)

    def segments_in(self, table: np.ndarray) -> set[int]:
        """The segments that hold the selected fragments in another table."""
        found = np.unique(table[self._fragments])
        self._shown = set(found[found > 0].tolist())
        return self._shown


def groups_of(cut: np.ndarray, segments: set[int] | None = None) -> list[list[int]]:
    """The fragments of each segment with more than one, as Neuroglancer's equivalences.

    Args:
        cut: (N + 1,) the segment of each fragment.
        segments: those to list; None for all.
    """
    order = np.argsort(cut, kind="stable")
    ordered = cut[order]
    starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])
    groups = []
    for start, stop in zip(starts, np.r_[starts[1:], len(ordered)]):
        segment = int(ordered[start])
        is_listed = segments is None or segment in segments
        if segment > 0 and stop - start > 1 and is_listed:
            groups.append(order[start:stop].tolist())
    return groups
