"""From a VolumeConfig to opened, checked arrays; synthetic volumes are generated on first use."""

import hashlib
import json
import os
import shutil
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from pytc.config import DataConfig, SyntheticConfig, VolumeConfig, require
from pytc.io.results import volume_name
from pytc.io.skeleton import save_skeleton
from pytc.io.synthetic import make_neurites
from pytc.io.volume import Volume, create_volume, open_volume

CACHE = Path("data")
# raise when make_neurites changes what it draws, so that cached volumes are drawn anew
GENERATOR = 1


@dataclass(frozen=True)
class Source:
    """One volume, opened: image (C, Z, Y, X), and labels and mask (Z, Y, X) if there are any."""

    name: str
    image: Volume
    labels: Volume | None = None
    mask: Volume | None = None

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.image.spatial_shape

    @property
    def parts(self) -> dict[str, Volume]:
        """Those there are of image, labels and mask."""
        return {
            name: part
            for name in ("image", "labels", "mask")
            if (part := getattr(self, name)) is not None
        }

    @property
    def voxel_size(self) -> tuple[float, float, float]:
        """nm along each spatial axis; isotropic 1 nm where nothing says."""
        return self.image.voxel_size or (1.0, 1.0, 1.0)


def open_source(
    config: VolumeConfig, synthetic: SyntheticConfig, channels: int | None = None
) -> Source:
    """Open a volume and check that its parts, and the network's input channels, fit.

    ValueError names what does not.
    """
    config = prepare_volume(config, synthetic)
    image = open_volume(config.image, axes=config.axes, voxel_size=config.voxel_size)
    require(
        channels in (None, image.n_channels),
        f"{channels} channels (model.in_channels) in {image.path}",
        image.n_channels,
    )
    spatial = config.axes.replace("c", "") if config.axes else None
    parts = {
        part: open_volume(path, axes=spatial)
        for part in ("labels", "mask")
        if (path := getattr(config, part))
    }
    for part, volume in parts.items():
        shape = image.spatial_shape
        require(volume.shape == shape, f"{part} {volume.path} of shape {shape}", volume.shape)
        require(
            volume.dtype.kind in "iub",
            f"{part} {volume.path} of an integer dtype",
            str(volume.dtype),
        )
    return Source(volume_name(config), image, **parts)


def training_voxel_size(data: DataConfig) -> tuple[float, float, float]:
    """Of the training volumes' voxel sizes (nm), the one that lets the fewest axes be exchanged."""
    sizes = [open_source(volume, data.synthetic).voxel_size for volume in data.train]
    return min(sizes, key=lambda size: sum(a == b for a in size for b in size))


def as_unit_range(image: np.ndarray) -> np.ndarray:
    """uint8 as it is, any other dtype as float32.

    Integers are divided by their dtype's maximum, floats are unchanged.
    """
    largest = np.iinfo(image.dtype).max if image.dtype.kind in "iu" else 1
    return image if image.dtype == np.uint8 else image.astype(np.float32) / np.float32(largest)


def prepare_volume(
    config: VolumeConfig, synthetic: SyntheticConfig, cache: Path = CACHE
) -> VolumeConfig:
    """The same config with synthetic:SEED replaced by files.

    They are generated below `cache` if they are not there yet.
    """
    if not config.image.startswith("synthetic:"):
        return config
    seed = int(config.image.removeprefix("synthetic:"))
    key = json.dumps([GENERATOR, seed, asdict(synthetic)])
    folder = cache / f"synthetic-{seed}-{hashlib.sha256(key.encode()).hexdigest()[:8]}"
    if not folder.exists():
        _generate(folder, seed, synthetic)
    return replace(
        config,
        image=f"{folder}/image.zarr",
        labels=f"{folder}/labels.zarr",
        skeleton=f"{folder}/skeleton.npz",
        name=config.name or f"synthetic-{seed}",
    )


def _generate(folder: Path, seed: int, synthetic: SyntheticConfig) -> None:
    print(f"generating a synthetic volume {synthetic.shape}, seed {seed}: {folder}", flush=True)
    made = make_neurites(seed=seed, **asdict(synthetic))
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}")
    temporary.mkdir(parents=True)
    for name, array in (("image.zarr", made.image), ("labels.zarr", made.labels)):
        with create_volume(
            temporary / name, array.shape, array.dtype, voxel_size=made.voxel_size
        ) as volume:
            volume[...] = array
    save_skeleton(temporary / "skeleton.npz", made.skeleton)
    try:
        temporary.rename(folder)
    except OSError:  # another process made it in the meantime
        shutil.rmtree(temporary)
