"""A batch between loader and network, on the device: grey values, augmentation, targets."""

import torch

from pytc.config import Config, Triple
from pytc.data.augment import augment, section_axis
from pytc.data.counter_random import sample_key
from pytc.data.sources import training_voxel_size
from pytc.data.targets import make_targets
from pytc.io.intensity import UINT8, to_float32


class Preparation:
    """The preparation of a run's batches.

    The same sample comes out wherever and whenever it is made.

    samples_per_step: those of all ranks and accumulated batches together; sample `number` is then
    the one with index number % samples_per_step of step number // samples_per_step, from which its
    augmentation follows. voxel_size: of the training volumes', in nm, the one that allows the
    fewest axes to be exchanged.
    """

    def __init__(self, config: Config, device: torch.device, samples_per_step: int):
        self.config, self.device, self.samples_per_step = config, device, samples_per_step
        self.voxel_size = training_voxel_size(config.data)

    def plain(self, batch: dict) -> tuple[torch.Tensor, torch.Tensor]:
        """A batch as it is: image (B, C, Z, Y, X) float32, labels (B, Z, Y, X) int32."""
        image, labels = self._moved(batch)
        return to_float32(image, UINT8) if image.dtype == torch.uint8 else image, labels

    def augmented(self, batch: dict) -> tuple[torch.Tensor, torch.Tensor]:
        """The same, augmented as the config says."""
        numbers = batch["number"].tolist()
        keys = torch.tensor([sample_key(*self.sample_of(number)) for number in numbers])
        return augment(*self._moved(batch), keys, self.config.augment, self.voxel_size)

    def _moved(self, batch: dict) -> list[torch.Tensor]:
        return [batch[part].to(self.device, non_blocking=True) for part in ("image", "labels")]

    def targets(
        self, labels: torch.Tensor, scales: tuple[Triple, ...]
    ) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """(target, valid) for each scale, as from `make_targets`."""
        return make_targets(labels, self.config.target, scales, section_axis(self.voxel_size))

    def sample_of(self, number: int) -> tuple[int, int, int]:
        """The (seed, step, index) of the sample with this number."""
        return self.config.loop.seed, *divmod(number, self.samples_per_step)
