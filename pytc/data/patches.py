"""Random crops of labelled volumes.

Sample n is a function of (seed, n) alone, so any worker or rank can make it.
"""

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from torch.utils.data import Dataset

from pytc.checks import require
from pytc.config import Config, Triple, VolumeConfig
from pytc.data.mixing import StratifiedConcatDataset, WeightedConcatDataset
from pytc.data.shared_memory import shared_sources
from pytc.data.sources import Source, open_source
from pytc.geometry import Box
from pytc.io.labels import UNLABELLED, is_unlabelled
from pytc.target_kinds import target_kind

VALIDATION_STREAM = 1


@dataclass(eq=False)
class PatchDataset(Dataset):
    """Crops of one volume at random positions.

    Sample n is {"image": (C, Z, Y, X) float32 with the volume's grey range as 0 to 1, or uint8 with
    0 to 255 as this range, "labels": (Z, Y, X) int32 with 0 background and -1 unlabelled,
    "number": n}. keep_uint8: whether such uint8 is left for the device to map. A crop needs a share
    of at least `min_labelled` foreground voxels; where `max_tries` positions do not give one, the
    best of them is taken, and ValueError raised if that has none at all. With `classes`, a label of
    that number or above is a ValueError.
    """

    source: Source
    patch_size: Triple
    seed: int
    stream: int = 0
    min_labelled: float = 0.0
    max_tries: int = 20
    classes: int | None = None
    keep_uint8: bool = True
    # any sample number is valid, however many the length says make an epoch
    endless: ClassVar[bool] = True

    def __post_init__(self):
        require(
            self.source.labels, f"labels for the volume {self.source.name}, by data.*.labels", None
        )

    def __len__(self) -> int:
        """Samples in an epoch, which draws as many voxels as the volume holds."""
        return max(1, round(math.prod(self.source.shape) / math.prod(self.patch_size)))

    def __getitem__(self, n: int) -> dict:
        rng = np.random.Generator(
            np.random.Philox(key=[self.seed, self.stream], counter=[0, 0, 0, n])
        )
        room = [max(0, size - patch) for size, patch in zip(self.source.shape, self.patch_size)]
        size = tuple(map(min, self.patch_size, self.source.shape))
        best, best_share = None, 0.0
        for _ in range(self.max_tries):
            start = tuple(int(rng.integers(r + 1)) for r in room)
            crop = Box(start, tuple(map(sum, zip(start, size))))
            labels = self._labels(crop)
            share = np.count_nonzero(labels > 0) / math.prod(self.patch_size)
            if share > best_share:
                best, best_share = (crop, labels), share
            if best_share >= max(self.min_labelled, 1e-12):
                break
        require(
            best,
            f"labelled voxels in {self.source.labels.path}, or a larger data.max_tries where they "
            "are sparse",
            f"none in {self.max_tries} patches of {self.patch_size}",
        )
        crop, labels = best
        read = self.source.read
        if self.keep_uint8 and self.source.stays_uint8:
            read = self.source.image.read
        image = read(crop.start, crop.stop)
        missing = [(0, p - s) for p, s in zip(self.patch_size, size)]
        return {
            "image": np.pad(image, [(0, 0), *missing], mode="reflect"),
            "labels": np.pad(labels, missing, constant_values=UNLABELLED),
            "number": n,
        }

    def _labels(self, crop: Box) -> np.ndarray:
        stored = self.source.labels[crop.slices]
        labels = compact_labels(stored)
        if self.source.mask is not None:
            labels[self.source.mask[crop.slices] == 0] = UNLABELLED
        if self.classes is not None:
            largest = int(stored.max(initial=0, where=labels != UNLABELLED))
            require(
                largest < self.classes,
                f"class ids below {self.classes} (target.classes), -1 or a mask where there are "
                f"none, in {self.source.labels.path}",
                largest,
            )
        return labels


def compact_labels(labels: np.ndarray) -> np.ndarray:
    """Labels as int32, same partition: ids that do not fit are renumbered within the patch.

    0 stays, and what `is_unlabelled` becomes -1.
    """
    largest = np.iinfo(np.int32).max
    if labels.dtype.kind == "b" or np.iinfo(labels.dtype).max <= largest:
        return np.maximum(labels.astype(np.int32), UNLABELLED)
    unlabelled = is_unlabelled(labels)
    compact = np.where(unlabelled, 0, labels)
    if compact.size and compact.max() > largest:
        ids, inverse = np.unique(compact, return_inverse=True)
        compact = np.cumsum(ids > 0)[inverse].reshape(labels.shape)
    compact = compact.astype(np.int32)
    compact[unlabelled] = UNLABELLED
    return compact


def step_numbers(
    first_step: int, batch_size: int, accumulate: int = 1, rank: int = 0, world: int = 1
) -> Iterator[int]:
    """The sample numbers of one rank, step by step from `first_step` on, without end.

    Step s consists of the numbers [s x G, (s + 1) x G), G = world x accumulate x batch; they are
    dealt to ranks in such a way that every rank and every accumulated batch has its own, and that
    the step as a whole is the same for any number of ranks.
    """
    for batch in itertools.count(first_step * accumulate):
        first = (batch * world + rank) * batch_size
        yield from range(first, first + batch_size)


def train_dataset(config: Config, chunk_memory: int = 0, once_a_node=None) -> Dataset:
    """The training volumes of a config, mixed as it says.

    A process that reads keeps up to `chunk_memory` bytes of decoded chunks; once_a_node as in
    `shared_sources`.
    """
    data = config.data
    parts = _datasets(config, data.train, 0, chunk_memory, once_a_node)
    if data.mixing == "stratified":
        return StratifiedConcatDataset(parts)
    weights = [volume.weight for volume in data.train]
    length = sum(map(len, parts))  # an epoch draws as many voxels as all volumes hold
    return WeightedConcatDataset(parts, weights, length, seed=config.loop.seed)


def val_dataset(config: Config, chunk_memory: int = 0, once_a_node=None) -> Dataset | None:
    """Fixed crops of the validation volumes that have labels, each volume in turn.

    None if none has.
    """
    parts = _datasets(config, config.data.validation, VALIDATION_STREAM, chunk_memory, once_a_node)
    return StratifiedConcatDataset(parts) if parts else None


def _datasets(
    config: Config, volumes: tuple[VolumeConfig, ...], stream: int, chunk_memory: int, once_a_node
) -> list:
    """Crops of each volume.

    Memory for decoded chunks is shared out in proportion to the volumes' bytes.
    """
    data, target = config.data, config.target
    # with two classes, any label above 0 is class 1
    has_ids = target_kind(target.kind).has_classes and target.classes > 2
    sources = [open_source(volume, data, config.model.in_channels) for volume in volumes]
    if stream == VALIDATION_STREAM:
        sources = [source for source in sources if source.labels is not None]
    if data.cache == "memory":
        sources = shared_sources(sources, once_a_node)
    arrays = [array for source in sources for array in source.parts.values()]
    sizes = [math.prod(array.shape) * array.dtype.itemsize for array in arrays]
    for array, size in zip(arrays, sizes):
        array.keep_decoded(chunk_memory * size // sum(sizes))
    return [
        PatchDataset(
            source,
            data.patch_size,
            seed=config.loop.seed,
            stream=stream,
            min_labelled=data.min_labelled,
            max_tries=data.max_tries,
            classes=target.classes if has_ids else None,
            # a batch is of one dtype
            keep_uint8=all(source.stays_uint8 for source in sources),
        )
        for source in sources
    ]
