"""The DataLoader of a rank, and a first look at the patches that it will load."""

from collections.abc import Iterable

import torch
from torch.utils.data import DataLoader, Dataset

from pytc import hardware
from pytc.config import Config
from pytc.data.patches import TrainingPatches
from pytc.training import distributed
from pytc.training.distributed import Ranks

# A fork would copy the locks of tensorstore's threads and of the main process, but not the threads.
START_METHOD = "forkserver"


def make_loader(
    dataset: Dataset,
    config: Config,
    device: torch.device,
    ranks: Ranks,
    sampler: Iterable[int] | None = None,
) -> DataLoader:
    """Load batches of loop.batch_size samples.

    Args:
        dataset: its items are dictionaries of arrays.
        config: of the run.
        device: batches for a GPU are put into pinned memory.
        ranks: the loaders of all ranks of this machine share its cores.
        sampler: numbers of the samples; by default each item of the dataset, in order.
    """
    workers = hardware.choose_workers(config.system, device, ranks.local_world)
    has_workers = workers > 0
    if has_workers:
        distributed.start_forkserver()
    return DataLoader(
        dataset,
        config.loop.batch_size,
        sampler=sampler,
        num_workers=workers,
        pin_memory=device.type == "cuda",
        multiprocessing_context=START_METHOD if has_workers else None,
        worker_init_fn=distributed.live_with_parent if has_workers else None,
        persistent_workers=has_workers,
    )


def read_first_patches(*mixes: TrainingPatches | None) -> None:
    """Read a patch of each volume; ValueError for one that cannot be read or has no labels."""
    for mix in mixes:
        if mix is not None:
            for patches in mix.datasets:
                patches[0]
