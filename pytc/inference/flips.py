"""Test-time augmentation by mirroring: the mean of all eight orientations, edge by edge.

An affinity is stored at one end of its edge. Mirrored along the edge's axis, the network stores it
at the other end, so the prediction moves back by the offset; without that the average would be off
by a voxel.
"""

from collections.abc import Callable, Sequence
from itertools import product
from typing import Literal

import torch

from pytc.config import Triple
from pytc.geometry import pairs

Network = Callable[[torch.Tensor], torch.Tensor]


def flip_averaged(
    network: Network,
    offsets: Sequence[Triple],
    activation: Literal["sigmoid", "softmax"] = "sigmoid",
) -> Network:
    """A network whose probabilities are the mean over all mirrorings of its input.

    Input (B, C, Z, Y, X), output logits (B, N, Z, Y, X); offsets: one for each channel, (0, 0, 0)
    for one that is no affinity. An edge counts in those mirrorings that map it onto an edge of the
    same channel in the window.
    """

    over_classes = activation == "softmax"

    def averaged(x: torch.Tensor) -> torch.Tensor:
        total = torch.zeros(0)
        count = torch.zeros(0)
        for flips in product((False, True), repeat=3):
            dims = [2 + axis for axis, flipped in enumerate(flips) if flipped]
            logits = network(x.flip(dims)).float().flip(dims)
            probability = torch.softmax(logits, 1) if over_classes else torch.sigmoid(logits)
            if not any(flips):  # the first of them
                total = torch.zeros_like(probability)
                count = probability.new_zeros(1, *probability.shape[1:])
            for channel, offset in enumerate(offsets):
                mirrored = tuple(-o if flipped else o for o, flipped in zip(offset, flips))
                if mirrored in (offset, tuple(-o for o in offset)):
                    here, there = pairs(
                        (0, 0, 0) if mirrored == offset else offset, probability.shape[2:]
                    )
                    total[:, channel][here] += probability[:, channel][there]
                    count[:, channel][here] += 1
        mean = total / count
        # whose softmax is the mean again
        return mean.clamp(min=1e-7).log() if over_classes else torch.logit(mean, eps=1e-7)

    return averaged
