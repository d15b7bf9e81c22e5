"""Arrays in a folder of chunks: Zarr 2 and 3, N5, and neuroglancer's precomputed volumes.

Their metadata is read here, their voxels by tensorstore, which is opened on the first read in each
process (of a folder elsewhere with the metadata, `remote`): it aborts a forked child of a process
that has used it, so a reader must be able to cross into its worker unopened. A process that has
read a chunked format itself has to start its workers by `forkserver` or `spawn`.
"""

import json
import os
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from pytc.checks import require
from pytc.io import standards
from pytc.io.remote import Folder, RemoteFolder
from pytc.io.standards import Standard, read_json
from pytc.io.stored import NewArray, Stored
from pytc.runs import remove_folder, replacing

ZARR_DRIVERS = ("zarr", "zarr3")
# Each of these files in a folder may mean that the folder is an array or a group of arrays.
MARKERS = (".zarray", ".zgroup", "zarr.json", "attributes.json", "info")


class ChunkedArray(NamedTuple):
    """The array in a folder, as its metadata describes it; driver: tensorstore's name for it."""

    driver: str
    shape: tuple[int, ...]
    dtype: str
    attributes: dict[str, Any]


def describe(path: Folder) -> ChunkedArray | None:
    """The array in a folder, None if the folder is no array.

    Of a precomputed volume it is the first scale, the finest.
    """
    if meta := read_json(path, ".zarray"):
        shape = tuple(meta["shape"])
        return ChunkedArray("zarr", shape, meta["dtype"], read_json(path, ".zattrs"))
    meta = read_json(path, "zarr.json")
    if meta.get("node_type") == "array":
        shape = tuple(meta["shape"])
        return ChunkedArray("zarr3", shape, meta["data_type"], meta.get("attributes", {}))
    meta = read_json(path, "attributes.json")
    if "dimensions" in meta:
        shape = tuple(meta["dimensions"])
        attributes = {"axes": "xyzc"[: len(shape)]} | meta
        return ChunkedArray("n5", shape, meta["dataType"], attributes)
    meta = read_json(path, "info")
    if "scales" in meta:
        finest = meta["scales"][0]
        channels = [meta["num_channels"]] if meta["num_channels"] > 1 else []
        shape = (*finest["size"], *channels)
        attributes = {"axes": "xyzc"[: len(shape)], "voxel_size": finest["resolution"]}
        if "voxel_offset" in finest:
            attributes["voxel_offset"] = finest["voxel_offset"]
        return ChunkedArray("neuroglancer_precomputed", shape, meta["data_type"], attributes)
    return None


def is_zarr(path: Folder) -> bool:
    """Whether a folder is a Zarr array."""
    array = describe(path)
    return array is not None and array.driver in ZARR_DRIVERS


def list_arrays(path: Path) -> list[Path]:
    """The array that a folder is, or those in the Zarr or N5 group that it is.

    Groups below that group count too.
    """
    marked = any((path / marker).exists() for marker in MARKERS)
    if path.suffix not in (".zarr", ".n5") and not marked:
        return []
    found = []
    for root, folders, _ in os.walk(path):
        if describe(Path(root)) is not None:
            found.append(Path(root))
            folders.clear()  # an array holds no other
    return sorted(found)


def open_chunked(path: Folder) -> Stored:
    """The array in a folder, without axes of length 1 that only the format asks for.

    These are t and c in OME-Zarr, and the only channel of a precomputed volume.
    """
    array = describe(path)
    if array is None:
        got = "none"
        if isinstance(path, RemoteFolder):
            got = "none there that may be read (arrays in a folder elsewhere are not searched for)"
        raise ValueError(f"expected a Zarr, N5 or precomputed array in {path}, got {got!r}")
    shape, standard = array.shape, Standard()
    left_out: tuple[int, ...] = ()
    if array.driver in ZARR_DRIVERS:
        standard = standards.of_zarr_array(path, len(shape))
    if standard.axes:
        lengths = dict(zip(standard.axes, shape))
        times = lengths.get("t", 1)
        require(times == 1, f"one time point in {path}", times)
        left_out = tuple(
            number
            for number, (axis, length) in enumerate(zip(standard.axes, shape))
            if axis in "tc" and length == 1
        )
        kept = [number for number in range(len(shape)) if number not in left_out]
        standard = standard._replace(axes="".join(standard.axes[number] for number in kept))
        shape = tuple(shape[number] for number in kept)
    elif array.driver == "neuroglancer_precomputed" and len(shape) == 3:
        left_out = (3,)
    return Stored(
        shape,
        array.dtype,
        array.attributes,
        partial(_open_by_tensorstore, path, array.driver, left_out),
        standard,
        has_chunks=True,
        can_be_extended=array.driver in ZARR_DRIVERS,
    )


def _open_by_tensorstore(
    path: Folder, driver: str, left_out: tuple[int, ...], cache_bytes: int
) -> Any:
    """tensorstore's array, of which the axes `left_out` (of length 1) are dropped."""
    import tensorstore

    spec: dict[str, Any] = {"driver": driver, "kvstore": key_value_store(path)}
    if cache_bytes:
        spec |= {"recheck_cached_data": "open", "recheck_cached_metadata": "open"}
    context = tensorstore.Context({"cache_pool": {"total_bytes_limit": cache_bytes}})
    array = tensorstore.open(spec, context=context).result()
    array = array[tensorstore.d[:].translate_to[0]]  # a precomputed volume may start anywhere
    kept = tuple(0 if axis in left_out else slice(None) for axis in range(array.rank))
    return ChunkedVoxels(array[kept])


class ChunkedVoxels:
    """tensorstore's array, sliced and assigned to like NumPy.

    What is read goes into memory that NumPy asks for, in huge pages: tensorstore's own memory is
    new each time, in small ones, and costs a fifth of the time of a large read.
    """

    def __init__(self, array: Any) -> None:
        self.array = array

    def __getitem__(self, slices: tuple[slice, ...]) -> np.ndarray:
        import tensorstore

        part = self.array[slices][tensorstore.d[:].translate_to[0]]
        values = np.empty(part.shape, part.dtype.numpy_dtype)
        tensorstore.array(values, copy=False, write=True).write(part).result()
        return values

    def __setitem__(self, slices: Any, values: Any) -> None:
        self.array[slices] = values


def key_value_store(folder: Folder) -> dict[str, Any]:
    """tensorstore's description of a folder."""
    if isinstance(folder, RemoteFolder):
        return folder.key_value_store()
    return {"driver": "file", "path": f"{folder}/"}


def create_zarr(array: NewArray, *, overwrite: bool, zarr_format: int) -> None:
    """Create a Zarr array of blosc-compressed chunks (shuffled), and the groups above it."""
    import tensorstore

    require(zarr_format in (2, 3), "a zarr_format of 2 or 3", zarr_format)
    path = array.path
    _require_free(path, overwrite=overwrite)
    groups = [
        group for group in path.parents if any(part.endswith(".zarr") for part in group.parts)
    ]
    arrays = [str(group) for group in groups if is_zarr(group)]
    require(not arrays, f"groups above {path}, none of which is an array", arrays)
    clear(path)
    if zarr_format == 2:
        # before the array, so that an array never lacks its attributes
        write_json(path, ".zattrs", array.attributes)
    for group in groups:
        _make_group(group, zarr_format)
    metadata = zarr2_metadata(array) if zarr_format == 2 else zarr3_metadata(array)
    driver = "zarr" if zarr_format == 2 else "zarr3"
    spec = {"driver": driver, "kvstore": key_value_store(path), "metadata": metadata}
    tensorstore.open(spec, create=True).result()


def _require_free(path: Folder, *, overwrite: bool) -> None:
    """ValueError unless nothing is at a path, or a Zarr array that may be replaced."""
    if isinstance(path, RemoteFolder):
        path.require_writable()
        taken = any(path.read(marker) is not None for marker in MARKERS)
    else:
        taken = path.exists()
    if taken and not (overwrite and is_zarr(path)):
        raise ValueError(f"{path} exists; remove it, or say overwrite=True if it is a Zarr array")


def clear(folder: Folder) -> None:
    """Make an empty folder, in place of what was there.

    A process that is killed meanwhile leaves no array that lacks some of its chunks.
    """
    if isinstance(folder, RemoteFolder):
        folder.delete(*MARKERS)
        return
    remove_folder(folder)
    folder.mkdir(parents=True)


def write_json(folder: Folder, name: str, content: dict[str, Any]) -> None:
    """Write a JSON file in a folder; it appears when it is whole."""
    text = json.dumps(content, indent=1)
    if isinstance(folder, RemoteFolder):
        folder.write(name, text)
        return
    with replacing(folder / name) as temporary:
        temporary.write_text(text)


def _make_group(folder: Folder, zarr_format: int) -> None:
    """Mark a folder as a Zarr group, unless it is marked."""
    if read_json(folder, ".zgroup") or read_json(folder, "zarr.json"):
        return
    if zarr_format == 2:
        write_json(folder, ".zgroup", {"zarr_format": 2})
    else:
        write_json(folder, "zarr.json", {"zarr_format": 3, "node_type": "group"})


def _codec(compression: int) -> dict[str, Any]:
    """Blosc's name and level of a compression, see `NewArray`."""
    if compression == 0:
        return {"cname": "lz4", "clevel": 1}
    return {"cname": "zstd", "clevel": compression}


def zarr2_metadata(array: NewArray) -> dict[str, Any]:
    return {
        "shape": array.shape,
        "chunks": array.chunks,
        "dtype": array.dtype.str,
        "fill_value": np.zeros((), array.dtype).item(),
        "dimension_separator": "/",
        "compressor": {"id": "blosc", **_codec(array.compression), "shuffle": 1},
    }


def zarr3_metadata(array: NewArray) -> dict[str, Any]:
    blosc = {
        **_codec(array.compression),
        "shuffle": "shuffle",
        "typesize": array.dtype.itemsize,
    }
    return {
        "shape": array.shape,
        "data_type": array.dtype.name,
        "attributes": array.attributes,
        "codecs": [{"name": "blosc", "configuration": blosc}],
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": array.chunks}},
    }
