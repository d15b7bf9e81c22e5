"""Overlapping windows become one prediction: each voxel is a weighted mean over its windows.

Blocks are taken from top to bottom, along the first axis. A window that reaches below its block
adds to the sums of the block below, too, and these are kept:

      +-------------+
      |    block    |   done: its sums become affinities
      +--+-------+--+
      |  |window |  |   the block below begins with what such windows have added to it
      +--+-------+--+

At each voxel windows are added in raster order, whatever the blocks are, so blocks do not change a
bit of the sums.
"""

from dataclasses import dataclass
from itertools import product

import numpy as np
import torch

from pytc.config import Triple
from pytc.geometry import Box, window_starts

ACTIVATED_AT_ONCE = 2**18  # values: they stay in the cache of a core from step to step


@dataclass(frozen=True)
class Grid:
    """The windows of a whole volume.

    Attributes:
        shape: (Z, Y, X) of the volume, no smaller than a window.
        window: voxels of each window.
        stride: voxels from one window to the next; the last one ends where the volume ends.
    """

    shape: Triple
    window: Triple
    stride: Triple

    def starts(self, axis: int, box: Box) -> list[int]:
        """Where the windows start along an axis that touch a box."""
        low, high = box.start[axis], box.stop[axis]
        return window_starts(self.shape[axis], self.window[axis], self.stride[axis], low, high)

    def layer(self, start: int, box: Box) -> list[Box]:
        """The windows from plane `start` on that touch a box in the other two axes."""
        corners = product((start,), self.starts(1, box), self.starts(2, box))
        return [Box(corner, tuple(map(sum, zip(corner, self.window)))) for corner in corners]

    def region(self, layers: list[int], box: Box) -> Box:
        """All voxels of the windows of some layers that touch a box."""
        first, last = self.layer(layers[0], box)[0], self.layer(layers[-1], box)[-1]
        return Box(first.start, last.stop)


class Sums:
    """Weighted sums of logits over the windows of a block, on the device of the network.

    Args:
        grid: all windows.
        weights: (Z, Y, X) float32 of a window.
        channels: of the logits.
        depth: planes of the highest block.
        device: where the sums are.
    """

    def __init__(
        self, grid: Grid, weights: np.ndarray, channels: int, depth: int, device: torch.device
    ) -> None:
        self.grid = grid
        self.weights = torch.from_numpy(weights).to(device)
        self.planes = depth + grid.window[0]
        self.channels = channels
        self.device = device
        self.box = Box((0, 0, 0), (0, 0, 0))
        self.values = torch.empty(0, device=device)  # (channels, planes, Y, X)
        # (window, Y, X): the weights of all windows of a layer, the same for each layer of a column
        self.layer_weights = torch.empty(0, device=device)

    def begin(self, box: Box, *, goes_on: bool) -> None:
        """Turn to another block; with `goes_on` it is the one below, and its sums are kept."""
        if goes_on:
            step = box.start[0] - self.box.start[0]
            kept = self.planes - step
            for first in range(0, kept, step):  # parts that do not overlap
                last = min(first + step, kept)
                self.values[:, first:last] = self.values[:, first + step : last + step]
            self.values[:, kept:] = 0
        else:
            shape = (self.channels, self.planes, *box.shape[1:])
            if self.values.shape == shape:
                self.values.zero_()
            else:
                self.values = torch.empty(0)  # the old ones go first
                self.values = torch.zeros(shape, device=self.device)
            self.layer_weights = self._layer_weights(box)
        self.box = box

    def add(self, window: Box, logits: torch.Tensor) -> None:
        """Add the logits (channels, Z, Y, X) float32 of one window."""
        below = Box(self.box.start, (window.stop[0], *self.box.stop[1:]))
        part = window.intersection(below)
        assert part is not None, "every window touches the block"
        inside = part.seen_from(window)
        sums = self.values[part.seen_from(self.box).channel_slices]
        sums.addcmul_(logits[inside.channel_slices].to(self.device), self.weights[inside.slices])

    def activated(self, scale: float, activation: str) -> torch.Tensor:
        """sigmoid or softmax of scale x the mean logits, float16 (channels, *block)."""
        shape = self.box.shape
        factors = scale / self._norm()
        result = torch.empty((self.channels, *shape), dtype=torch.float16, device=self.device)
        step = max(1, ACTIVATED_AT_ONCE // (self.channels * shape[1] * shape[2]))
        for first in range(0, shape[0], step):
            planes = slice(first, min(first + step, shape[0]))
            logits = self.values[:, planes] * factors[planes]
            result[:, planes] = logits.softmax(0) if activation == "softmax" else logits.sigmoid_()
        return result

    def _layer_weights(self, box: Box) -> torch.Tensor:
        """The sum of the weights of a layer's windows at each voxel of a column."""
        total = torch.zeros((self.grid.window[0], *box.shape[1:]), device=self.device)
        for window in self.grid.layer(0, box):
            column = Box((0, *box.start[1:]), (self.grid.window[0], *box.stop[1:]))
            part = window.intersection(column)
            assert part is not None, "every window touches the column"
            inside = self.weights[part.seen_from(window).slices]
            total[part.seen_from(column).slices] += inside
        return total

    def _norm(self) -> torch.Tensor:
        """The sum of all weights at each voxel of the block."""
        total = torch.zeros(self.box.shape, device=self.device)
        top, bottom = self.box.start[0], self.box.stop[0]
        for start in self.grid.starts(0, self.box):
            first, last = max(start, top), min(start + self.grid.window[0], bottom)
            weights = self.layer_weights[first - start : last - start]
            total[first - top : last - top] += weights
        return total


def blending_weights(window: tuple[int, ...], kind: str) -> np.ndarray:
    """Weights of `window`'s voxels, float32 in (0, 1], largest at the centre.

    They are the same seen from either side. `distance`: chessboard distance to the nearest voxel
    outside (the distance transform of BANIS); `gaussian`: a Gaussian of one eighth of the window
    (nnU-Net's importance map), no smaller than 1e-3.
    """
    if kind == "distance":
        ramps = [np.minimum(np.arange(n) + 1, n - np.arange(n)) for n in window]
        weights = np.min(np.stack(np.meshgrid(*ramps, indexing="ij")), axis=0).astype(np.float32)
        return weights / weights.max()
    bells = [np.exp(-0.5 * ((np.arange(n) - (n - 1) / 2) / (n / 8)) ** 2) for n in window]
    weights = np.prod(np.stack(np.meshgrid(*bells, indexing="ij")), axis=0)
    return np.maximum(weights / weights.max(), 1e-3).astype(np.float32)
