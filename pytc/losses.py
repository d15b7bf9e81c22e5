"""Masked losses as sums and counts, so that they can be normalised over every rank of a run.

Each loss is f(logits, target, valid) -> (sum, count): logits (B, C, Z, Y, X) of any float dtype,
computed in float32; target of the same shape, 0 or 1 of any dtype; valid, bool, of the same shape,
says where the target is known. The loss proper is sum / count, over the counts of all ranks; with
nothing valid, sum, gradient and count are 0.
"""

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F

from pytc.config import LossConfig

Sums = tuple[torch.Tensor, torch.Tensor]
Loss = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], Sums]
SMOOTHING = 1.0  # voxels added to both halves of an overlap ratio, so that an empty channel has one


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


def focal(logits, target, valid, gamma: float = 2.0) -> Sums:
    """Focal loss (Lin et al.

    2017): cross-entropy times (1 - probability of the truth) ** gamma; valid voxels count.
    """
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
    by one voxel. The count of the loss is that of the channels of samples with any valid voxel.
    """
    logits, target, known = _floats(logits, target, valid)
    probability, target = torch.sigmoid(logits) * known, target * known
    hits = (probability * target).sum((2, 3, 4))
    false_positives, false_negatives = (
        probability.sum((2, 3, 4)) - hits,
        target.sum((2, 3, 4)) - hits,
    )
    misses = alpha * false_positives + (1 - alpha) * false_negatives
    present = valid.flatten(2).any(2).float()
    return ((1 - (hits + SMOOTHING) / (hits + misses + SMOOTHING)) * present).sum(), present.sum()


def dice(logits, target, valid) -> Sums:
    """Soft Dice loss (Milletari et al. 2016): Tversky with both errors weighing one half."""
    return tversky(logits, target, valid, alpha=0.5)


def cross_entropy(logits, target, valid) -> Sums:
    """Cross-entropy over C > 1 channels, whose target (B, 1, Z, Y, X) holds the true channel.

    With C = 1 it is `bce`. The count is that of valid voxels.
    """
    if logits.shape[1] == 1:
        return bce(logits, target, valid)
    known = _floats(logits[:, :1], target, valid)[2][:, 0]
    truth = torch.where(valid, target.long(), 0)[:, 0]
    return (F.cross_entropy(logits.float(), truth, reduction="none") * known).sum(), known.sum()


def build_loss(config: LossConfig) -> Loss:
    """The terms of a config as one loss, whose (sum, count) have one entry a term.

    The sums are weighted.
    """
    losses = (bce, balanced_bce, dice, tversky, focal, cross_entropy, mse)
    known: dict[str, Loss] = {loss.__name__: loss for loss in losses} | {
        "balanced_bce": partial(balanced_bce, max_positive_weight=config.max_positive_weight),
        "tversky": partial(tversky, alpha=config.tversky_alpha),
        "focal": partial(focal, gamma=config.focal_gamma),
    }

    def loss(logits: torch.Tensor, target: torch.Tensor, valid: torch.Tensor) -> Sums:
        sums, counts = zip(*(known[term](logits, target, valid) for term in config.terms))
        return torch.stack(
            [weight * value for weight, value in zip(config.weights, sums)]
        ), torch.stack(counts)

    return loss


def deep_supervision_loss(
    outputs: torch.Tensor | dict[str, torch.Tensor],
    targets: list[tuple[torch.Tensor, torch.Tensor]],
    loss: Loss,
    weights: tuple[float, ...] | None = None,
    reduce_count: Callable[[torch.Tensor], torch.Tensor] = lambda count: count,
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """The weighted sum of a loss over the scales of a prediction, and each scale's loss, detached.

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
    sums, counts = zip(*(loss(outputs[name], *target) for name, target in zip(names, targets)))
    sums, counts = torch.stack(sums), reduce_count(torch.stack(counts))
    scales = (sums / torch.where(counts > 0, counts, 1)).view(len(names), -1).sum(1)
    return (scales * scales.new_tensor(weights)).sum(), dict(zip(names, scales.detach()))


@torch.no_grad()
def channel_losses(
    logits: torch.Tensor, target: torch.Tensor, valid: torch.Tensor, loss: Loss
) -> list[float]:
    """The loss of each channel on its own, for a log.

    It is a single loss where the channels are alternatives.
    """
    if logits.shape != target.shape:
        return []
    parts = zip(logits.split(1, 1), target.split(1, 1), valid.split(1, 1))
    sums, counts = map(torch.stack, zip(*(loss(*part) for part in parts)))
    return (sums / torch.where(counts > 0, counts, 1)).sum(1).tolist()


def _floats(logits, target, valid) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """All three in float32; ValueError unless they have one shape."""
    if not logits.shape == target.shape == valid.shape:
        shapes = f"{tuple(target.shape)} and {tuple(valid.shape)}"
        raise ValueError(
            f"expected target and valid mask of the logits' shape {tuple(logits.shape)}, "
            f"got {shapes}"
        )
    return logits.float(), target.float(), valid.float()
