"""From a VolumeConfig to opened, checked arrays.

Opening writes nothing: `synthetic_volumes.prepare_volume` makes the volumes named synthetic:SEED.
"""

import hashlib
import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from pytc.checks import require
from pytc.config import DataConfig, SyntheticConfig, VolumeConfig
from pytc.io import datasets, intensity
from pytc.io.results import volume_name
from pytc.io.volume import Volume, open_volume

# Raise it when make_neurites changes what it draws: stored volumes are then drawn anew.
GENERATOR = 1


@dataclass(frozen=True)
class Source:
    """One opened volume: the image (C, Z, Y, X), and labels and mask (Z, Y, X) if it has them."""

    name: str
    image: Volume
    # stored grey values that a network sees as 0 and 1
    grey_range: intensity.Range
    labels: Volume | None = None
    mask: Volume | None = None

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.image.spatial_shape

    @property
    def parts(self) -> dict[str, Volume]:
        """image, labels and mask, as far as the volume has them."""
        parts = {"image": self.image, "labels": self.labels, "mask": self.mask}
        return {name: part for name, part in parts.items() if part is not None}

    def with_parts(self, parts: dict[str, Volume]) -> "Source":
        """The same source with other volumes; it then has those in `parts` alone."""
        return replace(
            self, image=parts["image"], labels=parts.get("labels"), mask=parts.get("mask")
        )

    @property
    def voxel_size(self) -> tuple[float, float, float]:
        """nm along each spatial axis; 1 nm where no voxel size is stated."""
        return _voxel_size_or_one(self.image)

    @property
    def stays_uint8(self) -> bool:
        """Whether patches may be moved as uint8, and be mapped on the device."""
        return intensity.stays_uint8(self.image, self.grey_range)

    def read(self, start: tuple[int, int, int], stop: tuple[int, int, int]) -> np.ndarray:
        """Grey values from start up to stop as float32 (C, Z, Y, X), `grey_range` as 0 to 1."""
        return intensity.read_grey(self.image, start, stop, self.grey_range)


def open_source(config: VolumeConfig, data: DataConfig, channels: int | None = None) -> Source:
    """Open a volume, and measure its grey range unless that is given or follows from its dtype.

    Args:
        config: the volume; one that is synthetic must have been made by `prepare_volume`.
        data: the grey range of volumes that state none, and the shape of synthetic volumes.
        channels: the network's input channels, None for any number.

    Raises:
        ValueError: names what is missing or does not fit.
    """
    image = open_image(config, data)
    require(
        channels in (None, image.n_channels),
        f"{channels} channels (model.in_channels) in {image.path}",
        image.n_channels,
    )
    config = locate_volume(config, data.synthetic)
    spatial = config.axes.replace("c", "") if config.axes else None
    parts = {}
    for part, path in (("labels", config.labels), ("mask", config.mask)):
        if path:
            parts[part] = open_volume(path, axes=spatial, transpose=config.transpose)
            _check_part(part, parts[part], image)
    chosen = config.intensity or data.intensity
    return Source(volume_name(config), image, intensity.grey_range(image, chosen), **parts)


def open_image(config: VolumeConfig, data: DataConfig) -> Volume:
    """The image of a volume alone."""
    config = locate_volume(config, data.synthetic)
    datasets.require_data(config.image)
    return open_volume(
        config.image, axes=config.axes, voxel_size=config.voxel_size, transpose=config.transpose
    )


def _check_part(part: str, volume: Volume, image: Volume) -> None:
    """ValueError unless labels or mask are integers on the voxels of the image."""
    shape, axes = image.spatial_shape, image.spatial_axes
    require(volume.shape == shape, f"{part} {volume.path} of shape {shape}", volume.shape)
    both_are_stated = volume.axes_from and image.axes_from
    require(
        not both_are_stated or volume.axes == axes,
        f"{part} {volume.path} with the axes {axes} of the image {image.path}",
        volume.axes,
    )
    integers = f"{part} {volume.path} of an integer dtype"
    require(volume.dtype.kind in "iub", integers, str(volume.dtype))


def _voxel_size_or_one(image: Volume) -> tuple[float, float, float]:
    """nm along each spatial axis; 1 nm where no voxel size is stated."""
    return image.voxel_size or (1.0, 1.0, 1.0)


def training_voxel_size(data: DataConfig) -> tuple[float, float, float]:
    """Of the training volumes' voxel sizes (nm), the one that lets the fewest axes be exchanged."""
    sizes = [_voxel_size_or_one(open_image(volume, data)) for volume in data.train]
    return min(sizes, key=lambda size: sum(a == b for a in size for b in size))


def locate_volume(config: VolumeConfig, synthetic: SyntheticConfig) -> VolumeConfig:
    """The same config with synthetic:SEED replaced by the files that `prepare_volume` makes."""
    if not config.is_synthetic:
        return config
    folder = synthetic_folder(config, synthetic)
    return replace(
        config,
        image=f"{folder}/image.zarr",
        labels=f"{folder}/labels.zarr",
        skeleton=f"{folder}/skeleton.npz",
        name=config.name or f"synthetic-{synthetic_seed(config)}",
    )


def synthetic_seed(config: VolumeConfig) -> int:
    """The seed of a volume named synthetic:SEED."""
    return int(config.image.removeprefix("synthetic:"))


def synthetic_folder(config: VolumeConfig, synthetic: SyntheticConfig) -> Path:
    """The folder of a synthetic volume below a data folder ($PYTC_DATA or data/).

    Its name holds a hash of everything that the voxels follow from.
    """
    key = json.dumps([GENERATOR, synthetic_seed(config), asdict(synthetic)])
    name = f"synthetic-{synthetic_seed(config)}-{hashlib.sha256(key.encode()).hexdigest()[:8]}"
    return datasets.find(name) or datasets.writable_data_folder() / name
