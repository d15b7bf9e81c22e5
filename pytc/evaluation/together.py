"""One threshold for several volumes, and what a threshold that is chosen elsewhere costs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pytc.evaluation.sweep import Curve, Sweep
from pytc.metrics.table import metric


@dataclass(frozen=True)
class Transfer:
    """How well the threshold that is best for the other volumes does on one volume."""

    best_threshold: float  # its own best one
    best_score: float
    others_threshold: float  # the best one of the other volumes, together
    others_score: float  # of this volume, at that threshold

    @property
    def regret(self) -> float:
        """What the other volumes' threshold costs, 0 or more in any metric."""
        return abs(self.others_score - self.best_score)


def best_together(sweeps: Sequence[Sweep]) -> float:
    """The threshold with the best mean score over volumes; of equal ones the highest.

    With curves, every threshold at which a score of any volume changes is compared; without them,
    the thresholds that all volumes were segmented at.

    Raises:
        ValueError: if the volumes were segmented at no common threshold.
    """
    columns = [_column(sweep) for sweep in sweeps]
    name = sweeps[0]["metric"]
    has_curves = all(name in sweep["curve"] for sweep in sweeps)
    if has_curves:
        thresholds = sorted(set().union(*(rising.tolist() for rising, _ in columns)), reverse=True)
    else:
        common = set.intersection(*(set(rising.tolist()) for rising, _ in columns))
        thresholds = sorted(common, reverse=True)
    if not thresholds:
        raise ValueError("expected a threshold that all volumes were segmented at, got none")
    sign = -1 if metric(name).lower_is_better else 1
    means = np.mean([_at(column, thresholds) for column in columns], axis=0)
    return float(thresholds[int(np.argmax(sign * means))])


def only_metric(sweep: Sweep) -> Sweep:
    """The sweep with no curve but that of its metric: what `best_together` reads, and no more."""
    name = sweep["metric"]
    kept = {key: sweep["curve"][key] for key in ("threshold", name) if name in sweep["curve"]}
    return sweep | {"curve": kept}


def transfers(sweeps: Mapping[str, Sweep]) -> dict[str, Transfer]:
    """Leave one out: each volume at the threshold that is best for all the others."""
    found = {}
    for name, sweep in sweeps.items():
        others = [other for other_name, other in sweeps.items() if other_name != name]
        threshold = best_together(others)
        (score,) = _at(_column(sweep), [threshold])
        best = sweep["best_metrics"][sweep["metric"]]
        found[name] = Transfer(sweep["best_threshold"], best, threshold, float(score))
    return found


def _column(sweep: Sweep) -> tuple[np.ndarray, np.ndarray]:
    """Thresholds in rising order, and the metric's scores: of the curve, or of the rows."""
    name = sweep["metric"]
    curve: Curve = sweep["curve"]
    if name in curve:
        return curve["threshold"][::-1], curve[name][::-1]
    rows = sorted(sweep["all_results"], key=lambda row: row["threshold"])
    return np.array([row["threshold"] for row in rows]), np.array([row[name] for row in rows])


def _at(column: tuple[np.ndarray, np.ndarray], thresholds: Sequence[float]) -> np.ndarray:
    """The score at each threshold: that of the highest threshold in the column not above it."""
    rising, scores = column
    positions = np.searchsorted(rising, thresholds, side="right") - 1
    at: np.ndarray = scores[np.maximum(positions, 0)]
    return at
