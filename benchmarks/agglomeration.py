"""What agglomeration costs, step by step, beside components + watershed, waterz and mwatershed.

    python benchmarks/agglomeration.py                                     250^3 voxels by seed
    python benchmarks/agglomeration.py --affinities RUN/predictions/VOLUME/affinities.zarr

The first table: nanoseconds a voxel of each step and route on six channels, and bytes a voxel at
the peak beyond the affinities and the result. The second: all merges of a generated 3-D region
graph, by pytc from the graph and by waterz, which makes the same graph from single voxels. Times
are of the fastest of several calls.
"""

import argparse
from functools import partial

import common
import numpy as np

from pytc.config import SHORT_AND_LONG, SegmentationConfig
from pytc.io.volume import open_volume
from pytc.segmentation.agglomeration import agglomerate, edge_weights, fragment_settings
from pytc.segmentation.decode import decode
from pytc.segmentation.fragments import make_fragments
from pytc.segmentation.linkage import average_linkage
from pytc.segmentation.packages import mutex_watershed, waterz_segments
from pytc.segmentation.region_graph import region_graph

try:
    import mwatershed  # noqa: F401
    import waterz  # noqa: F401
except ImportError as error:
    raise ImportError(f"{error.name} {common.EXTRA}") from error

CONFIG = SegmentationConfig(0.6, method="agglomeration")
WATERSHED = SegmentationConfig(0.7, 200, "components_watershed")


def long_range(short: np.ndarray) -> np.ndarray:
    """Six channels of three: a long edge is as weak as the weakest short edge on its way."""
    six = np.zeros((6, *short.shape[1:]), short.dtype)
    six[:3] = short
    for axis in range(3):
        line = np.moveaxis(short[axis], axis, 0)
        length = len(line) - 10
        weakest = np.min([line[step : step + length] for step in range(10)], axis=0)
        np.moveaxis(six[3 + axis], axis, 0)[:length] = weakest
    return six


def main() -> None:
    parser = common.parser(__doc__, size=250, repeats=3)
    parser.add_argument("--affinities", help="stored volume of six channels, repeated to --size")
    parser.add_argument("--graph", type=int, default=150, help="fragments of the graph, by axis")
    parser.add_argument("--slow-repeats", type=int, default=1, help="of the other packages")
    options = parser.parse_args()
    affinities, name = volume_of(options)
    offsets = SHORT_AND_LONG
    print(
        common.machine(
            ("numpy", "numba", "waterz", "mwatershed"),
            f"{name}, {affinities.shape}, {affinities.dtype}",
        )
    )

    settings = fragment_settings(CONFIG, None)
    weights = edge_weights(CONFIG, offsets, None)
    fragments = make_fragments(affinities[:3], settings)
    graph = region_graph(fragments.labels, affinities, offsets, weights)
    made = agglomerate(affinities, offsets, CONFIG)
    steps = {
        "fragments": (partial(make_fragments, affinities[:3], settings), options.repeats),
        "region graph": (
            partial(region_graph, fragments.labels, affinities, offsets, weights),
            options.repeats,
        ),
        "average linkage": (partial(average_linkage, graph), options.repeats),
        "cut, relabelled": (partial(made.segmentation, 0.6), options.repeats),
        "agglomeration, all of it": (partial(decode, affinities, offsets, CONFIG), options.repeats),
        "components + watershed": (
            partial(decode, affinities, offsets, WATERSHED),
            options.repeats,
        ),
        "waterz, from the same fragments, three channels": (
            partial(waterz_segments, affinities, fragments.labels, 0.6, offsets),
            options.slow_repeats,
        ),
        "mwatershed, six channels": (
            partial(mutex_watershed, affinities, offsets),
            options.slow_repeats,
        ),
    }
    voxels = affinities[0].size
    times = {step: common.seconds(call, repeats) for step, (call, repeats) in steps.items()}
    rows = [(step, f"{1e9 * taken / voxels:.1f}") for step, taken in times.items()]
    peak, _ = common.peak_bytes(lambda: decode(affinities, offsets, CONFIG))
    print()
    common.print_table(("step or route", "ns a voxel"), rows)
    print(
        f"\n{len(fragments.sizes) - 1:,} fragments, {len(graph.sums):,} edges; agglomeration takes "
        f"{peak / voxels:.1f} bytes a voxel at its peak, beyond affinities and labels.\n"
    )
    common.print_table(("all merges of a graph", "edges", "s"), graph_rows(options))


def volume_of(options: argparse.Namespace) -> tuple[np.ndarray, str]:
    """Six channels of affinities, and the name of the volume."""
    if options.affinities is None:
        truth, _ = common.synthetic_tissue(options.size, options.seed)
        short = common.synthetic_affinities(truth, options.seed)
        return long_range(short), f"synthetic, seed {options.seed}"
    stored = open_volume(options.affinities)[...]
    times = [-(-options.size // n) for n in stored.shape[1:]]
    tiled = np.tile(stored, (1, *times))
    cut = (slice(None), *[slice(options.size)] * 3)
    return np.ascontiguousarray(tiled[cut]), f"{options.affinities}, repeated"


def graph_rows(options: argparse.Namespace) -> list[tuple[str, str, str]]:
    """Seconds for all merges of the graph of the voxels of a random volume."""
    shape = (options.graph,) * 3
    random = np.random.default_rng(options.seed)
    affinities = random.random((3, *shape), np.float32)
    voxels = np.arange(1, options.graph**3 + 1, dtype=np.uint32).reshape(shape)
    steps = SHORT_AND_LONG[:3]
    graph = region_graph(voxels, affinities, steps, (1, 1, 1))
    edges = f"{len(graph.sums):,}"
    ours = common.seconds(partial(average_linkage, graph), options.slow_repeats)
    both = common.seconds(
        lambda: average_linkage(region_graph(voxels, affinities, steps, (1, 1, 1))),
        options.slow_repeats,
    )
    theirs = common.seconds(
        partial(waterz_segments, affinities, voxels, 0.0, steps), options.slow_repeats
    )
    return [
        ("pytc, from the graph on", edges, f"{ours:.2f}"),
        ("pytc, with making the graph", edges, f"{both:.2f}"),
        ("waterz, with making the graph", edges, f"{theirs:.2f}"),
    ]


if __name__ == "__main__":
    main()
