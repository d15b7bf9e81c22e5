"""One way to read a volume and one to write it, whatever the format.

Arrays keep their stored axis order.
"""

from __future__ import annotations

import json
import os
import shutil
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import tifffile

from pytc.checks import require
from pytc.config import Lengths
from pytc.io import stores
from pytc.io.standards import NANOMETRES, Standard

# 64 voxels a side hold 256 KiB to 1 MiB: a training crop reads few voxels in vain, a block of 512
# is whole chunks, and one channel a chunk lets a decoder read the three short-range affinities
# alone.
CHUNK = 64


def open_volume(
    path: str | Path,
    *,
    axes: str | None = None,
    voxel_size: Lengths | None = None,
    transpose: str | None = None,
    writable: bool = False,
) -> Volume:
    """A stored volume, of which only what is asked for is read.

    path: FILE.h5:DATASET (HDF5; the dataset may be left out if there is one only), a Zarr 2 or 3,
    N5 or precomputed folder (STORE.zarr/ARRAY or STORE.zarr:ARRAY for an array inside; of an
    OME-Zarr group the finest level), a TIFF stack, a folder of PNG or TIFF slices, or .npy. axes
    (e.g. "zyx", "xyzc") and voxel_size (nm, spatial axes in stored order) are used instead of what
    the file says. transpose (e.g. "zyx"): the order in which the spatial axes are presented, their
    voxel size and offsets with them; channels keep their place. writable: whether more may be
    written to it, Zarr only. ValueError if there is no such array, or if what the file says about
    itself does not fit it.
    """
    volume = Volume(stores.open_stored(str(path)), path, axes, voxel_size, transpose)
    volume.writable = writable
    chunked = volume._opener.keywords.get("driver") in ("zarr", "zarr3")
    require(chunked or not writable, "a Zarr array to write more to", str(path))
    return volume


def create_volume(
    path: str | Path,
    shape: tuple[int, ...],
    dtype: Any,
    *,
    axes: str | None = None,
    voxel_size: Lengths | None = None,
    chunks: tuple[int, ...] | None = None,
    attributes: dict[str, Any] | None = None,
    overwrite: bool = False,
    zarr_format: int = 2,
) -> Volume:
    """A new volume to write to: .zarr, FILE.h5:DATASET, .tif or .npy.

    Its voxels are 0 until written. A single file appears under its name when the volume is closed,
    or the `with` block is left, without an error. A Zarr array exists at once; processes may write
    to it together if none shares a chunk with another. axes: by default zyx, or czyx. chunks: by
    default one channel of 64 voxels along each axis. attributes: anything JSON can say, e.g.
    offsets, activation; .npy holds none. ValueError if the path exists (unless overwrite), or
    cannot hold what is asked for.
    """
    saved = {"axes": "czyx"[-len(shape) :]} | (attributes or {}) | ({"axes": axes} if axes else {})
    saved |= {} if voxel_size is None else {"voxel_size": voxel_size, "unit": "nm"}
    # what a reader would refuse is not written
    wanted = Volume(stores.Stored(shape, dtype, saved, None), path)
    chunks = chunks or tuple(
        1 if axis == "c" else min(CHUNK, n) for axis, n in zip(wanted.axes, shape)
    )
    require(
        len(chunks) == len(shape) and min(chunks) > 0,
        f"chunks of {len(shape)} axes for shape {shape}",
        chunks,
    )
    file, inside = stores.split_path(str(path))
    if any(part.endswith(".zarr") for part in file.parts):
        _create_zarr(file / (inside or ""), wanted, chunks, overwrite, zarr_format)
        return open_volume(path, writable=True)
    known = file.suffix.lower() in (*stores.HDF5_SUFFIXES, *stores.TIFF_SUFFIXES, ".npy")
    require(known, "a path that ends in .zarr, .h5, .tif or .npy", str(path))
    if file.exists() and not overwrite:
        raise ValueError(f"{file} exists; remove it, or say overwrite=True")
    return NewFile(wanted, file, inside or "data", chunks)


class Volume(AbstractContextManager):
    """A stored array: `volume[slices]` in the order of `axes`, `read(start, stop)` as (C, Z, Y, X).

    axes: e.g. "zyx", "czyx", "xyzc": the stored order, but where it is transposed. voxel_size: nm,
    spatial axes in this order, or None. axes_from, voxel_size_from: who says so, e.g. "given" or
    "OME-Zarr"; empty where nobody does. attributes: all that is stored with it. offsets: of the
    affinity channels, or None. Picklable; a reader is safe to use after a fork.
    """

    writable = False

    def __init__(
        self,
        stored: stores.Stored,
        path: str | Path,
        axes: str | None = None,
        voxel_size: Lengths | None = None,
        transpose: str | None = None,
    ):
        self.path, self.shape = str(path), tuple(map(int, stored.shape))
        with stores.expecting(
            numbers := f"voxels of {path} that are bool, integer or float", TypeError
        ):
            self.dtype = np.dtype(stored.dtype).newbyteorder("=")
        require(self.dtype.kind in "buif", numbers, str(self.dtype))
        self.attributes = json.loads(json.dumps(stored.attributes, default=_plain))
        self.axes, self.axes_from = _axes(self, axes, stored.standard)
        self.voxel_size, self.voxel_size_from = _voxel_size(self, voxel_size, stored.standard)
        self.offsets = _offsets(self)
        self._opener, self._handle, self._pid = stored.opener, None, None
        # presented axis i is stored axis order[i]
        self._order = tuple(range(len(self.shape)))
        if transpose is not None:
            self._transpose(transpose)

    def _transpose(self, transpose: str) -> None:
        stored = self.spatial_axes
        fit = sorted(transpose) == sorted(stored)
        require(fit, f"axes to transpose {self.path} to, an order of {stored}", transpose)
        moved = [stored.index(axis) for axis in transpose]
        letters = iter(transpose)
        axes = "".join("c" if axis == "c" else next(letters) for axis in self.axes)
        self._order = tuple(self.axes.index(axis) for axis in axes)
        self.shape = tuple(self.shape[axis] for axis in self._order)
        self.axes = axes
        if self.voxel_size is not None:
            self.voxel_size = tuple(self.voxel_size[axis] for axis in moved)
        if self.offsets is not None:
            self.offsets = tuple(tuple(offset[axis] for axis in moved) for offset in self.offsets)

    @property
    def spatial_shape(self) -> tuple[int, int, int]:
        return tuple(n for n, axis in zip(self.shape, self.axes) if axis != "c")

    @property
    def spatial_axes(self) -> str:
        return self.axes.replace("c", "")

    @property
    def n_channels(self) -> int:
        return self.shape[self.axes.index("c")] if "c" in self.axes else 1

    @property
    def handle(self) -> Any:
        """What is sliced like NumPy; opened once a process."""
        if self._pid != os.getpid():
            # what a fork copied from its parent goes first, or HDF5 would share its descriptor
            self._handle = None
            with stores.reading("a readable volume", self.path):
                self._handle, self._pid = self._opener(), os.getpid()
        return self._handle

    def __getitem__(self, index: Any) -> np.ndarray:
        slices, shape = self._slices(index)
        if 0 in shape:
            return np.empty(shape, self.dtype)
        handle = self.handle
        with stores.reading("readable voxels", self.path):
            values = handle[self._stored(slices)]
            copied = np.array if isinstance(values, np.memmap) else np.asarray
            return copied(values, self.dtype).transpose(self._order).reshape(shape)

    def _stored(self, slices: tuple[slice, ...]) -> tuple[slice, ...]:
        """Slices of the presented axes in stored order."""
        return tuple(part for _, part in sorted(zip(self._order, slices), key=lambda pair: pair[0]))

    def __setitem__(self, index: Any, values: Any) -> None:
        slices, shape = self._slices(index)
        require(
            self.writable,
            "a volume from create_volume to write to",
            f"{self.path}, open for reading",
        )
        values = np.asarray(values)
        exact = values.astype(self.dtype, copy=False)
        same_kind = values.ndim == 0 or np.can_cast(values.dtype, self.dtype, "same_kind")
        kept = (
            self.dtype.kind == "f"
            or np.can_cast(values.dtype, self.dtype)
            or (exact == values).all()
        )
        require(
            same_kind and kept, f"values that fit {self.dtype} of {self.path}", str(values.dtype)
        )
        require(
            values.shape in ((), shape), f"values of shape {shape} for {self.path}", values.shape
        )
        lengths = [len(range(s.start, s.stop, s.step)) for s in slices]
        values = np.broadcast_to(exact, shape).reshape(lengths)
        self.handle[self._stored(slices)] = values.transpose(np.argsort(self._order))

    def read(self, start: tuple[int, int, int], stop: tuple[int, int, int]) -> np.ndarray:
        """The voxels from start up to stop as (C, Z, Y, X), channels first.

        start and stop: of spatial axes, in stored order.
        """
        bounds = zip(start, stop, self.spatial_shape)
        inside = len(start) == len(stop) == 3 and all(0 <= a < b <= n for a, b, n in bounds)
        require(inside, f"a box inside {self.spatial_shape} of {self.path}", (start, stop))
        spatial = map(slice, start, stop)
        values = self[tuple(slice(None) if axis == "c" else next(spatial) for axis in self.axes)]
        return np.ascontiguousarray(
            np.moveaxis(values, self.axes.index("c"), 0) if "c" in self.axes else values[None]
        )

    def read_channels(
        self, channels: list[int], planes: slice = slice(None), out: np.ndarray | None = None
    ):
        """Some channels as (len(channels), Z, Y, X).

        planes: along the first spatial axis; out: to be filled.
        """
        lengths = (len(range(*planes.indices(self.spatial_shape[0]))), *self.spatial_shape[1:])
        out = np.empty((len(channels), *lengths), self.dtype) if out is None else out
        for channel, values in zip(channels, out):
            box = iter((planes, slice(None), slice(None)))
            values[...] = self[tuple(channel if axis == "c" else next(box) for axis in self.axes)]
        return out

    def keep_decoded(self, size: int) -> None:
        """Let each process keep up to `size` bytes of the chunks it decodes.

        Then reads that share a chunk decode it once, in formats that have chunks. To be said before
        the first read.
        """
        if "cache_bytes" in self._opener.keywords:
            self._opener = partial(self._opener, cache_bytes=size)

    def close(self) -> None:
        """Finish a created single file under its name; let go of what is open."""
        self._finish(True)

    def __exit__(self, kind, error, trace) -> None:
        self._finish(kind is None)

    def _finish(self, success: bool) -> None:
        self._handle, self._pid = None, None

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_handle": None, "_pid": None}

    def __repr__(self) -> str:
        return (
            f"Volume({self.path}, {self.axes} {self.shape} {self.dtype}, "
            f"voxel size {self.voxel_size} nm)"
        )

    def _slices(self, index: Any) -> tuple[tuple[slice, ...], tuple[int, ...]]:
        """An index as one slice an axis with known start, stop and step, and the shape it names."""
        index = index if isinstance(index, tuple) else (index,)
        at = index.index(...) if ... in index else len(index)
        full = (slice(None),) * (len(self.shape) - len(index[:at] + index[at + 1 :]))
        full = index[:at] + full + index[at + 1 :]
        with stores.expecting(
            f"an index into {self.shape} of {self.path}", IndexError, TypeError, ValueError
        ):
            parts = [range(length)[item] for length, item in zip(self.shape, full, strict=True)]
        ranges = [part if isinstance(part, range) else range(part, part + 1) for part in parts]
        require(all(r.step > 0 for r in ranges), "slices with a positive step", index)
        shape = tuple(len(part) for part in parts if isinstance(part, range))
        return tuple(slice(r.start, max(r.start, r.stop), r.step) for r in ranges), shape


def _plain(value: Any) -> Any:
    """What JSON cannot say as what it can: a number, a list, or text."""
    text = value.decode(errors="replace") if isinstance(value, bytes) else str(value)
    return value.tolist() if hasattr(value, "tolist") else text


def _axes(volume: Volume, given: str | None, standard: Standard) -> tuple[str, str]:
    """The order of the axes, and who says so: the argument, the attributes, a standard, or nobody.

    Where nobody says, three axes are zyx, and four are czyx if the first is clearly the shortest.
    """
    path, shape = volume.path, volume.shape
    require(
        len(shape) in (3, 4) and min(shape) > 0,
        f"three axes, or four with channels, none empty, in {path}",
        shape,
    )
    stated = (
        (given, "given"),
        (volume.attributes.get("axes"), "attributes"),
        (standard.axes, standard.name),
    )
    axes, origin = next((pair for pair in stated if pair[0]), (None, ""))
    clear = axes or len(shape) == 3 or shape[0] < min(shape[1:])
    require(
        clear, f"axes for a volume of shape {shape}, e.g. czyx or xyzc: {path} does not say", axes
    )
    known = "zyxc"[: len(shape)]
    names = "".join(map(str, axes or "czyx"[-len(shape) :])).lower()
    require(
        sorted(names) == sorted(known),
        f"axes in an order of {known} for shape {shape} of {path}",
        axes,
    )
    return names, origin


def _voxel_size(
    volume: Volume, given: Lengths | None, standard: Standard
) -> tuple[Lengths | None, str]:
    """Lengths in nm, spatial axes in stored order, and who says so; None, "" if nobody does."""
    lengths, origin = given, "given"
    if lengths is None:
        lengths, origin = _attributed_voxel_size(volume), "attributes"
    if lengths is None:
        lengths, origin = standard.voxel_size, standard.name
    if lengths is None:
        return None, ""
    lengths = tuple(map(float, lengths))
    positive = len(lengths) == 3 and min(lengths) > 0
    require(positive, f"a voxel size of three positive lengths in nm for {volume.path}", lengths)
    return lengths, origin


def _attributed_voxel_size(volume: Volume) -> list[float] | None:
    """What the attributes `voxel_size` or `resolution`, in `unit` or `units`, say, in nm."""
    path, attributes = volume.path, volume.attributes
    stored = [
        attributes[key] for key in ("voxel_size", "resolution") if attributes.get(key) is not None
    ]
    if not stored:
        return None
    agree = all(
        isinstance(lengths, list) and len(lengths) == 3 and lengths == stored[0]
        for lengths in stored
    )
    require(agree, f"one voxel size of three lengths in {path}", stored)
    units = attributes.get("unit") or attributes.get("units") or "nm"
    units = [units] * 3 if isinstance(units, str) else units
    known = len(units) == 3 and set(units) <= set(NANOMETRES)
    require(known, f"units from {', '.join(NANOMETRES)} in {path}", units)
    return [length * NANOMETRES[unit] for length, unit in zip(stored[0], units)]


def _offsets(volume: Volume) -> tuple[tuple[int, int, int], ...] | None:
    """Those of the affinity channels, spatial axes in stored order, from the attributes."""
    offsets = volume.attributes.get("offsets")
    if offsets is None:
        return None
    whole, channels = np.array(offsets), volume.n_channels
    fit = whole.shape == (channels, 3) and whole.dtype.kind in "iu"
    require(fit, f"three whole voxels for each of {channels} offsets in {volume.path}", offsets)
    return tuple(map(tuple, whole.tolist()))


class NewFile(Volume):
    """A single file like `wanted`, written under a temporary name by its creating process."""

    writable = True

    def __init__(self, wanted: Volume, file: Path, dataset: str, chunks: tuple[int, ...]):
        self.__dict__ |= wanted.__dict__
        self._file, self._pid = file, os.getpid()
        self._partial = file.with_name(f"{file.name}.{self._pid}.partial")
        require(
            not self._partial.exists(),
            f"no other writer: {file} is being written",
            str(self._partial),
        )
        file.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._handle = self._create(file.suffix.lower(), dataset, chunks)
        except (TypeError, ValueError) as error:
            self._partial.unlink(missing_ok=True)
            raise ValueError(
                f"cannot create {file} with attributes {self.attributes}: {error}"
            ) from error

    def _create(
        self, suffix: str, dataset: str, chunks: tuple[int, ...]
    ) -> h5py.Dataset | np.memmap:
        if suffix == ".npy":
            if set(self.attributes) != {"axes"} or self.attributes["axes"] not in ("zyx", "czyx"):
                raise ValueError("a .npy file cannot hold them; take .zarr or .h5")
            return np.lib.format.open_memmap(
                self._partial, mode="w+", shape=self.shape, dtype=self.dtype
            )
        if suffix in stores.TIFF_SUFFIXES:
            if self.dtype.kind == "b":
                raise ValueError("a TIFF stack cannot hold bool; take uint8, or .zarr or .h5")
            return tifffile.memmap(
                self._partial,
                shape=self.shape,
                dtype=self.dtype,
                photometric="minisblack",
                metadata=self.attributes,
            )
        if self._file.exists():
            with h5py.File(self._file, "r") as file:
                if (names := stores.hdf5_datasets(file)) != [dataset]:
                    raise ValueError(
                        f"it is written whole, but holds more than {dataset}: {', '.join(names)}"
                    )
        packed = {"chunks": chunks, "compression": "gzip", "compression_opts": 1}
        made = h5py.File(self._partial, "w").create_dataset(
            dataset, self.shape, self.dtype, **packed
        )
        made.attrs.update(self.attributes)
        return made

    @property
    def handle(self) -> Any:
        ours = self._handle is not None and self._pid == os.getpid()
        return self._handle if ours else self.__getstate__()  # which raises, and says why

    def _finish(self, success: bool) -> None:
        if (
            self._handle is None or self._pid != os.getpid()
        ):  # a forked child leaves its parent's file alone
            return
        handle, self._handle = self._handle, None
        handle.flush() if isinstance(handle, np.memmap) else handle.file.close()
        self._partial.replace(self._file) if success else self._partial.unlink()

    def __getstate__(self) -> dict[str, Any]:
        raise ValueError(
            f"{self._file} is closed (open_volume reads it), or not of this process: only the "
            "process that created it writes it; several can write to a .zarr"
        )


def _create_zarr(
    path: Path, wanted: Volume, chunks: tuple[int, ...], overwrite: bool, zarr_format: int
) -> None:
    """A new Zarr array of blosc-compressed chunks (zstd, shuffled), and the groups above it."""
    import tensorstore

    require(zarr_format in (2, 3), "a zarr_format of 2 or 3", zarr_format)
    if path.exists() and not (overwrite and stores.is_zarr(path)):
        raise ValueError(f"{path} exists; remove it, or say overwrite=True if it is a Zarr array")
    groups = [
        group for group in path.parents if any(part.endswith(".zarr") for part in group.parts)
    ]
    arrays = [str(group) for group in groups if stores.is_zarr(group)]
    require(not arrays, f"groups above {path}, none of which is an array", arrays)
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir(parents=True)
    blosc, dtype = {"cname": "zstd", "clevel": 5}, wanted.dtype
    if zarr_format == 2:
        driver, marker, group_content = "zarr", ".zgroup", {"zarr_format": 2}
        # an array never lacks its attributes
        (path / ".zattrs").write_text(json.dumps(wanted.attributes, indent=1))
        metadata = {
            "chunks": chunks,
            "dtype": dtype.str,
            "fill_value": np.zeros((), dtype).item(),
            "dimension_separator": "/",
            "compressor": {"id": "blosc", "shuffle": 1, **blosc},
        }
    else:
        driver, marker, group_content = (
            "zarr3",
            "zarr.json",
            {"zarr_format": 3, "node_type": "group"},
        )
        codec = {
            "name": "blosc",
            "configuration": {"typesize": dtype.itemsize, "shuffle": "shuffle", **blosc},
        }
        metadata = {
            "data_type": dtype.name,
            "attributes": wanted.attributes,
            "codecs": [codec],
            "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": chunks}},
        }
    for group in groups:
        if not (group / ".zgroup").exists() and not (group / "zarr.json").exists():
            (group / marker).write_text(json.dumps(group_content))
    tensorstore.open(
        {
            "driver": driver,
            "kvstore": {"driver": "file", "path": f"{path}/"},
            "metadata": {"shape": wanted.shape, **metadata},
        },
        create=True,
    ).result()
