"""The augmentations of PyTorch Connectomics since 2025."""

import math
from typing import Any

from pytc.migration.connectomics_tables import NO_AUGMENTATION
from pytc.migration.draft import Draft, Settings


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


def carry_augmentations(draft: Draft, settings: Settings) -> None:
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
