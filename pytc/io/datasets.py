"""Public data sets: what they are, where they come from, and the VolumeConfig of each volume.

    pytc data list                what there is
    pytc data show cremi_a        addresses, licence, citation, and what a preset reads
    pytc data fetch cremi_a       downloads it and makes the files that presets read

Only the table and the paths are here; `pytc.io.fetch` downloads. A split of a set becomes the file
SET/SET_SPLIT.h5 with the data sets raw and labels; a cube of the NISB benchmark becomes the folder
SET/SET_SPLIT.zarr with img and seg, as it is published.
"""

import os
from dataclasses import dataclass
from pathlib import Path

from pytc.checks import require
from pytc.config import Lengths, VolumeConfig

DATA = Path("data")  # below the current folder; $PYTC_DATA comes before it


@dataclass(frozen=True)
class Download:
    """A file on a server.

    checksum: "sha256:..." or "md5:...", or None where none is published: that of the first download
    is then noted, and enforced from then on.
    """

    url: str
    name: str
    checksum: str | None = None


@dataclass(frozen=True)
class Split:
    """A volume of a set: where its parts are in the downloads, as FILE, FILE:DATASET or FOLDER/.

    image, labels: in a set that is streamed, the URL of a Zarr array.
    clefts: synaptic clefts as CREMI stores them.
    bodies: whether labels are the supervoxels `stack` of a file whose `transforms` name bodies.
    planes: the planes of the image that belong to this split, from first up to last; None for all.
        Labels have them all, too, or these alone.
    skeleton: a pickled networkx graph on a server.
    """

    image: str
    labels: str | None = None
    clefts: str | None = None
    bodies: bool = False
    planes: tuple[int, int] | None = None
    skeleton: Download | None = None


@dataclass(frozen=True)
class Dataset:
    """A public data set.

    Attributes:
        about: what it shows, and what it is for.
        downloads: its files; none where arrays are streamed.
        size: of what is downloaded, as far as it is known.
        voxel_size: nm along `axes`.
        axes: of the arrays, channels too.
        licence: as its source states it.
        citation: what to cite.
        splits: its volumes by name.
        presets: the presets that read it.
        notes: what else to know.
    """

    about: str
    downloads: tuple[Download, ...]
    size: str
    voxel_size: Lengths
    axes: str
    licence: str
    citation: str
    splits: dict[str, Split]
    presets: tuple[str, ...] = ()
    notes: str = ""

    @property
    def is_streamed(self) -> bool:
        """Whether its arrays are read in parts from where they lie, not downloaded as files."""
        return not self.downloads

    @property
    def attribution(self) -> str:
        return f"{self.citation} Licence: {self.licence}."


UNKNOWN_LICENCE = "not known; ask its authors"
# SHA-256 of the file of each sample
CREMI = {
    "A": "4c563d1b78acb2bcfb3ea958b6fe1533422f7f4a19f3e05b600bfa11430b510d",
    "B": "887e85521e00deead18c94a21ad71f278d88a5214c7edeed943130a1f4bb48b8",
    "C": "2874496f224d222ebc29d0e4753e8c458093e1d37bc53acd1b69b19ed1ae7052",
}
CREMI_CITATION = (
    "CREMI: MICCAI challenge on circuit reconstruction from electron microscopy images (2016), "
    "https://cremi.org."
)
NISB = "https://s3.nexus.mpcdf.mpg.de/nisb"
NISB_SETTINGS = (
    "base",
    "train_100",
    "slice_perturbed",
    "pos_guidance",
    "neg_guidance",
    "no_touch_thick",
    "touching_thin",
    "liconn",
    "multichannel",
)


def _cremi(sample: str, *, padded: bool) -> Dataset:
    name = f"sample_{sample}_{'padded_' if padded else ''}20160501.hdf"
    checksum = None if padded else f"sha256:{CREMI[sample]}"
    notes = "Beside raw and labels the file holds clefts: 0 none, the maximum unlabelled."
    size = "not known; 125 x 1250 x 1250 voxels"
    if padded:
        size = "about 1.5 GB" if sample == "A" else "not known"
        notes += " The image is larger than its labels; their attribute voxel_offset says by what."
    return Dataset(
        about=f"neurons and synaptic clefts, adult fly brain, ssTEM, sample {sample}"
        + (", with its surroundings" if padded else ""),
        downloads=(Download(f"https://cremi.org/static/data/{name}", name, checksum),),
        size=size,
        voxel_size=(40, 4, 4),
        axes="zyx",
        licence=UNKNOWN_LICENCE,
        citation=CREMI_CITATION,
        splits={
            "train": Split(
                f"{name}:volumes/raw",
                f"{name}:volumes/labels/neuron_ids",
                clefts=f"{name}:volumes/labels/clefts",
            )
        },
        presets=() if padded else ("cremi", "cremi_clefts"),
        notes=notes,
    )


def _nisb(setting: str) -> Dataset:
    cubes = {f"train_{seed}": f"train/seed{seed}" for seed in range(_training_cubes(setting))}
    cubes |= {"val": "val/seed0", "test": "test/seed0"}
    size = "not known"
    if setting not in ("liconn", "multichannel"):
        size = "12 GB of image and 24 GB of labels a cube, before compression"
    return Dataset(
        about=f"synthetic neurons of the NISB benchmark, setting {setting}",
        downloads=(),
        size=size,
        voxel_size=(9, 9, 12) if setting == "liconn" else (9, 9, 20),
        axes="xyzc",
        licence=UNKNOWN_LICENCE,
        citation=(
            "Neuron instance segmentation benchmark, https://doi.org/10.17617/1.r2mm-1h33, "
            "https://structuralneurobiologylab.github.io/nisb."
        ),
        splits={
            split: Split(
                f"{NISB}/{setting}/{cube}/data.zarr/img",
                f"{NISB}/{setting}/{cube}/data.zarr/seg",
                skeleton=Download(f"{NISB}/{setting}/{cube}/skeleton.pkl", f"{split}_skeleton.pkl"),
            )
            for split, cube in cubes.items()
        },
        presets=("nisb",) if setting == "base" else (),
        notes="--roi fetches a part, with its skeletons.",
    )


def _training_cubes(setting: str) -> int:
    return 100 if setting == "train_100" else 5


# SHA-256 of images and labels; the labels of the human volume have none that was found
MITOEM = {
    "rat": (
        "https://huggingface.co/datasets/pytc/EM30/resolve/main/EM30-R-im.zip",
        "sha256:6a2cac68adde5d01984542d3ee1d7753d1fa3e6eb2a042ce15ce297c95885bbe",
        "EM30-R-mito-train-val-v2.zip",
        "sha256:c56380ac575428a818bd293ca3509d1249999846c3702ccbf11d308acdd2ae86",
    ),
    "human": (
        "https://www.dropbox.com/s/z41qtu4y735j95e/EM30-H-im.zip?dl=1",
        "sha256:98fe259f36a7d8d43f99981b7a0ef8cdeba2ce2615ff91595f428ae57207a041",
        "EM30-H-mito-train-val-v2.zip",
        None,
    ),
}


def _mitoem(tissue: str) -> Dataset:
    images, of_images, labels, of_labels = MITOEM[tissue]
    folder = "https://huggingface.co/datasets/pytc/MitoEM/resolve/main"
    return Dataset(
        about=f"mitochondria, each on its own, {tissue} cortex, thick sections",
        downloads=(
            Download(images, "im.zip", of_images),
            Download(f"{folder}/{labels}", "labels.zip", of_labels),
        ),
        size="not known; 1000 x 4096 x 4096 voxels",
        voxel_size=(30, 8, 8),
        axes="zyx",
        licence=UNKNOWN_LICENCE,
        citation="MitoEM: Wei et al., MitoEM dataset: large-scale 3D mitochondria instance "
        "segmentation from EM images (2020), https://doi.org/10.1007/978-3-030-59722-1_7.",
        splits={
            "train": Split("im/", "mito-train-v2/", planes=(0, 400)),
            "val": Split("im/", "mito-val-v2/", planes=(400, 500)),
            "test": Split("im/", planes=(500, 1000)),
        },
        presets=("mitoem",),
        notes="The labels of the test volume are secret. --roi writes a part; all is downloaded.",
    )


FIB25 = "https://storage.googleapis.com/ffn-flyem-fib25/training_sample2"
DATASETS = {
    "snemi3d": Dataset(
        about="neurons, mouse cortex, thick sections",
        downloads=(
            Download(
                "https://zenodo.org/records/7142003/files/snemi.zip",
                "snemi.zip",
                "md5:3d25a7025f66698f33c7850ace885939",
            ),
        ),
        size="not known; twice 100 x 1024 x 1024 voxels",
        voxel_size=(30, 6, 6),
        axes="zyx",
        licence="CC BY 4.0",
        citation="SNEMI3D: Kasthuri et al., Saturated reconstruction of a volume of neocortex, "
        "Cell 162 (2015).",
        splits={
            "train": Split("train-input.tif", "train-labels.tif"),
            "part": Split("train-input.tif", "train-labels.tif", planes=(0, 80)),
            "val": Split("train-input.tif", "train-labels.tif", planes=(80, 100)),
            "test": Split("test-input.tif"),
        },
        presets=("snemi3d",),
        notes="The labels of the test volume are secret; part and val are planes of train.",
    ),
    **{f"cremi_{sample.lower()}": _cremi(sample, padded=False) for sample in CREMI},
    **{f"cremi_{sample.lower()}_padded": _cremi(sample, padded=True) for sample in CREMI},
    "lucchi++": Dataset(
        about="mitochondria, mouse hippocampus, FIB-SEM",
        downloads=(
            Download(
                "https://huggingface.co/pytc/tutorial/resolve/main/"
                "mito_lucchi%2B%2B/lucchi%2B%2B.zip",
                "lucchi++.zip",
                "sha256:d6c29c25db29780f068b40edf27918ad4af8a1ce7d699f043ed91c6b012a0637",
            ),
        ),
        size="211 MiB",
        voxel_size=(5, 5, 5),
        axes="zyx",
        licence=UNKNOWN_LICENCE,
        citation="Lucchi++: Lucchi et al. 2012, labelled again by Casser et al., Fast mitochondria "
        "detection for connectomics (2020).",
        splits={split: Split(f"{split}_im.h5", f"{split}_mito.h5") for split in ("train", "test")},
        presets=("lucchi", "mednext_lucchi"),
    ),
    "fib25": Dataset(
        about="neurons, fly medulla, FIB-SEM: small enough for a CPU",
        downloads=(
            Download(
                f"{FIB25}/grayscale_maps.h5",
                "grayscale_maps.h5",
                "sha256:ea031c98ee2de778a9a3a1e6d410df5de73e4ac28022df8e7255d84e3394cafa",
            ),
            Download(
                f"{FIB25}/groundtruth.h5",
                "groundtruth.h5",
                "sha256:fd508e7aee1fe51ac9ae0460db4a841d275236f013c1f2552314b4f21b1010ea",
            ),
        ),
        size="not known; 250 x 250 x 250 voxels",
        voxel_size=(10, 10, 10),
        axes="zyx",
        licence="CC BY 3.0",
        citation="FIB-25, FlyEM team, Janelia (neuroproof_examples, training_sample2): Takemura et "
        "al., PNAS 112 (2015).",
        splits={
            "train": Split("grayscale_maps.h5:raw", "groundtruth.h5", bodies=True, planes=(0, 130)),
            "val": Split("grayscale_maps.h5:raw", "groundtruth.h5", bodies=True, planes=(130, 190)),
        },
        presets=("fib25", "mixed_data"),
        notes="Planes from 190 on are in neither file: they are kept unseen. See docs/fib25.md.",
    ),
    **{f"mitoem_{tissue}": _mitoem(tissue) for tissue in MITOEM},
    **{f"nisb_{setting}": _nisb(setting) for setting in NISB_SETTINGS},
}


# data sets that `fetch` does not download: how to get them
BY_HAND = {
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
    return BY_HAND.get(name, f"pytc data fetch {name}")


def volumes(name: str) -> dict[str, VolumeConfig]:
    """A data set's volumes by split, in the data folder that has them; nothing is downloaded.

    Without the data set on this machine the paths are those that it would have in data/.
    """
    require(name in DATASETS, f"a data set from {', '.join(DATASETS)}", name)
    return volumes_in(name, find(name) or DATA / name)


def volumes_in(name: str, folder: Path) -> dict[str, VolumeConfig]:
    """A data set's volumes by split, as they lie in its folder once they are fetched."""
    return {split: volume_config(name, split, folder) for split in DATASETS[name].splits}


def volume_config(name: str, split: str, folder: Path) -> VolumeConfig:
    """The config of one volume in the folder of its set.

    It names skeletons if they are there. Where an older release has unpacked the download below the
    folder, its files are named.
    """
    dataset = DATASETS[name]
    parts = dataset.splits[split]
    stored = stored_at(name, split, folder)
    image: str | None = f"{stored}/img" if dataset.is_streamed else f"{stored}:raw"
    labels: str | None = f"{stored}/seg" if dataset.is_streamed else f"{stored}:labels"
    if not stored.exists() and (older := _unpacked(folder, parts.image)) is not None:
        image = older
        labels = parts.labels and _unpacked(folder, parts.labels)
    skeletons = [skeleton_at(name, split, folder, suffix) for suffix in (".npz", ".pkl")]
    found = [str(path) for path in skeletons if path.exists()]
    return VolumeConfig(
        image=image or "",
        labels=labels if parts.labels else None,
        skeleton=found[0] if found else None,
        axes=None if dataset.is_streamed else dataset.axes,  # image and labels have their own
        voxel_size=dataset.voxel_size,
        name=f"{name}_{split}",
        attribution=dataset.attribution,
    )


def stored_at(name: str, split: str, folder: Path) -> Path:
    """The file, or the folder, of a volume in the folder of its set."""
    suffix = ".zarr" if DATASETS[name].is_streamed else ".h5"
    return folder / f"{name}_{split}{suffix}"


def skeleton_at(name: str, split: str, folder: Path, suffix: str) -> Path:
    """The skeletons of a volume: .pkl as they are published, .npz for a part of them."""
    return folder / f"{name}_{split}_skeleton{suffix}"


def _unpacked(folder: Path, part: str) -> str | None:
    """FILE or FILE:DATASET of a download of an older release; None unless it is there once."""
    file, colon, inside = part.partition(":")
    if "/" in file or not folder.is_dir():
        return None
    found = [each for each in folder.rglob(file) if "downloads" not in each.parts]
    return f"{found[0]}{colon}{inside}" if len(found) == 1 else None
