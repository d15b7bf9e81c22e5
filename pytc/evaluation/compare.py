"""`pytc compare`: runs beside each other, their scores, curves and configs. No torch."""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

from pytc.checks import flat, require
from pytc.config import Config
from pytc.console import print_table
from pytc.evaluation.report import page_environment
from pytc.evaluation.training_curves import COLOURS, LOG, draw_training, read_log
from pytc.metrics.table import headlines, is_metric, metric
from pytc.runs import find_run, load_config, replacing

# Scores that differ in one of these are not alike.
MUST_AGREE = ("labels", "skeleton", "mask", "min_size", "merge_tolerance_nodes", "mean_over")
BESIDE = ("ap_50", "ap_75")  # shown beside the headlines
CURVES = ("exact_sweep.csv", "sweep.csv")  # the first that exists
WIDEST = 60  # characters of a value in the table of configs


@dataclass(frozen=True)
class Run:
    """What a run left behind."""

    name: str
    folder: Path
    config: Config
    metrics: dict[str, dict[str, Any]]  # what metrics.json holds, by volume


class Cell(NamedTuple):
    text: str
    best: bool


class Line(NamedTuple):
    run: str
    cells: list[Cell]


class Table(NamedTuple):
    """The scores of one volume, a line for each run."""

    volume: str
    heads: list[str]
    lines: list[Line]


def compare(names: Sequence[str], output: Path, metric_name: str | None = None) -> None:
    """Write a page on which runs stand beside each other, and print their scores.

    Args:
        names: folders or names of runs.
        output: the page, an HTML file that needs no other.
        metric_name: drawn over the threshold; None for that of the first run.

    Raises:
        ValueError: a run does not exist.
    """
    runs = _read_runs(names)
    tables = [_table(volume, runs) for volume in _shared_volumes(runs)]
    warnings = [line for table in tables for line in _unlike(table.volume, runs)]
    alone = [f"{run.name} was not evaluated." for run in runs if not run.metrics]
    logs = {run.name: read_log(run.folder / LOG) for run in runs if (run.folder / LOG).is_file()}
    page = (
        page_environment()
        .get_template("compare.html")
        .render(
            runs=[run.name for run in runs],
            tables=tables,
            warnings=warnings,
            alone=alone,
            curves=_draw_thresholds(runs, [table.volume for table in tables], metric_name),
            training=draw_training(logs),
            differences=config_differences({run.name: run.config for run in runs}),
        )
    )
    for table in tables:
        rows = [[line.run, *(cell.text for cell in line.cells)] for line in table.lines]
        print_table(["run", *table.heads], rows, title=table.volume)
    for line in [*(f"not alike: {warning}" for warning in warnings), *alone]:
        print(line)
    output.parent.mkdir(parents=True, exist_ok=True)
    with replacing(output) as temporary:
        temporary.write_text(page)
    print(f"page: {output}", flush=True)


def _read_runs(names: Sequence[str]) -> list[Run]:
    folders = [find_run(name) for name in names]
    shown = [folder.name for folder in folders]
    if len(set(shown)) < len(shown):  # two folders of runs may have runs of one name
        shown = [str(folder) for folder in folders]
    require(len(set(shown)) == len(shown), "each run once", list(names))
    runs = []
    for name, folder in zip(shown, folders):
        metrics = {
            path.parent.name: json.loads(path.read_text())
            for path in sorted(folder.glob("evaluation/*/metrics.json"))
        }
        runs.append(Run(name, folder, load_config(folder), metrics))
    return runs


def _shared_volumes(runs: Sequence[Run]) -> list[str]:
    """The volumes that two runs or more were scored on."""
    volumes = dict.fromkeys(volume for run in runs for volume in run.metrics)
    return [volume for volume in volumes if sum(volume in run.metrics for run in runs) > 1]


def _table(volume: str, runs: Sequence[Run]) -> Table:
    scored = {run.name: run.metrics[volume] for run in runs if volume in run.metrics}
    chosen = next(iter(scored.values()))["metric"]
    names = dict.fromkeys(name for scores in scored.values() for name in headlines(scores, chosen))
    names |= dict.fromkeys(name for name in BESIDE if any(name in each for each in scored.values()))
    lines = []
    for run, scores in scored.items():
        cells = [_cell(name, scores, scored) for name in names]
        threshold = scores.get("threshold")
        words = "" if threshold is None else f"{threshold:.4f}"
        lines.append(
            Line(run, [*cells, Cell(words, False), Cell(scores.get("method") or "", False)])
        )
    return Table(volume, [*(metric(name).title for name in names), "threshold", "method"], lines)


def _cell(name: str, scores: Mapping[str, Any], scored: Mapping[str, Mapping[str, Any]]) -> Cell:
    """A score; the best of all runs is marked, if others differ."""
    if name not in scores:
        return Cell("", best=False)
    row = metric(name)
    values = [each[name] for each in scored.values() if name in each]
    best = min(values) if row.lower_is_better else max(values)
    is_best = scores[name] == best and len(set(values)) > 1
    return Cell(f"{scores[name]:,.{row.decimals}f}", is_best)


def _unlike(volume: str, runs: Sequence[Run]) -> list[str]:
    """Why the scores of a volume do not compare."""
    scored = {run.name: run.metrics[volume] for run in runs if volume in run.metrics}
    lines = []
    for name in MUST_AGREE:
        values = {run: scores.get(name) for run, scores in scored.items()}
        if len({json.dumps(value) for value in values.values()}) > 1:
            words = ", ".join(f"{value} in {run}" for run, value in values.items())
            lines.append(f"{volume}: {name.replace('_', ' ')} is {words}")
    shares = {run: scores.get("frac_scored") for run, scores in scored.items()}
    known = [share for share in shares.values() if share is not None]
    if known and max(known) - min(known) > 1e-6:
        words = ", ".join(f"{share:.3f} in {run}" for run, share in shares.items() if share)
        lines.append(f"{volume}: the share of the volume that was scored is {words}")
    swept = {run: "threshold_chosen_on" in scores for run, scores in scored.items()}
    if len(set(swept.values())) > 1:
        chosen = ", ".join(run for run, was_swept in swept.items() if was_swept)
        lines.append(
            f"{volume}: the threshold of {chosen} was chosen on this volume by a sweep, "
            "that of the others was given"
        )
    return lines


def config_differences(configs: Mapping[str, Config]) -> dict[str, list[str]]:
    """The fields that differ, each with its value in every run; without the name of the run."""
    values_of = [flat(asdict(config)) for config in configs.values()]
    differences: dict[str, list[str]] = {}
    for name in dict.fromkeys(name for fields in values_of for name in fields):
        values = [str(fields.get(name)) for fields in values_of]
        if len(set(values)) > 1 and name != "name":
            differences[name] = [_shortened(value) for value in values]
    return differences


def _shortened(value: str) -> str:
    return value if len(value) <= WIDEST else f"{value[: WIDEST - 3]}..."


def _draw_thresholds(
    runs: Sequence[Run], volumes: Sequence[str], metric_name: str | None
) -> bytes | None:
    """A panel for each volume: the metric over the threshold; None without a sweep."""
    drawn: dict[str, dict[str, tuple[str, list[float], list[float]]]] = {}
    for volume in volumes:
        for run in runs:
            curve = _curve(run, volume, metric_name or _metric_of(runs, volume))
            if curve is not None:
                drawn.setdefault(volume, {})[run.name] = curve
    if not drawn:
        return None
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.8 * len(drawn), 3.4), dpi=140, layout="constrained")
    panels = figure.subplots(1, len(drawn), squeeze=False)[0]
    colours = {run.name: COLOURS[number % len(COLOURS)] for number, run in enumerate(runs)}
    for axes, (volume, curves) in zip(panels, drawn.items()):
        for run_name, (name, thresholds, values) in curves.items():
            axes.plot(
                thresholds, values, ".-", markersize=3, color=colours[run_name], label=run_name
            )
            axes.set_ylabel(metric(name).title)
        axes.set_title(volume, fontsize=11, loc="left", fontweight="bold")
        axes.set_xlabel("threshold")
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", color="#e4e7eb")
        axes.legend(frameon=False, fontsize=8)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def _metric_of(runs: Sequence[Run], volume: str) -> str:
    return str(next(run.metrics[volume]["metric"] for run in runs if volume in run.metrics))


def _curve(run: Run, volume: str, name: str) -> tuple[str, list[float], list[float]] | None:
    """A metric and its values over the thresholds of a sweep; None without them."""
    for file_name in CURVES:
        path = run.folder / "evaluation" / volume / file_name
        if not path.is_file():
            continue
        with open(path, newline="") as file:
            rows = list(csv.DictReader(file))
        if rows and name in rows[0] and is_metric(name):
            points = sorted((float(row["threshold"]), float(row[name])) for row in rows)
            return name, [at for at, _ in points], [value for _, value in points]
    return None
