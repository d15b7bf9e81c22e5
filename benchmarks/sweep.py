"""Sweeps of 13 thresholds over one affinity volume, in units of one decode.

    python benchmarks/sweep.py                 (NUMBA_NUM_THREADS=2 for the times in the README)

Synthetic neurites (by seed) and their skeletons, each edge cut into three. Two volumes of float16
affinities: `sure` is sure inside of a neurite, unsure at its surface and has noise of two scales,
as the output of a well trained network; `fair` is that of the other benchmarks, whose noise is
white. One decode is `connected_components_3d` at the middle one of the thresholds. Prints a table
in Markdown: the fastest of several rounds, in which the routes take turns, in s, and in brackets
how many decodes that is. Rows of a sweep that differ from those of decoding afresh are an error.
"""

import contextlib
import io
import sys
from functools import partial

import common
import numpy as np

from pytc.config import SegmentationConfig
from pytc.evaluation.exact import exact_sweep
from pytc.evaluation.sweep import DEFAULT_THRESHOLDS, threshold_sweep
from pytc.io.synthetic.fields import smooth_noise
from pytc.metrics.instances import dense_metrics
from pytc.metrics.overlap import contingency_table
from pytc.metrics.skeleton import SkeletonMetrics
from pytc.segmentation.connected_components import connected_components_3d
from pytc.segmentation.watershed import seeded_watershed

try:
    import cc3d
except ImportError as error:
    raise ImportError(f"{error.name} {common.EXTRA}") from error

FILLED = SegmentationConfig(method="components_watershed")
MIDDLE = sorted(DEFAULT_THRESHOLDS)[len(DEFAULT_THRESHOLDS) // 2]


def sure_affinities(labels: np.ndarray, seed: int) -> np.ndarray:
    """(3, Z, Y, X) float16: logits of 5 within and -4 between neurites, with noise.

    The noise has two scales, of one voxel and of six.
    """
    rng = np.random.default_rng(seed)
    affinities = np.zeros((3, *labels.shape), np.float16)
    coarse = smooth_noise(labels.shape, (6.0, 6.0, 6.0), rng)
    coarse *= 0.9 / coarse.std()
    for axis, values in enumerate(affinities):
        same = labels == np.roll(labels, -1, axis)
        logits = np.where(same, np.float32(5), np.float32(-4)) + coarse
        logits += 0.8 * rng.standard_normal(labels.shape, np.float32)
        values[...] = 1 / (1 + np.exp(-logits))
    return affinities


def scored_afresh(affinities, score, *, watershed=False, decode=connected_components_3d):
    """The scores of each threshold, decoded and counted on its own."""
    rows = []
    for threshold in DEFAULT_THRESHOLDS:
        segmentation = decode(affinities, threshold)
        if watershed:
            segmentation = seeded_watershed(segmentation, affinities)
        rows.append(dict(score(segmentation)))
    return rows


def times_of(routes, affinities, options) -> dict[str, float]:
    """{name: seconds of the fastest call}; ends the script where equal routes differ.

    routes: {name: (call, is it slow, the route with equal rows)}.
    """
    with contextlib.redirect_stdout(io.StringIO()):
        results = {name: call(affinities) for name, (call, _, _) in routes.items()}  # compiles
    for name, (_, _, equal) in routes.items():
        if equal and results[name] != results[equal]:
            sys.exit(f"{name} differs from {equal}")
    times = {name: [] for name in routes}
    for repeat in range(max(options.repeats, options.slow_repeats)):
        for name, (call, slow, _) in routes.items():
            if repeat < (options.slow_repeats if slow else options.repeats):
                times[name].append(common.seconds(partial(call, affinities), 1))
    return {name: min(taken) for name, taken in times.items()}


def main() -> None:
    parser = common.parser(__doc__, size=250, repeats=5)
    parser.add_argument(
        "--slow-repeats", type=int, default=1, help="of routes that take tens of decodes"
    )
    options = parser.parse_args()
    truth, skeleton = common.synthetic_tissue(options.size, options.seed)
    skeleton = common.cut(skeleton, 3)
    metrics = SkeletonMetrics(skeleton)
    volumes = {
        "sure": sure_affinities(truth, options.seed + 1),
        "fair": common.synthetic_affinities(truth, options.seed),
    }

    def afresh(affinities, **named):
        return scored_afresh(affinities, metrics.compute, **named)

    def afresh_dense(affinities, **named):
        def score(segmentation):
            return dense_metrics(contingency_table(truth, segmentation))

        return scored_afresh(affinities, score, **named)

    def sweep(affinities, *, dense=False, **named):
        rows = threshold_sweep(
            affinities,
            None if dense else skeleton,
            metric="dense_voi_sum" if dense else "nerl",
            labels=truth if dense else None,
            **named,
        )["all_results"]
        return [{name: x for name, x in row.items() if name != "threshold"} for row in rows]

    def by_cc3d(affinities, threshold):
        return cc3d.color_connectivity_graph(
            common.connectivity_graph(affinities, threshold), connectivity=6
        )

    routes = {
        "one decode": (lambda a: connected_components_3d(a, MIDDLE), False, None),
        "scores of the nodes, once": (lambda a: metrics.compute(truth), False, None),
        "13 thresholds, NERL and VOI at nodes": (sweep, False, "the same, each decoded afresh"),
        "the same, each decoded afresh": (afresh, True, None),
        "the same, each by cc3d.color_connectivity_graph": (
            lambda a: afresh(a, decode=by_cc3d),
            True,
            None,
        ),
        "13 thresholds, NERL and VOI at nodes, min_size 100": (
            lambda a: sweep(a, config=SegmentationConfig(min_size=100, method="components")),
            False,
            None,
        ),
        "13 thresholds, dense": (
            lambda a: sweep(a, dense=True),
            False,
            "the same, each decoded and counted afresh",
        ),
        "the same, each decoded and counted afresh": (afresh_dense, True, None),
        "13 thresholds, watershed, dense": (
            lambda a: sweep(a, dense=True, config=FILLED),
            False,
            "the same, each decoded, filled and counted afresh",
        ),
        "the same, each decoded, filled and counted afresh": (
            lambda a: afresh_dense(a, watershed=True),
            True,
            None,
        ),
        "one decode, watershed": (
            lambda a: seeded_watershed(connected_components_3d(a, MIDDLE), a),
            False,
            None,
        ),
        "exact sweep, all thresholds": (lambda a: exact_sweep(a, skeleton), True, None),
    }
    print(
        common.machine(
            ("numpy", "numba", "connected-components-3d"),
            f"{options.size}^3 synthetic voxels, seed {options.seed}, {len(skeleton.ids):,} nodes; "
            f"one decode is at {MIDDLE:.3f}",
        )
    )
    columns = {
        volume: times_of(routes, affinities, options) for volume, affinities in volumes.items()
    }
    rows = [
        (
            name,
            *(
                f"{column[name]:.3f} ({column[name] / column['one decode']:.1f})"
                for column in columns.values()
            ),
        )
        for name in routes
    ]
    print()
    common.print_table(("s (decodes)", *columns), rows)


if __name__ == "__main__":
    main()
