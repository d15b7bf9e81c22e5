"""The folders of results that infer.py leaves, and what their source.json says of a prediction."""

import logging
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pytc.checks import require
from pytc.config import Lengths, SegmentationConfig, Triple
from pytc.evaluation.inputs import (
    InferCall,
    StoredArray,
    Truth,
    in_own_order,
    metrics_by_truth,
)
from pytc.io.results import SOURCE, SOURCES, read_source
from pytc.renames import segmentation_from_plain
from pytc.runs import find_run, newest_run
from pytc.target_kinds import TargetKind, target_kind

LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True)
class Notes:
    """What infer.py notes of a prediction; all empty for one that it did not make."""

    kind: TargetKind | None = None
    truth: Truth = Truth()
    image: StoredArray | None = None
    voxel_size: Lengths | None = None  # nm, in stored axis order
    attribution: str | None = None
    # by which the prediction was segmented, but for the threshold
    segmentation: SegmentationConfig = SegmentationConfig()
    made_by: InferCall | None = None
    weights: str | None = None  # digest of the weights by which it was predicted


def read_notes(folder: Path) -> Notes:
    """The notes in a folder of results.

    Raises:
        ValueError: if an earlier release wrote them, and they lack what this one needs.
    """
    source = read_source(folder)
    axes, transpose = source.get("axes"), source.get("transpose")
    spatial_axes = axes.replace("c", "") if axes else None

    def array(path: str | None, axes: str | None) -> StoredArray | None:
        return StoredArray(path, axes, transpose) if path else None

    labels = None
    if source.get("labels"):
        noted = source["labels"]
        paths = noted if isinstance(noted, str) else tuple(noted)
        labels = StoredArray(paths, spatial_axes, transpose, offsets=_noted_offsets(source))
    mask = array(source.get("mask"), spatial_axes)
    if source.get("labels_axes") is not None:
        labels = in_own_order(labels, source["labels_axes"])
        mask = in_own_order(mask, source["labels_axes"])

    skeleton = None
    if source.get("skeleton"):
        skeleton = StoredArray(source["skeleton"], source.get("stored_axes"))
    voxel_size = source.get("voxel_size")
    made_by = None
    if source.get("infer") is not None:
        defaults = segmentation_from_plain(source["defaults"])
        made_by = InferCall(tuple(source["infer"]), defaults)
    return Notes(
        kind=target_kind(source["target"]),
        truth=Truth(
            labels=labels,
            mask=mask,
            skeleton=skeleton,
        ),
        image=array(source.get("image"), axes),
        voxel_size=tuple(voxel_size) if voxel_size else None,
        attribution=source.get("attribution"),
        segmentation=segmentation_from_plain(_noted_segmentation(source)),
        made_by=made_by,
        weights=(source.get("weights") or {}).get("sha256"),
    )


def _noted_offsets(source: dict[str, Any]) -> tuple[Triple, ...] | None:
    """Where labels begin that are smaller than the image; None if their attributes say it."""
    noted = source.get("labels_offset")
    return None if noted is None else tuple((z, y, x) for z, y, x in noted)


def _noted_segmentation(source: dict[str, Any]) -> dict[str, Any]:
    """The settings of the segmentation. Release 0.1 stored two of them, outside of a section."""
    if "segmentation" in source:
        noted: dict[str, Any] = source["segmentation"]
        return noted
    return {name: source[name] for name in ("min_size", "grow") if name in source}


def folder_of(prediction: str) -> Path | None:
    """The folder of results that a prediction lies in; None if infer.py did not make it."""
    folder = Path(prediction).parent
    return folder if (folder / SOURCE).is_file() else None


def find_results(
    run: str | None, volume: str | None, named_files: Collection[str] = ()
) -> list[Path]:
    """The folders of results to score, in the order of their names.

    Without a volume, those that have no truth to score against are left out, and printed.

    Args:
        run: folder or name of a run; None for the run with the newest results.
        volume: name of a folder of results; None for all of the run.
        named_files: flags of files that the user names, e.g. "labels"; they belong to one volume.

    Raises:
        ValueError: if there are no such results, or files are named for several volumes.
    """
    folder = _newest_results() if run is None else find_run(run)
    found = {path.parent.name: path.parent for path in sorted(folder.glob(SOURCES))}
    require(bool(found), f"results of infer.py in {folder} ({SOURCES}); run infer.py first", "none")
    if volume is not None:
        expected = f"a volume with results in {folder}, {' or '.join(found)}"
        require(volume in found, expected, volume)
        return [found[volume]]
    if len(found) == 1:
        return list(found.values())
    require(
        not named_files,
        f"--volume with --{' --'.join(named_files)}, as {folder} has several",
        ", ".join(found),
    )
    return _with_truth(found)


def _newest_results() -> Path:
    """The run with the newest results; ValueError says how to name a prediction without a run."""
    try:
        return newest_run(SOURCES)
    except ValueError:
        raise ValueError(
            "expected results of infer.py, or the name of a prediction: --affinities FILE or "
            "--probabilities FILE with --sweep, or --segmentation FILE, and the truth by --labels "
            f"FILE or --skeleton FILE; got no run with {SOURCES}"
        ) from None


def _with_truth(folders: dict[str, Path]) -> list[Path]:
    """The folders whose notes name the labels or skeletons that their target is scored against."""
    scored: list[Path] = []
    for name, folder in folders.items():
        source = read_source(folder)
        needed = metrics_by_truth(target_kind(source["target"]).task)
        if any(source.get(part) for part in needed):
            scored.append(folder)
        else:
            LOGGER.info(f"{name}: not scored, as no {' or '.join(needed)} were named")
    require(
        bool(scored),
        "a volume with labels or skeletons; --volume NAME --labels FILE names them",
        ", ".join(folders),
    )
    return scored
