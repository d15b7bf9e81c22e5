"""Checkpoints being read, and exported as safetensors: a network is rebuilt from its file alone."""

from __future__ import annotations

import json
import zipfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from pytc.config import Config, from_plain
from pytc.models import build_model
from pytc.models.base import ConnectomicsModel
from pytc.runs import load_config, replacing

FORMAT = 1


def load_checkpoint(path: Path, device: torch.device | str = "cpu") -> dict[str, Any]:
    """Read a checkpoint, after a test of its checksums; ValueError if it is missing, damaged or not one of pytc's."""
    if not Path(path).is_file():
        raise ValueError(f"expected a checkpoint, found no file {path}")
    try:
        with zipfile.ZipFile(path) as archive:  # torch.load does not look at the checksums that torch.save writes
            damaged = archive.testzip()
        if damaged:
            raise OSError(f"{damaged} has another checksum than when it was written")
        state = torch.load(path, map_location=device, weights_only=True)
    except Exception as error:
        raise ValueError(f"expected a readable checkpoint, got {path}: {error}") from error
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise ValueError(f"expected a pytc checkpoint of format {FORMAT}, got {path}")
    return state


def load_model(path: Path, device: torch.device | str = "cpu") -> tuple[ConnectomicsModel, Config, int]:
    """The network of a checkpoint, or of its export, in evaluation mode, its config and its step.

    Of a checkpoint with a moving average of the weights, that average. ValueError if `path` is neither.
    """
    state = read_export(path, device) if Path(path).suffix == ".safetensors" else load_checkpoint(path, device)
    model, config = restore_model(state)
    return model.to(device), config, state["step"]


def restore_model(state: dict[str, Any]) -> tuple[ConnectomicsModel, Config]:
    """The same from a checkpoint that is read."""
    config = from_plain(Config, state["config"])
    model = build_model(config.model)
    model.load_state_dict(state["average"] or state["model"])
    return model.eval(), config


def export(source: Path, target: Path) -> Path:
    """Write the network of a run or checkpoint to a .safetensors file, its config as JSON in the metadata.

    Of a run the checkpoint that infer.py would take. Returns the checkpoint. ValueError if `source` has none, or
    `target` has another suffix.
    """
    from safetensors.torch import save

    if target.suffix != ".safetensors":
        raise ValueError(f"expected a file name that ends in .safetensors, got {target}")
    if source.is_dir():
        source = source / "checkpoints" / f"{load_config(source).inference.checkpoint}.pt"
    model, config, step = load_model(source)
    metadata = {"format": f"pytc {FORMAT}", "config": json.dumps(asdict(config)), "step": str(step)}
    weights = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    with replacing(target) as temporary:
        temporary.write_bytes(save(weights, metadata))
    return source


def read_export(path: Path, device: torch.device | str = "cpu") -> dict[str, Any]:
    """An exported network as a checkpoint without an average; ValueError if it is missing, damaged or not of pytc."""
    from safetensors import safe_open

    try:
        with safe_open(path, "pt", str(device)) as file:
            metadata = file.metadata() or {}
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (not a dict)
    except Exception as error:
        raise ValueError(f"expected a readable .safetensors file, got {path}: {error}") from error
    if metadata.get("format") != f"pytc {FORMAT}":
        raise ValueError(f"expected a network exported by pytc in format {FORMAT}, got {path}")
    config, step = json.loads(metadata["config"]), int(metadata["step"])
    return {"config": config, "step": step, "model": weights, "average": None}
