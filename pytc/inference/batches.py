"""Windows of a block in batches through the network, smaller ones where memory runs out."""

import logging
from collections.abc import Iterator, Sequence

import torch

from pytc.geometry import Box
from pytc.inference.flips import Network

LOGGER = logging.getLogger(__name__)


class Batches:
    """Predicts windows, `size` at once.

    Where the memory of the device does not suffice, batches have half the windows from then on.
    """

    def __init__(self, network: Network, size: int) -> None:
        self.network = network
        self.size = size
        self.patches = torch.empty(0)  # (size, C, *window), for one batch after another

    def predict(
        self, pixels: torch.Tensor, corner: tuple[int, ...], windows: Sequence[Box]
    ) -> Iterator[tuple[Box, torch.Tensor]]:
        """(window, logits (N, *window) float32) of each window, on the device of the pixels.

        Args:
            pixels: (C, Z, Y, X) float32.
            corner: where they start in the volume.
            windows: inside of the pixels, of one size.

        Raises:
            torch.OutOfMemoryError: not even one window fits.
        """
        parts = [window.moved(tuple(-c for c in corner)).channel_slices for window in windows]
        first = 0
        while first < len(windows):
            count = min(self.size, len(windows) - first)
            patches = self._patches(pixels, parts[first : first + count])
            logits = self._logits(patches)
            if logits is None:
                self._halve(count)
                continue
            yield from zip(windows[first : first + count], logits)
            first += count

    def _patches(self, pixels: torch.Tensor, parts: list[tuple[slice, ...]]) -> torch.Tensor:
        """Copies of parts of the pixels, in memory that is used again."""
        shape = (len(parts), *pixels[parts[0]].shape)
        if self.patches.shape[1:] != shape[1:] or len(self.patches) < len(parts):
            self.patches = torch.empty(shape, device=pixels.device)
        for patch, part in zip(self.patches, parts):
            patch.copy_(pixels[part])
        return self.patches[: len(parts)]

    def _logits(self, patches: torch.Tensor) -> torch.Tensor | None:
        """None where memory runs out, and a smaller batch may fit."""
        try:
            return self.network(patches).float()
        except torch.OutOfMemoryError:
            if len(patches) == 1:
                raise
            return None

    def _halve(self, count: int) -> None:
        self.size = count // 2
        self.patches = torch.empty(0)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        windows = "1 window" if self.size == 1 else f"{self.size} windows"
        LOGGER.warning(
            f"out of memory with {count} windows at once: going on with {windows} "
            f"(--inference.batch-size {self.size})"
        )
