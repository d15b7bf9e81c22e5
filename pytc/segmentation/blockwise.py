"""Segmentation of stored affinities: in memory where they fit, otherwise block by block.

Both give the same bytes. What a decode by blocks has done so far lies in a hidden folder beside its
output, under a key of all that it is made from: a decode that was killed goes on there. The folder
goes when the output is whole.
"""

import math
import os
import shutil
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from pytc.blocks import FINISHED, Manifest, map_blocks
from pytc.checks import require
from pytc.config import Lengths, SegmentationConfig, Triple
from pytc.geometry import blocks
from pytc.hardware import memory
from pytc.io.chunked import is_zarr
from pytc.io.volume import Volume, create_volume
from pytc.progress import Progress
from pytc.runs import replacing
from pytc.segmentation.agglomeration import Agglomeration, fragment_settings
from pytc.segmentation.block_steps import LabelComponents, LabelsInMemory, WriteSegments
from pytc.segmentation.block_tree import (
    create_once,
    free_workers,
    hash_of,
    save_table,
    tree_by_blocks,
    work_folder,
)
from pytc.segmentation.connected_components import warn_of_zeros_and_ones
from pytc.segmentation.decode import (
    Offsets,
    channels_to_read,
    decode,
    merge_tree,
    method_of,
    settings_of,
)
from pytc.segmentation.edges import check_dtype, label_dtype
from pytc.segmentation.faces import components_of_blocks, first_numbers
from pytc.segmentation.stored_tree import read_tree, write_tree

IN_THIS_PROCESS = ("serial", "threads")  # engines
BLOCK = (256, 256, 256)  # voxels of a block of components; the result does not depend on it
SLAB = 64  # planes of components in memory: whole chunks


def segment_volume(
    affinities: Volume,
    output: str | Path,
    config: SegmentationConfig,
    *,
    engine: str = "threads",
    block: Triple | None = None,
    attributes: dict[str, Any] | None = None,
) -> None:
    """Segments a stored affinity volume into a new label volume, (Z, Y, X) uint32 or uint64.

    An older one is replaced. The output appears under its name when it is whole.

    Args:
        affinities: with channels, and with the attribute offsets.
        output: a path as `create_volume` takes it.
        engine: where blocks are computed, see `pytc.blocks.map_blocks`. With serial and threads a
            volume that fits into half of the free memory is segmented in one piece.
        block: voxels of a block of components along each axis, 0 < n; by default BLOCK. With it the
            volume is segmented by blocks in any case. Fragments have their own blocks
            (config.fragment_block), which change the result; these change nothing.
        attributes: to be stored with the segmentation, beside its settings.

    Raises:
        ValueError: if there are no offsets, or the volume does not fit into memory and
            config.method has no exact form by blocks.
    """
    if affinities.offsets is None or "c" not in affinities.axes:
        raise ValueError(
            f"expected affinities with channels and the attribute offsets, got {affinities!r}"
        )
    check_dtype(affinities.dtype)
    channels = channels_to_read(affinities.n_channels, affinities.offsets, config)
    offsets = [affinities.offsets[channel] for channel in channels]
    shape = affinities.spatial_shape
    fits = fits_in_memory(shape, affinities.dtype, len(channels), config)
    in_one_piece = fits and block is None and engine in IN_THIS_PROCESS
    if not in_one_piece:
        _require_blocks(config, shape, engine)
    output = Path(output)
    if is_in_zarr(output):
        replaceable = not output.exists() or is_zarr(output)
        require(
            replaceable, f"nothing at {output} but an array to replace", "what is not a Zarr array"
        )
    if in_one_piece and config.method == "components":
        _components_in_memory(
            affinities, channels, config, output, attributes or {}, engine, (SLAB, *shape[1:])
        )
    elif in_one_piece:
        _segment_whole(affinities, channels, offsets, config, output, attributes or {})
    else:
        _segment_by_blocks(
            affinities,
            channels,
            offsets,
            config,
            output,
            attributes or {},
            engine,
            block or BLOCK,
        )


def fits_in_memory(
    shape: Sequence[int],
    dtype: np.dtype,
    n_channels: int,
    config: SegmentationConfig,
    beside: int = 0,
) -> bool:
    """Whether half of the free memory can segment so many channels of affinities (Z, Y, X).

    Args:
        beside: bytes a voxel that are needed for something else at the same time.
    """
    voxel = beside + n_channels * np.dtype(dtype).itemsize + np.dtype(label_dtype(shape)).itemsize
    voxel += method_of(config).memory
    return voxel * math.prod(shape) <= memory()[1] // 2


def require_segmentable(
    shape: Sequence[int],
    dtype: np.dtype,
    offsets: Offsets,
    config: SegmentationConfig,
    voxel_size: Lengths | None,
    engine: str = "threads",
) -> None:
    """ValueError, before a prediction, unless config.method can segment it on this machine.

    Args:
        shape, dtype: of the affinities, one channel of (Z, Y, X) for each of the offsets.
        voxel_size: nm along z, y, x; None for voxels of equal sides.
        engine: as for `segment_volume`.
    """
    channels = channels_to_read(len(offsets), offsets, config)
    if method_of(config).tree is not None:
        fragment_settings(config, voxel_size)  # fit, or are refused
    fits = fits_in_memory(shape, dtype, len(channels), config)
    if not fits or engine not in IN_THIS_PROCESS:
        _require_blocks(config, shape, engine)


def _require_blocks(config: SegmentationConfig, shape: Sequence[int], engine: str) -> None:
    """ValueError unless the method works by blocks."""
    way_out = "--segmentation.method agglomeration or components"
    got = f"{' x '.join(map(str, shape))} voxels for {config.method}"
    if engine in IN_THIS_PROCESS:
        expected = f"a volume that fits into memory, or {way_out}"
    else:
        expected = f"{way_out} with --engine {engine}"
    require(method_of(config).by_blocks, expected, got)


def is_in_zarr(path: Path) -> bool:
    """Whether a path is that of a Zarr array, or of one in a Zarr group."""
    return any(part.endswith(".zarr") for part in path.parts)


def _segment_whole(
    affinities: Volume,
    channels: list[int],
    offsets: Offsets,
    config: SegmentationConfig,
    output: Path,
    attributes: dict[str, Any],
) -> None:
    """Segment a volume that fits into memory by these of its channels."""
    made: Agglomeration | None = None
    if method_of(config).tree is not None:
        made = read_tree(affinities, offsets, config, affinities.voxel_size)
    with Progress("segmenting", "steps", 3) as progress:
        if made is None:
            values = affinities.read_channels(channels)
            progress.show(1, "read")
            made = merge_tree(values, offsets, config, affinities.voxel_size)
            if made is not None:
                write_tree(made, affinities, offsets, config, affinities.voxel_size)
        if made is None:
            segmentation = decode(values, offsets, config, affinities.voxel_size)
        else:
            segmentation = made.segmentation(config.threshold, min_size=config.min_size)
        progress.show(2, config.method)
        # a single file appears when it is whole; so a Zarr array is renamed when it is whole
        whole: AbstractContextManager[Path] = nullcontext(output)
        if is_in_zarr(output):
            whole = replacing(output)
        with whole as path, _create(path, affinities, settings_of(config) | attributes) as labels:
            labels[...] = segmentation
        progress.show(3, "written")


def _components_in_memory(
    affinities: Volume,
    channels: Sequence[int],
    config: SegmentationConfig,
    output: Path,
    attributes: dict[str, Any],
    engine: str,
    block: Triple,
) -> None:
    """Components of a volume whose labels fit into memory, while its affinities are read.

    A block is read while another one is labelled, and written while another one gets its numbers.
    """
    shape = affinities.spatial_shape
    grid = blocks(shape, block)
    labels = LabelsInMemory(shape)
    workers = free_workers(engine, len(channels) * affinities.dtype.itemsize + 8, block, len(grid))
    results = map_blocks(
        LabelComponents(affinities, channels, config.threshold, labels, workers.threads),
        grid,
        engine=engine,
        workers=workers.at_once,
        name="components",
    )
    joined = components_of_blocks(results, grid, shape, min_size=config.min_size)
    if not joined.segments.any() and affinities.dtype == np.uint8:
        warn_of_zeros_and_ones(affinities.read_channels(list(channels)))
    dtype = label_dtype(shape)
    more = {"voxels": joined.voxels, "segments": joined.voxel_segments.astype(dtype)}
    whole: AbstractContextManager[Path] = nullcontext(output)
    if is_in_zarr(output):
        whole = replacing(output)  # it appears when it is whole, as a single file does by itself
    else:
        engine = "serial"
    with whole as path, _create(path, affinities, settings_of(config) | attributes) as segmentation:
        step = WriteSegments(
            labels,
            joined.segments.astype(dtype),
            segmentation,
            block,
            first_numbers(results),
            more,
        )
        map_blocks(step, grid, engine=engine, workers=workers.at_once, name="segmentation")


def _segment_by_blocks(
    affinities: Volume,
    channels: list[int],
    offsets: Offsets,
    config: SegmentationConfig,
    output: Path,
    attributes: dict[str, Any],
    engine: str,
    block: Triple,
) -> None:
    """Segment a volume block by block by these of its channels."""
    key = hash_of(affinities, settings_of(config), channels, offsets, block)
    with work_folder(output, key) as work:
        if method_of(config).tree is None:
            write = _join_components(affinities, channels, config, engine, block, work)
        else:
            made = tree_by_blocks(
                affinities, channels, offsets, config, engine=engine, work=work / "tree"
            )
            write = _cut(made, config, work)
        write_by_blocks(write, output, affinities, settings_of(config) | attributes, engine, work)


def write_cut(
    made: Agglomeration,
    output: Path,
    like: Volume,
    config: SegmentationConfig,
    engine: str,
    *,
    attributes: dict[str, Any],
) -> None:
    """Write the segmentation of a stored merge tree at config.threshold, block by block.

    Args:
        made: its fragments are a stored volume.
        output: a path as `create_volume` takes it; what is there is replaced.
        like: has the segmentation's spatial shape, axes and voxel size.
        attributes: to be stored with it, beside its settings.
    """
    assert isinstance(made.fragments, Volume)
    key = hash_of(made.fragments, made.tree.key, settings_of(config))
    with work_folder(output, key) as work:
        step = _cut(made, config, work)
        write_by_blocks(step, output, like, settings_of(config) | attributes, engine, work)


def _cut(made: Agglomeration, config: SegmentationConfig, work: Path) -> WriteSegments:
    """The last step of a decode from a stored merge tree, at config.threshold."""
    assert isinstance(made.fragments, Volume)
    segments = made.tree.cut(config.threshold, min_size=config.min_size)
    table = save_table(work / "segments.npy", segments.astype(made.fragments.dtype))
    return WriteSegments(made.fragments, table, made.fragments, config.fragment_block)


def _join_components(
    affinities: Volume,
    channels: Sequence[int],
    config: SegmentationConfig,
    engine: str,
    block: Triple,
    work: Path,
) -> WriteSegments:
    """Label each block alone, and join labels that meet at faces; what is left is the last step."""
    shape = affinities.spatial_shape
    grid = blocks(shape, block)
    labels = create_once(work / "labels.zarr", affinities, np.uint32, block, compression=0)
    voxel = len(channels) * affinities.dtype.itemsize + 16
    workers = free_workers(engine, voxel, block, len(grid))
    results = map_blocks(
        LabelComponents(affinities, channels, config.threshold, labels, workers.threads),
        grid,
        manifest=Manifest(Path(labels.path) / FINISHED, "components"),
        engine=engine,
        workers=workers.at_once,
        name="components",
    )
    joined = components_of_blocks(results, grid, shape, min_size=config.min_size)
    dtype = label_dtype(shape)
    more = None
    if len(joined.voxels):
        more = work / "voxels.npz"
        np.savez(more, voxels=joined.voxels, segments=joined.voxel_segments.astype(dtype))
    return WriteSegments(
        labels,
        save_table(work / "segments.npy", joined.segments.astype(dtype)),
        labels,
        block,
        save_table(work / "first_numbers.npy", first_numbers(results)),
        more,
    )


def write_by_blocks(
    step: WriteSegments,
    output: Path,
    like: Volume,
    attributes: dict[str, Any],
    engine: str,
    work: Path,
) -> None:
    """Write a segmentation block by block; it replaces `output` when it is whole.

    Args:
        step: what to write.
        like: has the segmentation's spatial shape, axes and voxel size.
        attributes: to be stored with it.
        engine: as for `map_blocks`. A single file is written by one process, whatever it is.
        work: folder for what is done so far.
    """
    shape = like.spatial_shape
    grid = blocks(shape, step.block)
    dtype = label_dtype(shape)
    if not is_in_zarr(output):
        with _create(output, like, attributes) as labels:
            map_blocks(replace(step, segmentation=labels), grid, name="segmentation")
        return
    new = work / "segmentation.zarr"
    labels = create_once(new, like, dtype, step.block, attributes=attributes)
    workers = free_workers(engine, 3 * np.dtype(dtype).itemsize, step.block, len(grid))
    map_blocks(
        replace(step, segmentation=labels),
        grid,
        manifest=Manifest(new / FINISHED, "segmentation"),
        engine=engine,
        workers=workers.at_once,
        name="segmentation",
    )
    shutil.rmtree(new / FINISHED)
    with replacing(output) as path:
        os.rename(new, path)


def _create(path: Path, like: Volume, attributes: dict[str, Any]) -> Volume:
    """A new volume of labels, in place of an older one."""
    return create_volume(
        path,
        like.spatial_shape,
        label_dtype(like.spatial_shape),
        axes=like.spatial_axes,
        voxel_size=like.voxel_size,
        attributes=attributes,
        overwrite=True,
    )
