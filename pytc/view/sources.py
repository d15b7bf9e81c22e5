"""What a viewer shows: the volumes of a run, or the files that a user names. No torch."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from pytc.checks import require
from pytc.config import Lengths
from pytc.evaluation.folders import Notes, read_notes
from pytc.evaluation.inputs import StoredArray
from pytc.io.placed import Frame, place_labels
from pytc.io.results import SOURCES, image_name
from pytc.io.skeleton import Skeleton, load_skeleton
from pytc.io.volume import Volume, open_volume
from pytc.runs import find_run, newest_run, runs_folder
from pytc.segmentation.merge_tree import MergeTree, load_merge_tree
from pytc.segmentation.stored_tree import FRAGMENTS, MERGES
from pytc.view.command import ViewConfig

LOGGER = logging.getLogger(__name__)

Role = Literal["image", "affinities", "labels", "segmentation"]
SKELETON_FILES = (".swc", ".pkl", ".pickle", ".npz")
PREDICTIONS = ("affinities.zarr", "probabilities.zarr")
ERRORS = "errors.csv"
NO_VOXEL_SIZE = (1.0, 1.0, 1.0)
DEFAULT_THRESHOLD = 0.5


@dataclass(frozen=True)
class Shown:
    """One volume, and what it is."""

    name: str  # of its layer
    role: Role
    volume: Volume


@dataclass(frozen=True)
class Fragments:
    """fragments.zarr, and the merges of its fragments."""

    volume: Volume  # (Z, Y, X) uint32 or uint64
    tree: MergeTree
    threshold: float  # where the slider begins
    min_size: int  # voxels; smaller segments are not shown


@dataclass(frozen=True)
class Sources:
    """All that one viewer shows; its arrays have one order of axes."""

    title: str
    volumes: list[Shown] = field(default_factory=list)
    skeleton: Skeleton | None = None  # positions in the order `axes`
    fragments: Fragments | None = None
    errors: Path | None = None  # errors.csv of an evaluation
    axes: str = "zyx"
    voxel_size: Lengths = NO_VOXEL_SIZE  # nm, in the order `axes`

    def named(self, role: Role) -> list[Shown]:
        return [shown for shown in self.volumes if shown.role == role]


def find_sources(config: ViewConfig) -> Sources:
    """All that the words and flags of `pytc view` name.

    Raises:
        ValueError: a run or file does not exist, is none of what a viewer shows, or has another
            order of axes than the rest.
    """
    files: list[str] = []
    runs: list[str] = []
    for word in config.what:
        (runs if _is_run(word) else files).append(word)
    require(len(runs) < 2, "one run, as a viewer shows one place", runs)
    names_none = not (files or config.named_files)
    found = Sources(title=" ".join(files) or "files")
    if runs or names_none:
        found = _of_run(runs[0] if runs else None, config.volume, config.min_size)
    else:
        require(config.volume is None, "--volume with a run", config.volume)
    return _with_files(found, files, config)


def _is_run(word: str) -> bool:
    """Whether a word of the command line names a run, not a file."""
    path = Path(word)
    return any(
        (folder / "config.json").is_file() or any(folder.glob(SOURCES))
        for folder in (path, runs_folder() / path)
    )


def _of_run(run: str | None, volume: str | None, min_size: int | None) -> Sources:
    """What infer.py and evaluate.py made of one volume of a run, and what they read."""
    folder = newest_run(SOURCES) if run is None else find_run(run)
    found = {path.parent.name: path.parent for path in sorted(folder.glob(SOURCES))}
    require(bool(found), f"results in {folder} ({SOURCES}); pytc infer makes them", "none")
    if volume is None:
        volume = next(iter(found))
        others = ", ".join(name for name in found if name != volume)
        if others:
            LOGGER.info(f"volume {volume} of {folder}; --volume names another one: {others}")
    require(volume in found, f"a volume with results in {folder}, {' or '.join(found)}", volume)
    results, evaluated = found[volume], folder / "evaluation" / volume
    notes = read_notes(results)
    volumes = []
    if notes.image is not None:
        volumes.append(Shown("image", "image", _open(notes.image)))
    for name in PREDICTIONS:
        if (results / name).is_dir():
            shown = open_volume(results / name)
            volumes.append(Shown(Path(name).stem, "affinities", shown))
    if notes.truth.labels is not None:
        labels = _open_labels(notes.truth.labels, volumes[0].volume)
        volumes.append(Shown("labels", "labels", labels))
    segmentations = {
        "segmentation": results / "segmentation.zarr",
        "best segmentation": evaluated / "best_segmentation.zarr",
    }
    for name, path in segmentations.items():
        if path.is_dir():
            volumes.append(Shown(name, "segmentation", open_volume(path)))
    axes = volumes[0].volume.spatial_axes
    voxel_size = notes.voxel_size or _voxel_size(volumes)
    return Sources(
        title=f"{folder.name} · {volume}",
        volumes=volumes,
        skeleton=_skeleton(notes.truth.skeleton, axes, voxel_size),
        fragments=_fragments(results, notes, min_size),
        errors=evaluated / ERRORS if (evaluated / ERRORS).is_file() else None,
        axes=axes,
        voxel_size=voxel_size,
    )


def _open(file: StoredArray) -> Volume:
    (volume,) = file.open()
    return volume


def _open_labels(file: StoredArray, image: Volume) -> Volume:
    """Labels at their place in an image, which may be larger."""
    pieces = file.open(like=image)
    frame = Frame(image.path, image.spatial_shape, image.voxel_size, image.origin)
    return place_labels(pieces, frame, file.offsets)


def _voxel_size(volumes: Sequence[Shown]) -> Lengths:
    """The first voxel size that a volume states."""
    for shown in volumes:
        if shown.volume.voxel_size is not None:
            return shown.volume.voxel_size
    return NO_VOXEL_SIZE


def _skeleton(file: StoredArray | None, axes: str, voxel_size: Lengths) -> Skeleton | None:
    """Skeletons with positions in the order `axes`, as the voxel size is."""
    if file is None:
        return None
    stored = file.axes or axes
    along = dict(zip(axes, voxel_size))
    lengths = (along[stored[0]], along[stored[1]], along[stored[2]])
    skeleton = load_skeleton(file.only_path, lengths, axes=stored)
    return skeleton if stored == axes else skeleton.transposed(stored, axes)


def _fragments(folder: Path, notes: Notes, min_size: int | None) -> Fragments | None:
    """The merge tree in a folder of results; None, with a message, where there is none."""
    if not (folder / FRAGMENTS).is_dir() or not (folder / MERGES).is_file():
        LOGGER.info(
            f"no slider: {folder} has no {FRAGMENTS} and {MERGES}; "
            "pytc infer --segmentation.method agglomeration writes them"
        )
        return None
    volume, tree = open_volume(folder / FRAGMENTS), load_merge_tree(folder / MERGES)
    key = volume.attributes.get("key")
    require(tree.key == key, f"{MERGES} of the same decode as {FRAGMENTS} in {folder}", tree.key)
    size = notes.segmentation.min_size if min_size is None else min_size
    return Fragments(volume, tree, notes.segmentation.threshold, size)


def _with_files(found: Sources, files: Sequence[str], config: ViewConfig) -> Sources:
    """The sources of a run, if any, and the files that a user names beside or instead of it."""
    volumes = list(found.volumes)
    skeleton_path = config.skeleton
    for file in files:
        if Path(file).suffix.lower() in SKELETON_FILES:
            skeleton_path = file
        else:
            volume = _open(StoredArray(file, config.axes))
            volumes.append(Shown(image_name(file), _role(volume), volume))
    named: dict[Role, str | None] = {
        "image": config.image,
        "affinities": config.affinities,
        "labels": config.labels,
        "segmentation": config.segmentation,
    }
    for role, path in named.items():
        if path is not None:
            volumes = [shown for shown in volumes if shown.name != role]
            volumes.append(Shown(role, role, _open(StoredArray(path, config.axes))))
    require(bool(volumes), "a run, or a volume to show", list(files))
    axes = volumes[0].volume.spatial_axes
    for shown in volumes:
        same = shown.volume.spatial_axes == axes
        require(same, f"volumes with the axes {axes}, as {volumes[0].volume.path}", shown.volume)
    voxel_size = config.voxel_size
    if voxel_size is None:
        voxel_size = found.voxel_size if found.volumes else _voxel_size(volumes)
    if voxel_size == NO_VOXEL_SIZE:
        LOGGER.info("no voxel size is stated: voxels of 1 nm are shown; --voxel-size names it")
    skeleton = found.skeleton
    if skeleton_path is not None:
        skeleton = _skeleton(StoredArray(skeleton_path), axes, voxel_size)
    errors = found.errors if config.errors is None else Path(config.errors)
    fragments = found.fragments
    if fragments is None and not found.volumes:
        fragments = _fragments_beside(config.affinities, config)
    return Sources(found.title, _numbered(volumes), skeleton, fragments, errors, axes, voxel_size)


def _fragments_beside(affinities: str | None, config: ViewConfig) -> Fragments | None:
    """The merge tree beside affinities that a user names."""
    if affinities is None:
        return None
    return _fragments(Path(affinities).parent, Notes(), config.min_size or 0)


def _role(volume: Volume) -> Role:
    """What a file is, where the user does not say: by its dtype and channels."""
    if "c" in volume.axes and volume.dtype.kind == "f":
        return "affinities"
    is_ids = volume.dtype.kind in "iu" and volume.dtype.itemsize > 2 and "c" not in volume.axes
    return "segmentation" if is_ids else "image"


def _numbered(volumes: Sequence[Shown]) -> list[Shown]:
    """The volumes with a name of its own for each layer."""
    numbered: list[Shown] = []
    taken: set[str] = set()
    for shown in volumes:
        name, number = shown.name, 1
        while name in taken:
            number += 1
            name = f"{shown.name}-{number}"
        taken.add(name)
        numbered.append(Shown(name, shown.role, shown.volume))
    return numbered
