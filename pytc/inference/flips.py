"""Test-time augmentation by mirroring: the mean of all eight orientations, edge by edge.

An affinity is stored at one end of its edge. Mirrored along the edge's axis, the network stores it
at the other end, so the prediction moves back by the offset; without that the average would be off
by a voxel.
"""

from collections.abc import Callable, Sequence
from functools import partial
from itertools import product
from typing import Literal

import torch

from pytc.config import Triple
from pytc.geometry import as_triple, pairs

Network = Callable[[torch.Tensor], torch.Tensor]
Activation = Literal["sigmoid", "softmax"]
# Along which axes; all but the image as it is.
MIRRORINGS = tuple(flips for flips in product((False, True), repeat=3) if any(flips))


def flip_averaged(
    network: Network,
    offsets: Sequence[Triple],
    activation: Activation = "sigmoid",
) -> Network:
    """A network whose probabilities are the mean over all mirrorings of its input.

    Input (B, C, Z, Y, X), output logits (B, N, Z, Y, X); offsets: one for each channel, (0, 0, 0)
    for one that is no affinity. An edge counts in those mirrorings that map it onto an edge of the
    same channel in the window.
    """
    return partial(_averaged, network, offsets, activation)


def _averaged(
    network: Network, offsets: Sequence[Triple], activation: Activation, x: torch.Tensor
) -> torch.Tensor:
    total = _mirrored_probability(network, x, (False, False, False), activation)
    count = torch.ones_like(total[:1])
    for flips in MIRRORINGS:
        probability = _mirrored_probability(network, x, flips, activation)
        for channel, offset in enumerate(offsets):
            move = _move_back(offset, flips)
            if move is None:
                continue
            here, there = pairs(move, probability.shape[2:])
            total[:, channel][here] += probability[:, channel][there]
            count[:, channel][here] += 1
    mean = total / count
    if activation == "softmax":  # the softmax of these logarithms is the mean again
        return mean.clamp(min=1e-7).log()
    return torch.logit(mean, eps=1e-7)


def _mirrored_probability(
    network: Network, x: torch.Tensor, flips: Sequence[bool], activation: Activation
) -> torch.Tensor:
    """The prediction for the image mirrored along some axes, mirrored back."""
    dims = [2 + axis for axis, flipped in enumerate(flips) if flipped]
    logits = network(x.flip(dims)).float().flip(dims)
    if activation == "softmax":
        return torch.softmax(logits, 1)
    return torch.sigmoid(logits)


def _move_back(offset: Triple, flips: Sequence[bool]) -> Triple | None:
    """How far the affinity of an edge moved by mirroring; None if the channel has other edges then.

    A mirrored offset is the same, or the opposite one: then the edge is stored at its other end.
    """
    opposite = as_triple(-o for o in offset)
    mirrored = as_triple(-o if flipped else o for o, flipped in zip(offset, flips))
    if mirrored == offset:
        return (0, 0, 0)
    if mirrored == opposite:
        return offset
    return None
