"""File formats: HDF5, .npy, TIFF stacks and folders of slices; a path becomes a `Stored` array.

To add a format, write a function that opens its files and one that creates them, and name both in
FILE_FORMATS. Formats that are folders of chunks are in `chunked`.
"""

import math
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
import tifffile
from PIL.PngImagePlugin import PngImageFile

from pytc.checks import require
from pytc.io import standards
from pytc.io.chunked import list_arrays, open_chunked
from pytc.io.microscopy import open_mrc, open_nrrd
from pytc.io.remote import Folder, RemoteFolder, local_path, parse_folder
from pytc.io.stored import NewArray, Stored, expecting, reading

HDF5_SUFFIXES = (".h5", ".hdf5", ".hdf")
TIFF_SUFFIXES = (".tif", ".tiff")
SLICE_SUFFIXES = (".png", *TIFF_SUFFIXES)


class FileFormat(NamedTuple):
    """How a single file is opened, and created at a temporary path.

    open: describes the array of a file, and of a dataset in it where the path names one.
    create: makes a file for an array, and returns what is sliced and assigned to like NumPy.
        TypeError or ValueError names what the format cannot hold. None: it is only read.
    """

    open: Callable[..., Stored]
    create: Callable[[Path, NewArray], Any] | None = None


def split_path(path: str) -> tuple[Folder, str | None]:
    """FILE.h5:DATASET or STORE.zarr:ARRAY as the file and the name inside it, None without one.

    The file may be a URL.
    """
    match = re.fullmatch(r"(.+\.(?:h5|hdf5|hdf|zarr|n5)):(.+)", path, re.IGNORECASE)
    if match is None:
        return parse_folder(path), None
    return parse_folder(match[1]), match[2].strip("/")


def open_stored(path: str) -> Stored:
    """The array that a path names.

    Raises:
        ValueError: the path names no array (the message lists the arrays that exist), or the file
            is broken, or cannot be reached.
    """
    file, inside = split_path(path)
    if isinstance(file, RemoteFolder):
        with reading("an array", file):
            return open_remote(file, inside)
    if file.is_dir() and inside:
        file, inside = file / inside, None
    if not file.exists():
        raise ValueError(
            f"expected a volume at {path}, but there is no such file or folder{_arrays_near(file)}"
        )
    if file.is_dir():
        with reading("slices", file):
            return open_folder(file)
    suffix = file.suffix.lower()
    suffixes = ", ".join(FILE_FORMATS)
    require(suffix in FILE_FORMATS, f"{suffixes}, .zarr or a folder of slices", path)
    with reading(suffix, file):
        if inside is None:
            return FILE_FORMATS[suffix].open(file)
        return FILE_FORMATS[suffix].open(file, inside)


def _arrays_near(file: Path) -> str:
    """The arrays of the store that a missing path leads into, for the error; empty if none does."""
    stores = [
        folder for folder in file.parents if folder.suffix in (".zarr", ".n5") and folder.is_dir()
    ]
    if not stores:
        return ""
    return f"; arrays in the store: {', '.join(map(str, list_arrays(stores[-1])))}"


class Pages:
    """A stack (*stack, Y, X) whose pages are decoded one by one, each when it is read.

    stack: lengths of the axes before those of a page. decode: of a page's number, its voxels.
    """

    def __init__(self, stack: tuple[int, ...], decode: Callable[[int], np.ndarray]):
        self.numbers = np.arange(math.prod(stack)).reshape(stack)
        self.decode = decode

    def __getitem__(self, slices: tuple[slice, ...]) -> np.ndarray:
        of_stack, of_page = slices[: self.numbers.ndim], slices[self.numbers.ndim :]
        numbers = self.numbers[of_stack]
        pages = np.stack([self.decode(number)[of_page] for number in numbers.ravel().tolist()])
        return pages.reshape(*numbers.shape, *pages.shape[1:])


# --- HDF5 ---


def open_hdf5(path: Path, dataset: str | None = None) -> Stored:
    """A dataset in an HDF5 file; without a name, the only dataset of the file."""
    with h5py.File(path, "r") as file:
        names = hdf5_datasets(file)
        name = dataset
        if name is None and len(names) == 1:
            name = names[0]
        node = file.get(name) if name else None
        if name is None or not isinstance(node, h5py.Dataset):
            listed = ", ".join(f"{path}:{each}" for each in names) or "it has none"
            raise ValueError(
                f"expected the name of a dataset in {path} ({listed}), got {dataset!r}"
            )
        return Stored(
            node.shape or (),
            node.dtype,
            dict(node.attrs),
            partial(_open_dataset, path, name),
            has_chunks=True,
        )


def hdf5_datasets(file: h5py.File) -> list[str]:
    """The names of all datasets of a file, in alphabetical order."""
    names: list[str] = []

    def note(name: str, node: Any) -> None:
        if isinstance(node, h5py.Dataset):
            names.append(name)

    file.visititems(note)
    return sorted(names)


def _open_dataset(path: Path, name: str, cache_bytes: int) -> h5py.Dataset:
    """A dataset with a cache of chunks for itself: h5py's is one for all datasets of a file."""
    access = h5py.h5p.create(h5py.h5p.DATASET_ACCESS)
    slots = 100_003  # a chunk each; many, so that few chunks compete for one
    access.set_chunk_cache(slots, max(cache_bytes, 2**20), 0.0)
    return h5py.Dataset(h5py.h5d.open(h5py.File(path, "r").id, name.encode(), access))


def create_hdf5(partial_path: Path, array: NewArray) -> h5py.Dataset:
    """A dataset of gzip-compressed chunks, in a new file that holds nothing else."""
    path = local_path(array.path)
    if path.exists():
        with h5py.File(path, "r") as file:
            names = hdf5_datasets(file)
        if names != [array.dataset]:
            held = ", ".join(names)
            raise ValueError(f"it is written whole, but holds more than {array.dataset}: {held}")
    dataset = h5py.File(partial_path, "w").create_dataset(
        array.dataset,
        array.shape,
        array.dtype,
        chunks=array.chunks,
        compression="gzip",
        compression_opts=1,
    )
    # HDF5 has no null: an attribute that is None is left out
    stated = {name: value for name, value in array.attributes.items() if value is not None}
    dataset.attrs.update(stated)
    return dataset


# --- NumPy ---


def open_npy(path: Path) -> Stored:
    """A .npy file, mapped into memory."""
    magic = np.lib.format.MAGIC_PREFIX
    with open(path, "rb") as file:
        first = file.read(len(magic))
    require(first == magic, f"a .npy array in {path}", first)
    open_voxels = partial(np.load, path, mmap_mode="r")
    with expecting(f"a .npy array of numbers in {path}", ValueError):
        array = open_voxels()
    return Stored(array.shape, array.dtype, {}, open_voxels)


def create_npy(partial_path: Path, array: NewArray) -> Any:
    """A .npy file, mapped into memory; it has no attributes, so only the default axes."""
    axes = array.attributes["axes"]
    if set(array.attributes) != {"axes"} or axes not in ("zyx", "czyx"):
        raise ValueError("a .npy file cannot hold them; take .zarr or .h5")
    return np.lib.format.open_memmap(partial_path, mode="w+", shape=array.shape, dtype=array.dtype)


# --- TIFF stacks ---


def open_tiff(path: Path) -> Stored:
    """A TIFF stack: mapped into memory if it is stored plainly, else decoded page by page."""
    with tifffile.TiffFile(path) as tif:
        shapes = [series.shape for series in tif.series]
        require(len(shapes) == 1, f"one image stack in {path}", shapes)
        series = tif.series[0]
        keyframe: Any = series.keyframe
        written_by_us = tif.shaped_metadata or ({},)
        attributes = {key: value for key, value in written_by_us[0].items() if key != "shape"}
        named = series.axes.lower().replace("s", "c")  # samples of a pixel are channels
        if sorted(named) == sorted("zyxc"[: len(named)]):
            attributes.setdefault("axes", named)
        open_voxels: Callable[..., Any] = partial(tifffile.memmap, path, mode="r")
        if series.dataoffset is None:
            open_voxels = partial(_decode_tiff, path)
            with expecting(f"pages that tifffile can decode in {path}", ValueError):
                keyframe.asarray()
        standard = standards.of_tiff(tif, named)
        return Stored(series.shape, series.dtype, attributes, open_voxels, standard)


def _decode_tiff(path: Path) -> Pages:
    series: Any = tifffile.TiffFile(path).series[0]
    # axes along which pages follow each other
    stack = series.shape[: len(series.shape) - len(series.keyframe.shape)]
    return Pages(stack, lambda number: series.pages[number].asarray())


def create_tiff(partial_path: Path, array: NewArray) -> Any:
    """A TIFF stack, mapped into memory; its attributes are in the first page's description."""
    if array.dtype.kind == "b":
        raise ValueError("a TIFF stack cannot hold bool; take uint8, or .zarr or .h5")
    return tifffile.memmap(
        partial_path,
        shape=array.shape,
        dtype=array.dtype,
        photometric="minisblack",
        metadata=array.attributes,
    )


# --- folders ---


def open_remote(folder: RemoteFolder, inside: str | None) -> Stored:
    """The array in a folder elsewhere, or inside it; of an OME-Zarr group its finest level.

    Files are not read from elsewhere, and other groups are not searched for arrays.
    """
    require(
        folder.suffix.lower() not in FILE_FORMATS,
        "a Zarr, N5 or precomputed array by URL; other files are read when they are on this "
        "machine",
        str(folder),
    )
    array = folder / (inside or "")
    return open_chunked(standards.finest_level(array) or array)


def open_folder(path: Path) -> Stored:
    """The array in a folder, or slices in the natural order of their names.

    The array is Zarr 2 or 3, N5 or precomputed, the only one of a group, or the finest level of an
    OME-Zarr group.
    """
    finest = standards.finest_level(path)
    if finest is not None:
        return open_chunked(finest)
    arrays = list_arrays(path)
    if len(arrays) == 1:
        return open_chunked(arrays[0])
    files = [
        file
        for file in path.iterdir()
        if file.suffix.lower() in SLICE_SUFFIXES and not file.name.startswith(".")
    ]
    if not files:
        raise ValueError(
            f"expected an array, or slices as {', '.join(SLICE_SUFFIXES)}, in {path}; "
            f"arrays in it: {', '.join(map(str, arrays)) or 'none'}"
        )
    files.sort(key=_natural_order)
    first = read_slice(files[0])
    shape = (len(files), *first.shape)
    return Stored(shape, first.dtype, {}, partial(_open_slices, files, first.shape, first.dtype))


def _natural_order(file: Path) -> list[int | str]:
    """A key that sorts z2 before z10."""
    parts = re.split(r"(\d+)", file.name)
    return [int(part) if part.isdigit() else part for part in parts]


def _open_slices(files: list[Path], shape: tuple[int, ...], dtype: np.dtype) -> Pages:
    wanted = f"{shape} {dtype}"

    def decode(number: int) -> np.ndarray:
        image = read_slice(files[number])
        got = f"{image.shape} {image.dtype}"
        require(got == wanted, f"{wanted} in {files[number]} like in the first slice", got)
        return image

    return Pages((len(files),), decode)


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
            grey = bool((colours == colours[..., :1]).all())
            require(grey, f"grey values in {path}; convert the slices to grey", "colours")
            array = colours[..., 0]
        require(array.ndim == 2, f"a grey image of shape (y, x) in {path}", array.shape)
    return array


FILE_FORMATS = {
    ".npy": FileFormat(open_npy, create_npy),
    **dict.fromkeys(TIFF_SUFFIXES, FileFormat(open_tiff, create_tiff)),
    **dict.fromkeys(HDF5_SUFFIXES, FileFormat(open_hdf5, create_hdf5)),
    **dict.fromkeys((".mrc", ".rec"), FileFormat(open_mrc)),
    **dict.fromkeys((".nrrd", ".nhdr"), FileFormat(open_nrrd)),
}


def file_writers() -> dict[str, Callable[[Path, NewArray], Any]]:
    """For each suffix of a file that can be written, what creates it."""
    return {
        suffix: file_format.create
        for suffix, file_format in FILE_FORMATS.items()
        if file_format.create is not None
    }
