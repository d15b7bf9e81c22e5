"""The dialect of nnU-Net 2: the plans.json of a data set, and the dataset.json beside it.

Plans hold the patch, the network and the spacing. How nnU-Net trains is in its trainer, and the
same for every plan: `TRAINER`.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pytc.checks import require, suggest
from pytc.migration.draft import Draft, Settings
from pytc.models.anisotropy import plan_levels

PEER = "nnU-Net"
FULL_RESOLUTION = "3d_fullres"

# What nnU-Net's trainer does, whatever the plan.
TRAINER: dict[str, Any] = {
    "augment.permute_prob": 0.0,
    "augment.rot90_prob": 0.0,
    "augment.flip_prob": 0.5,
    "augment.affine_prob": 0.2,
    "augment.affine_scale": 0.3,
    "augment.affine_shear": 0.0,
    "augment.intensity_prob": 0.15,
    "augment.intensity_scale": 0.25,
    "augment.intensity_offset": 0.0,
    "augment.gamma_prob": 0.3,
    "augment.noise_prob": 0.1,
    "augment.noise_max": 0.1,
    "loss.terms": ("dice", "cross_entropy"),
    "loss.weights": (1.0, 1.0),
    "loop.max_steps": 250_000,
    "loop.val_every": 250,
    "loop.checkpoint_every": 12_500,
    "inference.blending": "gaussian",
    "inference.overlap": 0.5,
    "inference.flips": True,
    "inference.checkpoint": "last",
}
TRAINER_LACKS = (
    (
        "optimizer",
        "SGD with Nesterov momentum, rate 0.01, polynomial decay",
        "AdamW with 1e-3 and a cosine; clip_norm 1 instead of 12",
    ),
    ("oversample_foreground_percent", 0.33, "data.min_labelled draws patches without labels anew"),
    ("blur and low resolution", "p 0.2 and 0.25", "augment.blur_slice_prob blurs slices"),
    ("cross-validation", "5 folds", "name the volumes of a fold by data.train and data.val"),
)
REASONS = {
    "data_identifier": "",
    "preprocessor_name": "",
    "median_image_size_in_voxels": "",
    "normalization_schemes": "grey values are mapped to 0 to 1, see data.intensity",
    "use_mask_for_norm": "grey values are mapped to 0 to 1, see data.intensity",
    "batch_dice": "the Dice loss is over the whole batch",
    "architecture": "",
    "next_stage": "no cascade",
    "previous_stage": "no cascade",
    "inherits_from": "",
}


def read_plans(path: Path) -> dict[str, Any]:
    """The table of a plans.json; ValueError for the plans of nnU-Net 1, and for other files."""
    require(path.suffix == ".json", "the plans.json of nnU-Net 2, not pickled plans", str(path))
    try:
        content = json.loads(path.read_text())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: {error}") from error
    is_plans = isinstance(content, dict) and isinstance(content.get("configurations"), dict)
    require(is_plans, "the plans.json of nnU-Net 2, with configurations", str(path))
    beside = path.with_name("dataset.json")
    if beside.is_file():
        content["dataset.json"] = json.loads(beside.read_text())
    return dict(content)


def translate(plans: Mapping[str, Any], configuration: str = FULL_RESOLUTION) -> Draft:
    """The draft of a config that does what one configuration of the plans asks for.

    ValueError if the plans have no such configuration, or it is two-dimensional.
    """
    configurations = plans["configurations"]
    if configuration not in configurations:
        near = suggest(configuration, configurations)
        raise ValueError(f"expected a configuration of the plans, got {configuration!r}{near}")
    stated = _inherited(configurations, configuration)
    patch = stated["patch_size"]
    require(len(patch) == 3, "a configuration of three dimensions", f"{configuration}: {patch}")
    settings = Settings(stated, {})
    draft = Draft()
    name = str(plans.get("dataset_name", "nnunet"))
    draft.set("name", name.lower(), "dataset_name")
    draft.set("data.patch_size", tuple(settings.get("patch_size")), "patch_size")
    draft.set("loop.batch_size", int(settings.get("batch_size")), "batch_size")
    _network(draft, settings)
    for field, value in TRAINER.items():
        draft.set(field, value)
    for each in TRAINER_LACKS:
        draft.lack(*each)
    _data_set(draft, plans.get("dataset.json"), plans)
    for key in settings.unread():
        if key.startswith("resampling_fn"):
            settings.leave(key)
    draft.lack("resampling", "to the spacing of the plans", "data are read as they are stored")
    draft.note_rest(settings, REASONS)
    return draft


def _inherited(configurations: Mapping[str, Any], name: str) -> dict[str, Any]:
    """A configuration above the one that it inherits from."""
    stated = dict(configurations[name])
    parent = stated.get("inherits_from")
    return {**_inherited(configurations, parent), **stated} if parent else stated


def _network(draft: Draft, settings: Settings) -> None:
    """Plans of `nnunet` where they agree with theirs; else a U-Net with their levels."""
    patch = tuple(settings.get("patch_size"))
    spacing = tuple(map(float, settings.get("spacing") or (1.0, 1.0, 1.0)))
    start = "architecture.arch_kwargs"
    # the names of plans until 2.4 come second
    names = (f"{start}.strides", "pool_op_kernel_sizes")
    strides = tuple(tuple(map(int, stride)) for stride in settings.get(*names) or ())
    features = settings.get(f"{start}.features_per_stage")
    base = int(features[0] if features else settings.get("UNet_base_num_features") or 32)
    name = settings.get("architecture.network_class_name", "UNet_class_name") or ""
    if "ResEnc" in name or "Residual" in name:
        draft.change("network_class_name", name, "nnunet has plain convolutions")
    draft.set("model.deep_supervision", True)
    planned = tuple(level.stride for level in plan_levels(spacing, patch_size=patch))
    channels = tuple(min(base * 2**level, 10 * base) for level in range(len(planned)))
    is_planned = planned == strides and tuple(features or channels) == channels
    if is_planned or not strides:
        draft.set("model.architecture", "nnunet")
        draft.set("model.base_channels", base, f"{start}.features_per_stage")
        draft.set("model.image_size", patch, "patch_size")
        draft.set("model.voxel_size", spacing, "spacing")
    else:
        draft.set("model.architecture", "unet", "nnunet would have other levels here")
        draft.set("model.features", tuple(features), f"{start}.features_per_stage")
        draft.set("model.strides", strides[1:], names[0])
    settings.leave("architecture")


def _data_set(draft: Draft, described: Any, plans: Mapping[str, Any]) -> None:
    """Classes and channels of the dataset.json; the volumes have to be named."""
    draft.set("target.kind", "classes")
    if described is None:
        draft.change("dataset.json", "not beside the plans", "set target.classes and in_channels")
    else:
        labels = {str(key): value for key, value in described["labels"].items()}
        values = [value for value in labels.values() if isinstance(value, int)]
        draft.set("target.classes", max(len(values) - ("ignore" in labels), 2), "labels")
        channels = described.get("channel_names") or described.get("modality") or {"0": ""}
        draft.set("model.in_channels", len(channels), "channel_names")
        if any(isinstance(value, list) for value in labels.values()):
            draft.lack("labels", labels, "regions: each voxel has one class")
        if "ignore" in labels:
            draft.change("labels.ignore", labels["ignore"], "-1 is unlabelled here; or a mask")
        ending = described.get("file_ending")
        if ending not in (None, ".tif", ".tiff"):
            draft.lack("file_ending", ending, "volumes are TIFF, HDF5, Zarr or NumPy: convert them")
    draft.lack("imagesTr, labelsTr", "", "name volumes by --data.train.0.image and .labels")
    order = plans.get("transpose_forward") or [0, 1, 2]
    if list(order) != [0, 1, 2]:
        draft.change("transpose_forward", order, "patch and strides are in this order of the axes")
