"""The dialect of BANIS, the baseline of the NISB benchmark: `python BANIS.py --n_steps 50000 ...`.

A job script that calls BANIS.py, or the `params:` of its config.yaml, is read, too.
"""

import math
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pytc.checks import require, suggest
from pytc.config import SHORT_AND_LONG, VolumeConfig
from pytc.migration.draft import Draft, Rename, Settings

PEER = "BANIS"
SCRIPT = "BANIS.py"

DEFAULTS: dict[str, Any] = {
    "exp_name": "banis",
    "seed": 0,
    "batch_size": 8,
    "n_steps": 20_000,
    "learning_rate": 1e-3,
    "weight_decay": 1e-2,
    "scheduler": True,
    "log_every_n_steps": 100,
    "val_check_interval": 5000,
    "validate_extern": False,
    "data_setting": "base",
    "synthetic": 1.0,
    "augment": True,
    "drop_slice_prob": 0.05,
    "shift_slice_prob": 0.05,
    "intensity_aug": True,
    "noise_scale": 0.5,
    "affine": 0.5,
    "affine_scale": 0.2,
    "affine_shear": 0.5,
    "shift_magnitude": 10,
    "mul_int": 0.1,
    "add_int": 0.1,
    "long_range": 10,
    "model_id": "S",
    "kernel_size": 3,
    "compile": True,
    "small_size": 128,
    "sdt": False,
}
# options without a default that pytc has a field for
WITHOUT_DEFAULT = (
    "save_path",
    "workers",
    "devices",
    "n_debug_steps",
    "resume_from_last_checkpoint",
    "model_from_checkpoint",
    "distributed",
    "base_data_path",
    "real_data_path",
    "eval_ranges",
    "sdt_loss_weight",
    "auto_resubmit",
)

RENAMES: dict[str, Rename] = {
    "exp_name": ("name", str),
    "seed": ("loop.seed", int),
    "batch_size": ("loop.batch_size", int),
    "n_steps": ("loop.max_steps", int),
    "log_every_n_steps": ("loop.log_every", int),
    "learning_rate": ("optim.learning_rate", float),
    "weight_decay": ("optim.weight_decay", float),
    "scheduler": ("optim.schedule", lambda on: "cosine" if on else "none"),
    "workers": ("system.workers", int),
    "compile": ("system.compile", bool),
    "model_id": ("model.mednext_size", str),
    "kernel_size": ("model.kernel_size", int),
    "model_from_checkpoint": ("model.pretrained", str),
    "small_size": ("data.patch_size", lambda size: (int(size),) * 3),
    "eval_ranges": ("validation.thresholds", lambda values: tuple(sorted(map(float, values)))),
}
AUGMENTATIONS: dict[str, Rename] = {
    "drop_slice_prob": ("augment.drop_slice_prob", float),
    "shift_slice_prob": ("augment.shift_slice_prob", float),
    "shift_magnitude": ("augment.shift_slice_max", int),
    "affine": ("augment.affine_prob", float),
    "affine_scale": ("augment.affine_scale", float),
    "affine_shear": ("augment.affine_shear", float),
    "mul_int": ("augment.intensity_scale", float),
    "add_int": ("augment.intensity_offset", float),
    "noise_scale": ("augment.noise_max", float),
}
# What BANIS always does, and this package by a field.
ALWAYS: dict[str, Any] = {
    "augment.permute_prob": 1.0,
    "augment.rot90_prob": 1.0,
    "augment.flip_prob": 0.5,
    "augment.affine_rotation": 180.0,
    "augment.slices_prob": 0.5,
    "augment.slices_axis": "random",
    "augment.shift_slice_fill": "wrap",
    "augment.noise_prob": 0.5,
}

REASONS = {
    "save_path": "runs are written below $PYTC_RUNS, or runs/",
    "devices": "one GPU; all of a machine by torchrun --nproc-per-node gpu train.py",
    "distributed": "several GPUs by torchrun --nproc-per-node gpu train.py",
    "n_debug_steps": "for a trial, --loop.max-steps",
    "resume_from_last_checkpoint": "train.py --resume runs/NAME",
    "auto_resubmit": "the job script in docs/slurm.md requeues itself",
    "sdt": "no distance transform is learned beside affinities",
    "sdt_loss_weight": "no distance transform is learned beside affinities",
}


def read_command(text: str) -> dict[str, Any]:
    """The options of the first command that calls BANIS.py, by name.

    text: a command line, or a shell script. A variable of the shell stands as it is written.

    Raises:
        ValueError: no command calls BANIS.py, or an option is not one of BANIS.
    """
    joined = text.replace("\\\n", " ")
    commands = [
        line for line in joined.splitlines() if SCRIPT in line and not line.lstrip().startswith("#")
    ]
    require(len(commands) > 0, f"a command that calls {SCRIPT}", text[:80])
    words = shlex.split(commands[0], comments=True)
    called = next(number for number, word in enumerate(words) if word.endswith(SCRIPT))
    options: dict[str, list[str]] = {}
    name = None
    for word in words[called + 1 :]:
        if word in ("&", "&&", ";", "|", ">", ">>"):
            break
        if word.startswith("--"):
            name, equals, value = word.removeprefix("--").partition("=")
            options[name] = [value] if equals else []
        elif name is not None:
            options[name].append(word)
    return {key: value for option in options.items() for key, value in [_parsed(*option)]}


def read_params(content: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Sequence[Any]]]:
    """The options of BANIS's config.yaml: the first value of each, and the further ones."""
    stated: dict[str, Any] = {}
    others: dict[str, Sequence[Any]] = {}
    for name, values in content["params"].items():
        _require_option(name)
        listed = values if isinstance(values, list) else [values]
        if name == "eval_ranges":
            stated[name] = listed
            continue
        stated[name] = listed[0]
        if len(listed) > 1:
            others[name] = listed[1:]
    return stated, others


def translate(settings: Settings, others: Mapping[str, Sequence[Any]] | None = None) -> Draft:
    """The draft of a config that does what BANIS was asked for."""
    draft = Draft()
    draft.carry(settings, RENAMES)
    _augmentations(draft, settings)
    reach = int(settings.get("long_range"))
    offsets = tuple(tuple(reach if o == 10 else o for o in offset) for offset in SHORT_AND_LONG)
    draft.set("target.offsets", offsets, settings.origin("long_range"))
    draft.set("model.checkpoint_style", "outside_block")
    draft.set("system.precision", "fp16")
    draft.set("inference.activation_scale", 0.2)
    draft.set("inference.checkpoint", "last")
    draft.set("segmentation.method", "components")
    draft.set("segmentation.threshold", 0.6)
    _validation(draft, settings)
    _volumes(draft, settings)
    for name, values in (others or {}).items():
        draft.lack(name, values, "one value for a preset: the first is taken, the rest by flags")
    draft.note_rest(settings, REASONS)
    return draft


def _augmentations(draft: Draft, settings: Settings) -> None:
    if not settings.get("augment"):
        settings.leave(*AUGMENTATIONS, "intensity_aug")
        for name in ("permute", "rot90", "flip", "intensity", "noise"):
            draft.set(f"augment.{name}_prob", 0.0, "augment")
        return
    for field, value in ALWAYS.items():
        draft.set(field, value)
    draft.carry(settings, AUGMENTATIONS)
    if not settings.get("intensity_aug"):
        draft.set("augment.intensity_prob", 0.0, "intensity_aug")


def _validation(draft: Draft, settings: Settings) -> None:
    """BANIS validates, stores and scores whole cubes in the same steps."""
    every = int(settings.get("val_check_interval"))
    origin = settings.origin("val_check_interval")
    for name in ("val_every", "checkpoint_every", "images_every"):
        draft.set(f"loop.{name}", every, origin)
    draft.set("loop.keep_checkpoints", 100)
    if settings.get("validate_extern"):
        draft.change("validate_extern", True, "pytc validate --watch beside the training")
    else:
        draft.set("loop.volumes_every", every, origin)


def _volumes(draft: Draft, settings: Settings) -> None:
    """The cubes of the setting, and the real volumes beside them."""
    share = float(settings.get("synthetic"))
    base, real = settings.get("base_data_path"), settings.get("real_data_path")
    setting = settings.get("data_setting")
    train: list[VolumeConfig] = []
    if base is None:
        draft.lack("base_data_path", "", "not stated: name volumes by --data.train.0.image")
        return
    if share > 0:
        cubes = _cubes(draft, Path(base) / setting / "train", "seed0")
        train += [_cube(cube, share / len(cubes)) for cube in cubes]
    if share < 1 and real is not None:
        train += _real_volumes(draft, Path(real), 1 - share)
    if train:
        draft.set("data.train", tuple(train), "base_data_path, data_setting")
    validation = _cubes(draft, Path(base) / setting / "val", "seed100")
    draft.set("data.val", tuple(map(_cube, validation[:1])), "base_data_path, data_setting")
    draft.set("data.intensity", (0.0, 255.0))
    draft.change(
        "data_setting",
        setting,
        "if a voxel is not 9 x 9 x 20 nm in this setting, correct voxel_size; with several "
        "channels state model.in_channels",
    )


def _cubes(draft: Draft, folder: Path, published: str) -> list[Path]:
    """The cubes of a split; without the folder on this machine, the first one as published."""
    found = sorted(path for path in folder.glob("seed*") if path.is_dir())
    if not found:
        draft.change(
            "base_data_path",
            folder,
            f"not on this machine: {published} alone is named; migrate again where the data are",
        )
    return found or [folder / published]


def _cube(folder: Path, weight: float = 1.0) -> VolumeConfig:
    return VolumeConfig(
        image=f"{folder}/data.zarr/img",
        labels=f"{folder}/data.zarr/seg",
        skeleton=f"{folder}/skeleton.pkl",
        weight=round(weight, 6),
        axes="xyzc",
        voxel_size=(9.0, 9.0, 20.0),
        name=f"{folder.parent.parent.name}_{folder.parent.name}_{folder.name}",
    )


def _real_volumes(draft: Draft, folder: Path, share: float) -> list[VolumeConfig]:
    found = sorted(folder.glob("*.zarr"))
    if not found:
        draft.lack("real_data_path", folder, "no .zarr there: name them by --data.train.N.image")
    return [
        VolumeConfig(
            image=f"{path}/volumes/raw",
            labels=f"{path}/volumes/labels/neuron_ids",
            weight=round(share / len(found), 6),
        )
        for path in found
    ]


def _parsed(name: str, words: list[str]) -> tuple[str, Any]:
    """An option's name and value, of the type that BANIS gives it."""
    negative = name.removeprefix("no-").removeprefix("no_")
    if negative != name and isinstance(DEFAULTS.get(negative, True), bool):
        _require_option(negative)
        return negative, False
    _require_option(name)
    if name == "eval_ranges":
        return name, [float(word) for word in words]
    if not words:
        return name, True
    word = words[0]
    if word.lower() in ("true", "false"):
        return name, word.lower() == "true"
    default = DEFAULTS.get(name)
    try:
        number = float(word)
    except ValueError:
        require(not isinstance(default, int | float), f"a number for --{name}", word)
        return name, word
    is_whole = math.isfinite(number) and number.is_integer() and not isinstance(default, float)
    return name, int(number) if is_whole else number


def _require_option(name: str) -> None:
    known = (*DEFAULTS, *WITHOUT_DEFAULT)
    if name not in known:
        near = suggest(name, known)
        hint = near if "did you mean" in near else ""
        raise ValueError(f"expected an option of {SCRIPT}, got {name!r}{hint}")
