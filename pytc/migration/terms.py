"""Words that the dialects of PyTorch Connectomics share: losses, precisions, optimizers, files."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pytc.config import VolumeConfig
from pytc.migration.draft import Draft

# class of a loss: the term of ours that comes closest
LOSS_TERMS = {
    "BCEWithLogitsLoss": "bce",
    "WeightedBCE": "bce",
    "WeightedBCEWithLogitsLoss": "bce",
    "PerChannelBCEWithLogitsLoss": "balanced_bce",
    "WeightedBCEFocalLoss": "focal",
    "FocalLoss": "focal",
    "DiceLoss": "dice",
    "GeneralizedDiceLoss": "dice",
    "JaccardLoss": "dice",
    "TverskyLoss": "tversky",
    "CrossEntropyLoss": "cross_entropy",
    "WeightedCE": "cross_entropy",
    "WeightedMSE": "mse",
    "WeightedMSELoss": "mse",
    "MSELoss": "mse",
}
# a sum of two in one class
LOSS_PAIRS = {"DiceCELoss": ("dice", "cross_entropy"), "DiceFocalLoss": ("dice", "focal")}

PRECISIONS = {
    "32": "fp32",
    "32-true": "fp32",
    "16": "fp16",
    "16-mixed": "fp16",
    "bf16": "bf16",
    "bf16-mixed": "bf16",
}
ADAMS = ("Adam", "AdamW")
COSINES = ("CosineAnnealingLR", "WarmupCosineLR", "CosineAnnealingWarmRestarts")
NO_ADAM = "AdamW is the only optimizer: its usual rate 1e-3 and weight decay 1e-2 are taken"


def precision(value: Any) -> str:
    """A precision of Lightning as one of ours; KeyError if there is none."""
    return PRECISIONS[str(value)]


def schedule(draft: Draft, name: str, value: str) -> None:
    """Set the schedule of the learning rate by the name of a scheduler of PyTorch."""
    draft.set("optim.schedule", "cosine", name)
    if value not in COSINES:
        draft.change(name, value, "a cosine to 0 is taken; --optim.schedule none stays constant")


def losses(
    draft: Draft, terms: Sequence[tuple[str, str, float, bool]], of_classes: bool, one_channel: bool
) -> None:
    """Set the terms of the loss, each once; the weights of equal ones add up.

    Args:
        draft: what is made.
        terms: for each its setting, its class, its weight, and whether it balances the rarer value.
        of_classes: the target is classes.
        one_channel: the prediction has a single channel.
    """
    weights: dict[str, float] = {}
    for name, kind, weight, is_balanced in terms:
        found = LOSS_PAIRS.get(kind) or (LOSS_TERMS.get(kind),)
        for term in found:
            if term is None:
                draft.lack(name, kind, "no such loss; see loss.terms in train.py --help-all")
                continue
            if term == "bce" and is_balanced:
                term = "balanced_bce"
            if of_classes and term in ("bce", "balanced_bce", "mse", "tversky"):
                term = "cross_entropy"
                draft.change(name, kind, "for classes: cross_entropy")
            elif not of_classes and not one_channel and term == "cross_entropy":
                term = "bce"
                draft.change(name, kind, "for channels that are no alternatives: bce")
            weights[term] = weights.get(term, 0.0) + weight
    if not weights:
        weights = {"cross_entropy" if of_classes else "bce": 1.0}
    draft.set("loss.terms", tuple(weights), terms[0][0] if terms else "")
    draft.set("loss.weights", tuple(weights.values()))


def volumes(
    draft: Draft,
    name: str,
    images: Sequence[str],
    labels: Sequence[str],
    masks: Sequence[str] = (),
    **more: Any,
) -> tuple[VolumeConfig, ...]:
    """The volumes of a split from lists of files, which may be patterns.

    A pattern is replaced by the files on this machine that it fits, in order.
    """
    expanded = [_files(draft, name, paths) for paths in (images, labels, masks)]
    lengths = {len(paths) for paths in expanded if paths}
    if len(lengths) > 1:
        counts = ", ".join(str(len(paths)) for paths in expanded)
        draft.change(name, counts, "numbers of images, labels and masks differ; look at the list")
    made = []
    for number, image in enumerate(expanded[0]):
        label, mask = (
            paths[number] if number < len(paths) else None for paths in (expanded[1], expanded[2])
        )
        made.append(VolumeConfig(image=image, labels=label, mask=mask, **more))
    return tuple(made)


def _files(draft: Draft, name: str, paths: Sequence[str]) -> list[str]:
    found: list[str] = []
    for path in paths:
        if "*" not in path:
            found.append(path)
            continue
        anchor = Path(path).anchor or "."
        matches = sorted(map(str, Path(anchor).glob(str(Path(path).relative_to(anchor)))))
        if not matches:
            draft.change(name, path, "nothing here fits the pattern; migrate where the data are")
        found += matches or [path]
    return found
