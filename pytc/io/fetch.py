"""Public data sets on this machine: downloaded, checked, unpacked, written as presets read them.

    SET/downloads/        the files as they are published
    SET/fetched.json      their checksums, and which volumes are finished
    SET/SET_SPLIT.h5      a volume: raw, labels and, of CREMI, clefts
    SET/SET_SPLIT.zarr    a cube of NISB: img and seg

A volume has a temporary name until all of it is written, so a killed command leaves nothing that
looks finished; the same command then goes on.
"""

import itertools
import json
import logging
import math
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from pytc.checks import require, suggest
from pytc.config import Lengths, VolumeConfig
from pytc.geometry import Box, region_of
from pytc.io import datasets
from pytc.io.archives import unpack
from pytc.io.datasets import BY_HAND, DATASETS, Dataset, Download
from pytc.io.download import download
from pytc.io.skeleton import load_skeleton, save_skeleton
from pytc.io.volume import Volume, create_volume, open_volume
from pytc.progress import Progress
from pytc.runs import locked

LOGGER = logging.getLogger(__name__)
SLAB = 16  # planes that are copied at once
BLOCK = 256  # voxels along an axis of what is copied at once from a streamed array
CHUNKS = (SLAB, 128, 128)
Change = Callable[[np.ndarray], np.ndarray]


def fetch(
    name: str,
    folder: str | Path | None = None,
    splits: Sequence[str] = (),
    roi: str | None = None,
) -> dict[str, VolumeConfig]:
    """Fetch a public data set; what is there already is left as it is.

    Where another process fetches the set into the same folder, this one waits for it.

    Args:
        name: of the set, see `pytc.io.datasets.DATASETS`.
        folder: where the folder of the set is made; by default `writable_data_folder`.
        splits: its volumes, by default all; "train" stands for train_0, train_1 and so on.
        roi: the part of each volume to write, z0:z1,y0:y1,x0:x1 in voxels along z, y and x; of a
            streamed set no more than that is read.

    Returns:
        The config of each volume asked for, by split.

    Raises:
        ValueError: the name, a split or the region is unknown; a checksum differs; an archive is
            damaged or not what it should be; or the volume is there with another region.
        ImportError: pooch is not installed.
        OSError: there is no connection, or it broke off too often.
    """
    if name in BY_HAND:
        raise ValueError(f"expected a data set to download, got {name!r}: {BY_HAND[name]}")
    if name not in DATASETS:
        raise ValueError(f"expected a data set, got {name!r}{suggest(name, DATASETS)}")
    dataset = DATASETS[name]
    wanted = choose_splits(name, dataset, splits)
    place = Path(folder or datasets.writable_data_folder()) / name
    notes = Notes(place / "fetched.json")
    if not all(_is_there(name, split, place, notes, roi) for split in wanted):
        with locked(place):
            _fetch_missing(name, dataset, wanted, place, roi)
    return {split: datasets.volume_config(name, split, place) for split in wanted}


def _fetch_missing(
    name: str, dataset: Dataset, wanted: Sequence[str], place: Path, roi: str | None
) -> None:
    """Fetch the splits that are not there; another process may have fetched some meanwhile."""
    notes = Notes(place / "fetched.json")
    missing = [split for split in wanted if not _is_there(name, split, place, notes, roi)]
    if not missing:
        return
    LOGGER.info(f"{name}: {dataset.attribution}")
    if dataset.is_streamed:
        for split in missing:
            _stream(name, split, place, notes, roi)
        return
    files = [_downloaded(each, place, notes) for each in dataset.downloads]
    with_archives = _unpacked(files, place)
    for split in missing:
        _convert(name, split, with_archives, place, notes, roi)
    shutil.rmtree(place / "unpacked", ignore_errors=True)
    LOGGER.info(f"{place / 'downloads'} is no longer needed, and can be deleted")


def choose_splits(name: str, dataset: Dataset, asked: Sequence[str]) -> list[str]:
    """The splits that were asked for, by their names or by what comes before their number."""
    if not asked:
        return list(dataset.splits)
    wanted = []
    for each in asked:
        named = [split for split in dataset.splits if each in (split, split.rpartition("_")[0])]
        require(bool(named), f"--split from {', '.join(dataset.splits)} of {name}", each)
        wanted += [split for split in named if split not in wanted]
    return wanted


class Notes:
    """fetched.json: checksums of downloads, and the region of each finished volume."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.checksums: dict[str, str] = {}
        self.regions: dict[str, str | None] = {}
        if path.is_file():
            try:
                stored = json.loads(path.read_text())
                self.checksums = dict(stored["checksums"])
                self.regions = dict(stored["regions"])
            except (ValueError, KeyError, TypeError) as error:
                raise ValueError(
                    f"expected what pytc data fetch has noted in {path}, got {error!r}; delete it "
                    "to fetch the set again"
                ) from error

    def save(self) -> None:
        temporary = self.path.with_name(f"{self.path.name}.part")
        content = {"checksums": self.checksums, "regions": self.regions}
        temporary.write_text(json.dumps(content, indent=1))
        os.replace(temporary, self.path)


def _is_there(name: str, split: str, place: Path, notes: Notes, roi: str | None) -> bool:
    stored = datasets.stored_at(name, split, place)
    if not stored.exists():
        return False
    if split not in notes.regions:
        LOGGER.info(f"{stored} is there, but was not fetched by this command: it is left as it is")
        return True
    require(
        notes.regions[split] == roi,
        f"{stored} with the region {roi or 'of all voxels'} that is asked for; say --output DIR, "
        "or delete it",
        notes.regions[split] or "all voxels",
    )
    LOGGER.info(f"{stored} is there")
    return True


def _downloaded(source: Download, place: Path, notes: Notes) -> Path:
    """The file of a download, which has the checksum that is published, or was noted at first."""
    file = place / "downloads" / source.name
    known = source.checksum or notes.checksums.get(source.name)
    checksum = download(source.url, known, file)
    if notes.checksums.get(source.name) != checksum:
        if known is None:
            LOGGER.info(f"{source.name}: no checksum is published; noted is {checksum}")
        notes.checksums[source.name] = checksum
        notes.save()
    return file


def _unpacked(files: list[Path], place: Path) -> list[Path]:
    """The files, and those in archives among them."""
    found = []
    for file in files:
        if file.suffix != ".zip":
            found.append(file)
            continue
        folder = place / "unpacked" / file.stem
        unpack(file, folder)
        found += sorted(each for each in folder.rglob("*") if each.is_file())
    return found


def _open(part: str, files: list[Path], dataset: Dataset) -> Volume:
    """The volume at FILE, FILE:DATASET or FOLDER/ of a download."""
    file, colon, inside = part.partition(":")
    return open_volume(
        f"{_find(file, files)}{colon}{inside}", axes=dataset.axes, voxel_size=dataset.voxel_size
    )


def _find(name: str, files: list[Path]) -> Path:
    """The file, or the folder with a slash behind its name, of a download."""
    found = [each for each in files if each.name == name]
    if name.endswith("/"):
        found = sorted({each.parent for each in files if f"{each.parent.name}/" == name})
    require(len(found) == 1, f"one {name} in the download", ", ".join(map(str, found)) or "none")
    return found[0]


# --- files that are downloaded whole ---


@dataclass(frozen=True)
class Source:
    """A part of a volume as it is copied.

    read: of a box in its own voxels, the voxels. origin: its first voxel in those of the image.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    read: Callable[[Box], np.ndarray]
    origin: tuple[int, ...] = (0, 0, 0)


def _convert(
    name: str, split: str, files: list[Path], place: Path, notes: Notes, roi: str | None
) -> None:
    """Write the HDF5 file of a split."""
    dataset, parts = DATASETS[name], DATASETS[name].splits[split]
    image = _open(parts.image, files, dataset)
    planes = parts.planes or (0, image.shape[0])
    enough = image.shape[0] >= planes[1]
    require(enough, f"{planes[1]} planes or more in {image.path}", image.shape[0])
    sources = {"raw": _source(image, planes, (0, 0, 0))}
    if parts.labels and parts.bodies:
        sources["labels"] = _bodies(_find(parts.labels, files), planes)
    elif parts.labels:
        labels = _open(parts.labels, files, dataset)
        if labels.shape[0] == planes[1] - planes[0] != image.shape[0]:
            sources["labels"] = _source(labels, (0, labels.shape[0]), (0, 0, 0))
        else:
            start = _start_in(image, labels, dataset.voxel_size)
            sources["labels"] = _source(labels, planes, start)
    if parts.clefts:
        clefts = _open(parts.clefts, files, dataset)
        start = _start_in(image, clefts, dataset.voxel_size)
        sources["clefts"] = _source(clefts, planes, start, _cleft_labels)
    shape = sources["raw"].shape
    region = Box((0, 0, 0), shape)
    if roi is not None:
        region = region_of(roi, shape)
    target = datasets.stored_at(name, split, place)
    temporary = target.with_name(f"{target.name}.part")
    with h5py.File(temporary, "w") as file:
        for key, source in sources.items():
            _write(file, key, source, region, dataset, f"writing {target.name}:{key}")
    os.replace(temporary, target)
    notes.regions[split] = roi
    notes.save()


def _start_in(image: Volume, labels: Volume, voxel_size: Lengths) -> tuple[int, ...]:
    """The voxel of the image at which labels begin, as their attribute `offset` or so says."""
    if labels.origin is None or labels.shape == image.shape:
        require(
            labels.shape == image.shape,
            f"labels of shape {image.shape}, or with an attribute that says where they lie, in "
            f"{labels.path}",
            labels.shape,
        )
        return (0, 0, 0)
    unit = np.array(voxel_size) if labels.origin.in_nm else np.ones(3)
    at = np.array(labels.origin.at) / unit
    whole = tuple(np.rint(at).astype(int).tolist())
    box = Box(whole, tuple(a + n for a, n in zip(whole, labels.shape)))
    fits = (
        np.allclose(at, whole, atol=1e-2) and box.intersection(Box((0, 0, 0), image.shape)) == box
    )
    require(bool(fits), f"labels inside of the image in {labels.path}", f"an offset of {at}")
    return whole


def _source(
    volume: Volume,
    planes: tuple[int, int],
    start: tuple[int, ...],
    change: Change = lambda values: values,
) -> Source:
    """The planes of a volume whose first voxel lies at `start` of the image.

    Only a volume as deep as its image is cut to planes.
    """
    shape, first = volume.shape, 0
    if start == (0, 0, 0):
        first = planes[0]
        shape = (planes[1] - planes[0], *volume.shape[1:])

    def read(box: Box) -> np.ndarray:
        return change(volume[box.moved((first, 0, 0)).slices])

    return Source(shape, volume.dtype, read, start)


def _cleft_labels(values: np.ndarray) -> np.ndarray:
    """Clefts as labels: CREMI has the maximum where there is none, and one less where unknown."""
    most = np.iinfo(values.dtype).max
    changed = np.where(values == most, 0, values)
    return np.where(values == most - 1, most, changed).astype(values.dtype)


def _bodies(path: Path, planes: tuple[int, int]) -> Source:
    """The body of each voxel, numbered from 1 in the order of their first voxels; 0 stays 0.

    The file has supervoxels (`stack`) and, for each, its body (`transforms`, (n, 2)).
    """
    with h5py.File(path, "r") as file:
        stored = {"stack", "transforms"} <= set(file)
        require(stored, f"the data sets stack and transforms in {path}", sorted(file))
        supervoxels = file["stack"][slice(*planes)]
        pairs = file["transforms"][...]
    most = max(int(pairs[:, 0].max()), int(supervoxels.max()))
    body_of = np.zeros(most + 1, np.int64)
    body_of[pairs[:, 0]] = pairs[:, 1]
    bodies = body_of[supervoxels]
    ids, first, index = np.unique(bodies, return_index=True, return_inverse=True)
    order = np.argsort(first)
    order = order[ids[order] > 0]
    labels = np.zeros(len(ids), np.uint16 if len(ids) <= 2**16 else np.uint32)
    labels[order] = np.arange(1, len(order) + 1)
    numbered = labels[index].reshape(bodies.shape)
    return Source(numbered.shape, numbered.dtype, lambda box: numbered[box.slices])


def _write(
    file: h5py.File, key: str, source: Source, region: Box, dataset: Dataset, description: str
) -> None:
    """Copy what of a source lies in the region of the image to the data set `key`."""
    whole = Box(source.origin, tuple(a + n for a, n in zip(source.origin, source.shape)))
    inside = whole.intersection(region)
    if inside is None:
        raise ValueError(f"expected a region with {key}, which lie in {whole}, got {region}")
    chunks = tuple(map(min, CHUNKS, inside.shape))
    target = file.create_dataset(
        key, inside.shape, source.dtype, chunks=chunks, compression="gzip", compression_opts=1
    )
    attributes: dict[str, Any] = {"axes": "zyx", "resolution": dataset.voxel_size, "unit": "nm"}
    if any(region.start) or inside != region:
        attributes["voxel_offset"] = inside.start
    target.attrs.update(attributes)
    start, shape = inside.seen_from(whole).start, inside.shape
    with Progress(description, "planes", shape[0]) as progress:
        for first in range(0, shape[0], SLAB):
            last = min(first + SLAB, shape[0])
            slab = Box((first, 0, 0), (last, *shape[1:]))
            target[slab.slices] = source.read(slab.moved(start))
            progress.show(last)


# --- arrays that are streamed ---


def _stream(name: str, split: str, place: Path, notes: Notes, roi: str | None) -> None:
    """Write the cube of a split, its region alone, and its skeletons."""
    dataset, parts = DATASETS[name], DATASETS[name].splits[split]
    target = datasets.stored_at(name, split, place)
    work = target.with_name(f"{target.stem}.part.zarr")
    begun = work / "region.json"
    if not (begun.is_file() and begun.read_text() == json.dumps(roi)):
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(parents=True)
        begun.write_text(json.dumps(roi))
    arrays = {"img": (parts.image, dataset.axes)}
    if parts.labels:
        arrays["seg"] = (parts.labels, dataset.axes.replace("c", ""))
    for key, (url, axes) in arrays.items():
        volume = open_volume(url, axes=axes, voxel_size=dataset.voxel_size)
        box = _region_along_zyx(volume, roi)
        _copy_blocks(volume, box, work / key, f"streaming {target.name}/{key}")
    _fetch_skeleton(name, split, place, notes, roi, box)
    (work / ".zgroup").write_text(json.dumps({"zarr_format": 2}))
    for leftover in (begun, *work.glob("*.done")):
        leftover.unlink()
    shutil.rmtree(target, ignore_errors=True)
    work.rename(target)
    notes.regions[split] = roi
    notes.save()


def _region_along_zyx(volume: Volume, roi: str | None) -> Box:
    """The region z0:z1,y0:y1,x0:x1 in the order of the axes of a volume."""
    if roi is None:
        return Box((0, 0, 0), volume.spatial_shape)
    axes = volume.spatial_axes
    box = region_of(roi, tuple(volume.spatial_shape[axes.index(axis)] for axis in "zyx"))
    order = ["zyx".index(axis) for axis in axes]
    return Box(tuple(box.start[i] for i in order), tuple(box.stop[i] for i in order))


def _copy_blocks(volume: Volume, box: Box, target: Path, description: str) -> None:
    """Copy a box of a volume block by block, but for the blocks that an earlier call has copied."""
    shape = tuple(_with_channels(volume, box.shape, volume.n_channels))
    notes = target.with_name(f"{target.name}.done")
    done = set(notes.read_text().split()) if notes.is_file() and target.exists() else set()
    if not done:
        create_volume(
            target,
            shape,
            volume.dtype,
            axes=volume.axes,
            voxel_size=volume.voxel_size,
            attributes={"voxel_offset": box.start} if any(box.start) else None,
            overwrite=True,
        )
    stored = open_volume(target, writable=True)
    blocks = list(_blocks(box.shape))
    with (
        Progress(description, "blocks", len(blocks), len(done)) as progress,
        open(notes, "a") as finished,
    ):
        for number, block in enumerate(blocks, 1):
            if str(number) in done:
                continue
            everything = slice(None)
            source = tuple(_with_channels(volume, block.moved(box.start).slices, everything))
            stored[tuple(_with_channels(volume, block.slices, everything))] = volume[source]
            finished.write(f"{number}\n")
            finished.flush()
            progress.show(number)


def _with_channels(volume: Volume, spatial: Sequence[Any], channels: Any) -> list[Any]:
    """One entry for each axis of a volume, from those of its spatial axes."""
    entries = iter(spatial)
    return [channels if axis == "c" else next(entries) for axis in volume.axes]


def _blocks(shape: tuple[int, ...]) -> Iterator[Box]:
    counts = [range(math.ceil(length / BLOCK)) for length in shape]
    for place in itertools.product(*counts):
        start = tuple(BLOCK * number for number in place)
        yield Box(start, tuple(min(a + BLOCK, n) for a, n in zip(start, shape)))


def _fetch_skeleton(
    name: str, split: str, place: Path, notes: Notes, roi: str | None, box: Box
) -> None:
    """Put the skeletons beside a cube; of a region, those nodes and edges that lie in it."""
    source = DATASETS[name].splits[split].skeleton
    if source is None:
        return
    file = _downloaded(source, place, notes)
    if roi is None:
        os.replace(file, datasets.skeleton_at(name, split, place, ".pkl"))
        return
    skeleton = load_skeleton(file, DATASETS[name].voxel_size).cropped(box)
    save_skeleton(datasets.skeleton_at(name, split, place, ".npz"), skeleton)
