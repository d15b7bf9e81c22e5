"""From the config that was asked for to the one that will run. No other module changes a config.

1. `cpu_variant`: the small variant of a preset. It is a default, so flags override it.
2. `resolve`: epochs become steps; the network gets the voxel size and the patch of the data; a
   batch that does not fit the GPU is split.

Each change is printed and saved with its reason. A flag that a user gave is never replaced: if it
cannot hold, it is refused.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Collection, Iterable
from dataclasses import asdict, dataclass, fields, is_dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytc import hardware
from pytc.checks import require
from pytc.config import AugmentConfig, Config
from pytc.data.sources import training_voxel_size
from pytc.models.anisotropy import fit_to_data
from pytc.runs import find_run, load_config, write_json
from pytc.target_kinds import TARGET_KINDS

if TYPE_CHECKING:
    import torch

    from pytc.data.patches import TrainingPatches
    from pytc.training.distributed import Ranks
    from pytc.training.trainer import Trainer

NO_GPU = (
    "no GPU here: the small variant of this preset (--system.no-cpu-variant trains the full recipe)"
)
UNIT_OFFSETS = ((1, 0, 0), (0, 1, 0), (0, 0, 1))
# Fields of `model` that a resumed run may change: they say how to compute with the weights, or
# where the weights came from.
FREE_WHEN_RESUMED = (
    "model.checkpoint_style",
    "model.dropout",
    "model.swin.attn_drop_rate",
    "model.swin.dropout_path_rate",
    "model.swin.use_checkpoint",
    "model.pretrained",
    "model.upkern",
    "model.reset_head",
)
# Fields of `model` that a training from other weights does not take from them.
KEPT_WHEN_FINE_TUNED = {
    "in_channels",
    "out_channels",
    "deep_supervision",
    "pretrained",
    "upkern",
    "reset_head",
    "checkpoint_style",
    "dropout",
}


@dataclass(frozen=True)
class Change:
    """A field that will not run as it was asked for."""

    field: str  # e.g. loop.max_steps
    before: Any
    after: Any
    why: str  # the reason


@dataclass(frozen=True)
class Resolved:
    """What will run, and what was changed for it."""

    config: Config
    changes: list[Change]
    # rows for the table of the machine: the batch, if system.auto is on
    choices: list[hardware.Choice]


def cpu_variant(preset: Config, flags: Collection[str] = ()) -> Config:
    """A small variant of a preset, which trains on a CPU in minutes.

    It has the data, the target and the loss of the preset, but a small network, small patches and
    few steps.

    Args:
        preset: the full recipe.
        flags: fields that the command line names, e.g. model.mednext_size.

    Raises:
        ValueError: a flag is of no use in the variant.
    """
    model = replace(
        preset.model,
        features=tuple(min(size, 64) for size in preset.model.features),
        base_channels=12,
    )
    if model.architecture == "mednext":
        require(
            "model.mednext_size" not in flags or "model.architecture" in flags,
            "--system.no-cpu-variant with --model.mednext-size, as the small variant for a CPU "
            "has one fixed size",
            "--system.cpu-variant",
        )
        model = replace(
            model, architecture="mednext_custom", expansion=(2,) * 9, block_counts=(1,) * 9
        )
    precision = preset.system.precision
    if precision == "fp16":  # it is for GPUs
        precision = "auto"
    depth, height, width = preset.data.patch_size
    patch_size = (min(depth, 48), min(height, 48), min(width, 48))
    return replace(
        preset,
        model=model,
        data=replace(preset.data, patch_size=patch_size, val_samples=4),
        augment=AugmentConfig(permute_prob=1.0, noise_max=0.05),
        optim=replace(
            preset.optim, learning_rate=3e-3, warmup_steps=20, ema_decay=0.98, ema_warmup_steps=10
        ),
        loop=replace(
            preset.loop,
            max_steps=400,
            epochs=None,
            batch_size=2,
            val_every=100,
            checkpoint_every=100,
            images_every=100,
        ),
        system=replace(preset.system, compile=False, precision=precision),
        inference=replace(preset.inference, window=None),
    )


def network_of_weights(config: Config, weights: Config, flags: Collection[str] = ()) -> Config:
    """The config with the network of the weights that it starts from, but for its channels.

    Args:
        config: what was asked for.
        weights: the config in the file of weights, resolved: with voxel size and patch.
        flags: fields that the command line names. They are never replaced.
    """
    asked, theirs = config.model, weights.model
    if "model.architecture" in flags and asked.architecture != theirs.architecture:
        return config
    named = {flag.split(".")[1] for flag in flags if flag.startswith("model.")}
    kept = KEPT_WHEN_FINE_TUNED | named
    taken = {
        each.name: getattr(theirs, each.name) for each in fields(theirs) if each.name not in kept
    }
    return replace(config, model=replace(asked, **taken))


def resolve(
    config: Config,
    dataset: TrainingPatches,
    ranks: Ranks,
    device: torch.device,
    make_trainer: Callable[[Config], Trainer],
    *,
    flags: Collection[str] = (),
    resume: Path | None = None,
) -> Resolved:
    """What will run if `config` is asked for.

    Args:
        config: what was asked for.
        dataset: the training patches; its length is an epoch.
        ranks: the processes of the run.
        device: of this rank.
        make_trainer: makes the trainer that `system.auto` measures, on this rank alone.
        flags: fields that the command line names. They are never replaced.
        resume: the run to continue, if any. It keeps its network and its batch.

    Raises:
        ValueError: a flag cannot hold, or not even one patch fits the GPU.
    """
    resolved = epochs_to_steps(config, len(dataset), ranks)
    changes = differences(config, resolved, f"an epoch is {len(dataset)} patches")
    config = resolved

    resolved, why = fit_network(config, resume)
    changes += differences(config, resolved, why)
    config = resolved

    choices = []
    if config.system.auto:
        resolved, why = fit_batch(config, dataset, ranks, device, make_trainer, flags, resume)
        changes += differences(config, resolved, why)
        config = resolved
        size, per_step = config.loop.batch_size, config.loop.batch_size * config.optim.accumulate
        choices.append(("batch", f"{size} patches, {per_step} a step", why))
    return Resolved(config, changes, choices)


def epochs_to_steps(config: Config, patches: int, ranks: Ranks) -> Config:
    """The config with loop.max_steps instead of loop.epochs; nothing else reads loop.epochs.

    patches: in an epoch.
    """
    if config.loop.epochs is None:
        return config
    samples_per_step = ranks.world * config.loop.batch_size * config.optim.accumulate
    steps = math.ceil(config.loop.epochs * patches / samples_per_step)
    return replace(config, loop=replace(config.loop, max_steps=steps, epochs=None))


def fit_network(config: Config, resume: Path | None) -> tuple[Config, str]:
    """The config with the network's voxel size and patch filled in, and where they come from."""
    if resume is None:
        why = "as the training data are"
        model = fit_to_data(config.model, config.data.patch_size, training_voxel_size(config.data))
    else:
        why = "as the run began"
        started = load_config(resume).model
        model = fit_to_data(config.model, started.image_size, started.voxel_size)
    return replace(config, model=model), why


def fit_batch(
    config: Config,
    dataset: TrainingPatches,
    ranks: Ranks,
    device: torch.device,
    make_trainer: Callable[[Config], Trainer],
    flags: Collection[str],
    resume: Path | None,
) -> tuple[Config, str]:
    """The config with a batch that fits every GPU, and the reason for its size.

    A batch that does not fit is split into several smaller ones per step, so that a step takes as
    many patches as the recipe says. A batch is never made larger, since that changes the recipe;
    `hardware.auto_configure_training` may do so.
    """
    from pytc.training.memory_trial import batch_that_fits

    if resume is not None:
        return config, "that of the run so far"
    if device.type != "cuda":
        return config, "as set: on a CPU nothing is tried"
    size, why = batch_that_fits(config, dataset, ranks, device, make_trainer)
    if size == config.loop.batch_size:
        return config, why
    accumulate = config.optim.accumulate * (config.loop.batch_size // size)
    require(
        not {"loop.batch_size", "optim.accumulate"} & set(flags),
        f"a batch that fits the GPU, such as --loop.batch-size {size} "
        f"--optim.accumulate {accumulate}",
        f"--loop.batch-size {config.loop.batch_size}",
    )
    loop = replace(config.loop, batch_size=size)
    optim = replace(config.optim, accumulate=accumulate)
    return replace(config, loop=loop, optim=optim), why


def check_asked(config: Config) -> None:
    """ValueError for a config that is sure to fail later, during training or after it."""
    kind, offsets = TARGET_KINDS[config.target.kind], config.target.offsets
    others = ", ".join(row.name for row in TARGET_KINDS.values() if not row.per_offset)
    if kind.decode == "objects":
        require(
            config.model.spatial_dims == 3,
            f"model.spatial_dims 3 for the target {kind.name}, as sections that are predicted one "
            f"by one are not joined to objects, or another target.kind: {others}",
            config.model.spatial_dims,
        )
        missing = [step for step in UNIT_OFFSETS if kind.per_offset and step not in offsets]
        require(
            not missing,
            f"target.offsets with {missing}, as objects are joined by steps of one voxel, "
            f"or another target.kind: {others}",
            offsets,
        )
    for name, path in (
        ("pretrained", config.model.pretrained),
        ("upkern", config.model.upkern),
    ):
        fits = path is None or _has_weights(path)
        require(fits, f"a run or a file of weights at model.{name}", path)


def _has_weights(name: str) -> bool:
    """Whether a name is that of a file, or of a run with a checkpoint."""
    if Path(name).is_file():
        return True
    try:
        run = find_run(name)
    except ValueError:
        return False
    return any((run / "checkpoints" / file).is_file() for file in ("best.pt", "last.pt"))


def check_resumed(config: Config, run: Path) -> None:
    """ValueError that names the fields in which `config` cannot continue the run."""
    started = load_config(run)
    fixed = [change for change in differences(started, config, "") if _is_fixed(change)]
    if fixed:
        asked = ", ".join(f"{change.field} {change.after!r}" for change in fixed)
        held = ", ".join(f"{change.before!r}" for change in fixed)
        raise ValueError(
            f"expected {run} to go on with the network that it has, got {asked} for {held}; "
            "start another run for it, by --model.pretrained from these weights if they fit"
        )


def _is_fixed(change: Change) -> bool:
    """Whether a resumed run may not make this change."""
    if change.field in ("model.voxel_size", "model.image_size"):
        return change.after is not None  # None stands for the value with which the run began
    if change.field == "optim.ema_decay":
        return change.before == 0  # there is no average to continue
    if change.field.startswith("model."):
        return change.field not in FREE_WHEN_RESUMED
    return change.field in ("target.kind", "target.offsets")


def differences(before: Any, after: Any, why: str, name: str = "") -> list[Change]:
    """The fields in which two configs differ, section by section."""
    if is_dataclass(before) and type(before) is type(after):
        return [
            change
            for field in fields(before)
            for change in differences(
                getattr(before, field.name),
                getattr(after, field.name),
                why,
                f"{name}.{field.name}" if name else field.name,
            )
        ]
    if before == after:
        return []
    return [Change(name, before, after, why)]


def write_resolved(folder: Path, asked: Config, config: Config, changes: list[Change]) -> None:
    """Write config.json (what was asked for) and resolved.json (what runs, and the changes).

    If the run is resumed, config.json stays, and what differs now is added to the changes.
    """
    path = folder / "resolved.json"
    rows = [asdict(change) for change in changes]
    if path.is_file():
        before = json.loads(path.read_text())
        continued = differences(load_config(folder), config, "asked for when the run went on")
        rows = [*before["changes"], *map(asdict, continued)]
    write_json(path, {"config": asdict(config), "changes": rows})
    if not (folder / "config.json").is_file():
        write_json(folder / "config.json", asdict(asked))


def describe(changes: Iterable[Change]) -> str:
    """Lines to print: each reason, then the fields it changed, from what was asked to what runs."""
    lines = []
    for why, group in groupby(changes, lambda change: change.why):
        lines.append(f"{why}:")
        lines += [f"    {change.field}: {change.before} -> {change.after}" for change in group]
    return "\n".join(lines)
