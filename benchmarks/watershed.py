"""The seeded watershed: what it costs and what it gains, on predicted affinities with dense labels.

    python benchmarks/watershed.py                                         150^3 voxels by seed
    python benchmarks/watershed.py --labels data/fib25/fib25_val.h5:labels \\
        --affinities runs/fib25/predictions/fib25_val_raw/affinities.zarr

Prints two tables in Markdown. The first gives dense VOI (bits) of the components at each threshold,
before and after the watershed; the second gives it for other routes from the same affinities to a
segmentation. Each time is the fastest of several calls.
"""

import contextlib
import io

import common
import numpy as np

from pytc.io.volume import open_volume
from pytc.metrics.overlap import overlap_metrics
from pytc.segmentation.channels import short_range
from pytc.segmentation.connected_components import connected_components_3d
from pytc.segmentation.packages import mutex_watershed, waterz_segments
from pytc.segmentation.watershed import seeded_watershed

try:
    import mwatershed  # noqa: F401
    import waterz  # noqa: F401
    from skimage.segmentation import watershed
except ImportError as error:
    raise ImportError(f"{error.name} {common.EXTRA}") from error


def main() -> None:
    parser = common.parser(__doc__, size=150, repeats=5)
    parser.add_argument(
        "--affinities",
        help="stored volume with the attribute offsets, instead of the synthetic one",
    )
    parser.add_argument("--labels", help="of the stored volume")
    parser.add_argument(
        "--thresholds", type=float, nargs="+", default=[0.65, 0.69, 0.7, 0.71, 0.72, 0.75]
    )
    parser.add_argument("--min-sizes", type=int, nargs="+", default=[0, 200])
    parser.add_argument("--slow-repeats", type=int, default=1, help="of the other routes")
    options = parser.parse_args()
    if options.affinities:
        stored = open_volume(options.affinities)
        affinities, offsets, volume = stored[...], stored.offsets, options.affinities
        truth = open_volume(options.labels)[...]
    else:
        truth, _ = common.synthetic_tissue(options.size, options.seed)
        affinities, offsets = (
            common.synthetic_affinities(truth, options.seed),
            np.eye(3, dtype=int).tolist(),
        )
        volume = f"synthetic, seed {options.seed}"
    edges = np.ascontiguousarray(short_range(affinities, offsets))
    seeded_watershed(
        connected_components_3d(edges[:, :4, :4, :4], 0.5), edges[:, :4, :4, :4]
    )  # compiles
    print(
        common.machine(
            ("numpy", "numba", "scikit-image", "waterz", "mwatershed"),
            f"{volume}, {truth.shape}, {edges.dtype}",
        )
    )

    def voi(segmentation: np.ndarray) -> str:
        scores = overlap_metrics(truth, segmentation)
        return "{voi_sum:.3f} ({voi_split:.3f} + {voi_merge:.3f})".format(**scores)

    def cost(call, *arguments, repeats: int = options.repeats, **named) -> str:
        return (
            f"{1e9 * common.seconds(lambda: call(*arguments, **named), repeats) / truth.size:.1f}"
        )

    rows = []
    for min_size in options.min_sizes:
        for threshold in options.thresholds:
            components = connected_components_3d(edges, threshold, min_size=min_size)
            rows.append(
                (
                    threshold,
                    min_size,
                    f"{np.mean(components == 0):.0%}",
                    voi(components),
                    voi(seeded_watershed(components, edges)),
                    cost(connected_components_3d, edges, threshold, min_size=min_size),
                    cost(seeded_watershed, components, edges),
                )
            )

    seeds = connected_components_3d(edges, 0.7, min_size=200)
    fragments = seeded_watershed(connected_components_3d(edges, 0.8, min_size=200), edges)
    height = 1 - edges.astype(np.float32).mean(0)
    routes = {
        "pytc: components (0.7, min_size 200), watershed": lambda: seeded_watershed(seeds, edges),
        "skimage.segmentation.watershed of the same components, on 1 - mean affinity": lambda: (
            watershed(height, seeds)
        ),
        "waterz: components (0.8, min_size 200), watershed, merged above a mean of 0.6": lambda: (
            waterz_segments(edges, fragments, 0.6)
        ),
        "mwatershed: mutex watershed of all channels, threshold 0.5": lambda: mutex_watershed(
            affinities, offsets
        ),
    }
    with contextlib.redirect_stdout(io.StringIO()):
        others = [
            (name, voi(call()), cost(call, repeats=options.slow_repeats))
            for name, call in routes.items()
        ]
    print()
    common.print_table(
        (
            "threshold",
            "min_size",
            "voxels 0",
            "dense VOI (split + merge) of components",
            "after the watershed",
            "components, ns a voxel",
            "watershed, ns a voxel",
        ),
        rows,
    )
    print("\nThe last step of each route, from components or fragments on:\n")
    common.print_table(("", "dense VOI", "ns a voxel"), others)


if __name__ == "__main__":
    main()
