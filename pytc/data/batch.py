"""What happens to a batch between loader and network: grey values, augmentation, targets."""

from typing import Any

import torch

from pytc.config import Config
from pytc.data.augment import augment, section_axis
from pytc.data.counter_random import sample_key
from pytc.data.sources import training_voxel_size
from pytc.data.targets import make_targets
from pytc.io.intensity import UINT8, to_float32


class Preparation:
    """Makes of a loaded batch what the network takes.

    A sample follows from its number alone, wherever and whenever it is made.
    """

    def __init__(self, config: Config, device: torch.device, samples_per_step: int):
        """samples_per_step: of all ranks and accumulated batches. From it and a sample's number
        follow the step and the index of the sample, and from them its augmentation.
        """
        self.config = config
        self.device = device
        self.samples_per_step = samples_per_step
        self.voxel_size = training_voxel_size(config.data)

    def plain(self, batch: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
        """A batch as it is: image (B, C, Z, Y, X) float32, labels (B, Z, Y, X) int32."""
        image, labels = self._move(batch)
        if image.dtype == torch.uint8:
            image = to_float32(image, UINT8)
        return image, labels

    def augmented(self, batch: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
        """A batch after augmentation, of the same shapes and dtypes as from `plain`."""
        numbers = batch["number"].tolist()
        keys = torch.tensor([sample_key(*self.sample_of(number)) for number in numbers])
        image, labels = self._move(batch)
        image, moved = augment(image, labels, keys, self.config.augment, self.voxel_size)
        assert moved is not None  # as labels were given
        return image, moved

    def _move(self, batch: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
        """Image and labels on the device."""
        image = batch["image"].to(self.device, non_blocking=True)
        labels = batch["labels"].to(self.device, non_blocking=True)
        return image, labels

    def targets(
        self, labels: torch.Tensor, scales: tuple[tuple[int, ...], ...]
    ) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """(target, valid) for each scale, see `make_targets`."""
        axis = section_axis(self.voxel_size)
        return make_targets(labels, self.config.target, scales, axis, self.voxel_size)

    def sample_of(self, number: int) -> tuple[int, int, int]:
        """The (seed, step, index) of the sample with this number."""
        return self.config.loop.seed, *divmod(number, self.samples_per_step)
