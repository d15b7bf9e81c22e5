"""The DataLoader of a rank, and a first look at the patches that it will load."""

import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch.utils.data import DataLoader, Dataset

from pytc import hardware
from pytc.config import Config
from pytc.data.patches import TrainingPatches
from pytc.training import distributed
from pytc.training.distributed import Ranks

# A fork would copy the locks of tensorstore's threads and of the main process, but not the threads.
START_METHOD = "forkserver"
FEEDER = "QueueFeederThread"  # as Python calls the thread that writes to a queue's pipe
PATIENCE = 5.0  # seconds to wait for such a thread


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


@contextmanager
def feeders_joined() -> Iterator[None]:
    """Wait at the end for the threads of the loaders that began, and were dropped, in this block.

    A loader feeds each queue by a thread, for which torch does not wait. The thread may be the last
    one to hold a semaphore of its queue, and remove it. If the process ended just then, Python's
    resource tracker would warn of a leaked semaphore. After an error the loaders may be in use, and
    nothing waits.
    """
    before = set(threading.enumerate())
    yield
    for thread in set(threading.enumerate()) - before:
        if thread.name == FEEDER:
            thread.join(PATIENCE)


def read_first_patches(*mixes: TrainingPatches | None) -> None:
    """Read a patch of each volume; ValueError for one that cannot be read or has no labels."""
    for mix in mixes:
        if mix is not None:
            for patches in mix.datasets:
                patches[0]
