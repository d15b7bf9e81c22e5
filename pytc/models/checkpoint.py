"""Checkpoints being read, and exported as safetensors: a network is rebuilt from its file alone."""

import json
import zipfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pytc.config import Config
from pytc.models import build_model
from pytc.models.base import ConnectomicsModel
from pytc.renames import config_from_plain
from pytc.runs import find_run, find_weights, load_config, replacing

FORMAT = 1
# Checkpoints of nnU-Net hold NumPy numbers, for which these, and only these, are let through.
_SCALAR = np.float64(0).__reduce__()[0]
HARMLESS = [
    np.dtype,
    *(type(np.dtype(kind)) for kind in ("f8", "f4", "i8", "?")),
    (_SCALAR, "numpy.core.multiarray.scalar"),
    (_SCALAR, "numpy._core.multiarray.scalar"),
]


def read_file(path: Path, device: torch.device | str = "cpu") -> Any:
    """What a file of `torch.save` holds, after a test of its checksums.

    Of .safetensors the tensors, as "model". Nothing in the file is executed. An export of pytc's is
    read as a checkpoint without an average. ValueError if the file is missing or damaged.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"expected a checkpoint, found no file {path}")
    try:
        if path.suffix == ".safetensors":
            from safetensors import safe_open

            with safe_open(path, "pt", str(device)) as file:
                metadata = file.metadata() or {}
                state = {"model": {name: file.get_tensor(name) for name in file.keys()}}  # noqa: SIM118  (not a dict)
            if metadata.get("format") == f"pytc {FORMAT}":
                state |= {
                    "format": FORMAT,
                    "config": json.loads(metadata["config"]),
                    "step": int(metadata["step"]),
                    "volumes": json.loads(metadata.get("volumes", "[]")),
                    "average": None,
                }
            return state
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(
                path
            ) as archive:  # torch.load does not look at the checksums that torch.save writes
                if damaged := archive.testzip():
                    raise OSError(f"{damaged} has another checksum than when it was written")
        with torch.serialization.safe_globals(HARMLESS):
            return torch.load(path, map_location=device, weights_only=True)
    except Exception as error:
        raise ValueError(f"expected a readable checkpoint, got {path}: {error}") from error


def load_checkpoint(path: Path, device: torch.device | str = "cpu") -> dict[str, Any]:
    """Read a checkpoint or its export.

    ValueError if it is missing, damaged or not one of pytc's.
    """
    state = read_file(path, device)
    if not isinstance(state, dict) or "format" not in state:
        raise ValueError(
            f"expected a pytc checkpoint, got {path}; --model.pretrained starts a training from "
            "weights of others"
        )
    if state["format"] != FORMAT:
        raise ValueError(
            f"expected a pytc checkpoint of format {FORMAT}, got {path} of format "
            f"{state['format']}, which takes a newer release of pytc"
        )
    return state


def restore_model(state: dict[str, Any]) -> tuple[ConnectomicsModel, Config]:
    """The network of a checkpoint that is read, in evaluation mode.

    Where there is a moving average, its weights are taken.
    """
    config = config_from_plain(state["config"])
    model = build_model(config, "cpu", quiet=True)
    model.load_state_dict(state["average"] or state["model"])
    return model.eval(), config


def load_model(
    path: Path, device: torch.device | str = "cpu"
) -> tuple[ConnectomicsModel, Config, int]:
    """The same from a file, a checkpoint or its export, with its step.

    ValueError if `path` is neither.
    """
    state = load_checkpoint(path, device)
    model, config = restore_model(state)
    return model.to(device), config, state["step"]


def export(source: Path, target: Path) -> Path:
    """Write the network of a run or checkpoint to a .safetensors file.

    Its config goes into the metadata as JSON. Of a run, by its folder or its name, the checkpoint
    that infer.py would take.
    Returns the checkpoint. ValueError if `source` has none, or `target` has another suffix.
    """
    from safetensors.torch import save

    if target.suffix != ".safetensors":
        raise ValueError(f"expected a file name that ends in .safetensors, got {target}")
    checkpoint = "best"
    if not Path(source).is_file():
        checkpoint = load_config(find_run(source)).inference.checkpoint
    source = find_weights(source, checkpoint)
    state = load_checkpoint(source)
    model, config = restore_model(state)
    metadata = {
        "format": f"pytc {FORMAT}",
        "config": json.dumps(asdict(config)),
        "step": str(state["step"]),
        "volumes": json.dumps(state.get("volumes", [])),
    }
    weights = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    with replacing(target) as temporary:
        temporary.write_bytes(save(weights, metadata))
    return source
