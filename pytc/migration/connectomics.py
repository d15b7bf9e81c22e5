"""The dialect of PyTorch Connectomics since 2025: YAML for Hydra, later with `_base_` and stages.

A setting has had several names. `Settings.get` takes the newest first.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from pytc.config import SHORT_AND_LONG, VolumeConfig
from pytc.migration import terms
from pytc.migration.draft import Draft, Rename, Settings

PEER = "PyTorch Connectomics (Hydra)"
SECTIONS = ("system", "model", "data", "optimization", "monitor", "inference", "default", "train")

DEFAULTS: dict[str, Any] = {
    "experiment_name": "run",
    "system.seed": 42,
    "model.arch.type": "monai_basic_unet3d",
    "model.monai.filters": [32, 64, 128, 256, 512],
    "model.monai.norm": "batch",
    "model.monai.num_res_units": 2,
    "model.mednext.size": "S",
    "model.mednext.exp_r": 4,
    "model.mednext.checkpoint_style": "none",
    "model.rsunet.width": [16, 32, 64, 128],
    "model.transformer.feature_size": 16,
    "model.transformer.pos_embed": "perceptron",
    "model.out_channels": 1,
    "model.loss.deep_supervision": False,
    "data.dataloader.batch_size": 4,
    "data.dataloader.patch_size": [128, 128, 128],
    "data.dataloader.cached_sampling_foreground_threshold": 0.0,
    "optimization.optimizer.name": "AdamW",
    "optimization.optimizer.lr": 1e-3,
    "optimization.optimizer.weight_decay": 0.01,
    "optimization.scheduler.name": "CosineAnnealingLR",
    "optimization.scheduler.warmup_epochs": 0,
    "optimization.max_epochs": 200,
    "optimization.gradient_clip_val": 1.0,
    "optimization.accumulate_grad_batches": 1,
    "optimization.precision": "16-mixed",
    "optimization.log_every_n_steps": 100,
    "monitor.checkpoint.monitor": "val_loss",
    "monitor.checkpoint.save_top_k": 3,
    "inference.window.overlap": 0.5,
    "inference.window.blending": "bump",
}

RENAMES: dict[str, Rename] = {
    "experiment_name": ("name", str),
    "system.seed": ("loop.seed", int),
    "model.in_channels": ("model.in_channels", int),
    "model.external_weights_path": ("model.pretrained", str),
    "optimization.gradient_clip_val": ("optim.clip_norm", float),
    "optimization.accumulate_grad_batches": ("optim.accumulate", int),
    "optimization.precision": ("system.precision", terms.precision),
    "optimization.log_every_n_steps": ("loop.log_every", int),
    "data.label_transform.erosion": ("target.erosion", int),
    "monitor.checkpoint.save_top_k": ("loop.keep_checkpoints", lambda k: max(int(k), 1)),
}
# field of ours: the names that the setting has had, and what makes its value
MEDNEXT: dict[str, tuple[str, Any]] = {
    "kernel_size": ("kernel_size", int),
    "checkpoint_style": ("checkpoint_style", str),
}
CUSTOM_MEDNEXT: dict[str, tuple[str, Any]] = {
    **MEDNEXT,
    "base_channels": ("base_channels", int),
    "exp_r": ("expansion", lambda ratio: tuple(ratio) if isinstance(ratio, list) else int(ratio)),
    "block_counts": ("block_counts", tuple),
    "do_res": ("do_res", bool),
    "do_res_up_down": ("do_res_up_down", bool),
    "norm": ("norm", str),
    "grn": ("grn", bool),
    "dim": ("spatial_dims", lambda text: int(str(text)[0])),
}
TRANSFORMER: dict[str, tuple[str, Any]] = {
    "feature_size": ("feature_size", int),
    "dropout": ("dropout", float),
}
UNETR: dict[str, tuple[str, Any]] = {
    "hidden_size": ("unetr.hidden_size", int),
    "mlp_dim": ("unetr.mlp_dim", int),
    "num_heads": ("unetr.num_heads", int),
    "pos_embed": ("unetr.pos_embed", str),
    "norm": ("unetr.norm", str),
}
SWIN: dict[str, tuple[str, Any]] = {
    "use_checkpoint": ("swin.use_checkpoint", bool),
    "attn_drop_rate": ("swin.attn_drop_rate", float),
    "dropout_path_rate": ("swin.dropout_path_rate", float),
}
BLENDINGS = {
    "gaussian": "gaussian",
    "bump": "gaussian",
    "distance_transform": "distance",
}
DECODES = {
    "decode_affinity_cc": "components",
    "decode_waterz": "waterz",
    "decode_mutex_watershed": "mutex_watershed",
}
# What is on or off there and has no counterpart here.
NO_AUGMENTATION = {
    "lost_section": "augment.missing_section_prob blanks sections",
    "cut_noise": "augment.noise_prob is for whole patches",
    "cut_blur": "augment.blur_slice_prob blurs whole slices",
    "missing_parts": "augment.cutout_prob blanks boxes",
    "mixup": "no counterpart",
    "copy_paste": "no counterpart",
    "stripe": "no counterpart",
}

REASONS = {
    "description": "",
    "data.augmentation.flip.spatial_axis": "each axis is mirrored with this probability",
    "data.augmentation.rotate": "quarter turns in the plane of the sections",
    "data.augmentation.slice_drop": "",
    "data.augmentation.slice_drop_z": "whole sections are blanked",
    "data.augmentation.missing_section": "whole sections are blanked",
    "data.augmentation.motion_blur": "see augment.blur_sigma",
    "data.augmentation.misalignment": "see augment.misalign_rotation",
    "data.augmentation.slice_shift_z": "see augment.misalign_rotation",
    "save_path": "runs are written below $PYTC_RUNS, or runs/",
    "system": "",
    "system.num_gpus": "one GPU; all of a machine by torchrun --nproc-per-node gpu train.py",
    "system.training.num_gpus": "all GPUs by torchrun --nproc-per-node gpu train.py",
    "system.auto_plan": "system.auto fits the batch to the GPU",
    "model.input_size": "",
    "model.output_size": "",
    "model.heads": "a network has one head",
    "model.primary_head": "a network has one head",
    "model.monai": "an option of another network",
    "model.mednext": "an option of another network",
    "model.rsunet": "an option of another network",
    "model.transformer": "an option of another network",
    "model.nnunet": "model.pretrained reads weights of nnU-Net",
    "model.loss.loss_balancing": "the weights of the terms stay constant",
    "model.loss.deep_supervision_clamp_min": "",
    "model.loss.deep_supervision_clamp_max": "",
    "model.deep_supervision_clamp_min": "",
    "model.deep_supervision_clamp_max": "",
    "model.loss_kwargs": "options of a loss: see loss.* in train.py --help",
    "data.dataloader": "",
    "data.dataloader.reject_sampling": "data.min_labelled: the least labelled share of a patch",
    "data.dataloader.target_context": "affinities beyond the patch are not valid, and not counted",
    "data.reject_sampling": "data.min_labelled: the least labelled share of a patch",
    "data.image_transform": "grey values are mapped by data.intensity",
    "data.nnunet_preprocessing": "no resampling; grey values are mapped by data.intensity",
    "data.data_transform": "data are read at the size that they are stored in",
    "data.data_transform.pad_size": "patches and windows lie inside the volume",
    "data.pad_size": "patches and windows lie inside the volume",
    "data.pad_mode": "",
    "data.label_transform": "",
    "data.label_transform.skeleton_distance": "no such target",
    "data.label_transform.relabel_connected_components": "objects keep their labels in a patch",
    "data.split_enabled": "cut the volume along z into two files, and name the second in data.val",
    "data.split_train_range": "",
    "data.split_val_range": "",
    "data.split_axis": "",
    "data.split_pad_val": "",
    "data.train_val_split": "cut the volume along z into two files, the second for data.val",
    "data.do_2d": "volumes only; mednext_custom has model.spatial_dims 2",
    "data.use_cache": "",
    "data.cache_rate": "",
    "data.pin_memory": "",
    "data.persistent_workers": "",
    "data.use_preloaded_cache": "data.cache memory decodes each volume once",
    "data.use_lazy_zarr": "",
    "data.augmentation.preset": "state each augmentation: augment.* in train.py --help",
    "data.augmentation.enabled": "state each augmentation: augment.* in train.py --help",
    "data.augmentation.defect_mutex": "several defects may hit one patch",
    "optimization.optimizer.betas": "",
    "optimization.optimizer.eps": "",
    "optimization.scheduler": "a warm-up from 0, then a cosine to 0",
    "optimization.scheduler.interval": "",
    "optimization.scheduler.frequency": "",
    "optimization.scheduler.params.t_max": "",
    "optimization.num_sanity_val_steps": "",
    "optimization.val_steps_per_epoch": "data.val_samples fixed patches are validated",
    "optimization.deterministic": "",
    "optimization.benchmark": "",
    "optimization.ema": "",
    "monitor": "",
    "monitor.early_stopping": "a run goes on to its last step; best.pt is kept",
    "monitor.wandb": "TensorBoard and log.jsonl",
    "inference": "",
    "inference.model.select_channel": "all channels are stored",
    "inference.model.crop_pad": "windows lie inside the volume",
    "inference.chunking": "volumes are always predicted by blocks: inference.block",
    "inference.test_time_augmentation": "the eight mirrorings, or none: inference.flips",
    "inference.save_dtype": "",
    "inference.data.test_image": "infer.py --input",
    "decoding": "see segmentation.* in infer.py --help",
    "evaluation": "evaluate.py prints all scores; --metric picks the threshold",
    "test.data": "infer.py --input IMAGE --labels LABELS",
    "tune": "evaluate.py --sweep scores every threshold",
}


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
    _augmentations(draft, settings)
    _optimization(draft, settings)
    _inference(draft, settings)
    _decoding(draft, settings)
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


class _Augmentations:
    """The blocks below data.augmentation, each with its own switch."""

    start = "data.augmentation"

    def __init__(self, draft: Draft, settings: Settings) -> None:
        self.draft = draft
        self.settings = settings
        self.is_all = settings.get(f"{self.start}.preset") == "all"  # what `preset` says

    def value(self, name: str, default: Any = None) -> Any:
        """A setting of a block."""
        found = self.settings.get(f"{self.start}.{name}")
        return default if found is None else found

    def is_on(self, block: str) -> bool:
        """Whether a block is switched on; one that is not needs no notes."""
        stated = self.settings.get(f"{self.start}.{block}.enabled")
        used = self.is_all if stated is None else bool(stated)
        if not used:
            self.settings.leave(f"{self.start}.{block}")
        return used

    def set(self, field: str, value: Any, block: str) -> None:
        self.draft.set(f"augment.{field}", value, f"{self.start}.{block}")

    def probability(self, field: str, block: str, default: float = 0.5) -> float:
        """Set a probability of ours from a block; 0 if the block is off."""
        found = float(self.value(f"{block}.prob", default)) if self.is_on(block) else 0.0
        self.set(field, found, block)
        return found


def _augmentations(draft: Draft, settings: Settings) -> None:
    """An augmentation that is not switched on there has the probability 0 here."""
    blocks = _Augmentations(draft, settings)
    blocks.probability("flip_prob", "flip")
    blocks.probability("permute_prob", "axis_permute", 1.0)
    if not blocks.probability("rot90_prob", "rotate"):
        blocks.probability("rot90_prob", "rotate90_all", 1.0)
    if blocks.probability("affine_prob", "affine"):
        _affine(blocks)
    if blocks.probability("elastic_prob", "elastic"):
        for name in ("sigma_range", "magnitude_range"):
            found = blocks.value(f"elastic.{name}")
            if found:
                name = f"{blocks.start}.elastic.{name}"
                draft.change(name, found, "see augment.elastic_magnitude")
    if blocks.is_on("intensity"):
        _intensity(blocks)
    else:
        blocks.set("intensity_prob", 0.0, "intensity")
        blocks.set("noise_prob", 0.0, "intensity")
    _single_slices(blocks)
    _sections(blocks)
    for name, text in NO_AUGMENTATION.items():
        if blocks.is_on(name):
            draft.lack(f"{blocks.start}.{name}", "on", text)
            settings.leave(f"{blocks.start}.{name}")


def _affine(blocks: _Augmentations) -> None:
    degrees = math.degrees(max(blocks.value("affine.rotate_range", [0.0])))
    blocks.set("affine_rotation", round(degrees, 3), "affine.rotate_range")
    blocks.set("affine_scale", float(max(blocks.value("affine.scale_range", [0.0]))), "affine")
    blocks.set("affine_shear", float(max(blocks.value("affine.shear_range", [0.0]))), "affine")


def _intensity(blocks: _Augmentations) -> None:
    def value(name: str, default: Any) -> Any:
        return blocks.value(f"intensity.{name}", default)

    blocks.set("noise_prob", float(value("gaussian_noise_prob", 0.5)), "intensity")
    blocks.set("noise_max", float(value("gaussian_noise_std", 0.1)), "intensity")
    if value("banis_style", False):
        contrast = value("mul_range", [0.9, 1.1])
        chosen = value("mul_add_prob", 0.0)
        offset = max(map(abs, value("add_range", [-0.1, 0.1])))
    else:
        contrast = value("contrast_range", [0.9, 1.1])
        chosen = max(value("contrast_prob", 0.5), value("shift_intensity_prob", 0.5))
        offset = value("shift_intensity_offset", 0.1)
    scale = max(1 - contrast[0], contrast[1] - 1)
    blocks.set("intensity_scale", round(scale, 6), "intensity")
    blocks.set("intensity_prob", float(chosen), "intensity")
    blocks.set("intensity_offset", float(offset), "intensity")


def _single_slices(blocks: _Augmentations) -> None:
    """Damage that each slice of a patch meets by itself."""
    chosen: list[float] = []
    for block, field in (("slice_drop", "drop_slice_prob"), ("slice_shift", "shift_slice_prob")):
        if not blocks.is_on(block):
            continue
        chosen.append(float(blocks.value(f"{block}.prob", 0.0)))
        share = float(blocks.value(f"{block}.slice_prob", 0.05))
        blocks.set(field, share, f"{block}.slice_prob")
        if len(blocks.value(f"{block}.spatial_axis", [0, 1, 2])) == 3:
            blocks.set("slices_axis", "random", f"{block}.spatial_axis")
    if chosen:
        blocks.set("slices_prob", max(chosen), "slice_drop.prob")
    if blocks.draft.fields.get("augment.shift_slice_prob"):
        furthest = int(blocks.value("slice_shift.shift_magnitude", 10))
        blocks.set("shift_slice_max", furthest, "slice_shift.shift_magnitude")
        fill = "wrap" if blocks.value("slice_shift.wrap", True) else "border"
        blocks.set("shift_slice_fill", fill, "slice_shift.wrap")


def _sections(blocks: _Augmentations) -> None:
    """Damage to a patch across its sections."""
    for name in ("slice_shift_z", "misalignment"):
        if blocks.is_on(name):
            blocks.set("misalign_prob", float(blocks.value(f"{name}.prob", 0.5)), name)
            furthest = int(blocks.value(f"{name}.displacement", 16))
            blocks.set("misalign_max", furthest, f"{name}.displacement")
            if not blocks.value(f"{name}.rotate_ratio", 0.0):
                blocks.set("misalign_rotation", 0.0, f"{name}.rotate_ratio")
    for name in ("slice_drop_z", "missing_section"):
        if blocks.is_on(name):
            blocks.set("missing_section_prob", float(blocks.value(f"{name}.prob", 0.3)), name)
            longest = blocks.value(f"{name}.num_sections", 2)
            longest = max(longest) if isinstance(longest, list) else longest
            blocks.set("missing_section_max", int(longest), f"{name}.num_sections")
    if blocks.is_on("motion_blur"):
        chosen = float(blocks.value("motion_blur.prob", 0.3))
        blocks.set("blur_slice_prob", round(chosen / 10, 4), "motion_blur.prob")
        name = f"{blocks.start}.motion_blur.prob"
        blocks.draft.change(name, chosen, "of a patch there, of each slice here")


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


def _inference(draft: Draft, settings: Settings) -> None:
    def window(name: str) -> tuple[str, str]:
        return f"inference.sliding_window.{name}", f"inference.window.{name}"

    size = settings.get(*window("window_size"))
    if size:
        draft.set("inference.window", tuple(size), "inference.window.window_size")
    overlap = float(settings.get(*window("overlap")))
    draft.set("inference.overlap", overlap, settings.origin(*window("overlap")))
    batch = settings.get(*window("sw_batch_size"))
    if batch:
        draft.set("inference.batch_size", int(batch), "inference.window.sw_batch_size")
    blending = settings.get(*window("blending"))
    if blending in BLENDINGS:
        origin = settings.origin(*window("blending"))
        draft.set("inference.blending", BLENDINGS[blending], origin)
    else:
        draft.lack("inference.window.blending", blending, "gaussian or distance: distance")
    start = "inference.test_time_augmentation"
    if not settings.get(f"{start}.enabled"):
        settings.leave(start)
    elif settings.get(f"{start}.flip_axes") in (None, "none", []):
        draft.lack(start, "on, without flip_axes", "the eight mirrorings, or none")
    else:
        draft.set("inference.flips", True, f"{start}.flip_axes")
        if settings.get(f"{start}.ensemble_mode") not in (None, "mean"):
            draft.lack(f"{start}.ensemble_mode", "", "mirrored predictions are averaged")
    activations = settings.get(
        "inference.model.channel_activations",
        "inference.test_time_augmentation.channel_activations",
    )
    words = str(activations or settings.get("inference.test_time_augmentation.act") or "sigmoid")
    if draft.fields["target.kind"] != "classes":
        scale = 0.2 if "scale_sigmoid" in words else 1.0
        draft.set("inference.activation_scale", scale, "inference.model.channel_activations")


def _decoding(draft: Draft, settings: Settings) -> None:
    """The first step that pytc has; the others are noted."""
    names = ("test.decoding", "decoding.steps", "inference.decoding")
    steps = settings.get(*names) or []
    is_affinity = draft.fields["target.kind"] == "affinity"
    is_found = False
    for step in steps:
        method = DECODES.get(step.get("name"))
        kwargs = step.get("kwargs") or {}
        if method is None or is_found or not is_affinity:
            text = "; ".join(f"{key} {value}" for key, value in list(kwargs.items())[:3])
            draft.lack(f"decoding.steps.{step.get('name')}", text, "no such step")
            continue
        is_found = True
        draft.set("segmentation.method", method, "decoding.steps")
        _decode_options(draft, kwargs)


def _decode_options(draft: Draft, kwargs: Mapping[str, Any]) -> None:
    known = {"threshold", "thresholds", "dust_remove_size", "min_size", "aff_threshold"}
    threshold = kwargs.get("threshold", kwargs.get("thresholds"))
    if isinstance(threshold, list):
        draft.lack(
            "decoding.steps.thresholds", threshold, "the first; evaluate.py --sweep tries all"
        )
        threshold = threshold[0]
    if threshold is not None:
        value = float(threshold)
        if "thresholds" in kwargs:
            draft.change(
                "decoding.steps.thresholds",
                value,
                "it is 1 - affinity there: 1 minus this is taken",
            )
            value = 1 - value
        draft.set("segmentation.threshold", round(value, 6), "decoding.steps")
    smallest = kwargs.get("dust_remove_size", kwargs.get("min_size"))
    if smallest is not None:
        draft.set("segmentation.min_size", int(smallest), "decoding.steps")
    for name, value in kwargs.items():
        if name not in known and name not in ("backend", "edge_offset", "channel_order"):
            draft.lack(f"decoding.steps.{name}", value, "see segmentation.* in infer.py --help")
