"""The checkpoint of a run: its keys, and how it is written, read, found and exported.

A checkpoint is one file that `torch.save` writes. It holds tensors and plain types only, so that it
is read without executing anything, and the network is rebuilt from the file alone.

    save_checkpoint, save_if_best                  write
    read_file, load_checkpoint, restore_model      read
    good_checkpoints                               find those of a run, the newest first
    read_card                                      what the network was trained on
    export                                         write the network alone, as .safetensors
"""

import hashlib
import json
import os
import warnings
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypedDict, cast

import numpy as np
import torch

from pytc.config import Config
from pytc.metrics.table import metric
from pytc.models import build_model
from pytc.models.base import ConnectomicsModel
from pytc.models.card import Card, make_card
from pytc.renames import config_from_plain
from pytc.runs import find_run, find_weights, load_config, replacing

FORMAT = 1
# Checkpoints of nnU-Net hold NumPy numbers. Only these NumPy types may be read.
_SCALAR = np.float64(0).__reduce__()[0]
HARMLESS: list[Any] = [
    np.dtype,
    *(type(np.dtype(kind)) for kind in ("f8", "f4", "i8", "?")),
    (_SCALAR, "numpy.core.multiarray.scalar"),
    (_SCALAR, "numpy._core.multiarray.scalar"),
]


class Checkpoint(TypedDict, total=False):
    """All keys of a checkpoint. An export has the first five, `model`, and None as `average`."""

    format: int  # FORMAT of the release that wrote it
    config: dict[str, Any]  # the resolved config of the run, as nested dictionaries
    volumes: list[dict[str, Any]]  # facts of the training volumes, see `pytc.data.facts`
    step: int  # optimizer steps that were taken
    card: Card  # of an export alone, see `pytc.models.card`

    # the weights it started from, as {"weights": path, "card": their card, None of other programs}
    parent: dict[str, Any] | None
    skipped: int  # steps skipped in the whole run, because a loss or gradient was not finite
    skipped_in_a_row: int  # steps skipped since the last one that was taken
    model: dict[str, torch.Tensor]  # weights
    average: dict[str, torch.Tensor] | None  # moving average of the weights, if the run has one
    optimizer: dict[str, Any]  # state of AdamW
    scaler: dict[str, Any]  # state of the GradScaler, empty unless the precision is fp16
    scores: dict[int, float]  # step -> score (NaN: not scored) of each step-N.pt, the best first


def save_checkpoint(path: Path, state: Checkpoint) -> None:
    """Write `state` to `path`. If the process is killed, the old or the new file exists."""
    with replacing(path) as temporary, open(temporary, "wb") as file:
        try:
            torch.save(state, file)
        except RuntimeError as error:
            # torch raises it while it cleans up after a failed write, and so hides the reason
            if isinstance(error.__context__, OSError):
                raise error.__context__ from None
            raise
        file.flush()
        os.fsync(file.fileno())


def save_if_best(
    folder: Path, state: Checkpoint, monitor: str, score: float, others: Iterable[float]
) -> None:
    """Write `state` to best.pt if its score is better than all others. Nothing else writes best.pt.

    The process that computes the monitored score calls it: the run itself, or `pytc validate`
    (see `LoopConfig.picks_best`).

    Args:
        folder: checkpoints/ of the run.
        state: the checkpoint that was scored.
        monitor: name of the score, e.g. val/loss: it says whether lower or higher is better.
        score: of this checkpoint.
        others: scores of the checkpoints before it.
    """
    if all(loss_of(monitor, score) < loss_of(monitor, other) for other in others):
        save_checkpoint(folder / "best.pt", state)


def loss_of(monitor: str, score: float) -> float:
    """The score, with its sign changed if higher is better: a lower result is always better.

    ValueError if the name is neither val/loss nor in the table of metrics.
    """
    name = monitor.rpartition("/")[2]
    lower_is_better = name == "loss" or metric(name).lower_is_better
    return score if lower_is_better else -score


def read_file(path: Path, device: torch.device | str = "cpu") -> Any:
    """Read what `torch.save` or safetensors has written; nothing in the file is executed.

    Returns:
        The object in the file. Of .safetensors it is a dictionary with the tensors as "model"; if
        pytc exported the file, it has all keys of an exported `Checkpoint`.

    Raises:
        ValueError: the file is missing, or damaged (checksums are compared).
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"expected a checkpoint, found no file {path}")
    try:
        if path.suffix == ".safetensors":
            return _read_safetensors(path, device)
        if zipfile.is_zipfile(path):
            _compare_checksums(path)
        with torch.serialization.safe_globals(HARMLESS):
            return torch.load(path, map_location=device, weights_only=True)
    except Exception as error:
        raise ValueError(f"expected a readable checkpoint, got {path}: {error}") from error


def _read_safetensors(path: Path, device: torch.device | str) -> dict[str, Any]:
    from safetensors import safe_open

    with safe_open(path, "pt", str(device)) as file:
        metadata = file.metadata() or {}
        names = list(file.keys())
        weights = {name: file.get_tensor(name) for name in names}
    if metadata.get("format") != f"pytc {FORMAT}":
        return {"model": weights}
    state = {
        "format": FORMAT,
        "config": json.loads(metadata["config"]),
        "volumes": json.loads(metadata.get("volumes", "[]")),
        "step": int(metadata["step"]),
        "model": weights,
        "average": None,
    }
    if "card" in metadata:  # release 0.1 wrote none
        state["card"] = json.loads(metadata["card"])
    return state


def _compare_checksums(path: Path) -> None:
    """OSError if a part of the file is damaged. torch.load does not look at the checksums."""
    with zipfile.ZipFile(path) as archive:
        damaged = archive.testzip()
    if damaged:
        raise OSError(f"{damaged} has another checksum than when it was written")


def load_checkpoint(path: Path, device: torch.device | str = "cpu") -> Checkpoint:
    """Read a checkpoint or an export.

    ValueError if it is missing or damaged, or if pytc did not write it.
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
    return cast(Checkpoint, state)


def restore_model(state: Checkpoint) -> tuple[ConnectomicsModel, Config]:
    """Build the network of a checkpoint, in evaluation mode, on the CPU.

    Its weights are the moving average if there is one.
    """
    config = config_from_plain(state["config"])
    model = build_model(config, "cpu", quiet=True)
    model.load_state_dict(state["average"] or state["model"])
    return model.eval(), config


def weights_digest(state: Checkpoint) -> str:
    """SHA-256 of the weights that `restore_model` loads: their names, shapes, dtypes and bytes.

    It is the same for best.pt, last.pt, step-N.pt and an export of one step.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted((state["average"] or state["model"]).items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(flat.view(torch.uint8).numpy().data)
    return digest.hexdigest()


def load_model(
    path: Path, device: torch.device | str = "cpu"
) -> tuple[ConnectomicsModel, Config, int]:
    """Read a checkpoint or an export, and return (network, config, step).

    ValueError if `path` is neither.
    """
    state = load_checkpoint(path, device)
    model, config = restore_model(state)
    return model.to(device), config, state["step"]


def good_checkpoints(
    folder: Path, seen: set[tuple[str, int]], device: torch.device | str = "cpu"
) -> Iterator[Checkpoint]:
    """Read last.pt, then step-N.pt from the newest to the oldest, then best.pt.

    A file that cannot be read is skipped with a warning.

    Args:
        folder: checkpoints/ of a run.
        seen: (name, time of change) of each file that was read before. Such a file is skipped until
            it changes; each file that is read now is added.
        device: where the tensors go.
    """
    newest_first = sorted(folder.glob("step-*.pt"), reverse=True)
    for path in (*folder.glob("last.pt"), *newest_first, *folder.glob("best.pt")):
        try:
            version = (path.name, path.stat().st_mtime_ns)
            if version in seen:
                continue
            seen.add(version)
            state = load_checkpoint(path, device)
        except (ValueError, OSError) as error:
            warnings.warn(f"{error}: skipped", stacklevel=2)
            continue
        yield state


def find_checkpoint(source: Path) -> Path:
    """The file of a run (its folder or its name) that infer.py would take; a file as it is."""
    checkpoint = "best"
    if not Path(source).is_file():
        checkpoint = load_config(find_run(source)).inference.checkpoint
    return find_weights(source, checkpoint)


def card_of(state: Checkpoint, path: Path) -> Card:
    """The card that an export carries, or else the card of the checkpoint at `path`."""
    if "card" in state:
        return state["card"]
    config = config_from_plain(state["config"])
    volumes = state.get("volumes", [])
    digest = weights_digest(state)
    return make_card(config, state["step"], volumes, state.get("parent"), path, digest)


def read_card(source: Path) -> Card:
    """The card of a run, a checkpoint or an export; ValueError if `source` is none of them."""
    path = find_checkpoint(source)
    return card_of(load_checkpoint(path), path)


def export(
    source: Path, target: Path, *, licence: str | None = None, citation: str | None = None
) -> Path:
    """Write the network of a checkpoint to a .safetensors file, its config and card as metadata.

    Args:
        source: a checkpoint, or the folder or the name of a run, of which the checkpoint is taken
            that infer.py would take.
        target: the file to write.
        licence: of the weights, for the card; by default what the card of `source` says.
        citation: what to cite for the weights; by default what the card of `source` says.

    Returns:
        The checkpoint that was taken.

    Raises:
        ValueError: `source` has no checkpoint, or `target` has another suffix.
    """
    from safetensors.torch import save

    if target.suffix != ".safetensors":
        raise ValueError(f"expected a file name that ends in .safetensors, got {target}")
    source = find_checkpoint(source)
    state = load_checkpoint(source)
    model, config = restore_model(state)
    card = card_of(state, source)
    for name, given in (("licence", licence), ("citation", citation)):
        if given is not None:
            card = card | {name: given}
    metadata = {
        "format": f"pytc {FORMAT}",
        "config": json.dumps(asdict(config)),
        "step": str(state["step"]),
        "volumes": json.dumps(state.get("volumes", [])),
        "card": json.dumps(card),
    }
    weights = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    with replacing(target) as temporary:
        temporary.write_bytes(save(weights, metadata))
    return source
