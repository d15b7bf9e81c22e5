"""Overlap of a predicted mask, or of predicted classes, with the true one."""

import numpy as np
from scipy import ndimage

from pytc.checks import require
from pytc.config import Lengths
from pytc.io.labels import UNLABELLED
from pytc.io.volume import CHUNK, Volume
from pytc.metrics.table import metric_names, with_formulas

SEMANTIC_METRICS = metric_names("semantic", "labels")
MOST_CLASSES = 256


def semantic_metrics(truth: np.ndarray, prediction: np.ndarray) -> dict[str, float]:
    """Jaccard, Dice, precision and recall of a foreground mask.

    With _all at the end they are the mean of foreground and background. truth, prediction: bool or
    integer arrays of one shape, foreground where above 0; voxels where truth is negative
    (unlabelled) do not count. With both masks empty all scores are 1. ValueError if shapes or
    dtypes do not fit.
    """
    return mask_metrics(mask_confusion(truth, prediction))


def mask_confusion(truth: np.ndarray | Volume, prediction: np.ndarray | Volume) -> np.ndarray:
    """The (2, 2) confusion matrix of two masks, read a few planes at a time.

    truth, prediction: as in `semantic_metrics`, arrays or volumes.
    """
    _check(truth, prediction)
    counts = np.zeros((2, 2), np.int64)
    for start in range(0, truth.shape[0], CHUNK):
        true, predicted = truth[start : start + CHUNK], prediction[start : start + CHUNK]
        true_mask = np.where(true < 0, UNLABELLED, true > 0).astype(np.int8)
        counts += confusion_matrix(true_mask, predicted > 0, 2)
    return counts


def mask_metrics(confusion: np.ndarray) -> dict[str, float]:
    """The scores of `semantic_metrics` from the confusion matrix of background and foreground."""
    scores = class_metrics(confusion)
    return {name: scores[name] for name in SEMANTIC_METRICS}


def confusion_matrix(
    truth: np.ndarray | Volume, prediction: np.ndarray | Volume, classes: int
) -> np.ndarray:
    """How many voxels of each true class (row) are predicted as each class (column), int64.

    truth, prediction: bool or integers of one shape, class ids; voxels where truth is negative do
    not count. They are read a few planes at a time. ValueError where shapes or dtypes do not fit,
    or an id is not below `classes`.
    """
    _check(truth, prediction)
    counts = np.zeros(classes * classes, np.int64)
    for start in range(0, truth.shape[0], CHUNK):
        planes = slice(start, start + CHUNK)
        true, predicted = np.asarray(truth[planes]), np.asarray(prediction[planes])
        is_labelled = true >= 0
        true = true[is_labelled].astype(np.int64)
        predicted = predicted[is_labelled].astype(np.int64)
        for name, ids in (("labels", true), ("predictions", predicted)):
            largest = ids.max(initial=0)
            require(largest < classes, f"{name} of {classes} classes, ids below that", int(largest))
        counts += np.bincount(true * classes + predicted, minlength=classes * classes)
    return counts.reshape(classes, classes)


def class_metrics(confusion: np.ndarray) -> dict[str, float]:
    """Jaccard, Dice, precision and recall from a confusion matrix, in the mean and by class.

    A class is present if it is in the truth or in the prediction. "jaccard" is the mean over the
    classes present but class 0, the background; "jaccard_all" the mean over all that are present;
    "jaccard_class_2" that of class 2 against the rest, which is left out if it is not present. Dice
    likewise. Precision and recall are means without class 0. A mean over no class is 1.
    """
    hits = np.diag(confusion).astype(float)
    n_true, n_predicted = confusion.sum(1), confusion.sum(0)
    either = n_true + n_predicted - hits
    present = np.flatnonzero(either)
    by_class = {
        "jaccard": _share(hits, either),
        "dice": _share(2 * hits, n_true + n_predicted),
        "precision": _share(hits, n_predicted),
        "recall": _share(hits, n_true),
    }
    scores = {name: _mean(values[present[present > 0]]) for name, values in by_class.items()}
    for name in ("jaccard", "dice"):
        scores[f"{name}_all"] = _mean(by_class[name][present])
    for number in present.tolist():
        for name in ("jaccard", "dice"):
            scores[f"{name}_class_{number}"] = float(by_class[name][number])
    return with_formulas(scores, "semantic", "labels")


def cleft_distances(
    truth: np.ndarray, prediction: np.ndarray, voxel_size: Lengths
) -> dict[str, float]:
    """How far predicted voxels lie from true ones and the reverse, as CREMI scores synaptic clefts.

    Args:
        truth, prediction: as in `semantic_metrics`; voxels without truth are in neither.
        voxel_size: nm along each axis.

    Returns:
        cleft_distance_fp: mean distance in nm from a predicted voxel to the nearest true one.
        cleft_distance_fn: from a true voxel to the nearest predicted one. cleft_distance: the mean
        of both, CREMI's score; 0 is perfect. Empty where truth or prediction has no voxel.

    Source: CREMI challenge (2016), its package cremi.
    """
    _check(truth, prediction)
    found = (prediction > 0) & (truth >= 0)
    true = truth > 0
    if not found.any() or not true.any():
        return {}
    to_true = ndimage.distance_transform_edt(~true, sampling=voxel_size)
    false_positives = float(to_true[found].mean())
    del to_true
    to_found = ndimage.distance_transform_edt(~found, sampling=voxel_size)
    false_negatives = float(to_found[true].mean())
    return {
        "cleft_distance_fp": false_positives,
        "cleft_distance_fn": false_negatives,
        "cleft_distance": (false_positives + false_negatives) / 2,
    }


def _share(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """part / whole, and 1 where there is nothing."""
    share: np.ndarray = np.divide(part, whole, out=np.ones(len(part)), where=whole > 0)
    return share


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else 1.0


def _check(truth: np.ndarray | Volume, prediction: np.ndarray | Volume) -> None:
    for name, mask in (("truth", truth), ("prediction", prediction)):
        require(mask.dtype.kind in "iub", f"a bool or integer {name}", str(mask.dtype))
    require(
        truth.shape == prediction.shape,
        f"a prediction of the truth's shape {truth.shape}",
        prediction.shape,
    )


def class_ids(labels: np.ndarray, labelled: np.ndarray, classes: int | None) -> np.ndarray:
    """The true class of each voxel, (Z, Y, X) int16, -1 where not labelled.

    With two classes every label above 0 is class 1. ValueError for a label that is no class; with
    None, those below MOST_CLASSES are. Arguments as in `foreground`.
    """
    if classes == 2:
        return foreground(labels, labelled).astype(np.int16)
    most = MOST_CLASSES if classes is None else classes
    largest = int(labels.max(initial=0, where=labelled))
    require(largest < most, f"labels that are class ids below {most}", largest)
    return np.where(labelled, labels, UNLABELLED).astype(np.int16)


def foreground(labels: np.ndarray, labelled: np.ndarray) -> np.ndarray:
    """The true mask of objects, (Z, Y, X) int8: 1 in an object, 0 outside, -1 where not labelled.

    labels: integers (Z, Y, X); labelled: bool (Z, Y, X), where they count.
    """
    return np.where(labelled, labels > 0, -1).astype(np.int8)


def boundaries(labels: np.ndarray, labelled: np.ndarray) -> np.ndarray:
    """The true mask of boundaries, (Z, Y, X) int8: 1 on a boundary, -1 unlabelled, 0 elsewhere.

    A voxel is on a boundary if one of its six neighbours has another label. Background counts as a
    label. Unlabelled are the voxels without a label, and those that have an unlabelled neighbour
    and are not on a boundary. Neighbours outside the volume do not count. Arguments as in
    `foreground`.
    `pytc.data.targets.boundaries` makes the same for training.
    """
    boundary = np.zeros(labels.shape, bool)
    doubtful = ~labelled
    for axis in range(3):
        everything = (slice(None),) * axis
        lower = (*everything, slice(None, -1))
        upper = (*everything, slice(1, None))
        differs = (labels[lower] != labels[upper]) & labelled[lower] & labelled[upper]
        boundary[lower] |= differs
        boundary[upper] |= differs
        doubtful[lower] |= ~labelled[upper]
        doubtful[upper] |= ~labelled[lower]
    return np.where(boundary, 1, np.where(doubtful, -1, 0)).astype(np.int8)
