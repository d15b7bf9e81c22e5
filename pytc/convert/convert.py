"""`pytc convert`: write a volume as another program reads it, block by block."""

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from pytc.blocks import Manifest, map_blocks
from pytc.checks import require
from pytc.commands import ConvertConfig
from pytc.config import Triple
from pytc.convert.pyramid import (
    METHODS,
    Converted,
    CopyBlock,
    HalveBlock,
    Kind,
    block_shape,
    plan_levels,
    ratios,
)
from pytc.convert.targets import PRECOMPUTED_DTYPES, OmeZarr, Precomputed, Target, opener
from pytc.geometry import Box, blocks
from pytc.io.chunked import MARKERS, clear, describe
from pytc.io.remote import PRECOMPUTED, Folder, RemoteFolder, is_url, local_path, parse_folder
from pytc.io.results import image_name, state_on_disk
from pytc.io.standards import finest_level
from pytc.io.stores import HDF5_SUFFIXES, TIFF_SUFFIXES, split_path
from pytc.io.volume import Volume, create_volume, open_volume
from pytc.runs import find_run, locked, runs_folder

LOGGER = logging.getLogger(__name__)

# Attributes of a file format, not of the voxels, and those that are written anew.
OF_A_FORMAT = {
    *("axes", "voxel_size", "resolution", "unit", "units", "offset", "voxel_offset", "offsets"),
    *("dimensions", "blockSize", "dataType", "compression", "multiscales", "ome"),
    *("_ARRAY_DIMENSIONS", "image-label", "omero", "bioformats2raw.layout"),
}
SEGMENTATION_SETTINGS = {"threshold", "method", "min_size"}  # what infer.py stores with labels
FILES = ("affinities", "probabilities", "segmentation")


def convert(config: ConvertConfig) -> str:
    """Write a volume to a target, and return the path or URL of what was written.

    Raises:
        ValueError: the volume or the target cannot be what is asked for; said before any work.
        RunError: blocks failed; the same call continues with them.
    """
    path = _path_of(config)
    suffix = _suffix(config.target)
    keeps_axes = suffix in HDF5_SUFFIXES
    source = open_volume(path, axes=config.axes, voxel_size=config.voxel_size)
    if not keeps_axes and source.spatial_axes != "zyx":
        LOGGER.info(f"axes: {source.axes} in {source.path}, written as z, y, x")
        source = open_volume(path, axes=config.axes, voxel_size=config.voxel_size, transpose="zyx")
    kind = _kind(config, source)
    LOGGER.info(f"kind: {kind} ({METHODS[kind]} on coarser levels)")
    if suffix in TIFF_SUFFIXES or keeps_axes:
        _write_file(source, kind, config, keeps_axes=keeps_axes)
        return config.target
    folder = parse_folder(config.target)
    if isinstance(folder, RemoteFolder):
        folder.require_writable()
    if config.target.startswith(PRECOMPUTED):
        target: Target = _precomputed(source, kind, config, folder)
    else:
        target = _ome_zarr(source, kind, config, folder)
    _write_pyramid(source, target, config)
    return config.target


def _path_of(config: ConvertConfig) -> str:
    """The volume that RESULT names: itself, or a file of a run."""
    name = config.result
    folder = Path(name)
    is_run = folder.is_dir() and any((folder / f).exists() for f in ("predictions", "config.json"))
    exists = is_url(name) or Path(str(split_path(name)[0])).exists()
    if exists and not is_run:
        flags = {"--volume": config.volume, "--what": config.what}
        given = [flag for flag, value in flags.items() if value is not None]
        require(not given, f"{' and '.join(given)} with a run", f"the volume {name}")
        return name
    run = find_run(name)
    found = {path.name: path for path in sorted(run.glob("predictions/*/")) if path.is_dir()}
    if config.volume is None:
        require(len(found) == 1, f"--volume, one of {', '.join(found) or 'none'}, of {run}", None)
        chosen = next(iter(found.values()))
    else:
        known = config.volume in found
        require(known, f"--volume from {', '.join(found) or 'none'} of {run}", config.volume)
        chosen = found[config.volume]
    path = chosen / f"{config.what or 'segmentation'}.zarr"
    there = [each for each in FILES if (chosen / f"{each}.zarr").exists()]
    require(path.exists(), f"--what from {', '.join(there) or 'none'} of {chosen}", config.what)
    return str(path)


def _suffix(target: str) -> str:
    """What says the format: .zarr, .tif, .h5, or nothing for precomputed."""
    if target.startswith(PRECOMPUTED):
        return ""
    file, inside = split_path(target)
    suffix = file.suffix.lower()
    known = suffix in (".zarr", *TIFF_SUFFIXES, *HDF5_SUFFIXES) and not (
        suffix == ".zarr" and inside
    )
    formats = f"NAME.ome.zarr, {PRECOMPUTED}PATH, .tif or .h5[:DATASET] as the target"
    require(known, formats, target)
    if suffix != ".zarr":
        local_path(file)
    return suffix


def _kind(config: ConvertConfig, source: Volume) -> Kind:
    """What the voxels are: as the user says, as the volume's attributes say, or by its dtype."""
    if config.kind is not None:
        kind = config.kind
    elif source.offsets is not None:
        kind = "affinities"
    elif set(source.attributes) >= SEGMENTATION_SETTINGS:
        kind = "labels"
    elif source.dtype.kind == "f" or source.dtype == np.uint8:
        kind = "image"
    else:
        require(
            source.dtype.itemsize != 2,
            f"--kind image or labels for {source.dtype} of {source.path}",
            None,
        )
        kind = "labels"
    whole = source.dtype.kind in "iub" and "c" not in source.axes
    require(
        kind != "labels" or whole,
        "labels of whole numbers without channels",
        f"{source.axes} {source.dtype} of {source.path}",
    )
    require(
        config.dtype is None or kind == "affinities",
        "--dtype with affinities; an image and labels keep their values",
        kind,
    )
    return kind


def _ome_zarr(source: Volume, kind: Kind, config: ConvertConfig, folder: Folder) -> OmeZarr:
    dtype = _dtype(source, config)
    if dtype.kind == "b":
        dtype = np.dtype("uint8")
    origin = whole_origin(source)
    levels = plan_levels(source.spatial_shape, source.voxel_size, most=config.levels)
    if origin is not None:
        levels = plan_levels(source.spatial_shape, source.voxel_size, origin, config.levels)
    return OmeZarr(
        folder,
        image_name(config.target),
        dtype,
        source.n_channels if "c" in source.axes else None,
        kind,
        tuple(levels),
        source.voxel_size,
        _attributes(source, "czyx"[-len(source.shape) :]),
        config.ome_version,
    )


def _precomputed(source: Volume, kind: Kind, config: ConvertConfig, folder: Folder) -> Precomputed:
    size = source.voxel_size
    if size is None:
        raise ValueError(
            f"expected --voxel-size, as {source.path} does not say it and precomputed needs it"
        )
    dtype = _dtype(source, config)
    replaced = {"bool": "uint8", "float16": "float32"}.get(dtype.name)
    if kind == "labels":
        replaced = "uint64"
    if replaced and replaced != dtype.name:
        LOGGER.info(f"dtype: {dtype} is written as {replaced}, which precomputed has")
        dtype = np.dtype(replaced)
    names = ", ".join(PRECOMPUTED_DTYPES)
    require(dtype.name in PRECOMPUTED_DTYPES, f"voxels of {names} for precomputed", dtype.name)
    if source.offsets is not None:
        LOGGER.info("offsets: precomputed has no place for those of the affinities; note them")
    origin = whole_origin(source) or (0, 0, 0)
    levels = plan_levels(source.spatial_shape, size, origin, config.levels)
    channels = source.n_channels if "c" in source.axes else None
    return Precomputed(folder, dtype, channels, kind, tuple(levels), size)


def _dtype(source: Volume, config: ConvertConfig) -> np.dtype:
    return source.dtype if config.dtype is None else np.dtype(config.dtype)


def whole_origin(source: Volume) -> Triple | None:
    """The position of the first voxel in voxels, or None if the volume does not say it."""
    if source.origin is None:
        return None
    at = np.array(source.origin.at)
    if source.origin.in_nm:
        if source.voxel_size is None:
            raise ValueError(
                f"expected --voxel-size, as the offset of {source.path} is in nm, {at.tolist()}"
            )
        at = at / source.voxel_size
    z, y, x = np.rint(at).astype(int).tolist()
    whole = bool(np.abs(at - (z, y, x)).max() < 1e-2)
    require(whole, f"an offset of {source.path} of whole voxels", at.tolist())
    return z, y, x


def _attributes(source: Volume, axes: str) -> dict[str, Any]:
    """What pytc stores with an array: all that the source says, in this order of axes."""
    kept = {
        name: value
        for name, value in source.attributes.items()
        if name not in OF_A_FORMAT and not isinstance(value, dict)
    }
    kept["axes"] = axes
    if source.voxel_size is not None:
        kept |= {"voxel_size": list(source.voxel_size), "unit": "nm"}
    if source.offsets is not None:
        kept["offsets"] = [list(offset) for offset in source.offsets]
    if source.origin is not None:
        kept["offset" if source.origin.in_nm else "voxel_offset"] = list(source.origin.at)
    return kept


def _write_file(source: Volume, kind: Kind, config: ConvertConfig, *, keeps_axes: bool) -> None:
    """A single file, which appears when it is whole."""
    dtype = _dtype(source, config)
    if dtype.kind == "b" and not keeps_axes:
        LOGGER.info("dtype: bool is written as uint8, as TIFF has no bool")
        dtype = np.dtype("uint8")
    axes = source.axes if keeps_axes else "czyx"[-len(source.shape) :]
    lengths = dict(zip(source.axes, source.shape))
    converted = Converted(dtype, kind, source.path)
    with create_volume(
        config.target,
        tuple(lengths[axis] for axis in axes),
        dtype,
        axes=axes,
        voxel_size=source.voxel_size,
        attributes=_attributes(source, axes),
        overwrite=config.overwrite,
    ) as volume:

        def copy(box: Box) -> None:
            values = converted(source.read(box.start, box.stop))
            place = dict(zip(source.spatial_axes, box.slices))
            if "c" not in axes:
                values = values[0]
            else:
                values = np.moveaxis(values, 0, axes.index("c"))
            volume[tuple(slice(None) if axis == "c" else place[axis] for axis in axes)] = values

        grid = blocks(source.spatial_shape, block_shape(source.n_channels * dtype.itemsize))
        map_blocks(copy, grid, name=f"writing {config.target}")


def _write_pyramid(source: Volume, target: Target, config: ConvertConfig) -> None:
    """All levels, the finest first; blocks that an earlier call has finished are kept."""
    levels = target.levels
    block = block_shape(source.n_channels * max(source.dtype.itemsize, target.dtype.itemsize))
    plan = [state_on_disk(source), str(target), block]
    key = hashlib.sha256(json.dumps(plan, default=str).encode()).hexdigest()
    work = _work_folder(target.folder)
    with locked(work):
        _prepare(target.folder, work, key, overwrite=config.overwrite)

        def run(step: Callable[[Box], None], number: int) -> None:
            map_blocks(
                step,
                blocks(levels[number].shape, block),
                manifest=Manifest(work / f"level {number}", key),
                engine=config.engine,
                workers=config.workers or os.cpu_count() or 1,
                name=f"level {number}",
            )

        converted = Converted(target.dtype, target.kind, source.path)
        run(CopyBlock(source, opener(target, levels[0]), levels[0].origin, converted), 0)
        method = METHODS[target.kind]
        for finer, coarser, ratio in ratios(list(levels)):
            opens = opener(target, finer), opener(target, coarser)
            run(HalveBlock(*opens, ratio, coarser.origin, method), coarser.number)
        target.finish()
        shutil.rmtree(work)


def _work_folder(folder: Folder) -> Path:
    """Where it is noted what is finished: beside a folder on this machine, else below the runs."""
    if isinstance(folder, RemoteFolder):
        number = hashlib.sha256(str(folder).encode()).hexdigest()[:16]
        return runs_folder() / ".conversions" / f"{folder.name}-{number}"
    return folder.with_name(f".{folder.name}.conversion")


def _prepare(folder: Folder, work: Path, key: str, *, overwrite: bool) -> None:
    """Make room for the target, unless an earlier call began the same one."""
    begun = work / "key"
    continues = begun.is_file() and begun.read_text() == key
    if continues and not _is_finished(folder):
        LOGGER.info(f"continuing {folder}")
        return
    ours = begun.is_file() and not _is_finished(folder)  # of other settings, and not finished
    if not ours and _exists(folder):
        replaceable = overwrite and _is_finished(folder)
        if not replaceable:
            shutil.rmtree(work)
            raise ValueError(
                f"{folder} exists; remove it, or say --overwrite if it is a volume to replace"
            )
    for each in work.iterdir():
        if each.is_dir():
            shutil.rmtree(each)
    begun.write_text(key)
    clear(folder)


def _is_finished(folder: Folder) -> bool:
    """Whether a folder is an array, an OME-Zarr group or a precomputed volume."""
    return describe(folder) is not None or finest_level(folder) is not None


def _exists(folder: Folder) -> bool:
    if isinstance(folder, RemoteFolder):
        return any(folder.read(marker) is not None for marker in MARKERS)
    return folder.exists()
