"""What evaluate.py prints: tables of scores, where results lie, and the next call of infer.py."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pytc.commands import flags
from pytc.console import print_table
from pytc.evaluation.inputs import InferCall, Inputs, Mode
from pytc.evaluation.sweep import Sweep
from pytc.evaluation.together import Transfer
from pytc.io.results import prediction_key
from pytc.io.volume import open_volume
from pytc.metrics.instances import INSTANCE_METRICS, NAMED
from pytc.metrics.table import BY_CLASS, METRICS, headlines, metric
from pytc.script import command_line
from pytc.segmentation.decode import method_of
from pytc.segmentation.edges import ranges_above

BESIDE_SCORES = ("threshold", "merge_tolerance_nodes", "min_size", "method", "mean_over")
BEST_SEGMENTATION = "best_segmentation.zarr"  # of a sweep
# Scores of objects that match segments, by the beginning of their names.
OF_OBJECTS = {
    "precision": "precision",
    "recall": "recall",
    "f1": "F1",
    "pq": "panoptic quality",
    "ap": "average precision",
}
NARROW = 0.05  # a plateau of fewer thresholds is warned of
SEGMENTATION_AT_ONE = "segmentation_at_threshold.zarr"  # of a single threshold


def in_words(settings: dict[str, Any]) -> str:
    """The settings that belong beside every score, in words."""
    words = [
        f"{name.replace('_', ' ')} {_shown(settings[name])}"
        for name in BESIDE_SCORES
        if name in settings
    ]
    return ", ".join((settings["task"], *words))


def _shown(value: float | str) -> str:
    return f"{value:.4f}" if isinstance(value, float) else str(value)


def print_scores(title: str, scores: dict[str, float], chosen: str, sweep: Sweep | None) -> None:
    """Print the headlines of each threshold, the best one in green, or of the segmentation."""
    names = headlines(scores, chosen)
    heads = [metric(name).short for name in names]
    if sweep is None:
        print_table(heads, [_cells(scores, names)], title=title)
    else:
        rows = [[_shown(row["threshold"]), *_cells(row, names)] for row in sweep["all_results"]]
        best = next(n for n, row in enumerate(sweep["all_results"]) if row is sweep["best_metrics"])
        print_table(["threshold", *heads], rows, title=title, best=best)
    if INSTANCE_METRICS[0] in scores:
        for line in objects_in_words(scores):
            print(f"  {line}")
    classes = by_class(scores)
    if classes:
        rows = [[str(number), *_cells(row, list(row))] for number, row in classes.items()]
        names_of_class = list(next(iter(classes.values())))
        print_table(["class", *(metric(name).short for name in names_of_class)], rows)
    width = max(map(len, heads))
    for name, head in zip(names, heads):
        print(f"  {head:{width}}  {metric(name).meaning}", flush=True)


def objects_in_words(scores: dict[str, float]) -> list[str]:
    """How many objects and segments match, for each IoU that has scores of its own."""
    lines = []
    for name, threshold in NAMED.items():
        parts = [f"{words} {scores[f'{short}_{name}']:.3f}" for short, words in OF_OBJECTS.items()]
        lines.append(f"objects at an IoU of {threshold:g}: {', '.join(parts)}")
    return lines


def by_class(scores: dict[str, float]) -> dict[int, dict[str, float]]:
    """The scores of each class by its number, e.g. {3: {"jaccard": 0.8, "dice": 0.9}}."""
    found: dict[int, dict[str, float]] = {}
    for name, value in scores.items():
        parts = BY_CLASS.fullmatch(name)
        if parts is not None:
            found.setdefault(int(parts[2]), {})[parts[1]] = value
    return found


def _cells(scores: dict[str, float], names: Sequence[str]) -> list[str]:
    """Each score with its decimals, or a dash where there is none."""
    return [
        f"{scores[name]:,.{metric(name).decimals}f}" if name in scores else "-" for name in names
    ]


def print_results(inputs: Inputs, sweep: Sweep | None, output: Path) -> None:
    """Print where the results lie, and how infer.py makes the best segmentation."""
    if sweep is not None and inputs.decoding.mode is Mode.SWEEP:
        thresholds = [row["threshold"] for row in sweep["all_results"]]
        best = sweep["best_threshold"]
        if best in (min(thresholds), max(thresholds)) and not sweep["curve"]:
            print("the best threshold lies at an end of the sweep: others may be better")
        for line in plateau_in_words(sweep):
            print(line)
        print(f"best segmentation: {output / BEST_SEGMENTATION}")
        if inputs.prediction.made_by is not None:
            print(f"infer.py makes it by: {_infer_line(inputs, inputs.prediction.made_by, best)}")
    elif sweep is not None:
        print(f"segmentation: {output / SEGMENTATION_AT_ONE}")
    elif (output / BEST_SEGMENTATION).is_dir():
        _print_earlier_sweep(inputs, output)
    print(f"report: {output / 'report.html'}", flush=True)


def plateau_in_words(sweep: Sweep) -> list[str]:
    """What the plateau around the best threshold says of other volumes; nothing without one."""
    if sweep["plateau"] is None:
        return []
    low, high = sweep["plateau"]
    row = metric(sweep["metric"])
    unit = f" {row.unit}" if row.unit else ""
    lines = [
        f"thresholds from {low:.3f} to {high:.3f} are within {row.tolerance:g}{unit} of the best"
    ]
    if high - low < NARROW:
        lines.append("that is narrow: the best threshold of another volume may lie elsewhere")
    return lines


def _print_earlier_sweep(inputs: Inputs, output: Path) -> None:
    """Print what an earlier sweep has left, and whether it is of the same prediction."""
    attributes = open_volume(output / BEST_SEGMENTATION).attributes
    threshold = attributes["threshold"]
    print(f"of an earlier sweep: {output / BEST_SEGMENTATION}, threshold {threshold:.4f}")
    prediction = Path(inputs.array.path).with_name(f"{inputs.kind.prediction}.zarr")
    if attributes.get("prediction_key") != prediction_key(str(prediction)):
        print("  it is of an earlier prediction; --sweep makes it anew")


def _infer_line(inputs: Inputs, call: InferCall, threshold: float) -> str:
    """The command that stores the best segmentation as segmentation.zarr beside the prediction."""
    is_instance = inputs.kind.task == "instance"
    if not (is_instance and method_of(inputs.decoding.segmentation).tree is not None):
        threshold = shortest(threshold, inputs.array.dtype)  # it is compared with affinities
    words = [*call.flags, "--segmentation.threshold", repr(threshold)]
    if is_instance:
        wanted = inputs.decoding.at(call.segmentation.threshold)
        words += flags(wanted, call.segmentation, prefix="--segmentation.")
    return command_line("infer", words)


def shortest(threshold: float, dtype: np.dtype) -> float:
    """The number of the fewest digits that no stored value of `dtype` tells from the threshold."""
    exact = ranges_above(threshold, dtype)
    for digits in range(2, 17):
        rounded = float(f"{threshold:.{digits}g}")
        if 0 <= rounded <= 1 and ranges_above(rounded, dtype) == exact:
            return rounded
    return threshold


def print_summary(volumes: dict[str, dict[str, Any]], mean: dict[str, float]) -> None:
    """Print a row for each volume, and one for the mean.

    Args:
        volumes: {name: what its metrics.json holds}.
    """
    anywhere = {name: 0.0 for name in METRICS if any(name in row for row in volumes.values())}
    names = headlines(anywhere, next(iter(volumes.values()))["metric"])
    rows = [
        [name, _shown(scores.get("threshold", "-")), *_cells(scores, names)]
        for name, scores in volumes.items()
    ]
    rows.append(["mean", "", *_cells(mean, names)])
    heads = [metric(name).short for name in names]
    print_table(["volume", "threshold", *heads], rows, title="all volumes")


def print_transfers(transfers: Mapping[str, Transfer], name: str) -> None:
    """Print what each volume loses at the threshold that is best for the other volumes."""
    rows = []
    for volume, found in transfers.items():
        thresholds = (found.best_threshold, found.others_threshold)
        scores = (found.best_score, found.others_score, found.regret)
        numbers = [f"{value:.3f}" for value in (*thresholds, *scores)]
        rows.append([volume, numbers[0], numbers[2], numbers[1], numbers[3], numbers[4]])
    mean = sum(found.regret for found in transfers.values()) / len(transfers)
    rows.append(["mean", "", "", "", "", f"{mean:.3f}"])
    short = metric(name).short
    heads = ["volume", "best threshold", short, "threshold of the others", short, "regret"]
    print_table(heads, rows, title="each volume at the threshold that is best for the others")
