"""evaluate.py: a prediction and the truth in; metrics.json, sweep.csv, sweep.png and report.html out. No torch."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import rich
import rich.table

from pytc.commands import EvaluateConfig
from pytc.io.volume import Volume, create_volume
from pytc.metrics.overlap import contingency_table, metrics_of_table
from pytc.metrics.semantic import semantic_metrics
from pytc.metrics.skeleton import SkeletonMetrics
from pytc.metrics.sweep import Sweep, is_error, semantic_sweep, threshold_sweep
from pytc.report import html
from pytc.report.curves import draw_sweep
from pytc.report.errors import worst_errors
from pytc.report.inputs import Inputs, gather
from pytc.report.pictures import Instances, Mask, Scene, draw
from pytc.runs import replacing
from pytc.segmentation.connected_components import connected_components_3d
from pytc.segmentation.edges import is_above
from pytc.segmentation.growing import grow

BEST = "best_segmentation.zarr"
DECODING = ("threshold", "min_size", "grow")  # attributes of a stored segmentation
SWEEP_COLUMNS = ("nerl", "nerl_5", "voi_sum", "voi_split", "voi_merge", "n_mergers", "n_splits", "dense_voi_sum",
                 "dense_voi_split", "dense_voi_merge", "dense_adapted_rand_error", "jaccard", "dice", "precision",
                 "recall")


def evaluate(config: EvaluateConfig) -> dict[str, Any]:
    """Score a prediction, write figures and report into the output folder, and return what metrics.json holds.

    Affinities are segmented at each threshold, and the segmentation that is best by the metric is scored, drawn and
    stored; a segmentation is scored as it is. ValueError, before any work, where inputs lack or do not fit, and after
    it where the metric is worse than config.require.
    """
    if config.backend == "funlib":
        from pytc.report.crosscheck import cross_check  # optional: fails here, before any work, where it is missing
    inputs = gather(config)
    for part, path in inputs.paths.items():
        print(f"{part + ':':14}{path}", flush=True)
    labels = _read_labels(inputs)
    sweep, segmentation = _segment(inputs, labels, config) if inputs.channels else (None, inputs.prediction)
    figures, matching = _score(inputs, labels, segmentation)
    if config.backend == "funlib":
        figures |= cross_check(figures, inputs.skeleton, labels if labels is None else labels[...], segmentation[...])
    settings = _settings(inputs, config, sweep)
    page, curve = _report(inputs, figures, settings, sweep, labels, segmentation, matching)
    _write(inputs, figures | settings, page, sweep, curve, segmentation)
    _print(inputs, figures, settings, sweep)
    _require(inputs.metric, figures[inputs.metric], config.require)
    return figures | settings


def _read_labels(inputs: Inputs) -> np.ndarray | Volume | None:
    """Labels, 0 outside of the mask; for a semantic task the foreground as int8, -1 where unlabelled."""
    if inputs.labels is None:
        return None
    if inputs.mask is None and inputs.task == "instance" and not inputs.channels:
        return inputs.labels  # read piece by piece
    labels = inputs.labels[...]
    masked = False if inputs.mask is None else inputs.mask[...] == 0
    if inputs.task == "semantic":
        return np.where(masked | (labels < 0), -1, labels > 0).astype(np.int8)
    return np.where(masked, 0, labels).astype(labels.dtype, copy=False)


def _segment(inputs: Inputs, labels: np.ndarray | None, config: EvaluateConfig) -> tuple[Sweep, np.ndarray]:
    """The scores at each threshold, and the segmentation (Z, Y, X) at the best."""
    values = inputs.read_channels()
    print(f"segmenting {values.shape[1:]} voxels at {len(config.thresholds)} thresholds", flush=True)
    if inputs.task == "semantic":
        sweep = semantic_sweep(values[0], labels, thresholds=config.thresholds, metric=inputs.metric)
        return sweep, is_above(values[0], sweep.best["threshold"]).astype(np.uint8)
    sweep = threshold_sweep(values, inputs.skeleton, labels, thresholds=config.thresholds, metric=inputs.metric,
                            grow=inputs.grow, min_size=inputs.min_size)
    segmentation = connected_components_3d(values, sweep.best["threshold"], min_size=inputs.min_size)
    return sweep, grow(segmentation, values) if inputs.grow else segmentation


def _score(inputs: Inputs, labels, segmentation) -> tuple[dict[str, float], Instances | Mask | None]:
    """Every figure there is truth for, and how segments and labels match, for the pictures."""
    if inputs.task == "semantic":
        return semantic_metrics(labels, segmentation[...]), Mask()
    figures, matching = {}, None
    if inputs.skeleton is not None:
        figures |= SkeletonMetrics(inputs.skeleton).compute(segmentation)
    if labels is not None:
        table = contingency_table(labels, segmentation)
        figures |= {f"dense_{key}": value for key, value in metrics_of_table(table).items()}
        matching = Instances(table)
    return figures, matching


def _settings(inputs: Inputs, config: EvaluateConfig, sweep: Sweep | None) -> dict[str, Any]:
    """What the figures depend on, flat."""
    settings = {"task": inputs.task, "metric": inputs.metric}
    if sweep:
        settings["threshold"] = sweep.best["threshold"]
        if inputs.task == "instance":
            settings |= {"min_size": inputs.min_size, "grow": inputs.grow}
    else:
        stored = inputs.prediction.attributes
        settings |= {key: stored[key] for key in DECODING if key in stored}
    if inputs.skeleton is not None:
        settings["merge_tolerance_nodes"] = 0  # strict: one node on a foreign segment is a merger
    return settings | {"backend": config.backend, **inputs.paths, "output": str(inputs.output)}


def _report(inputs: Inputs, figures, settings, sweep: Sweep | None, labels, segmentation, matching):
    """The page, and the sweep's curves as a PNG if there is a sweep of several thresholds."""
    voxel_size = inputs.voxel_size or (1.0, 1.0, 1.0)
    scene = Scene(inputs.image, labels, segmentation, inputs.axes, voxel_size)
    curve = draw_sweep(sweep.rows, sweep.metric, sweep.best) if sweep and len(sweep.rows) > 1 else None
    errors = worst_errors(inputs.skeleton, segmentation, inputs.axes) if inputs.skeleton is not None else []
    page = html.render(
        inputs.title, summary(settings), figures, inputs.metric, settings=settings,
        sweep=_sweep_table(sweep) if curve else None, curve=curve, pictures=draw(scene, matching),
        note=matching.note if matching else "Each segment has a colour of its own.",
        legend=matching.legend if matching else (), errors=errors, attribution=inputs.attribution,
    )
    return page, curve


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


def _sweep_table(sweep: Sweep) -> html.Table:
    columns = [key for key in sweep.best if key in SWEEP_COLUMNS or key == sweep.metric]
    rows = [(f"{row['threshold']:.4f}", *(html.number(key, row[key]) for key in columns)) for row in sweep.rows]
    best = sweep.rows.index(sweep.best)
    note = f"Best by {html.name(sweep.metric)}: threshold {rows[best][0]}."
    thresholds = [row["threshold"] for row in sweep.rows]
    if sweep.best["threshold"] in (min(thresholds), max(thresholds)):
        note += " It lies at an end of the sweep: thresholds beyond it may be better."
    return html.Table("Threshold sweep", note, ("threshold", *map(html.name, columns)), rows, best)


def _write(inputs: Inputs, metrics: dict[str, Any], page: str, sweep: Sweep | None, curve, segmentation) -> None:
    """Replace what an earlier evaluation left in the output folder, each file in one piece, metrics.json last."""
    output = inputs.output
    output.mkdir(parents=True, exist_ok=True)
    if isinstance(segmentation, np.ndarray):
        _write_segmentation(inputs, metrics, segmentation)
    elif Path(inputs.prediction.path).resolve() != (output / BEST).resolve():
        shutil.rmtree(output / BEST, ignore_errors=True)
    files = {"sweep.csv": _csv(sweep) if curve else None, "sweep.png": curve, "report.html": page.encode(),
             "metrics.json": (json.dumps(metrics, indent=1) + "\n").encode()}
    for name, content in files.items():
        if content is None:
            (output / name).unlink(missing_ok=True)
            continue
        with replacing(output / name) as temporary:
            temporary.write_bytes(content)


def _write_segmentation(inputs: Inputs, metrics: dict[str, Any], segmentation: np.ndarray) -> None:
    temporary = inputs.output / f".{os.getpid()}.{BEST}"
    attributes = {key: metrics[key] for key in DECODING if key in metrics}
    with create_volume(temporary, segmentation.shape, segmentation.dtype, axes=inputs.axes,
                       voxel_size=inputs.voxel_size, attributes=attributes) as volume:
        volume[...] = segmentation
    shutil.rmtree(inputs.output / BEST, ignore_errors=True)
    temporary.rename(inputs.output / BEST)


def _csv(sweep: Sweep) -> bytes:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(sweep.best))
    writer.writeheader()
    writer.writerows(sweep.rows)
    return text.getvalue().encode()


def _print(inputs: Inputs, figures: dict[str, float], settings: dict[str, Any], sweep: Sweep | None) -> None:
    """The headline figures of each threshold, or of the segmentation, and where the report is."""
    columns = html.headlines(figures, inputs.metric)
    table = rich.table.Table(title=f"{inputs.title}: {summary(settings)}", title_justify="left")
    for key in ("threshold", *columns) if sweep else columns:
        table.add_column(html.name(key), justify="right")
    for row in sweep.rows if sweep else [figures]:
        threshold = [f"{row['threshold']:.4f}"] if sweep else []
        style = "bold green" if sweep and row is sweep.best else None
        table.add_row(*threshold, *(html.number(key, row[key]) for key in columns), style=style)
    rich.print(table)
    print(f"report: {inputs.output / 'report.html'}", flush=True)


def _require(metric: str, value: float, bound: float | None) -> None:
    side = "most" if is_error(metric) else "least"
    if bound is not None and (value > bound if is_error(metric) else value < bound):
        raise ValueError(f"expected {metric} of at {side} {bound:g}, got {value:.4f}")
