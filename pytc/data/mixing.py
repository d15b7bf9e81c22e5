"""Several datasets as one, in which sample n is a function of n (and a seed and an epoch) alone.

A dataset whose attribute `endless` is true answers any number; any other has `len` items. A mix of
endless datasets is endless too, and then its length only says how many samples make an epoch. A mix
of others goes on as well: number n beyond its length is sample n - length of the next epoch.
"""

import itertools
import math
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch.utils.data import Dataset

from pytc.checks import require
from pytc.data.counter_random import SampleRandom, sample_key, shuffled

SHARE_BITS = 40  # shares are whole numbers of 2^-40, so that counts are exact at any sample number


class _Mix(Dataset):
    """`pick(n)` says which dataset sample n of all epochs comes from, and which item it is there.

    The epoch lies in memory shared with worker processes, so that one that lives on sees it.
    """

    def __init__(self, datasets: Sequence[Dataset], length: int | None, default: int):
        self.datasets = list(datasets)
        self.length = default if length is None else length
        self.endless = all(map(_is_endless, self.datasets))
        lengths = [len(dataset) for dataset in self.datasets]
        require(min(lengths) > 0, "datasets with items", lengths)
        require(self.length > 0, "a length of 1 or more", length)
        self.epoch = torch.zeros((), dtype=torch.int64)
        if not self.endless:
            self.epoch.share_memory_()

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch, from 0 up, whose samples the numbers from 0 up are.

        Call it before each epoch, as with torch's DistributedSampler; without it every epoch is the
        first one.
        """
        require(epoch >= 0, "an epoch of 0 or more", epoch)
        self.epoch.fill_(epoch)

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[Any]:
        return (self[n] for n in range(self.length))

    def __getitem__(self, n: int):
        if n < -self.length:
            raise IndexError(f"expected an index of {-self.length} or more, got {n}")
        if n < 0:  # counted from the end, as everywhere in Python
            n += self.length
        dataset, item = self.pick(self.epoch.item() * self.length + n)
        return dataset[item]


class WeightedConcatDataset(_Mix):
    """Takes samples from each dataset in proportion to its weight, in a random order.

    Every epoch holds each dataset's share, to within two samples, in an order of its own.
    The items of a dataset come in random order too, all once before any comes again, epochs apart
    or not: no item is left out. Where all datasets are endless, the dataset of sample n is drawn by
    a hash of (seed, n), and asked for its item n.

    weights: shares of any sum, none negative and not all 0. length: samples in an epoch, by default
    the length of the smallest dataset. ValueError where they make no sense.

    >>> mixed = WeightedConcatDataset(["abcd", "XY"], weights=[2, 1], length=6)
    >>> sorted(mixed)
    ['X', 'Y', 'a', 'b', 'c', 'd']
    """

    def __init__(
        self,
        datasets: Sequence[Dataset],
        weights: Sequence[float],
        length: int | None = None,
        *,
        seed: int = 0,
    ):
        weights = tuple(weights)
        count = len(datasets)
        require(0 < count == len(weights), f"a weight for each of {count} datasets", weights)
        positive = all(math.isfinite(weight) and weight >= 0 for weight in weights)
        require(positive and any(weights), "weights from 0 up, and not all 0", weights)
        super().__init__(datasets, length, min(map(len, datasets)))
        self.seed = seed
        total = math.fsum(weights)
        self.bounds = [bound / total for bound in itertools.accumulate(weights)][:-1]
        self.shares = [_share(weight, weights[i:]) for i, weight in enumerate(weights)]

    def pick(self, n: int) -> tuple[Dataset, int]:
        if self.endless:
            key = torch.tensor([sample_key(self.seed, 0, n)])
            draw = SampleRandom(key, "mixing").uniform().item()
            return self.datasets[bisect_right(self.bounds, draw)], n
        epoch, place = divmod(n, self.length)
        turn = epoch * self.length + shuffled(place, self.length, f"epoch {self.seed} {epoch}")
        number, taken = self._dataset_at(turn)
        dataset = self.datasets[number]
        if _is_endless(dataset):
            return dataset, taken
        times, place = divmod(taken, len(dataset))
        return dataset, shuffled(place, len(dataset), f"items {self.seed} {number} {times}")

    def _dataset_at(self, turn: int) -> tuple[int, int]:
        """Whose turn it is, and how many turns it had before.

        The first dataset has floor(t x share) of the first t turns, evenly spread; the rest is
        shared out among the others in the same way.
        """
        for number, share in enumerate(self.shares):
            taken = turn * share >> SHARE_BITS
            if (turn + 1) * share >> SHARE_BITS > taken:
                return number, taken
            turn -= taken
        raise AssertionError("the last dataset with a weight takes what is left")


class StratifiedConcatDataset(_Mix):
    """Takes each dataset in turn: sample n is item n // k of dataset n % k, of k datasets.

    A dataset shorter than its share is gone through again. length: samples in an epoch, by default
    the sum of all lengths.
    """

    def __init__(self, datasets: Sequence[Dataset], length: int | None = None):
        require(len(datasets) > 0, "at least one dataset", datasets)
        super().__init__(datasets, length, sum(map(len, datasets)))

    def pick(self, n: int) -> tuple[Dataset, int]:
        item, turn = divmod(n, len(self.datasets))
        dataset = self.datasets[turn]
        return dataset, item if _is_endless(dataset) else item % len(dataset)


def _is_endless(dataset: Dataset) -> bool:
    return getattr(dataset, "endless", False)  # foreign datasets lack the attribute


def _share(weight: float, rest: Sequence[float]) -> int:
    """What a dataset takes of what is left for it and for those after it, in 2^-SHARE_BITS."""
    left = math.fsum(rest)
    return round(weight / left * (1 << SHARE_BITS)) if left > 0 else 0
