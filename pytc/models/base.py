"""What all networks share: checked input, channels-last layout, one output or one a scale."""

import math
from typing import Any

import torch
from torch import Tensor, nn

from pytc.config import ModelConfig, require

Scale = tuple[int, ...]


class ConnectomicsModel(nn.Module):
    """Base of all networks; a subclass computes its outputs in `predict`.

    `output_scales` holds the stride of each training output along each axis, finest first: ((1, 1,
    1),) for a network with one output, ((1, 1, 1), (2, 2, 2), ...) under deep supervision. It is
    never empty, and the heads of the coarser scales exist only under deep supervision, so that no
    parameter goes unused.
    """

    supports_deep_supervision = False

    def __init__(self, config: ModelConfig, scales: tuple[Scale, ...], size_multiple: Scale):
        """`scales`: all the network can predict at, finest first.

        `size_multiple`: the stride of its coarsest level.
        """
        super().__init__()
        require(
            self.supports_deep_supervision or not config.deep_supervision,
            f"deep_supervision off for {config.architecture}, which has one output",
            "on",
        )
        scales = tuple((1,) * (3 - len(scale)) + scale for scale in scales)
        self.config, self.size_multiple, self.dims = config, size_multiple, len(size_multiple)
        self.output_scales = scales if config.deep_supervision else scales[:1]
        self.memory_format = torch.channels_last if self.dims == 2 else torch.channels_last_3d

    def forward(self, x: Tensor) -> Tensor | dict[str, Tensor]:
        """Logits of an image, at full resolution.

        In training under deep supervision one tensor a scale.

        x: (B, in_channels, Z, Y, X) float; a 2-D network takes Z = 1, or (B, in_channels, Y, X).
        Returns (B, out_channels, Z, Y, X), or in training under deep supervision {"output": the
        same, "ds_1": (B, out_channels, Z / s, ...), ...} with s the scales of `output_scales`.
        ValueError for an image that the network cannot take.
        """
        size = tuple(map(int, x.shape[2:]))
        if len(size) not in (3, self.dims) or x.shape[1] != self.config.in_channels:
            axes = ("Z, Y, X", "Y, X")[3 - self.dims]
            raise ValueError(
                f"expected an image (B, {self.config.in_channels}, {axes}), got {tuple(x.shape)}"
            )
        self.require_size(size)
        lifted = len(size) > self.dims
        outputs = self.predict(
            (x.squeeze(2) if lifted else x).contiguous(memory_format=self.memory_format)
        )
        outputs = [y.unsqueeze(2) for y in outputs] if lifted else outputs
        if len(outputs) == 1:
            return outputs[0]
        return {
            f"ds_{scale}" if scale else "output": output for scale, output in enumerate(outputs)
        }

    def predict(self, x: Tensor) -> list[Tensor]:
        """Logits at full resolution, then, where `supervised`, those of the other scales."""
        raise NotImplementedError

    @property
    def supervised(self) -> bool:
        """Whether the outputs of all scales are wanted now."""
        return self.training and self.config.deep_supervision

    def require_size(self, size: tuple[int, ...]) -> None:
        """ValueError if the network cannot take an image of this size in voxels.

        It names the nearest valid size.
        """
        valid = self.nearest_valid_size(size)
        if size != valid:
            raise ValueError(
                f"expected an image size that {self.config.architecture} can take, "
                f"such as {valid}, got {size}; sizes are multiples of {self.size_multiple}"
            )

    def nearest_valid_size(self, size: tuple[int, ...]) -> tuple[int, ...]:
        """The nearest size that the network can take.

        Multiples of the coarsest stride, with two voxels or more at that level: one alone has no
        variance. A 2-D network takes a single section.
        """
        sections, size = (1,) * (len(size) - self.dims), size[-self.dims :]
        steps = [
            max(1, round(n / multiple))
            for n, multiple in zip(size, self.size_multiple, strict=True)
        ]
        if math.prod(steps) == 1:
            steps[-1] = 2
        return (*sections, *(step * multiple for step, multiple in zip(steps, self.size_multiple)))

    def info(self) -> dict[str, Any]:
        """What the network is, in plain types: name, channels, scales, number of parameters."""
        fields = {
            name: getattr(self.config, name)
            for name in ("in_channels", "out_channels", "deep_supervision")
        }
        return {
            "name": self.config.architecture,
            "parameters": sum(p.numel() for p in self.parameters()),
            **fields,
            "output_scales": self.output_scales,
            "size_multiple": self.size_multiple,
        }


def require_image_size(config: ModelConfig) -> None:
    require(
        config.image_size,
        f"an image_size for {config.architecture} (train.py takes data.patch_size)",
        None,
    )
