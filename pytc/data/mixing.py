"""Several datasets mixed into one, in which sample n follows from n, a seed and an epoch alone.

A dataset whose attribute `endless` is true has an item for any number; any other dataset has `len`
items. A mix of endless datasets is endless too: its length only says how many samples make an
epoch. In any other mix, a number n beyond the length is sample n - length of the next epoch.
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

Items = Any  # a dataset: it has len() and items by number


class Mix(Dataset[Any]):
    """Base class of the mixed datasets; they say by `pick` where a sample comes from.

    The epoch is in memory that is shared with worker processes, so that persistent workers see it.
    """

    def __init__(self, datasets: Sequence[Items], length: int | None, default: int):
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
        """Choose the epoch (from 0) to which the sample numbers belong.

        Call it before each epoch, as with torch's DistributedSampler. Without it every epoch is the
        first one.
        """
        require(epoch >= 0, "an epoch of 0 or more", epoch)
        self.epoch.fill_(epoch)

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[Any]:
        return (self[n] for n in range(self.length))

    def pick(self, n: int) -> tuple[Items, int]:
        """The dataset of sample n, counted over all epochs, and the number of its item."""
        raise NotImplementedError

    def __getitem__(self, n: int) -> Any:
        if n < -self.length:
            raise IndexError(f"expected an index of {-self.length} or more, got {n}")
        if n < 0:  # counted from the end, as everywhere in Python
            n += self.length
        dataset, item = self.pick(int(self.epoch) * self.length + n)
        return dataset[item]


class WeightedConcatDataset(Mix):
    """Takes samples from each dataset in proportion to its weight, in a random order.

    Every epoch has another order, and has each dataset's share to within two samples. The items of
    a dataset come in random order too. All come once before any comes again, also across epochs, so
    no item is left out. If all datasets are endless, the dataset of sample n is drawn by a hash of
    (seed, n), and its item n is taken.

    Args:
        datasets: any of torch's map-style datasets.
        weights: shares of any sum; none is negative, and not all are 0.
        length: samples in an epoch; default: the length of the smallest dataset.
        seed: another seed gives another order.

    Raises:
        ValueError: an argument is out of its range.

    >>> mixed = WeightedConcatDataset(["abcd", "XY"], weights=[2, 1], length=6)
    >>> sorted(mixed)
    ['X', 'Y', 'a', 'b', 'c', 'd']
    """

    def __init__(
        self,
        datasets: Sequence[Items],
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

    def pick(self, n: int) -> tuple[Items, int]:
        if self.endless:
            key = torch.tensor([sample_key(self.seed, 0, n)])
            draw = SampleRandom(key, "mixing").uniform().item()
            return self.datasets[bisect_right(self.bounds, draw)], n
        epoch, index = divmod(n, self.length)
        turn = epoch * self.length + shuffled(index, self.length, f"epoch {self.seed} {epoch}")
        number, taken = self._dataset_at(turn)
        dataset = self.datasets[number]
        if _is_endless(dataset):
            return dataset, taken
        rounds, index = divmod(taken, len(dataset))
        return dataset, shuffled(index, len(dataset), f"items {self.seed} {number} {rounds}")

    def _dataset_at(self, turn: int) -> tuple[int, int]:
        """The number of the dataset whose turn it is, and how many turns it had before.

        The first dataset has floor(t x share) of the first t turns, evenly spread. The other turns
        are divided among the other datasets in the same way.
        """
        for number, share in enumerate(self.shares):
            taken = turn * share >> SHARE_BITS
            if (turn + 1) * share >> SHARE_BITS > taken:
                return number, taken
            turn -= taken
        raise AssertionError("the last dataset with a weight takes what is left")


class StratifiedConcatDataset(Mix):
    """Takes each dataset in turn: sample n is item n // k of dataset n % k, of k datasets.

    A dataset that is shorter than its share starts again from its first item.

    length: samples in an epoch; default: the sum of all lengths.
    """

    def __init__(self, datasets: Sequence[Items], length: int | None = None):
        require(len(datasets) > 0, "at least one dataset", datasets)
        super().__init__(datasets, length, sum(map(len, datasets)))

    def pick(self, n: int) -> tuple[Items, int]:
        item, turn = divmod(n, len(self.datasets))
        dataset = self.datasets[turn]
        return dataset, item if _is_endless(dataset) else item % len(dataset)


def _is_endless(dataset: Items) -> bool:
    return getattr(dataset, "endless", False)  # datasets from elsewhere lack the attribute


def _share(weight: float, rest: Sequence[float]) -> int:
    """A weight as a share of the sum of `rest`, in units of 2^-SHARE_BITS."""
    total = math.fsum(rest)
    if total == 0:
        return 0
    return round(weight / total * (1 << SHARE_BITS))
