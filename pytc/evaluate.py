"""evaluate.py: from its flags to the `Prediction`, `Truth` and `Decoding` of each volume.

No torch.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

from pytc.checks import require
from pytc.commands import EvaluateConfig
from pytc.evaluation.folders import Notes, find_results, folder_of, read_notes
from pytc.evaluation.inputs import (
    Decoding,
    Mode,
    Prediction,
    StoredArray,
    Truth,
    in_own_order,
    open_inputs,
)
from pytc.evaluation.report import Case, evaluate_cases
from pytc.progress import announce_compilation
from pytc.segmentation.packages import require_package_of
from pytc.target_kinds import TargetKind, target_kind
from pytc.thresholds import DEFAULT_THRESHOLDS


def evaluate(config: EvaluateConfig) -> dict[str, dict[str, Any]]:
    """Score every volume that the flags name.

    Returns:
        {name of the volume: what its metrics.json holds}.
    """
    announce_compilation()
    folders: list[Path | None]
    if config.prediction:
        folders = [folder_of(config.prediction)]
    else:
        files = {
            "labels": config.labels,
            "mask": config.mask,
            "skeleton": config.skeleton,
            "image": config.image,
        }
        named_files = [name for name, path in files.items() if path]
        folders = [*find_results(config.run, config.volume, named_files)]
    cases = [_case(config, folder, is_only=len(folders) == 1) for folder in folders]
    return evaluate_cases(
        cases,
        bound=config.require,
        backend=config.backend,
        cleft_distances=config.cleft_distances,
    )


def _case(config: EvaluateConfig, folder: Path | None, *, is_only: bool) -> Case:
    """One volume that the flags name.

    Args:
        folder: with the notes of infer.py, which hold where no flag says otherwise; None if another
            program made the prediction.
        is_only: whether it is the only volume.
    """
    notes = Notes() if folder is None else read_notes(folder)
    kind = notes.kind or target_kind("binary" if config.probabilities else "affinity")
    if config.target is not None:
        kind = target_kind(config.target)
    content = kind.prediction if config.decodes else "segmentation"
    path = _path_of(config, folder, content)
    _check_flags(config, kind, path)
    prediction = Prediction(
        path,
        content,
        kind,
        offsets=config.offsets,
        voxel_size=config.voxel_size or notes.voxel_size,
        image=_named(config.image, notes.image),
        title=_title(path, folder),
        attribution=config.attribution or notes.attribution,
        made_by=notes.made_by,
        weights=notes.weights,
    )
    truth = Truth(
        labels=_labels(config, notes.truth.labels),
        mask=_in_order(config, _named(config.mask, notes.truth.mask)),
        skeleton=_named(config.skeleton, notes.truth.skeleton),
    )
    name = Path(path).name if folder is None else folder.name
    output = Path("evaluation")
    if config.output:
        output = Path(config.output) if is_only else Path(config.output) / name
    elif folder is not None and _is_of_a_run(folder):
        output = folder.parents[1] / "evaluation" / name
    return Case(name, open_inputs(prediction, truth, _decoding(config, notes)), output)


def _path_of(config: EvaluateConfig, folder: Path | None, content: str) -> str:
    """What the user names, or else what infer.py has stored in the folder."""
    if folder is None or config.prediction is not None:
        assert config.prediction is not None, "without a folder, the user names a prediction"
        return config.prediction
    return str(folder / f"{content}.zarr")


def _decoding(config: EvaluateConfig, notes: Notes) -> Decoding:
    mode = Mode.AS_IS
    if config.decodes:
        mode = Mode.SWEEP if config.sweeps else Mode.ONE_THRESHOLD
    segmentation = notes.segmentation
    if config.min_size is not None:
        segmentation = replace(segmentation, min_size=config.min_size)
    if config.method is not None:
        segmentation = replace(segmentation, method=config.method)
    if mode is not Mode.AS_IS:
        require_package_of(segmentation.method)
    thresholds = config.thresholds or DEFAULT_THRESHOLDS
    return Decoding(
        mode,
        thresholds,
        segmentation,
        config.metric,
        every_threshold=config.exact,
        engine=config.engine,
    )


def _is_of_a_run(folder: Path) -> bool:
    """Whether a folder of results is RUN/predictions/VOLUME."""
    return folder.parent.name == "predictions"


def _title(path: str, folder: Path | None) -> str:
    if folder is not None and _is_of_a_run(folder):
        return f"{folder.parents[1].name} · {folder.name}"
    return Path(path).name


def _check_flags(config: EvaluateConfig, kind: TargetKind, path: str) -> None:
    """ValueError for flags of evaluate.py that do not fit what was predicted."""
    require(
        kind.decode != "argmax" or not config.decodes,
        "a segmentation of classes to score as it is, without --sweep or --thresholds: each voxel "
        "has its most probable class",
        path,
    )
    of_instances = kind.task == "instance"
    require(
        not (config.method or config.min_size) or (config.decodes and of_instances),
        "affinities of instances with --method or --min-size",
        path,
    )
    require(of_instances or config.backend == "pytc", "instances with --backend funlib", kind.task)
    of_mask = kind.truth in ("foreground", "boundaries")
    require(of_mask or not config.cleft_distances, "a mask with --cleft-distances", kind.name)


def _labels(config: EvaluateConfig, noted: StoredArray | None) -> StoredArray | None:
    """The labels that flags name, or else the noted ones, and where they lie."""
    labels = _in_order(config, _named(config.labels, noted))
    if config.labels_offset is None:
        return labels
    require(labels is not None, "--labels with --labels-offset", config.labels_offset)
    assert labels is not None
    return replace(labels, offsets=config.labels_offset)


def _in_order(config: EvaluateConfig, file: StoredArray | None) -> StoredArray | None:
    """Labels or a mask with the order of axes that a flag names."""
    return file if config.labels_axes is None else in_own_order(file, config.labels_axes)


def _named(path: str | tuple[str, ...] | None, noted: StoredArray | None) -> StoredArray | None:
    """The file that a flag names, or else the noted one. The notes also hold the axes of a file."""
    if path is None or (noted is not None and noted.path == path):
        return noted
    return StoredArray(path)
