"""Inference from a run and its images to predictions and segmentations on disk."""

import hashlib
import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
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
from pytc.inference.flips import Network, flip_averaged
from pytc.inference.predict import predict_volume
from pytc.io.remote import RemoteFolder
from pytc.io.results import (
    read_source,
    require_same_image,
    results_folder,
    volume_names,
    write_source,
)
from pytc.io.stores import split_path
from pytc.io.volume import Volume
from pytc.models.base import ConnectomicsModel, finest
from pytc.models.checkpoint import load_checkpoint, restore_model
from pytc.progress import announce_compilation
from pytc.python_files import load_plugins
from pytc.runs import find_run, find_weights, newest_run, require_writable
from pytc.script import command_line
from pytc.segmentation.blockwise import require_segmentable, segment_volume
from pytc.segmentation.decode import settings_of
from pytc.segmentation.masks import argmax_volume, threshold_volume
from pytc.target_kinds import TargetKind, target_kind

LOGGER = logging.getLogger(__name__)


def infer(config: InferConfig) -> list[Path]:
    """Predict and segment the input, or else each validation volume of the run.

    Returns the folders of results. Each folder holds affinities.zarr, segmentation.zarr and
    source.json, which names the image, labels and skeletons. ValueError if the run has no
    checkpoint or the input does not fit the network.
    """
    announce_compilation()
    load_plugins(config.plugins)
    device = hardware.choose_device(config.system)
    torch.set_num_threads(hardware.choose_threads(config.system, 1))
    run = config.run
    if run is None:
        run = str(newest_run("checkpoints/last.pt"))
    checkpoint = find_weights(run, config.inference.checkpoint)
    state = load_checkpoint(checkpoint, device)
    model, trained = restore_model(state)
    model = model.to(device)
    LOGGER.info(f"checkpoint: {checkpoint}, step {state['step']}")
    training = from_plain(state.get("volumes", ()))
    volumes = volumes_to_predict(config, trained, training)
    require(
        len(volumes) == 1 or not config.output,
        "--input with --output",
        f"{len(volumes)} volumes for one folder",
    )
    model.require_size(config.inference.window or trained.data.patch_size)
    sources = [open_input(volume, trained, training) for volume in volumes]
    with open(checkpoint, "rb") as file:
        weights = hashlib.file_digest(file, "sha256").hexdigest()

    folders = _result_folders(config, run, volumes, trained)
    for source, folder in zip(sources, folders):
        require_writable(folder)
        _check_decode(trained, source.image, config)
    kind = target_kind(trained.target.kind)
    for volume, folder in zip(volumes, folders):
        made_by = _made_by(config, trained)
        prediction = predict(model, trained, volume, folder, config, device, weights, made_by)
        segment(prediction, folder / "segmentation.zarr", kind, config.segmentation, config.engine)
        print(f"results: {folder}", flush=True)
    _print_next(config, run, folders)
    return folders


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
        "objects": ", ".join(f"{name} {value}" for name, value in settings_of(config).items()),
        "threshold": f"threshold {config.threshold:g}",
        "argmax": f"the most probable of {prediction.n_channels} classes",
    }
    write: dict[str, Callable[[Volume, Path], None]] = {
        "objects": partial(segment_volume, config=config, engine=engine),
        "threshold": partial(threshold_volume, threshold=config.threshold),
        "argmax": argmax_volume,
    }
    shape = " x ".join(map(str, prediction.spatial_shape))
    LOGGER.info(f"segmenting {shape} voxels, {in_words[kind.decode]}")
    write[kind.decode](prediction, output)


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
    if target_kind(trained.target.kind).decode == "objects":
        require_segmentable(
            image.spatial_shape,
            np.dtype(np.float16),
            trained.target.offsets,
            config.segmentation,
            image.voxel_size,
        )


def _made_by(config: InferConfig, trained: Config) -> dict[str, Any]:
    """How infer.py makes a prediction again: its flags, but for those of the segmentation."""
    default = InferConfig(
        inference=trained.inference, segmentation=config.segmentation, system=trained.system
    )
    return {"infer": flags(config, default), "defaults": asdict(trained.segmentation)}


def _print_next(config: InferConfig, run: str, folders: Sequence[Path]) -> None:
    """The line to type next, if there is any truth to score against."""
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
) -> Volume:
    """Predict one volume by a network in evaluation mode.

    Writes source.json beside the prediction; there evaluate.py finds the volume's image and truth.

    Args:
        trained: the config of the network.
        settings: how to predict.
        weights: names the state of the network; an earlier prediction by the same state goes on.
        made_by: how infer.py makes the prediction again, for source.json.
        channels: of the network that are stored; None for all.

    Returns:
        The Zarr array folder/affinities.zarr or folder/probabilities.zarr, (C, Z, Y, X).
    """
    volume = prepare_volume(volume, trained.data.synthetic)
    kind = target_kind(trained.target.kind)
    inference = settings.inference
    if inference.activation_scale is None:
        inference = replace(inference, activation_scale=kind.scale)
    opened = open_source(volume, trained.data, trained.model.in_channels)
    folder.mkdir(parents=True, exist_ok=True)
    notes = _notes(volume, opened, trained, settings.segmentation)
    write_source(folder, notes | (made_by or {}))

    if channels is None:
        channels = range(trained.model.out_channels)
    channels = list(channels)
    offsets = _channel_offsets(trained, channels)
    attributes = {
        "activation": f"{kind.activation}({inference.activation_scale:g} x)",
        "channels": kind.name,
        "intensity": opened.grey_range,
    }
    if kind.per_offset:
        attributes["offsets"] = offsets
    precision = hardware.choose_precision(settings.system, device, trained.model)
    network: Network = partial(_logits, model, channels, device, precision)
    if inference.flips:
        network = flip_averaged(network, offsets, kind.activation)
    window = inference.window or trained.data.patch_size
    # Whatever changes the prediction: blocks with another key are not continued.
    settled = [asdict(inference), window, precision, channels, opened.grey_range]
    made_of = [weights, *settled, _identity(opened.image)]
    return predict_volume(
        network,
        opened.image,
        folder / f"{kind.prediction}.zarr",
        grey_range=opened.grey_range,
        channels=len(channels),
        window=window,
        config=inference,
        activation=kind.activation,
        device=device,
        attributes=attributes,
        key=hashlib.sha256(json.dumps(made_of).encode()).hexdigest(),
    )


def _channel_offsets(trained: Config, channels: Sequence[int]) -> list[Triple]:
    """The offset of each channel; (0, 0, 0) for one that is no affinity."""
    if not target_kind(trained.target.kind).per_offset:
        return [(0, 0, 0)] * len(channels)
    return [trained.target.offsets[channel] for channel in channels]


def _logits(
    model: ConnectomicsModel,
    channels: list[int],
    device: torch.device,
    precision: hardware.Precision,
    patches: torch.Tensor,
) -> torch.Tensor:
    """(B, C, Z, Y, X) -> (B, len(channels), Z, Y, X)."""
    with hardware.autocast(device, precision):
        return finest(model(patches))[:, channels]


def _notes(
    volume: VolumeConfig, opened: Source, trained: Config, segmentation: SegmentationConfig
) -> dict[str, Any]:
    """What source.json says of a prediction: the files of the volume, and how they are read."""
    notes = {
        "image": volume.image,
        "labels": volume.labels,
        "labels_offset": volume.offsets,
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


def _identity(image: Volume) -> list[Any]:
    """The state of an image on disk: path, layout, and number, newest date and size of files.

    Of an image elsewhere it is the URL, the layout and the attributes: files are not listed.
    """
    path, _ = split_path(image.path)
    layout = [image.path, image.axes, image.shape, str(image.dtype)]
    if isinstance(path, RemoteFolder):
        return [*layout, image.attributes]
    files = [file.stat() for file in (path.rglob("*") if path.is_dir() else [path])]
    state = len(files), max(file.st_mtime_ns for file in files), sum(file.st_size for file in files)
    return [str(path.resolve()), *layout, *state]
