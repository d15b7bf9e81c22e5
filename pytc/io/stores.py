"""Arrays on disk, one class a format: shape, dtype and attributes at once, voxels when they are read.

Metadata is read without tensorstore, and handles open on first read in each process: tensorstore aborts a forked
child of a process that has used it, so a reader must be able to cross into its worker unopened. A process that has
read a chunked format itself has to start its workers by `forkserver` or `spawn`.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import tifffile
from PIL import Image

SLICE_SUFFIXES = (".png", ".tif", ".tiff")
Slices = tuple[slice, ...]
Image.MAX_IMAGE_PIXELS = None  # slices of EM are larger than what Pillow takes for an attack


class Store:
    """An array on disk: `shape`, `dtype` and `attributes`; `_open` gives what `read` slices, once a process."""

    def __init__(self, path: Path, shape: tuple[int, ...], dtype: Any, attributes: dict[str, Any]):
        self.path = path
        self.shape = tuple(int(n) for n in shape)
        self.dtype = native_dtype(dtype, path)
        self.attributes = plain(attributes)
        self._handle, self._pid = None, None

    def handle(self) -> Any:
        if self._pid != os.getpid():
            self._handle = None  # what a fork copied from its parent goes first, or HDF5 would share its descriptor
            self._handle, self._pid = self._open(), os.getpid()
        return self._handle

    def read(self, slices: Slices) -> np.ndarray:
        return np.array(self.handle()[slices])  # a copy, where the handle is mapped memory

    def write(self, slices: Slices, values: np.ndarray) -> None:
        raise ValueError(f"{self.path} is open for reading; write to a volume from create_volume")

    def finish(self, success: bool) -> None:
        self._handle, self._pid = None, None

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_handle": None, "_pid": None}


def native_dtype(dtype: Any, path: Path) -> np.dtype:
    """`dtype` in this machine's byte order; ValueError unless it is bool, an integer or a float."""
    try:
        dtype = np.dtype(dtype)
    except TypeError:
        dtype = np.dtype(object)
    if dtype.kind not in "buif":
        raise ValueError(f"expected voxels that are bool, integer or float, got {dtype} in {path}")
    return dtype.newbyteorder("=")


def plain(value: Any) -> Any:
    """An attribute as JSON has it: numbers, strings, lists, dicts."""
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        return plain(value.tolist())
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    return value.decode() if isinstance(value, bytes) else value


def hdf5_datasets(file: h5py.File) -> list[str]:
    names: list[str] = []
    file.visititems(lambda name, node: names.append(name) if isinstance(node, h5py.Dataset) else None)
    return sorted(names)


class Hdf5Store(Store):
    """A dataset in an HDF5 file; without a name, the only one there is."""

    def __init__(self, path: Path, dataset: str | None):
        with h5py.File(path, "r") as file:
            names = hdf5_datasets(file)
            self.dataset = dataset or (names[0] if len(names) == 1 else None)
            node = file.get(self.dataset) if self.dataset else None
            if not isinstance(node, h5py.Dataset):
                wanted = f"a dataset {dataset!r}" if dataset else "the name of a dataset"
                there = ", ".join(f"{path}:{name}" for name in names) or "none"
                raise ValueError(f"expected {wanted} in {path}; datasets there: {there}")
            super().__init__(path, node.shape, node.dtype, dict(node.attrs))

    def _open(self) -> h5py.Dataset:
        return h5py.File(self.path, "r")[self.dataset]


class ChunkedStore(Store):
    """A Zarr 2 or 3, N5 or precomputed array in a folder."""

    def __init__(self, path: Path, writable: bool = False):
        self.driver, *described = chunked_array(path)
        self.writable = writable
        super().__init__(path, *described)

    def _open(self) -> Any:
        import tensorstore

        spec = {"driver": self.driver, "kvstore": {"driver": "file", "path": f"{self.path}/"}}
        array = tensorstore.open(spec, read=True, write=self.writable).result()
        array = array[tensorstore.d[:].translate_to[0]]  # a precomputed volume may start anywhere
        return array[..., 0] if array.rank > len(self.shape) else array

    def read(self, slices: Slices) -> np.ndarray:
        return self.handle()[slices].read().result()

    def write(self, slices: Slices, values: np.ndarray) -> None:
        if not self.writable:
            super().write(slices, values)
        self.handle()[slices].write(values).result()


def chunked_array(path: Path) -> tuple[str, list[int], str, dict[str, Any]] | None:
    """tensorstore's driver, shape, dtype and attributes of the array in a folder; None if the folder is not one."""
    if meta := read_json(path / ".zarray"):
        return "zarr", meta["shape"], meta["dtype"], read_json(path / ".zattrs")
    meta = read_json(path / "zarr.json")
    if meta.get("node_type") == "array":
        return "zarr3", meta["shape"], meta["data_type"], meta.get("attributes", {})
    meta = read_json(path / "attributes.json")
    if "dimensions" in meta:
        axes = "xyzc"[: len(meta["dimensions"])]
        return "n5", meta["dimensions"], meta["dataType"], {"axes": axes} | meta
    meta = read_json(path / "info")
    if "scales" in meta:
        full, channels = meta["scales"][0], meta["num_channels"]  # the first scale is the finest
        shape, axes = (full["size"], "xyz") if channels == 1 else ([*full["size"], channels], "xyzc")
        attributes = {"axes": axes, "voxel_size": full["resolution"]}
        return "neuroglancer_precomputed", shape, meta["data_type"], attributes
    return None


def chunked_driver(path: Path) -> str | None:
    """The tensorstore driver of the array in a folder, None if the folder is not one."""
    found = chunked_array(path)
    return found and found[0]


def list_arrays(path: Path) -> list[Path]:
    """The arrays in a Zarr or N5 group and in the groups below it; none if the folder is not a group."""
    markers = (".zgroup", "zarr.json", "attributes.json")
    if path.suffix not in (".zarr", ".n5") and not any((path / marker).exists() for marker in markers):
        return []
    found = []
    for root, folders, _ in os.walk(path):
        if chunked_driver(Path(root)):
            found.append(Path(root))
            folders.clear()
    return sorted(found)


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file, empty if there is no such file."""
    try:
        return json.loads(path.read_text()) if path.is_file() else {}
    except ValueError as error:
        raise ValueError(f"expected JSON in {path}, got {error}") from None


class NpyStore(Store):
    """A .npy file, mapped into memory."""

    def __init__(self, path: Path):
        self.path = path
        try:
            array = self._open()
        except ValueError as error:
            raise ValueError(f"expected a .npy array of numbers at {path}, got {error}") from error
        super().__init__(path, array.shape, array.dtype, {})

    def _open(self) -> np.ndarray:
        return np.load(self.path, mmap_mode="r")


class TiffStore(Store):
    """A TIFF stack: mapped into memory if it is stored plainly, else the pages that are needed are decoded."""

    def __init__(self, path: Path):
        with tifffile.TiffFile(path) as tif:
            if len(tif.series) != 1:
                raise ValueError(f"expected one image stack in {path}, got {[s.shape for s in tif.series]}")
            series = tif.series[0]
            attributes = {k: v for k, v in (tif.shaped_metadata or ({},))[0].items() if k != "shape"}
            named = series.axes.lower()
            if sorted(named) == sorted("zyxc"[: len(named)]):
                attributes.setdefault("axes", named)
            super().__init__(path, series.shape, series.dtype, attributes)
            self.mapped = series.dataoffset is not None
            try:
                if not self.mapped:
                    series.keyframe.asarray()
            except ValueError as error:
                raise ValueError(f"expected pages that tifffile can decode in {path}, got {error}") from error

    def _open(self) -> Any:
        return tifffile.memmap(self.path, mode="r") if self.mapped else tifffile.TiffFile(self.path).series[0]

    def read(self, slices: Slices) -> np.ndarray:
        if self.mapped:
            return super().read(slices)
        pages = self.handle().pages
        stacked = len(self.shape) - len(pages.keyframe.shape)  # axes along which pages follow each other
        numbers = np.arange(len(pages)).reshape(self.shape[:stacked])[slices[:stacked]]
        read = np.stack([pages[int(n)].asarray()[slices[stacked:]] for n in numbers.flat])
        return read.reshape(*numbers.shape, *read.shape[1:])


class FolderStore(Store):
    """A folder of PNG or TIFF slices, in the natural order of their names: z2 comes before z10."""

    def __init__(self, path: Path, files: list[Path]):
        self.files = sorted(files, key=lambda f: [int(s) if s.isdigit() else s for s in re.split(r"(\d+)", f.name)])
        first = read_slice(self.files[0])
        super().__init__(path, (len(files), *first.shape), first.dtype, {})

    def read(self, slices: Slices) -> np.ndarray:
        images = []
        for file in self.files[slices[0]]:
            image = read_slice(file)
            if image.shape != self.shape[1:] or image.dtype != self.dtype:
                raise ValueError(f"expected {self.shape[1:]} {self.dtype} in {file} like in the first slice, "
                                 f"got {image.shape} {image.dtype}")
            images.append(image[slices[1:]])
        return np.stack(images)


def read_slice(path: Path) -> np.ndarray:
    """A grey image (Y, X)."""
    array = np.asarray(Image.open(path)) if path.suffix.lower() == ".png" else tifffile.imread(path)
    if array.ndim != 2:
        raise ValueError(f"expected a grey image (y, x) in {path}, got shape {array.shape}")
    return array
