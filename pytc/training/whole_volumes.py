"""Whole volumes predicted, segmented and scored while a network trains.

These scores decide between two checkpoints.
"""

import shutil
from collections import ChainMap, defaultdict
from dataclasses import replace
from pathlib import Path

import torch

from pytc.checks import require
from pytc.commands import EvaluateConfig
from pytc.config import Config, VolumeConfig
from pytc.data.sources import open_image, open_source, prepare_volume
from pytc.evaluation.inputs import choose_metric, gather, metrics_by_truth
from pytc.inference.pipeline import predict, segment
from pytc.io.results import volume_names
from pytc.io.skeleton import load_skeleton
from pytc.metrics.table import BY_CLASS
from pytc.models.base import ConnectomicsModel
from pytc.segmentation.connected_components import unit_channels
from pytc.target_kinds import target_kind
from pytc.training.distributed import Ranks


def validate_volumes(
    model: ConnectomicsModel,
    config: Config,
    device: torch.device,
    folder: Path,
    ranks: Ranks = Ranks(),  # noqa: B008
) -> dict[str, float]:
    """Scores of the validation volumes that have labels or skeletons.

    They are val/nerl, val/voi_sum, val/threshold, ... Each volume is predicted and segmented as
    config.inference and config.segmentation say, at the threshold that is best by loop.monitor, or
    where that is no score of the volume, by the default metric of evaluate.py. A figure is the mean
    over the volumes that have it; with several volumes there is also val/NAME/nerl. Volumes are
    shared out among the ranks; all get all figures. Affinities are kept below `folder` until they
    are scored.
    """
    volumes, training, mine = _volumes_with_truth(config), model.training, {}
    kind = target_kind(config.target.kind)
    metric = config.loop.monitor.removeprefix("val/")
    channels = (
        unit_channels(config.model.out_channels, config.target.offsets)
        if kind.task == "instance"
        else None
    )
    model.eval()
    for name in list(volumes)[ranks.rank :: ranks.world]:
        volume, place = volumes[name], folder / name
        known = any(
            metric in metrics
            for part, metrics in metrics_by_truth(kind.task).items()
            if getattr(volume, part)
        )
        shutil.rmtree(place, ignore_errors=True)
        try:
            stored = predict(
                model, config, volume, place, config, device, "validation", channels=channels
            )
            asked = metric if known else None
            if kind.decode == "argmax":
                segment(stored, place / "segmentation.zarr", config, config.segmentation)
                named = {"segmentation": f"{place}/segmentation.zarr"}
                inputs = gather(EvaluateConfig(**named, metric=asked), place)
                mine[name] = inputs.score(inputs.read_labels(), None)
            else:
                named = {kind.prediction: stored.path}
                thresholds = config.validation.thresholds
                sweep = EvaluateConfig(**named, sweep=True, thresholds=thresholds, metric=asked)
                inputs = gather(sweep, place)
                values = inputs.prediction.read_channels(inputs.channels)
                mine[name] = inputs.sweep(values, inputs.read_labels())["best_metrics"]
        finally:
            shutil.rmtree(place, ignore_errors=True)
    model.train(training)
    scores, values = ChainMap(*ranks.gather(mine)), defaultdict(list)
    for name in volumes:  # in their order, so that sums are the same whatever the ranks
        for key, value in scores[name].items():
            for prefix in ("val", f"val/{name}") if len(volumes) > 1 else ("val",):
                values[f"{prefix}/{key}"].append(float(value))
    return {key: sum(of_key) / len(of_key) for key, of_key in values.items()}


def scored_volumes(config: Config) -> dict[str, VolumeConfig]:
    """The validation volumes that have labels or skeletons, by names that differ.

    All that scoring them needs is opened, so that nothing is missing later. ValueError if there are
    none, their truth does not fit, the target cannot be decoded, or loop.monitor is neither
    val/loss nor a score of one of them.
    """
    volumes = _volumes_with_truth(config)
    kind = target_kind(config.target.kind)
    truth = {
        part: True
        for part in metrics_by_truth(kind.task)
        if any(getattr(volume, part) for volume in volumes.values())
    }
    metric = config.loop.monitor.removeprefix("val/")
    full_name = choose_metric(None if metric == "loss" else metric, kind, truth)
    require(metric in ("loss", full_name), f"loop.monitor val/{full_name}", config.loop.monitor)
    if by_class := BY_CLASS.fullmatch(metric):
        expected = f"loop.monitor of a class below {config.target.classes}"
        require(int(by_class[2]) < config.target.classes, expected, config.loop.monitor)
    if kind.decode == "components":
        unit_channels(config.model.out_channels, config.target.offsets)
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
    task = target_kind(config.target.kind).task
    needed = metrics_by_truth(task)
    located = [prepare_volume(volume, config.data.synthetic) for volume in config.data.validation]
    for name, volume in zip(volume_names(located), located):
        if any(getattr(volume, part) for part in needed):
            volumes[name] = volume
    require(volumes, f"validation volumes with {' or '.join(needed)} to score", "none")
    return volumes
