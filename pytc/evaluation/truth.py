"""The labels that a prediction is scored against: in memory, or made where they are read."""

from functools import partial
from typing import Any, Literal

import numpy as np

from pytc.evaluation.inputs import Inputs
from pytc.io.labels import UNLABELLED, is_unlabelled, unlabelled_marker
from pytc.io.stored import Stored
from pytc.io.volume import Volume
from pytc.metrics.overlap import Labels
from pytc.metrics.semantic import boundaries, class_ids, foreground

Kind = Literal["objects", "foreground", "boundaries", "classes"]


def read_truth(inputs: Inputs) -> Labels | None:
    """The labels to score against; None if there are none.

    Returns:
        (Z, Y, X). Objects: integers; a Volume where they need not be read as a whole, or do not fit
        into memory. Masks: int8, 1 inside and 0 outside. Classes: int16. All are unlabelled (-1, or
        the maximum of uint32 and uint64) where the truth is, or outside of the mask.
    """
    if inputs.labels is None:
        return None
    kind = inputs.kind.truth
    as_stored = kind == "objects" and inputs.mask is None
    if as_stored and not (inputs.decoding.segments and inputs.in_memory):
        return inputs.labels
    truth = ScoredLabels(inputs.labels, inputs.mask, kind, inputs.n_classes)
    return truth[...] if inputs.in_memory else truth


class ScoredLabels(Volume):
    """Stored labels as they are scored, made for each part that is read."""

    def __init__(
        self, labels: Volume, mask: Volume | None, kind: Kind, n_classes: int | None
    ) -> None:
        dtypes = {"objects": labels.dtype, "classes": np.dtype(np.int16)}
        if (
            mask is not None
            and labels.dtype.kind != "i"
            and unlabelled_marker(labels.dtype) is None
        ):
            dtypes["objects"] = np.dtype(np.int32)  # which has a number for what is unlabelled
        dtype = dtypes.get(kind, np.dtype(np.int8))
        opens = partial(_Scored, labels, mask, kind, n_classes)
        super().__init__(Stored(labels.shape, dtype, {}, opens), labels.path, axes=labels.axes)


class _Scored:
    """Scored labels, sliced like one array."""

    def __init__(
        self, labels: Volume, mask: Volume | None, kind: Kind, n_classes: int | None
    ) -> None:
        self.labels = labels
        self.mask = mask
        self.kind = kind
        self.n_classes = n_classes

    def __getitem__(self, slices: tuple[slice, ...]) -> np.ndarray:
        """slices: each has a start, a stop and a positive step."""
        if self.kind != "boundaries":
            return self._made(slices)
        # a voxel is a boundary by its neighbours
        lengths = self.labels.shape
        grown = [slice(max(0, s.start - 1), min(n, s.stop + 1)) for s, n in zip(slices, lengths)]
        inside = [slice(s.start - g.start, s.stop - g.start, s.step) for s, g in zip(slices, grown)]
        return self._made(tuple(grown))[tuple(inside)]

    def _made(self, slices: Any) -> np.ndarray:
        labels = self.labels[slices]
        inside = np.ones(labels.shape, bool)
        if self.mask is not None:
            inside = self.mask[slices] != 0
        if self.kind == "objects":
            if self.mask is None:
                return labels
            marker = unlabelled_marker(labels.dtype)
            if marker is not None:
                return np.where(inside, labels, labels.dtype.type(marker))
            signed = labels if labels.dtype.kind == "i" else labels.astype(np.int32)
            return np.where(inside, signed, signed.dtype.type(UNLABELLED))
        labelled = inside & ~is_unlabelled(labels)
        if self.kind == "classes":
            return class_ids(labels, labelled, self.n_classes)
        if self.kind == "boundaries":
            return boundaries(labels, labelled)
        return foreground(labels, labelled)
