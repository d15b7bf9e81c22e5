"""What a network can learn to predict, one row a kind: how its output becomes a result, and how
that is scored.

`pytc.data.targets` makes the target of each kind from labels. Standard library only, so that help,
checks and evaluate.py can read it without torch.
"""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class TargetKind:
    """A row of the table."""

    name: str  # target.kind, and --target of evaluate.py
    activation: Literal["sigmoid", "softmax"]  # from logits to what is stored
    scale: float  # logits are multiplied by it before, unless inference.activation_scale says other
    decode: Literal["objects", "threshold", "argmax"]  # from what is stored to segmentation.zarr
    task: Literal["instance", "semantic"]  # whose metrics score it
    prediction: Literal["affinities", "probabilities"]  # stored as affinities.zarr, ...
    per_offset: bool  # a channel for each offset of target.offsets
    truth: Literal[
        "objects", "foreground", "boundaries", "classes"
    ]  # of the labels, to score against
    meaning: str


ROWS = (
    TargetKind(
        "affinity", "sigmoid", 0.2, "objects", "instance", "affinities", True, "objects",
        "whether a voxel and the one at an offset are the same object",
    ),
    TargetKind(
        "binary", "sigmoid", 0.2, "threshold", "semantic", "probabilities", False, "foreground",
        "whether a voxel belongs to any object",
    ),
    TargetKind(
        "boundary", "sigmoid", 0.2, "threshold", "semantic", "probabilities", False, "boundaries",
        "whether a voxel touches one of another label",
    ),
    TargetKind(
        "classes", "softmax", 1.0, "argmax", "semantic", "probabilities", False, "classes",
        "which of several classes a voxel belongs to",
    ),
)  # fmt: skip
TARGET_KINDS = {row.name: row for row in ROWS}


def target_kind(name: str) -> TargetKind:
    """The row of that name; ValueError, with all names, if there is none."""
    if name not in TARGET_KINDS:
        raise ValueError(f"expected a target from {', '.join(TARGET_KINDS)}, got {name!r}")
    return TARGET_KINDS[name]
