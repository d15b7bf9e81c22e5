"""What `system.auto` does on a GPU before a run: try by the run's own steps how many patches fit.

The trial is a `Trainer` like the run's, with the same scaler, compiled or not, accumulating or not,
over copies of one training sample.
"""

from __future__ import annotations

import copy
import gc
import itertools
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch.utils.data import Dataset, default_collate

from pytc.checks import require
from pytc.config import Config
from pytc.training.distributed import Ranks

if TYPE_CHECKING:
    from pytc.training.trainer import Trainer


def batch_that_fits(
    config: Config,
    dataset: Dataset,
    ranks: Ranks,
    device: torch.device,
    make_trainer: Callable[[Config], Trainer],
) -> tuple[int, str]:
    """The largest batch, `loop.batch_size` or a divisor of it, that every rank's GPU can take; why.

    ValueError if not even one patch fits.
    """
    wanted = config.loop.batch_size
    sample = dataset[0]
    torch.cuda.reset_peak_memory_stats(device)
    mine = largest_batch(
        lambda size: trial_steps(make_trainer, config, sample, size, ranks.world > 1), wanted
    )
    used = f"{torch.cuda.max_memory_reserved(device) / 2**30:.1f} GiB"
    total = f"{torch.cuda.get_device_properties(device).total_memory / 2**30:.1f} GiB"
    _free_memory()
    fits = min(ranks.gather(mine))
    require(
        fits > 0,
        f"a GPU with memory for one patch of {config.data.patch_size}, or a smaller "
        "data.patch_size, or model.checkpoint_style",
        total,
    )
    if fits < wanted:
        return fits, (
            f"{wanted} patches did not fit; "
            f"{wanted // fits} batches a step keep the recipe's number"
        )
    return fits, f"{mine} patches took {used} of {total}"


def largest_batch(try_batch: Callable[[int], None], wanted: int) -> int:
    """Of wanted and its divisors, each at most half the one before, the first that fits; else 0.

    try_batch: raises torch.OutOfMemoryError for a batch that does not fit.
    """
    size = wanted
    while size:
        try:
            try_batch(size)
            break
        except torch.OutOfMemoryError:
            size = next((n for n in range(size // 2, 0, -1) if wanted % n == 0), 0)
    return size


def trial_steps(
    make_trainer: Callable[[Config], Trainer],
    config: Config,
    sample: dict,
    size: int,
    several_ranks: bool,
) -> None:
    """Two steps of a run with `size` copies of a sample; the second has the optimizer's state.

    several_ranks: the run copies all gradients, to sum them over the ranks. Nothing stays behind,
    and random states are left as they were. torch.OutOfMemoryError if a step does not fit.
    """
    _free_memory()  # an attempt that failed was kept alive by its error, up to here
    batches_a_step = config.optim.accumulate * (config.loop.batch_size // size)
    config = replace(
        config,
        model=replace(config.model, pretrained=None, upkern=None),
        loop=replace(config.loop, batch_size=size),
        optim=replace(config.optim, accumulate=min(2, batches_a_step)),
    )
    devices = range(torch.cuda.device_count()) if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices=devices):
        trainer = make_trainer(config)
        gradients = copy.deepcopy(trainer.model) if several_ranks else None
        batches = itertools.repeat(default_collate([sample] * size))
        for step in range(2):
            trainer.train_step(step, batches, stop=False, detailed=True)
        del gradients
    if config.system.compile:
        torch.compiler.reset()


def _free_memory() -> None:
    gc.collect()
    torch.cuda.empty_cache()
