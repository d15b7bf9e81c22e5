"""Start a training from the weights of another network.

They come from another run, official MedNeXt, nnU-Net, Lightning or safetensors.
"""

from collections.abc import Collection
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import torch.nn.functional as F
from torch import Tensor

from pytc.config import ModelConfig
from pytc.models import build_model
from pytc.models.base import ConnectomicsModel
from pytc.models.card import Card
from pytc.models.checkpoint import FORMAT, Checkpoint, card_of, read_file
from pytc.runs import find_weights

# Under which keys frameworks keep the weights in a checkpoint, and what they put before the names.
ENTRIES = ("average", "model", "state_dict", "network_weights")
PREFIXES = ("model.", "net.", "module.")
IDLE = "dummy_tensor"  # the official MedNeXt has this tensor and never uses it


@dataclass
class Report:
    """What was done with each parameter, by name.

    `reset` and `unmatched` have pairs of shapes: in the file, in the network.
    """

    source: Path
    card: Card | None = None  # of the file; None of one that pytc did not write
    matched: list[str] = field(default_factory=list)
    resampled: list[str] = field(default_factory=list)  # UpKern: kernels of another size
    reset: dict[str, tuple] = field(default_factory=dict)  # heads, initialised anew on request
    unmatched: dict[str, tuple] = field(default_factory=dict)  # of another shape
    skipped: list[str] = field(default_factory=list)  # only in the file
    missing: list[str] = field(default_factory=list)  # only in the network: they stay as they are

    def __str__(self) -> str:
        lines = [
            f"weights of {self.source}: {len(self.matched)} tensors fit, "
            f"{len(self.resampled)} of them resampled"
        ]
        for what, names in (
            ("not in this network", self.skipped),
            ("not in the file", self.missing),
        ):
            lines += [f"  {what}: {', '.join(names)}"] if names else []
        for what, differing in (
            ("initialised anew", self.reset),
            ("of another shape", self.unmatched),
        ):
            for name, (theirs, ours) in differing.items():
                lines.append(f"  {what}: {name}, {theirs} in the file, {ours} in the network")
        return "\n".join(lines)


def initialise(model: ConnectomicsModel, config: ModelConfig) -> Report | None:
    """Start `model` from the file that its config names as `pretrained` or `upkern`.

    UpKern (Roy et al. 2023, arXiv:2303.09975) takes the weights of a network with smaller kernels,
    and enlarges each kernel by trilinear interpolation.

    Returns:
        What was taken; None if the config names no file.

    Raises:
        ValueError: the file cannot be read, no tensor fits, or a tensor has another shape and is
            not that of a head under `reset_head`. No weight is set then.
    """
    name_or_path = config.pretrained or config.upkern
    if name_or_path is None:
        return None
    source = find_weights(name_or_path)
    current = model.state_dict()
    state = read_file(source)
    found = weights_in(state, source, current)
    fitting: dict[str, Tensor] = {}
    card = None
    if isinstance(state, dict) and state.get("format") == FORMAT and "config" in state:
        card = card_of(cast(Checkpoint, state), source)
    missing = [name for name in current if name not in found]
    report = Report(source, card, missing=missing)
    heads = head_names(config) if config.reset_head else set()
    for name, tensor in found.items():
        if name not in current:
            report.skipped.append(name)
            continue
        shape = current[name].shape
        if tensor.shape == shape:
            fitting[name] = tensor
        elif config.upkern and tensor.ndim > 2 and tensor.shape[:2] == shape[:2]:
            fitting[name] = resample_kernel(tensor, tuple(shape[2:]))
            report.resampled.append(name)
        else:
            differing = report.reset if name in heads else report.unmatched
            differing[name] = tuple(tensor.shape), tuple(shape)
    report.matched = list(fitting)
    if report.unmatched or not fitting:
        hint = (
            "; --model.reset-head starts heads anew"
            if report.unmatched and not config.reset_head
            else ""
        )
        raise ValueError(f"expected weights that fit {config.architecture}{hint}, got {report}")
    if config.upkern and not report.resampled:
        raise ValueError(
            f"expected kernels of another size in {source} for upkern, got the same; "
            "--model.pretrained takes weights as they are"
        )
    model.load_state_dict(current | fitting)
    return report


def resample_kernel(kernel: Tensor, size: tuple[int, ...]) -> Tensor:
    """Enlarge kernels (outputs, inputs, ...) to `size` by linear interpolation, in float32."""
    return F.interpolate(kernel.float(), size, mode="trilinear" if len(size) == 3 else "bilinear")


def head_names(config: ModelConfig) -> set[str]:
    """The parameters whose shape depends on the number of output channels."""
    more = replace(config, out_channels=config.out_channels + 1)
    this, other = (build_model(c, "meta", quiet=True) for c in (config, more))
    return {
        name for name, p in this.named_parameters() if p.shape != other.get_parameter(name).shape
    }


def weights_in(state: Any, path: Path, names: Collection[str]) -> dict[str, Tensor]:
    """The tensors of a checkpoint, or of a bare state dict, under the names of the network.

    If the checkpoint has a moving average, its tensors are taken. The prefixes that compilation,
    Lightning and DDP put before a name are removed.

    Args:
        state: what `read_file` read.
        path: the file, for errors.
        names: of the network's parameters and buffers.

    Raises:
        ValueError: the file has no weights, or two for one name.
    """
    if not isinstance(state, dict):
        state = {}
    for entry in ENTRIES:
        if isinstance(state.get(entry), dict):
            state = state[entry]
            break
    renamed: dict[str, Tensor] = {}
    for name, tensor in state.items():
        name = str(name).replace("_orig_mod.", "")
        while name not in names and name.startswith(PREFIXES):
            name = name.partition(".")[2]
        if name in renamed:
            raise ValueError(f"expected one tensor a parameter, got two for {name}")
        if isinstance(tensor, Tensor) and name != IDLE:
            renamed[name] = tensor
    if not renamed:
        raise ValueError(
            f"expected weights in {path} (a state dict, alone or as {', '.join(ENTRIES)}), "
            "found none"
        )
    return renamed
