"""One way to read a volume and one to write it, whatever the format. Arrays keep their stored axis order."""

from __future__ import annotations

import operator
from pathlib import Path
from typing import Any

import numpy as np
import tifffile

from pytc.io import stores, writers

NANOMETRES = {"nm": 1.0, "nanometer": 1.0, "nanometers": 1.0, "um": 1e3, "µm": 1e3, "micrometer": 1e3, "micron": 1e3}
Triple = tuple[float, float, float]


def open_volume(
    path: str | Path, *, axes: str | None = None, voxel_size: Triple | None = None, writable: bool = False
) -> Volume:
    """A stored volume, of which only what is asked for is read.

    path: FILE.h5:DATASET (HDF5; the dataset may be left out if there is one only), a Zarr 2 or 3, N5 or precomputed
    folder (STORE.zarr/ARRAY or STORE.zarr:ARRAY for an array inside), a TIFF stack, a folder of PNG or TIFF slices,
    or .npy. axes (e.g. "zyx", "xyzc") and voxel_size (nm, spatial axes in stored order) are used instead of what the
    file says. writable: whether more may be written to it, Zarr only. ValueError if there is no such array, or if
    what the file says about itself does not fit it.
    """
    store = _open_store(str(path))
    if writable:
        if not isinstance(store, stores.ChunkedStore) or not store.driver.startswith("zarr"):
            raise ValueError(f"expected a Zarr array to write more to, got {path}")
        store.writable = True
    return Volume(store, str(path), axes, voxel_size)


def create_volume(
    path: str | Path, shape: tuple[int, ...], dtype: Any, *, axes: str | None = None, voxel_size: Triple | None = None,
    chunks: tuple[int, ...] | None = None, attributes: dict[str, Any] | None = None, overwrite: bool = False,
    zarr_format: int = 2,
) -> Volume:
    """A new volume to write to: .zarr, FILE.h5:DATASET, .tif or .npy; its voxels are 0 until written.

    A single file appears under its name when the volume is closed, or the `with` block is left, without an error. A
    Zarr array exists at once; processes may write to it together if none shares a chunk with another. axes: by
    default zyx, or czyx. chunks: by default one channel of 64 voxels along each axis. attributes: anything JSON can
    say, e.g. offsets, activation; .npy holds none. ValueError if the path exists (unless overwrite), or cannot hold
    what is asked for.
    """
    shape = tuple(int(n) for n in shape)
    saved = {"axes": {3: "zyx", 4: "czyx"}.get(len(shape))} | (attributes or {})
    if axes is not None:
        saved["axes"] = axes
    if voxel_size is not None:
        saved |= {"voxel_size": voxel_size, "unit": "nm"}
    saved = stores.plain(saved)
    _describe(str(path), shape, saved, None, None)  # what a reader would refuse is not written
    store = writers.create_store(str(path), shape, dtype, saved, chunks, overwrite, zarr_format)
    return Volume(store, str(path), None, None)


class Volume:
    """A stored array: `volume[slices]` in stored axis order, `read(start, stop)` as (C, Z, Y, X).

    axes: e.g. "zyx", "czyx", "xyzc". voxel_size: nm, spatial axes in stored order, or None. attributes: all that is
    stored with it. offsets: of the affinity channels, or None. Picklable; a reader is safe to use after a fork.
    """

    def __init__(self, store: stores.Store, path: str, axes: str | None, voxel_size: Triple | None):
        self._store, self.path = store, path
        self.shape, self.dtype, self.attributes = store.shape, store.dtype, store.attributes
        self.axes, self.voxel_size, self.offsets = _describe(path, self.shape, self.attributes, axes, voxel_size)

    @property
    def spatial_shape(self) -> tuple[int, int, int]:
        return tuple(n for n, axis in zip(self.shape, self.axes) if axis != "c")

    @property
    def n_channels(self) -> int:
        return self.shape[self.axes.index("c")] if "c" in self.axes else 1

    def __getitem__(self, index: Any) -> np.ndarray:
        slices, _, shape = self._slices(index)
        values = np.empty(shape) if 0 in shape else self._store.read(slices)
        return np.asarray(values, self.dtype).reshape(shape)

    def __setitem__(self, index: Any, values: Any) -> None:
        slices, dropped, shape = self._slices(index)
        values = np.asarray(values)
        exact_number = values.ndim == 0 and values.astype(self.dtype) == values
        if not exact_number and not np.can_cast(values.dtype, self.dtype, "same_kind"):
            raise ValueError(f"expected values that fit {self.dtype} of {self.path}, got {values.dtype}")
        if values.ndim and values.shape != shape:
            raise ValueError(f"expected values of shape {shape} for {self.path}, got {values.shape}")
        values = np.broadcast_to(values, shape).astype(self.dtype, copy=False)
        self._store.write(slices, np.expand_dims(values, dropped))

    def read(self, start: tuple[int, int, int], stop: tuple[int, int, int]) -> np.ndarray:
        """The voxels from start up to stop (spatial axes in stored order) as (C, Z, Y, X), channels first."""
        bounds = zip(start, stop, self.spatial_shape)
        if not (len(start) == len(stop) == 3 and all(0 <= a < b <= n for a, b, n in bounds)):
            raise ValueError(f"expected a box inside {self.spatial_shape} of {self.path}, got {start} to {stop}")
        spatial = iter(zip(start, stop))
        values = self[tuple(slice(None) if axis == "c" else slice(*next(spatial)) for axis in self.axes)]
        values = np.moveaxis(values, self.axes.index("c"), 0) if "c" in self.axes else values[None]
        return np.ascontiguousarray(values)

    def close(self) -> None:
        """Finish a created single file under its name; let go of what is open."""
        self._store.finish(True)

    def __enter__(self) -> Volume:
        return self

    def __exit__(self, kind, error, trace) -> None:
        self._store.finish(kind is None)

    def __repr__(self) -> str:
        return f"Volume({self.path}, {self.axes} {self.shape} {self.dtype}, voxel size {self.voxel_size} nm)"

    def _slices(self, index: Any) -> tuple[tuple[slice, ...], tuple[int, ...], tuple[int, ...]]:
        """An index as one slice an axis with known start, stop and step; axes without a slice; the result's shape."""
        index = index if isinstance(index, tuple) else (index,)
        at = index.index(Ellipsis) if Ellipsis in index else len(index)
        after = index[at + 1 :]
        full = index[:at] + (slice(None),) * (len(self.shape) - at - len(after)) + after
        if len(full) > len(self.shape) or Ellipsis in after:
            raise ValueError(f"expected at most {len(self.shape)} indices for {self.path}, got {index}")
        slices, dropped = [], []
        for axis, (item, length) in enumerate(zip(full, self.shape)):
            if not isinstance(item, slice):
                number = operator.index(item)
                if not -length <= number < length:
                    raise ValueError(f"expected an index below {length} along axis {axis} of {self.path}, got {number}")
                item = slice(number % length, number % length + 1)
                dropped.append(axis)
            item = slice(*item.indices(length))
            if item.step < 1:
                raise ValueError(f"expected slices with a positive step, got {item}")
            slices.append(slice(item.start, max(item.start, item.stop), item.step))
        shape = (len(range(s.start, s.stop, s.step)) for axis, s in enumerate(slices) if axis not in dropped)
        return tuple(slices), tuple(dropped), tuple(shape)


def _open_store(path: str) -> stores.Store:
    file, inside = writers.split_path(path)
    if file.is_dir() and inside:
        file, inside = file / inside, None
    if not file.exists():
        groups = [p for p in file.parents if p.suffix in (".zarr", ".n5") and p.is_dir()]
        there = f"; arrays there: {', '.join(map(str, stores.list_arrays(groups[-1])))}" if groups else ""
        raise ValueError(f"expected a volume at {path}, but there is no such file or folder{there}")
    if file.is_dir():
        return _open_folder(file)
    suffix = file.suffix.lower()
    try:
        if suffix in writers.HDF5_SUFFIXES:
            return stores.Hdf5Store(file, inside)
        if suffix in writers.TIFF_SUFFIXES:
            return stores.TiffStore(file)
        if suffix == ".npy":
            return stores.NpyStore(file)
    except (OSError, tifffile.TiffFileError) as error:
        raise ValueError(f"expected {suffix} in {path}, got {error}") from error
    raise ValueError(f"expected HDF5 (.h5), .zarr, .tif, .npy or a folder of slices, got {path}")


def _open_folder(folder: Path) -> stores.Store:
    if stores.chunked_driver(folder):
        return stores.ChunkedStore(folder)
    slices = [f for f in folder.iterdir() if f.suffix.lower() in stores.SLICE_SUFFIXES and f.name[0] != "."]
    if slices:
        return stores.FolderStore(folder, slices)
    arrays = stores.list_arrays(folder)
    if len(arrays) != 1:
        raise ValueError(f"expected an array, or slices as {', '.join(stores.SLICE_SUFFIXES)}, in {folder}; "
                         f"arrays there: {', '.join(map(str, arrays)) or 'none'}")
    return stores.ChunkedStore(arrays[0])


def _describe(path: str, shape: tuple, attributes: dict, axes: str | None, voxel_size: Triple | None):
    """Axes, voxel size in nm and offsets of a volume: arguments first, then its attributes.

    Where neither says, three axes are zyx, and four are czyx if the first is clearly the shortest.
    """
    if len(shape) not in (3, 4) or min(shape) < 1:
        raise ValueError(f"expected three axes, or four with channels, none empty, got shape {shape} in {path}")
    axes = axes or attributes.get("axes")
    if not axes and len(shape) == 4 and shape[0] >= min(shape[1:]):
        raise ValueError(f"expected axes for a volume of shape {shape}, e.g. czyx or xyzc: {path} does not say")
    axes = axes or ("zyx" if len(shape) == 3 else "czyx")
    known, names = "zyxc"[: len(shape)], [axis.lower() for axis in axes if isinstance(axis, str)]
    if sorted(names) != sorted(known):
        raise ValueError(f"expected axes in an order of {known} for shape {shape}, got {axes!r} for {path}")
    axes = "".join(names)
    if voxel_size is None:
        voxel_size = _stored_voxel_size(path, attributes)
    if voxel_size is not None:
        voxel_size = tuple(float(v) for v in voxel_size)
        if len(voxel_size) != 3 or min(voxel_size) <= 0:
            raise ValueError(f"expected a voxel size of three positive lengths in nm, got {voxel_size} for {path}")
    channels = shape[axes.index("c")] if "c" in axes else 1
    return axes, voxel_size, _stored_offsets(path, attributes, channels)


def _stored_voxel_size(path: str, attributes: dict[str, Any]) -> tuple[float, ...] | None:
    stored = [attributes[key] for key in ("voxel_size", "resolution") if attributes.get(key) is not None]
    if not stored:
        return None
    if any(not isinstance(lengths, list) or len(lengths) != 3 or lengths != stored[0] for lengths in stored):
        raise ValueError(f"expected one voxel size of three lengths, got {' and '.join(map(str, stored))} in {path}")
    units = attributes.get("unit") or attributes.get("units") or "nm"
    units = [units] * 3 if isinstance(units, str) else units
    if len(units) != 3 or any(unit not in NANOMETRES for unit in units):
        raise ValueError(f"expected units from {', '.join(NANOMETRES)}, got {units} in {path}")
    return tuple(length * NANOMETRES[unit] for length, unit in zip(stored[0], units))


def _stored_offsets(path: str, attributes: dict[str, Any], channels: int) -> tuple[tuple[int, ...], ...] | None:
    offsets = attributes.get("offsets")
    if offsets is None:
        return None
    whole = np.array(offsets)
    if whole.shape != (channels, 3) or whole.dtype.kind not in "iu":
        raise ValueError(f"expected three whole voxels for each of {channels} offsets, got {offsets} in {path}")
    return tuple(map(tuple, whole.tolist()))
