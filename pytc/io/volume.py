"""One way to read a volume and one to write it, whatever the format.

Arrays keep their stored axis order.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn

import numpy as np

from pytc.checks import require
from pytc.config import Lengths, Triple
from pytc.geometry import Box
from pytc.io import stores
from pytc.io.chunked import create_zarr
from pytc.io.metadata import axes_of, offsets_of, origin_of, plain_attributes, voxel_size_of
from pytc.io.remote import RemoteFolder, local_path, plain_path
from pytc.io.stored import NewArray, Stored, expecting, reading

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
    """A stored volume; its voxels are read when they are asked for.

    Args:
        path: FILE.h5:DATASET (HDF5; the dataset may be left out if the file has one), a Zarr 2 or
            3, N5 or precomputed folder (STORE.zarr/ARRAY or STORE.zarr:ARRAY for an array inside;
            of an OME-Zarr group the finest level), a TIFF stack, a folder of PNG or TIFF slices, or
            .npy. Arrays in folders of chunks are read by URL, too: s3://, gs://, http(s)://.
        axes: e.g. "zyx" or "xyzc"; by default as the file states.
        voxel_size: nm, spatial axes in stored order; by default as the file states.
        transpose: the order in which the spatial axes are presented, e.g. "zyx", their voxel size
            and offsets with them. Channels keep their position.
        writable: whether more can be written to the array, which must be Zarr.

    Raises:
        ValueError: the array does not exist, or its metadata do not fit it.
    """
    stored = stores.open_stored(str(path))
    volume = Volume(stored, path, axes, voxel_size, transpose)
    extends = stored.can_be_extended or not writable
    require(extends, "a Zarr array to write more to", str(path))
    volume.writable = writable
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
    compression: int = 1,
) -> Volume:
    """A new volume to write to: .zarr, FILE.h5:DATASET, .tif or .npy.

    Its voxels are 0 until they are written. A single file appears under its name when the volume is
    closed, or the `with` block is left, without an error. A Zarr array exists at once; several
    processes may write to it if no two write to the same chunk.

    Args:
        path: where to create it; a Zarr array also by URL, s3:// or gs://.
        shape: one length for each axis.
        dtype: bool, integer or float.
        axes: by default zyx, or czyx.
        voxel_size: nm, spatial axes in stored order.
        chunks: by default one channel of 64 voxels along each axis.
        attributes: anything that JSON can hold, e.g. offsets or activation; .npy has none.
        overwrite: whether a file or a Zarr array at this path is replaced.
        zarr_format: 2 or 3.
        compression: of Zarr, 1 (fast) to 9 (small). At 5, Zarr's usual level, writing takes two to
            four times as long as at 1, which needs 5 % more bytes for the affinities of a network
            and a third more for labels. 0 is LZ4: for arrays that are soon removed, twice as fast
            and twice as large as 1.

    Raises:
        ValueError: the path exists, or cannot hold what is asked for.
    """
    saved: dict[str, Any] = {"axes": "czyx"[-len(shape) :]}
    saved |= attributes or {}
    if axes:
        saved["axes"] = axes
    if voxel_size is not None:
        saved |= {"voxel_size": voxel_size, "unit": "nm"}
    stored = Stored(shape, dtype, saved, _is_not_stored)
    volume = Volume(stored, path)  # refuses what a reader would refuse
    if chunks is None:
        lengths = zip(volume.axes, shape)
        chunks = tuple(1 if axis == "c" else min(CHUNK, length) for axis, length in lengths)
    fit = len(chunks) == len(shape) and min(chunks) > 0
    require(fit, f"chunks of {len(shape)} axes for shape {shape}", chunks)

    file, inside = stores.split_path(str(path))
    new = NewArray(
        file, volume.shape, volume.dtype, volume.attributes, inside or "data", chunks, compression
    )
    if any(part.endswith(".zarr") for part in file.parts):
        new = new._replace(path=file / (inside or ""))
        create_zarr(new, overwrite=overwrite, zarr_format=zarr_format)
        return open_volume(path, writable=True)
    if isinstance(file, RemoteFolder):
        file.require_writable()
        raise ValueError(f"expected a URL with .zarr in it to write to, got {str(path)!r}")
    create = stores.file_writers().get(file.suffix.lower())
    if create is None:
        endings = ", ".join(stores.file_writers())
        raise ValueError(f"expected a path that ends in .zarr, {endings}, got {str(path)!r}")
    if file.exists() and not overwrite:
        raise ValueError(f"{file} exists; remove it, or say overwrite=True")
    return NewFile(stored, new, path, create)


def chunks_of_blocks(block: Sequence[int], shape: Sequence[int]) -> tuple[int, ...]:
    """Chunks of about CHUNK voxels along each axis, of which blocks are whole numbers.

    So no chunk lies in two blocks, and the blocks can be written at once.

    Args:
        block: voxels of a block along each axis.
        shape: of the volume, which begins with a block.
    """
    return tuple(map(_chunk_of_block, block, shape))


def _chunk_of_block(block: int, length: int) -> int:
    if block >= length:
        return min(CHUNK, length)
    divisors = [number for number in range(1, block + 1) if block % number == 0]
    return min(divisors, key=lambda number: abs(math.log(number / CHUNK)))


def _is_not_stored() -> NoReturn:
    raise AssertionError("voxels of an array that is only described were asked for")


class Volume(AbstractContextManager["Volume"]):
    """A stored array: `volume[slices]` in the order of `axes`, `read(start, stop)` as (C, Z, Y, X).

    axes: e.g. "zyx", "czyx", "xyzc": the stored order, unless the volume is transposed.
    voxel_size: nm, spatial axes in the order of `axes`, or None.
    axes_from, voxel_size_from: who states them, e.g. "given" or "OME-Zarr"; empty if nobody does.
    attributes: all that is stored with the array.
    offsets: of the affinity channels, or None.
    origin: where its first voxel lies in a larger space, or None if no attribute says it.

    A volume can be pickled, and a reader is safe to use after a fork.
    """

    writable = False

    def __init__(
        self,
        stored: Stored,
        path: str | Path,
        axes: str | None = None,
        voxel_size: Lengths | None = None,
        transpose: str | None = None,
    ) -> None:
        self.path = plain_path(str(path))
        self.shape = tuple(map(int, stored.shape))
        numbers = f"voxels of {path} that are bool, integer or float"
        with expecting(numbers, TypeError):
            self.dtype = np.dtype(stored.dtype).newbyteorder("=")
        require(self.dtype.kind in "buif", numbers, str(self.dtype))
        self.attributes = plain_attributes(stored.attributes)
        standard = stored.standard
        self.axes, self.axes_from = axes_of(self.path, self.shape, self.attributes, axes, standard)
        self.voxel_size, self.voxel_size_from = voxel_size_of(
            self.path, self.attributes, voxel_size, standard
        )
        self.offsets = offsets_of(self.path, self.attributes, self.n_channels)
        self.origin = origin_of(self.path, self.attributes)
        self.cache_bytes = 0
        self._stored = stored
        self._handle: Any = None
        self._pid: int | None = None  # the process that opened the handle
        # presented axis i is stored axis order[i]
        self._order = tuple(range(len(self.shape)))
        self._stored_axes = self.axes
        if transpose is not None:
            self._transpose(transpose)

    def _transpose(self, transpose: str) -> None:
        """Present the spatial axes in this order."""
        stored = self.spatial_axes
        fit = sorted(transpose) == sorted(stored)
        require(fit, f"axes to transpose {self.path} to, an order of {stored}", transpose)
        z, y, x = (stored.index(axis) for axis in transpose)
        letters = iter(transpose)
        axes = "".join("c" if axis == "c" else next(letters) for axis in self.axes)
        self._order = tuple(self.axes.index(axis) for axis in axes)
        self.shape = tuple(self.shape[axis] for axis in self._order)
        self.axes = axes
        if self.voxel_size is not None:
            size = self.voxel_size
            self.voxel_size = (size[z], size[y], size[x])
        if self.offsets is not None:
            self.offsets = tuple((offset[z], offset[y], offset[x]) for offset in self.offsets)
        if self.origin is not None:
            at = self.origin.at
            self.origin = self.origin._replace(at=(at[z], at[y], at[x]))

    @property
    def spatial_shape(self) -> Triple:
        z, y, x = (length for length, axis in zip(self.shape, self.axes) if axis != "c")
        return z, y, x

    @property
    def spatial_axes(self) -> str:
        return self.axes.replace("c", "")

    def presented(self, stored: Triple) -> Triple:
        """Three numbers, one for each spatial axis as it is stored, in the order of `axes`."""
        spatial = [place for place in self._order if self._stored_axes[place] != "c"]
        z, y, x = (stored[sorted(spatial).index(place)] for place in spatial)
        return z, y, x

    @property
    def n_channels(self) -> int:
        return self.shape[self.axes.index("c")] if "c" in self.axes else 1

    @property
    def handle(self) -> Any:
        """What is sliced like NumPy, in stored order; each process opens it once."""
        if self._pid != os.getpid():
            # what a fork copied from its parent goes first, or HDF5 would share its descriptor
            self._handle = None
            with reading("a readable volume", self.path):
                arguments = (self.cache_bytes,) if self._stored.has_chunks else ()
                self._handle = self._stored.open(*arguments)
                self._pid = os.getpid()
        return self._handle

    def __getitem__(self, index: Any) -> np.ndarray:
        slices, shape = self._slices(index)
        if 0 in shape:
            return np.empty(shape, self.dtype)
        handle = self.handle
        with reading("readable voxels", self.path):
            values = handle[self._in_stored_order(slices)]
            # a part of a mapped file is copied: it would change with the file
            copied = np.array if isinstance(values, np.memmap) else np.asarray
            return copied(values, self.dtype).transpose(self._order).reshape(shape)

    def _in_stored_order(self, slices: tuple[slice, ...]) -> tuple[slice, ...]:
        """Slices of the presented axes in the order of the stored ones."""
        stored = dict(zip(self._order, slices))
        return tuple(stored[axis] for axis in range(len(slices)))

    def __setitem__(self, index: Any, values: Any) -> None:
        slices, shape = self._slices(index)
        expected = "a volume from create_volume to write to"
        require(self.writable, expected, f"{self.path}, open for reading")
        values = np.asarray(values)
        exact = values.astype(self.dtype, copy=False)
        same_kind = values.ndim == 0 or np.can_cast(values.dtype, self.dtype, "same_kind")
        kept = (
            self.dtype.kind == "f"
            or np.can_cast(values.dtype, self.dtype)
            or bool((exact == values).all())
        )
        expected = f"values that fit {self.dtype} of {self.path}"
        require(same_kind and kept, expected, str(values.dtype))
        expected = f"values of shape {shape} for {self.path}"
        require(values.shape in ((), shape), expected, values.shape)
        lengths = [len(range(part.start, part.stop, part.step)) for part in slices]
        values = np.broadcast_to(exact, shape).reshape(lengths)
        self.handle[self._in_stored_order(slices)] = values.transpose(np.argsort(self._order))

    def read(self, start: tuple[int, ...], stop: tuple[int, ...]) -> np.ndarray:
        """The voxels from start up to stop as (C, Z, Y, X), channels first.

        start and stop: of the spatial axes, in the order of `axes`.
        """
        bounds = zip(start, stop, self.spatial_shape)
        inside = len(start) == len(stop) == 3 and all(
            0 <= first < last <= length for first, last, length in bounds
        )
        require(inside, f"a box inside {self.spatial_shape} of {self.path}", (start, stop))
        box = map(slice, start, stop)
        values = self[tuple(slice(None) if axis == "c" else next(box) for axis in self.axes)]
        if "c" not in self.axes:
            return np.ascontiguousarray(values[None])
        return np.ascontiguousarray(np.moveaxis(values, self.axes.index("c"), 0))

    def read_channels(
        self, channels: list[int], planes: slice = slice(None), out: np.ndarray | None = None
    ) -> np.ndarray:
        """Some channels as (len(channels), Z, Y, X).

        planes: along the first spatial axis. out: an array to fill and return.
        """
        depth = len(range(*planes.indices(self.spatial_shape[0])))
        if out is None:
            out = np.empty((len(channels), depth, *self.spatial_shape[1:]), self.dtype)
        for channel, values in zip(channels, out):
            box = iter((planes, slice(None), slice(None)))
            values[...] = self[tuple(channel if axis == "c" else next(box) for axis in self.axes)]
        return out

    def read_box(self, box: Box, channels: Sequence[int]) -> np.ndarray:
        """Some channels of a region as (len(channels), Z, Y, X), in C order.

        Args:
            box: of the spatial axes, in the order of `axes`, inside the volume.
            channels: their numbers; channels that follow each other are read at once.
        """
        first, count = channels[0], len(channels)
        if list(channels) != list(range(first, first + count)):
            return np.stack([self.read_box(box, [channel])[0] for channel in channels])
        region = iter(box.slices)
        several = slice(first, first + count)
        values = self[tuple(several if axis == "c" else next(region) for axis in self.axes)]
        return np.ascontiguousarray(np.moveaxis(values, self.axes.index("c"), 0))

    def keep_decoded(self, size: int) -> None:
        """Let each process keep up to `size` bytes of the chunks that it decodes.

        Reads that share a chunk then decode it once. Call it before the first read. It has no
        effect in formats without chunks.
        """
        if self._stored.has_chunks:
            self.cache_bytes = size

    def close(self) -> None:
        """Close what is open; a file from `create_volume` is finished and gets its name."""
        self._finish(success=True)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._finish(success=kind is None)

    def _finish(self, *, success: bool) -> None:
        self._handle, self._pid = None, None

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_handle": None, "_pid": None}

    def __repr__(self) -> str:
        return (
            f"Volume({self.path}, {self.axes} {self.shape} {self.dtype}, "
            f"voxel size {self.voxel_size} nm)"
        )

    def _slices(self, index: Any) -> tuple[tuple[slice, ...], tuple[int, ...]]:
        """An index as one slice for each axis, and the shape of what it names.

        Each slice has start, stop and step. An axis with a whole number is a slice of length 1, and
        the shape lacks it.
        """
        items = index if isinstance(index, tuple) else (index,)
        if ... in items:
            before, after = items[: items.index(...)], items[items.index(...) + 1 :]
        else:
            before, after = items, ()
        missing = len(self.shape) - len(before) - len(after)
        full = (*before, *[slice(None)] * missing, *after)
        expected = f"an index into {self.shape} of {self.path}"
        with expecting(expected, IndexError, TypeError, ValueError):
            parts = [range(length)[item] for length, item in zip(self.shape, full, strict=True)]
        ranges = [part if isinstance(part, range) else range(part, part + 1) for part in parts]
        require(all(r.step > 0 for r in ranges), "slices with a positive step", index)
        shape = tuple(len(part) for part in parts if isinstance(part, range))
        return tuple(slice(r.start, max(r.start, r.stop), r.step) for r in ranges), shape


class NewFile(Volume):
    """A single file that is written under a temporary name, by the process that created it."""

    writable = True

    def __init__(
        self,
        stored: Stored,
        new: NewArray,
        path: str | Path,
        create: Callable[[Path, NewArray], Any],
    ) -> None:
        super().__init__(stored, path)
        self._file = local_path(new.path)
        self._pid = os.getpid()
        self._partial = self._file.with_name(f"{self._file.name}.{self._pid}.partial")
        expected = f"no other writer: {self._file} is being written"
        require(not self._partial.exists(), expected, str(self._partial))
        self._file.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._handle = create(self._partial, new)
        except (TypeError, ValueError) as error:
            self._partial.unlink(missing_ok=True)
            raise ValueError(
                f"cannot create {self._file} with attributes {self.attributes}: {error}"
            ) from error

    @property
    def handle(self) -> Any:
        """What is sliced and assigned to like NumPy."""
        if not self._is_open_here():
            self._refuse()
        return self._handle

    def _is_open_here(self) -> bool:
        """Whether the file is still open, in the process that created it."""
        return self._handle is not None and self._pid == os.getpid()

    def _refuse(self) -> NoReturn:
        raise ValueError(
            f"{self._file} is closed (open_volume reads it), or not of this process: only the "
            "process that created it writes it; several can write to a .zarr"
        )

    def __getstate__(self) -> dict[str, Any]:
        self._refuse()

    def _finish(self, *, success: bool) -> None:
        if not self._is_open_here():  # a forked child leaves its parent's file alone
            return
        handle, self._handle = self._handle, None
        if isinstance(handle, np.memmap):
            handle.flush()
        else:
            handle.file.close()
        if success:
            self._partial.replace(self._file)
        else:
            self._partial.unlink()
