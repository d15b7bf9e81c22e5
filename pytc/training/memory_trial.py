"""What `system.auto` does before a run: look at the machine, and try how many patches fit.

It tries real steps.
"""

import copy
import gc
from collections.abc import Callable
from dataclasses import replace

import torch

from pytc import hardware
from pytc.config import Config, require
from pytc.data.augment import augment
from pytc.data.targets import make_targets
from pytc.losses import build_loss, deep_supervision_loss
from pytc.models import build_model
from pytc.training.distributed import Ranks
from pytc.training.optim import build_optimizer


def configure(
    config: Config, ranks: Ranks, device: torch.device, *, resumed: bool
) -> tuple[Config, list]:
    """The config with a batch that fits, and the `hardware.Choice`s.

    It is the same config where system.auto is off. A batch that does not fit a GPU is split, and
    optim.accumulate raised by as much, so that a step still takes the patches that the recipe says.
    All ranks take the smallest rank's batch. A resumed run keeps its own. Fields of `system` are
    not filled in: whoever continues the run, or infers with it, is on a machine of its own.
    ValueError if not even one patch fits, or if ranks would compute in different precisions.
    """
    precisions = ranks.gather(hardware.choose_precision(config.system, device, config.model))
    require(
        len(set(precisions)) == 1, "one precision on all ranks, by --system.precision", precisions
    )
    choices = hardware.survey(config.system, device, config.model, ranks.local_world)
    if not config.system.auto:
        return config, choices
    wanted = fits = config.loop.batch_size
    reason = "that of the run so far" if resumed else "as set: on a CPU nothing is tried"
    if device.type == "cuda" and not resumed:
        torch.cuda.reset_peak_memory_stats(device)
        mine = largest_batch(
            lambda size: trial_steps(config, device, precisions[0], ranks.world, size), wanted
        )
        memory = (
            torch.cuda.max_memory_reserved(device),
            torch.cuda.get_device_properties(device).total_memory,
        )
        used, total = (f"{size / 2**30:.1f} GiB" for size in memory)
        gc.collect()
        torch.cuda.empty_cache()
        fits = min(ranks.gather(mine))
        require(
            fits > 0,
            f"a GPU with memory for one patch of {config.data.patch_size}, or a smaller "
            "data.patch_size, or model.checkpoint_style",
            total,
        )
        reason = f"{mine} patches took {used} of {total}"
        if fits < wanted:
            reason = (
                f"{wanted} patches did not fit; {wanted // fits} batches a step keep the recipe's "
                "number"
            )
    accumulate = config.optim.accumulate * (wanted // fits)
    choices.append(("batch", f"{fits} patches, {accumulate} a step", reason))
    if ranks.is_main:
        hardware.print_table(choices)
    return replace(
        config,
        loop=replace(config.loop, batch_size=fits),
        optim=replace(config.optim, accumulate=accumulate),
    ), choices


def largest_batch(try_batch: Callable[[int], None], wanted: int) -> int:
    """The largest of wanted and its divisors that passes without OutOfMemoryError, else 0.

    Each divisor tried is at most half the one before.
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
    config: Config, device: torch.device, precision: str, world: int, size: int
) -> None:
    """Two training steps with a batch of `size` patches of noise, from augmentation to optimizer.

    The second is the first with the optimizer's state in memory. Nothing stays behind, and random
    states are left as they were. torch.OutOfMemoryError if a step does not fit.
    """
    gc.collect()  # what a failed try left lives as long as its error, up to here
    torch.cuda.empty_cache()
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(0)
        model = build_model(config, device, quiet=True)
        # the average of the weights, and DDP's copy of their gradients
        kept = [copy.deepcopy(model) for needed in (config.optim.ema_decay, world > 1) if needed]
        optimizer, loss = build_optimizer(model, config.optim), build_loss(config.loss)
        for _ in range(2):
            channels, patch = config.model.in_channels, config.data.patch_size
            image = torch.randint(256, (size, channels, *patch), dtype=torch.uint8, device=device)
            labels = torch.randint(2, (size, *patch), dtype=torch.int32, device=device)
            image, labels = augment(
                image, labels, torch.arange(size), config.augment, (1.0, 1.0, 1.0)
            )
            targets = make_targets(labels, config.target, model.output_strides)
            with hardware.autocast(device, precision):
                outputs = model(image)
            scale_weights = config.loss.scale_weights
            deep_supervision_loss(outputs, targets, loss, scale_weights).total.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        del kept
