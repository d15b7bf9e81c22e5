"""Evaluation from open files to metrics.json, sweep.csv, sweep.png and report.html. No torch."""

import base64
import csv
import io
import logging
import os
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from importlib import import_module
from pathlib import Path
from typing import Any

import jinja2
import numpy as np

from pytc.checks import require
from pytc.config import SegmentationConfig
from pytc.evaluation.errors import write_errors
from pytc.evaluation.findings import ERRORS, OBJECTS, Findings, find
from pytc.evaluation.inputs import Inputs, Mode
from pytc.evaluation.pictures import ClassMatching, Matching, Picture, draw, draw_sweep
from pytc.evaluation.printing import (
    BEST_SEGMENTATION,
    OF_OBJECTS,
    SEGMENTATION_AT_ONE,
    by_class,
    in_words,
    plateau_in_words,
    print_results,
    print_scores,
    print_summary,
    print_transfers,
)
from pytc.evaluation.scoring import (
    overlaps,
    read_prediction,
    score_segmentation,
    segment,
    sweep_thresholds,
    sweep_volume,
)
from pytc.evaluation.sweep import Curve, Sweep, keep_row, with_row
from pytc.evaluation.together import best_together, transfers
from pytc.evaluation.truth import read_truth
from pytc.io.results import prediction_key
from pytc.io.skeleton import Skeleton
from pytc.io.volume import Volume, create_volume
from pytc.metrics.instances import NAMED, write_objects
from pytc.metrics.overlap import Contingency
from pytc.metrics.skeleton import SkeletonMetrics
from pytc.metrics.table import METRICS, headlines, is_metric, metric
from pytc.renames import renamed
from pytc.runs import replacing, require_writable, write_json
from pytc.segmentation.decode import settings_of

LOGGER = logging.getLogger(__name__)

WORK = ".work"  # in an output folder: what is needed on the way, of volumes beyond memory
N_WORST = 10  # skeletons in the table of those that lose most
OF_A_SWEEP = ("sweep.csv", "exact_sweep.csv", "sweep.png")


@dataclass(frozen=True)
class Case:
    """One volume to evaluate."""

    name: str
    inputs: Inputs
    output: Path  # folder for scores and report


@dataclass(frozen=True)
class Evaluation:
    """What was found for one volume."""

    scores: dict[str, float]
    settings: dict[str, Any]  # what the scores depend on, flat
    sweep: Sweep | None  # None where a segmentation is scored as it is
    segmentation: np.ndarray | Volume  # (Z, Y, X): the best one of a sweep
    pictures: list[list[Picture]]
    findings: Findings

    @property
    def metrics(self) -> dict[str, Any]:
        """What metrics.json holds."""
        return self.scores | self.findings.scores | self.settings


def evaluate_cases(
    cases: Sequence[Case],
    *,
    bound: float | None = None,
    backend: str = "pytc",
    cleft_distances: bool = False,
) -> dict[str, dict[str, Any]]:
    """Score each volume, and write its scores and report into its output folder.

    In a sweep over several volumes, one threshold is chosen on all of them together.

    Args:
        cases: the volumes; of several there is a summary, too, beside their folders.
        bound: what the metric of each volume must reach at least, or at most if less is better.
        backend: "pytc", or "funlib" to count the scores a second time by funlib.evaluate.
        cleft_distances: score masks by `pytc.metrics.semantic.cleft_distances`, too.

    Returns:
        {name: what metrics.json holds}.

    Raises:
        ValueError: before any work, where an output folder cannot be written or funlib.evaluate is
            missing, or voxels have no size for distances; after it, where a metric does not reach
            the bound.
    """
    if backend == "funlib":
        import_module("pytc.evaluation.crosscheck")
    for case in cases:
        require_writable(case.output)
        if cleft_distances:
            size = case.inputs.voxel_size
            require(size is not None, f"a --voxel-size of {case.name} for distances", size)
    sweeps: dict[str, Sweep] = {}
    threshold = None
    if len(cases) > 1 and all(case.inputs.decoding.mode is Mode.SWEEP for case in cases):
        for case in cases:
            _announce(case.inputs)
            sweeps[case.name] = sweep_volume(case.inputs, case.output / WORK)
        threshold = best_together(list(sweeps.values()))
    evaluations = {
        case.name: evaluate_volume(
            case.inputs,
            case.output,
            backend,
            sweep=sweeps.get(case.name),
            threshold=threshold,
            cleft_distances=cleft_distances,
        )
        for case in cases
    }
    metrics = {name: evaluation.metrics for name, evaluation in evaluations.items()}
    if len(cases) > 1:
        _summarise(metrics, sweeps, cases[0].output.parent)
    for name, of_volume in metrics.items():
        _require_good(of_volume, bound, f" of {name}" if len(cases) > 1 else "")
    return metrics


def evaluate_volume(
    inputs: Inputs,
    output: Path,
    backend: str = "pytc",
    *,
    sweep: Sweep | None = None,
    threshold: float | None = None,
    cleft_distances: bool = False,
) -> Evaluation:
    """Score one prediction; write its scores and report into the output folder.

    A prediction is segmented at each threshold, and the segmentation that is best by the metric is
    drawn and stored. A segmentation is scored as it is.

    Args:
        sweep: what `sweep_volume` returns, if it was called before.
        threshold: the one to keep, where it was not chosen on this volume alone.
    """
    for part, path in inputs.paths.items():
        LOGGER.info(f"{part + ':':14}{path}")
    labels = read_truth(inputs)
    chosen_on = "this volume" if threshold is None else "all volumes together"
    segmentation: np.ndarray | Volume = inputs.array
    if inputs.decoding.segments:
        decoded = read_prediction(inputs, output / WORK)
        if sweep is None:
            _announce(inputs)
            sweep = sweep_thresholds(inputs, decoded, labels, output / WORK)
        if threshold is None:
            threshold = sweep["best_threshold"]
        segmentation = segment(inputs, decoded, threshold, output / WORK / "best.zarr")
        del decoded
    table = overlaps(inputs, labels, segmentation)
    if sweep is None:
        scores = score_segmentation(inputs, labels, table, segmentation)
    else:
        assert threshold is not None
        if all(row["threshold"] != threshold for row in sweep["all_results"]):
            scored = score_segmentation(inputs, labels, table, segmentation)
            sweep = with_row(sweep, {"threshold": threshold, **scored})
        sweep = keep_row(sweep, threshold)
        scores = dict(sweep["best_metrics"])
        scores.pop("threshold")  # a setting
    expected = f"--metric of a class that is in the labels or in {inputs.array.path}"
    require(inputs.metric in scores, expected, inputs.metric)
    if backend == "funlib":
        from pytc.evaluation.crosscheck import cross_check

        whole = None if labels is None else labels[...]
        scores |= cross_check(scores, inputs.skeleton, whole, segmentation[...])

    pictures = draw(
        segmentation,
        inputs.array.spatial_axes,
        inputs.voxel_size or (1.0, 1.0, 1.0),
        labels=labels,
        image=inputs.image,
        matching=_matching(inputs, table),
    )
    settings = _settings(inputs, sweep) | {"backend": backend, **inputs.paths}
    settings["output"] = str(output)
    if inputs.prediction.weights is not None:
        settings["weights"] = inputs.prediction.weights
    if inputs.decoding.mode is Mode.SWEEP:
        settings["threshold_chosen_on"] = chosen_on
    findings = find(
        inputs,
        table,
        labels,
        segmentation,
        output,
        settings,
        cleft_distances=cleft_distances,
    )
    evaluation = Evaluation(scores, settings, sweep, segmentation, pictures, findings)
    _write(inputs, evaluation, output)
    shutil.rmtree(output / WORK, ignore_errors=True)
    title = f"{inputs.prediction.title}: {in_words(settings)}"
    print_scores(title, scores, inputs.metric, sweep)
    print_results(inputs, sweep, output)
    return evaluation


def _matching(inputs: Inputs, table: Contingency | None) -> Matching | ClassMatching | None:
    """How segments are coloured by the labels; None without labels."""
    if inputs.labels is None:
        return None
    return ClassMatching() if table is None else Matching(table, inputs.kind.task)


def _announce(inputs: Inputs) -> None:
    thresholds = inputs.decoding.thresholds
    words = f"{len(thresholds)} thresholds"
    if len(thresholds) == 1:
        words = f"threshold {thresholds[0]:g}"
    LOGGER.info(f"segmenting {inputs.array.spatial_shape} voxels at {words}")


def _require_good(metrics: dict[str, Any], bound: float | None, of_volume: str) -> None:
    """ValueError where the metric that was asked for is worse than the bound."""
    if bound is None:
        return
    name = metrics["metric"]
    value = metrics[name]
    if metric(name).lower_is_better:
        is_good, side = value <= bound, "most"
    else:
        is_good, side = value >= bound, "least"
    if not is_good:
        raise ValueError(
            f"expected {name}{of_volume} of at {side} {bound:g}, got {metrics[name]:.4f}"
        )


def _settings(inputs: Inputs, sweep: Sweep | None) -> dict[str, Any]:
    """What the scores depend on, but for files and folders."""
    kind = inputs.kind
    settings: dict[str, Any] = {"task": kind.task, "target": kind.name, "metric": inputs.metric}
    settings |= _decoded_by(inputs, sweep)
    if kind.truth == "classes":
        settings["mean_over"] = "the classes present but class 0"
    if inputs.skeleton is not None:
        settings["merge_tolerance_nodes"] = 0  # strict: one node on a foreign segment is a merger
    return settings


def _decoded_by(inputs: Inputs, sweep: Sweep | None) -> dict[str, Any]:
    """What the segmentation was decoded by; also the attributes with which it is stored."""
    if sweep is None:
        return _noted_decoding(inputs.array.attributes)
    if inputs.kind.task == "instance":
        return settings_of(inputs.decoding.at(sweep["best_threshold"]))
    return {"threshold": sweep["best_threshold"]}


def _noted_decoding(attributes: dict[str, Any]) -> dict[str, Any]:
    """What a stored segmentation says of its decoding; nothing if another program made it."""
    names = {field.name for field in fields(SegmentationConfig)}
    now: dict[str, Any] = renamed({"segmentation": attributes})["segmentation"]
    return {name: value for name, value in now.items() if name in names}


def _write(inputs: Inputs, evaluation: Evaluation, output: Path) -> None:
    """Replace what an earlier evaluation left in the output folder.

    Each file is written in one piece, metrics.json last.
    """
    sweep = evaluation.sweep
    files = {}
    curves = None
    if sweep is not None and len(sweep["all_results"]) > 1:
        curves = draw_sweep(sweep)
        files = {"sweep.png": curves, "sweep.csv": _csv(sweep["all_results"])}
        if sweep["curve"]:
            files["exact_sweep.csv"] = _csv_of_columns(sweep["curve"])
    findings = evaluation.findings
    if findings.errors or (output / ERRORS).exists():  # an earlier one is no longer true
        files[ERRORS] = write_errors(findings.errors, inputs.array.spatial_axes)
    (output / OBJECTS).unlink(missing_ok=True)
    if findings.objects:
        files[OBJECTS] = write_objects(findings.objects, inputs.voxel_size)
    files["report.html"] = _page(inputs, evaluation, curves).encode()
    output.mkdir(parents=True, exist_ok=True)
    if sweep is not None:
        _store_segmentation(inputs, evaluation, output)
    if inputs.decoding.mode is Mode.SWEEP:  # other modes leave what a sweep has found
        for name in OF_A_SWEEP:
            (output / name).unlink(missing_ok=True)
    for name, content in files.items():
        with replacing(output / name) as temporary:
            temporary.write_bytes(content)
    write_json(output / "metrics.json", evaluation.metrics)


def _page(inputs: Inputs, evaluation: Evaluation, curves: bytes | None) -> str:
    """report.html."""
    scores = evaluation.scores
    worst = []
    if inputs.skeleton is not None:
        worst = worst_skeletons(inputs.skeleton, evaluation.segmentation)
    template = page_environment().get_template("report.html")
    return template.render(
        title=inputs.prediction.title,
        subtitle=in_words(evaluation.settings),
        scores=scores | evaluation.findings.scores,
        findings=evaluation.findings,
        metric=inputs.metric,
        sweep=evaluation.sweep,
        plateau=[] if evaluation.sweep is None else plateau_in_words(evaluation.sweep),
        headlines=headlines(scores, inputs.metric),
        rows={name: metric(name) for name in scores if is_metric(name)},
        classes=by_class(scores),
        of_objects=OF_OBJECTS,
        named_ious=NAMED,
        curves=curves,
        pictures=evaluation.pictures,
        worst=worst,
        settings=evaluation.settings,
        axes=inputs.array.spatial_axes,
        attribution=inputs.prediction.attribution,
    )


def page_environment() -> jinja2.Environment:
    """The templates of this folder; `png` is a filter that puts a picture into the page."""
    loader = jinja2.PackageLoader("pytc", "evaluation")
    environment = jinja2.Environment(loader=loader, autoescape=True)
    environment.filters["png"] = _data_url
    return environment


def _data_url(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"


def _store_segmentation(inputs: Inputs, evaluation: Evaluation, output: Path) -> None:
    """The segmentation that was scored, with what it was decoded by as attributes."""
    segmentation = evaluation.segmentation
    name = BEST_SEGMENTATION if inputs.decoding.mode is Mode.SWEEP else SEGMENTATION_AT_ONE
    if isinstance(segmentation, Volume):  # it was written to the work folder
        with replacing(output / name) as path:
            os.rename(segmentation.path, path)
        return
    attributes = _decoded_by(inputs, evaluation.sweep)
    attributes["prediction_key"] = prediction_key(inputs.array.path)
    with (
        replacing(output / name) as path,
        create_volume(
            path,
            segmentation.shape,
            segmentation.dtype,
            axes=inputs.array.spatial_axes,
            voxel_size=inputs.voxel_size,
            attributes=attributes,
        ) as volume,
    ):
        volume[...] = segmentation


def worst_skeletons(skeleton: Skeleton, segmentation: np.ndarray | Volume) -> list[dict[str, Any]]:
    """The N_WORST skeletons that lose most of their length: where to look first.

    Returns:
        The rows of `SkeletonMetrics.compute`, each with "merged_with": the ids of the skeletons
        with which it shares a segment.
    """
    details = SkeletonMetrics(skeleton).compute(segmentation, return_details=True)
    partners: dict[int, set[int]] = {}
    for segment_id, skeleton_ids in details["merge_stats"].items():
        if segment_id == 0:  # the background merges nothing
            continue
        for skeleton_id in skeleton_ids:
            partners.setdefault(skeleton_id, set()).update(skeleton_ids)
    losing = [row for row in details["skeletons"] if row["run_length"] < row["length"]]
    losing.sort(key=lambda row: row["run_length"] - row["length"])
    worst = []
    for row in losing[:N_WORST]:
        merged_with = partners.get(row["id"], set()) - {row["id"]}
        worst.append(row | {"merged_with": sorted(merged_with)})
    return worst


def _csv(rows: Sequence[dict[str, float]]) -> bytes:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def _csv_of_columns(columns: Curve) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(zip(*(column.tolist() for column in columns.values())))
    return text.getvalue().encode()


def _summarise(metrics: dict[str, dict[str, Any]], sweeps: dict[str, Sweep], parent: Path) -> None:
    """The volumes beside one another, and the mean of the scores that all of them have.

    Args:
        sweeps: of each volume, if their threshold was chosen together; otherwise empty.
    """
    common = [name for name in METRICS if all(name in scores for scores in metrics.values())]
    mean = {
        name: sum(scores[name] for scores in metrics.values()) / len(metrics) for name in common
    }
    print_summary(metrics, mean)
    summary: dict[str, Any] = {"mean": mean, "volumes": metrics}
    if sweeps:
        left_out = transfers(sweeps)
        print_transfers(left_out, next(iter(sweeps.values()))["metric"])
        summary["leave_one_out"] = {
            name: asdict(transfer) | {"regret": transfer.regret}
            for name, transfer in left_out.items()
        }
    write_json(parent / "summary.json", summary)
    print(f"summary: {parent / 'summary.json'}", flush=True)
