"""What all networks share: checked input, channels-last layout, one output or one a scale."""

import math
from typing import Any

import torch
from torch import Tensor, nn

from pytc.checks import require
from pytc.config import ModelConfig, Triple

Stride = tuple[int, ...]


class ConnectomicsModel(nn.Module):
    """Base of all networks.

    The networks of pytc compute their outputs in `predict`, and the `forward` of this class checks
    the image before. A network of your own may override `forward` instead:

        class MyNetwork(ConnectomicsModel):
            def __init__(self, config):
                super().__init__()
                self.network = nn.Conv3d(config.in_channels, config.out_channels, 3, padding=1)

            def forward(self, x):
                return self.network(x)

    Attributes:
        supports_deep_supervision: whether it predicts at more scales than one in training.
        output_scales: the number of scales. The heads of the coarser ones exist only under deep
            supervision, so that no parameter goes unused.
        output_strides: the stride of each scale along each axis, finest first: ((1, 1, 1),), or
            ((1, 1, 1), (2, 2, 2), ...). A network that sets only `output_scales` halves the
            resolution from each scale to the next.
        size_multiple: the stride of the coarsest level; image sizes are multiples of it.
        config: the ModelConfig that it was built from; `build_model` sets it where it is None.
    """

    def __init__(
        self,
        config: ModelConfig | None = None,
        strides: tuple[Stride, ...] | None = None,
        size_multiple: Stride = (1, 1, 1),
    ):
        """strides: of all scales that the network can predict at, finest first."""
        super().__init__()
        self.config = config
        self.size_multiple = size_multiple
        self.dims = len(size_multiple)
        self.memory_format = torch.channels_last if self.dims == 2 else torch.channels_last_3d
        self.supports_deep_supervision = False
        self.output_scales = 1
        self._strides = None
        if strides is not None:
            # a 2-D network predicts single sections
            self._strides = tuple((1,) * (3 - len(stride)) + stride for stride in strides)
            if config is not None and config.deep_supervision:
                self.supports_deep_supervision = len(strides) > 1
                self.output_scales = len(strides)

    @property
    def output_strides(self) -> tuple[Stride, ...]:
        if self._strides is None:
            return tuple((2**scale,) * 3 for scale in range(self.output_scales))
        return self._strides[: self.output_scales]

    def adopt(self, config: ModelConfig) -> None:
        """Take the config it was built from, and lay out the kernels channels-last.

        ValueError if config.deep_supervision is on and the network has one output, or off and it
        has more.
        """
        if self.config is None:
            self.config = config
        require(
            self.output_scales > 1 or not config.deep_supervision,
            f"deep_supervision off for {config.architecture}, which has one output",
            "on",
        )
        require(
            self.output_scales == 1 or config.deep_supervision,
            f"deep_supervision on for {config.architecture}, of {self.output_scales} outputs",
            "off",
        )
        for tensor in (*self.parameters(), *self.buffers()):
            if tensor.ndim == 2 + self.dims:
                tensor.data = tensor.data.to(memory_format=self.memory_format)

    def forward(self, x: Tensor) -> Tensor | dict[str, Tensor]:
        """Logits of an image, at full resolution.

        In training under deep supervision one tensor a scale.

        x: (B, in_channels, Z, Y, X) float; a 2-D network takes Z = 1, or (B, in_channels, Y, X).
        Returns (B, out_channels, Z, Y, X), or in training under deep supervision {"output": the
        same, "ds_1": (B, out_channels, Z / s, ...), ...} with s of `output_strides`. ValueError for
        an image that the network cannot take.
        """
        size = tuple(map(int, x.shape[2:]))
        channels = x.shape[1] if self.config is None else self.config.in_channels
        if len(size) not in (3, self.dims) or x.shape[1] != channels:
            axes = ("Z, Y, X", "Y, X")[3 - self.dims]
            raise ValueError(f"expected an image (B, {channels}, {axes}), got {tuple(x.shape)}")
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
        """Logits at full resolution, then, where `supervised`, those of the coarser scales."""
        raise NotImplementedError

    @property
    def supervised(self) -> bool:
        """Whether the outputs of all scales are wanted now."""
        return self.training and self.output_scales > 1

    def require_size(self, size: tuple[int, ...]) -> None:
        """ValueError if the network cannot take an image of this size in voxels.

        It names the nearest valid size.
        """
        valid = self.nearest_valid_size(size)
        if size == valid:
            return
        name = type(self).__name__ if self.config is None else self.config.architecture
        raise ValueError(
            f"expected an image size that {name} can take, such as {valid}, got {size}; "
            f"{self.size_rule(size)}"
        )

    def size_rule(self, size: tuple[int, ...]) -> str:
        """Which sizes the network takes, as the end of the error for this one."""
        rule = f"sizes are multiples of {self.size_multiple}"
        if size[-self.dims :] != self.size_multiple:
            return rule
        return (
            f"{rule}, at least one of them twice that or more: a single voxel at the coarsest "
            "level has no variance to normalise by"
        )

    def nearest_valid_size(self, size: tuple[int, ...]) -> tuple[int, ...]:
        """The nearest size that the network can take.

        Multiples of the coarsest stride, with two voxels or more at that level: one alone has no
        variance. A 2-D network takes a single section.
        """
        sections = (1,) * (len(size) - self.dims)
        steps = [
            max(1, round(n / multiple))
            for n, multiple in zip(size[-self.dims :], self.size_multiple, strict=True)
        ]
        if math.prod(steps) == 1:
            steps[-1] = 2
        return (*sections, *(step * multiple for step, multiple in zip(steps, self.size_multiple)))

    def get_model_info(self) -> dict[str, Any]:
        """What the network is, in plain types.

        Returns:
            name (of the class), deep_supervision (whether it predicts at several scales),
            output_scales (how many), parameters (how many numbers); and output_strides,
            size_multiple, and of the config architecture, in_channels and out_channels.
        """
        info = {
            "name": type(self).__name__,
            "deep_supervision": self.supports_deep_supervision,
            "output_scales": self.output_scales,
            "parameters": sum(p.numel() for p in self.parameters()),
            "output_strides": self.output_strides,
            "size_multiple": self.size_multiple,
        }
        if self.config is not None:
            for field in ("architecture", "in_channels", "out_channels"):
                info[field] = getattr(self.config, field)
        return info


def finest(outputs: Tensor | dict[str, Tensor]) -> Tensor:
    """The output at full resolution of what a network returns."""
    return outputs["output"] if isinstance(outputs, dict) else outputs


def require_image_size(config: ModelConfig) -> Triple:
    """The image size that a network is built for; ValueError if the config has none."""
    if config.image_size is None:
        raise ValueError(
            f"expected an image_size for {config.architecture} (train.py takes data.patch_size), "
            "got None"
        )
    return config.image_size
