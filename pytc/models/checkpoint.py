"""Checkpoints being read: a network is rebuilt from its checkpoint alone."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import torch

from pytc.config import Config, from_plain
from pytc.models import ConnectomicsModel, build_model

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
    """The network of a checkpoint in evaluation mode (its moving average if it has one), its config and its step."""
    state = load_checkpoint(path, device)
    model, config = restore_model(state)
    return model.to(device), config, state["step"]


def restore_model(state: dict[str, Any]) -> tuple[ConnectomicsModel, Config]:
    """The same from a checkpoint that is read."""
    config = from_plain(Config, state["config"])
    model = build_model(config.model)
    model.load_state_dict(state["average"] or state["model"])
    return model.eval(), config
