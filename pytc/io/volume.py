"""One way to read a volume and one to write it, whatever the format. Arrays keep their stored axis order."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from pytc.config import require
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
    store = stores.open_store(str(path))
    store.writable = writable
    can_be = not writable or stores.chunked_driver(store.path) in ("zarr", "zarr3")
    require(can_be, "a Zarr array to write more to", str(path))
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
    saved = {"axes": "czyx"[-len(shape) :]} | (attributes or {}) | ({"axes": axes} if axes else {})
    saved = stores.plain(saved | ({} if voxel_size is None else {"voxel_size": voxel_size, "unit": "nm"}))
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
        slices, shape = self._slices(index)
        values = np.empty(shape) if 0 in shape else self._store.read(slices)
        return np.asarray(values, self.dtype).reshape(shape)

    def __setitem__(self, index: Any, values: Any) -> None:
        slices, shape = self._slices(index)
        values = np.asarray(values)
        exact = values.astype(self.dtype, copy=False)
        same_kind = values.ndim == 0 or np.can_cast(values.dtype, self.dtype, "same_kind")
        rounded = same_kind and (self.dtype.kind == "f" or np.can_cast(values.dtype, self.dtype))
        if not rounded and not (same_kind and (exact == values).all()):
            raise ValueError(f"expected values that fit {self.dtype} of {self.path}, got {values.dtype}")
        require(values.shape in ((), shape), f"values of shape {shape} for {self.path}", values.shape)
        lengths = [len(range(s.start, s.stop, s.step)) for s in slices]
        self._store.write(slices, np.broadcast_to(exact, shape).reshape(lengths))

    def read(self, start: tuple[int, int, int], stop: tuple[int, int, int]) -> np.ndarray:
        """The voxels from start up to stop (spatial axes in stored order) as (C, Z, Y, X), channels first."""
        bounds = zip(start, stop, self.spatial_shape)
        inside = len(start) == len(stop) == 3 and all(0 <= a < b <= n for a, b, n in bounds)
        require(inside, f"a box inside {self.spatial_shape} of {self.path}", (start, stop))
        spatial = map(slice, start, stop)
        values = self[tuple(slice(None) if axis == "c" else next(spatial) for axis in self.axes)]
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

    def _slices(self, index: Any) -> tuple[tuple[slice, ...], tuple[int, ...]]:
        """An index as one slice an axis with known start, stop and step, and the shape of what it names."""
        index = index if isinstance(index, tuple) else (index,)
        at = index.index(...) if ... in index else len(index)
        full = (slice(None),) * (len(self.shape) - len(index[:at] + index[at + 1 :]))
        full = index[:at] + full + index[at + 1 :]
        try:
            parts = [range(length)[item] for length, item in zip(self.shape, full, strict=True)]
        except (IndexError, TypeError, ValueError) as error:
            raise ValueError(f"expected an index into {self.shape} of {self.path}, got {index}: {error}") from error
        ranges = [part if isinstance(part, range) else range(part, part + 1) for part in parts]
        require(all(r.step > 0 for r in ranges), "slices with a positive step", index)
        shape = tuple(len(part) for part in parts if isinstance(part, range))
        return tuple(slice(r.start, max(r.start, r.stop), r.step) for r in ranges), shape


def _describe(path: str, shape: tuple, attributes: dict, axes: str | None, voxel_size: Triple | None):
    """Axes, voxel size in nm and offsets of a volume: arguments first, then its attributes.

    Where neither says, three axes are zyx, and four are czyx if the first is clearly the shortest.
    """
    require(len(shape) in (3, 4) and min(shape) > 0, f"three axes, or four with channels, none empty, in {path}", shape)
    axes = axes or attributes.get("axes")
    clear = axes or len(shape) == 3 or shape[0] < min(shape[1:])
    require(clear, f"axes for a volume of shape {shape}, e.g. czyx or xyzc: {path} does not say", axes)
    known, names = "zyxc"[: len(shape)], "".join(map(str, axes or "czyx"[-len(shape) :])).lower()
    require(sorted(names) == sorted(known), f"axes in an order of {known} for shape {shape} of {path}", axes)
    stored = [attributes[key] for key in ("voxel_size", "resolution") if attributes.get(key) is not None]
    if voxel_size is None and stored:
        agree = all(isinstance(lengths, list) and len(lengths) == 3 and lengths == stored[0] for lengths in stored)
        require(agree, f"one voxel size of three lengths in {path}", stored)
        units = attributes.get("unit") or attributes.get("units") or "nm"
        units = [units] * 3 if isinstance(units, str) else units
        known = len(units) == 3 and set(units) <= set(NANOMETRES)
        require(known, f"units from {', '.join(NANOMETRES)} in {path}", units)
        voxel_size = [length * NANOMETRES[unit] for length, unit in zip(stored[0], units)]
    if voxel_size is not None:
        voxel_size = tuple(map(float, voxel_size))
        positive = len(voxel_size) == 3 and min(voxel_size) > 0
        require(positive, f"a voxel size of three positive lengths in nm for {path}", voxel_size)
    offsets = attributes.get("offsets")
    if offsets is not None:
        whole, channels = np.array(offsets), shape[names.index("c")] if "c" in names else 1
        fit = whole.shape == (channels, 3) and whole.dtype.kind in "iu"
        require(fit, f"three whole voxels for each of {channels} offsets in {path}", offsets)
        offsets = tuple(map(tuple, whole.tolist()))
    return names, voxel_size, offsets
