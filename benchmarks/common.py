"""What the benchmarks share.

Synthetic affinities, time and memory of a call, equality of partitions, one table.
"""

import argparse
import contextlib
import io
import os
import platform
import re
import time
from importlib.metadata import PackageNotFoundError, version
from itertools import pairwise
from pathlib import Path

import numba
import numpy as np

from pytc.io.skeleton import Skeleton
from pytc.io.synthetic import make_neurites
from pytc.metrics.overlap import contingency_table

EXTRA = "is needed: pip install -e '.[benchmarks]' in a clone"
# voxels: a synthetic tissue of this edge is repeated, labels renumbered, until the volume is full
TILE = 250


def parser(description: str | None, *, size: int, repeats: int) -> argparse.ArgumentParser:
    """A command line with --size, --seed and --repeats."""
    made = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--size", type=int, default=size, help="voxels along each axis, if synthetic")
    made.add_argument("--seed", type=int, default=0)
    made.add_argument("--repeats", type=int, default=repeats)
    return made


def synthetic_tissue(size: int, seed: int):
    """Labels (size, size, size) uint32 and the skeletons of the first tile.

    Every voxel is part of a neurite.
    """
    tile = make_neurites((min(size, TILE),) * 3, seed)
    labels = np.empty((size,) * 3, np.uint32)
    steps = range(0, size, TILE)
    for n, corner in enumerate((z, y, x) for z in steps for y in steps for x in steps):
        block = labels[tuple(slice(c, c + TILE) for c in corner)]
        block[...] = tile.labels[tuple(map(slice, block.shape))] + n * tile.labels.max()
    return labels, tile.skeleton


def synthetic_affinities(labels: np.ndarray, seed: int) -> np.ndarray:
    """Affinities (3, Z, Y, X) float16 as a fair network gives them.

    They are 0.95 inside a neurite, 0.5 beside a membrane and 0.1 across it, with white noise of
    standard deviation 0.1, 0.15 and 0.08: membranes break up, neurites rarely merge.
    """
    rng = np.random.default_rng(seed)
    inside = np.ones(labels.shape, bool)
    for axis in range(3):
        ahead, behind = (
            np.moveaxis(inside, axis, 0)[part] for part in (slice(1, None), slice(None, -1))
        )
        border = np.moveaxis(labels, axis, 0)[1:] != np.moveaxis(labels, axis, 0)[:-1]
        ahead &= ~border
        behind &= ~border
    affinities = np.zeros((3, *labels.shape), np.float16)
    means, deviations = np.float32([0.95, 0.5, 0.1]), np.float32([0.1, 0.15, 0.08])
    for values, axis in zip(affinities, range(3)):
        lines, interior = np.moveaxis(labels, axis, 0), np.moveaxis(inside, axis, 0)
        for here, (a, b), (c, d) in zip(
            np.moveaxis(values, axis, 0), pairwise(lines), pairwise(interior)
        ):
            kind = np.where(a != b, 2, np.where(c & d, 0, 1))
            here[...] = np.clip(
                means[kind] + deviations[kind] * rng.standard_normal(kind.shape, np.float32), 0, 1
            )
    return affinities


def connectivity_graph(affinities: np.ndarray, threshold: float) -> np.ndarray:
    """What cc3d.color_connectivity_graph takes with 6 neighbours.

    Of axis a, bits 2a and 2a + 1 lead on and back.
    """
    # the order that cc3d gives, and takes without a copy
    graph = np.zeros(affinities.shape[1:], np.uint8, order="F")
    for axis, values in enumerate(affinities[:3]):
        edges = np.moveaxis(values, axis, 0)[:-1] > threshold
        bits = np.moveaxis(graph, axis, 0)
        bits[:-1] |= edges.astype(np.uint8) << 2 * axis
        bits[1:] |= edges.astype(np.uint8) << (2 * axis + 1)
    return graph


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


def seconds(call, repeats: int) -> float:
    """Of the fastest of several calls, whose prints are lost."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        with contextlib.redirect_stdout(io.StringIO()):
            call()
        times.append(time.perf_counter() - start)
    return min(times)


def peak_bytes(call) -> tuple[int, np.ndarray]:
    """The most memory that a call took beyond the array it returns, and that array.

    Linux; elsewhere -1.
    """
    try:
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
        before = _status("VmRSS")
        result = call()
        return max(0, _status("VmHWM") - before - result.nbytes), result
    except OSError:
        return -1, call()


def _status(name: str) -> int:
    return 1024 * int(
        re.search(rf"{name}:\s+(\d+)", Path("/proc/self/status").read_text()).group(1)
    )


def same_partition(labels: np.ndarray, other: np.ndarray) -> bool:
    """Are these the same sets of voxels?

    What is 0 in `labels` must be single voxels, or 0, in the other.
    """
    table = contingency_table(labels, other)
    rest, shared = table.truth == 0, table.truth != 0
    singles = (table.count[rest] == 1) | (table.segmentation[rest] == 0)
    labelled = table.segmentation[shared]
    return bool(
        singles.all()
        and (labelled != 0).all()
        and len(np.unique(table.truth[shared])) == len(labelled)
        and len(np.unique(labelled)) == len(labelled)
        and not np.isin(labelled, table.segmentation[rest]).any()
    )


def machine(packages: tuple[str, ...], volume: str) -> str:
    """One paragraph: processor, load, versions, volume."""
    model = (
        re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())
        if os.path.exists("/proc")
        else None
    )
    model = model.group(1) if model else platform.processor() or platform.machine()
    versions = ", ".join(f"{name} {_version(name)}" for name in packages)
    return (
        f"{model}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} before the start, "
        f"{numba.config.NUMBA_NUM_THREADS} threads; Python {platform.python_version()}, "
        f"{versions}; {volume}.\n"
    )


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def print_table(header: tuple[str, ...], rows: list[tuple]) -> None:
    for row in (header, ("---",) * len(header), *rows):
        print("| " + " | ".join(map(str, row)) + " |")
