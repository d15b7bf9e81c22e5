"""Public data sets: where they are, what is in which file, and the VolumeConfig that reads it.

    python -m pytc.io.datasets snemi3d     downloads, unpacks, prints the fields of each volume

A cube of the NISB benchmark opens as it is published: data.zarr/img (axes xyzc), data.zarr/seg,
skeleton.pkl.
"""

from pathlib import Path
from typing import NamedTuple

from pytc.config import VolumeConfig, require


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
                "train": tuple(
                    f"sample_{sample}_20160501.hdf:volumes/{part}"
                    for part in ("raw", "labels/neuron_ids")
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


def fetch(name: str, /, folder: str | Path = "data") -> dict[str, VolumeConfig]:
    """A data set's volumes by split, downloaded into folder/name the first time.

    The download is checked against its hash. ValueError for an unknown name or a download without
    the files it should hold; ImportError without pooch.
    """
    require(name in DATASETS, f"a data set from {', '.join(DATASETS)}", name)
    try:
        import pooch
    except ImportError:
        raise ImportError(
            "downloading data sets needs the extra `data`: pip install -e '.[data]' in a clone"
        ) from None
    dataset, folder = DATASETS[name], Path(folder) / name
    unzip = pooch.Unzip(extract_dir="unpacked") if dataset.url.endswith(".zip") else None
    pooch.retrieve(
        dataset.url, dataset.known_hash, fname=Path(dataset.url).name, path=folder, processor=unzip
    )
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
    found = sorted(folder.rglob(file))
    require(len(found) == 1, f"one {file} below {folder}", ", ".join(map(str, found)))
    return f"{found[0]}{colon}{inside}"


if __name__ == "__main__":
    import tyro

    from pytc.script import script

    with script():
        for volume in tyro.cli(fetch).values():
            print(volume)
