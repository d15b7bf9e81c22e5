"""Volumes being written: single files under a temporary name until they are whole, Zarr in whole chunks."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from pytc.io.stores import ChunkedStore, Slices, Store, chunked_driver, native_dtype

HDF5_SUFFIXES = (".h5", ".hdf5", ".hdf")
# 64 voxels a side hold 256 KiB to 1 MiB: a training crop reads few voxels in vain, a block of 512 is whole chunks,
# and one channel a chunk lets a decoder read the three short-range affinities alone.
CHUNK = 64


def create_store(path: str, shape: tuple, dtype: Any, attributes: dict, chunks: tuple | None, overwrite: bool,
                 zarr_format: int) -> Store:
    """The writer for a path, by its suffix."""
    file, dataset = Path(path), None
    if file.suffix not in (*HDF5_SUFFIXES, ".zarr", ".tif", ".tiff", ".npy") and ":" in path:
        file, dataset = Path(path.rpartition(":")[0]), path.rpartition(":")[2].strip("/")
    dtype = native_dtype(dtype, file)
    chunks = chunks or tuple(1 if axis == "c" else min(CHUNK, n) for axis, n in zip(attributes["axes"], shape))
    if any(part.endswith(".zarr") for part in file.parts):
        return create_zarr(file / (dataset or ""), shape, dtype, attributes, chunks, overwrite, zarr_format)
    if file.exists() and not overwrite:
        raise ValueError(f"{file} exists; remove it, or say overwrite=True")
    if file.suffix in HDF5_SUFFIXES:
        return FileWriter(file, shape, dtype, attributes, hdf5_array(dataset or "data", chunks))
    if file.suffix in (".tif", ".tiff"):
        return FileWriter(file, shape, dtype, attributes, tiff_array)
    if file.suffix == ".npy":
        return FileWriter(file, shape, dtype, attributes, npy_array)
    raise ValueError(f"expected a path that ends in .zarr, .h5, .tif or .npy, got {path}")


class FileWriter(Store):
    """A single file, written under a temporary name by the process that created it."""

    def __init__(self, path: Path, shape: tuple, dtype: np.dtype, attributes: dict, create: Callable):
        super().__init__(path, shape, dtype, attributes)
        self.partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
        path.parent.mkdir(parents=True, exist_ok=True)
        self._array, self._close = create(self.partial, shape, dtype, attributes)
        self._owner = os.getpid()

    def handle(self) -> Any:
        if self._owner != os.getpid():
            raise ValueError(f"{self.path} is written by the process that created it; several can write to a .zarr")
        if self._array is None:
            raise ValueError(f"{self.path} is closed; open it with open_volume")
        return self._array

    def write(self, slices: Slices, values: np.ndarray) -> None:
        self.handle()[slices] = values

    def finish(self, success: bool) -> None:
        if self._array is None:
            return
        self._array = None
        self._close()
        if success:
            os.replace(self.partial, self.path)
        else:
            self.partial.unlink()

    def __getstate__(self) -> dict[str, Any]:
        raise ValueError(f"{self.path} is written by the process that created it; several can write to a .zarr")


def hdf5_array(dataset: str, chunks: tuple[int, ...]) -> Callable:
    def create(path: Path, shape, dtype, attributes):
        import h5py

        file = h5py.File(path, "w")
        array = file.create_dataset(dataset, shape, dtype, chunks=chunks, compression="gzip", compression_opts=1)
        array.attrs.update(attributes)
        return array, file.close

    return create


def tiff_array(path: Path, shape, dtype, attributes):
    import tifffile

    array = tifffile.memmap(path, shape=shape, dtype=dtype, photometric="minisblack", metadata=attributes)
    return array, array.flush


def npy_array(path: Path, shape, dtype, attributes):
    lost = set(attributes) - {"axes"}
    if lost or attributes["axes"] not in ("zyx", "czyx"):
        raise ValueError(f"a .npy file cannot hold {attributes}; take .zarr or .h5")
    array = np.lib.format.open_memmap(path, mode="w+", shape=shape, dtype=dtype)
    return array, array.flush


def create_zarr(path: Path, shape, dtype, attributes, chunks, overwrite: bool, zarr_format: int) -> ChunkedStore:
    """A new Zarr array of blosc-compressed chunks (zstd, shuffled), and the groups above it."""
    import tensorstore

    if path.exists():
        if not overwrite or chunked_driver(path) not in ("zarr", "zarr3"):
            raise ValueError(f"{path} exists; remove it, or say overwrite=True if it is a Zarr array")
        shutil.rmtree(path)
    path.mkdir(parents=True)
    blosc = {"cname": "zstd", "clevel": 5}
    if zarr_format == 2:
        (path / ".zattrs").write_text(json.dumps(attributes, indent=1))  # first: an array never lacks its attributes
        metadata = {"shape": shape, "chunks": chunks, "dtype": dtype.str, "fill_value": plain_zero(dtype),
                    "dimension_separator": "/", "compressor": {"id": "blosc", "shuffle": 1, **blosc}}
    elif zarr_format == 3:
        codec = {"name": "blosc", "configuration": {"typesize": dtype.itemsize, "shuffle": "shuffle", **blosc}}
        metadata = {"shape": shape, "data_type": dtype.name, "attributes": attributes, "codecs": [codec],
                    "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": chunks}}}
    else:
        raise ValueError(f"expected a zarr_format of 2 or 3, got {zarr_format}")
    driver = {2: "zarr", 3: "zarr3"}[zarr_format]
    spec = {"driver": driver, "kvstore": {"driver": "file", "path": f"{path}/"}, "metadata": metadata}
    tensorstore.open(spec, create=True).result()
    store = ChunkedStore(path, driver, shape, dtype, attributes)
    store.writable = True
    return store


def plain_zero(dtype: np.dtype) -> Any:
    return dtype.type(0).item()
