"""Weights from elsewhere, as the start of a training: other runs, official MedNeXt, nnU-Net, Lightning, safetensors."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from pytc.config import ModelConfig
from pytc.models import build_model
from pytc.models.base import ConnectomicsModel

# Where frameworks keep the weights in a checkpoint, and what they put before the names.
ENTRIES = ("average", "model", "state_dict", "network_weights")
PREFIXES = ("model.", "net.", "module.")
IDLE = "dummy_tensor"  # the official MedNeXt holds it and never uses it
# Checkpoints of nnU-Net hold NumPy numbers, for which these, and only these, are let through.
_SCALAR = np.float64(0).__reduce__()[0]
HARMLESS = [np.dtype, *(type(np.dtype(kind)) for kind in ("f8", "f4", "i8", "?")),
            (_SCALAR, "numpy.core.multiarray.scalar"), (_SCALAR, "numpy._core.multiarray.scalar")]  # fmt: skip


@dataclass
class Report:
    """What became of each parameter, by name; `reset` and `unmatched` hold shapes (in the file, in the network)."""

    source: Path
    matched: list[str] = field(default_factory=list)
    resampled: list[str] = field(default_factory=list)  # UpKern: kernels of another size
    reset: dict[str, tuple] = field(default_factory=dict)  # heads, initialised anew on request
    unmatched: dict[str, tuple] = field(default_factory=dict)  # of another shape
    skipped: list[str] = field(default_factory=list)  # in the file alone
    missing: list[str] = field(default_factory=list)  # in the network alone, left as initialised

    def __str__(self) -> str:
        lines = [f"weights of {self.source}: {len(self.matched)} tensors fit, {len(self.resampled)} of them resampled"]
        lines += [f"  not in this network: {', '.join(self.skipped)}"] if self.skipped else []
        lines += [f"  not in the file: {', '.join(self.missing)}"] if self.missing else []
        for what, differing in (("initialised anew", self.reset), ("of another shape", self.unmatched)):
            for name, (theirs, ours) in differing.items():
                lines.append(f"  {what}: {name}, {theirs} in the file, {ours} in the network")
        return "\n".join(lines)


def initialise(model: ConnectomicsModel, config: ModelConfig) -> Report | None:
    """Start `model` from the weights that its config names in `pretrained` or `upkern`, and tell what was taken.

    UpKern (Roy et al. 2023, arXiv:2303.09975) takes the weights of a network of smaller kernels, each kernel stretched
    by trilinear interpolation. None if the config names no file. ValueError, before any weight is set, for a file that
    is unreadable, if no tensor fits, or if one has another shape, but for those of heads under `reset_head`.
    """
    source = config.pretrained or config.upkern
    if source is None:
        return None
    report, own, fitting = Report(Path(source)), model.state_dict(), {}
    found = rename(read_weights(Path(source)), own)
    for name, tensor in found.items():
        if name not in own:
            report.skipped.append(name)
        elif tensor.shape == own[name].shape:
            fitting[name] = tensor
        elif config.upkern and tensor.ndim > 2 and tensor.shape[:2] == own[name].shape[:2]:
            fitting[name] = resample_kernel(tensor, tuple(own[name].shape[2:]))
            report.resampled.append(name)
        else:
            report.unmatched[name] = tuple(tensor.shape), tuple(own[name].shape)
    if config.reset_head and report.unmatched:
        heads = head_names(config)
        report.reset = {name: report.unmatched.pop(name) for name in list(report.unmatched) if name in heads}
    report.missing = [name for name in own if name not in found]
    report.matched = list(fitting)
    if report.unmatched or not fitting:
        hint = "; --model.reset-head starts heads anew" if report.unmatched and not config.reset_head else ""
        raise ValueError(f"expected weights that fit {config.architecture}{hint}, got {report}")
    if config.upkern and not report.resampled:
        raise ValueError(f"expected kernels of another size in {source} for upkern, got the same; --model.pretrained "
                         "takes weights as they are")  # fmt: skip
    with torch.no_grad():
        for name, tensor in fitting.items():
            own[name].copy_(tensor)
    return report


def resample_kernel(kernel: Tensor, size: tuple[int, ...]) -> Tensor:
    """Stretch kernels (outputs, inputs, ...) to `size` by linear interpolation along each axis, in float32."""
    return F.interpolate(kernel.float(), size, mode="trilinear" if len(size) == 3 else "bilinear")


def head_names(config: ModelConfig) -> set[str]:
    """The parameters whose shape depends on the number of output channels."""
    with torch.device("meta"):
        this, other = (build_model(replace(config, out_channels=config.out_channels + more)) for more in (0, 1))
    shapes = {name: p.shape for name, p in other.named_parameters()}
    return {name for name, p in this.named_parameters() if p.shape != shapes[name]}


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint or a bare state dict by name, the moving average where there is one.

    Nothing in the file is executed. ValueError if there is no such file, it is unreadable or holds no weights.
    """
    if not path.is_file():
        raise ValueError(f"expected a file of weights, found none at {path}")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        with torch.serialization.safe_globals(HARMLESS):
            state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise ValueError(f"expected readable weights, got {path}: {error}") from error
    for entry in ENTRIES:
        if isinstance(state, dict) and isinstance(state.get(entry), dict):
            state = state[entry]
            break
    entries = state.items() if isinstance(state, dict) else ()
    tensors = {name: value for name, value in entries if isinstance(value, Tensor)}
    if not tensors:
        raise ValueError(f"expected weights in {path} (a state dict, alone or as {', '.join(ENTRIES)}), found none")
    return tensors


def rename(tensors: dict[str, Tensor], known: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors under the names of the network, free of the wrappers of compilation, Lightning and DDP."""
    renamed = {}
    for name, tensor in tensors.items():
        name = name.replace("_orig_mod.", "")
        while name not in known and name.startswith(PREFIXES):
            name = name.partition(".")[2]
        if name in renamed:
            raise ValueError(f"expected one tensor a parameter, got two for {name}")
        if name != IDLE:
            renamed[name] = tensor
    return renamed
