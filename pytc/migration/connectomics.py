"""The dialect of PyTorch Connectomics since 2025: YAML for Hydra, later with `_base_` and stages.

A setting has had several names. `Settings.get` takes the newest first.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from pytc.config import SHORT_AND_LONG, VolumeConfig
from pytc.migration import terms
from pytc.migration.connectomics_augment import carry_augmentations
from pytc.migration.connectomics_inference import carry_decoding, carry_inference
from pytc.migration.connectomics_tables import (
    CUSTOM_MEDNEXT,
    MEDNEXT,
    REASONS,
    RENAMES,
    SWIN,
    TRANSFORMER,
    UNETR,
)
from pytc.migration.draft import Draft, Settings

PEER = "PyTorch Connectomics (Hydra)"
SECTIONS = ("system", "model", "data", "optimization", "monitor", "inference", "default", "train")


def translate(settings: Settings, missing_profiles: Sequence[tuple[str, str]] = ()) -> Draft:
    """The draft of a config that does what a config of PyTorch Connectomics asks for.

    missing_profiles: (selector, name) of each profile that no file defines.
    """
    draft = Draft()
    for selector, name in missing_profiles:
        draft.lack(selector, name, "no file that was read defines it")
    draft.carry(settings, RENAMES)
    workers = settings.get("system.num_workers", "system.training.num_workers")
    if workers is not None and workers >= 0:
        draft.set("system.workers", int(workers), "system.num_workers")
    patch = settings.get("data.patch_size", "data.dataloader.patch_size")
    draft.set("data.patch_size", tuple(patch), "data.dataloader.patch_size")
    _network(draft, settings)
    _target(draft, settings)
    _loss(draft, settings)
    _volumes(draft, settings)
    carry_augmentations(draft, settings)
    _optimization(draft, settings)
    carry_inference(draft, settings)
    carry_decoding(draft, settings)
    draft.note_rest(settings, REASONS)
    return draft


def _options(
    draft: Draft, settings: Settings, table: str, old: str, fields: Mapping[str, tuple[str, Any]]
) -> None:
    """Carry the options of a network: model.TABLE.NAME, before that model.OLDNAME."""
    for name, (field, convert) in fields.items():
        names = (f"model.{table}.{name}", f"model.{old}{name}")
        value = settings.get(*names)
        if value is not None:
            draft.set(f"model.{field}", convert(value), settings.origin(*names))


def _network(draft: Draft, settings: Settings) -> None:
    names = ("model.architecture", "model.arch.type")
    theirs = settings.get(*names)
    origin = settings.origin(*names)
    draft.set("model.architecture", theirs, origin)
    if theirs == "mednext":
        _options(draft, settings, "mednext", "mednext_", MEDNEXT)
        size = settings.get("model.mednext_size", "model.mednext.size")
        draft.set("model.mednext_size", size, "model.mednext.size")
        settings.leave("model.mednext", "model.mednext_dim")
    elif theirs == "mednext_custom":
        _options(draft, settings, "mednext", "mednext_", CUSTOM_MEDNEXT)
    elif theirs in ("monai_basic_unet3d", "monai_unet"):
        _monai_unet(draft, settings, theirs)
    elif theirs in ("monai_unetr", "monai_swin_unetr"):
        _options(draft, settings, "transformer", "", TRANSFORMER)
        _options(draft, settings, "transformer", "", UNETR if theirs == "monai_unetr" else SWIN)
    elif theirs in ("rsunet", "rsunet_iso"):
        _rsunet(draft, settings)
    else:
        draft.set("model.architecture", "rsunet", origin)
        draft.lack(origin, theirs, "rsunet is taken; others by pytc models list")
    is_deep = settings.get("model.deep_supervision", "model.loss.deep_supervision")
    if is_deep and theirs in ("monai_unetr", "monai_swin_unetr", "monai_basic_unet3d"):
        draft.lack("model.loss.deep_supervision", True, f"{theirs} has no deep supervision")
    elif is_deep:
        draft.set("model.deep_supervision", True, "model.loss.deep_supervision")


def _monai_unet(draft: Draft, settings: Settings, architecture: str) -> None:
    filters = settings.get("model.filters", "model.monai.filters")
    draft.set("model.features", tuple(filters), "model.monai.filters")
    fields: dict[str, tuple[str, Any]] = {"dropout": ("dropout", float)}
    norm = settings.get("model.norm", "model.monai.norm")
    if architecture == "monai_unet":
        fields |= {
            "num_res_units": ("residual_units", int),
            "kernel_size": ("monai_unet.kernel_size", int),
        }
        strides = settings.get("model.strides", "model.monai.strides")
        if strides is not None:
            each = tuple(tuple(s) if isinstance(s, list) else (s,) * 3 for s in strides)
            draft.set("model.strides", each[-len(filters) + 1 :], "model.monai.strides")
        table = "monai_unet"
    else:
        fields |= {"activation": ("basic_unet.act", str)}
        table = "basic_unet"
    _options(draft, settings, "monai", "", fields)
    if norm in ("batch", "instance"):
        draft.set(f"model.{table}.norm", norm, "model.monai.norm")
    else:
        draft.lack("model.monai.norm", norm, "instance or batch: instance is taken")


def _rsunet(draft: Draft, settings: Settings) -> None:
    draft.set("model.architecture", "rsunet", settings.origin("model.arch.type"))
    names = ("model.rsunet.width", "model.filters")
    width = tuple(settings.get(*names))
    draft.set("model.features", width, settings.origin(*names))
    factors = settings.get("model.rsunet.down_factors", "model.rsunet_down_factors")
    if factors:
        draft.set("model.strides", tuple(map(tuple, factors)), "model.rsunet.down_factors")


def _target(draft: Draft, settings: Settings) -> None:
    """One target is learned: affinities before boundaries and a mask."""
    targets = settings.get("data.label_transform.targets") or []
    offsets = settings.get("data.label_transform.affinity.offsets")
    channels = settings.get("model.out_channels")
    listed = [target if isinstance(target, Mapping) else {"name": target} for target in targets]
    if offsets and not listed:
        listed = [{"name": "affinity", "kwargs": {"offsets": offsets}}]
    kinds = {"affinity": "affinity", "instance_boundary": "boundary", "binary": "binary"}
    ranks = list(kinds)
    known = [target["name"] for target in listed if target["name"] in kinds]
    picked = min(known, key=ranks.index, default=None)
    name = "data.label_transform.targets"
    for target in listed:
        if target["name"] != picked:
            text = "a network learns one target" if target["name"] in kinds else "no such target"
            draft.lack(name, target["name"], text)
        elif picked == "affinity":
            draft.set("target.offsets", _offsets(target.get("kwargs") or {}), name)
            _affinity_mode(draft, target.get("kwargs") or {})
    if picked is not None:
        draft.set("target.kind", kinds[picked], name)
    elif channels > 1:
        draft.set("target.kind", "classes", "model.out_channels")
        draft.set("target.classes", int(channels), "model.out_channels")
    else:
        draft.set("target.kind", "binary", "model.out_channels")
    if draft.fields["target.kind"] == "classes" and draft.fields.pop("target.erosion", 0):
        draft.lack("data.label_transform.erosion", "", "class ids are not eroded")


def _offsets(kwargs: Mapping[str, Any]) -> tuple[tuple[int, ...], ...]:
    if kwargs.get("offsets"):
        return tuple(
            tuple(map(int, offset.split("-") if isinstance(offset, str) else offset))
            for offset in kwargs["offsets"]
        )
    reach = kwargs.get("long_range")
    if reach:
        return tuple(tuple(reach if o == 10 else o for o in offset) for offset in SHORT_AND_LONG)
    return SHORT_AND_LONG[:3]


def _affinity_mode(draft: Draft, kwargs: Mapping[str, Any]) -> None:
    if kwargs.get("affinity_mode") == "deepem":
        draft.change(
            "affinity_mode",
            "deepem",
            "an edge is stored at the voxel that it starts from, not at the one it leads to",
        )


def _loss(draft: Draft, settings: Settings) -> None:
    losses: list[tuple[str, str, float, bool]] = []
    listed = settings.get("model.loss.losses", "model.losses")
    kinds = settings.get("model.loss_functions")
    kind = draft.fields["target.kind"]
    if listed:
        for loss in listed:
            kwargs = loss.get("kwargs") or {}
            is_balanced = loss.get("pos_weight") == "auto" or bool(kwargs.get("auto_pos_weight"))
            losses.append(
                ("model.loss.losses", loss["function"], float(loss.get("weight", 1)), is_balanced)
            )
            if "max_pos_weight" in kwargs:
                limit = float(kwargs["max_pos_weight"])
                draft.set("loss.max_positive_weight", limit, "max_pos_weight")
            if isinstance(loss.get("pos_weight"), int | float):
                draft.lack("pos_weight", loss["pos_weight"], "loss.terms balanced_bce weighs both")
    elif kinds:
        weights = settings.get("model.loss_weights") or [1.0] * len(kinds)
        losses = [
            ("model.loss_functions", name, float(weight), False)
            for name, weight in zip(kinds, weights)
        ]
    else:
        losses = [
            (f"{PEER}, its default", name, 1.0, False) for name in ("DiceLoss", "WeightedBCE")
        ]
    terms.losses(draft, losses, kind == "classes", kind in ("binary", "boundary"))
    scales = settings.get("model.deep_supervision_weights", "model.loss.deep_supervision_weights")
    if scales:
        draft.set("loss.scale_weights", tuple(map(float, scales)), "deep_supervision_weights")


def _volumes(draft: Draft, settings: Settings) -> None:
    for split in ("train", "val"):
        made = _split(draft, settings, split)
        if made:
            draft.set(f"data.{split}", made, f"data.{split}.image")
        elif split == "train":
            draft.lack("data.train.image", "", "not stated: name volumes by --data.train.0.image")
    if settings.get("data.dataloader.use_preloaded_cache_train", "data.use_preloaded_cache"):
        draft.set("data.cache", "memory", "data.dataloader.use_preloaded_cache_train")
    name = "data.dataloader.cached_sampling_foreground_threshold"
    draft.set("data.min_labelled", float(settings.get(name)), settings.origin(name))
    _tested(draft, settings)


def _split(draft: Draft, settings: Settings, split: str) -> tuple[VolumeConfig, ...]:
    def get(name: str) -> Any:
        return settings.get(f"data.{split}.{name}", f"data.{split}_{name}")

    root = settings.get("data.root_path") or ""
    folder = "/".join(part.rstrip("/") for part in (root, get("path") or "") if part)
    parts = [_paths(folder, get(part)) for part in ("image", "label", "mask")]
    parts[0] = [path for path in parts[0] if not path.startswith("random:")]
    resolution = get("resolution") or settings.get("data.train.resolution", "data.train_resolution")
    size = tuple(map(float, resolution)) if resolution else None
    if size is not None and len(size) != 3:
        draft.lack(f"data.{split}.resolution", resolution, "a voxel has three sides, in nm")
        size = None
    more: dict[str, Any] = {"voxel_size": size}
    turned = settings.get(f"data.data_transform.{split}_transpose", f"data.{split}_transpose")
    is_nisb = any(path.endswith("data.zarr/img") for path in parts[0])
    if turned:
        if list(turned) == [2, 1, 0]:
            more = {
                "voxel_size": size[::-1] if size else None,
                "axes": "xyzc" if is_nisb else "xyz",
                "transpose": "zyx",
            }
        else:
            draft.lack(f"data.{split}_transpose", turned, "state axes and transpose of the volume")
    elif is_nisb:
        more["axes"] = "xyzc"
    skeleton = get("skeleton")
    if isinstance(skeleton, str) and len(parts[0]) == 1:
        more["skeleton"] = skeleton
    get("label_aux"), get("label_aux_type")
    return terms.volumes(draft, f"data.{split}.image", *parts, **more)


def _paths(folder: str, names: Any) -> list[str]:
    listed = names if isinstance(names, list) else [names] if names else []
    return [f"{folder}/{name}" if folder else str(name) for name in listed]


def _tested(draft: Draft, settings: Settings) -> None:
    """Say how the volumes that are named for testing are predicted."""
    for prefix in ("test.data.test.", "test.data.test_", "inference.data.test_"):
        folder = settings.get(f"{prefix}path") or ""
        images = _paths(folder.rstrip("/"), settings.get(f"{prefix}image"))
        labels = _paths(folder.rstrip("/"), settings.get(f"{prefix}label"))
        for number, image in enumerate(images):
            label = f" --labels {labels[number]}" if number < len(labels) else ""
            draft.change(f"{prefix}image", image, f"infer.py --input {image}{label}")
        for name in ("resolution", "skeleton", "transpose", "name"):
            settings.get(f"{prefix}{name}")


def _optimization(draft: Draft, settings: Settings) -> None:
    start = "optimization"
    batch = settings.get(
        "data.batch_size", "system.training.batch_size", "data.dataloader.batch_size"
    )
    draft.set("loop.batch_size", int(batch), "data.dataloader.batch_size")
    optimizer = settings.get(f"{start}.optimizer.name")
    rate = float(settings.get(f"{start}.optimizer.lr"))
    decay = float(settings.get(f"{start}.optimizer.weight_decay"))
    if optimizer in terms.ADAMS:
        draft.set("optim.learning_rate", rate, settings.origin(f"{start}.optimizer.lr"))
        origin = settings.origin(f"{start}.optimizer.weight_decay")
        draft.set("optim.weight_decay", decay, origin)
    else:
        draft.change(f"{start}.optimizer.name", f"{optimizer}, lr = {rate}", terms.NO_ADAM)
    terms.schedule(draft, f"{start}.scheduler.name", settings.get(f"{start}.scheduler.name"))
    per_epoch = _steps_per_epoch(settings, int(batch))
    _length(draft, settings, per_epoch)
    if settings.get(f"{start}.ema.enabled"):
        draft.set("optim.ema_decay", float(settings.get(f"{start}.ema.decay") or 0.999), "ema")
        warmup = int(settings.get(f"{start}.ema.warmup_steps") or 10)
        draft.set("optim.ema_warmup_steps", max(warmup, 1), f"{start}.ema.warmup_steps")
    settings.leave(f"{start}.ema")
    _checkpoints(draft, settings, per_epoch)


def _steps_per_epoch(settings: Settings, batch: int) -> int | None:
    steps = settings.get("optimization.n_steps_per_epoch")
    if steps is not None and steps > 0:
        return int(steps)
    crops = settings.get("data.iter_num_per_epoch", "data.iter_num")
    return max(int(crops) // batch, 1) if crops else None


def _length(draft: Draft, settings: Settings, per_epoch: int | None) -> None:
    """Steps of the run, of its warm-up, and between validations."""
    start = "optimization"
    steps, epochs = settings.get(f"{start}.max_steps"), settings.get(f"{start}.max_epochs")
    origin = settings.origin(f"{start}.max_steps", f"{start}.max_epochs")
    if steps:
        draft.set("loop.max_steps", int(steps), origin)
    elif per_epoch is not None:
        draft.set("loop.max_steps", int(epochs) * per_epoch, origin)
    else:
        draft.set("loop.epochs", float(epochs), origin)
        draft.change(f"{start}.max_epochs", epochs, "an epoch draws as many voxels as there are")
    names = ("params.warmup_epochs", "warmup_epochs")
    warmup = settings.get(*(f"{start}.scheduler.{name}" for name in names))
    if warmup and per_epoch is not None:
        name = f"{start}.scheduler.warmup_epochs"
        draft.set("optim.warmup_steps", int(warmup) * per_epoch, name)
    elif warmup:
        draft.lack(f"{start}.scheduler.warmup_epochs", warmup, "optim.warmup_steps counts steps")
    every = settings.get(f"{start}.val_check_interval")
    if every is None:
        return
    name = f"{start}.val_check_interval"
    if settings.get(f"{start}.val_check_interval_unit") == "step" or every > 100:
        draft.set("loop.val_every", int(every), name)
    elif per_epoch is not None:
        draft.set("loop.val_every", max(int(every * per_epoch), 1), name)


def _checkpoints(draft: Draft, settings: Settings, per_epoch: int | None) -> None:
    start = "monitor.checkpoint"
    steps = settings.get(f"{start}.save_every_n_steps")
    epochs = settings.get(f"{start}.save_every_n_epochs")
    if steps:
        draft.set("loop.checkpoint_every", int(steps), f"{start}.save_every_n_steps")
    elif epochs and per_epoch is not None:
        every = int(epochs) * per_epoch
        draft.set("loop.checkpoint_every", every, f"{start}.save_every_n_epochs")
    monitored = settings.get(f"{start}.monitor")
    if "val" not in monitored:
        draft.change(f"{start}.monitor", monitored, "checkpoints are ranked by val/loss")
    settings.get(f"{start}.mode")
    if not settings.get("monitor.early_stopping.enabled"):
        settings.leave("monitor.early_stopping")
