"""From what was asked to what will run, in one order; no other place rewrites a config.

1. `cpu_variant`: the small variant of a preset, as the default that flags override.
2. `resolve`: epochs become steps; what the network takes from the data is filled in; a batch that
   does not fit the GPU is split.

Each change is told with its reason, and saved with the run. A flag that a user gave is never
replaced: where it cannot hold, it is refused.
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
from pytc.runs import load_config, write_json
from pytc.target_kinds import TARGET_KINDS

if TYPE_CHECKING:
    import torch
    from torch.utils.data import Dataset

    from pytc.training.distributed import Ranks
    from pytc.training.trainer import Trainer

NO_GPU = (
    "no GPU here: the small variant of this preset (--system.no-cpu-variant trains the full recipe)"
)
UNIT_OFFSETS = ((1, 0, 0), (0, 1, 0), (0, 0, 1))
# fields of `model` that say how the same weights are computed with, or where they come from
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


@dataclass(frozen=True)
class Change:
    """A field that will not run as it was asked for."""

    field: str  # e.g. loop.max_steps
    before: Any
    after: Any
    why: str


@dataclass(frozen=True)
class Resolved:
    """What will run, and how it came about."""

    config: Config
    changes: list[Change]
    # rows for the table of the machine: the batch, where system.auto has looked at it
    choices: list[hardware.Choice]


def cpu_variant(preset: Config, flags: Collection[str] = ()) -> Config:
    """A small relative of a preset, for minutes on a CPU: same data, target and loss; a small
    network, patch and run.

    flags: fields that the command line names, e.g. model.mednext_size. ValueError for one that the
    variant has no use for.
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
            "has a size of its own",
            "--system.cpu-variant",
        )
        model = replace(
            model, architecture="mednext_custom", expansion=(2,) * 9, block_counts=(1,) * 9
        )
    precision = preset.system.precision
    if precision == "fp16":  # which is for GPUs
        precision = "auto"
    patch_size = tuple(min(size, 48) for size in preset.data.patch_size)
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


def resolve(
    config: Config,
    dataset: Dataset,
    ranks: Ranks,
    device: torch.device,
    make_trainer: Callable[[Config], Trainer],
    *,
    flags: Collection[str] = (),
    resume: Path | None = None,
) -> Resolved:
    """What will run where `config` was asked for.

    Args:
        dataset: the training patches; its length is an epoch.
        make_trainer: makes the trainer that `system.auto` measures, on this rank alone.
        flags: fields that the command line names, which are kept as they are.
        resume: the run that goes on, if one does: it keeps its network and its batch.

    Raises:
        ValueError: a flag cannot hold, or not even one patch fits the GPU.
    """
    changes = []

    def change(section: str, why: str, **values: Any) -> None:
        nonlocal config
        after = replace(config, **{section: replace(getattr(config, section), **values)})
        changes.extend(differences(config, after, why))
        config = after

    if config.loop.epochs is not None:
        samples = ranks.world * config.loop.batch_size * config.optim.accumulate
        steps = math.ceil(config.loop.epochs * len(dataset) / samples)
        change("loop", f"an epoch is {len(dataset)} patches", max_steps=steps, epochs=None)
    if resume is None:
        why, patch_size = "as the training data are", config.data.patch_size
        voxel_size = training_voxel_size(config.data)
    else:
        why, started = "as the run began", load_config(resume).model
        patch_size, voxel_size = started.image_size, started.voxel_size
    fitted = fit_to_data(config.model, patch_size, voxel_size)
    change("model", why, voxel_size=fitted.voxel_size, image_size=fitted.image_size)
    choices = []
    if config.system.auto:
        from pytc.training.memory_trial import batch_that_fits

        size, reason = config.loop.batch_size, "as set: on a CPU nothing is tried"
        if resume is not None:
            reason = "that of the run so far"
        elif device.type == "cuda":
            size, reason = batch_that_fits(config, dataset, ranks, device, make_trainer)
        if size < config.loop.batch_size:
            parts = config.loop.batch_size // size
            accumulate = config.optim.accumulate * parts
            require(
                not {"loop.batch_size", "optim.accumulate"} & set(flags),
                f"a batch that fits the GPU, such as --loop.batch-size {size} "
                f"--optim.accumulate {accumulate}",
                f"--loop.batch-size {config.loop.batch_size}",
            )
            change("loop", reason, batch_size=size)
            change("optim", reason, accumulate=accumulate)
        patches = f"{size} patches, {size * config.optim.accumulate} a step"
        choices.append(("batch", patches, reason))
    return Resolved(config, changes, choices)


def check_asked(config: Config) -> None:
    """ValueError for what can be seen to fail later, after the training or in the midst of it."""
    kind, offsets = TARGET_KINDS[config.target.kind], config.target.offsets
    others = ", ".join(row.name for row in TARGET_KINDS.values() if not row.per_offset)
    if kind.decode == "objects":
        require(
            config.model.spatial_dims == 3,
            f"model.spatial_dims 3 for the target {kind.name}, as sections that are predicted one "
            f"by one are not joined to objects, or another target.kind: {others}",
            config.model.spatial_dims,
        )
        missing = [step for step in UNIT_OFFSETS if step not in offsets]
        require(
            not missing,
            f"target.offsets with {missing}, as objects are joined by steps of one voxel, "
            f"or another target.kind: {others}",
            offsets,
        )
    for name in ("pretrained", "upkern"):
        path = getattr(config.model, name)
        require(path is None or Path(path).is_file(), f"a file of weights at model.{name}", path)


def check_resumed(config: Config, run: Path) -> None:
    """ValueError that names the fields in which `config` cannot continue the run."""
    started = load_config(run)
    fixed = [change for change in differences(started, config, "") if _is_fixed(change)]
    if fixed:
        wanted = ", ".join(f"{change.field} {change.after!r}" for change in fixed)
        held = ", ".join(f"{change.before!r}" for change in fixed)
        raise ValueError(
            f"expected {run} to go on with its own network, got {wanted} for {held}; "
            "start another run for it, by --model.pretrained from these weights if they fit"
        )


def _is_fixed(change: Change) -> bool:
    """Whether a run that has begun cannot change a field so."""
    if change.field in ("model.voxel_size", "model.image_size"):
        return change.after is not None  # None: as the run began
    if change.field == "optim.ema_decay":
        return change.before == 0  # there is no average to go on with
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
    """Write config.json, what was asked for, and resolved.json, what runs and what was changed.

    Of a run that goes on, config.json stays, and the list of changes grows.
    """
    path = folder / "resolved.json"
    told = [asdict(change) for change in changes]
    if path.is_file():
        before = json.loads(path.read_text())
        continued = differences(load_config(folder), config, "asked for when the run went on")
        told = [*before["changes"], *map(asdict, continued)]
    write_json(path, {"config": asdict(config), "changes": told})
    if not (folder / "config.json").is_file():
        write_json(folder / "config.json", asdict(asked))


def describe(changes: Iterable[Change]) -> str:
    """Lines to print: each reason, then its fields from what was asked to what will run."""
    lines = []
    for why, group in groupby(changes, lambda change: change.why):
        lines.append(f"{why}:")
        lines += [f"    {change.field}: {change.before} -> {change.after}" for change in group]
    return "\n".join(lines)
