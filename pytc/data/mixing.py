"""Several datasets as one, in which sample n is a function of n alone.

Which dataset sample n comes from is fixed by n (and a seed). A dataset whose attribute `endless` is
true answers any number, and is asked for what its mix says; any other has `len` items and is asked
for that number modulo its length. A mix of endless datasets is endless too, and then its length
only says how many samples make an epoch.
"""

import itertools
from bisect import bisect_right
from collections.abc import Sequence

import torch
from torch.utils.data import Dataset

from pytc.config import require
from pytc.data.counter_random import SampleRandom, sample_key


class _Mix(Dataset):
    """`pick(n)` says which dataset sample n comes from, and its number there.

    length: by default that of all.
    """

    def __init__(self, datasets: Sequence[Dataset], *, length: int | None = None):
        require(len(datasets) > 0, "at least one dataset", datasets)
        self.datasets = list(datasets)
        self.length = sum(map(len, datasets)) if length is None else length
        # foreign ones lack it
        self.endless = all(getattr(dataset, "endless", False) for dataset in datasets)

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, n: int):
        if n < 0 or (n >= self.length and not self.endless):
            raise IndexError(f"expected an index below {self.length}, got {n}")
        dataset, item = self.pick(n)
        return dataset[item if getattr(dataset, "endless", False) else item % len(dataset)]


class WeightedConcatDataset(_Mix):
    """Sample n comes from a dataset drawn at random by weight, by a hash of (seed, n).

    That dataset is asked for its item n.

    weights: one a dataset, from 0 up, that sum to 1 within 1e-6.
    """

    def __init__(
        self,
        datasets: Sequence[Dataset],
        weights: Sequence[float],
        *,
        seed: int = 0,
        length: int | None = None,
    ):
        require(
            0 < len(datasets) == len(weights),
            f"a weight for each of {len(datasets)} datasets",
            tuple(weights),
        )
        require(
            min(weights) >= 0 and abs(sum(weights) - 1) <= 1e-6,
            "weights from 0 up that sum to 1",
            tuple(weights),
        )
        super().__init__(datasets, length=length)
        self.bounds, self.seed = list(itertools.accumulate(weights))[:-1], seed

    def pick(self, n: int) -> tuple[Dataset, int]:
        draw = SampleRandom(torch.tensor([sample_key(self.seed, 0, n)]), "mixing").uniform().item()
        return self.datasets[bisect_right(self.bounds, draw)], n


class StratifiedConcatDataset(_Mix):
    """Takes each dataset in turn: sample n is item n // k of dataset n % k, of k datasets.

    A dataset shorter than its share is gone through again.
    """

    def pick(self, n: int) -> tuple[Dataset, int]:
        item, turn = divmod(n, len(self.datasets))
        return self.datasets[turn], item
