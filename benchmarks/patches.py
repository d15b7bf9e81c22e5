"""Preparation of training patches on one core, against MONAI's dictionary transforms.

    taskset -c 0 python benchmarks/patches.py [--rounds 12]

Patches of 128^3 out of a synthetic volume of 256^3, with the recipe of configs/banis.py. The
candidates take turns; times are those all threads spent computing, so that others on the machine
count little. MONAI does what it has of the recipe (crop, turns, flips, affine, intensity, noise);
slices that are dropped or shifted it has not, and its affinities are NumPy's.
"""

import argparse
import shutil
import tempfile
import time
import warnings
from pathlib import Path

import h5py
import numpy as np
import torch
from common import machine, print_table
from monai.transforms import (
    Compose,
    RandAffined,
    RandFlipd,
    RandGaussianNoised,
    RandRotate90d,
    RandScaleIntensityd,
    RandShiftIntensityd,
    RandSpatialCropd,
)

from pytc.config import Config
from pytc.config_files import load_config_file
from pytc.data.augment import augment
from pytc.data.counter_random import sample_key
from pytc.data.patches import PatchDataset
from pytc.data.sources import Source
from pytc.data.targets import make_targets
from pytc.io.synthetic import make_neurites
from pytc.io.volume import create_volume, open_volume

SIZE, CHUNK = 256, 64
RECIPE = Path(__file__).parent.parent / "configs" / "banis.py"


def stored(folder: Path, image: np.ndarray, labels: np.ndarray) -> dict[str, tuple[str, str]]:
    """Image and labels in each format, as paths."""
    arrays = {"image": image, "labels": labels}
    with h5py.File(folder / "volume.h5", "w") as file:
        for name, array in arrays.items():
            file.create_dataset(name, data=array, chunks=(CHUNK,) * 3, compression="gzip")
            np.save(folder / f"{name}.npy", array)
            with create_volume(
                folder / f"{name}.zarr", array.shape, array.dtype, chunks=(CHUNK,) * 3
            ) as volume:
                volume[...] = array
    return {
        ".npy, as with --data.cache memory": (f"{folder}/image.npy", f"{folder}/labels.npy"),
        "Zarr, Blosc": (f"{folder}/image.zarr", f"{folder}/labels.zarr"),
        "HDF5, gzip": (f"{folder}/volume.h5:image", f"{folder}/volume.h5:labels"),
    }


def crops(paths: tuple[str, str], config: Config, keep: bool) -> PatchDataset:
    """What a loader's worker does; keep: whether it may keep all chunks that it decoded."""
    if keep and ".h5:" in paths[0]:  # a process that opens a data set twice has one cache for both
        file, other = paths[0].partition(":")[0], paths[0].replace(".h5:image", "-kept.h5")
        shutil.copy(file, other)
        paths = tuple(path.replace(file, other) for path in paths)
    image, labels = map(open_volume, paths)
    for volume in (image, labels):
        volume.keep_decoded(2 * SIZE**3 * volume.dtype.itemsize if keep else 0)
    return PatchDataset(Source("benchmark", image, labels, None), config.data.patch_size, seed=0)


def prepared(dataset: PatchDataset, n: int, config: Config):
    """A patch as the network gets it, on the CPU."""
    sample = dataset[n]
    image, labels = (
        torch.from_numpy(sample["image"])[None],
        torch.from_numpy(sample["labels"])[None],
    )
    key = torch.tensor([sample_key(0, n, 0)])
    image, labels = augment(image, labels, key, config.augment, (10.0, 10.0, 10.0))
    return image, make_targets(labels, config.target, ((1, 1, 1),))


def monai_pipeline(config: Config) -> Compose:
    a, both = config.augment, ("image", "labels")
    turns = [
        RandRotate90d(both, prob=0.75, max_k=3, spatial_axes=axes)
        for axes in ((0, 1), (0, 2), (1, 2))
    ]
    flips = [RandFlipd(both, prob=a.flip_prob, spatial_axis=axis) for axis in range(3)]
    return Compose(
        [
            RandSpatialCropd(both, roi_size=config.data.patch_size, random_size=False),
            *turns,
            *flips,
            RandScaleIntensityd("image", factors=a.intensity_scale, prob=a.intensity_prob),
            RandShiftIntensityd("image", offsets=a.intensity_offset, prob=a.intensity_prob),
            RandGaussianNoised("image", prob=a.noise_prob, std=a.noise_max),
            RandAffined(
                both,
                mode=("bilinear", "nearest"),
                prob=a.affine_prob,
                rotate_range=(np.pi,) * 3,
                scale_range=(a.affine_scale,) * 3,
                shear_range=(a.affine_shear,) * 6,
                padding_mode="reflection",
            ),
        ]
    )


def numpy_affinities(labels: np.ndarray, offsets) -> np.ndarray:
    affinities = np.zeros((len(offsets), *labels.shape), np.int8)
    for channel, offset in zip(affinities, offsets):
        here = tuple(slice(0, n - o) for n, o in zip(labels.shape, offset))
        there = tuple(slice(o, n) for n, o in zip(labels.shape, offset))
        channel[here] = (labels[here] == labels[there]) & (labels[here] > 0)
    return affinities


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=12, help="turns of each candidate")
    options = parser.parse_args()
    warnings.filterwarnings("ignore", module="monai")
    torch.set_num_threads(1)
    config = load_config_file(RECIPE)
    made = make_neurites((SIZE,) * 3, seed=0)
    image, labels = made.image, made.labels.astype(np.uint16)
    print(
        machine(
            ("torch", "monai", "h5py", "tensorstore"),
            f"{SIZE}^3 voxels, patches {config.data.patch_size}",
        )
    )

    pipeline = monai_pipeline(config).set_random_state(0)
    whole = {
        "image": image[None].astype(np.float32) / 255,
        "labels": labels[None].astype(np.float32),
    }

    def monai(_: int):
        sample = pipeline(whole)
        return sample["image"], numpy_affinities(sample["labels"][0].numpy(), config.target.offsets)

    with tempfile.TemporaryDirectory() as folder:
        candidates = {"MONAI, whole preparation": (monai, 1)}
        for name, paths in stored(Path(folder), image, labels).items():
            for keep in (False,) if paths[0].endswith(".npy") else (False, True):
                note = ", decoded chunks kept" if keep else ""
                candidates[f"pytc, crop: {name}{note}"] = (
                    crops(paths, config, keep).__getitem__,
                    4,
                )
        mapped = crops((f"{folder}/image.npy", f"{folder}/labels.npy"), config, False)
        candidates["pytc, whole preparation"] = (lambda n: prepared(mapped, n, config), 2)
        times = {name: [] for name in candidates}
        for name, (prepare, _) in candidates.items():
            for n in range(16 if "kept" in name else 1):
                prepare(1000 + n)
        for turn in range(options.rounds):
            for name, (prepare, count) in candidates.items():
                start = time.process_time()
                for n in range(count):
                    prepare(turn * count + n)
                times[name].append((time.process_time() - start) / count)

    means = {name: float(np.mean(of_name)) for name, of_name in times.items()}
    slowest = means["MONAI, whole preparation"]
    print_table(
        ("", "ms a patch", "patches a second", "times MONAI's"),
        [
            (name, f"{1000 * mean:.1f}", f"{1 / mean:.1f}", f"{slowest / mean:.1f}")
            for name, mean in means.items()
        ],
    )


if __name__ == "__main__":
    main()
