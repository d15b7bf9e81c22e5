"""Connected components of affinities: time a voxel and memory, of pytc and of others.

    python benchmarks/decode.py                                            500^3 voxels by seed
    python benchmarks/decode.py --threshold 0.7 \\
        --affinities runs/fib25/predictions/fib25_val_raw/affinities.zarr

Prints a table in Markdown. Every route starts from float16 affinities, thresholding included, but
for "graph given" and "mask given". Routes that solve the same problem must give the same partition,
or the script fails. Memory is the peak over input and output. Each time is the fastest of several
rounds, in which the routes take turns.
"""

import sys

import common
import numpy as np

from pytc.io.volume import open_volume
from pytc.segmentation.channels import short_range
from pytc.segmentation.connected_components import connected_components_3d

try:
    import cc3d
    from scipy import ndimage
    from skimage.measure import label
except ImportError as error:
    raise ImportError(f"{error.name} {common.EXTRA}") from error


def main() -> None:
    parser = common.parser(__doc__, size=500, repeats=3)
    parser.add_argument("--affinities", help="a stored volume, instead of the synthetic one")
    parser.add_argument("--threshold", type=float, default=0.5)
    options = parser.parse_args()
    if options.affinities:
        stored = open_volume(options.affinities)
        affinities = np.ascontiguousarray(short_range(stored[...], stored.offsets), np.float16)
        volume = f"{options.affinities}, {affinities.shape[1:]}"
    else:
        affinities = common.synthetic_affinities(
            common.synthetic_tissue(options.size, options.seed)[0], options.seed
        )
        volume = f"{options.size}^3 synthetic voxels, seed {options.seed}"
    # NumPy rounds it so, pytc does not: for the same edges
    threshold = float(np.float16(options.threshold))

    def mask() -> np.ndarray:
        return (affinities > threshold).any(0)

    def make_graph() -> np.ndarray:
        return common.connectivity_graph(affinities, threshold)

    routes = {  # name: (call, does it solve the same problem)
        "pytc": (lambda: connected_components_3d(affinities, threshold), True),
        "pytc, one thread": (
            lambda: connected_components_3d(affinities, threshold, threads=1),
            True,
        ),
        "cc3d.color_connectivity_graph": (
            lambda: cc3d.color_connectivity_graph(make_graph(), connectivity=6),
            True,
        ),
        "cc3d.color_connectivity_graph, graph given": (
            lambda: cc3d.color_connectivity_graph(graph, connectivity=6),
            True,
        ),
        "PyTC's cc3d route: (affinities > threshold).any(0), cc3d.connected_components": (
            lambda: cc3d.connected_components(mask()),
            False,
        ),
        "scipy.ndimage.label, mask given": (lambda: ndimage.label(foreground)[0], False),
        "skimage.measure.label, mask given": (lambda: label(foreground, connectivity=1), False),
        "cc3d.connected_components, mask given": (
            lambda: cc3d.connected_components(foreground, connectivity=6),
            False,
        ),
    }
    connected_components_3d(affinities[:, :4, :4, :4], threshold)  # compiles
    packages = ("numpy", "numba", "scipy", "scikit-image", "connected-components-3d")
    print(common.machine(packages, f"{volume}, threshold {threshold:.4g}"))
    graph, foreground = make_graph(), mask()
    ours, memory = None, {}
    for name, (call, same) in routes.items():
        memory[name], result = common.peak_bytes(call)
        if ours is None:
            ours = result
        elif same and not common.same_partition(ours, result):
            sys.exit(f"{name} gives another partition than pytc")
        del result
    rounds = [
        {name: common.seconds(call, 1) for name, (call, _) in routes.items()}
        for _ in range(options.repeats)
    ]
    fastest = {name: min(times[name] for times in rounds) / ours.size for name in routes}
    rows = [
        (
            name,
            f"{1e9 * fastest[name]:.1f}",
            f"{fastest[name] / fastest['pytc']:.1f}",
            f"{memory[name] / ours.size:.2f}",
            "equal" if same else "another problem",
        )
        for name, (_, same) in routes.items()
    ]
    common.print_table(("", "ns a voxel", "times pytc's", "bytes a voxel", "partition"), rows)
    print(
        f"\n{ours.max():,} components; "
        f"{np.count_nonzero(ours) / ours.size:.0%} of the voxels belong to one."
    )


if __name__ == "__main__":
    main()
