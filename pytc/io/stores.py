"""Arrays on disk: shape, dtype and attributes at once, voxels when they are read.

Metadata is read without tensorstore, and handles open on first read in each process: tensorstore
aborts a forked child of a process that has used it, so a reader must be able to cross into its
worker unopened. A process that has read a chunked format itself has to start its workers by
`forkserver` or `spawn`.
"""

import math
import os
import re
from collections.abc import Callable
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
import tifffile
from PIL.PngImagePlugin import PngImageFile

from pytc.checks import require
from pytc.io import standards
from pytc.io.standards import Standard, read_json

HDF5_SUFFIXES = (".h5", ".hdf5", ".hdf")
TIFF_SUFFIXES = (".tif", ".tiff")
SLICE_SUFFIXES = (".png", *TIFF_SUFFIXES)


@contextmanager
def expecting(what: str, *errors: type[Exception]):
    """A library's errors of these types as a ValueError that says what was expected."""
    try:
        yield
    except errors as error:
        raise ValueError(f"expected {what}, got {error}") from error


@contextmanager
def reading(what: str, path: str | Path):
    """Any failure to read a file as a ValueError that names it; one that does already stays."""
    try:
        yield
    except MemoryError:
        raise
    except Exception as error:
        if str(error).startswith("expected") and str(path) in str(error):
            raise
        told = isinstance(error, ValueError | OSError) and str(error)
        got = error if told else f"{type(error).__name__}: {error}"
        raise ValueError(f"expected {what} in {path}, got {got}") from error


class Stored(NamedTuple):
    """An array on disk as its format describes it; `opener` gives what is sliced like NumPy.

    An opener whose format has chunks takes `cache_bytes`: how many bytes of decoded chunks to keep.
    standard: what OME or ImageJ metadata say; the array's own attributes come before it.
    """

    shape: tuple[int, ...]
    dtype: Any
    attributes: dict[str, Any]
    opener: partial
    standard: Standard = Standard()


class Pages:
    """A stack (*stack, Y, X) whose pages are decoded one by one, each when it is needed."""

    def __init__(self, stack: tuple[int, ...], decode: Callable[[int], np.ndarray]):
        self.numbers, self.decode = np.arange(math.prod(stack)).reshape(stack), decode

    def __getitem__(self, slices: tuple[slice, ...]) -> np.ndarray:
        numbers = self.numbers[slices[: self.numbers.ndim]]
        read = np.stack(
            [self.decode(n)[slices[self.numbers.ndim :]] for n in numbers.ravel().tolist()]
        )
        return read.reshape(*numbers.shape, *read.shape[1:])


def split_path(path: str) -> tuple[Path, str | None]:
    """FILE.h5:DATASET or STORE.zarr:ARRAY as the file and what is inside it.

    The second is None if nothing is named.
    """
    match = re.fullmatch(r"(.+\.(?:h5|hdf5|hdf|zarr|n5)):(.+)", path, re.IGNORECASE)
    return (Path(match[1]), match[2].strip("/")) if match else (Path(path), None)


def open_stored(path: str) -> Stored:
    """The array that a path names.

    ValueError if it names none, with the arrays that are there, if it is not on this machine, or if
    what is there is broken.
    """
    require("://" not in path, "a local path, as volumes elsewhere are not read yet", path)
    file, inside = split_path(path)
    if file.is_dir() and inside:
        file, inside = file / inside, None
    if not file.exists():
        groups = [p for p in file.parents if p.suffix in (".zarr", ".n5") and p.is_dir()]
        there = f"; arrays there: {', '.join(map(str, list_arrays(groups[-1])))}" if groups else ""
        raise ValueError(f"expected a volume at {path}, but there is no such file or folder{there}")
    kind = "slices" if file.is_dir() else file.suffix.lower()
    formats = {
        "slices": open_folder,
        ".npy": open_npy,
        **dict.fromkeys(TIFF_SUFFIXES, open_tiff),
        **dict.fromkeys(HDF5_SUFFIXES, partial(open_hdf5, dataset=inside)),
    }
    require(kind in formats, "HDF5 (.h5), .zarr, .tif, .npy or a folder of slices", path)
    with reading(kind, file):
        return formats[kind](file)


def open_hdf5(path: Path, dataset: str | None) -> Stored:
    """A dataset in an HDF5 file; without a name, the only one there is."""
    with h5py.File(path, "r") as file:
        names = hdf5_datasets(file)
        chosen = dataset or (names[0] if len(names) == 1 else None)
        node = file.get(chosen) if chosen else None
        there = ", ".join(f"{path}:{name}" for name in names) or "none there"
        require(
            isinstance(node, h5py.Dataset), f"the name of a dataset in {path} ({there})", dataset
        )
        opener = partial(_hdf5_dataset, path, chosen, cache_bytes=0)
        return Stored(node.shape or (), node.dtype, dict(node.attrs), opener)


def hdf5_datasets(file: h5py.File) -> list[str]:
    names: list[str] = []
    file.visititems(
        lambda name, node: names.append(name) if isinstance(node, h5py.Dataset) else None
    )
    return sorted(names)


def _hdf5_dataset(path: Path, name: str, cache_bytes: int) -> h5py.Dataset:
    # of this dataset: those of a file open already are shared
    access = h5py.h5p.create(h5py.h5p.DATASET_ACCESS)
    # one chunk a slot: many, so that few collide
    access.set_chunk_cache(100_003, max(cache_bytes, 2**20), 0.0)
    return h5py.Dataset(h5py.h5d.open(h5py.File(path, "r").id, name.encode(), access))


def open_npy(path: Path) -> Stored:
    """A .npy file, mapped into memory."""
    with open(path, "rb") as file:
        first = file.read(len(np.lib.format.MAGIC_PREFIX))
    require(first == np.lib.format.MAGIC_PREFIX, f"a .npy array in {path}", first)
    opener = partial(np.load, path, mmap_mode="r")
    with expecting(f"a .npy array of numbers in {path}", ValueError):
        return Stored(opener().shape, opener().dtype, {}, opener)


def open_tiff(path: Path) -> Stored:
    """A TIFF stack, mapped into memory if it is stored plainly.

    Else the pages that are needed are decoded.
    """
    with tifffile.TiffFile(path) as tif:
        require(
            len(tif.series) == 1,
            f"one image stack in {path}",
            [series.shape for series in tif.series],
        )
        series = tif.series[0]
        attributes = {k: v for k, v in (tif.shaped_metadata or ({},))[0].items() if k != "shape"}
        named = series.axes.lower().replace("s", "c")  # samples of a pixel are channels
        if sorted(named) == sorted("zyxc"[: len(named)]):
            attributes.setdefault("axes", named)
        standard = standards.of_tiff(tif, named)
        opener = partial(tifffile.memmap, path, mode="r")
        if series.dataoffset is None:
            opener = partial(_tiff_pages, path)
            with expecting(f"pages that tifffile can decode in {path}", ValueError):
                series.keyframe.asarray()
        return Stored(series.shape, series.dtype, attributes, opener, standard)


def _tiff_pages(path: Path) -> Pages:
    series = tifffile.TiffFile(path).series[0]
    # axes along which pages follow each other
    stack = series.shape[: len(series.shape) - len(series.keyframe.shape)]
    return Pages(stack, lambda n: series.pages[n].asarray())


def open_folder(path: Path) -> Stored:
    """The array in a folder, or slices in the natural order of their names.

    The array is Zarr 2 or 3, N5 or precomputed, the only one of a group, or the finest level of an
    OME-Zarr group.
    """
    if finest := standards.finest_level(path):
        return open_chunked(finest)
    if len(arrays := list_arrays(path)) == 1:
        return open_chunked(arrays[0])
    slices = [f for f in path.iterdir() if f.suffix.lower() in SLICE_SUFFIXES and f.name[0] != "."]
    if not slices:
        raise ValueError(
            f"expected an array, or slices as {', '.join(SLICE_SUFFIXES)}, in {path}; "
            f"arrays there: {', '.join(map(str, arrays)) or 'none'}"
        )
    # z2 before z10
    slices.sort(key=lambda f: [int(s) if s.isdigit() else s for s in re.split(r"(\d+)", f.name)])
    first = read_slice(slices[0])
    decode = partial(_slice_like, first.shape, first.dtype, slices)
    return Stored(
        (len(slices), *first.shape), first.dtype, {}, partial(Pages, (len(slices),), decode)
    )


def open_chunked(path: Path) -> Stored:
    """The Zarr, N5 or precomputed array in a folder, without axes that are there for form's sake.

    These are t and c of length 1 in OME-Zarr, and the only channel of a precomputed volume.
    """
    driver, shape, dtype, attributes = chunked_array(path)
    require(driver, f"a Zarr, N5 or precomputed array in {path}", "none")
    standard, left_out = Standard(), ()
    if driver in ("zarr", "zarr3"):
        standard = standards.of_zarr_array(path, len(shape))
    if standard.axes:
        named = list(zip(standard.axes, shape))
        times = dict(named).get("t", 1)
        require(times == 1, f"one time point in {path}", times)
        left_out = tuple(i for i, (axis, n) in enumerate(named) if axis in "tc" and n == 1)
        kept = "".join(axis for i, axis in enumerate(standard.axes) if i not in left_out)
        standard = standard._replace(axes=kept)
        shape = [n for i, n in enumerate(shape) if i not in left_out]
    elif driver == "neuroglancer_precomputed" and len(shape) == 3:
        left_out = (3,)
    opener = partial(_tensorstore, path, left_out, driver=driver, cache_bytes=0)
    return Stored(shape, dtype, attributes, opener, standard)


def read_slice(path: Path) -> np.ndarray:
    """A grey image (Y, X); one in colour is grey if its red, green and blue are equal."""
    with reading("an image", path):
        if path.suffix.lower() == ".png":
            # not Image.open, which refuses large slices as an attack
            array = np.asarray(PngImageFile(path))
        else:
            array = tifffile.imread(path)
        if array.ndim == 3 and array.shape[-1] in (2, 3, 4):  # 2 and 4: the last is opacity
            colours = array[..., : 1 if array.shape[-1] == 2 else 3]
            grey = (colours == colours[..., :1]).all()
            require(grey, f"grey values in {path}; convert the slices to grey", "colours")
            array = colours[..., 0]
        require(array.ndim == 2, f"a grey image of shape (y, x) in {path}", array.shape)
        return array


def _slice_like(
    shape: tuple[int, ...], dtype: np.dtype, files: list[Path], number: int
) -> np.ndarray:
    image, wanted = read_slice(files[number]), f"{shape} {dtype}"
    got = f"{image.shape} {image.dtype}"
    require(got == wanted, f"{wanted} in {files[number]} like in the first slice", got)
    return image


def _tensorstore(path: Path, left_out: tuple[int, ...], driver: str, cache_bytes: int) -> Any:
    import tensorstore

    spec = {"driver": driver, "kvstore": {"driver": "file", "path": f"{path}/"}}
    if cache_bytes:
        spec |= {"recheck_cached_data": "open", "recheck_cached_metadata": "open"}
    context = tensorstore.Context({"cache_pool": {"total_bytes_limit": cache_bytes}})
    array = tensorstore.open(spec, context=context).result()
    array = array[tensorstore.d[:].translate_to[0]]  # a precomputed volume may start anywhere
    return array[tuple(0 if axis in left_out else slice(None) for axis in range(array.rank))]


def chunked_array(path: Path) -> tuple[str | None, list[int], str, dict[str, Any]]:
    """tensorstore's driver, shape, dtype and attributes of the array in a folder.

    The driver is None if the folder is not one. It may be Zarr 2, Zarr 3, N5, and of a precomputed
    volume the first scale, the finest.
    """
    if meta := read_json(path / ".zarray"):
        return "zarr", meta["shape"], meta["dtype"], read_json(path / ".zattrs")
    if (meta := read_json(path / "zarr.json")).get("node_type") == "array":
        return "zarr3", meta["shape"], meta["data_type"], meta.get("attributes", {})
    if "dimensions" in (meta := read_json(path / "attributes.json")):
        shape = meta["dimensions"]
        return "n5", shape, meta["dataType"], {"axes": "xyzc"[: len(shape)]} | meta
    if "scales" in (meta := read_json(path / "info")):
        full, channels = (
            meta["scales"][0],
            [meta["num_channels"]] if meta["num_channels"] > 1 else [],
        )
        shape = [*full["size"], *channels]
        attributes = {"axes": "xyzc"[: len(shape)], "voxel_size": full["resolution"]}
        return "neuroglancer_precomputed", shape, meta["data_type"], attributes
    return None, [], "", {}


def is_zarr(path: Path) -> bool:
    """Whether a folder is a Zarr array."""
    return chunked_array(path)[0] in ("zarr", "zarr3")


def list_arrays(path: Path) -> list[Path]:
    """The array that a folder is, or those in the Zarr or N5 group that it is.

    Groups below that group count too.
    """
    markers = (".zarray", ".zgroup", "zarr.json", "attributes.json", "info")
    if path.suffix not in (".zarr", ".n5") and not any(
        (path / marker).exists() for marker in markers
    ):
        return []
    found = []
    for root, folders, _ in os.walk(path):
        if chunked_array(Path(root))[0]:
            found.append(Path(root))
            folders.clear()
    return sorted(found)
