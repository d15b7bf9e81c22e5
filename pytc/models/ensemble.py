"""Several networks as one, whose probabilities are the mean of theirs."""

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from pytc.models.base import ConnectomicsModel, finest

LEAST = 1e-7  # probability whose logit is still finite in float32


class Ensemble(ConnectomicsModel):
    """Networks that predict the same channels; for prediction alone.

    Args:
        members: two or more.
        channels: of each, those that are averaged; the networks may have others behind them.
        activation: by which the logits become probabilities.
        scale: factor of the logits before that.
    """

    def __init__(
        self,
        members: Sequence[ConnectomicsModel],
        channels: int,
        activation: Literal["sigmoid", "softmax"],
        scale: float,
    ) -> None:
        coarsest = zip(*(member.size_multiple for member in members))
        super().__init__(members[0].config, None, tuple(math.lcm(*along) for along in coarsest))
        self.networks = list(members)
        self.members = nn.ModuleList(members)  # so that they move to a device together
        self.channels = channels
        self.activation = activation
        self.scale = scale

    def require_size(self, size: tuple[int, ...]) -> None:
        """ValueError unless every network can take an image of this size."""
        for member in self.networks:
            member.require_size(size)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, Z, Y, X) -> (B, channels, Z, Y, X): the logits of the mean."""
        mean = torch.stack([self._probability(member(x)) for member in self.networks]).mean(0)
        if self.activation == "softmax":  # the softmax of these logarithms is the mean again
            logits = mean.clamp(min=LEAST).log()
        else:
            logits = torch.logit(mean, eps=LEAST)
        return logits / self.scale

    def _probability(self, output: Tensor | dict[str, Tensor]) -> Tensor:
        logits = finest(output)[:, : self.channels].float() * self.scale
        return torch.softmax(logits, 1) if self.activation == "softmax" else torch.sigmoid(logits)
