"""Arrays on disk: shape, dtype and attributes at once, voxels when they are read.

Metadata is read without tensorstore, and handles open on first read in each process: tensorstore aborts a forked
child of a process that has used it, so a reader must be able to cross into its worker unopened. A process that has
read a chunked format itself has to start its workers by `forkserver` or `spawn`.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import tifffile
from PIL import Image

from pytc.config import require

HDF5_SUFFIXES = (".h5", ".hdf5", ".hdf")
TIFF_SUFFIXES = (".tif", ".tiff")
SLICE_SUFFIXES = (".png", *TIFF_SUFFIXES)
Slices = tuple[slice, ...]
Image.MAX_IMAGE_PIXELS = None  # slices of EM are larger than what Pillow takes for an attack


class Store:
    """An array on disk: `shape`, `dtype` and `attributes`; `opener` gives what is sliced like NumPy, once a process."""

    writable = False

    def __init__(self, path: Path, shape: tuple[int, ...], dtype: Any, attributes: dict[str, Any],
                 opener: Callable[[], Any] | None):  # fmt: skip
        self.path = path
        self.shape = tuple(int(n) for n in shape)
        self.dtype = native_dtype(dtype, path)
        self.attributes = plain(attributes)
        self.opener = opener
        self._handle, self._pid = None, None

    def handle(self) -> Any:
        if self._pid != os.getpid():
            self._handle = None  # what a fork copied from its parent goes first, or HDF5 would share its descriptor
            self._handle, self._pid = self.opener(), os.getpid()
        return self._handle

    def keep_decoded(self, size: int) -> None:
        """Keep up to `size` bytes of decoded chunks, in formats that have chunks; for handles still to be opened."""
        if self.opener.func in (_hdf5_dataset, _tensorstore):
            self.opener = partial(self.opener, cache_bytes=size)

    def read(self, slices: Slices) -> np.ndarray:
        handle = self.handle()
        return np.array(handle[slices]) if isinstance(handle, np.memmap) else np.asarray(handle[slices])

    def write(self, slices: Slices, values: np.ndarray) -> None:
        if not self.writable:
            raise ValueError(f"{self.path} is open for reading; write to a volume from create_volume")
        self.handle()[slices] = values

    def finish(self, success: bool) -> None:
        self._handle, self._pid = None, None

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_handle": None, "_pid": None}


class Pages:
    """A stack (*stack, Y, X) whose pages are decoded one by one, each when it is needed."""

    def __init__(self, stack: tuple[int, ...], decode: Callable[[int], np.ndarray]):
        self.numbers, self.decode = np.arange(math.prod(stack)).reshape(stack), decode

    def __getitem__(self, slices: Slices) -> np.ndarray:
        numbers = self.numbers[slices[: self.numbers.ndim]]
        read = np.stack([self.decode(n)[slices[self.numbers.ndim :]] for n in numbers.ravel().tolist()])
        return read.reshape(*numbers.shape, *read.shape[1:])


def native_dtype(dtype: Any, path: Path) -> np.dtype:
    """`dtype` in this machine's byte order; ValueError unless it is bool, an integer or a float."""
    try:
        dtype = np.dtype(dtype)
    except TypeError:
        dtype = np.dtype(object)
    require(dtype.kind in "buif", f"voxels of {path} that are bool, integer or float", str(dtype))
    return dtype.newbyteorder("=")


def plain(attributes: dict[str, Any]) -> dict[str, Any]:
    """Attributes as JSON has them: numbers, strings, lists, dicts; of anything else its text."""
    def simple(value: Any) -> Any:
        text = value.decode(errors="replace") if isinstance(value, bytes) else str(value)
        return value.tolist() if hasattr(value, "tolist") else text

    return json.loads(json.dumps(attributes, default=simple))


def split_path(path: str) -> tuple[Path, str | None]:
    """FILE.h5:DATASET or STORE.zarr:ARRAY as the file and what is inside it, None if nothing is named."""
    match = re.fullmatch(r"(.+\.(?:h5|hdf5|hdf|zarr|n5)):(.+)", path, re.IGNORECASE)
    return (Path(match[1]), match[2].strip("/")) if match else (Path(path), None)


def open_store(path: str) -> Store:
    """The array that a path names; ValueError, with the arrays that are there, if it names none."""
    file, inside = split_path(path)
    if file.is_dir() and inside:
        file, inside = file / inside, None
    if not file.exists():
        groups = [p for p in file.parents if p.suffix in (".zarr", ".n5") and p.is_dir()]
        there = f"; arrays there: {', '.join(map(str, list_arrays(groups[-1])))}" if groups else ""
        raise ValueError(f"expected a volume at {path}, but there is no such file or folder{there}")
    kind = "slices" if file.is_dir() else file.suffix.lower()
    formats = {"slices": open_folder, ".npy": open_npy, **dict.fromkeys(TIFF_SUFFIXES, open_tiff),
               **dict.fromkeys(HDF5_SUFFIXES, partial(open_hdf5, dataset=inside))}  # fmt: skip
    if kind not in formats:
        raise ValueError(f"expected HDF5 (.h5), .zarr, .tif, .npy or a folder of slices, got {path}")
    try:
        return formats[kind](file)
    except (OSError, tifffile.TiffFileError) as error:
        raise ValueError(f"expected {kind} in {path}, got {error}") from error


def open_hdf5(path: Path, dataset: str | None) -> Store:
    """A dataset in an HDF5 file; without a name, the only one there is."""
    with h5py.File(path, "r") as file:
        names = hdf5_datasets(file)
        chosen = dataset or (names[0] if len(names) == 1 else None)
        node = file.get(chosen) if chosen else None
        if not isinstance(node, h5py.Dataset):
            wanted = f"a dataset {dataset!r}" if dataset else "the name of a dataset"
            there = ", ".join(f"{path}:{name}" for name in names) or "none"
            raise ValueError(f"expected {wanted} in {path}; datasets there: {there}")
        return Store(path, node.shape or (), node.dtype, dict(node.attrs), partial(_hdf5_dataset, path, chosen))


def hdf5_datasets(file: h5py.File) -> list[str]:
    names: list[str] = []
    file.visititems(lambda name, node: names.append(name) if isinstance(node, h5py.Dataset) else None)
    return sorted(names)


def _hdf5_dataset(path: Path, name: str, cache_bytes: int = 0) -> h5py.Dataset:
    file = h5py.File(path, "r")
    if not cache_bytes:
        return file[name]
    access = h5py.h5p.create(h5py.h5p.DATASET_ACCESS)  # of this dataset: those of a file open already are shared
    access.set_chunk_cache(100_003, cache_bytes, 0.0)  # one chunk a slot: many, so that few collide
    return h5py.Dataset(h5py.h5d.open(file.id, name.encode(), access))


def open_npy(path: Path) -> Store:
    """A .npy file, mapped into memory."""
    mapped = partial(np.load, path, mmap_mode="r")
    try:
        return Store(path, mapped().shape, mapped().dtype, {}, mapped)
    except ValueError as error:
        raise ValueError(f"expected a .npy array of numbers at {path}, got {error}") from error


def open_tiff(path: Path) -> Store:
    """A TIFF stack: mapped into memory if it is stored plainly, else the pages that are needed are decoded."""
    with tifffile.TiffFile(path) as tif:
        if len(tif.series) != 1:
            raise ValueError(f"expected one image stack in {path}, got {[s.shape for s in tif.series]}")
        series = tif.series[0]
        attributes = {k: v for k, v in (tif.shaped_metadata or ({},))[0].items() if k != "shape"}
        named = series.axes.lower()
        if sorted(named) == sorted("zyxc"[: len(named)]):
            attributes.setdefault("axes", named)
        mapped = series.dataoffset is not None
        try:
            if not mapped:
                series.keyframe.asarray()
        except ValueError as error:
            raise ValueError(f"expected pages that tifffile can decode in {path}, got {error}") from error
        opener = partial(tifffile.memmap, path, mode="r") if mapped else partial(_tiff_pages, path)
        return Store(path, series.shape, series.dtype, attributes, opener)


def _tiff_pages(path: Path) -> Pages:
    series = tifffile.TiffFile(path).series[0]
    stack = series.shape[: len(series.shape) - len(series.keyframe.shape)]  # axes along which pages follow each other
    return Pages(stack, lambda n: series.pages[n].asarray())


def open_folder(path: Path) -> Store:
    """A Zarr 2 or 3, N5 or precomputed array, a group with only one, or slices in the natural order of their names."""
    if chunked_driver(path):
        return open_chunked(path)
    slices = [f for f in path.iterdir() if f.suffix.lower() in SLICE_SUFFIXES and f.name[0] != "."]
    if slices:  # z2 comes before z10
        slices.sort(key=lambda f: [int(s) if s.isdigit() else s for s in re.split(r"(\d+)", f.name)])
        first = read_slice(slices[0])
        decode = partial(_slice_like, first.shape, first.dtype, slices)
        return Store(path, (len(slices), *first.shape), first.dtype, {}, partial(Pages, (len(slices),), decode))
    arrays = list_arrays(path)
    if len(arrays) != 1:
        raise ValueError(f"expected an array, or slices as {', '.join(SLICE_SUFFIXES)}, in {path}; "
                         f"arrays there: {', '.join(map(str, arrays)) or 'none'}")
    return open_chunked(arrays[0])


def read_slice(path: Path) -> np.ndarray:
    """A grey image (Y, X)."""
    array = np.asarray(Image.open(path)) if path.suffix.lower() == ".png" else tifffile.imread(path)
    require(array.ndim == 2, f"a grey image of shape (y, x) in {path}", array.shape)
    return array


def _slice_like(shape: tuple[int, ...], dtype: np.dtype, files: list[Path], number: int) -> np.ndarray:
    image, wanted = read_slice(files[number]), f"{shape} {dtype}"
    if f"{image.shape} {image.dtype}" != wanted:
        raise ValueError(f"expected {wanted} in {files[number]} like in the first slice, "
                         f"got {image.shape} {image.dtype}")
    return image


def open_chunked(path: Path) -> Store:
    """A Zarr 2 or 3, N5 or precomputed array in a folder."""
    driver, shape, dtype, attributes = chunked_array(path)
    return Store(path, shape, dtype, attributes, partial(_tensorstore, path, driver, len(shape)))


def _tensorstore(path: Path, driver: str, rank: int, cache_bytes: int = 0) -> Any:
    import tensorstore

    spec, context = {"driver": driver, "kvstore": {"driver": "file", "path": f"{path}/"}}, None
    if cache_bytes:
        context = tensorstore.Context({"cache_pool": {"total_bytes_limit": cache_bytes}})
        spec |= {"recheck_cached_data": "open", "recheck_cached_metadata": "open"}
    array = tensorstore.open(spec, context=context).result()
    array = array[tensorstore.d[:].translate_to[0]]  # a precomputed volume may start anywhere
    return array[..., 0] if array.rank > rank else array


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
    return (chunked_array(path) or (None,))[0]


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
