"""Random crops of labelled volumes.

Sample n is a function of (seed, n) alone, so any worker or rank can make it.
"""

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import numpy as np
from torch.utils.data import Dataset

from pytc.checks import require
from pytc.config import Config, Triple, VolumeConfig
from pytc.data.mixing import StratifiedConcatDataset, WeightedConcatDataset
from pytc.data.shared_memory import OnceANode, shared_sources
from pytc.data.sources import Source, open_source
from pytc.geometry import Box
from pytc.io.labels import UNLABELLED, is_unlabelled
from pytc.io.placed import PlacedVolume, label_boxes
from pytc.target_kinds import target_kind

VALIDATION_STREAM = 1

TrainingPatches = StratifiedConcatDataset | WeightedConcatDataset


@dataclass(eq=False)
class PatchDataset(Dataset[dict[str, Any]]):
    """Crops of one volume at random positions. Sample n is a dictionary:

    - image: (C, Z, Y, X) float32, in which 0 and 1 are the ends of the volume's grey range. Or
      uint8, in which 0 and 255 are the ends, if `keep_uint8` and the volume is such.
    - labels: (Z, Y, X) int32, 0 = background, -1 = unlabelled.
    - number: n.

    Labels that are smaller than their image are unlabelled outside. A crop then has its centre in
    them, and reaches into the image around them.
    """

    source: Source  # with labels, else ValueError
    patch_size: Triple
    seed: int
    stream: int = 0  # another stream draws other crops
    min_labelled: float = 0.0  # share of foreground voxels of a crop that is accepted at once
    # Crops that are tried. If none is accepted, the one with the largest share is taken; if all
    # have no foreground, ValueError.
    max_tries: int = 20
    classes: int | None = None  # if given, a label of this number or above is a ValueError
    keep_uint8: bool = True  # leave it to the device to map uint8 to float32
    # any sample number is valid, although len() says how many make an epoch
    endless: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.source.labels is None:
            raise ValueError(
                f"expected labels for the volume {self.source.name}, by data.*.labels, got None"
            )
        self.labels = self.source.labels
        self.labelled = label_boxes(self.labels)

    def __len__(self) -> int:
        """Samples in an epoch, which draws as many voxels as the volume's labels have."""
        voxels = sum(math.prod(box.shape) for box in self.labelled)
        return max(1, round(voxels / math.prod(self.patch_size)))

    def __getitem__(self, n: int) -> dict[str, Any]:
        crop, labels = self._draw(n)
        read = self.source.read
        if self.keep_uint8 and self.source.stays_uint8:
            read = self.source.image.read
        image = read(cast(Triple, crop.start), cast(Triple, crop.stop))
        # a volume smaller than the patch is continued by its mirror image, without labels
        missing = [(0, patch - size) for patch, size in zip(self.patch_size, crop.shape)]
        return {
            "image": np.pad(image, [(0, 0), *missing], mode="reflect"),
            "labels": np.pad(labels, missing, constant_values=UNLABELLED),
            "number": n,
        }

    def _draw(self, n: int) -> tuple[Box, np.ndarray]:
        """The crop of sample n, and its labels."""
        rng = np.random.Generator(
            np.random.Philox(key=[self.seed, self.stream], counter=[0, 0, 0, n])
        )
        size = tuple(map(min, self.patch_size, self.source.shape))
        enough = max(self.min_labelled, 1e-12)
        best = None
        best_share = 0.0
        for _ in range(self.max_tries):
            start = self._draw_start(rng, size)
            crop = Box(start, tuple(a + length for a, length in zip(start, size)))
            labels = self._read_labels(crop)
            share = np.count_nonzero(labels > 0) / math.prod(self.patch_size)
            if share > best_share:
                best, best_share = (crop, labels), share
            if best_share >= enough:
                break
        if best is None:
            raise ValueError(
                f"expected labelled voxels in {self.labels.path}, or a larger data.max_tries where "
                f"they are sparse, got none in {self.max_tries} patches of {self.patch_size}"
            )
        return best

    def _draw_start(self, rng: np.random.Generator, size: tuple[int, ...]) -> tuple[int, ...]:
        """Where a crop begins: anywhere, or so that its centre lies in one of several labels.

        Each of several labels is drawn in proportion to its voxels.
        """
        room = [whole - part for whole, part in zip(self.source.shape, size)]
        if not isinstance(self.labels, PlacedVolume):
            return tuple(int(rng.integers(most + 1)) for most in room)
        voxels = np.cumsum([math.prod(box.shape) for box in self.labelled])
        box = self.labelled[int(np.searchsorted(voxels, rng.integers(voxels[-1]), "right"))]
        start = []
        for first, stop, length, most in zip(box.start, box.stop, size, room):
            lowest = min(max(first - length // 2, 0), most)
            highest = min(max(stop - 1 - length // 2, lowest), most)
            start.append(int(rng.integers(lowest, highest + 1)))
        return tuple(start)

    def _read_labels(self, crop: Box) -> np.ndarray:
        """Labels of a crop as int32, -1 where they are unlabelled or masked."""
        stored = self.labels[crop.slices]
        labels = compact_labels(stored)
        if self.source.mask is not None:
            labels[self.source.mask[crop.slices] == 0] = UNLABELLED
        if self.classes is not None:
            largest = int(stored.max(initial=0, where=labels != UNLABELLED))
            require(
                largest < self.classes,
                f"class ids below {self.classes} (target.classes), -1 or a mask where there are "
                f"none, in {self.labels.path}",
                largest,
            )
        return labels


def compact_labels(labels: np.ndarray) -> np.ndarray:
    """Labels as int32: 0 stays 0, unlabelled becomes -1, equal ids stay equal.

    Ids that are too large for int32 are numbered anew within the patch.
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
    """Yield the sample numbers of one rank, from `first_step` on, without end.

    Step s takes the numbers [s x G, (s + 1) x G) with G = world x accumulate x batch_size, whatever
    the number of ranks. No two ranks or accumulated batches get the same number.
    """
    for batch in itertools.count(first_step * accumulate):
        first = (batch * world + rank) * batch_size
        yield from range(first, first + batch_size)


def train_dataset(
    config: Config, chunk_memory: int = 0, once_a_node: OnceANode | None = None
) -> TrainingPatches:
    """Crops of the training volumes, mixed as data.mixing says.

    Args:
        config: of the run.
        chunk_memory: bytes of decoded chunks that each loader process keeps.
        once_a_node: see `shared_sources`.
    """
    data = config.data
    parts = _datasets(config, data.train, 0, chunk_memory, once_a_node)
    if data.mixing == "stratified":
        return StratifiedConcatDataset(parts)
    weights = [volume.weight for volume in data.train]
    length = sum(map(len, parts))  # an epoch draws as many voxels as all volumes hold
    return WeightedConcatDataset(parts, weights, length, seed=config.loop.seed)


def val_dataset(
    config: Config, chunk_memory: int = 0, once_a_node: OnceANode | None = None
) -> StratifiedConcatDataset | None:
    """Fixed crops of the validation volumes that have labels, from each volume in turn.

    None if no volume has labels. Arguments as for `train_dataset`.
    """
    parts = _datasets(config, config.data.validation, VALIDATION_STREAM, chunk_memory, once_a_node)
    return StratifiedConcatDataset(parts) if parts else None


def _datasets(
    config: Config,
    volumes: tuple[VolumeConfig, ...],
    stream: int,
    chunk_memory: int,
    once_a_node: OnceANode | None,
) -> list[PatchDataset]:
    """Crops of each volume. The memory for decoded chunks is divided by the volumes' bytes."""
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
