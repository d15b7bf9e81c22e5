"""Axes and voxel size of an image from the metadata of OME-Zarr, OME-TIFF and ImageJ.

Sources: OME-NGFF 0.4 and 0.5 (https://ngff.openmicroscopy.org), the OME-TIFF schema 2016-06, and
ImageJ's TIFF description.
"""

import json
import math
from collections.abc import Sequence
from typing import Any, NamedTuple
from xml.etree import ElementTree

import tifffile

from pytc.checks import require
from pytc.config import Lengths
from pytc.io.remote import Folder, RemoteFolder

NANOMETRES = {
    "å": 0.1,
    "angstrom": 0.1,
    "nm": 1.0,
    "nanometer": 1.0,
    "nanometers": 1.0,
    "um": 1e3,
    "µm": 1e3,  # the micro sign
    "μm": 1e3,  # the Greek letter
    "micrometer": 1e3,
    "micron": 1e3,
    "microns": 1e3,
    "mm": 1e6,
    "millimeter": 1e6,
    "cm": 1e7,
    "centimeter": 1e7,
    "m": 1e9,
    "meter": 1e9,
}


class Standard(NamedTuple):
    """What the metadata of a standard state; voxel_size: nm, spatial axes in stored order."""

    name: str = ""
    axes: str | None = None
    voxel_size: Lengths | None = None


def read_json(folder: Folder, name: str) -> dict[str, Any]:
    """The object in a JSON file of a folder, empty without the file.

    ValueError if it holds anything else.
    """
    text = _read(folder, name)
    if text is None:
        return {}
    try:
        content: dict[str, Any] = json.loads(text)
    except ValueError as error:
        raise ValueError(f"expected JSON in {folder / name}, got {error}") from error
    require(isinstance(content, dict), f"a JSON object in {folder / name}", type(content).__name__)
    return content


def _read(folder: Folder, name: str) -> str | bytes | None:
    """The content of a file, None without it."""
    if isinstance(folder, RemoteFolder):
        return folder.read(name)
    path = folder / name
    return path.read_text() if path.is_file() else None


def multiscales(group: Folder) -> dict[str, Any]:
    """The first image that an OME-Zarr group describes, or nothing.

    Version 0.4 describes it in .zattrs, 0.5 in zarr.json.
    """
    images: list[dict[str, Any]] = _attributes(group).get("multiscales") or [{}]
    return images[0]


def _attributes(group: Folder) -> dict[str, Any]:
    attributes = read_json(group, "zarr.json").get("attributes") or read_json(group, ".zattrs")
    described: dict[str, Any] = attributes.get("ome", attributes)
    return described


def finest_level(group: Folder) -> Folder | None:
    """The array of an OME-Zarr group's finest level, or None if the folder is no such group.

    bioformats2raw writes a group of groups, an image each: its only image, None if it has several.
    """
    levels = multiscales(group).get("datasets")
    if levels:
        return group / str(levels[0]["path"])
    if "bioformats2raw.layout" in _attributes(group) and not _exists(group / "1"):
        return finest_level(group / "0")
    return None


def _exists(group: Folder) -> bool:
    """Whether there is a folder; of one elsewhere, whether it is a Zarr group."""
    if isinstance(group, RemoteFolder):
        return any(group.read(name) is not None for name in (".zgroup", "zarr.json"))
    return group.exists()


def of_zarr_array(array: Folder, n_axes: int) -> Standard:
    """What the OME-Zarr groups around an array state about it.

    Axes as they are stored, t and c included. Without a unit for each spatial axis the voxel size
    is unknown. ValueError if the axes named do not fit the array.
    """
    groups: Sequence[Folder] = array.parents
    for group in groups[:4]:
        image = multiscales(group)
        for level in image.get("datasets", ()):
            if group / level["path"] == array:
                return _of_level(image, level, n_axes, array)
    return Standard()


def _of_level(image: dict[str, Any], level: dict[str, Any], n_axes: int, array: Folder) -> Standard:
    # version 0.3 names axes, 0.4 describes them, earlier ones always mean tczyx
    axes = [axis if isinstance(axis, dict) else {"name": axis} for axis in image.get("axes", ())]
    axes = axes or [{"name": name} for name in "tczyx"[-n_axes:]]
    names = "".join(axis["name"] for axis in axes).lower()
    fit = len(axes) == len(names) == n_axes and set(names) <= set("tczyx")
    require(fit, f"{n_axes} axes from t, c, z, y, x in the OME metadata of {array}", names)
    scale = [1.0] * n_axes
    for transforms in (level, image):
        for transform in transforms.get("coordinateTransformations", ()):
            if transform["type"] == "scale":
                scale = [a * b for a, b in zip(scale, transform["scale"], strict=True)]
    units = [axis.get("unit") for axis in axes]
    spatial = [i for i, name in enumerate(names) if name in "zyx"]
    lengths = [_nanometres(scale[i], units[i]) for i in spatial]
    return Standard("OME-Zarr", names, _complete(lengths))


def of_tiff(tif: tifffile.TiffFile, axes: str) -> Standard:
    """What OME or ImageJ metadata state about a stack with these axes, named as in `Standard`."""
    if tif.is_ome:
        return Standard("OME-TIFF", None, _of_ome_xml(tif.ome_metadata or "", axes))
    if tif.is_imagej:
        return Standard("ImageJ", None, _of_imagej(tif, axes))
    return Standard()


def _of_ome_xml(text: str, axes: str) -> Lengths | None:
    pixels = next(node for node in ElementTree.fromstring(text).iter() if _tag(node) == "Pixels")
    lengths = []
    for axis in axes.replace("c", "").upper():
        size, unit = pixels.get(f"PhysicalSize{axis}"), pixels.get(f"PhysicalSize{axis}Unit", "µm")
        lengths.append(None if size is None else _nanometres(float(size), unit))
    return _complete(lengths)


def _tag(node: ElementTree.Element) -> str:
    return node.tag.rpartition("}")[2]


def _of_imagej(tif: tifffile.TiffFile, axes: str) -> Lengths | None:
    """Size in the plane from the resolution tags, between slices from `spacing`."""
    described = tif.imagej_metadata or {}
    first_page: Any = tif.pages[0]
    tags = first_page.tags
    unit = str(described.get("unit", "")).replace("\\u00B5", "µ")
    sizes = {"z": described.get("spacing")}
    for axis, name in (("y", "YResolution"), ("x", "XResolution")):
        pixels, units = tags[name].value if name in tags else (0, 1)
        sizes[axis] = units / pixels if pixels else None
    lengths = [sizes.get(axis) for axis in axes.replace("c", "")]
    return _complete([None if size is None else _nanometres(size, unit) for size in lengths])


def _nanometres(size: float, unit: str | None) -> float | None:
    """A length in nm, None where the unit is missing or no unit of length, such as pixel."""
    factor = NANOMETRES.get((unit or "").lower())
    return None if factor is None else size * factor


def _complete(lengths: list[float | None]) -> Lengths | None:
    """Three positive lengths, or None where one is unknown."""
    positive = [
        float(length)
        for length in lengths
        if length is not None and math.isfinite(length) and length > 0
    ]
    if len(lengths) != 3 or len(positive) != 3:
        return None
    return positive[0], positive[1], positive[2]
