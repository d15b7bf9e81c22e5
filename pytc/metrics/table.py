"""Every metric, a row each: which way is better, what it needs, how it is shown, what it means.

Directions, tables, headlines, panels, the report's text and the help of --metric are read from
here. To add a metric that follows from others of its family, add a row with its formula. To add
another, add a row, and count it where its family is counted: `SkeletonMetrics`, `overlap_metrics`
(whose names get dense_ in front), `instance_metrics` or `class_metrics`.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from pytc.checks import suggest

Task = Literal["instance", "semantic"]
Truth = Literal["skeleton", "labels"]


@dataclass(frozen=True)
class Metric:
    """A row of the table."""

    name: str  # in metrics.json and sweep.csv, and after --metric and val/
    task: Task
    needs: Truth
    better: Literal["higher", "lower"]
    unit: str  # empty where it is a number without one
    decimals: int
    short: str  # head of a column in a narrow table
    meaning: str
    headline: bool = False  # shown first, in tables and on the report's cards
    panel: str = ""  # the picture of a sweep in which its curve is drawn
    # From metrics of the same task and truth, by name: those that are counted, and those with a
    # formula whose row is above. Each is a number, or an array of numbers.
    formula: Callable[[Mapping[str, Any]], Any] | None = None

    @property
    def lower_is_better(self) -> bool:
        return self.better == "lower"

    @property
    def tolerance(self) -> float | None:
        """Scores that differ by no more are as good in practice; None for counts and lengths."""
        if self.unit == "bits":
            return 0.05
        return 0.02 if self.unit == "" and self.decimals > 0 else None

    @property
    def title(self) -> str:
        """The short name with its unit, for the report."""
        return f"{self.short}, {self.unit}" if self.unit else self.short


LENGTH, NODES, VOXELS, OVERLAP = (
    "Run length",
    "Skeleton VOI (bits)",
    "Dense VOI (bits)",
    "Overlap",
)
OBJECTS = "Objects"
ROWS = (
    Metric(
        "erl", "instance", "skeleton", "higher", "nm", 0, "ERL",
        "expected length of skeleton without an error, from a random point on one",
    ),
    Metric(
        "max_erl", "instance", "skeleton", "higher", "nm", 0, "best ERL",
        "ERL of a perfect segmentation of these skeletons",
    ),
    Metric(
        "nerl", "instance", "skeleton", "higher", "", 3, "NERL",
        "expected run length as a share of the best possible; 1 is perfect",
        headline=True, panel=LENGTH, formula=lambda found: found["erl"] / found["max_erl"],
    ),
    Metric(
        "voi_sum", "instance", "skeleton", "lower", "bits", 3, "VOI",
        "variation of information over skeleton nodes, bits; 0 is perfect",
        headline=True, panel=NODES, formula=lambda found: found["voi_split"] + found["voi_merge"],
    ),
    Metric(
        "voi_split", "instance", "skeleton", "lower", "bits", 3, "VOI split",
        "bits lost because neurons fall apart, over skeleton nodes", panel=NODES,
    ),
    Metric(
        "voi_merge", "instance", "skeleton", "lower", "bits", 3, "VOI merge",
        "bits lost because neurons run together, over skeleton nodes", panel=NODES,
    ),
    Metric(
        "n_mergers", "instance", "skeleton", "lower", "", 0, "mergers with 0",
        "as mergers, but nodes in segment 0 (background) count as one more merged segment",
    ),
    Metric(
        "n_non0_mergers", "instance", "skeleton", "lower", "", 0, "mergers",
        "pieces of skeletons that share a segment other than 0 with another skeleton",
        headline=True,
    ),
    Metric(
        "n_splits", "instance", "skeleton", "lower", "", 0, "splits",
        "skeleton edges that lead from one segment into another", headline=True,
    ),
    Metric(
        "nerl_5", "instance", "skeleton", "higher", "", 3, "NERL 5",
        "NERL if pieces of at most 5 nodes are overlooked when mergers are sought", panel=LENGTH,
    ),
    Metric(
        "nerl_20", "instance", "skeleton", "higher", "", 3, "NERL 20",
        "the same for pieces of at most 20 nodes", panel=LENGTH,
    ),
    Metric(
        "nerl_50", "instance", "skeleton", "higher", "", 3, "NERL 50",
        "the same for pieces of at most 50 nodes", panel=LENGTH,
    ),
    Metric(
        "nerl_100", "instance", "skeleton", "higher", "", 3, "NERL 100",
        "the same for pieces of at most 100 nodes", panel=LENGTH,
    ),
    Metric(
        "nerl_inf", "instance", "skeleton", "higher", "", 3, "NERL no merge",
        "NERL if no merger counted: splits alone",
    ),
    Metric(
        "dense_voi_split", "instance", "labels", "lower", "bits", 3, "dense split",
        "bits lost because neurons fall apart, over labelled voxels", panel=VOXELS,
    ),
    Metric(
        "dense_voi_merge", "instance", "labels", "lower", "bits", 3, "dense merge",
        "bits lost because neurons run together, over labelled voxels", panel=VOXELS,
    ),
    Metric(
        "dense_voi_sum", "instance", "labels", "lower", "bits", 3, "dense VOI",
        "variation of information over labelled voxels, bits; 0 is perfect",
        headline=True, panel=VOXELS,
        formula=lambda found: found["dense_voi_split"] + found["dense_voi_merge"],
    ),
    Metric(
        "dense_rand_split", "instance", "labels", "higher", "", 3, "Rand split",
        "share of voxel pairs of one neuron that are in one segment",
    ),
    Metric(
        "dense_rand_merge", "instance", "labels", "higher", "", 3, "Rand merge",
        "share of voxel pairs of one segment that are in one neuron",
    ),
    Metric(
        "dense_adapted_rand_error", "instance", "labels", "lower", "", 3, "Rand error",
        "adapted Rand error over labelled voxels: 1 - F-score of the two Rand scores; 0 is perfect",
        headline=True,
    ),
    Metric(
        "ap_50", "instance", "labels", "higher", "", 3, "AP 0.5",
        "average precision of segments, the largest first, that match an object by an IoU of 0.5",
        panel=OBJECTS,
    ),
    Metric(
        "ap_75", "instance", "labels", "higher", "", 3, "AP 0.75",
        "the same by an IoU of 0.75", panel=OBJECTS,
    ),
    Metric(
        "ap", "instance", "labels", "higher", "", 3, "AP",
        "the mean of the same over IoU of 0.5, 0.55 to 0.95", panel=OBJECTS,
    ),
    Metric(
        "precision_50", "instance", "labels", "higher", "", 3, "precision 0.5",
        "share of segments that match an object by an IoU of 0.5",
    ),
    Metric(
        "recall_50", "instance", "labels", "higher", "", 3, "recall 0.5",
        "share of objects that match a segment by an IoU of 0.5",
    ),
    Metric(
        "f1_50", "instance", "labels", "higher", "", 3, "F1 0.5",
        "F-score of these two; StarDist's accuracy is F1 / (2 - F1)",
    ),
    Metric(
        "pq_50", "instance", "labels", "higher", "", 3, "PQ 0.5",
        "panoptic quality: F1 times the mean IoU of what matches by an IoU of 0.5",
    ),
    Metric(
        "precision_75", "instance", "labels", "higher", "", 3, "precision 0.75",
        "share of segments that match an object by an IoU of 0.75",
    ),
    Metric(
        "recall_75", "instance", "labels", "higher", "", 3, "recall 0.75",
        "share of objects that match a segment by an IoU of 0.75",
    ),
    Metric(
        "f1_75", "instance", "labels", "higher", "", 3, "F1 0.75", "F-score of these two",
    ),
    Metric(
        "pq_75", "instance", "labels", "higher", "", 3, "PQ 0.75",
        "panoptic quality by an IoU of 0.75",
    ),
    Metric(
        "jaccard", "semantic", "labels", "higher", "", 3, "Jaccard",
        "intersection over union of the predicted and the true mask; of several classes the mean "
        "over those present, without class 0; 1 is perfect",
        headline=True, panel=OVERLAP,
    ),
    Metric(
        "dice", "semantic", "labels", "higher", "", 3, "Dice",
        "F-score of the mask; of several classes the mean as for Jaccard; 1 is perfect",
        headline=True, panel=OVERLAP,
    ),
    Metric(
        "precision", "semantic", "labels", "higher", "", 3, "precision",
        "share of the predicted mask that is right; of several classes the mean as for Jaccard",
        headline=True, panel=OVERLAP,
    ),
    Metric(
        "recall", "semantic", "labels", "higher", "", 3, "recall",
        "share of the true mask that is found; of several classes the mean as for Jaccard",
        headline=True, panel=OVERLAP,
    ),
    Metric(
        "jaccard_all", "semantic", "labels", "higher", "", 3, "Jaccard with 0",
        "mean Jaccard over all classes present, class 0 (the background) included",
    ),
    Metric(
        "dice_all", "semantic", "labels", "higher", "", 3, "Dice with 0",
        "mean Dice over all classes present, class 0 (the background) included",
    ),
)  # fmt: skip
METRICS = {row.name: row for row in ROWS}
DEFAULTS = ("jaccard", "nerl", "dense_voi_sum")  # the first of them that can be counted


BY_CLASS = re.compile(r"(jaccard|dice)_class_(\d+)")


def metric(name: str) -> Metric:
    """The row of that name; ValueError, with the nearest name, if there is none.

    Each class has a row, e.g. jaccard_class_2, made from that of the mean.
    """
    if found := BY_CLASS.fullmatch(name):
        mean, number = METRICS[found[1]], found[2]
        meaning = f"{mean.short} of class {number} against the rest; 1 is perfect"
        short = f"{mean.short} {number}"
        return replace(mean, name=name, short=short, meaning=meaning, headline=False, panel="")
    if name not in METRICS:
        raise ValueError(f"expected a metric, got {name!r}{suggest(name, METRICS)}")
    return METRICS[name]


def is_metric(name: str) -> bool:
    """Whether `metric` has a row of that name."""
    return name in METRICS or BY_CLASS.fullmatch(name) is not None


def metric_names(task: Task, needs: Truth) -> tuple[str, ...]:
    """The metrics of a task that are counted against one kind of truth, in the table's order."""
    return tuple(row.name for row in ROWS if (row.task, row.needs) == (task, needs))


# One sentence for each kind of truth, for help.
NAMES_OF_METRICS = (
    f"With skeletons: {', '.join(metric_names('instance', 'skeleton'))}. "
    f"With labels: {', '.join(metric_names('instance', 'labels'))}. "
    f"Of a mask: {', '.join(metric_names('semantic', 'labels'))}."
)


def with_formulas(counted: Mapping[str, Any], task: Task, needs: Truth) -> dict[str, Any]:
    """The counted metrics and those with a formula, in the table's order; then what has no row.

    counted: metrics of one task and truth by name, each a number or an array of numbers.
    """
    rows = [row for row in ROWS if (row.task, row.needs) == (task, needs)]
    found = dict(counted)
    for row in rows:
        if row.formula is not None:
            found[row.name] = row.formula(found)
    ordered = {row.name: found[row.name] for row in rows if row.name in found}
    return ordered | found


def full_name(name: str) -> str:
    """A metric by its first words, e.g. adapted_rand for dense_adapted_rand_error; other names as
    they are.
    """
    begun = [full for full in METRICS if full.startswith((name, f"dense_{name}"))]
    return begun[0] if name not in METRICS and len(begun) == 1 else name


def headlines(scores: dict[str, float], chosen: str) -> list[str]:
    """The scores to show first, by name: the chosen one, then the table's headlines."""
    shown = (chosen, *(row.name for row in ROWS if row.headline))
    return [name for name in dict.fromkeys(shown) if name in scores]


def panels(scores: dict[str, float], chosen: str) -> dict[str, list[str]]:
    """Which scores are drawn together, by the panel's title; the chosen one is always drawn."""
    drawn: dict[str, list[str]] = {}
    for row in ROWS:
        if row.name in scores and (row.panel or row.name == chosen):
            drawn.setdefault(row.panel or row.short, []).append(row.name)
    return drawn
