"""Axes, voxel size and offsets of a stored array: from arguments, attributes, or a standard."""

import json
import math
from typing import Any, NamedTuple

import numpy as np

from pytc.checks import require
from pytc.config import Lengths, Triple
from pytc.io.standards import NANOMETRES, Standard


def plain_attributes(attributes: dict[str, Any]) -> dict[str, Any]:
    """The same attributes as values that JSON holds: numbers, lists and text."""
    plain: dict[str, Any] = json.loads(json.dumps(attributes, default=_as_json))
    return plain


def _as_json(value: Any) -> Any:
    """A value that JSON has no form for as a number, a list, or text."""
    if hasattr(value, "tolist"):
        return value.tolist()
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    return str(value)


def axes_of(
    path: str,
    shape: tuple[int, ...],
    attributes: dict[str, Any],
    given: str | None,
    standard: Standard,
) -> tuple[str, str]:
    """The order of the axes, e.g. "czyx", and who states it.

    The argument `given` comes first, then the attribute `axes`, then a standard. Where none states
    it (the second word is then empty), three axes are zyx, and four are czyx if the first is
    clearly the shortest.
    """
    fit = len(shape) in (3, 4) and min(shape) > 0
    require(fit, f"three axes, or four with channels, none empty, in {path}", shape)
    axes: Any = None
    origin = ""
    for stated, who in (
        (given, "given"),
        (attributes.get("axes"), "attributes"),
        (standard.axes, standard.name),
    ):
        if stated:
            axes, origin = stated, who
            break
    if not axes:
        channels_first = len(shape) == 3 or shape[0] < min(shape[1:])
        expected = f"axes for a volume of shape {shape}, e.g. czyx or xyzc: {path} does not say"
        require(channels_first, expected, axes)
        return "czyx"[-len(shape) :], ""
    letters = "zyxc"[: len(shape)]
    names = "".join(map(str, axes)).lower()  # stored as text, or as a list of letters
    fit = sorted(names) == sorted(letters)
    require(fit, f"axes in an order of {letters} for shape {shape} of {path}", axes)
    return names, origin


def voxel_size_of(
    path: str, attributes: dict[str, Any], given: Lengths | None, standard: Standard
) -> tuple[Lengths | None, str]:
    """The voxel size in nm, spatial axes in stored order, and who states it.

    The argument `given` comes first, then the attributes, then a standard; None and an empty word
    where none states it.
    """
    lengths: Any = given
    origin = "given"
    if lengths is None:
        lengths, origin = _voxel_size_of_attributes(path, attributes), "attributes"
    if lengths is None:
        lengths, origin = standard.voxel_size, standard.name
    if lengths is None:
        return None, ""
    lengths = tuple(map(float, lengths))
    positive = len(lengths) == 3 and min(lengths) > 0
    require(positive, f"a voxel size of three positive lengths in nm for {path}", lengths)
    return lengths, origin


def _voxel_size_of_attributes(path: str, attributes: dict[str, Any]) -> list[float] | None:
    """The attributes `voxel_size` or `resolution`, in `unit` or `units`, as lengths in nm."""
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
    return _in_nanometres(path, attributes, stored[0])


def _in_nanometres(path: str, attributes: dict[str, Any], lengths: list[float]) -> list[float]:
    """Three lengths that are in the attribute `unit` or `units`, by default nm."""
    units = attributes.get("unit") or attributes.get("units") or "nm"
    if isinstance(units, str):
        units = [units] * 3
    readable = len(units) == 3 and set(units) <= set(NANOMETRES)
    require(readable, f"units from {', '.join(NANOMETRES)} in {path}", units)
    return [length * NANOMETRES[unit] for length, unit in zip(lengths, units)]


class Origin(NamedTuple):
    """Where the first voxel of an array lies in a larger space.

    at: spatial axes in the order of the array. in_nm: lengths in nm; otherwise whole voxels.
    """

    at: Lengths
    in_nm: bool


def origin_of(path: str, attributes: dict[str, Any]) -> Origin | None:
    """The attribute `voxel_offset` (voxels) or `offset` (a length, as in CREMI's files), if any.

    What is not three numbers is some other attribute of that name.
    """
    for name, in_nm in (("voxel_offset", False), ("offset", True)):
        stored = attributes.get(name)
        if not isinstance(stored, list) or len(stored) != 3:
            continue
        if not all(isinstance(number, int | float) and math.isfinite(number) for number in stored):
            continue
        z, y, x = _in_nanometres(path, attributes, stored) if in_nm else stored
        return Origin((float(z), float(y), float(x)), in_nm)
    return None


def offsets_of(path: str, attributes: dict[str, Any], n_channels: int) -> tuple[Triple, ...] | None:
    """The offset of each affinity channel, spatial axes in stored order; None without any."""
    offsets = attributes.get("offsets")
    if offsets is None:
        return None
    whole = np.array(offsets)
    fit = whole.shape == (n_channels, 3) and whole.dtype.kind in "iu"
    require(fit, f"three whole voxels for each of {n_channels} offsets in {path}", offsets)
    return tuple((z, y, x) for z, y, x in whole.tolist())
