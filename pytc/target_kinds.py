"""What a network can learn to predict: one row for each kind of target.

A row says how the output of the network becomes a result, and how the result is scored. To add a
kind, add its name to `TargetName` and a row here, and a function in `pytc.data.targets` that makes
it from labels. Standard library only, so that help, checks and evaluate.py need no torch.
"""

from dataclasses import dataclass
from typing import Literal

TargetName = Literal[
    "affinity",
    "binary",
    "boundary",
    "classes",
    "mask_contour",
    "distance",
]


@dataclass(frozen=True)
class TargetKind:
    """A row of the table."""

    name: TargetName  # target.kind, and --target of evaluate.py
    # one for each offset, or class, a single one, or two
    channels: Literal["offsets", "classes", "one", "two"]
    default_loss: str  # a loss term that suits it
    activation: Literal["sigmoid", "softmax"]  # from the logits to what is stored
    scale: float  # factor of the logits before that, see inference.activation_scale
    decode: Literal["objects", "threshold", "argmax"]  # makes segmentation.zarr from it
    task: Literal["instance", "semantic"]  # whose metrics score it
    prediction: Literal["affinities", "probabilities"]  # what is stored: affinities.zarr
    truth: Literal["objects", "foreground", "boundaries", "classes"]  # made from labels
    meaning: str  # what a channel says

    @property
    def per_offset(self) -> bool:
        """Whether it has a channel for each of target.offsets."""
        return self.channels == "offsets"

    @property
    def has_classes(self) -> bool:
        """Whether its channels are classes, of which each voxel has exactly one."""
        return self.channels == "classes"


ROWS = (
    TargetKind(
        "affinity", "offsets", "bce", "sigmoid", 0.2, "objects", "instance", "affinities",
        "objects", "whether a voxel and the one at an offset are the same object",
    ),
    TargetKind(
        "binary", "one", "bce", "sigmoid", 0.2, "threshold", "semantic", "probabilities",
        "foreground", "whether a voxel belongs to any object",
    ),
    TargetKind(
        "boundary", "one", "bce", "sigmoid", 0.2, "threshold", "semantic", "probabilities",
        "boundaries", "whether a voxel touches one of another label",
    ),
    TargetKind(
        "classes", "classes", "cross_entropy", "softmax", 1.0, "argmax", "semantic",
        "probabilities", "classes", "which of several classes a voxel belongs to",
    ),
    TargetKind(
        "mask_contour", "two", "bce", "sigmoid", 1.0, "objects", "instance", "probabilities",
        "objects", "whether a voxel belongs to any object, and whether it touches another label",
    ),
    TargetKind(
        "distance", "one", "mse", "sigmoid", 1.0, "objects", "instance", "probabilities",
        "objects", "how far inside of its object a voxel lies, or outside of all",
    ),
)  # fmt: skip
TARGET_KINDS: dict[str, TargetKind] = {row.name: row for row in ROWS}


def target_kind(name: str) -> TargetKind:
    """The row of that name; ValueError, with all names, if there is none."""
    if name not in TARGET_KINDS:
        raise ValueError(f"expected a target from {', '.join(TARGET_KINDS)}, got {name!r}")
    return TARGET_KINDS[name]
