"""Scores of a segmentation: dense VOI at 250^3, and run length at 75,000 skeleton nodes.

    python benchmarks/scores.py

Prints a table in Markdown. scikit-image must find the same VOI, and funlib.evaluate (from its
repository; its row is left out where it is not installed) the same VOI and Rand scores, or the
script fails. Each time is the fastest of several calls.
"""

import sys

import common
import numpy as np

from pytc.metrics.overlap import overlap_metrics
from pytc.metrics.skeleton import SkeletonMetrics
from pytc.segmentation.connected_components import connected_components_3d

try:
    from skimage.metrics import variation_of_information
except ImportError as error:
    raise ImportError(f"{error.name} {common.EXTRA}") from error
try:
    from funlib.evaluate import rand_voi
except ImportError:
    rand_voi = None

THRESHOLD = 0.5


def main() -> None:
    parser = common.parser(__doc__, size=250, repeats=5)
    options = parser.parse_args()
    truth, skeleton = common.synthetic_tissue(options.size, options.seed)
    skeleton = common.cut(skeleton, 3)
    segmentation = connected_components_3d(
        common.synthetic_affinities(truth, options.seed), THRESHOLD
    )
    volume = f"{options.size}^3 synthetic voxels, seed {options.seed}, {len(skeleton.ids):,} nodes"
    print(common.machine(("numpy", "numba", "scikit-image", "funlib.evaluate"), volume))

    metrics = SkeletonMetrics(skeleton)
    segments = metrics.segments_at_nodes(segmentation)
    wide = truth.astype(np.uint64), segmentation.astype(np.uint64)  # what funlib.evaluate takes
    groups = [
        {
            "pytc, dense VOI and Rand": lambda: list(overlap_metrics(truth, segmentation).values())[
                :5
            ],
            "skimage variation_of_information": lambda: variation_of_information(
                truth, segmentation
            ).tolist(),
        },
        {
            "pytc, run length and 12 other scores, segments at the nodes given": lambda: list(
                metrics.compute_nodes(segments).values()
            ),
            "pytc, the same from the volume": lambda: list(metrics.compute(segmentation).values()),
        },
    ]
    if rand_voi is not None:

        def funlib() -> list[float]:
            report = rand_voi(*wide, return_cluster_scores=False)
            return [report[name] for name in ("voi_split", "voi_merge")]

        groups[0]["funlib.evaluate rand_voi"] = funlib
    rows = []
    for group in groups:
        expected = fastest = None
        for name, call in group.items():
            scores = call()
            expected = expected or scores
            if not np.allclose(scores, expected[: len(scores)], rtol=1e-6):
                sys.exit(f"{name} finds {scores}, pytc {expected}")
            time = common.seconds(call, options.repeats)
            fastest = fastest or time
            rows.append((name, f"{1000 * time:.1f}", f"{time / fastest:.1f}"))
    common.print_table(("", "ms", "times pytc's"), rows)


if __name__ == "__main__":
    main()
