"""Test-time augmentation: the mean over orientations of the image, edge by edge.

An orientation exchanges axes, and mirrors some of them. An affinity is stored at one end of its
edge, in the channel of its offset. Seen from another side the edge has another offset:

    mirrored along y     (0, 1, 0) is (0, -1, 0): the same channel, stored at the edge's other end
    y and x exchanged    (0, 1, 0) is (0, 0, 1): another channel
    z and x exchanged    (0, 0, 10) is (10, 0, 0): another channel, or none

So each prediction is read in the channel that has the edge, and moved back by the offset where it
is stored at the other end. Without that the average would be off by voxels.
"""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import permutations, product
from typing import Literal, NamedTuple

import torch

from pytc.config import Lengths, Triple
from pytc.geometry import as_triple, pairs

Network = Callable[[torch.Tensor], torch.Tensor]
Activation = Literal["sigmoid", "softmax"]


class Orientation(NamedTuple):
    """How an image is seen: axis i of what the network sees is axis order[i] of the image.

    mirrored: of the axes that the network sees.
    """

    order: Triple
    mirrored: tuple[bool, ...]

    def of(self, image: torch.Tensor) -> torch.Tensor:
        """An image (B, C, Z, Y, X) as the network sees it."""
        seen = image.permute(0, 1, *(2 + axis for axis in self.order))
        return seen.flip(self._mirrored_dims)

    def back(self, prediction: torch.Tensor) -> torch.Tensor:
        """A prediction (B, N, ...) of what was seen, on the voxels of the image."""
        unmirrored = prediction.flip(self._mirrored_dims)
        return unmirrored.permute(0, 1, *(2 + self.order.index(axis) for axis in range(3)))

    def offset_of(self, offset: Triple) -> Triple:
        """The offset of an edge, as the network sees it."""
        signs = (-1 if mirrored else 1 for mirrored in self.mirrored)
        return as_triple(sign * offset[axis] for sign, axis in zip(signs, self.order))

    @property
    def _mirrored_dims(self) -> list[int]:
        return [2 + axis for axis, mirrored in enumerate(self.mirrored) if mirrored]


IDENTITY = Orientation((0, 1, 2), (False, False, False))
MIRRORINGS = tuple(Orientation((0, 1, 2), flips) for flips in product((False, True), repeat=3))


def orientations(
    *, flips: bool, exchange_axes: bool, voxel_size: Lengths | None, window: Triple
) -> tuple[Orientation, ...]:
    """The orientations to average over, that of the image first.

    Args:
        flips: mirror each axis: 8 times the orientations.
        exchange_axes: exchange axes with voxels of one size, and windows of one length: up to 6
            times the orientations.
        voxel_size: nm, None for voxels of equal sides.
        window: voxels.
    """
    alike = list(zip(voxel_size or (1.0, 1.0, 1.0), window))
    orders: Iterable[tuple[int, ...]] = [(0, 1, 2)]
    if exchange_axes:
        orders = [
            order
            for order in permutations(range(3))
            if all(alike[axis] == alike[other] for axis, other in enumerate(order))
        ]
    mirrorings = product((False, True), repeat=3) if flips else [(False,) * 3]
    return tuple(
        Orientation(as_triple(order), mirrored) for mirrored, order in product(mirrorings, orders)
    )


def averaged(
    network: Network,
    offsets: Sequence[Triple],
    seen: Sequence[Orientation] = MIRRORINGS,
    activation: Activation = "sigmoid",
    channels: Sequence[int] | None = None,
) -> Network:
    """A network whose probabilities are the mean over orientations of its input.

    Input (B, C, Z, Y, X), output logits (B, N, Z, Y, X). An edge counts in those orientations in
    which it is an edge of a channel, inside the window.

    Args:
        network: gives logits for each of the offsets.
        offsets: one for each channel, (0, 0, 0) for one that is no affinity.
        seen: the orientations; the first one is that of the image.
        channels: those that are returned; None for all.
    """
    if channels is None:
        channels = range(len(offsets))
    return partial(_averaged, network, offsets, seen, activation, list(channels))


def _averaged(
    network: Network,
    offsets: Sequence[Triple],
    seen: Sequence[Orientation],
    activation: Activation,
    channels: list[int],
    x: torch.Tensor,
) -> torch.Tensor:
    total = _probability(network, x, seen[0], activation)[:, channels]
    count = torch.ones_like(total[:1])
    for orientation in seen[1:]:
        probability = _probability(network, x, orientation, activation)
        for to, channel in enumerate(channels):
            place = _place_of(channel, orientation, offsets)
            if place is None:
                continue
            source, move = place
            here, there = pairs(move, probability.shape[2:])
            total[:, to][here] += probability[:, source][there]
            count[:, to][here] += 1
    mean = total / count
    if activation == "softmax":  # the softmax of these logarithms is the mean again
        return mean.clamp(min=1e-7).log()
    return torch.logit(mean, eps=1e-7)


def _probability(
    network: Network, x: torch.Tensor, orientation: Orientation, activation: Activation
) -> torch.Tensor:
    """The prediction for the image as it is seen, on the voxels of the image."""
    logits = orientation.back(network(orientation.of(x).contiguous()).float())
    if activation == "softmax":
        return torch.softmax(logits, 1)
    return torch.sigmoid(logits)


def _place_of(
    channel: int, orientation: Orientation, offsets: Sequence[Triple]
) -> tuple[int, Triple] | None:
    """The channel that an edge is in when it is seen so, and how far its place has moved.

    None if no channel has the edge. An edge may be stored at its other end: then its offset is the
    opposite one.
    """
    offset = as_triple(offsets[channel])
    if offset == (0, 0, 0):
        return channel, offset
    now = orientation.offset_of(offset)
    opposite = as_triple(-o for o in now)
    candidates = [channel, *range(len(offsets))]  # of equal offsets the channel itself
    for other in candidates:
        if as_triple(offsets[other]) == now:
            return other, (0, 0, 0)
        if as_triple(offsets[other]) == opposite:
            return other, offset
    return None
