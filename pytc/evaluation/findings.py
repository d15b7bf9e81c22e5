"""What a report says beyond scores: single errors with pictures, what was scored, the training."""

import json
import logging
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np

from pytc.config import Lengths, SegmentationConfig
from pytc.evaluation.error_pictures import draw_crops
from pytc.evaluation.errors import (
    DenseError,
    adjudicated,
    coverage,
    dense_errors,
    locate,
    read_errors,
    with_verdicts,
    write_errors,
)
from pytc.evaluation.inputs import Inputs
from pytc.evaluation.pictures import Picture
from pytc.evaluation.training_curves import LOG, draw_training, read_log
from pytc.io.volume import open_volume
from pytc.metrics import semantic
from pytc.metrics.instances import ObjectRow, object_rows
from pytc.metrics.overlap import Contingency, Labels
from pytc.runs import replacing
from pytc.segmentation.stored_tree import FRAGMENTS

LOGGER = logging.getLogger(__name__)

ERRORS = "errors.csv"
OBJECTS = "objects.csv"
EARLIER = "errors.earlier.csv"  # what a person wrote of errors that are no longer found
SHOWN = {"split": 6, "merger": 6, "missing": 3}  # errors of each kind with pictures
HALF = 64  # voxels from the middle of a picture to its side, along the finest axis


@dataclass(frozen=True)
class Look:
    """One error as a report shows it."""

    error: DenseError
    pictures: list[Picture]  # across z, y and x
    command: str  # shows the place in the viewer


@dataclass(frozen=True)
class Totals:
    """All errors of one kind that are listed."""

    kind: str
    count: int
    voxels: int
    voi: float
    share: float


@dataclass(frozen=True)
class Findings:
    """What was found beside the scores; all empty without dense labels of objects."""

    errors: list[DenseError] = field(default_factory=list)
    scores: dict[str, float] = field(default_factory=dict)  # coverage, and adjudicated scores
    looks: list[Look] = field(default_factory=list)
    training: bytes | None = None  # PNG
    objects: list[ObjectRow] = field(default_factory=list)

    @property
    def totals(self) -> list[Totals]:
        kinds = dict.fromkeys(error.kind for error in self.errors)
        return [self._total(kind) for kind in kinds]

    def _total(self, kind: str) -> Totals:
        of_kind = [error for error in self.errors if error.kind == kind]
        return Totals(
            kind,
            len(of_kind),
            sum(error.voxels for error in of_kind),
            sum(error.voi for error in of_kind),
            sum(error.share for error in of_kind),
        )


def find(
    inputs: Inputs,
    table: Contingency | None,
    labels: Labels | None,
    segmentation: Labels,
    output: Path,
    settings: Mapping[str, Any],
    *,
    cleft_distances: bool = False,
) -> Findings:
    """Look for the errors of a segmentation, and take over the verdicts of an earlier errors.csv.

    Args:
        table: overlaps of labels and segmentation; None without labels, or for classes.
        labels: as they are scored.
        segmentation: (Z, Y, X).
        output: the folder with errors.csv of an earlier evaluation, if any.
        settings: what metrics.json says of how the segmentation was decoded.
        cleft_distances: measure a mask by distances, too, for which its voxels have a size.
    """
    training = _training(inputs)
    if table is None or labels is None:
        return Findings(training=training)
    n_voxels = int(np.prod(labels.shape))
    if inputs.kind.task != "instance":
        scored = int(table.count.sum())
        scores = {"frac_scored": scored / n_voxels}
        if cleft_distances:
            assert inputs.voxel_size is not None, "distances need a size of voxels"
            scores |= semantic.cleft_distances(labels[...], segmentation[...], inputs.voxel_size)
        return Findings(scores=scores, training=training)
    axes = inputs.array.spatial_axes
    found = locate(dense_errors(table), labels, segmentation, inputs.voxel_size)
    errors = _with_verdicts(found, output, axes)
    scores = coverage(table, n_voxels) | adjudicated(table, errors)
    worst = [
        error
        for kind, most in SHOWN.items()
        for error in [each for each in errors if each.kind == kind][:most]
    ]
    worst.sort(key=lambda error: error.voi, reverse=True)
    voxel_size = inputs.voxel_size or (1.0, 1.0, 1.0)
    looks = []
    for error in worst:
        box = _box(error, labels.shape, voxel_size)
        pictures = draw_crops(error, box, labels, segmentation, inputs.image, axes, voxel_size)
        looks.append(Look(error, pictures, view_command(inputs, output, error, settings)))
    return Findings(errors, scores, looks, training, object_rows(table))


def _box(error: DenseError, shape: Sequence[int], lengths: Lengths) -> tuple[slice, ...]:
    """A cube around an error, cut off at the sides of the volume."""
    halves = [max(4, round(HALF * min(lengths) / length)) for length in lengths]
    return tuple(
        slice(max(0, at - half), min(n, at + half + 1))
        for at, half, n in zip(error.position, halves, shape)
    )


def _with_verdicts(errors: list[DenseError], output: Path, axes: str) -> list[DenseError]:
    """The errors, with what a person wrote into errors.csv of an earlier evaluation.

    Verdicts on errors that are no longer found are kept in another file.
    """
    path = output / ERRORS
    if not path.is_file():
        return errors
    judged = [error for error in read_errors(path, axes) if error.verdict]
    ids = {error.id for error in errors}
    lost = [error for error in judged if error.id not in ids]
    if lost:
        with replacing(output / EARLIER) as temporary:
            temporary.write_bytes(write_errors(lost, axes))
        LOGGER.warning(
            f"{len(lost)} verdicts of {path} are on errors that this segmentation does not have; "
            f"they are kept in {output / EARLIER}"
        )
    if len(lost) < len(judged):
        LOGGER.info(f"{len(judged) - len(lost)} verdicts were read from {path}")
    return with_verdicts(errors, judged)


def view_command(
    inputs: Inputs, output: Path, error: DenseError, settings: Mapping[str, Any]
) -> str:
    """The call of the viewer that shows the place of an error.

    Its segments are selected where the viewer has them under the numbers of errors.csv: in the
    segmentation that was scored, or in the merge tree that it was decoded from.
    """
    where = ["--position", *map(str, error.position)]
    segments = {"split": (error.whole, error.segment), "merger": (error.segment,), "missing": ()}
    select = ["--select", *map(str, segments[error.kind])] if segments[error.kind] else []
    folder = Path(inputs.array.path).parent
    if folder.parent.name == "predictions":
        words = ["pytc", "view", str(folder.parents[1]), "--volume", folder.name]
        if not (folder / FRAGMENTS).is_dir():
            is_shown = not inputs.decoding.segments  # the viewer shows segmentation.zarr
            return shlex.join([*words, *where, *(select if is_shown else [])])
        if _is_cut_of(open_volume(folder / FRAGMENTS).attributes, settings):
            cut = {name: str(settings[name]) for name in ("threshold", "min_size")}
            words += ["--threshold", cut["threshold"], "--min-size", cut["min_size"]]
            words += ["--numbers", "cut", *select]
        return shlex.join([*words, *where])
    words = ["pytc", "view", "--errors", str(output / ERRORS)]
    for part in ("image", "labels", "segmentation"):
        if part in inputs.paths:
            words += [f"--{part}", inputs.paths[part]]
    return shlex.join([*words, *where, *(select if "segmentation" in inputs.paths else [])])


def _is_cut_of(fragments: Mapping[str, Any], settings: Mapping[str, Any]) -> bool:
    """Whether a segmentation of these settings is the cut of a merge tree of that decode.

    Args:
        fragments: attributes of fragments.zarr, with the settings that its merges follow from.
        settings: of the segmentation.
    """
    names = {each.name for each in fields(SegmentationConfig)} & set(fragments)
    return "method" in names and all(
        json.dumps(fragments[name]) == json.dumps(settings.get(name)) for name in names
    )


def _training(inputs: Inputs) -> bytes | None:
    """The curves of the run that made the prediction; None if it is of no run."""
    folder = Path(inputs.array.path).parent
    log = folder.parent.parent / LOG
    if folder.parent.name != "predictions" or not log.is_file():
        return None
    return draw_training({log.parent.name: read_log(log)})
