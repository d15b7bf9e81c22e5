"""A volume made by hand, for the tests of evaluate.py.

Of three bars two merge at thresholds below 0.6 and one falls apart from 0.7 on, so that a sweep has
to find 0.65 and score it as perfect.
"""

from pathlib import Path

import numpy as np

from pytc.commands import EvaluateConfig
from pytc.config import SHORT_AND_LONG
from pytc.evaluate import evaluate
from pytc.io.skeleton import Skeleton, save_skeleton
from pytc.io.volume import create_volume

SHAPE = (12, 20, 24)
VOXEL = (20.0, 10.0, 10.0)
THRESHOLDS = (0.5, 0.65, 0.8)


def bars() -> np.ndarray:
    """Labels 1 and 2 touch along y; 3 stands apart."""
    labels = np.zeros(SHAPE, np.uint16)
    labels[:, 2:6], labels[:, 6:10], labels[:, 14:18] = 1, 2, 3
    return labels


def bar_affinities(labels: np.ndarray) -> np.ndarray:
    affinities = np.zeros((6, *SHAPE), np.float32)
    for channel, offset in enumerate(SHORT_AND_LONG[:3]):
        here = tuple(slice(0, n - o) for n, o in zip(SHAPE, offset))
        there = tuple(slice(o, None) for o in offset)
        affinities[channel][here] = 0.9 * ((labels[here] == labels[there]) & (labels[here] > 0))
    affinities[1, :, 5, 12] = 0.6  # between bars 1 and 2
    affinities[2, :, 14:18, 11] = 0.7  # within bar 3
    return affinities


def bar_skeleton() -> Skeleton:
    """A straight line of 24 nodes in each bar."""
    positions = np.array([(6, y, x) for y in (4, 8, 16) for x in range(24)], np.int64)
    ids = np.repeat(np.array([1, 2, 3], np.uint64), 24)
    edges = np.array([(i, i + 1) for i in range(71) if (i + 1) % 24], np.int64)
    return Skeleton(ids, positions, positions * np.array(VOXEL), edges)


def store(path: Path, array: np.ndarray, axes: str = "zyx", **attributes) -> str:
    with create_volume(
        path, array.shape, array.dtype, axes=axes, voxel_size=VOXEL, attributes=attributes
    ) as volume:
        volume[...] = array
    return str(path)


def store_bars(folder: Path) -> EvaluateConfig:
    """The bars as files in a folder, and the config that sweeps their affinities."""
    labels = bars()
    save_skeleton(folder / "skeleton.npz", bar_skeleton())
    image = np.random.default_rng(0).integers(0, 255, SHAPE).astype(np.uint8)
    return EvaluateConfig(
        affinities=store(
            folder / "affinities.zarr", bar_affinities(labels), "czyx", offsets=SHORT_AND_LONG
        ),
        labels=store(folder / "labels.zarr", labels),
        skeleton=str(folder / "skeleton.npz"),
        image=store(folder / "image.zarr", image),
        sweep=True,
        thresholds=THRESHOLDS,
        method="components",
    )


def score(config: EvaluateConfig) -> dict:
    """What metrics.json holds of the only volume."""
    (metrics,) = evaluate(config).values()
    return metrics
