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

import numpy as np

SLICE_SUFFIXES = (".png", ".tif", ".tiff")
Slices = tuple[slice, ...]


class Store:
    """An array on disk: `shape`, `dtype`, `attributes`, and the axes the format implies if the file names none."""

    implied_axes: dict[int, str] = {3: "zyx"}

    def __init__(self, path: Path, shape: tuple[int, ...], dtype: Any, attributes: dict[str, Any]):
        self.path = path
        self.shape = tuple(int(n) for n in shape)
        self.dtype = native_dtype(dtype, path)
        self.attributes = {key: plain(value) for key, value in attributes.items()}
        self._handle, self._pid = None, None

    def _open(self) -> Any:
        """What `read` slices, opened for this process."""
        raise NotImplementedError

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
    if isinstance(value, np.ndarray):
        return [plain(v) for v in value.tolist()]
    if isinstance(value, np.generic):
        return plain(value.item())
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items()}
    return value


# --- HDF5 -------------------------------------------------------------------------------------------------------


def hdf5_datasets(file: Any) -> list[str]:
    """The names of all datasets in an open HDF5 file."""
    import h5py

    names: list[str] = []
    file.visititems(lambda name, node: names.append(name) if isinstance(node, h5py.Dataset) else None)
    return sorted(names)


class Hdf5Store(Store):
    """A dataset in an HDF5 file; without a name, the only one there is."""

    def __init__(self, path: Path, dataset: str | None):
        import h5py

        with h5py.File(path, "r") as file:
            names = hdf5_datasets(file)
            self.dataset = dataset or (names[0] if len(names) == 1 else None)
            node = file.get(self.dataset) if self.dataset else None
            if not isinstance(node, h5py.Dataset):
                wanted = f"a dataset {dataset!r}" if dataset else "the name of a dataset"
                there = ", ".join(f"{path}:{name}" for name in names) or "none"
                raise ValueError(f"expected {wanted} in {path}; datasets there: {there}")
            super().__init__(path, node.shape, node.dtype, dict(node.attrs))

    def _open(self) -> Any:
        import h5py

        return h5py.File(self.path, "r")[self.dataset]


# --- chunked formats, through tensorstore -----------------------------------------------------------------------


class ChunkedStore(Store):
    """A Zarr 2 or 3, N5 or precomputed array in a folder."""

    def __init__(self, path: Path, driver: str, shape: Any, dtype: Any, attributes: dict[str, Any]):
        super().__init__(path, shape, dtype, attributes)
        self.driver = driver
        self.writable = False
        if driver == "n5":
            self.implied_axes = {3: "xyz", 4: "xyzc"}

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


def open_chunked(path: Path) -> ChunkedStore:
    """The array in a folder, or the only one below it."""
    driver = chunked_driver(path)
    if driver is None:
        arrays = list_arrays(path)
        if len(arrays) != 1:
            raise ValueError(f"expected an array, or slices as {', '.join(SLICE_SUFFIXES)}, in {path}; "
                             f"arrays there: {', '.join(map(str, arrays)) or 'none'}")
        path, driver = arrays[0], chunked_driver(arrays[0])
    if driver == "zarr":
        meta = read_json(path / ".zarray")
        return ChunkedStore(path, driver, meta["shape"], meta["dtype"], read_json(path / ".zattrs"))
    if driver == "zarr3":
        meta = read_json(path / "zarr.json")
        return ChunkedStore(path, driver, meta["shape"], meta["data_type"], meta.get("attributes", {}))
    if driver == "n5":
        meta = read_json(path / "attributes.json")
        return ChunkedStore(path, driver, meta["dimensions"], meta["dataType"], meta)
    meta = read_json(path / "info")
    full, channels = meta["scales"][0], meta["num_channels"]  # the first scale is the finest
    shape, axes = (full["size"], "xyz") if channels == 1 else ([*full["size"], channels], "xyzc")
    return ChunkedStore(path, driver, shape, meta["data_type"], {"axes": axes, "voxel_size": full["resolution"]})


def chunked_driver(path: Path) -> str | None:
    """The tensorstore driver of the array in a folder, None if the folder is not one."""
    if (path / ".zarray").exists():
        return "zarr"
    if read_json(path / "zarr.json").get("node_type") == "array":
        return "zarr3"
    if "dimensions" in read_json(path / "attributes.json"):
        return "n5"
    if "scales" in read_json(path / "info"):
        return "neuroglancer_precomputed"
    return None


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


# --- images -----------------------------------------------------------------------------------------------------


class NpyStore(Store):
    """A .npy file, mapped into memory."""

    def __init__(self, path: Path):
        try:
            array = np.load(path, mmap_mode="r")
        except ValueError as error:
            raise ValueError(f"expected a .npy array of numbers at {path}, got {error}") from error
        super().__init__(path, array.shape, array.dtype, {})

    def _open(self) -> np.ndarray:
        return np.load(self.path, mmap_mode="r")


class TiffStore(Store):
    """A TIFF stack: mapped into memory if it is stored plainly, else the pages that are needed are decoded."""

    def __init__(self, path: Path):
        import tifffile

        try:
            tif = tifffile.TiffFile(path)
        except tifffile.TiffFileError as error:
            raise ValueError(f"expected a TIFF file at {path}, got {error}") from error
        with tif:
            if len(tif.series) != 1:
                raise ValueError(f"expected one image stack in {path}, got {[s.shape for s in tif.series]}")
            series = tif.series[0]
            attributes = {k: v for k, v in (tif.shaped_metadata or ({},))[0].items() if k != "shape"}
            named = series.axes.lower()
            if sorted(named) == sorted("zyxc"[: len(named)]):
                attributes.setdefault("axes", named)
            self.mapped = series.dataoffset is not None
            super().__init__(path, series.shape, series.dtype, attributes)
            if not self.mapped:
                try:
                    series.keyframe.asarray()
                except ValueError as error:
                    raise ValueError(f"expected pages that tifffile can decode in {path}, got {error}") from error

    def _open(self) -> Any:
        import tifffile

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

    def _open(self) -> None:
        return None

    def read(self, slices: Slices) -> np.ndarray:
        return np.stack([self._slice(file)[slices[1:]] for file in self.files[slices[0]]])

    def _slice(self, file: Path) -> np.ndarray:
        image = read_slice(file)
        if image.shape != self.shape[1:] or image.dtype != self.dtype:
            raise ValueError(f"expected {self.shape[1:]} {self.dtype} in {file} like in the first slice, "
                             f"got {image.shape} {image.dtype}")
        return image


def read_slice(path: Path) -> np.ndarray:
    """A grey image (Y, X)."""
    if path.suffix.lower() == ".png":
        from PIL import Image

        Image.MAX_IMAGE_PIXELS = None  # slices of EM are larger than what Pillow takes for an attack
        with Image.open(path) as image:
            array = np.asarray(image)
    else:
        import tifffile

        array = tifffile.imread(path)
    if array.ndim != 2:
        raise ValueError(f"expected a grey image (y, x) in {path}, got shape {array.shape}")
    return array
