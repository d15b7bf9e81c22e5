"""Inference as a whole: a run and images in, affinities and segmentations on disk."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch

from pytc import hardware
from pytc.commands import InferConfig
from pytc.config import Config, VolumeConfig, require
from pytc.data.inspection import Facts, from_plain, grey_doubts, inspect, require_alike
from pytc.data.sources import Source, open_image, open_source, prepare_volume
from pytc.geometry import blocks
from pytc.inference.flips import flip_averaged
from pytc.inference.predict import predict_volume
from pytc.io.stores import split_path
from pytc.io.volume import Volume, create_volume
from pytc.models.base import ConnectomicsModel, finest
from pytc.models.checkpoint import load_checkpoint, restore_model
from pytc.progress import announce_compilation
from pytc.python_files import load_plugins
from pytc.runs import write_json
from pytc.segmentation.blockwise import segment_volume
from pytc.segmentation.edges import is_above
from pytc.target_kinds import target_kind


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
    checkpoint = Path(config.run) / "checkpoints" / f"{config.inference.checkpoint}.pt"
    if checkpoint.name == "best.pt" and not checkpoint.is_file():
        print(
            "this run has no best checkpoint, as it was never validated: taking the last one",
            flush=True,
        )
        checkpoint = checkpoint.with_name("last.pt")
    state = load_checkpoint(checkpoint, device)
    model, trained = restore_model(state)
    model = model.to(device)
    print(f"checkpoint: {checkpoint}, step {state['step']}", flush=True)
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

    folders = [
        Path(config.output or f"{config.run}/predictions/{source.name}") for source in sources
    ]
    for volume, folder in zip(volumes, folders):
        affinities = predict(model, trained, volume, folder, config, device, weights)
        if target_kind(trained.target.kind).decode == "components":
            segment_volume(affinities, folder / "segmentation.zarr", config.segmentation)
        else:
            threshold_volume(
                affinities, folder / "segmentation.zarr", config.segmentation.threshold
            )
        print(f"results: {folder}", flush=True)
    return folders


def volumes_to_predict(
    config: InferConfig, trained: Config, training: Sequence[Facts]
) -> tuple[VolumeConfig, ...]:
    """The input named, or else the validation volumes of the run, with the axes to read them in."""
    if config.input is None:
        require(
            trained.data.validation,
            "a volume to predict, by --input IMAGE, as this run has no validation volume",
            None,
        )
        return trained.data.validation
    order = None
    if config.transpose:
        require(
            training, "a checkpoint that knows its training volumes' axes for --transpose", None
        )
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
    print(f"input {facts}", flush=True)
    for doubt in (*doubts, *grey_doubts(facts, training)):
        print(f"warning: {doubt}", flush=True)
    return source


def predict(
    model: ConnectomicsModel,
    trained: Config,
    volume: VolumeConfig,
    folder: Path,
    settings: InferConfig | Config,
    device: torch.device,
    weights: str,
    channels: Sequence[int] | None = None,
) -> Volume:
    """Predict one volume by a network in evaluation mode.

    Writes and returns the Zarr array folder/affinities.zarr. Beside it goes source.json, from which
    evaluate.py knows the volume's image and truth. trained: the config of the network; settings:
    how to predict; weights: names the network's state, so that an earlier prediction by the same is
    continued; channels: which of the network's channels are wanted, by default all.
    """
    volume, kind, inference = (
        prepare_volume(volume, trained.data.synthetic),
        trained.target.kind,
        settings.inference,
    )
    opened = open_source(volume, trained.data, trained.model.in_channels)
    image = opened.image
    folder.mkdir(parents=True, exist_ok=True)
    source = {
        key: getattr(volume, key)
        for key in ("image", "labels", "mask", "skeleton", "axes", "transpose", "attribution")
    }
    if volume.transpose is not None:
        source["stored_axes"] = open_image(
            replace(volume, transpose=None), trained.data
        ).spatial_axes
    source["intensity"] = opened.grey_range
    decoding = {key: getattr(settings.segmentation, key) for key in ("min_size", "grow")}
    write_json(
        folder / "source.json", {**source, **decoding, "voxel_size": image.voxel_size, "task": kind}
    )
    channels = list(range(trained.model.out_channels) if channels is None else channels)
    per_offset = target_kind(kind).per_offset
    offsets = [trained.target.offsets[channel] if per_offset else (0, 0, 0) for channel in channels]
    precision = hardware.choose_precision(settings.system, device, trained.model)

    def network(patches: torch.Tensor) -> torch.Tensor:
        with hardware.autocast(device, precision):
            return finest(model(patches))[:, channels]

    attributes = {
        "activation": f"sigmoid({inference.activation_scale:g} x)",
        "channels": kind,
        "intensity": opened.grey_range,
    }
    attributes |= {"offsets": offsets} if per_offset else {}
    window = inference.window or trained.data.patch_size
    made_of = json.dumps(
        [
            weights,
            asdict(inference),
            window,
            precision,
            channels,
            opened.grey_range,
            _identity(image),
        ]
    )
    return predict_volume(
        flip_averaged(network, offsets) if inference.flips else network,
        image,
        folder / "affinities.zarr",
        grey_range=opened.grey_range,
        channels=len(channels),
        window=window,
        config=inference,
        device=device,
        attributes=attributes,
        key=hashlib.sha256(made_of.encode()).hexdigest(),
    )


def threshold_volume(probability: Volume, output: Path, threshold: float) -> None:
    """Write the mask probability > threshold, uint8 (Z, Y, X), of a one-channel probability map."""
    shape, axes = probability.spatial_shape, probability.spatial_axes
    with create_volume(
        output,
        shape,
        np.uint8,
        axes=axes,
        voxel_size=probability.voxel_size,
        attributes={"threshold": threshold},
        overwrite=True,
    ) as mask:
        for box in blocks(shape, (512, 512, 512)):
            mask[box.slices] = is_above(probability.read(box.start, box.stop)[0], threshold)


def _identity(image: Volume) -> list:
    """What tells one state of an image on disk from another without reading it.

    Size and date of all its files.
    """
    path, _ = split_path(image.path)
    files = [file.stat() for file in (path.rglob("*") if path.is_dir() else [path])]
    state = len(files), max(file.st_mtime_ns for file in files), sum(file.st_size for file in files)
    return [str(path.resolve()), image.path, image.axes, image.shape, str(image.dtype), *state]
