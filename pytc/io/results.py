"""Where results lie: the name of a volume's folder, and the source.json in it.

infer.py writes runs/RUN/predictions/NAME, evaluate.py runs/RUN/evaluation/NAME, and validation
during training logs val/NAME/...: all three take NAME from here.
"""

import itertools
import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pytc.checks import require
from pytc.config import Triple, VolumeConfig
from pytc.geometry import Box, as_triple
from pytc.io.remote import RemoteFolder, parse_folder
from pytc.io.stores import split_path
from pytc.io.volume import Volume
from pytc.runs import write_json

SOURCE = "source.json"  # beside a prediction: what was predicted, from what, and the truth
SOURCES = f"predictions/*/{SOURCE}"
MANIFEST = "blocks.json"  # in a prediction: its key, and which blocks there are
CONTAINERS = (".zarr", ".n5", ".h5", ".hdf5", ".hdf")
FORBIDDEN = re.compile(r"[^\w.-]+")  # in the name of a folder


def image_name(path: str) -> str:
    """A name for results, from the file and what is named inside it.

    a.zarr/raw -> a_raw, f.h5:x/y -> f_x_y, stack.tif -> stack, slices/ -> slices.
    """
    file, inside = split_path(path)
    parts = list(file.parts)
    store = [n for n, part in enumerate(parts) if Path(part).suffix.lower() in CONTAINERS]
    # without a container the last part alone, as the folders above may be any
    parts = parts[store[-1] :] if store else parts[-1:]
    words = [Path(parts[0]).stem, *parts[1:]] if parts else []
    if inside:
        words += inside.split("/")
    return FORBIDDEN.sub("_", "_".join(words)).strip("._") or "volume"


def volume_name(config: VolumeConfig) -> str:
    """The name that a volume is given in the config, or else that of its image."""
    return config.name or image_name(config.image)


def volume_names(configs: Iterable[VolumeConfig]) -> list[str]:
    """A name for each volume; where two are the same the later one gets a number: raw, raw-2."""
    names: list[str] = []
    for config in configs:
        names.append(next(name for name in _numbered(volume_name(config)) if name not in names))
    return names


def results_folder(parent: Path, name: str, image: str, taken: Iterable[Path] = ()) -> Path:
    """The folder below `parent` for the results of an image: parent/name, or parent/name-2, ...

    A number is appended where the folder is among those `taken`, or holds the results of another
    image. Nothing is made.
    """
    for numbered in _numbered(name):
        folder = parent / numbered
        if folder not in taken and stored_image(folder) in (None, _identity(image)):
            return folder
    raise AssertionError("numbers do not end")


def require_same_image(folder: Path, image: str) -> None:
    """ValueError if a folder, named by the user, holds the results of another image."""
    stored = stored_image(folder)
    require(
        stored in (None, _identity(image)),
        f"--output without results, or with those of {image}",
        f"{folder}, which holds those of {stored}",
    )


def stored_image(folder: Path) -> str | None:
    """Which image the results in a folder are of; None if it holds none."""
    if not (folder / SOURCE).is_file():
        return None
    return _identity(json.loads((folder / SOURCE).read_text())["image"])


def write_source(folder: Path, source: dict[str, Any]) -> None:
    write_json(folder / SOURCE, source)


def read_source(folder: Path) -> dict[str, Any]:
    """What `write_source` wrote; ValueError if it is of a release that names no target in it."""
    source: dict[str, Any] = json.loads((folder / SOURCE).read_text())
    require(
        "target" in source,
        f"{folder / SOURCE} with a target; infer.py of this release writes it anew",
        "one of an earlier release",
    )
    return source


def region_attributes(region: Box, shape: Triple) -> dict[str, Any]:
    """What is stored with the results of a region of an image of this shape, in voxels."""
    return {"voxel_offset": region.start, "image_shape": shape}


def stored_region(attributes: dict[str, Any], shape: Triple) -> tuple[Box, Triple] | None:
    """The region of an image that results of this shape are of, and the shape of the image.

    None for results of the whole image.
    """
    if "image_shape" not in attributes:
        return None
    start = as_triple(attributes["voxel_offset"])
    region = Box(start, tuple(a + n for a, n in zip(start, shape)))
    return region, as_triple(attributes["image_shape"])


def prediction_key(path: str) -> str | None:
    """What names all that produced a prediction of infer.py; None for an array from elsewhere."""
    manifest = Path(path) / MANIFEST
    if not manifest.is_file():
        return None
    return str(json.loads(manifest.read_text())["key"])


def state_on_disk(volume: Volume) -> list[Any]:
    """What changes when a stored volume does, as plain types that a hash can be made of.

    Of a prediction of infer.py it is its key; of any other volume its path and layout, and the
    number, newest date and size of its files. The files of a volume elsewhere are not listed: its
    attributes stand for them.
    """
    key = prediction_key(volume.path)
    if key is not None:
        return [key]
    path, _ = split_path(volume.path)
    layout = volume.path, volume.axes, volume.shape, str(volume.dtype)
    if isinstance(path, RemoteFolder):
        return [*layout, volume.attributes]
    files = [file.stat() for file in (path.rglob("*") if path.is_dir() else [path])]
    state = len(files), max(file.st_mtime_ns for file in files), sum(file.st_size for file in files)
    return [str(path.resolve()), *layout, *state]


def _numbered(name: str) -> Iterable[str]:
    yield name
    for number in itertools.count(2):
        yield f"{name}-{number}"


def _identity(image: str) -> str:
    folder = parse_folder(image)
    return str(folder if isinstance(folder, RemoteFolder) else folder.resolve())
