"""evaluate.py: a prediction and the truth in; metrics.json, sweep.csv, sweep.png and report.html out. No torch."""

from __future__ import annotations

import csv
import os
import shutil
from dataclasses import replace
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import rich
import rich.table

from pytc.commands import EvaluateConfig
from pytc.io.volume import Volume, create_volume
from pytc.metrics.exact import exact_sweep
from pytc.metrics.overlap import contingency_table, metrics_of_table
from pytc.metrics.semantic import semantic_metrics
from pytc.metrics.skeleton import SkeletonMetrics
from pytc.metrics.sweep import Sweep, is_error, semantic_sweep, threshold_sweep
from pytc.progress import announce_compilation
from pytc.report import html
from pytc.report.errors import worst_skeletons
from pytc.report.inputs import Inputs, gather
from pytc.report.pictures import Instances, Mask, Scene, draw
from pytc.runs import replacing, write_json
from pytc.segmentation.connected_components import connected_components_3d
from pytc.segmentation.edges import is_above
from pytc.segmentation.growing import grow

DECODING = ("threshold", "min_size", "grow")  # attributes of a stored segmentation


def evaluate(config: EvaluateConfig) -> dict[str, Any]:
    """Score a prediction, write figures and report into the output folder, and return what metrics.json holds.

    Affinities are segmented at each threshold, and the segmentation that is best by the metric is scored, drawn and
    stored; a segmentation is scored as it is. ValueError, before any work, where inputs lack or do not fit, and after
    it where the metric is worse than config.require.
    """
    if config.backend == "funlib":
        from pytc.report.crosscheck import cross_check  # optional: fails here, before any work, where it is missing
    announce_compilation()
    inputs = gather(config)
    config = inputs.config
    for part, path in inputs.paths.items():
        print(f"{part + ':':14}{path}", flush=True)
    labels = _read_labels(inputs)
    sweep, segmentation = _segment(inputs, labels) if inputs.channels else (None, inputs.prediction)
    figures, matching = _score(inputs, labels, segmentation)
    if config.backend == "funlib":
        figures |= cross_check(figures, inputs.skeleton, labels if labels is None else labels[...], segmentation[...])
    settings = _settings(inputs, sweep)
    table = _table(figures, config.metric, sweep)
    _write(inputs, figures, settings, sweep, table, labels, segmentation, matching)
    _print(f"{inputs.title}: {summary(settings)}", table)
    print(f"report: {Path(config.output) / 'report.html'}", flush=True)
    sign, side = (-1, "most") if is_error(config.metric) else (1, "least")
    if config.require is not None and sign * figures[config.metric] < sign * config.require:
        raise ValueError(f"expected {config.metric} of at {side} {config.require:g}, got {figures[config.metric]:.4f}")
    return figures | settings


def _read_labels(inputs: Inputs) -> np.ndarray | Volume | None:
    """Labels, 0 outside of the mask; for a semantic task the foreground as int8, -1 where unlabelled."""
    if inputs.labels is None:
        return None
    if inputs.mask is None and inputs.config.task == "instance" and not inputs.channels:
        return inputs.labels  # read piece by piece
    labels = inputs.labels[...]
    masked = False if inputs.mask is None else inputs.mask[...] == 0
    if inputs.config.task == "semantic":
        return np.where(masked | (labels < 0), -1, labels > 0).astype(np.int8)
    return np.where(masked, 0, labels).astype(labels.dtype, copy=False)


def _segment(inputs: Inputs, labels: np.ndarray | None) -> tuple[Sweep, np.ndarray]:
    """The scores at each threshold, and the segmentation (Z, Y, X) at the best."""
    values, config = inputs.read_channels(), inputs.config
    print(f"segmenting {values.shape[1:]} voxels at {len(config.thresholds)} thresholds", flush=True)
    if config.task == "semantic":
        sweep = semantic_sweep(values[0], labels, thresholds=config.thresholds, metric=config.metric)
        return sweep, is_above(values[0], sweep.best["threshold"]).astype(np.uint8)
    thresholds, curve = config.thresholds, ()
    if config.exact:
        exact = exact_sweep(values, inputs.skeleton, metric=config.metric, min_size=config.min_size)
        thresholds, curve = sorted({*thresholds, exact.best["threshold"]}), exact.rows
    sweep = threshold_sweep(values, inputs.skeleton, labels, thresholds=thresholds, metric=config.metric,
                            grow=config.grow, min_size=config.min_size)
    segmentation = connected_components_3d(values, sweep.best["threshold"], min_size=config.min_size)
    return replace(sweep, curve=curve), grow(segmentation, values) if config.grow else segmentation


def _score(inputs: Inputs, labels, segmentation) -> tuple[dict[str, float], Instances | Mask | None]:
    """Every figure there is truth for, and how segments and labels match, for the pictures."""
    if inputs.config.task == "semantic":
        return semantic_metrics(labels, segmentation[...]), Mask()
    figures, matching = {}, None
    if inputs.skeleton is not None:
        figures |= SkeletonMetrics(inputs.skeleton).compute(segmentation)
    if labels is not None:
        table = contingency_table(labels, segmentation)
        figures |= {f"dense_{key}": value for key, value in metrics_of_table(table).items()}
        matching = Instances(table)
    return figures, matching


def _settings(inputs: Inputs, sweep: Sweep | None) -> dict[str, Any]:
    """What the figures depend on, flat."""
    config = inputs.config
    settings = {"task": config.task, "metric": config.metric}
    if sweep:
        settings["threshold"] = sweep.best["threshold"]
        if config.task == "instance":
            settings |= {"min_size": config.min_size, "grow": config.grow}
    else:
        stored = inputs.prediction.attributes
        settings |= {key: stored[key] for key in DECODING if key in stored}
    if inputs.skeleton is not None:
        settings["merge_tolerance_nodes"] = 0  # strict: one node on a foreign segment is a merger
    return settings | {"backend": config.backend, **inputs.paths, "output": config.output}


def summary(settings: dict[str, Any]) -> str:
    """The settings that belong beside every figure, in words."""
    words = [{"instance": "neurons", "semantic": "foreground mask"}[settings["task"]]]
    if "threshold" in settings:
        words.append(f"threshold {settings['threshold']:.4f}")
    if "merge_tolerance_nodes" in settings:
        words.append(f"mergers counted from {settings['merge_tolerance_nodes'] + 1} node (strict)")
    if "grow" in settings:
        words += [f"min_size {settings['min_size']}", "grown" if settings["grow"] else "not grown"]
    return ", ".join(words)


def _table(figures: dict[str, float], metric: str, sweep: Sweep | None) -> html.Table:
    """The headline figures at each threshold, or of the segmentation."""
    columns = html.headlines(figures, metric)
    title, note, scored, best = "Figures", "", [figures], None
    if sweep:
        columns.insert(0, "threshold")
        title, scored, best = "Threshold sweep", sweep.rows, sweep.rows.index(sweep.best)
        threshold, thresholds = sweep.best["threshold"], [row["threshold"] for row in sweep.rows]
        note = f"Best by {html.name(metric)}: threshold {threshold:.4f}."
        if sweep.curve:
            note += f" No threshold is better; scores change at {len(sweep.curve)}."
        elif threshold in (min(thresholds), max(thresholds)):
            note += " It lies at an end of the sweep: thresholds beyond it may be better."
    rows = [tuple(html.number(key, row[key]) for key in columns) for row in scored]
    return html.Table(title, note, tuple(map(html.name, columns)), rows, best)


def _write(inputs: Inputs, figures, settings, sweep: Sweep | None, table: html.Table, labels, segmentation, matching):
    """Replace what an earlier evaluation left in the output folder, each file in one piece, metrics.json last."""
    from pytc.report.curves import draw_sweep  # matplotlib takes as long to load as all the rest

    config, output = inputs.config, Path(inputs.config.output)
    scene = Scene(inputs.image, labels, segmentation, inputs.axes, config.voxel_size or (1.0, 1.0, 1.0))
    curve = draw_sweep(sweep) if sweep and len(sweep.rows) > 1 else None
    note, legend = (matching.note, matching.legend) if matching else ("Each segment has a colour of its own.", ())
    parts = [html.cards(figures, config.metric)]
    parts += [html.table(table, curve)] if curve else []
    parts += [html.slices(draw(scene, matching), note, legend)]
    parts += [f"<p>Data: {escape(config.attribution)}</p>"] if config.attribution else []
    if inputs.skeleton is not None:
        worst = worst_skeletons(inputs.skeleton, segmentation, inputs.axes)
        parts += [html.table(worst)] if worst.rows else []
    parts += [html.all_figures(figures), html.table(html.Table("Settings", "", ("setting", "value"), settings.items()))]
    output.mkdir(parents=True, exist_ok=True)
    best = output / "best_segmentation.zarr"
    if sweep:
        _write_segmentation(best, inputs, settings, segmentation)
    elif Path(inputs.prediction.path).resolve() != best.resolve():
        shutil.rmtree(best, ignore_errors=True)
    for stale in ("sweep.csv", "exact_sweep.csv", "sweep.png", "metrics.json"):
        (output / stale).unlink(missing_ok=True)
    if curve:
        for name, rows in (("sweep.csv", sweep.rows), ("exact_sweep.csv", sweep.curve)):
            if rows:
                with replacing(output / name) as temporary, open(temporary, "w", newline="") as file:
                    writer = csv.DictWriter(file, list(rows[0]))
                    writer.writeheader()
                    writer.writerows(rows)
        with replacing(output / "sweep.png") as temporary:
            temporary.write_bytes(curve)
    with replacing(output / "report.html") as temporary:
        temporary.write_text(html.page(inputs.title, summary(settings), parts))
    write_json(output / "metrics.json", figures | settings)


def _write_segmentation(path: Path, inputs: Inputs, settings: dict[str, Any], segmentation: np.ndarray) -> None:
    temporary = path.with_name(f".{os.getpid()}.{path.name}")
    attributes = {key: settings[key] for key in DECODING if key in settings}
    with create_volume(temporary, segmentation.shape, segmentation.dtype, axes=inputs.axes,
                       voxel_size=inputs.config.voxel_size, attributes=attributes) as volume:
        volume[...] = segmentation
    shutil.rmtree(path, ignore_errors=True)
    temporary.rename(path)


def _print(title: str, table: html.Table) -> None:
    shown = rich.table.Table(title=title, title_justify="left")
    for header in table.header:
        shown.add_column(header, justify="right")
    for i, row in enumerate(table.rows):
        shown.add_row(*row, style="bold green" if i == table.best else None)
    rich.print(shown)
