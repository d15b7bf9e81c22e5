"""Splits and mergers against dense labels, one by one: where they are and what they cost.

Each pair of a label and a segment that share voxels is right, or one error, as in the pictures of
the report (`Matching.errors`):

    segment  1 1 1 | 2 2          label 7 is best covered by segment 1: 2 is a split of it
    label    7 7 7 | 7 7

    segment  1 1 1   1 1          segment 1 covers label 7 best: the voxels of 8 are a merger
    label    7 7 7 | 8 8
"""

import csv
import hashlib
import io
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

from pytc.checks import require
from pytc.config import Lengths, Triple
from pytc.metrics.instances import best_partners
from pytc.metrics.overlap import Contingency, Labels, metrics_of_table, table_of_pairs

Kind = Literal["split", "merger", "missing"]
KINDS: tuple[Kind, ...] = ("split", "merger", "missing")
MOST = 200  # errors of each kind are listed, those that cost most VOI first
SLAB = 32  # planes that are searched at a time, fewer of larger ones
MOST_VOXELS = 1 << 22  # in a slab of more than one plane
# What a person finds who looks at an error; any other word is kept and changes no score.
NOT_AN_ERROR = ("no error", "labels wrong", "truth wrong")
ADJUDICATED = "adjudicated_"  # prefix of the scores without the errors that are none


@dataclass(frozen=True)
class DenseError:
    """The voxels that a label and a segment share, and should not.

    split: `label` is best covered by segment `whole`, but these voxels are in `segment`.
    merger: `segment` covers label `whole` best, but these voxels are of `label`.
    missing: of `label` more voxels are in no segment than in any; `segment` and `whole` are 0.
    """

    kind: Kind
    label: int
    segment: int
    whole: int
    voxels: int
    voi: float  # bits by which dense_voi_sum falls when this error alone is mended
    share: float  # of dense_voi_sum
    position: Triple = (0, 0, 0)  # where to look: at the border to the rest, in stored axis order
    verdict: str = ""  # of a person; see NOT_AN_ERROR

    @property
    def id(self) -> str:
        """Names the error as long as labels and segmentation stay the same."""
        parts = (self.kind, self.label, self.segment, self.whole, self.voxels, *self.position)
        return hashlib.sha256(" ".join(map(str, parts)).encode()).hexdigest()[:10]

    @property
    def in_words(self) -> str:
        cost = f"{self.voxels:,} voxels, {self.voi:.4f} bits"
        if self.kind == "missing":
            return f"label {self.label} is in no segment: {cost}"
        if self.kind == "split":
            return f"label {self.label} is in {self.whole} and here in {self.segment}: {cost}"
        return f"segment {self.segment} holds label {self.whole} and here {self.label}: {cost}"


def dense_errors(table: Contingency, most: int = MOST) -> list[DenseError]:
    """The errors of a segmentation, of each kind those that cost most VOI, the worst first.

    Their positions are still to be found (`locate`).
    """
    inside = table.truth != 0
    truth, segments, count = (
        column[inside] for column in (table.truth, table.segmentation, table.count)
    )
    if len(truth) == 0:
        return []
    label_ids, labels = np.unique(truth, return_inverse=True)
    segment_ids, codes = np.unique(segments, return_inverse=True)
    no_segment = segment_ids[codes] == 0
    best_label, best_segment = best_partners(labels, codes, count, ~no_segment)
    in_no_segment = np.bincount(labels, np.where(no_segment, count, 0), len(label_ids))
    best_count = np.zeros(len(label_ids), np.int64)
    is_best = best_segment[labels] == codes
    best_count[labels[is_best]] = count[is_best]
    is_missing = no_segment & (in_no_segment[labels] > best_count[labels])
    is_merger = ~no_segment & (best_label[codes] != labels)
    is_split = ~no_segment & ~is_merger & ~is_best
    gains = _gains(labels, codes, count, best_segment)
    voi = metrics_of_table(table)["voi_sum"]
    errors = []
    chosen: dict[Kind, np.ndarray] = {
        "split": is_split,
        "merger": is_merger,
        "missing": is_missing,
    }
    for kind, of_kind in chosen.items():
        rows = np.flatnonzero(of_kind)
        rows = rows[np.argsort(-gains[rows], kind="stable")][:most]
        for row in rows.tolist():
            whole = 0
            if kind == "split":
                whole = int(segment_ids[best_segment[labels[row]]])
            elif kind == "merger":
                whole = int(label_ids[best_label[codes[row]]])
            errors.append(
                DenseError(
                    kind,
                    label=int(truth[row]),
                    segment=int(segments[row]),
                    whole=whole,
                    voxels=int(count[row]),
                    voi=float(gains[row]),
                    share=float(gains[row] / voi) if voi > 0 else 0.0,
                )
            )
    return errors


def _gains(
    labels: np.ndarray, segments: np.ndarray, count: np.ndarray, best_segment: np.ndarray
) -> np.ndarray:
    """By how many bits VOI falls when the voxels of a row move to the best segment of their label.

    Where that is their own segment, or there is none, they become a segment of their own. With
    g(n) = n log2 n, VOI of N voxels is (sum g(n_i) + sum g(n_j) - 2 sum g(n_ij)) / N.
    """
    sizes = np.bincount(segments, count).astype(np.float64)
    x = count.astype(np.float64)
    target = best_segment[labels]
    is_new = (target == segments) | (target < 0)
    at_target = np.zeros(len(best_segment))
    is_best = best_segment[labels] == segments
    at_target[labels[is_best]] = x[is_best]
    shared = np.where(is_new, 0.0, at_target[labels])
    size = np.where(is_new, 0.0, sizes[np.maximum(target, 0)])
    pairs = _g(shared + x) - _g(shared) - _g(x)
    targets = _g(size + x) - _g(size)
    sources = _g(sizes[segments] - x) - _g(sizes[segments])
    gains: np.ndarray = (2 * pairs - targets - sources) / x.sum()
    return gains


def _g(n: np.ndarray) -> np.ndarray:
    """n log2 n, 0 for 0."""
    product: np.ndarray = n * np.log2(np.maximum(n, 1.0))
    return product


def locate(
    errors: Sequence[DenseError],
    labels: Labels,
    segmentation: Labels,
    voxel_size: Lengths | None = None,
) -> list[DenseError]:
    """The errors with a position: a voxel at the border to the rest of the label or segment.

    The volumes are read once, slab by slab. Of the slab with most such voxels the one nearest to
    their middle is taken; where a piece has no border to the rest, the voxel nearest to its middle.
    """
    if not errors:
        return []
    search = _Search(errors, np.array(voxel_size or (1.0, 1.0, 1.0)))
    depth, *plane = labels.shape
    slab = max(1, min(SLAB, MOST_VOXELS // math.prod(plane)))
    for start in range(0, depth, slab):
        planes = slice(start, min(start + slab + 1, depth))  # with the first plane of the next one
        search.read(labels[planes], segmentation[planes], start, slab)
    return search.found()


class _Search:
    """Looks for the voxels of errors in slabs."""

    def __init__(self, errors: Sequence[DenseError], scale: np.ndarray) -> None:
        self.errors = list(errors)
        self.scale = scale
        of_label = [(error.label, error.segment) for error in errors]
        self.rests = [_rest(error) for error in errors]
        pairs = of_label + [rest for rest in self.rests if rest is not None]
        self.label_ids = np.unique(np.array([label for label, _ in pairs], np.uint64))
        self.segment_ids = np.unique(np.array([segment for _, segment in pairs], np.uint64))
        # entry 0 stands for all other pairs, so errors are counted from 1
        self.error_of = np.zeros(self._n_codes, np.int32)
        self.rest_of = np.full(len(errors) + 1, -1)
        for number, (pair, rest) in enumerate(zip(of_label, self.rests), start=1):
            self.error_of[self._code(*pair)] = number
            if rest is not None:
                self.rest_of[number] = self._code(*rest)
        n = len(errors) + 1
        self.counts = {"border": np.zeros(n, np.int64), "inside": np.zeros(n, np.int64)}
        self.places = {"border": np.zeros((n, 3), int), "inside": np.zeros((n, 3), int)}

    @property
    def _n_codes(self) -> int:
        return (len(self.label_ids) + 1) * (len(self.segment_ids) + 1)

    def _code(self, label: int, segment: int) -> int:
        row = int(np.searchsorted(self.label_ids, label)) + 1
        column = int(np.searchsorted(self.segment_ids, segment)) + 1
        return row * (len(self.segment_ids) + 1) + column

    def _codes(self, labels: np.ndarray, segments: np.ndarray) -> np.ndarray:
        """The number of each voxel's pair; 0 where it is none of those looked for."""
        rows = _positions(labels, self.label_ids)
        columns = _positions(segments, self.segment_ids)
        codes: np.ndarray = rows * (len(self.segment_ids) + 1) + columns
        codes[(rows == 0) | (columns == 0)] = 0
        return codes

    def read(self, labels: np.ndarray, segments: np.ndarray, first_plane: int, slab: int) -> None:
        """Look through a slab of so many planes, and the first one of the next slab."""
        codes = self._codes(labels, segments)
        numbers = self.error_of[codes]
        shift = np.array([first_plane, 0, 0])
        at = np.flatnonzero(numbers[:slab])
        self._note("inside", numbers.reshape(-1)[at], at, codes.shape, shift)
        border: list[np.ndarray] = []
        for axis in range(3):
            here: list[slice] = [slice(None)] * 3
            there: list[slice] = [slice(None)] * 3
            here[axis], there[axis] = slice(None, -1), slice(1, None)
            for one, other in ((here, there), (there, here)):
                mine = numbers[tuple(one)]
                touches = (mine > 0) & (self.rest_of[mine] == codes[tuple(other)])
                voxels = np.argwhere(touches)
                voxels[:, axis] += one is there
                border.append(np.asarray(np.ravel_multi_index(tuple(voxels.T), codes.shape)))
        at = np.unique(np.concatenate(border))
        self._note("border", numbers.reshape(-1)[at], at, codes.shape, shift)

    def _note(
        self, what: str, numbers: np.ndarray, at: np.ndarray, shape: Triple, shift: np.ndarray
    ) -> None:
        """Keep, of each error, the voxel nearest to the middle, if this slab has most of them."""
        if len(at) == 0:
            return
        voxels = np.stack(np.unravel_index(at, shape), axis=1)
        n = len(self.errors) + 1
        counts = np.bincount(numbers, minlength=n)
        sums = np.stack([np.bincount(numbers, along, n) for along in voxels.T], axis=1)
        middles = sums / np.maximum(counts, 1)[:, None]
        distances = (((voxels - middles[numbers]) * self.scale) ** 2).sum(axis=1)
        nearest = np.full(n, np.inf)
        np.minimum.at(nearest, numbers, distances)
        hits = np.flatnonzero(distances == nearest[numbers])[::-1]  # the first one stays
        place = np.zeros((n, 3), int)
        place[numbers[hits]] = voxels[hits] + shift
        more = counts > self.counts[what]
        self.counts[what][more] = counts[more]
        self.places[what][more] = place[more]

    def found(self) -> list[DenseError]:
        has_border = self.counts["border"] > 0
        places = np.where(has_border[:, None], self.places["border"], self.places["inside"])
        located = []
        for error, (z, y, x) in zip(self.errors, places[1:].tolist()):
            located.append(replace(error, position=(z, y, x)))
        return located


def _rest(error: DenseError) -> tuple[int, int] | None:
    """Label and segment of what the voxels of an error should be with, or not be with."""
    if error.kind == "missing":
        return None
    if error.kind == "split":
        return error.label, error.whole
    return error.whole, error.segment


def _positions(values: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """Of each value its place in the sorted ids, counted from 1; 0 for others."""
    values = values.astype(np.uint64)
    places = np.minimum(np.searchsorted(ids, values), len(ids) - 1)
    positions: np.ndarray = np.where(ids[places] == values, places + 1, 0)
    return positions


def adjudicated(table: Contingency, errors: Iterable[DenseError]) -> dict[str, float]:
    """The dense scores, if the labels are corrected where a person finds that they are wrong.

    The voxels of a split that is none become a label of their own; those of a merger that is none
    become part of the label that its segment covers best. Empty without such verdicts.
    """
    wrong = [error for error in errors if error.verdict.strip().lower() in NOT_AN_ERROR]
    if not wrong:
        return {}
    truth = table.truth.copy()
    next_label = int(truth.max()) + 1
    for error in wrong:
        row = (table.truth == error.label) & (table.segmentation == error.segment)
        if error.kind == "merger":
            truth[row] = error.whole
        else:
            truth[row] = 0 if error.kind == "missing" else next_label
            next_label += 1
    corrected = table_of_pairs(truth, table.segmentation, table.count)
    scores = metrics_of_table(corrected)
    return {f"{ADJUDICATED}dense_{name}": value for name, value in scores.items()}


def write_errors(errors: Iterable[DenseError], axes: str) -> bytes:
    """errors.csv: a row for each error; a person fills in the last column."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    names = ("id", "kind", "label", "segment", "whole", "voxels", "voi", "share")
    writer.writerow([*names, *axes, "verdict"])
    for error in errors:
        numbers = (f"{error.voi:.6g}", f"{error.share:.6g}")
        ids = (error.label, error.segment, error.whole, error.voxels)
        writer.writerow([error.id, error.kind, *ids, *numbers, *error.position, error.verdict])
    return text.getvalue().encode()


def read_errors(path: Path, axes: str = "zyx") -> list[DenseError]:
    """What `write_errors` wrote, with the verdicts of a person.

    Args:
        axes: the order in which positions are returned.

    Raises:
        ValueError: a column is missing, or a field is no number; it names the file and line.
    """
    errors = []
    with open(path, newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file)
        needed = {"kind", "label", "segment", "whole", "voxels", "voi", *axes}
        lacking = sorted(needed - set(reader.fieldnames or ()))
        require(not lacking, f"the columns of errors.csv in {path}", f"none of {lacking}")
        for row in reader:
            where = f"{path}, line {reader.line_num}"
            kind = next((kind for kind in KINDS if kind == row["kind"]), None)
            if kind is None:
                raise ValueError(f"expected {', '.join(KINDS)} in {where}, got {row['kind']!r}")
            try:
                z, y, x = (int(row[axis]) for axis in axes)
                errors.append(
                    DenseError(
                        kind,
                        label=int(row["label"]),
                        segment=int(row["segment"]),
                        whole=int(row["whole"]),
                        voxels=int(row["voxels"]),
                        voi=float(row["voi"]),
                        share=float(row.get("share") or 0),
                        position=(z, y, x),
                        verdict=(row.get("verdict") or "").strip(),
                    )
                )
            except (TypeError, ValueError) as error:
                raise ValueError(f"expected numbers in {where}, got {error}") from error
    return errors


def with_verdicts(errors: Iterable[DenseError], judged: Iterable[DenseError]) -> list[DenseError]:
    """The errors, with the verdicts that an earlier errors.csv has of the same ones."""
    verdicts = {error.id: error.verdict for error in judged}
    return [replace(error, verdict=verdicts.get(error.id, error.verdict)) for error in errors]


def coverage(table: Contingency, n_voxels: int) -> dict[str, float]:
    """What was scored, and VOI with predicted 0 left out instead of as one segment.

    Args:
        n_voxels: of the whole volume, labelled or not.

    Returns:
        frac_scored: share of the volume with a true label, which alone counts. frac_in_segments:
        share of these voxels in a segment. dense_voi_split_without_0, and so on: of these alone;
        left out where there are none.
    """
    inside = table.truth != 0
    scored = int(table.count[inside].sum())
    kept = inside & (table.segmentation != 0)
    in_segments = int(table.count[kept].sum())
    found = {
        "frac_scored": scored / n_voxels,
        "frac_in_segments": in_segments / scored if scored else 0.0,
    }
    if in_segments:
        part = Contingency(table.truth[kept], table.segmentation[kept], table.count[kept])
        scores = metrics_of_table(part)
        for name in ("voi_split", "voi_merge", "voi_sum"):
            found[f"dense_{name}_without_0"] = scores[name]
    return found
