"""Whole volumes predicted, segmented and scored while a network trains.

These scores decide between two checkpoints.
"""

import shutil
from dataclasses import replace
from pathlib import Path

import torch

from pytc.checks import require
from pytc.config import Config, VolumeConfig
from pytc.data.sources import open_image, open_source
from pytc.data.synthetic_volumes import prepare_volume
from pytc.evaluation.folders import read_notes
from pytc.evaluation.inputs import (
    Decoding,
    Inputs,
    Mode,
    Prediction,
    choose_metric,
    metrics_by_truth,
    open_inputs,
)
from pytc.evaluation.scoring import score_volume, sweep_volume
from pytc.evaluation.sweep import Sweep
from pytc.evaluation.together import best_together, only_metric
from pytc.inference.pipeline import predict, segment
from pytc.io.results import volume_names
from pytc.io.skeleton import load_skeleton
from pytc.metrics.table import BY_CLASS
from pytc.models.base import ConnectomicsModel
from pytc.segmentation.decode import channels_to_read
from pytc.target_kinds import target_kind
from pytc.thresholds import DEFAULT_THRESHOLDS
from pytc.training.distributed import Ranks


def validate_volumes(
    model: ConnectomicsModel,
    config: Config,
    device: torch.device,
    folder: Path,
    ranks: Ranks = Ranks(),
) -> dict[str, float]:
    """Scores of the validation volumes that have labels or skeletons.

    Each volume is predicted and decoded as config.inference and config.segmentation say. All are
    segmented at one threshold, the one with the best mean of loop.monitor. Where that is no score
    of a volume, the default metric of evaluate.py decides, and volumes with another default metric
    have a threshold of their own. The ranks share the volumes, and all of them get all scores.

    Args:
        model: may be in training mode, and is left as it was.
        folder: affinities are kept below it until all volumes are scored.

    Returns:
        val/nerl, val/voi_sum, val/threshold, ...: means over the volumes that have the score. With
        several volumes also val/NAME/nerl and so on.
    """
    volumes = _volumes_with_truth(config)
    names = list(volumes)
    of_this_rank = names[ranks.rank :: ranks.world]
    was_training = model.training
    model.eval()
    try:
        inputs = {}
        for name in of_this_rank:
            shutil.rmtree(folder / name, ignore_errors=True)
            inputs[name] = _predicted(model, config, volumes[name], device, folder / name)
        model.train(was_training)
        sweeps = {
            name: sweep_volume(each, folder / name / "work")
            for name, each in inputs.items()
            if each.decoding.segments
        }
        thresholds = _thresholds(sweeps, ranks)
        scores = {
            name: _scores(each, sweeps.get(name), thresholds.get(each.metric), folder / name)
            for name, each in inputs.items()
        }
    finally:
        for name in of_this_rank:
            shutil.rmtree(folder / name, ignore_errors=True)
    for of_rank in ranks.gather(scores):
        scores |= of_rank
    # in the order of the volumes, so that sums are the same whatever the number of ranks
    return _averaged({name: scores[name] for name in names})


def _thresholds(sweeps: dict[str, Sweep], ranks: Ranks) -> dict[str, float]:
    """{metric: the threshold that is best for all volumes that are judged by it}."""
    judged = [only_metric(sweep) for sweep in sweeps.values()]
    of_all_ranks = [sweep for of_rank in ranks.gather(judged) for sweep in of_rank]
    by_metric: dict[str, list[Sweep]] = {}
    for sweep in of_all_ranks:
        by_metric.setdefault(sweep["metric"], []).append(sweep)
    chosen = {}
    for metric, (first, *others) in by_metric.items():
        chosen[metric] = best_together([first, *others]) if others else first["best_threshold"]
    return chosen


def _scores(
    inputs: Inputs, sweep: Sweep | None, threshold: float | None, folder: Path
) -> dict[str, float]:
    """All scores of a volume, at the threshold if it is decoded."""
    if sweep is None:
        return score_volume(inputs, None, folder / "work")
    assert threshold is not None
    for row in sweep["all_results"]:
        if row["threshold"] == threshold:
            return row
    return {"threshold": threshold, **score_volume(inputs, threshold, folder / "work")}


def _predicted(
    model: ConnectomicsModel,
    config: Config,
    volume: VolumeConfig,
    device: torch.device,
    folder: Path,
) -> Inputs:
    """One volume, predicted into a folder that does not exist yet, beside its truth."""
    kind = target_kind(config.target.kind)
    channels = None
    if kind.per_offset:
        channels = channels_to_read(
            config.target.channels, config.target.offsets, config.segmentation
        )
    stored = predict(model, config, volume, folder, config, device, "validation", channels=channels)
    monitored = config.loop.monitor.removeprefix("val/")
    metrics = metrics_by_truth(kind.task)
    is_score = any(monitored in metrics[needed] for needed in _truth_of(volume) & metrics.keys())
    metric = monitored if is_score else None
    notes = read_notes(folder)
    if kind.decode == "argmax":
        path = folder / "segmentation.zarr"
        segment(stored, path, kind, config.segmentation)
        prediction = Prediction(str(path), "segmentation", kind)
        decoding = Decoding(Mode.AS_IS, metric=metric)
    else:
        prediction = Prediction(stored.path, kind.prediction, kind)
        decoding = Decoding(
            Mode.SWEEP,
            thresholds=config.validation.thresholds or DEFAULT_THRESHOLDS,
            segmentation=config.segmentation,
            metric=metric,
        )
    prediction = replace(prediction, voxel_size=notes.voxel_size)
    return open_inputs(prediction, notes.truth, decoding)


def _truth_of(volume: VolumeConfig) -> set[str]:
    """Which of "labels" and "skeleton" a volume has."""
    files = {"labels": volume.labels, "skeleton": volume.skeleton}
    return {needed for needed, path in files.items() if path}


def _averaged(scores: dict[str, dict[str, float]]) -> dict[str, float]:
    """{volume: {metric: score}} as {val/metric: mean}, with val/volume/metric for several."""
    values: dict[str, list[float]] = {}
    for volume, of_volume in scores.items():
        for metric, score in of_volume.items():
            values.setdefault(f"val/{metric}", []).append(float(score))
            if len(scores) > 1:
                values[f"val/{volume}/{metric}"] = [float(score)]
    return {name: sum(each) / len(each) for name, each in values.items()}


def scored_volumes(config: Config) -> dict[str, VolumeConfig]:
    """The validation volumes that have labels or skeletons, by names that differ.

    All that scoring them needs is opened, so that nothing is missing later. ValueError if there are
    none, their truth does not fit, the target cannot be decoded, or loop.monitor is neither
    val/loss nor a score of one of them.
    """
    volumes = _volumes_with_truth(config)
    kind = target_kind(config.target.kind)
    truth = set.union(*map(_truth_of, volumes.values())) & metrics_by_truth(kind.task).keys()
    metric = config.loop.monitor.removeprefix("val/")
    full_name = choose_metric(None if metric == "loss" else metric, kind, truth)
    require(metric in ("loss", full_name), f"loop.monitor val/{full_name}", config.loop.monitor)
    by_class = BY_CLASS.fullmatch(metric)
    if by_class is not None:
        expected = f"loop.monitor of a class below {config.target.classes}"
        require(int(by_class[2]) < config.target.classes, expected, config.loop.monitor)
    if kind.per_offset:
        channels_to_read(config.target.channels, config.target.offsets, config.segmentation)
    for volume in volumes.values():
        open_source(volume, config.data)
        if volume.skeleton and "skeleton" in truth:
            stored = open_image(replace(volume, transpose=None), config.data)
            skeleton = load_skeleton(volume.skeleton, stored.voxel_size, axes=stored.spatial_axes)
            skeleton.require_inside(stored.spatial_shape)
    return volumes


def _volumes_with_truth(config: Config) -> dict[str, VolumeConfig]:
    """The validation volumes that can be scored, by the names of their folders of results."""
    volumes = {}
    needed = metrics_by_truth(target_kind(config.target.kind).task)
    located = [prepare_volume(volume, config.data.synthetic) for volume in config.data.validation]
    for name, volume in zip(volume_names(located), located):
        if _truth_of(volume) & needed.keys():
            volumes[name] = volume
    require(bool(volumes), f"validation volumes with {' or '.join(needed)} to score", "none")
    return volumes
