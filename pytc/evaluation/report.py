"""evaluate.py: from a prediction and the truth to figures and a report.

Writes metrics.json, sweep.csv, sweep.png and report.html. No torch.
"""

import base64
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2
import rich.table

from pytc.commands import EvaluateConfig
from pytc.evaluation.inputs import Inputs, gather
from pytc.evaluation.pictures import Matching, Picture, draw, draw_sweep
from pytc.evaluation.sweep import Sweep
from pytc.io.skeleton import Skeleton
from pytc.io.volume import create_volume
from pytc.metrics.overlap import contingency_table
from pytc.metrics.skeleton import SkeletonMetrics
from pytc.metrics.table import METRICS, headlines, metric
from pytc.progress import announce_compilation
from pytc.runs import replacing, require_writable, write_json

DECODING = ("threshold", "min_size", "grow")  # attributes of a stored segmentation
BESIDE_FIGURES = ("threshold", "merge_tolerance_nodes", "min_size", "grow")
WORST = 10  # skeletons in the table of those that lose most
FILES = ("metrics.json", "report.html", "sweep.csv", "exact_sweep.csv", "sweep.png")


def evaluate(config: EvaluateConfig) -> dict[str, Any]:
    """Score a prediction, write figures and report, and return what metrics.json holds.

    Affinities are segmented at each threshold, and the segmentation that is best by the metric is
    drawn and stored; a segmentation is scored as it is. ValueError, before any work, where inputs
    lack or do not fit, and after it where the metric is worse than config.require.
    """
    if config.backend == "funlib":
        # optional: fails here, before any work, where it is missing
        from pytc.evaluation.crosscheck import cross_check
    announce_compilation()
    inputs = gather(config)
    config = inputs.config
    require_writable(Path(config.output))
    for part, path in inputs.paths.items():
        print(f"{part + ':':14}{path}", flush=True)
    labels, swept, segmentation = inputs.read_labels(), None, inputs.prediction
    if inputs.channels:
        count = len(config.thresholds)
        print(f"segmenting {segmentation.spatial_shape} voxels at {count} thresholds", flush=True)
        values = segmentation.read_channels(inputs.channels)
        swept = inputs.sweep(values, labels)
        segmentation = inputs.segment(values, swept["best_threshold"])
    overlaps = None if labels is None else contingency_table(labels, segmentation)
    figures = dict(swept["best_metrics"]) if swept else inputs.score(labels, overlaps)
    figures.pop("threshold", None)  # a setting
    if config.backend == "funlib":
        figures |= cross_check(
            figures, inputs.skeleton, labels if labels is None else labels[...], segmentation[...]
        )
    settings = _settings(inputs, swept)
    pictures = draw(
        segmentation,
        inputs.prediction.spatial_axes,
        config.voxel_size or (1.0, 1.0, 1.0),
        labels=labels,
        image=inputs.volumes.get("image"),
        matching=overlaps and Matching(overlaps, config.task),
    )
    _write(inputs, figures, settings, swept, segmentation, pictures)
    _print(f"{inputs.title}: {summary(settings)}", figures, config.metric, swept)
    print(f"report: {Path(config.output) / 'report.html'}", flush=True)
    sign, side = (-1, "most") if metric(config.metric).lower_is_better else (1, "least")
    if config.require is not None and sign * figures[config.metric] < sign * config.require:
        raise ValueError(
            f"expected {config.metric} of at {side} {config.require:g}, "
            f"got {figures[config.metric]:.4f}"
        )
    return figures | settings


def _settings(inputs: Inputs, swept: Sweep | None) -> dict[str, Any]:
    """What the figures depend on, flat."""
    config, stored = inputs.config, inputs.prediction.attributes
    if swept:
        stored = {"threshold": swept["best_threshold"]}
        stored |= (
            {"min_size": config.min_size, "grow": config.grow} if config.task == "instance" else {}
        )
    settings = {"task": config.task, "metric": config.metric} | {
        key: stored[key] for key in DECODING if key in stored
    }
    if inputs.skeleton is not None:
        settings["merge_tolerance_nodes"] = 0  # strict: one node on a foreign segment is a merger
    return settings | {"backend": config.backend, **inputs.paths, "output": config.output}


def summary(settings: dict[str, Any]) -> str:
    """The settings that belong beside every figure, in words."""
    words = [
        f"{key.replace('_', ' ')} {_shown(settings[key])}"
        for key in BESIDE_FIGURES
        if key in settings
    ]
    return ", ".join((settings["task"], *words))


def _shown(value: float) -> str:
    return f"{value:.4f}" if isinstance(value, float) else str(value)


def _write(
    inputs: Inputs,
    figures: dict[str, float],
    settings: dict[str, Any],
    swept: Sweep | None,
    segmentation: Any,
    pictures: list[list[Picture]],
) -> None:
    """Replace what an earlier evaluation left in the output folder.

    Each file is written in one piece, metrics.json last.
    """
    config, output, axes = inputs.config, Path(inputs.config.output), inputs.prediction.spatial_axes
    curves = draw_sweep(swept) if swept and len(swept["all_results"]) > 1 else None
    worst = worst_skeletons(inputs.skeleton, segmentation) if inputs.skeleton is not None else []
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("pytc", "evaluation"), autoescape=True
    )
    environment.filters["png"] = lambda png: (
        f"data:image/png;base64,{base64.b64encode(png).decode()}"
    )
    page = environment.get_template("report.html").render(
        title=inputs.title,
        subtitle=summary(settings),
        figures=figures,
        metric=config.metric,
        sweep=swept,
        headlines=headlines(figures, config.metric),
        known=METRICS,
        curves=curves,
        pictures=pictures,
        worst=worst,
        settings=settings,
        axes=axes,
        attribution=config.attribution,
    )
    files = {"report.html": page.encode()}
    if curves:
        files |= {"sweep.png": curves, "sweep.csv": _csv(swept["all_results"])}
        files |= {"exact_sweep.csv": _csv(swept["curve"])} if swept["curve"] else {}
    output.mkdir(parents=True, exist_ok=True)
    best = output / "best_segmentation.zarr"
    if swept:
        attributes = {key: settings[key] for key in DECODING if key in settings}
        with (
            replacing(best) as path,
            create_volume(
                path,
                segmentation.shape,
                segmentation.dtype,
                axes=axes,
                voxel_size=config.voxel_size,
                attributes=attributes,
            ) as volume,
        ):
            volume[...] = segmentation
    elif Path(inputs.prediction.path).resolve() != best.resolve():
        shutil.rmtree(best, ignore_errors=True)
    for name in FILES:
        (output / name).unlink(missing_ok=True)
    for name, content in files.items():
        with replacing(output / name) as temporary:
            temporary.write_bytes(content)
    write_json(output / "metrics.json", figures | settings)


def worst_skeletons(skeleton: Skeleton, segmentation: Any) -> list[dict[str, Any]]:
    """Details of the WORST skeletons that lose most of their length: where to look first.

    With the skeletons that they merge with.
    """
    details = SkeletonMetrics(skeleton).compute(segmentation, return_details=True)
    losing = [row for row in details["skeletons"] if row["run_length"] < row["length"]]
    mergers = [set(ids) for segment, ids in details["merge_stats"].items() if segment > 0]
    return [
        row
        | {
            "merged_with": sorted(
                set().union(*(ids for ids in mergers if row["id"] in ids)) - {row["id"]}
            )
        }
        for row in sorted(losing, key=lambda row: row["run_length"] - row["length"])[:WORST]
    ]


def _csv(rows: Sequence[dict[str, float]]) -> bytes:
    return "".join(
        ",".join(map(str, line)) + "\n" for line in (rows[0], *(row.values() for row in rows))
    ).encode()


def _print(title: str, figures: dict[str, float], chosen: str, swept: Sweep | None) -> None:
    """The headlines of each threshold, the best one's in green, or of the segmentation."""
    columns = [*(["threshold"] if swept else []), *headlines(figures, chosen)]
    shown = rich.table.Table(*columns, title=title, title_justify="left")
    for row in swept["all_results"] if swept else [figures]:
        best = swept is not None and row is swept["best_metrics"]
        shown.add_row(*(_shown(row[key]) for key in columns), style="bold green" if best else "")
    rich.print(shown)
