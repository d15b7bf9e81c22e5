"""Weights and images by formula, so that golden numbers need neither stored."""

from __future__ import annotations

import hashlib
import math
import zlib

import numpy as np
import torch
from torch import Tensor, nn


def uniform(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """float32 in [-1, 1), a function of name and index alone.

    Element i is the murmur3 finaliser of crc32(name) + i * 0x9E3779B9, as a fraction of 2^32.
    """
    x = np.arange(math.prod(shape), dtype=np.uint32) * np.uint32(0x9E3779B9) + np.uint32(
        zlib.crc32(name.encode())
    )
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        x = (x ^ (x >> np.uint32(shift))) * np.uint32(factor)
    x ^= x >> np.uint32(16)
    return (x.astype(np.float64) / 2**31 - 1).astype(np.float32).reshape(shape)


def make_image(shape: tuple[int, ...]) -> Tensor:
    """An image of unit variance."""
    return torch.from_numpy(uniform("image", shape) * np.float32(math.sqrt(3)))


@torch.no_grad()
def fill_parameters(model: nn.Module) -> None:
    """Set each parameter by its name.

    Kernels have unit gain, norm weights are about 1, all others within 1/2 of 0.
    """
    for name, parameter in model.named_parameters():
        values = uniform(name, tuple(parameter.shape))
        if name.endswith("norm.weight"):
            values = 1 + values / 2
        elif parameter.ndim > 1 and "grn" not in name:
            values *= np.float32(math.sqrt(3 * parameter.shape[0] / parameter.numel()))
        else:
            values /= 2
        parameter.copy_(torch.from_numpy(values))


def hash_parameters(model: nn.Module) -> str:
    """Short hash of names, shapes and order of the parameters.

    The official network's idle `dummy_tensor` is left out.
    """
    lines = [
        f"{name} {list(p.shape)}" for name, p in model.named_parameters() if name != "dummy_tensor"
    ]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


def count_parameters(model: nn.Module) -> int:
    return sum(p.numel() for name, p in model.named_parameters() if name != "dummy_tensor")


def summarise(output: Tensor) -> dict:
    """Shape, mean, standard deviation and 12 values, evenly spread, of a tensor."""
    flat = output.detach().flatten().double()
    picks = torch.linspace(0, len(flat) - 1, 12).long()
    summary = {
        "mean": flat.mean().item(),
        "std": flat.std(correction=0).item(),
        "values": flat[picks].tolist(),
    }
    rounded = {
        name: [float(f"{v:.8g}") for v in f] if name == "values" else float(f"{f:.8g}")
        for name, f in summary.items()
    }
    return {"shape": list(output.shape), **rounded}


def rsunet(
    weights: dict[str, Tensor], x: Tensor, strides: list[tuple[int, int, int]]
) -> list[Tensor]:
    """What a residual symmetric U-Net with these weights predicts, finest first.

    Axis by axis, layout by default.
    """

    def convolve(x: Tensor, name: str, relu: bool = True) -> Tensor:
        kernel = weights[f"{name}.0.weight"].contiguous()
        x = nn.functional.conv3d(x, kernel, padding=[n // 2 for n in kernel.shape[2:]])
        x = nn.functional.instance_norm(
            x, weight=weights[f"{name}.1.weight"], bias=weights[f"{name}.1.bias"]
        )
        return x.relu() if relu else x

    def module(x: Tensor, name: str) -> Tensor:
        x = convolve(x, f"{name}.0")
        return (x + convolve(convolve(x, f"{name}.1.first"), f"{name}.1.second", relu=False)).relu()

    def project(x: Tensor, name: str) -> Tensor:
        kernel, bias = weights[f"{name}.weight"].flatten(1), weights[f"{name}.bias"]
        return torch.einsum("oi,bizyx->bozyx", kernel, x) + bias[:, None, None, None]

    skips, outputs = [module(convolve(x, "stem.0"), "stem.1")], []
    for level, stride in enumerate(strides):
        skips.append(module(nn.functional.max_pool3d(skips[-1], stride), f"down.{level}.1"))
    x = skips.pop()
    for level in reversed(range(len(strides))):
        x = project(x, f"narrow.{level}")
        for axis, step in enumerate(strides[level]):
            x = x.repeat_interleave(step, dim=2 + axis)
        x = module(x + skips.pop(), f"up.{level}" if level else "up.0.0")
        x = x if level else convolve(x, "up.0.1")
        outputs.append(project(x, f"heads.{level}"))
    return outputs[::-1]
