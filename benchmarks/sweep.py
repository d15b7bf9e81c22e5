"""Sweeps of thresholds over one affinity volume, in units of one decode.

    python benchmarks/sweep.py [--size 250] [--repeats 3]        (NUMBA_NUM_THREADS=2 for the figures in the README)

Synthetic neurites and their skeletons (seed 0), each edge of a skeleton cut into four. Two volumes of float16
affinities: `smooth` is sure inside of a neurite, unsure at its surface and has noise of two scales, much as the output
of a network; `noise` draws each value between 0 and 1. Prints a table in Markdown: the fastest of several calls, in s,
and how many decodes that is. Everything is compiled before.
"""

import argparse
import contextlib
import io
import platform
import time

import numba
import numpy as np

from pytc.io.rendering import smooth_noise
from pytc.io.skeleton import Skeleton
from pytc.io.synthetic import make_neurites
from pytc.metrics.exact import exact_sweep
from pytc.metrics.skeleton import SkeletonMetrics
from pytc.metrics.sweep import DEFAULT_THRESHOLDS, threshold_sweep
from pytc.segmentation.connected_components import connected_components_3d
from pytc.segmentation.growing import grow


def smooth_affinities(labels: np.ndarray, seed: int) -> np.ndarray:
    """(3, Z, Y, X) float16: logits of 5 within and -4 between neurites, with noise of one voxel and of six."""
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


def cut(skeleton: Skeleton, parts: int) -> Skeleton:
    """The same lines, with more nodes on them."""
    start, end = skeleton.edges.T
    share = (np.arange(1, parts) / parts)[None, :, None]

    def between(values):
        return (values[start][:, None] * (1 - share) + values[end][:, None] * share).reshape(-1, 3)

    new = len(skeleton.ids) + np.arange(len(start) * (parts - 1)).reshape(len(start), parts - 1)
    chain = np.column_stack([start, new, end])
    return Skeleton(
        np.append(skeleton.ids, np.repeat(skeleton.ids[start], parts - 1)),
        np.concatenate([skeleton.positions, np.rint(between(skeleton.positions)).astype(np.int64)]),
        np.concatenate([skeleton.nm, between(skeleton.nm)]),
        np.column_stack([chain[:, :-1].ravel(), chain[:, 1:].ravel()]),
    )


def fastest(call, volume: np.ndarray, repeats: int) -> float:
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        with contextlib.redirect_stdout(io.StringIO()):
            call(volume)
        times.append(time.perf_counter() - start)
    return min(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=250)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    truth = make_neurites((options.size,) * 3, 0)
    skeleton = cut(truth.skeleton, 4)
    metrics = SkeletonMetrics(skeleton)
    shape = truth.labels.shape
    volumes = {
        "smooth": smooth_affinities(truth.labels, 1),
        "noise": np.random.default_rng(2).random((3, *shape), np.float32).astype(np.float16),
    }

    def afresh(affinities):
        return [metrics.compute(connected_components_3d(affinities, t)) for t in DEFAULT_THRESHOLDS]

    rows = {
        "one decode, at 0.5": lambda a: connected_components_3d(a, 0.5),
        "one score of the nodes": lambda a: metrics.compute_nodes(truth.labels[tuple(skeleton.positions.T)]),
        "13 thresholds, each decoded and scored afresh": afresh,
        "13 thresholds in one sweep": lambda a: threshold_sweep(a, skeleton),
        "the same, min_size 100": lambda a: threshold_sweep(a, skeleton, min_size=100),
        "the same, with dense labels": lambda a: threshold_sweep(a, skeleton, truth.labels),
        "exact sweep, all thresholds": lambda a: exact_sweep(a, skeleton),
        "growing, after one decode at 0.5": lambda a: grow(connected_components_3d(a, 0.5), a),
    }
    small = np.random.default_rng(3).random((3, *shape), np.float32)[:, :20].astype(np.float16)
    grow(connected_components_3d(small, 0.5), small)
    exact_sweep(volumes["smooth"], skeleton)  # compiled
    print(f"\n{platform.processor() or platform.machine()}, {numba.config.NUMBA_NUM_THREADS} threads, "
          f"Python {platform.python_version()}, numba {numba.__version__}, NumPy {np.__version__}; "
          f"{options.size}^3 voxels, {len(skeleton.ids)} nodes\n")
    print("| s (decodes) | " + " | ".join(volumes) + " |\n|---" + "|---" * len(volumes) + "|")
    decode = {}
    for name, call in rows.items():
        seconds = {key: fastest(call, volume, options.repeats) for key, volume in volumes.items()}
        decode = decode or seconds
        print(f"| {name} | " + " | ".join(f"{s:.3f} ({s / decode[key]:.1f})" for key, s in seconds.items()) + " |",
              flush=True)


if __name__ == "__main__":
    main()
