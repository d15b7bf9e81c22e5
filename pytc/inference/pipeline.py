"""Inference as a whole: a run and images in, affinities and segmentations on disk."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch

from pytc import hardware
from pytc.commands import InferConfig
from pytc.config import Config, SyntheticConfig, VolumeConfig
from pytc.data.sources import Source, open_source, prepare_volume, volume_name
from pytc.geometry import blocks
from pytc.inference.flips import flip_averaged
from pytc.inference.predict import predict_volume
from pytc.io.volume import Volume, create_volume
from pytc.models.checkpoint import load_model
from pytc.progress import announce_compilation
from pytc.runs import write_json
from pytc.segmentation.blockwise import segment_volume
from pytc.segmentation.edges import is_above


def infer(config: InferConfig) -> list[Path]:
    """Predict and segment the input, or else each validation volume of the run; returns the folders of results.

    Each folder holds affinities.zarr, segmentation.zarr and source.json, which names the image, labels and skeletons.
    ValueError if the run has no checkpoint or the input does not fit the network.
    """
    announce_compilation()
    device = hardware.choose_device(config.system)
    torch.set_num_threads(config.system.threads or hardware.cpu_count())
    checkpoint = _checkpoint(Path(config.run), config.inference.checkpoint)
    model, trained, step = load_model(checkpoint, device)
    print(f"checkpoint: {checkpoint}, step {step}", flush=True)
    model.require_size(config.inference.window or trained.data.patch_size)
    volumes = [prepare_volume(volume, trained.data.synthetic) for volume in _volumes(config, trained)]
    sources = [open_source(volume, SyntheticConfig()) for volume in volumes]
    for source in sources:
        if source.image.n_channels != trained.model.in_channels:
            expected = f"{trained.model.in_channels} channels, as the network was trained with"
            raise ValueError(f"expected {expected}, got {source.image.n_channels} in {source.image.path}")

    folders = []
    for volume, source in zip(volumes, sources):
        folder = Path(config.output) if config.output else Path(config.run) / "predictions" / volume_name(volume)
        folder.mkdir(parents=True, exist_ok=True)
        named = {key: getattr(volume, key) for key in ("image", "labels", "mask", "skeleton", "axes", "attribution")}
        named |= {"voxel_size": source.image.voxel_size, "task": trained.target.kind}
        named |= {"min_size": config.segmentation.min_size, "grow": config.segmentation.grow}
        write_json(folder / "source.json", named)
        affinities = _predict(config, trained, model, device, source, folder / "affinities.zarr", _hash(checkpoint))
        if trained.target.kind == "affinity":
            segment_volume(affinities, folder / "segmentation.zarr", config.segmentation)
        else:
            threshold_volume(affinities, folder / "segmentation.zarr", config.segmentation.threshold)
        print(f"results: {folder}", flush=True)
        folders.append(folder)
    return folders


def threshold_volume(probability: Volume, output: Path, threshold: float) -> None:
    """Write the mask probability > threshold, uint8 (Z, Y, X), of a one-channel probability map."""
    axes = probability.axes.replace("c", "")
    mask = create_volume(output, probability.spatial_shape, np.uint8, axes=axes, voxel_size=probability.voxel_size,
                         attributes={"threshold": threshold}, overwrite=True)  # fmt: skip
    for box in blocks(probability.spatial_shape, (512, 512, 512)):
        mask[box.slices] = is_above(probability.read(box.start, box.stop)[0], threshold)
    mask.close()


def _predict(config: InferConfig, trained: Config, model, device, source: Source, output: Path, weights: str) -> Volume:
    precision = hardware.choose_precision(config.system, device, trained.model)

    def network(patches: torch.Tensor) -> torch.Tensor:
        with torch.autocast(device.type, hardware.PRECISIONS[precision], enabled=precision != "fp32"):
            return model(patches)

    settings = config.inference
    scale = settings.activation_scale
    attributes = {"activation": f"sigmoid({scale:g} x)", "channels": trained.target.kind}
    if trained.target.kind == "affinity":
        attributes["offsets"] = trained.target.offsets
    if settings.flips:
        network = flip_averaged(network, attributes.get("offsets", ((0, 0, 0),) * trained.model.out_channels))
    window = settings.window or trained.data.patch_size
    parts = json.dumps([weights, asdict(settings), window, precision, _identity(source.image)])
    key = hashlib.sha256(parts.encode()).hexdigest()
    return predict_volume(network, source.image, output, channels=trained.model.out_channels, window=window,
                          config=settings, device=device, attributes=attributes, key=key)  # fmt: skip


def _checkpoint(run: Path, which: str) -> Path:
    path = run / "checkpoints" / f"{which}.pt"
    if which == "best" and not path.is_file():
        print("this run has no best checkpoint, as it was never validated: taking the last one", flush=True)
        return run / "checkpoints" / "last.pt"
    return path


def _volumes(config: InferConfig, trained: Config) -> tuple[VolumeConfig, ...]:
    if config.input is None:
        if len(trained.data.val) > 1 and config.output:
            raise ValueError(f"expected --input with --output, got {len(trained.data.val)} volumes for one folder")
        return trained.data.val
    return (
        VolumeConfig(image=config.input, labels=config.labels, skeleton=config.skeleton, axes=config.axes,
                     voxel_size=config.voxel_size),
    )  # fmt: skip


def _identity(image: Volume) -> list:
    """What tells one state of an image on disk from another without reading it: size and date of all its files."""
    path = Path(image.path)
    path = path if path.exists() else Path(image.path.rpartition(":")[0])
    files = [file.stat() for file in (path.rglob("*") if path.is_dir() else [path])]
    dates, sizes = max(file.st_mtime_ns for file in files), sum(file.st_size for file in files)
    return [str(path.resolve()), image.path, image.shape, str(image.dtype), len(files), dates, sizes]


def _hash(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

