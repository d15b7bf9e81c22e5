"""Inference and decoding of PyTorch Connectomics since 2025."""

from collections.abc import Mapping
from typing import Any

from pytc.migration.connectomics_tables import BLENDINGS, DECODES
from pytc.migration.draft import Draft, Settings


def carry_inference(draft: Draft, settings: Settings) -> None:
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


def carry_decoding(draft: Draft, settings: Settings) -> None:
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
            draft.lack(f"decoding.steps.{name}", value, "see segmentation.* in infer.py --help-all")
