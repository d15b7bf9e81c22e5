"""Volumes being written: single files under a temporary name until they are whole, Zarr in whole chunks."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import tifffile

from pytc.config import require
from pytc.io import stores
from pytc.io.stores import HDF5_SUFFIXES, TIFF_SUFFIXES, Store, chunked_driver

# 64 voxels a side hold 256 KiB to 1 MiB: a training crop reads few voxels in vain, a block of 512 is whole chunks,
# and one channel a chunk lets a decoder read the three short-range affinities alone.
CHUNK = 64


def create_store(path: str, shape: tuple, dtype: Any, attributes: dict, chunks: tuple | None, overwrite: bool,
                 zarr_format: int) -> Store:
    """The writer for a path, by its suffix."""
    file, inside = stores.split_path(path)
    dtype = stores.native_dtype(dtype, file)
    chunks = chunks or tuple(1 if axis == "c" else min(CHUNK, n) for axis, n in zip(attributes["axes"], shape))
    require(len(chunks) == len(shape) and min(chunks) > 0, f"chunks of {len(shape)} axes for shape {shape}", chunks)
    if any(part.endswith(".zarr") for part in file.parts):
        return create_zarr(file / (inside or ""), shape, dtype, attributes, chunks, overwrite, zarr_format)
    known = file.suffix.lower() in (*HDF5_SUFFIXES, *TIFF_SUFFIXES, ".npy")
    require(known, "a path that ends in .zarr, .h5, .tif or .npy", path)
    if file.exists() and not overwrite:
        raise ValueError(f"{file} exists; remove it, or say overwrite=True")
    return FileWriter(file, inside or "data", shape, dtype, attributes, chunks)


class FileWriter(Store):
    """A single file, written under a temporary name by the process that created it."""

    writable = True

    def __init__(self, path: Path, dataset: str, shape: tuple, dtype: np.dtype, attributes: dict, chunks: tuple):
        super().__init__(path, shape, dtype, attributes, None)
        self._pid = os.getpid()
        self.partial = path.with_name(f"{path.name}.{self._pid}.partial")
        if self.partial.exists():
            raise ValueError(f"{path} is being written: {self.partial} exists")
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._handle = self._create(path.suffix.lower(), dataset, chunks)
        except (TypeError, ValueError) as error:
            self.partial.unlink(missing_ok=True)
            raise ValueError(f"cannot create {path} with attributes {attributes}: {error}") from error

    def _create(self, suffix: str, dataset: str, chunks: tuple[int, ...]) -> h5py.Dataset | np.memmap:
        if suffix == ".npy":
            if set(self.attributes) != {"axes"} or self.attributes["axes"] not in ("zyx", "czyx"):
                raise ValueError("a .npy file cannot hold them; take .zarr or .h5")
            return np.lib.format.open_memmap(self.partial, mode="w+", shape=self.shape, dtype=self.dtype)
        if suffix in TIFF_SUFFIXES:
            if self.dtype.kind == "b":
                raise ValueError("a TIFF stack cannot hold bool; take uint8, or .zarr or .h5")
            return tifffile.memmap(self.partial, shape=self.shape, dtype=self.dtype, photometric="minisblack",
                                   metadata=self.attributes)
        if self.path.exists():
            with h5py.File(self.path, "r") as file:
                names = stores.hdf5_datasets(file)
            if names != [dataset]:
                raise ValueError(f"it is written whole, but holds more than {dataset}: {', '.join(names)}")
        packed = {"chunks": chunks, "compression": "gzip", "compression_opts": 1}
        made = h5py.File(self.partial, "w").create_dataset(dataset, self.shape, self.dtype, **packed)
        made.attrs.update(self.attributes)
        return made

    def handle(self) -> Any:
        if self._pid != os.getpid():
            self.__getstate__()
        if self._handle is None:
            raise ValueError(f"{self.path} is closed; open it with open_volume")
        return self._handle

    def finish(self, success: bool) -> None:
        if self._handle is None or self._pid != os.getpid():  # a forked child leaves its parent's file alone
            return
        handle, self._handle = self._handle, None
        handle.flush() if isinstance(handle, np.memmap) else handle.file.close()
        self.partial.replace(self.path) if success else self.partial.unlink()

    def __getstate__(self) -> dict[str, Any]:
        raise ValueError(f"{self.path} is written by the process that created it; several can write to a .zarr")


def create_zarr(path: Path, shape, dtype, attributes, chunks, overwrite: bool, zarr_format: int) -> Store:
    """A new Zarr array of blosc-compressed chunks (zstd, shuffled), and the groups above it."""
    import tensorstore

    require(zarr_format in (2, 3), "a zarr_format of 2 or 3", zarr_format)
    if path.exists() and not (overwrite and chunked_driver(path) in ("zarr", "zarr3")):
        raise ValueError(f"{path} exists; remove it, or say overwrite=True if it is a Zarr array")
    groups = [group for group in path.parents if any(part.endswith(".zarr") for part in group.parts)]
    if arrays := [group for group in groups if chunked_driver(group)]:
        raise ValueError(f"expected groups above {path}, but {arrays[0]} is an array")
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir(parents=True)
    blosc = {"cname": "zstd", "clevel": 5}
    if zarr_format == 2:
        driver, marker, group_content = "zarr", ".zgroup", {"zarr_format": 2}
        (path / ".zattrs").write_text(json.dumps(attributes, indent=1))  # first: an array never lacks its attributes
        metadata = {"shape": shape, "chunks": chunks, "dtype": dtype.str, "fill_value": np.zeros((), dtype).item(),
                    "dimension_separator": "/", "compressor": {"id": "blosc", "shuffle": 1, **blosc}}
    else:
        driver, marker, group_content = "zarr3", "zarr.json", {"zarr_format": 3, "node_type": "group"}
        codec = {"name": "blosc", "configuration": {"typesize": dtype.itemsize, "shuffle": "shuffle", **blosc}}
        metadata = {"shape": shape, "data_type": dtype.name, "attributes": attributes, "codecs": [codec],
                    "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": chunks}}}
    for group in groups:
        if not (group / ".zgroup").exists() and not (group / "zarr.json").exists():
            (group / marker).write_text(json.dumps(group_content))
    spec = {"driver": driver, "kvstore": {"driver": "file", "path": f"{path}/"}, "metadata": metadata}
    tensorstore.open(spec, create=True).result()
    store = stores.open_chunked(path)
    store.writable = True
    return store
