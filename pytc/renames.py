"""Other names for the fields of a config.

Fields of earlier releases are read under their old names. A flag under the name that the documents
behind this library use is refused, with the name of ours.

Torch is not loaded here.
"""

import copy
from collections.abc import Iterable
from typing import Any

from pytc.checks import from_plain
from pytc.config import Config, SegmentationConfig

# field of an earlier release: field of this one; None where it was dropped and had no effect
RENAMED_FIELDS: dict[str, str | None] = {
    "segmentation.grow": "segmentation.method",
}

# field of this release, value of an earlier one: value of this one
RENAMED_VALUES: dict[tuple[str, Any], Any] = {
    ("optim.schedule", "constant"): "none",
    ("segmentation.method", False): "components",
    ("segmentation.method", True): "components_watershed",
}

# field that an earlier release lacks: the value that does what that release did
ADDED_FIELDS: dict[str, Any] = {
    "data.intensity": "dtype",
}

# flag of an earlier release: what replaces it
RENAMED_FLAGS = {
    "grow": "--method components_watershed, or components",
    "segmentation.grow": "--segmentation.method components_watershed",
    "segmentation.no_grow": "--segmentation.method components",
}

# flag of the documents: ours, or what replaces it
DOCUMENTED_FLAGS = {
    "auto_config": "--system.auto",
    "checkpoint.mode": "nothing: the direction follows from --loop.monitor",
    "checkpoint.monitor": "--loop.monitor",
    "checkpoint.save_top_k": "--loop.keep-checkpoints",
    "data.augmentation.drop_slice_prob": "--augment.drop-slice-prob",
    "data.augmentation.shift_slice_prob": "--augment.shift-slice-prob",
    "data.augmentation.use_slice_augments": "--augment.drop-slice-prob and its like; 0 is off",
    "data.auto_batch_size": "--system.auto",
    "data.batch_size": "--loop.batch-size",
    "data.num_workers": "--system.workers",
    "data.real_path": "--data.train.1.image and --data.train.1.labels",
    "data.synthetic_path": "--data.train.0.image and --data.train.0.labels",
    "data.synthetic_weight": "--data.train.0.weight",
    "data.train_image": "--data.train.0.image",
    "data.train_label": "--data.train.0.labels",
    "data.use_mixed_data": "several volumes, --data.train.1.image and so on",
    "data.val_image": "--data.val.0.image",
    "data.val_label": "--data.val.0.labels",
    "inference.affinity_threshold": "--segmentation.threshold",
    "inference.use_numba_cc": "nothing: it is always on",
    "model.activation": "--model.basic-unet.act",
    "model.attn_drop_rate": "--model.swin.attn-drop-rate",
    "model.dropout_path_rate": "--model.swin.dropout-path-rate",
    "model.filters": "--model.features",
    "model.hidden_size": "--model.unetr.hidden-size",
    "model.input_size": "--model.image-size",
    "model.loss_functions": "--loss.terms",
    "model.loss_weights": "--loss.weights",
    "model.mednext_base_channels": "--model.base-channels",
    "model.mednext_block_counts": "--model.block-counts",
    "model.mednext_checkpoint": "--model.checkpoint-style",
    "model.mednext_dim": "--model.spatial-dims",
    "model.mednext_do_res": "--model.do-res",
    "model.mednext_do_res_up_down": "--model.do-res-up-down",
    "model.mednext_exp_r": "--model.expansion",
    "model.mednext_grn": "--model.grn",
    "model.mednext_kernel_size": "--model.kernel-size",
    "model.mednext_norm": "--model.norm",
    "model.mlp_dim": "--model.unetr.mlp-dim",
    "model.num_heads": "--model.unetr.num-heads",
    "model.num_res_units": "--model.residual-units",
    "model.pos_embed": "--model.unetr.pos-embed",
    "model.use_checkpoint": "--model.swin.use-checkpoint",
    "optimizer.lr": "--optim.learning-rate",
    "optimizer.name": "nothing: the optimizer is AdamW",
    "optimizer.weight_decay": "--optim.weight-decay",
    "scheduler.name": "--optim.schedule",
    "system.num_cpus": "--system.workers",
    "system.num_gpus": "torchrun --nproc-per-node gpu train.py, which takes all GPUs",
    "system.seed": "--loop.seed",
    "training.gradient_clip_val": "--optim.clip-norm",
    "training.max_epochs": "--loop.epochs",
    "training.precision": "--system.precision",
    "validation.compute_skeleton_metrics": "--loop.volumes-every",
    "validation.skeleton_path": "--data.val.0.skeleton",
    "validation.threshold_range": "--validation.thresholds",
    "validation.threshold_sweep": "--loop.volumes-every",
}


def config_from_plain(plain: Any) -> Config:
    """A config from plain types, as this release or an earlier one wrote them.

    ValueError names a field that neither knows, or that has another type.
    """
    return from_plain(Config, renamed(plain))


def segmentation_from_plain(plain: dict[str, Any]) -> SegmentationConfig:
    """The settings of a segmentation that were noted beside it, by this release or an earlier one.

    What was not noted has its default.
    """
    return from_plain(SegmentationConfig, renamed({"segmentation": plain})["segmentation"])


def refuse_renamed_flags(words: Iterable[str]) -> None:
    """ValueError for a flag of an earlier release, with what replaces it."""
    for argument in words:
        flag = argument.partition("=")[0]
        name = flag.removeprefix("--").replace("-", "_")
        if flag.startswith("--") and name in RENAMED_FLAGS:
            raise ValueError(f"expected {RENAMED_FLAGS[name]} in place of {flag}")


def renamed(plain: Any) -> Any:
    """The same nested dictionary with the names and values of this release."""
    plain = copy.deepcopy(plain)
    for old, new in RENAMED_FIELDS.items():
        section, name = _section(plain, old)
        if name not in section:
            continue
        value = section.pop(name)
        if new is not None:
            section, name = _section(plain, new)
            section.setdefault(name, value)
    for (field, old), new in RENAMED_VALUES.items():
        section, name = _section(plain, field)
        if name in section and section[name] == old:
            section[name] = new
    for field, value in ADDED_FIELDS.items():
        parent, name = _section(plain, field)
        if parent:
            parent.setdefault(name, value)
    return plain


def _section(plain: Any, field: str) -> tuple[dict, str]:
    """The dictionary that holds a field, empty if none does, and the last part of its name."""
    *sections, name = field.split(".")
    for section in sections:
        if not isinstance(plain, dict):
            return {}, name  # from_plain reports what is wrong with it
        plain = plain.get(section)
    return plain if isinstance(plain, dict) else {}, name
