"""Public data sets: their addresses, the volumes in each file, and the VolumeConfig of each volume.

    pytc data snemi3d     downloads, unpacks, prints the fields of each volume

A cube of the NISB benchmark opens as it is published: data.zarr/img (axes xyzc), data.zarr/seg,
skeleton.pkl.
"""

import os
from pathlib import Path
from typing import NamedTuple

from pytc.checks import require, suggest
from pytc.config import VolumeConfig

DATA = Path("data")  # below the current folder; $PYTC_DATA comes before it


class Dataset(NamedTuple):
    """A download, and where the volumes are in it.

    volumes maps a split to its image and labels, as FILE or FILE:DATASET inside the download.
    """

    url: str
    known_hash: str
    voxel_size: tuple[float, float, float]
    attribution: str
    volumes: dict[str, tuple[str, str | None]]


# SHA-256 of each sample
CREMI = {
    "A": "4c563d1b78acb2bcfb3ea958b6fe1533422f7f4a19f3e05b600bfa11430b510d",
    "B": "887e85521e00deead18c94a21ad71f278d88a5214c7edeed943130a1f4bb48b8",
    "C": "2874496f224d222ebc29d0e4753e8c458093e1d37bc53acd1b69b19ed1ae7052",
}
DATASETS = {
    "snemi3d": Dataset(
        "https://zenodo.org/records/7142003/files/snemi.zip",
        "md5:3d25a7025f66698f33c7850ace885939",
        (30, 6, 6),
        "SNEMI3D, mouse cortex, Kasthuri et al. 2015, CC BY 4.0",
        {
            "train": ("train-input.tif", "train-labels.tif"),
            "test": ("test-input.tif", None),
        },  # its labels are secret
    ),
    **{
        f"cremi_{sample.lower()}": Dataset(
            f"https://cremi.org/static/data/sample_{sample}_20160501.hdf",
            f"sha256:{sha256}",
            (40, 4, 4),
            f"CREMI 2016, sample {sample}, adult fly brain",
            {
                "train": (
                    f"sample_{sample}_20160501.hdf:volumes/raw",
                    f"sample_{sample}_20160501.hdf:volumes/labels/neuron_ids",
                )
            },
        )
        for sample, sha256 in CREMI.items()
    },
    "lucchi++": Dataset(
        "https://huggingface.co/pytc/tutorial/resolve/main/mito_lucchi%2B%2B/lucchi%2B%2B.zip",
        "sha256:d6c29c25db29780f068b40edf27918ad4af8a1ce7d699f043ed91c6b012a0637",
        (5, 5, 5),
        "Lucchi++, mitochondria of mouse hippocampus, Lucchi et al. 2012, "
        "labelled again by Casser et al. 2020",
        {split: (f"{split}_im.h5", f"{split}_mito.h5") for split in ("train", "test")},
    ),
}


# data sets that `fetch` does not download: how to get them
BY_HAND = {
    "fib25": "docs/fib25.md makes its files",
    "vnc": (
        "https://github.com/unidesigner/groundtruth-drosophila-vnc, cut along z into vnc_train.h5 "
        "and vnc_val.h5, each with raw and classes"
    ),
}


def data_folders() -> list[Path]:
    """The folders in which data are looked for, in this order: $PYTC_DATA if it is set, data/."""
    named = os.environ.get("PYTC_DATA")
    return [Path(named), DATA] if named else [DATA]


def find(name: str) -> Path | None:
    """A file or folder of that name in the first data folder that has it, or None."""
    for folder in data_folders():
        if (folder / name).exists():
            return folder / name
    return None


def locate(part: str) -> str:
    """The path of FILE or FILE:DATASET of a data set, e.g. fib25/fib25_train.h5:raw, for a preset.

    Where no data folder has the file, the path is one in data/, and an error when it is opened says
    how to get the data set (`require_data`).
    """
    file, colon, inside = part.partition(":")
    return f"{find(file) or DATA / file}{colon}{inside}"


def writable_data_folder() -> Path:
    """Where new data are written: $PYTC_DATA if it is set and can be written to, else data/."""
    for folder in data_folders():
        if _can_be_written(folder):
            return folder
    return DATA


def _can_be_written(folder: Path) -> bool:
    existing = folder.absolute()
    while not existing.exists():
        existing = existing.parent
    return os.access(existing, os.W_OK)


def require_data(path: str) -> None:
    """ValueError, with how to get it, if a path leads into a public data set that is missing."""
    # what reads files is loaded here, as a preset needs it not
    from pytc.io.remote import RemoteFolder
    from pytc.io.stores import split_path

    file, _ = split_path(path)
    if isinstance(file, RemoteFolder) or file.exists():
        return
    for folder in data_folders():
        if file.is_relative_to(folder):
            name = file.relative_to(folder).parts[0]
            if name in DATASETS or name in BY_HAND:
                looked = os.environ.get("PYTC_DATA", "not set")
                raise ValueError(
                    f"expected the data set {name} in $PYTC_DATA ({looked}) or data/, got neither; "
                    f"get it: {how_to_get(name)}; or name volumes of yours by "
                    "--data.train.0.image and --data.train.0.labels"
                )


def how_to_get(name: str) -> str:
    """Where a data set comes from, as a command or an address."""
    return BY_HAND.get(name, f"pytc data {name}")


def volumes(name: str) -> dict[str, VolumeConfig]:
    """A data set's volumes by split, in the data folder that has them; nothing is downloaded.

    Without the data set on this machine the paths are those that it would have in data/.
    """
    require(name in DATASETS, f"a data set from {', '.join(DATASETS)}", name)
    folder = find(name) or DATA / name
    return _volumes(name, folder)


def fetch(name: str, folder: str | Path | None = None) -> dict[str, VolumeConfig]:
    """A data set's volumes by split, downloaded into folder/name the first time.

    The download is checked against its hash. folder: by default `writable_data_folder`.

    Raises:
        ValueError: the name is unknown, or the download lacks a file that it should hold.
        ImportError: pooch is not installed.
        OSError: there is no connection.
    """
    if name in BY_HAND:
        raise ValueError(f"expected a data set to download, got {name!r}: {how_to_get(name)}")
    if name not in DATASETS:
        raise ValueError(f"expected a data set, got {name!r}{suggest(name, DATASETS)}")
    try:
        import pooch
    except ImportError:
        raise ImportError(
            "downloading data sets needs the extra `data`: pip install -e '.[data]' in a clone"
        ) from None
    dataset = DATASETS[name]
    folder = Path(folder or writable_data_folder()) / name
    unzip = pooch.Unzip(extract_dir="unpacked") if dataset.url.endswith(".zip") else None
    pooch.retrieve(
        dataset.url, dataset.known_hash, fname=Path(dataset.url).name, path=folder, processor=unzip
    )
    return _volumes(name, folder)


def _volumes(name: str, folder: Path) -> dict[str, VolumeConfig]:
    dataset = DATASETS[name]
    return {
        split: VolumeConfig(
            image=_find(folder, image),
            labels=labels and _find(folder, labels),
            axes="zyx",
            voxel_size=dataset.voxel_size,
            name=f"{name}_{split}",
            attribution=dataset.attribution,
        )
        for split, (image, labels) in dataset.volumes.items()
    }


def _find(folder: Path, part: str) -> str:
    """The path of FILE or FILE:DATASET, wherever below the folder an archive has put it."""
    file, colon, inside = part.partition(":")
    if not folder.exists():
        return f"{folder / part}"
    found = sorted(folder.rglob(file))
    require(len(found) == 1, f"one {file} below {folder}", ", ".join(map(str, found)))
    return f"{found[0]}{colon}{inside}"
