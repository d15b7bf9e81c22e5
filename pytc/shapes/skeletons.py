"""`pytc skeletonize`: skeletons of labelled objects, block by block.

kimimaro draws the skeletons of the objects in a block (TEASAR; Sato et al., 2000). Two blocks share
a layer of voxels; on it kimimaro takes the same voxel of an object from both sides, and there the
pieces of its skeleton are joined.
"""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from pytc.checks import require
from pytc.config import Triple
from pytc.io.skeleton import Skeleton, save_skeleton
from pytc.io.volume import Volume
from pytc.shapes.command import SkeletonizeConfig
from pytc.shapes.labels import extra, open_labels, read_blocks


def skeletonize(config: SkeletonizeConfig) -> Skeleton:
    """Make the skeletons and write them.

    Raises:
        ValueError: before any work, if the labels cannot be read or the output is there.
        ImportError: names the extra.
    """
    output = Path(config.output)
    require(output.suffix == ".npz", "skeletons as NAME.npz", config.output)
    may_write = config.overwrite or not output.exists()
    require(may_write, "--overwrite to replace a file that is there", config.output)
    extra("kimimaro")
    labels = open_labels(config.labels, config.axes, config.voxel_size)
    skeleton = skeletons_of(
        labels, scale=config.scale, const=config.const, min_size=config.min_size, block=config.block
    )
    save_skeleton(output, skeleton)
    return skeleton


def skeletons_of(
    labels: Volume,
    *,
    scale: float = 1.5,
    const: float = 300.0,
    min_size: int = 1000,
    block: Triple = (512, 512, 512),
) -> Skeleton:
    """The skeletons of all objects.

    Args:
        labels: (Z, Y, X) integers with a voxel size; 0 and what is unlabelled are no object.
        scale, const: a branch begins outside of scale x (distance to the border) + const nm.
        min_size: voxels of the smallest object that gets a skeleton.
        block: voxels that are read at once.

    Returns:
        A skeleton for each object, with its label as id; every node lies inside of its object.
    """
    kimimaro = extra("kimimaro")
    assert labels.voxel_size is not None
    voxel_size = np.array(labels.voxel_size)
    pieces: dict[int, list[Any]] = {}
    sizes: Counter[int] = Counter()
    for box, of_block in read_blocks(labels, block, sizes, "skeletons"):
        drawn = kimimaro.skeletonize(
            of_block,
            teasar_params={"scale": scale, "const": const},
            anisotropy=labels.voxel_size,
            dust_threshold=0,  # a piece of a large object may be small
            progress=False,
        )
        for label, piece in drawn.items():
            piece.vertices += np.float32(voxel_size * box.start)
            pieces.setdefault(int(label), []).append(piece)
    kept = sorted(label for label in pieces if sizes[label] >= min_size)
    return _as_skeleton({label: _joined(pieces[label], const) for label in kept}, voxel_size)


def _joined(pieces: list[Any], shortest: float) -> Any:
    """One skeleton of the pieces of several blocks.

    Loops that joining has closed are opened, and ends of less than `shortest` nm, which paths to
    the faces of blocks leave, are cut off.
    """
    if len(pieces) == 1:
        return pieces[0]
    together = type(pieces[0]).simple_merge(pieces).consolidate()
    return extra("kimimaro").postprocess(together, dust_threshold=0, tick_threshold=shortest)


def _as_skeleton(skeletons: dict[int, Any], voxel_size: np.ndarray) -> Skeleton:
    counts = [len(each.vertices) for each in skeletons.values()]
    first = np.cumsum([0, *counts])
    edges = [each.edges.astype(np.int64) + n for each, n in zip(skeletons.values(), first)]
    nm = [each.vertices.astype(np.float64) for each in skeletons.values()]
    all_nm = np.concatenate([np.zeros((0, 3)), *nm])
    positions = np.rint(all_nm / voxel_size).astype(np.int64)
    return Skeleton(
        np.repeat(np.array(list(skeletons), np.uint64), counts),
        positions,
        positions * voxel_size,
        np.concatenate([np.zeros((0, 2), np.int64), *edges]),
    )
