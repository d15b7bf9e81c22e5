"""Masked losses as sums and counts, so that they can be normalised over all ranks of a run.

To add a loss, write a function and a row of `ROWS`, both in this file: the name then works in
loss.terms, and the help lists it. torch is imported inside the functions, since the config reads
the rows and `--help` must answer at once.

A loss is f(logits, target, valid) -> (sum, count): logits (B, C, Z, Y, X) of any float dtype, for
which it computes in float32; valid, bool, says where there is a target. The loss proper is sum /
count, both summed over all ranks. If nothing is valid, sum, gradient and count are 0.

There are two kinds of channels:

- Independent ones, each with a sigmoid. Target and valid have the shape of the logits, and the
  target lies in [0, 1]. A single channel is always of this kind.
- Classes, with a softmax over the channels. Target and valid are (B, 1, Z, Y, X), and the target
  holds the number of the true class.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from pytc.config import LossConfig, TargetConfig

    Sums = tuple[Tensor, Tensor]
    Loss = Callable[[Tensor, Tensor, Tensor], Sums]

# Voxels added to both halves of an overlap ratio, so that an empty channel has a ratio. MONAI's
# DiceLoss adds 1e-5: with 1, a small object that is missed altogether costs a little less.
SMOOTHING = 1.0


def bce(logits: Tensor, target: Tensor, valid: Tensor) -> Sums:
    """Binary cross-entropy. The count is the number of valid voxels."""
    import torch.nn.functional as F

    logits, target, weight = _floats(logits, target, valid)
    total = F.binary_cross_entropy_with_logits(logits, target, weight, reduction="sum")
    return total, weight.sum()


def balanced_bce(
    logits: Tensor, target: Tensor, valid: Tensor, max_positive_weight: float = 10.0
) -> Sums:
    """Binary cross-entropy in which positive voxels together weigh as much as negative ones.

    A positive voxel has the weight negatives / positives, limited to [1 / max_positive_weight,
    max_positive_weight]. Both are counted in the same channel of the same sample, so that the loss
    does not depend on what else is in the batch. The count is the number of valid voxels, without
    weights.
    """
    import torch.nn.functional as F

    logits, target, mask = _floats(logits, target, valid)
    positives = (target * mask).sum((2, 3, 4), keepdim=True)
    negatives = mask.sum((2, 3, 4), keepdim=True) - positives
    ratio = negatives / positives.clamp(min=1)
    ratio = ratio.clamp(1 / max_positive_weight, max_positive_weight)
    weight = mask * (1 + (ratio - 1) * target)
    total = F.binary_cross_entropy_with_logits(logits, target, weight, reduction="sum")
    return total, mask.sum()


def focal(
    logits: Tensor,
    target: Tensor,
    valid: Tensor,
    gamma: float = 2.0,
    class_weights: Sequence[float] | None = None,
) -> Sums:
    """Focal loss (Lin et al. 2017): cross-entropy times (1 - probability of the truth) ** gamma.

    The count is the number of valid voxels; for classes it is the sum of their weights, as in
    `cross_entropy`.
    """
    import torch.nn.functional as F

    if _are_classes(logits, target):
        entropy, weight = _class_entropy(logits, target, valid, class_weights)
        # 1 - exp(-entropy), exact for small values too
        missing = -(-entropy).expm1()
        # at 0 a power below 1 has no finite slope
        return (entropy * missing.clamp(min=1e-12) ** gamma * weight).sum(), weight.sum()
    logits, target, weight = _floats(logits, target, valid)
    entropy = F.binary_cross_entropy_with_logits(logits, target, weight, reduction="none")
    missing = (logits * (1 - 2 * target)).sigmoid()
    return (entropy * missing**gamma).sum(), weight.sum()


def mse(logits: Tensor, target: Tensor, valid: Tensor) -> Sums:
    """Squared error of sigmoid(logits). The count is the number of valid voxels."""
    logits, target, weight = _floats(logits, target, valid)
    return ((logits.sigmoid() - target) ** 2 * weight).sum(), weight.sum()


def tversky(logits: Tensor, target: Tensor, valid: Tensor, alpha: float = 0.3) -> Sums:
    """1 - TP / (TP + alpha FP + (1 - alpha) FN) with soft counts (Salehi et al. 2017).

    It is computed for each channel of each sample, over the valid voxels, and smoothed by one
    voxel. The count is the number of (sample, channel) pairs with a valid voxel. So all classes
    weigh the same, class 0 included; in a sample without a class, every voxel of it is wrong.
    """
    probability, truth, mask = _probabilities(logits, target, valid)
    probability = probability * mask
    truth = truth * mask
    hits = (probability * truth).sum((2, 3, 4))  # (B, C)
    false_positives = probability.sum((2, 3, 4)) - hits
    false_negatives = truth.sum((2, 3, 4)) - hits
    misses = alpha * false_positives + (1 - alpha) * false_negatives
    losses = 1 - (hits + SMOOTHING) / (hits + misses + SMOOTHING)
    counted = valid.flatten(2).any(2).float().expand_as(hits)
    return (losses * counted).sum(), counted.sum()


def dice(logits: Tensor, target: Tensor, valid: Tensor) -> Sums:
    """Soft Dice loss (Milletari et al. 2016): Tversky in which both errors weigh one half."""
    return tversky(logits, target, valid, alpha=0.5)


def cross_entropy(
    logits: Tensor, target: Tensor, valid: Tensor, class_weights: Sequence[float] | None = None
) -> Sums:
    """Cross-entropy over C > 1 classes; with C = 1 it is `bce`.

    A voxel has the weight of its true class, by default 1. The count is the sum of the weights of
    the valid voxels, as in torch's CrossEntropyLoss.
    """
    if logits.shape[1] == 1:
        return bce(logits, target, valid)
    entropy, weight = _class_entropy(logits, target, valid, class_weights)
    return (entropy * weight).sum(), weight.sum()


@dataclass(frozen=True)
class LossRow:
    """A row of the table of losses."""

    name: str  # in loss.terms
    meaning: str  # for the help
    function: Loss
    of_classes: bool = False  # whether it is defined for classes too
    # keyword arguments of the function, from the config
    options: Callable[[LossConfig], dict[str, Any]] = lambda config: {}


ROWS = (
    LossRow("bce", "binary cross-entropy of each channel", bce),
    LossRow(
        "balanced_bce",
        "the same, but positive and negative voxels of a channel weigh the same in sum",
        balanced_bce,
        options=lambda config: {"max_positive_weight": config.max_positive_weight},
    ),
    LossRow("dice", "soft Dice, smoothed by one voxel", dice, of_classes=True),
    LossRow(
        "tversky",
        "Dice in which false positives and false negatives have different weights",
        tversky,
        of_classes=True,
        options=lambda config: {"alpha": config.tversky_alpha},
    ),
    LossRow(
        "focal",
        "cross-entropy in which hard voxels weigh more than easy ones",
        focal,
        of_classes=True,
        options=lambda config: {
            "gamma": config.focal_gamma,
            "class_weights": config.class_weights,
        },
    ),
    LossRow(
        "cross_entropy",
        "cross-entropy over classes; the same as bce for a single channel",
        cross_entropy,
        of_classes=True,
        options=lambda config: {"class_weights": config.class_weights},
    ),
    LossRow("mse", "squared error of the probability", mse),
)
LOSSES = {row.name: row for row in ROWS}


@dataclass(frozen=True)
class LossTerms:
    """The terms of a loss by name, and the weight of each in the sum that is minimised."""

    functions: dict[str, Loss]
    weights: tuple[float, ...]
    reads: tuple[slice, ...] = ()  # the channels that each term reads; by default all

    def of_channel(self, channel: int) -> LossTerms:
        """The terms that read a channel, for this channel by itself."""
        reading = [
            (name, weight)
            for name, weight, part in zip(self.functions, self.weights, self._parts)
            if channel in range(*part.indices(channel + 1))
        ]
        functions = {name: self.functions[name] for name, _ in reading}
        return LossTerms(functions, tuple(weight for _, weight in reading))

    @property
    def _parts(self) -> Sequence[slice]:
        return self.reads or [slice(None)] * len(self.functions)

    def sums(self, logits: Tensor, target: Tensor, valid: Tensor) -> Sums:
        """Sum and count of each term: two tensors (terms,)."""
        import torch

        pairs = [
            function(logits[:, part], target[:, part], valid[:, part])
            for function, part in zip(self.functions.values(), self._parts)
        ]
        return torch.stack([pair[0] for pair in pairs]), torch.stack([pair[1] for pair in pairs])

    def weigh(self, values: Tensor) -> Tensor:
        """The weighted sum of the terms' values, (..., terms) -> (...)."""
        return (values * values.new_tensor(self.weights)).sum(-1)

    def value(self, sums: Tensor, counts: Tensor) -> Tensor:
        """The loss that follows from sums and counts, (..., terms) -> (...)."""
        return self.weigh(_mean(sums, counts))


def build_loss(config: LossConfig, target: TargetConfig | None = None) -> LossTerms:
    """The terms of a config.

    target: whose channels beyond the prediction are local shape descriptors, scored by `mse`.
    """
    functions: dict[str, Loss] = {}
    for name in config.terms:
        row = LOSSES[name]
        functions[name] = partial(row.function, **row.options(config))
    if target is None or target.lsd_sigma is None:
        return LossTerms(functions, config.weights)
    predicted, learned_alone = slice(target.channels), slice(target.channels, None)
    reads = (*[predicted] * len(functions), learned_alone)
    return LossTerms(functions | {"lsd": mse}, (*config.weights, config.lsd_weight), reads)


class SupervisedLoss(NamedTuple):
    """The loss of a prediction: its total, and its parts, which are detached from the graph."""

    total: torch.Tensor  # () what is minimised
    scales: torch.Tensor  # (scales,) the loss at each scale, finest first, before its weight
    terms: torch.Tensor  # (terms,) each term at the finest scale, before its weight


def deep_supervision_loss(
    outputs: Tensor | dict[str, Tensor],
    targets: list[tuple[Tensor, Tensor]],
    loss: LossTerms,
    weights: Sequence[float] | None = None,
    reduce_count: Callable[[Tensor], Tensor] = lambda count: count,
) -> SupervisedLoss:
    """The weighted sum of a loss over the scales of a prediction.

    Args:
        outputs: logits, or {"output": logits, "ds_1": logits of the next coarser scale, ...}.
        targets: (target, valid) for each scale, finest first.
        loss: the terms.
        weights: one for each scale; default 1, 1/2, 1/4, ...
        reduce_count: for N ranks whose gradients are averaged, it maps the counts (a float tensor)
            to their sum over all ranks, divided by N. Then the mean of the returned losses over the
            ranks is the loss of the whole batch.

    Raises:
        ValueError: the numbers of outputs, targets and weights differ.
    """
    import torch

    outputs = {"output": outputs} if isinstance(outputs, torch.Tensor) else outputs
    names = ["output", *(f"ds_{scale}" for scale in range(1, len(outputs)))]
    weights = [0.5**scale for scale in range(len(names))] if weights is None else weights
    if set(names) != set(outputs) or not len(names) == len(targets) == len(weights):
        got = f"outputs {', '.join(outputs)}, {len(targets)} targets, {len(weights)} weights"
        raise ValueError(
            f"expected a target and a weight for each output of {', '.join(names)}, got {got}"
        )
    pairs = [loss.sums(outputs[name], *target) for name, target in zip(names, targets)]
    sums = torch.stack([pair[0] for pair in pairs])
    counts = reduce_count(torch.stack([pair[1] for pair in pairs]))
    values = _mean(sums, counts)  # (scales, terms)
    scales = loss.weigh(values)
    total = (scales * scales.new_tensor(weights)).sum()
    return SupervisedLoss(total, scales.detach(), values[0].detach())


def channel_losses(logits: Tensor, target: Tensor, valid: Tensor, loss: LossTerms) -> list[float]:
    """The loss of each channel by itself, for a log.

    The list is empty for classes: a class has no loss without the others.
    """
    import torch

    if _are_classes(logits, target):
        return []
    with torch.no_grad():
        channels = zip(logits.split(1, 1), target.split(1, 1), valid.split(1, 1))
        values = []
        for number, channel in enumerate(channels):
            terms = loss.of_channel(number)
            values.append(terms.value(*terms.sums(*channel)))
        return torch.stack(values).tolist()


def _mean(sums: Tensor, counts: Tensor) -> Tensor:
    """sums / counts, and 0 where the count is 0."""
    import torch

    return sums / torch.where(counts > 0, counts, 1)


def _are_classes(logits: Tensor, target: Tensor) -> bool:
    """Whether channels are classes: there are several, and one target, which names a class."""
    return logits.shape[1] > 1 and target.shape[1] == 1


def _probabilities(logits: Tensor, target: Tensor, valid: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Probability, truth (both (B, C, Z, Y, X)) and validity of each channel, all float32.

    For classes the validity is (B, 1, Z, Y, X).
    """
    import torch

    if not _are_classes(logits, target):
        logits, target, weight = _floats(logits, target, valid)
        return logits.sigmoid(), target, weight
    logits, truth, weight = _class_floats(logits, target, valid)
    one_hot = torch.zeros_like(logits).scatter_(1, truth, 1.0)
    return logits.softmax(1), one_hot, weight


def _class_entropy(
    logits: Tensor, target: Tensor, valid: Tensor, class_weights: Sequence[float] | None
) -> Sums:
    """Cross-entropy of each voxel over the classes, and the voxel's weight, both (B, Z, Y, X)."""
    import torch.nn.functional as F

    logits, truth, mask = _class_floats(logits, target, valid)
    entropy = F.cross_entropy(logits, truth[:, 0], reduction="none")
    weight = mask[:, 0]
    if class_weights is not None:
        weight = weight * logits.new_tensor(class_weights)[truth[:, 0]]
    return entropy, weight


def _class_floats(logits: Tensor, target: Tensor, valid: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Logits in float32, the true class as int64 (0 where it is not valid), validity in float32.

    ValueError unless target and valid have the shape of one channel of the logits.
    """
    import torch

    _floats(logits[:, :1], target, valid)
    return logits.float(), torch.where(valid, target.long(), 0), valid.float()


def _floats(logits: Tensor, target: Tensor, valid: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """All three in float32; ValueError unless they have one shape."""
    if not logits.shape == target.shape == valid.shape:
        shapes = f"{tuple(target.shape)} and {tuple(valid.shape)}"
        raise ValueError(
            f"expected target and valid mask of the logits' shape {tuple(logits.shape)}, "
            f"got {shapes}"
        )
    return logits.float(), target.float(), valid.float()
