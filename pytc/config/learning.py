"""What is learned and how: the target, the loss, the optimizer."""

import re
from dataclasses import dataclass
from typing import Annotated, Literal

from typing_extensions import Doc

from pytc.checks import Section, require, suggest
from pytc.config.volumes import Triple
from pytc.losses import LOSSES
from pytc.target_kinds import TARGET_KINDS, TargetName, target_kind

N_DESCRIPTORS = 10  # local shape descriptors of a voxel, see pytc.data.local_shape
SHORT_AND_LONG = ((1, 0, 0), (0, 1, 0), (0, 0, 1), (10, 0, 0), (0, 10, 0), (0, 0, 10))
TARGET_HELP = "What each channel says. " + "; ".join(
    f"{row.name}: {row.meaning} (loss: {row.default_loss})" for row in TARGET_KINDS.values()
)
LOSS_HELP = (
    "Names of the terms to sum. "
    + "; ".join(f"{row.name}: {row.meaning}" for row in LOSSES.values())
    + ". For classes: "
    + ", ".join(row.name for row in LOSSES.values() if row.of_classes)
)


@dataclass(frozen=True)
class TargetConfig(Section):
    """What the network learns to predict."""

    # The help of this field is made from the table in pytc.target_kinds.
    kind: Annotated[TargetName, Doc(TARGET_HELP)] = "affinity"
    # classes: their number. Labels are class ids from 0 to one less than this; -1 is unlabelled.
    # With two classes, every label above 0 is class 1, so that a mask of 0 and 255 serves.
    classes: int = 2
    # affinity: channel c says of voxel v whether v and v + offsets[c] are the same object.
    offsets: tuple[Triple, ...] = SHORT_AND_LONG
    # distance: the target is (1 + tanh(d / distance_scale)) / 2, where d is how many nm a voxel is
    # inside of its object; d is below 0 in the background.
    distance_scale: float = 50.0
    # Every object shrinks by this many voxels in plane where it touches another one.
    erosion: int = 0
    # How deep supervision gets its coarser targets. stride: from every n-th label. nearest: every
    # n-th voxel of the full target. trilinear (not for classes): the full target, resized to values
    # between 0 and 1.
    scale_by: Literal["stride", "nearest", "trilinear"] = "stride"
    # affinity: ten local shape descriptors of the object around a voxel are learned, too, in a
    # Gaussian window of this standard deviation in nm. They help to learn the affinities, which
    # alone are predicted. model.out_channels counts both.
    lsd_sigma: float | None = None
    # The descriptors are counted at every n-th voxel along z, y, x: faster.
    lsd_stride: Triple = (1, 1, 1)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_not_negative("erosion")
        self.require_positive("lsd_sigma", "lsd_stride", "distance_scale")
        require(
            self.lsd_sigma is None or self.kind == "affinity",
            "target.lsd_sigma with target.kind affinity",
            self.kind,
        )
        for offset in self.offsets:
            is_positive = min(offset) >= 0 and max(offset) > 0
            require(is_positive, "affinity offsets that are positive along an axis", offset)
        is_distinct = len(set(self.offsets)) == len(self.offsets)
        require(is_distinct, "distinct affinity offsets", self.offsets)
        require(2 <= self.classes <= 256, "target.classes from 2 to 256", self.classes)
        if target_kind(self.kind).has_classes:
            require(
                self.scale_by != "trilinear",
                "target.scale_by stride or nearest for class ids, which cannot be averaged",
                self.scale_by,
            )
            require(
                self.erosion == 0,
                "target.erosion 0 for class ids: it puts background between touching labels",
                self.erosion,
            )

    @property
    def channels(self) -> int:
        """Channels of the prediction."""
        counts = {"offsets": len(self.offsets), "classes": self.classes, "one": 1, "two": 2}
        return counts[target_kind(self.kind).channels]

    @property
    def learned_channels(self) -> int:
        """Channels of the network: those of the prediction, then those that are learned alone."""
        return self.channels + (0 if self.lsd_sigma is None else N_DESCRIPTORS)


@dataclass(frozen=True)
class LossConfig(Section):
    """The weighted sum that is minimised."""

    # The help of this field is made from the table in pytc.losses.
    terms: Annotated[tuple[str, ...], Doc(LOSS_HELP)] = ("bce",)
    weights: tuple[float, ...] = (1.0,)  # Weight of each term in the sum.
    # balanced_bce: the weight of the rarer value of a channel is at most this.
    max_positive_weight: float = 10.0
    # tversky: weight of false positives; false negatives weigh 1 - alpha.
    tversky_alpha: float = 0.3
    # focal: focusing exponent. A larger one gives easy voxels less weight.
    focal_gamma: float = 2.0
    # cross_entropy and focal with classes: the weight of a voxel of each class. The loss is divided
    # by the sum of the weights. Default: 1 for all.
    class_weights: tuple[float, ...] | None = None
    # target.lsd_sigma: weight in the sum of the squared error of the local shape descriptors.
    lsd_weight: float = 1.0
    # Deep supervision: weight of the loss at each scale, the finest first. Default: 1, 1/2, 1/4...
    scale_weights: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_not_negative(
            "weights", "focal_gamma", "scale_weights", "class_weights", "lsd_weight"
        )
        self.require_positive("max_positive_weight")
        self.require_fraction("tversky_alpha")
        for term in self.terms:
            if term not in LOSSES:
                near = suggest(_our_name(term), LOSSES)
                raise ValueError(f"expected the name of a loss term, got {term!r}{near}")
        require(len(set(self.terms)) == len(self.terms), "each loss term once", self.terms)
        is_complete = len(self.terms) == len(self.weights) > 0
        require(is_complete, "a weight for each loss term", (self.terms, self.weights))

    def require_fits(self, target: TargetConfig) -> None:
        """ValueError if a loss term or a class weight does not fit the target."""
        kind, weights = target_kind(target.kind), self.class_weights
        if kind.has_classes:
            names = [row.name for row in LOSSES.values() if row.of_classes]
            for term in self.terms:
                expected = f"loss terms from {', '.join(names)} for {kind.name}"
                require(term in names, expected, term)
            fits = weights is None or (len(weights) == target.classes and max(weights) > 0)
            expected = f"loss.class_weights for {target.classes} classes, one of them above 0"
            require(fits, expected, weights)
            return
        require(weights is None, "loss.class_weights with target.kind classes", kind.name)
        require(
            target.channels == 1 or "cross_entropy" not in self.terms,
            f"{kind.default_loss} instead of cross_entropy for {target.channels} channels that "
            "are no alternatives",
            self.terms,
        )


def _our_name(loss: str) -> str:
    """The name of a class of PyTorch or MONAI, written as our names are: DiceLoss becomes dice."""
    words = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", loss).lower()
    return words.removesuffix("_loss")


@dataclass(frozen=True)
class OptimConfig(Section):
    """Optimizer and schedule."""

    learning_rate: float = 1e-3  # Peak learning rate of AdamW.
    weight_decay: float = 1e-2  # Decoupled weight decay.
    # After warm-up. cosine: falls to 0 at the last step. none: stays constant.
    schedule: Literal["none", "cosine"] = "cosine"
    warmup_steps: int = 0  # Steps in which the learning rate rises from 0.
    clip_norm: float = 1.0  # Largest norm of the gradient; 0 switches clipping off.
    # Decay of the moving average of the weights; 0 switches it off. If there is an average, it is
    # what is validated and used.
    ema_decay: float = 0.0
    # The decay of the average is at most (1 + step) / (ema_warmup_steps + step).
    ema_warmup_steps: int = 10
    accumulate: int = 1  # Batches whose gradients are summed before a step.

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_positive("learning_rate", "accumulate")
        self.require_not_negative("weight_decay", "warmup_steps", "clip_norm", "ema_warmup_steps")
        self.require_below_one("ema_decay")
