"""What happens to a batch between the loader and the network, on the device: grey values, augmentation, targets."""

from __future__ import annotations

import torch

from pytc.config import Config
from pytc.data.random import sample_key
from pytc.data.recipe import augment, section_axis
from pytc.data.sources import open_source
from pytc.data.targets import make_targets

Scales = tuple[tuple[int, int, int], ...]


class Preparation:
    """The preparation of a run's batches; the same sample comes out wherever and whenever it is made.

    samples_per_step: those of all ranks and accumulated batches together; sample `number` is then the one with index
    number % samples_per_step of step number // samples_per_step, from which its augmentation follows.
    """

    def __init__(self, config: Config, voxel_size: tuple[float, float, float], device: torch.device,
                 samples_per_step: int):  # fmt: skip
        self.config, self.voxel_size, self.device = config, voxel_size, device
        self.samples_per_step = samples_per_step

    def plain(self, batch: dict) -> tuple[torch.Tensor, torch.Tensor]:
        """A batch as it is: image (B, C, Z, Y, X) float32 in [0, 1], labels (B, Z, Y, X) int32."""
        image, labels = (batch[part].to(self.device, non_blocking=True) for part in ("image", "labels"))
        return image.float() / 255 if image.dtype == torch.uint8 else image, labels

    def augmented(self, batch: dict) -> tuple[torch.Tensor, torch.Tensor]:
        """The same, augmented as the config says."""
        image, labels = (batch[part].to(self.device, non_blocking=True) for part in ("image", "labels"))
        keys = torch.tensor([sample_key(*self.name(number)) for number in batch["number"].tolist()])
        return augment(image, labels, keys, self.config.augment, self.voxel_size)

    def targets(self, labels: torch.Tensor, scales: Scales) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """(target, valid) for each scale, as from `make_targets`."""
        return make_targets(labels, self.config.target, scales, section_axis(self.voxel_size))

    def name(self, number: int) -> tuple[int, int, int]:
        """The (seed, step, index) of a sample."""
        return self.config.loop.seed, *divmod(number, self.samples_per_step)


def training_voxel_size(config: Config) -> tuple[float, float, float]:
    """Of the voxel sizes of the training volumes, the one that allows the fewest axes to be exchanged."""
    sizes = [open_source(volume, config.data.synthetic).voxel_size for volume in config.data.train]
    return min(sizes, key=lambda size: sum(a == b for a in size for b in size))
