"""`system.auto` on a GPU: find the largest batch that fits, by steps of the run itself.

A trial is made by a `Trainer` of the same config as that of the run (same precision, compiled or
not, accumulating or not), on copies of one training sample.
"""

from __future__ import annotations

import copy
import gc
import itertools
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch.utils.data import default_collate

from pytc.checks import require
from pytc.config import Config
from pytc.data.patches import TrainingPatches
from pytc.training.distributed import Ranks

if TYPE_CHECKING:
    from pytc.training.trainer import Trainer


def batch_that_fits(
    config: Config,
    dataset: TrainingPatches,
    ranks: Ranks,
    device: torch.device,
    make_trainer: Callable[[Config], Trainer],
) -> tuple[int, str]:
    """The largest batch that fits the GPU of every rank, and a sentence about it.

    It is loop.batch_size or a divisor of it. ValueError if not even one patch fits.

    make_trainer: makes the trainer of a config, on this rank alone.
    """
    recipe = config.loop.batch_size
    sample = dataset[0]
    torch.cuda.reset_peak_memory_stats(device)
    fits_here = largest_batch(
        lambda size: trial_steps(make_trainer, config, sample, size, ranks.world > 1), recipe
    )
    used = f"{torch.cuda.max_memory_reserved(device) / 2**30:.1f} GiB"
    total = f"{torch.cuda.get_device_properties(device).total_memory / 2**30:.1f} GiB"
    _free_memory()
    fits = min(ranks.gather(fits_here))
    require(
        fits > 0,
        f"a GPU with memory for one patch of {config.data.patch_size}, or a smaller "
        "data.patch_size, or model.checkpoint_style",
        total,
    )
    if fits < recipe:
        return fits, (
            f"{recipe} patches did not fit; "
            f"{recipe // fits} batches a step keep the recipe's number"
        )
    return fits, f"{fits_here} patches took {used} of {total}"


def largest_batch(try_batch: Callable[[int], None], recipe: int) -> int:
    """The first batch that fits: `recipe`, or a divisor of it at most half as large as the last.

    0 if not even one patch fits.

    try_batch: raises torch.OutOfMemoryError for a batch that does not fit.
    """
    size = recipe
    while size > 0:
        try:
            try_batch(size)
        except torch.OutOfMemoryError:
            size = next((n for n in range(size // 2, 0, -1) if recipe % n == 0), 0)
        else:
            break
    return size


def trial_steps(
    make_trainer: Callable[[Config], Trainer],
    config: Config,
    sample: dict,
    size: int,
    several_ranks: bool,
) -> None:
    """Take two steps with `size` copies of a sample; random states are left as they were.

    The state of the optimizer takes memory in the second step only. torch.OutOfMemoryError if a
    step does not fit.

    several_ranks: the run will copy all gradients to sum them over the ranks.
    """
    _free_memory()  # the tensors of a failed attempt were kept alive by its exception
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
    """Give the memory of deleted tensors back to the GPU."""
    gc.collect()
    torch.cuda.empty_cache()
