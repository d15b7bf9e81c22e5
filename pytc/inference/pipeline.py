"""Inference from a run and its images to predictions and segmentations on disk."""

import hashlib
import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pytc import hardware
from pytc.checks import require
from pytc.commands import InferConfig, flags
from pytc.config import Config, SegmentationConfig, Triple, VolumeConfig
from pytc.data.facts import Facts, from_plain
from pytc.data.inspection import grey_doubts, inspect, require_alike
from pytc.data.sources import Source, open_image, open_source
from pytc.data.synthetic_volumes import prepare_volume
from pytc.geometry import region_of
from pytc.inference.flips import Network, averaged, orientations
from pytc.inference.output import open_prediction
from pytc.inference.predict import predict_volume
from pytc.inference.shards import ALL_BLOCKS, Shard, parse_shard, require_finished, wait_for_blocks
from pytc.inference.tissue import scale_of
from pytc.inference.window import in_memory
from pytc.io.results import (
    read_source,
    region_attributes,
    require_same_image,
    results_folder,
    state_on_disk,
    stored_region,
    volume_names,
    write_source,
)
from pytc.io.volume import Volume, open_volume
from pytc.models.base import ConnectomicsModel, finest
from pytc.models.checkpoint import load_checkpoint, restore_model, weights_digest
from pytc.models.ensemble import Ensemble
from pytc.progress import announce_compilation
from pytc.python_files import load_plugins
from pytc.runs import find_run, find_weights, newest_run, require_writable
from pytc.script import command_line
from pytc.segmentation.blockwise import require_segmentable, segment_volume
from pytc.segmentation.decode import settings_of
from pytc.segmentation.mask_edges import as_affinities
from pytc.segmentation.masks import argmax_volume, threshold_volume
from pytc.segmentation.plain import NEIGHBOURS
from pytc.target_kinds import TargetKind, target_kind

LOGGER = logging.getLogger(__name__)


def infer(
    config: InferConfig,
    *,
    rank: int = 0,
    world: int = 1,
    local_rank: int = 0,
    local_world: int = 1,
) -> list[Path]:
    """Predict and segment the input, or else each validation volume of the run.

    Several ranks share the blocks of each prediction; the first one waits for the others and
    segments. With config.shard nothing is segmented, and with config.finish nothing is predicted.

    Args:
        rank: the number of this process among those that torchrun or srun has started.
        world: how many there are.
        local_rank: its number on this machine, which picks the GPU.
        local_world: how many there are on this machine.

    Returns:
        The folders of results. Each folder holds affinities.zarr, segmentation.zarr and
        source.json, which names the image, labels and skeletons.

    Raises:
        ValueError: the run has no checkpoint, or the input does not fit the network.
        RunError: blocks are missing that config.finish asks for.
    """
    announce_compilation()
    run = config.run
    if run is None:
        run = str(newest_run("checkpoints/last.pt"))
    network = open_network(config, run, local_rank, local_world)
    model, trained, training = network.model, network.trained, network.volumes
    volumes = volumes_to_predict(config, trained, training)
    _check_flags(config, len(volumes))
    model.require_size(config.inference.window or trained.data.patch_size)
    sources = [open_input(volume, trained, training) for volume in volumes]

    folders = _result_folders(config, run, volumes, trained)
    for source, folder in zip(sources, folders):
        require_writable(folder)
        _check_decode(trained, source.image, config)
    made_by = _made_by(config, trained)
    made_by["weights"] = {"step": network.step, "sha256": network.digest}
    shard = parse_shard(config.shard).part(rank, world, local_world)
    for volume, source, folder in zip(volumes, sources, folders):
        if config.finish:
            require_finished(_prediction_of(folder, trained))
            located = prepare_volume(volume, trained.data.synthetic)
            notes = _notes(located, source, trained, config.segmentation)
            # the shards may have been predicted by other weights than those of now
            predicted_by = {"weights": read_source(folder).get("weights")}
            write_source(folder, notes | made_by | predicted_by)
        else:
            predict(
                model,
                trained,
                volume,
                folder,
                config,
                network.device,
                network.weights,
                made_by,
                shard=shard,
            )
        if shard.count == 1:
            _segment_prediction(folder, trained, config)
    shares_with_ranks = shard.count > 1 and config.shard is None
    if shares_with_ranks and rank == 0:
        for folder in folders:
            _segment_prediction(folder, trained, config)
    if rank == 0:
        _print_next(config, run, folders, trained)
    return folders


def _check_flags(config: InferConfig, n_volumes: int) -> None:
    """ValueError for flags that do not go together."""
    is_one = not config.ensemble or config.output is not None
    require(is_one, "--output for what several networks predict together", None)
    for flag in ("output", "roi", "mask"):
        fits = n_volumes == 1 or not getattr(config, flag)
        require(fits, f"--input with --{flag}", f"{n_volumes} volumes")


@dataclass(frozen=True)
class OpenedNetwork:
    """A trained network on its device, ready to predict, and where it is from."""

    checkpoint: Path
    step: int
    model: ConnectomicsModel
    trained: Config  # by which it was trained
    volumes: tuple[Facts, ...]  # on which it was trained; none where its file does not say
    device: torch.device
    weights: str  # SHA-256 of the checkpoint
    digest: str  # of its weights alone, see `pytc.models.checkpoint.weights_digest`


def open_network(
    config: InferConfig, run: str, local_rank: int = 0, local_world: int = 1
) -> OpenedNetwork:
    """The network of a run or a file of weights; the threads of this process are set, too.

    Args:
        config: its plugins, ensemble, system and inference.checkpoint are read.
        local_rank: as for `infer`.
        local_world: as for `infer`.

    Raises:
        ValueError: if there is no such checkpoint, or it is damaged.
    """
    load_plugins(config.plugins)
    device = hardware.choose_device(config.system, local_rank)
    torch.set_num_threads(hardware.choose_threads(config.system, local_world))
    first, *others = (_open_member(config, name, device) for name in (run, *config.ensemble))
    return _together(first, others, config) if others else first


def _together(
    first: OpenedNetwork, others: Sequence[OpenedNetwork], config: InferConfig
) -> OpenedNetwork:
    """Several networks as one. ValueError if they do not predict the same of the same images."""
    trained = first.trained
    for other in others:
        alike = _predicts(other.trained) == _predicts(trained)
        expected = f"networks that predict what {first.checkpoint} does: {_predicts(trained)}"
        require(alike, expected, f"{other.checkpoint}: {_predicts(other.trained)}")
    members = [first, *others]
    kind = target_kind(trained.target.kind)
    scale = config.inference.activation_scale
    model = Ensemble(
        [member.model for member in members],
        trained.target.channels,
        kind.activation,
        kind.scale if scale is None else scale,
    )
    return replace(
        first,
        model=model.to(first.device).eval(),
        volumes=tuple(facts for member in members for facts in member.volumes),
        weights=" ".join(member.weights for member in members),
        digest=" ".join(member.digest for member in members),
    )


def _predicts(trained: Config) -> dict[str, Any]:
    """What the channels of a network are, and what it needs of an image."""
    return {
        "kind": trained.target.kind,
        "channels": trained.target.channels,
        "offsets": _channel_offsets(trained),
        "in_channels": trained.model.in_channels,
        "intensity": trained.data.intensity,
    }


def _open_member(config: InferConfig, run: str, device: torch.device) -> OpenedNetwork:
    checkpoint = find_weights(run, config.inference.checkpoint)
    state = load_checkpoint(checkpoint, device)
    model, trained = restore_model(state)
    LOGGER.info(f"checkpoint: {checkpoint}, step {state['step']}")
    with open(checkpoint, "rb") as file:
        weights = hashlib.file_digest(file, "sha256").hexdigest()
    volumes = tuple(from_plain(state.get("volumes", ())))
    return OpenedNetwork(
        checkpoint,
        state["step"],
        model.to(device),
        trained,
        volumes,
        device,
        weights,
        weights_digest(state),
    )


def _segment_prediction(folder: Path, trained: Config, config: InferConfig) -> None:
    """Segment a prediction when all of its blocks are finished."""
    stored = _prediction_of(folder, trained)
    wait_for_blocks(stored)
    kind = target_kind(trained.target.kind)
    labels = folder / "segmentation.zarr"
    segment(open_prediction(stored), labels, kind, config.segmentation, config.engine)
    print(f"results: {folder}", flush=True)


def _prediction_of(folder: Path, trained: Config) -> Path:
    return folder / f"{target_kind(trained.target.kind).prediction}.zarr"


def volumes_to_predict(
    config: InferConfig, trained: Config, training: Sequence[Facts]
) -> tuple[VolumeConfig, ...]:
    """The input named, or else the validation volumes of the run, with the axes to read them in."""
    if config.input is None:
        require(
            len(trained.data.validation) > 0,
            "a volume to predict, by --input IMAGE, as this run has no validation volume",
            None,
        )
        return trained.data.validation
    order = None
    if config.transpose:
        expected = "a checkpoint that names the axes of its training volumes for --transpose"
        require(len(training) > 0, expected, None)
        order = training[0].axes
    return (replace(config.input_volume(), transpose=order),)


def open_input(volume: VolumeConfig, trained: Config, training: Sequence[Facts]) -> Source:
    """Open a volume to predict; print what was read, and what looks wrong with it.

    ValueError if it does not fit the network or the volumes that it was trained on.
    """
    prepare_volume(volume, trained.data.synthetic)
    source = open_source(volume, trained.data, trained.model.in_channels)
    facts, doubts = inspect(source)
    require_alike(facts, training, prefix="--", role="input", transpose="--transpose")
    LOGGER.info(f"input {facts}")
    for doubt in (*doubts, *grey_doubts(facts, training)):
        LOGGER.warning(doubt)
    return source


def segment(
    prediction: Volume,
    output: Path,
    kind: TargetKind,
    config: SegmentationConfig,
    engine: str = "threads",
) -> None:
    """Write the objects, the mask or the classes that a stored prediction stands for.

    Args:
        engine: where blocks of objects beyond memory are computed.
    """
    in_words = {
        "objects": ", ".join(
            f"{name} {value}" for name, value in settings_of(config).items() if value is not None
        ),
        "threshold": f"threshold {config.threshold:g}",
        "argmax": f"the most probable of {prediction.n_channels} classes",
    }
    # the segmentation lies where its prediction does
    of_region = stored_region(prediction.attributes, prediction.spatial_shape)
    place = {} if of_region is None else region_attributes(*of_region)
    write: dict[str, Callable[[Volume, Path], None]] = {
        "objects": partial(segment_volume, config=config, engine=engine, attributes=place),
        "threshold": partial(threshold_volume, threshold=config.threshold, attributes=place),
        "argmax": partial(argmax_volume, attributes=place),
    }
    shape = " x ".join(map(str, prediction.spatial_shape))
    LOGGER.info(f"segmenting {shape} voxels, {in_words[kind.decode]}")
    write[kind.decode](as_affinities(prediction, kind), output)


def _result_folders(
    config: InferConfig, run: str, volumes: Sequence[VolumeConfig], trained: Config
) -> list[Path]:
    """A folder for the results of each volume, in which none of another image are replaced."""
    located = [prepare_volume(volume, trained.data.synthetic) for volume in volumes]
    if config.output:
        (volume,) = located
        require_same_image(Path(config.output), volume.image)
        return [Path(config.output)]
    parent = find_run(run) / "predictions"
    folders: list[Path] = []
    for volume, name in zip(located, volume_names(located)):
        folders.append(results_folder(parent, name, volume.image, taken=folders))
    return folders


def _check_decode(trained: Config, image: Volume, config: InferConfig) -> None:
    """ValueError, before the prediction, unless it can be segmented."""
    kind = target_kind(trained.target.kind)
    if kind.decode == "objects":
        require_segmentable(
            image.spatial_shape,
            np.dtype(np.float16),
            trained.target.offsets if kind.per_offset else NEIGHBOURS,
            config.segmentation,
            image.voxel_size,
            config.engine,
        )


def _made_by(config: InferConfig, trained: Config) -> dict[str, Any]:
    """How infer.py makes a prediction again: its flags, but for those of the segmentation."""
    config = replace(config, shard=None, finish=False)
    default = InferConfig(
        inference=trained.inference, segmentation=config.segmentation, system=trained.system
    )
    return {"infer": flags(config, default), "defaults": asdict(trained.segmentation)}


def _print_next(config: InferConfig, run: str, folders: Sequence[Path], trained: Config) -> None:
    """The line to type next: that segments, or that scores where there is any truth."""
    if config.shard is not None:
        default = InferConfig(
            inference=trained.inference, segmentation=trained.segmentation, system=trained.system
        )
        words = flags(replace(config, run=run, shard=None, finish=True), default)
        print(f"next, when all shards are done: {command_line('infer', words)}", flush=True)
        return
    sources = [read_source(folder) for folder in folders]
    if not any(source["labels"] or source["skeleton"] for source in sources):
        return
    kind = target_kind(sources[0]["target"])
    what = "segmentation" if kind.decode == "argmax" else kind.prediction
    words = ["--run", run]
    if config.output:
        words = [f"--{what}", f"{folders[0]}/{what}.zarr"]
    if kind.decode != "argmax":
        words.append("--sweep")
    print(f"next: {command_line('evaluate', words)}", flush=True)


def predict(
    model: ConnectomicsModel,
    trained: Config,
    volume: VolumeConfig,
    folder: Path,
    settings: InferConfig | Config,
    device: torch.device,
    weights: str,
    made_by: dict[str, Any] | None = None,
    channels: Sequence[int] | None = None,
    shard: Shard = ALL_BLOCKS,
) -> Volume:
    """Predict one volume by a network in evaluation mode.

    Writes source.json beside the prediction; there evaluate.py finds the volume's image and truth.

    Args:
        trained: the config of the network.
        settings: how to predict.
        weights: names the state of the network; an earlier prediction by the same state goes on.
        made_by: how infer.py makes the prediction again, for source.json.
        channels: of the network that are stored; None for all.
        shard: the part of the blocks that this process predicts.

    Returns:
        The Zarr array folder/affinities.zarr or folder/probabilities.zarr, (C, Z, Y, X).

    Raises:
        ValueError: memory does not suffice for a window, and it cannot be made smaller.
    """
    volume = prepare_volume(volume, trained.data.synthetic)
    kind = target_kind(trained.target.kind)
    inference = settings.inference
    if inference.activation_scale is None:
        inference = replace(inference, activation_scale=kind.scale)
    opened = open_source(volume, trained.data, trained.model.in_channels)
    image = opened.image
    folder.mkdir(parents=True, exist_ok=True)
    notes = _notes(volume, opened, trained, settings.segmentation)
    write_source(folder, notes | (made_by or {}))

    channels = list(range(trained.target.channels) if channels is None else channels)
    attributes = {
        "activation": f"{kind.activation}({inference.activation_scale:g} x)",
        "channels": kind.name,
        "intensity": opened.grey_range,
    }
    offsets = _channel_offsets(trained)
    if kind.per_offset:
        attributes["offsets"] = [offsets[channel] for channel in channels]
    region, tissue = None, None
    if isinstance(settings, InferConfig):
        region = region_of(settings.roi, image.spatial_shape) if settings.roi else None
        tissue = _open_mask(settings.mask, volume, image)
    precision = hardware.choose_precision(settings.system, device, trained.model)
    network: Network = partial(_logits, model, trained.target.channels, device, precision)
    # Whatever changes the prediction: blocks with another key are not continued.
    made_of = [
        weights,
        asdict(inference),
        precision,
        channels,
        opened.grey_range,
        state_on_disk(image),
    ]
    made_of += [[region.start, region.stop]] if region else []
    made_of += [state_on_disk(tissue)] if tissue else []

    def predicted(window: Triple) -> Volume:
        seen = orientations(
            flips=inference.flips,
            exchange_axes=inference.axis_permutations,
            voxel_size=image.voxel_size,
            window=window,
        )
        averages = len(seen) > 1
        select = partial(_select, network, channels)
        return predict_volume(
            averaged(network, offsets, seen, kind.activation, channels) if averages else select,
            image,
            output,
            grey_range=opened.grey_range,
            channels=len(channels),
            window=window,
            config=inference,
            activation=kind.activation,
            device=device,
            attributes=attributes,
            key=hashlib.sha256(json.dumps([*made_of, window]).encode()).hexdigest(),
            region=region,
            tissue=tissue,
            shard=shard,
        )

    output = folder / f"{kind.prediction}.zarr"
    return in_memory(predicted, inference.window or trained.data.patch_size, model, output, shard)


def _channel_offsets(trained: Config) -> list[Triple]:
    """The offset of each channel of a network; (0, 0, 0) for one that is no affinity."""
    if not target_kind(trained.target.kind).per_offset:
        return [(0, 0, 0)] * trained.target.channels
    return list(trained.target.offsets)


def _open_mask(path: str | None, volume: VolumeConfig, image: Volume) -> Volume | None:
    """Where there is tissue in an image; None for everywhere. ValueError unless it covers it."""
    if path is None:
        return None
    axes = volume.axes.replace("c", "") if volume.axes else None
    mask = open_volume(path, axes=axes, transpose=volume.transpose)
    scale_of(mask, image)
    return mask


def _logits(
    model: ConnectomicsModel,
    channels: int,
    device: torch.device,
    precision: hardware.Precision,
    patches: torch.Tensor,
) -> torch.Tensor:
    """(B, C, Z, Y, X) -> (B, channels, Z, Y, X), without what only helped to learn."""
    with hardware.autocast(device, precision):
        return finest(model(patches))[:, :channels]


def _select(network: Network, channels: list[int], patches: torch.Tensor) -> torch.Tensor:
    return network(patches)[:, channels]


def _notes(
    volume: VolumeConfig, opened: Source, trained: Config, segmentation: SegmentationConfig
) -> dict[str, Any]:
    """What source.json says of a prediction: the files of the volume, and how they are read."""
    notes = {
        "image": volume.image,
        "labels": volume.labels,
        "labels_offset": volume.offsets,
        "labels_axes": volume.labels_axes,
        "mask": volume.mask,
        "skeleton": volume.skeleton,
        "axes": volume.axes,
        "transpose": volume.transpose,
        "attribution": volume.attribution,
        "intensity": opened.grey_range,
        "segmentation": asdict(segmentation),
        "voxel_size": opened.image.voxel_size,
        "target": trained.target.kind,
    }
    if volume.transpose is not None:  # skeletons lie in the order in which the image is stored
        stored = open_image(replace(volume, transpose=None), trained.data)
        notes["stored_axes"] = stored.spatial_axes
    return notes
