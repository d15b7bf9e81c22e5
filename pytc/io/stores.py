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
        return self.handle()[slices]

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


class Hdf5Store(Store):
    """A dataset in an HDF5 file; without a name, the only one there is."""

    def __init__(self, path: Path, dataset: str | None):
        import h5py

        with h5py.File(path, "r") as file:
            names: list[str] = []
            file.visititems(lambda name, node: names.append(name) if isinstance(node, h5py.Dataset) else None)
            name = dataset.strip("/") if dataset else names[0] if len(names) == 1 else None
            if name not in names:
                raise ValueError(_choose(path, dataset, names))
            node = file[name]
            super().__init__(path, node.shape, node.dtype, dict(node.attrs))
        self.dataset = name

    def _open(self) -> Any:
        import h5py

        return h5py.File(self.path, "r")[self.dataset]


def _choose(path: Path, wanted: str | None, names: list[str]) -> str:
    there = ", ".join(f"{path}:{name}" for name in sorted(names)) or "none"
    return f"expected {'the name of an array' if wanted is None else f'{wanted!r}'} in {path}; arrays there: {there}"


# --- chunked formats, through tensorstore -----------------------------------------------------------------------


class ChunkedStore(Store):
    """A Zarr 2 or 3, N5 or precomputed array in a folder."""

    def __init__(self, path: Path, driver: str, shape: Any, dtype: Any, attributes: dict[str, Any]):
        super().__init__(path, shape, dtype, attributes)
        self.driver = driver
        self.writable = False
        if driver == "n5":
            self.implied_axes = {3: "xyz"}

    def _open(self) -> Any:
        import tensorstore

        spec = {"driver": self.driver, "kvstore": {"driver": "file", "path": f"{self.path}/"}}
        array = tensorstore.open(spec, read=True, write=self.writable).result()
        return array[tensorstore.d[:].translate_to[0]]  # a precomputed volume may start anywhere

    def read(self, slices: Slices) -> np.ndarray:
        return self.handle()[slices].read().result()

    def write(self, slices: Slices, values: np.ndarray) -> None:
        if not self.writable:
            super().write(slices, values)
        self.handle()[slices].write(values).result()


def chunked_driver(path: Path) -> str | None:
    """The tensorstore driver of the array in a folder, None if there is none."""
    if (path / ".zarray").exists():
        return "zarr"
    if (path / "zarr.json").exists():
        return "zarr3" if _json(path / "zarr.json")["node_type"] == "array" else None
    if (path / "attributes.json").exists():
        return "n5" if "dimensions" in _json(path / "attributes.json") else None
    if (path / "info").exists():
        return "neuroglancer_precomputed" if "scales" in _json(path / "info") else None
    return None


def _json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text()) if path.exists() else {}
    except ValueError as error:
        raise ValueError(f"expected JSON in {path}, got {error}") from None


def open_chunked(path: Path) -> ChunkedStore:
    """The array in a folder, or the only one below it."""
    if chunked_driver(path) is None:
        arrays = list_arrays(path)
        if len(arrays) != 1:
            raise ValueError(f"expected an array or a folder of {', '.join(SLICE_SUFFIXES)} slices in {path}; "
                             f"arrays there: {', '.join(map(str, arrays)) or 'none'}")
        path = arrays[0]
    driver = chunked_driver(path)
    if driver == "zarr":
        meta, attributes = _json(path / ".zarray"), _json(path / ".zattrs")
        return ChunkedStore(path, driver, meta["shape"], meta["dtype"], attributes)
    if driver == "zarr3":
        meta = _json(path / "zarr.json")
        return ChunkedStore(path, driver, meta["shape"], meta["data_type"], meta.get("attributes", {}))
    if driver == "n5":
        meta = _json(path / "attributes.json")
        return ChunkedStore(path, driver, meta["dimensions"], meta["dataType"], meta)
    info = _json(path / "info")
    attributes = {"axes": "xyzc", "voxel_size": info["scales"][0]["resolution"]}
    shape = (*info["scales"][0]["size"], info["num_channels"])
    return ChunkedStore(path, driver, shape, info["data_type"], attributes)


def list_arrays(group: Path) -> list[Path]:
    """The arrays in a folder and in the folders below it."""
    found = []
    for root, folders, _ in os.walk(group):
        if chunked_driver(Path(root)):
            found.append(Path(root))
            folders.clear()
    return sorted(found)


# --- images -----------------------------------------------------------------------------------------------------


class NpyStore(Store):
    """A .npy file, mapped into memory."""

    def __init__(self, path: Path):
        array = np.load(path, mmap_mode="r")
        super().__init__(path, array.shape, array.dtype, {})

    def _open(self) -> np.ndarray:
        return np.load(self.path, mmap_mode="r")


class TiffStore(Store):
    """A TIFF stack: mapped into memory if it is stored plainly, else the pages that are needed are decoded."""

    def __init__(self, path: Path):
        import tifffile

        with tifffile.TiffFile(path) as tif:
            if len(tif.series) != 1:
                raise ValueError(f"expected one image stack in {path}, got {[s.shape for s in tif.series]}")
            series = tif.series[0]
            attributes = {k: v for k, v in (tif.shaped_metadata or ({},))[0].items() if k != "shape"}
            named = series.axes.lower()
            if set(named) <= set("zyxc"):
                attributes.setdefault("axes", named)
            self.mapped = series.dataoffset is not None
            super().__init__(path, series.shape, series.dtype, attributes)

    def _open(self) -> Any:
        import tifffile

        return tifffile.memmap(self.path, mode="r") if self.mapped else tifffile.TiffFile(self.path).series[0]

    def read(self, slices: Slices) -> np.ndarray:
        if self.mapped:
            return self.handle()[slices]
        pages = self.handle().pages
        leading = len(self.shape) - len(pages.keyframe.shape)  # axes along which pages are stacked
        numbers = np.arange(len(pages)).reshape(self.shape[:leading])[slices[:leading]]
        read = [pages[int(n)].asarray()[slices[leading:]] for n in numbers.flat]
        if not read:
            return np.empty((0,), self.dtype)
        return np.stack(read).reshape(*numbers.shape, *read[0].shape)


class FolderStore(Store):
    """A folder of PNG or TIFF slices, in the natural order of their names: z2 comes before z10."""

    def __init__(self, path: Path, files: list[Path]):
        self.files = sorted(files, key=lambda f: [int(s) if s.isdigit() else s for s in re.split(r"(\d+)", f.name)])
        first = read_slice(self.files[0])
        super().__init__(path, (len(files), *first.shape), first.dtype, {})

    def _open(self) -> None:
        return None

    def read(self, slices: Slices) -> np.ndarray:
        out = [self._slice(file)[slices[1:]] for file in self.files[slices[0]]]
        return np.stack(out) if out else np.empty((0,), self.dtype)

    def _slice(self, file: Path) -> np.ndarray:
        image = read_slice(file)
        if image.shape != self.shape[1:] or image.dtype != self.dtype:
            raise ValueError(f"expected a slice of {self.shape[1:]} {self.dtype} in {file}, got {image.shape} "
                             f"{image.dtype}")
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
