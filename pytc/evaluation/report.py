"""evaluate.py: predictions and the truth in; metrics.json, sweep.csv, sweep.png, report.html out.

No torch.
"""

import base64
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import jinja2

from pytc.checks import require
from pytc.commands import EvaluateConfig, command_line
from pytc.console import print_table
from pytc.evaluation.inputs import Inputs, find_predictions, gather
from pytc.evaluation.pictures import ClassMatching, Matching, Picture, draw, draw_sweep
from pytc.evaluation.sweep import Sweep
from pytc.io.results import prediction_key
from pytc.io.skeleton import Skeleton
from pytc.io.volume import create_volume, open_volume
from pytc.metrics.overlap import contingency_table
from pytc.metrics.skeleton import SkeletonMetrics
from pytc.metrics.table import BY_CLASS, METRICS, headlines, is_metric, metric
from pytc.progress import announce_compilation
from pytc.runs import replacing, require_writable, write_json
from pytc.segmentation.edges import ranges_above

DECODING = ("threshold", "min_size", "grow")  # attributes of a stored segmentation
BESIDE_FIGURES = ("threshold", "merge_tolerance_nodes", "min_size", "grow", "mean_over")
WORST = 10  # skeletons in the table of those that lose most
OF_A_SWEEP = ("sweep.csv", "exact_sweep.csv", "sweep.png")
BEST = "best_segmentation.zarr"  # of a sweep
ONE = "segmentation_at_threshold.zarr"  # of a single threshold


def evaluate(config: EvaluateConfig) -> dict[str, dict[str, Any]]:
    """Score every volume that a config means; returns what the metrics.json of each holds, by name.

    Of several volumes there is a summary, too, beside their folders. ValueError, before any work,
    where inputs lack or do not fit, and after it where the metric of a volume is worse than
    config.require.
    """
    if config.backend == "funlib":
        # optional: fails here, before any work, where it is missing
        import pytc.evaluation.crosscheck  # noqa: F401
    announce_compilation()
    folders = find_predictions(config)
    several = len(folders) > 1
    inputs = {}
    for folder in folders:
        name = folder.name if folder else Path(config.prediction).name
        output = str(Path(config.output) / name) if several and config.output else config.output
        inputs[name] = gather(replace(config, output=output), folder)
    for opened in inputs.values():
        require_writable(Path(opened.config.output))
    scored = {name: evaluate_volume(opened) for name, opened in inputs.items()}
    if several:
        _summarise(inputs, scored)
    for name, figures in scored.items():
        _require_good(config.require, figures, f" of {name}" if several else "")
    return scored


def evaluate_volume(inputs: Inputs) -> dict[str, Any]:
    """Score one prediction, write figures and report into its output folder.

    Returns what metrics.json holds. A prediction is segmented at each threshold, and the
    segmentation that is best by the metric is drawn and stored; a segmentation is scored as it is.
    """
    config = inputs.config
    for part, path in inputs.paths.items():
        print(f"{part + ':':14}{path}", flush=True)
    labels, swept, segmentation = inputs.read_labels(), None, inputs.prediction
    if inputs.channels:
        count = len(config.thresholds)
        words = f"{count} thresholds" if count > 1 else f"threshold {config.thresholds[0]:g}"
        print(f"segmenting {segmentation.spatial_shape} voxels at {words}", flush=True)
        values = segmentation.read_channels(inputs.channels)
        swept = inputs.sweep(values, labels)
        segmentation = inputs.segment(values, swept["best_threshold"])
    of_classes = inputs.kind.truth == "classes"
    overlaps = matching = None
    if labels is not None:
        overlaps = None if of_classes else contingency_table(labels, segmentation)
        matching = ClassMatching() if of_classes else Matching(overlaps, inputs.kind.task)
    figures = dict(swept["best_metrics"]) if swept else inputs.score(labels, overlaps)
    expected = f"--metric of a class that is in the labels or in {inputs.prediction.path}"
    require(config.metric in figures, expected, config.metric)
    figures.pop("threshold", None)  # a setting
    if config.backend == "funlib":
        from pytc.evaluation.crosscheck import cross_check

        whole = labels if labels is None else labels[...]
        figures |= cross_check(figures, inputs.skeleton, whole, segmentation[...])
    settings = _settings(inputs, swept)
    pictures = draw(
        segmentation,
        inputs.prediction.spatial_axes,
        config.voxel_size or (1.0, 1.0, 1.0),
        labels=labels,
        image=inputs.volumes.get("image"),
        matching=matching,
    )
    _write(inputs, figures, settings, swept, segmentation, pictures)
    _print_figures(f"{inputs.title}: {summary(settings)}", figures, config.metric, swept)
    _print_results(inputs, swept)
    return figures | settings


def _require_good(bound: float | None, figures: dict[str, Any], of_which: str) -> None:
    """ValueError where the metric that was asked for is worse than the bound."""
    if bound is None:
        return
    name = figures["metric"]
    lower = metric(name).lower_is_better
    side = "most" if lower else "least"
    good = figures[name] <= bound if lower else figures[name] >= bound
    if not good:
        expected = f"expected {name}{of_which} of at {side} {bound:g}"
        raise ValueError(f"{expected}, got {figures[name]:.4f}")


def _settings(inputs: Inputs, swept: Sweep | None) -> dict[str, Any]:
    """What the figures depend on, flat."""
    config, stored, kind = inputs.config, inputs.prediction.attributes, inputs.kind
    if swept:
        stored = {"threshold": swept["best_threshold"]}
        if kind.task == "instance":
            stored |= {"min_size": config.min_size, "grow": config.grow}
    settings = {"task": kind.task, "target": kind.name, "metric": config.metric} | {
        key: stored[key] for key in DECODING if key in stored
    }
    if kind.truth == "classes":
        settings["mean_over"] = "the classes present but class 0"
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
        known={name: metric(name) for name in figures if is_metric(name)},
        classes=by_class(figures),
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
    if swept:
        attributes = {key: settings[key] for key in DECODING if key in settings}
        attributes |= {"prediction_key": prediction_key(inputs.prediction.path)}
        with (
            replacing(output / (BEST if config.sweeps else ONE)) as path,
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
    if config.sweeps:  # anything else leaves what a sweep has found
        for name in OF_A_SWEEP:
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


def _print_figures(title: str, figures: dict[str, float], chosen: str, swept: Sweep | None) -> None:
    """The headlines of each threshold, the best one's in green, or of the segmentation."""
    names = headlines(figures, chosen)
    rows = [_cells(figures, names)]
    best = None
    if swept:
        rows = [[_shown(row["threshold"]), *_cells(row, names)] for row in swept["all_results"]]
        best = next(n for n, row in enumerate(swept["all_results"]) if row is swept["best_metrics"])
    heads = [metric(name).short for name in names]
    print_table(["threshold", *heads] if swept else heads, rows, title=title, best=best)
    classes = by_class(figures)
    if classes:
        rows = [[str(number), *_cells(row, list(row))] for number, row in classes.items()]
        names_of_class = list(next(iter(classes.values())))
        print_table(["class", *(metric(name).short for name in names_of_class)], rows)
    width = max(map(len, heads))
    for name, head in zip(names, heads):
        print(f"  {head:{width}}  {metric(name).meaning}", flush=True)


def by_class(figures: dict[str, float]) -> dict[int, dict[str, float]]:
    """Figures of each class by its number, e.g. {3: {"jaccard": 0.8, "dice": 0.9}}; of classes."""
    found: dict[int, dict[str, float]] = {}
    for name, value in figures.items():
        if parts := BY_CLASS.fullmatch(name):
            found.setdefault(int(parts[2]), {})[parts[1]] = value
    return found


def _cells(figures: dict[str, float], names: Sequence[str]) -> list[str]:
    """Each figure with its decimals, a dash where there is none."""
    return [
        f"{figures[name]:,.{metric(name).decimals}f}" if name in figures else "-" for name in names
    ]


def _print_results(inputs: Inputs, swept: Sweep | None) -> None:
    """Where the results lie, and how infer.py makes the best segmentation."""
    config, output = inputs.config, Path(inputs.config.output)
    if config.sweeps and swept:
        thresholds = [row["threshold"] for row in swept["all_results"]]
        best = swept["best_threshold"]
        if best in (min(thresholds), max(thresholds)) and not swept["curve"]:
            print("the best threshold lies at an end of the sweep: others may be better")
        print(f"best segmentation: {output / BEST}")
        if inputs.infer:
            print(f"infer.py makes it by: {_infer_line(inputs, best)}")
    elif swept:
        print(f"segmentation: {output / ONE}")
    elif (output / BEST).is_dir():
        _print_earlier_sweep(inputs, output)
    print(f"report: {output / 'report.html'}", flush=True)


def _print_earlier_sweep(inputs: Inputs, output: Path) -> None:
    """What an earlier sweep has left, and whether it is of the same prediction."""
    attributes = open_volume(output / BEST).attributes
    print(f"of an earlier sweep: {output / BEST}, threshold {attributes['threshold']:.4f}")
    prediction = Path(inputs.prediction.path).with_name(f"{inputs.kind.prediction}.zarr")
    if attributes.get("prediction_key") != prediction_key(str(prediction)):
        print("  it is of an earlier prediction; --sweep makes it anew")


def _infer_line(inputs: Inputs, threshold: float) -> str:
    """The command that stores the best segmentation as segmentation.zarr beside the prediction."""
    dtype = inputs.prediction.dtype
    words = [*inputs.infer, "--segmentation.threshold", repr(shortest(threshold, dtype))]
    if inputs.kind.task == "instance":
        asked = {"min_size": inputs.config.min_size, "grow": inputs.config.grow}
        if asked["min_size"] != inputs.defaults["min_size"]:
            words += ["--segmentation.min-size", str(asked["min_size"])]
        if asked["grow"] != inputs.defaults["grow"]:
            words.append(f"--segmentation.{'grow' if asked['grow'] else 'no-grow'}")
    return command_line("infer.py", words)


def shortest(threshold: float, dtype: Any) -> float:
    """The number of the fewest digits that no stored value of `dtype` tells from the threshold."""
    exact = ranges_above(threshold, dtype)
    for digits in range(2, 17):
        rounded = float(f"{threshold:.{digits}g}")
        if 0 <= rounded <= 1 and ranges_above(rounded, dtype) == exact:
            return rounded
    return threshold


def _summarise(inputs: dict[str, Inputs], scored: dict[str, dict[str, Any]]) -> None:
    """The volumes beside one another, and the mean of the figures that all of them have."""
    everywhere = [name for name in METRICS if all(name in figures for figures in scored.values())]
    mean = {
        name: sum(figures[name] for figures in scored.values()) / len(scored) for name in everywhere
    }
    anywhere = {name: 0.0 for name in METRICS if any(name in f for f in scored.values())}
    names = headlines(anywhere, next(iter(scored.values()))["metric"])
    rows = [
        [volume, _shown(figures.get("threshold", "-")), *_cells(figures, names)]
        for volume, figures in scored.items()
    ]
    rows.append(["mean", "", *_cells(mean, names)])
    heads = [metric(name).short for name in names]
    print_table(["volume", "threshold", *heads], rows, title="all volumes")
    parent = Path(next(iter(inputs.values())).config.output).parent
    write_json(parent / "summary.json", {"mean": mean, "volumes": scored})
    print(f"summary: {parent / 'summary.json'}", flush=True)
