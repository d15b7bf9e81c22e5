"""The curves of a training, from log.jsonl, as a PNG. No torch."""

import io
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pytc.metrics.table import is_metric, metric

LOG = "log.jsonl"
Curves = dict[str, tuple[list[int], list[float]]]  # steps and values, by the name in the log
LOSSES = ("train/loss_total", "val/loss")
SCORE = re.compile(r"val/(?:(?P<volume>.+)/)?(?P<metric>\w+)")
COLOURS = ("#1f5fbf", "#d1495b", "#2a9d8f", "#e9a03b", "#7b5ea7", "#5c6b7a")


def read_log(path: Path) -> Curves:
    """All numbers of a log, by their names, in the order of their steps.

    A line that a killed run left unfinished, and numbers that are not finite, are left out.
    """
    curves: Curves = {}
    with open(path) as file:
        for line in file:
            try:
                row = json.loads(line)
            except ValueError:
                continue
            for name, value in row.items():
                if "/" not in name or not isinstance(value, int | float):
                    continue
                steps, values = curves.setdefault(name, ([], []))
                steps.append(row["step"])
                values.append(float(value))
    return curves


def scores_of(curves: Curves) -> list[str]:
    """The metrics of whole volumes that a training logged, e.g. nerl for val/nerl."""
    found = [SCORE.fullmatch(name) for name in curves]
    names = [match["metric"] for match in found if match and not match["volume"]]
    return [name for name in names if is_metric(name)]


def draw_training(runs: Mapping[str, Curves], *, most: int = 3) -> bytes | None:
    """The loss over the steps, and beside it the scores of whole volumes; None without a loss.

    Args:
        runs: the curves of one run, or of several that are drawn over each other, by their names.
        most: how many scores are drawn at most.
    """
    if not any(name in curves for curves in runs.values() for name in LOSSES):
        return None
    from matplotlib.figure import Figure

    named = [name for curves in runs.values() for name in scores_of(curves)]
    scores = [name for name in dict.fromkeys(named) if metric(name).headline or name == "nerl"]
    scores = scores[:most]
    figure = Figure(figsize=(4.4 * (1 + len(scores)), 3.2), dpi=140, layout="constrained")
    panels = figure.subplots(1, 1 + len(scores), squeeze=False)[0]
    for number, (run, curves) in enumerate(runs.items()):
        colour = COLOURS[number % len(COLOURS)]
        _draw_losses(panels[0], run if len(runs) > 1 else "", curves, colour)
        for axes, name in zip(panels[1:], scores):
            if f"val/{name}" in curves:
                axes.plot(*curves[f"val/{name}"], "o-", markersize=3, color=colour, label=run)
    panels[0].set(yscale="log")
    panels[0].yaxis.set_major_formatter("{x:g}")  # the usual one draws powers, in fonts of TeX
    panels[0].yaxis.set_minor_formatter("{x:g}")
    panels[0].tick_params(axis="y", which="both", labelsize=8)
    panels[0].set_title("loss", fontsize=11, loc="left", fontweight="bold")
    for axes, name in zip(panels[1:], scores):
        axes.set_title(metric(name).title, fontsize=11, loc="left", fontweight="bold")
    for axes in panels:
        axes.set_xlabel("step")
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", color="#e4e7eb")
    if len(runs) > 1 or len(panels[0].lines) > 1:
        panels[0].legend(frameon=False, fontsize=8)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def _draw_losses(axes: Any, run: str, curves: Curves, colour: str) -> None:
    """The loss of training as a line, that of validation dashed with points."""
    styles = {"train/loss_total": ("-", 1.0), "val/loss": ("o--", 1.4)}
    for name, (style, width) in styles.items():
        if name in curves:
            words = {"train/loss_total": "training", "val/loss": "validation"}[name]
            label = f"{run}, {words}" if run else words
            own = colour if run or name == "train/loss_total" else COLOURS[1]
            axes.plot(*curves[name], style, linewidth=width, markersize=3, color=own, label=label)
