"""MRC and NRRD files, by mrcfile and pynrrd (extra `formats`)."""

import math
from collections.abc import Callable
from functools import partial
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from pytc.checks import require
from pytc.config import Lengths
from pytc.io.standards import NANOMETRES, Standard
from pytc.io.stored import Stored

# Each type of the specification (teem.sourceforge.net/nrrd/format.html), by all its names.
NRRD_TYPES = {
    **dict.fromkeys(("signed char", "int8", "int8_t"), "int8"),
    **dict.fromkeys(("uchar", "unsigned char", "uint8", "uint8_t"), "uint8"),
    **dict.fromkeys(("short", "short int", "signed short", "int16", "int16_t"), "int16"),
    **dict.fromkeys(("ushort", "unsigned short", "uint16", "uint16_t"), "uint16"),
    **dict.fromkeys(("int", "signed int", "int32", "int32_t"), "int32"),
    **dict.fromkeys(("uint", "unsigned int", "uint32", "uint32_t"), "uint32"),
    **dict.fromkeys(("longlong", "long long", "int64", "int64_t"), "int64"),
    **dict.fromkeys(("ulonglong", "unsigned long long", "uint64", "uint64_t"), "uint64"),
    "float": "float32",
    "double": "float64",
}
ANGSTROM = 0.1  # nm, the unit of MRC


def open_mrc(path: Path) -> Stored:
    """An MRC file, mapped into memory: axes z, y, x, and the voxel size of its header.

    Signed bytes (mode 0) are read as they are stored; programs that store unsigned ones in that
    mode break the format, and `pytc check` then finds half of the grey values below 0.
    """
    open_file: Callable[..., Any] = partial(_package("mrcfile").mmap, path, mode="r")
    with open_file() as file:
        size = file.voxel_size
        lengths = tuple(float(size[axis]) * ANGSTROM for axis in "zyx")
        shape, dtype = file.data.shape, file.data.dtype
    standard = Standard("MRC", "zyx", _known(lengths))
    return Stored(shape, dtype, {}, lambda: open_file().data, standard)


def open_nrrd(path: Path) -> Stored:
    """A NRRD file (.nrrd, .nhdr), read whole when its first voxel is: axes slowest first."""
    nrrd = _package("nrrd")
    header = nrrd.read_header(str(path))
    shape = tuple(int(length) for length in header["sizes"][::-1])
    dtype = NRRD_TYPES.get(header["type"])
    require(
        dtype is not None, f"voxels of one of the types {', '.join(NRRD_TYPES)}", header["type"]
    )

    def open_voxels() -> np.ndarray:
        voxels: np.ndarray = nrrd.read(str(path), index_order="C")[0]
        return voxels.astype(dtype, copy=False)  # in the byte order of this machine

    standard = Standard("NRRD", None, _nrrd_voxel_size(header))
    return Stored(shape, np.dtype(dtype), {}, open_voxels, standard)


def _nrrd_voxel_size(header: dict[str, Any]) -> Lengths | None:
    """nm, slowest axis first; None where lengths or their units are missing."""
    lengths = header.get("spacings")
    if lengths is None and "space directions" in header:
        lengths = [np.linalg.norm(along) for along in np.atleast_2d(header["space directions"])]
    units = header.get("space units") or header.get("units") or []
    if lengths is None or len(lengths) != len(units):
        return None
    factors = [NANOMETRES.get(str(unit).lower(), math.nan) for unit in units]
    return _known(tuple(float(n) * factor for n, factor in zip(lengths, factors))[::-1])


def _known(lengths: tuple[float, ...]) -> Lengths | None:
    """Three lengths, or None where one is not positive and finite."""
    if len(lengths) != 3 or not all(math.isfinite(n) and n > 0 for n in lengths):
        return None
    return lengths[0], lengths[1], lengths[2]


def _package(name: str) -> ModuleType:
    try:
        return import_module(name)
    except ImportError as error:
        raise ImportError(f"{name} is needed: pip install -e '.[formats]' in a clone") from error
