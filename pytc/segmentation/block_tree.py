"""Fragments and merges of a stored prediction by blocks, equal to those made in memory."""

import contextlib
import hashlib
import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from pytc.blocks import FINISHED, Manifest, map_blocks
from pytc.config import SegmentationConfig
from pytc.geometry import blocks
from pytc.hardware import memory
from pytc.io.results import state_on_disk
from pytc.io.volume import Volume, chunks_of_blocks, create_volume, open_volume
from pytc.runs import locked, remove_folder, replacing
from pytc.segmentation.agglomeration import Agglomeration, edge_weights, fragment_settings
from pytc.segmentation.block_steps import CountGraph, MakeFragments
from pytc.segmentation.channels import unit_channels
from pytc.segmentation.compiled import thread_count
from pytc.segmentation.decode import Offsets, method_of
from pytc.segmentation.edges import label_dtype
from pytc.segmentation.faces import first_numbers
from pytc.segmentation.linkage import average_linkage
from pytc.segmentation.merge_tree import MergeTree, load_merge_tree
from pytc.segmentation.region_graph import RegionGraph, merge_graphs
from pytc.segmentation.stored_tree import (
    FRAGMENTS,
    MERGES,
    attributes_of_tree,
    publish_tree,
    read_tree,
    tree_key,
)


def tree_by_blocks(
    prediction: Volume,
    channels: Sequence[int],
    offsets: Offsets,
    config: SegmentationConfig,
    *,
    engine: str,
    work: Path,
) -> Agglomeration:
    """The fragments and merges of a prediction: those stored beside it, or made and stored now.

    Args:
        prediction: (C, Z, Y, X) affinities.
        channels, offsets: which channels are read, and their offsets.
        config: how; its threshold and min_size are not read.
        engine: as for `map_blocks`.
        work: a folder for them where the prediction is none of infer.py's: no key says then what
            it was made from, and nothing is stored beside it.
    """
    key = tree_key(prediction, offsets, config, prediction.voxel_size)
    if key is None:
        return _make(prediction, channels, offsets, config, engine, work)
    made = read_tree(prediction, offsets, config, prediction.voxel_size)
    if made is not None:
        return made
    folder = Path(prediction.path).parent
    with work_folder(folder / FRAGMENTS, key) as kept:
        made = read_tree(prediction, offsets, config, prediction.voxel_size)  # meanwhile
        if made is None:
            _make(prediction, channels, offsets, config, engine, kept, key)
            publish_tree(kept, folder)
            made = read_tree(prediction, offsets, config, prediction.voxel_size)
    assert made is not None
    return made


def _make(
    prediction: Volume,
    channels: Sequence[int],
    offsets: Offsets,
    config: SegmentationConfig,
    engine: str,
    work: Path,
    key: str = "",
) -> Agglomeration:
    """Fragments and merges, made in a folder."""
    shape = prediction.spatial_shape
    settings = fragment_settings(config, prediction.voxel_size)
    grid = blocks(shape, settings.block)
    units = [channels[number] for number in unit_channels(len(channels), offsets)]
    labels = create_once(work / "labels.zarr", prediction, np.uint32, settings.block, compression=0)
    region = [b + 2 * h for b, h in zip(settings.block, settings.halo)]
    voxel = 3 * prediction.dtype.itemsize + method_of(config).memory
    workers = free_workers(engine, voxel, region, len(grid))
    made = map_blocks(
        MakeFragments(prediction, units, settings, labels, workers.threads),
        grid,
        manifest=Manifest(Path(labels.path) / FINISHED, "fragments"),
        engine=engine,
        workers=workers.at_once,
        name="fragments",
    )
    sizes = np.concatenate([[0], *(each["sizes"][1:] for each in made)])
    sizes[0] = sum(int(each["sizes"][0]) for each in made)
    first_voxels = np.concatenate([[0], *(each["first_voxels"][1:] for each in made)])

    fragments = create_once(
        work / FRAGMENTS,
        prediction,
        label_dtype(shape),
        settings.block,
        attributes=attributes_of_tree(config, key),
    )
    counted = map_blocks(
        CountGraph(
            prediction,
            channels,
            offsets,
            edge_weights(config, offsets, prediction.voxel_size),
            labels,
            settings.block,
            save_table(work / "first_numbers.npy", first_numbers(made)),
            fragments,
            workers.threads,
        ),
        grid,
        manifest=Manifest(Path(fragments.path) / FINISHED, "graph"),
        engine=engine,
        workers=workers.at_once,
        name="graph",
    )
    if not (work / MERGES).is_file():
        graph = merge_graphs([RegionGraph(**columns) for columns in counted])
        tree = MergeTree(
            average_linkage(graph), sizes.astype(np.int64), first_voxels.astype(np.int64)
        )
        with replacing(work / MERGES) as path:
            tree.save(path, key)
    return Agglomeration(fragments, load_merge_tree(work / MERGES))


class Workers(NamedTuple):
    """How many blocks at once, and how many threads for each."""

    at_once: int
    threads: int


def free_workers(engine: str, voxel: int, block: Sequence[int], n_blocks: int) -> Workers:
    """As many blocks at once as there are cores, and as fit into half of the free memory.

    Args:
        engine: Dask has workers of its own, each with one thread.
        voxel: bytes that a step needs for each voxel of a block.
        block: voxels of a block along each axis, its halo included.
        n_blocks: how many there are.
    """
    if engine.startswith("dask"):
        return Workers(1, 1)
    if engine == "serial":
        return Workers(1, thread_count())
    fitting = memory()[1] // 2 // (voxel * int(np.prod(block)))
    count = max(1, min(thread_count(), n_blocks, fitting))
    return Workers(count, max(1, thread_count() // count))


def create_once(
    path: Path,
    like: Volume,
    dtype: Any,
    block: Sequence[int],
    *,
    attributes: dict[str, Any] | None = None,
    compression: int = 1,
) -> Volume:
    """A Zarr array of labels to be written block by block; one that is there is opened.

    Args:
        like: has its spatial shape, axes and voxel size.
        block: no two blocks share a chunk.
        attributes, compression: as for `create_volume`.
    """
    if not path.exists():
        with replacing(path) as new:
            create_volume(
                new,
                like.spatial_shape,
                dtype,
                axes=like.spatial_axes,
                voxel_size=like.voxel_size,
                chunks=chunks_of_blocks(block, like.spatial_shape),
                attributes=attributes,
                compression=compression,
            ).close()
    return open_volume(path, writable=True)


def save_table(path: Path, table: np.ndarray) -> Path:
    """Write a table that `read_table` reads."""
    with replacing(path) as new:
        np.save(new, table)
    return path


def hash_of(volume: Volume, *settings: Any) -> str:
    """Names a stored volume in its present state, and settings of plain types."""
    made_of = [state_on_disk(volume), *settings]
    return hashlib.sha256(json.dumps(made_of).encode()).hexdigest()


@contextlib.contextmanager
def work_folder(output: Path, key: str) -> Iterator[Path]:
    """A hidden folder beside an output, for what has been done of it.

    After an error it stays, and a process that comes with the same key goes on there; folders of
    other keys are removed. What is finished of an array is noted within the array, which may have
    been moved away when a process is killed. One process works in it at a time, another one waits.
    """
    stem = output.name.replace(":", "_")  # FILE.h5:DATASET
    folder = output.with_name(f".{stem}.{key[:12]}.work")
    for other in output.parent.glob(f".{stem}.*.work"):
        if other != folder:
            remove_folder(other)
    for removed in output.parent.glob(f"..{stem}.*.work.*.removed"):  # by a process that was killed
        shutil.rmtree(removed, ignore_errors=True)
    with locked(folder):
        yield folder
        remove_folder(folder)
