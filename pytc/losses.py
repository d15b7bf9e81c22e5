"""Masked losses as sums and counts, so that they can be normalised over every rank of a run.

Each loss is f(logits, target, valid) -> (sum, count): logits (B, C, Z, Y, X) of any float dtype,
computed in float32; valid, bool, says where the target is known. The loss proper is sum / count,
over the counts of all ranks; with nothing valid, sum, gradient and count are 0.

Channels are independent, each with a sigmoid: then target and valid have the shape of the logits,
and the target lies in [0, 1]. Or they are alternatives, the classes, with a softmax over them: then
target and valid are (B, 1, Z, Y, X), and the target holds the number of the true class. Dice,
Tversky, focal loss and cross-entropy know both; with a single channel all are of the first kind.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F

from pytc.config import LossConfig

Sums = tuple[torch.Tensor, torch.Tensor]
Loss = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], Sums]
# Voxels added to both halves of an overlap ratio, so that an empty channel has one. MONAI's
# DiceLoss adds 1e-5: a small object that is missed altogether costs a little less here.
SMOOTHING = 1.0


def bce(logits, target, valid) -> Sums:
    """Binary cross-entropy; the count is that of valid voxels."""
    logits, target, known = _floats(logits, target, valid)
    return F.binary_cross_entropy_with_logits(logits, target, known, reduction="sum"), known.sum()


def balanced_bce(logits, target, valid, max_positive_weight: float = 10.0) -> Sums:
    """Binary cross-entropy in which positive and negative voxels weigh as much as each other.

    They are weighted by negatives / positives, counted in that channel of that sample, so that the
    loss does not depend on what else is in the batch; within [1 / max_positive_weight,
    max_positive_weight]. The count is that of valid voxels, unweighted.
    """
    logits, target, known = _floats(logits, target, valid)
    positives = (target * known).sum((2, 3, 4), keepdim=True)
    negatives = known.sum((2, 3, 4), keepdim=True) - positives
    ratio = (negatives / positives.clamp(min=1)).clamp(1 / max_positive_weight, max_positive_weight)
    weight = known * (1 + (ratio - 1) * target)
    return F.binary_cross_entropy_with_logits(logits, target, weight, reduction="sum"), known.sum()


def focal(logits, target, valid, gamma: float = 2.0, class_weights=None) -> Sums:
    """Focal loss (Lin et al. 2017): cross-entropy times (1 - probability of the truth) ** gamma.

    The count is that of valid voxels; over classes, that of their weights, as in `cross_entropy`.
    """
    if _alternatives(logits, target):
        entropy, weight = _class_entropy(logits, target, valid, class_weights)
        # 1 - exp(-entropy), exact where it is small
        missing = -torch.expm1(-entropy)
        # a voxel without any doubt has no slope to the power of less than 1
        return (entropy * missing.clamp(min=1e-12) ** gamma * weight).sum(), weight.sum()
    logits, target, known = _floats(logits, target, valid)
    entropy = F.binary_cross_entropy_with_logits(logits, target, known, reduction="none")
    return (entropy * torch.sigmoid(logits * (1 - 2 * target)) ** gamma).sum(), known.sum()


def mse(logits, target, valid) -> Sums:
    """Squared error of sigmoid(logits); the count is that of valid voxels."""
    logits, target, known = _floats(logits, target, valid)
    return ((torch.sigmoid(logits) - target) ** 2 * known).sum(), known.sum()


def tversky(logits, target, valid, alpha: float = 0.3) -> Sums:
    """1 - TP / (TP + alpha FP + (1 - alpha) FN) with soft counts (Salehi et al. 2017).

    It is computed for each channel of each sample. Each count, over the valid voxels, is smoothed
    by one voxel. The count of the loss is that of the channels of samples with any valid voxel. So
    all classes weigh the same, class 0 included; one that a sample lacks asks for no voxel of it.
    """
    probability, truth, known = _probabilities(logits, target, valid)
    probability, truth = probability * known, truth * known
    hits = (probability * truth).sum((2, 3, 4))
    false_positives = probability.sum((2, 3, 4)) - hits
    false_negatives = truth.sum((2, 3, 4)) - hits
    misses = alpha * false_positives + (1 - alpha) * false_negatives
    present = valid.flatten(2).any(2).float().expand_as(hits)
    return ((1 - (hits + SMOOTHING) / (hits + misses + SMOOTHING)) * present).sum(), present.sum()


def dice(logits, target, valid) -> Sums:
    """Soft Dice loss (Milletari et al. 2016): Tversky with both errors weighing one half."""
    return tversky(logits, target, valid, alpha=0.5)


def cross_entropy(logits, target, valid, class_weights=None) -> Sums:
    """Cross-entropy over C > 1 classes, each voxel weighing what its true class does, by default 1.

    With C = 1 it is `bce`. The count is the weight of the valid voxels, as in torch's
    CrossEntropyLoss.
    """
    if logits.shape[1] == 1:
        return bce(logits, target, valid)
    entropy, weight = _class_entropy(logits, target, valid, class_weights)
    return (entropy * weight).sum(), weight.sum()


@dataclass(frozen=True)
class LossTerms:
    """The terms of a loss by name, and the weight of each in the sum that is minimised."""

    functions: dict[str, Loss]
    weights: tuple[float, ...]

    def sums(self, logits: torch.Tensor, target: torch.Tensor, valid: torch.Tensor) -> Sums:
        """Sum and count of each term: two tensors with one entry a term."""
        pairs = [function(logits, target, valid) for function in self.functions.values()]
        return torch.stack([pair[0] for pair in pairs]), torch.stack([pair[1] for pair in pairs])

    def weigh(self, values: torch.Tensor) -> torch.Tensor:
        """The weighted sum of the terms' values, (..., terms) -> (...)."""
        return (values * values.new_tensor(self.weights)).sum(-1)

    def value(self, sums: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
        """The loss that sums and counts amount to, (..., terms) -> (...)."""
        return self.weigh(_mean(sums, counts))


def build_loss(config: LossConfig) -> LossTerms:
    """The terms of a config."""
    class_weights = config.class_weights
    known: dict[str, Loss] = {
        "bce": bce,
        "balanced_bce": partial(balanced_bce, max_positive_weight=config.max_positive_weight),
        "dice": dice,
        "tversky": partial(tversky, alpha=config.tversky_alpha),
        "focal": partial(focal, gamma=config.focal_gamma, class_weights=class_weights),
        "cross_entropy": partial(cross_entropy, class_weights=class_weights),
        "mse": mse,
    }
    return LossTerms({term: known[term] for term in config.terms}, config.weights)


class SupervisedLoss(NamedTuple):
    """The loss of a prediction: its total, and, detached, what it is made of."""

    total: torch.Tensor  # what is minimised
    scales: torch.Tensor  # (scales,) the loss at each scale, finest first, before its weight
    terms: torch.Tensor  # (terms,) each term at the finest scale, before its weight


def deep_supervision_loss(
    outputs: torch.Tensor | dict[str, torch.Tensor],
    targets: list[tuple[torch.Tensor, torch.Tensor]],
    loss: LossTerms,
    weights: Sequence[float] | None = None,
    reduce_count: Callable[[torch.Tensor], torch.Tensor] = lambda count: count,
) -> SupervisedLoss:
    """The weighted sum of a loss over the scales of a prediction.

    outputs: logits, or {"output", "ds_1", ...}, finest first; targets: (target, valid) for each of
    them; weights: one a scale, by default 1, 1/2, 1/4, ... On N ranks whose gradients are averaged,
    reduce_count maps the counts (a float tensor) to their sum over all ranks, divided by N: then
    the mean of the returned losses over the ranks is the loss of the whole batch. ValueError where
    the numbers of outputs, targets and weights differ.
    """
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


@torch.no_grad()
def channel_losses(
    logits: torch.Tensor, target: torch.Tensor, valid: torch.Tensor, loss: LossTerms
) -> list[float]:
    """The loss of each channel on its own, for a log.

    There is none where the channels are alternatives: a class has no loss without the others.
    """
    if _alternatives(logits, target):
        return []
    parts = zip(logits.split(1, 1), target.split(1, 1), valid.split(1, 1))
    pairs = [loss.sums(*part) for part in parts]
    sums, counts = (torch.stack(column) for column in zip(*pairs))
    return loss.value(sums, counts).tolist()


def _mean(sums: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
    """sums / counts, and 0 where nothing counts."""
    return sums / torch.where(counts > 0, counts, 1)


def _alternatives(logits: torch.Tensor, target: torch.Tensor) -> bool:
    """Whether channels are classes: several of them, and a target that names one of them."""
    return logits.shape[1] > 1 and target.shape[1] == 1


def _probabilities(logits, target, valid) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Probability and truth of each channel (B, C, Z, Y, X), and what is known, all float32.

    Of classes what is known has a single channel.
    """
    if not _alternatives(logits, target):
        logits, target, known = _floats(logits, target, valid)
        return torch.sigmoid(logits), target, known
    logits, truth, known = _classes(logits, target, valid)
    one_hot = torch.zeros_like(logits).scatter_(1, truth, 1.0)
    return torch.softmax(logits, 1), one_hot, known


def _class_entropy(logits, target, valid, class_weights) -> Sums:
    """Cross-entropy of each voxel over the classes, and the voxel's weight, both (B, Z, Y, X)."""
    logits, truth, known = _classes(logits, target, valid)
    entropy = F.cross_entropy(logits, truth[:, 0], reduction="none")
    weight = known[:, 0]
    if class_weights is not None:
        weight = weight * logits.new_tensor(class_weights)[truth[:, 0]]
    return entropy, weight


def _classes(logits, target, valid) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Logits in float32, the true class as int64, 0 if unknown, and what is known in float32.

    ValueError unless target and mask have the shape of one channel of the logits.
    """
    _floats(logits[:, :1], target, valid)
    return logits.float(), torch.where(valid, target.long(), 0), valid.float()


def _floats(logits, target, valid) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """All three in float32; ValueError unless they have one shape."""
    if not logits.shape == target.shape == valid.shape:
        shapes = f"{tuple(target.shape)} and {tuple(valid.shape)}"
        raise ValueError(
            f"expected target and valid mask of the logits' shape {tuple(logits.shape)}, "
            f"got {shapes}"
        )
    return logits.float(), target.float(), valid.float()
