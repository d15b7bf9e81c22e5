"""From a VolumeConfig to opened, checked arrays.

Opening writes nothing: `synthetic_volumes.prepare_volume` makes the volumes named synthetic:SEED.
"""

import hashlib
import json
import math
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from pytc.checks import require
from pytc.config import DataConfig, SyntheticConfig, VolumeConfig
from pytc.io import datasets, intensity
from pytc.io.labels import is_unlabelled
from pytc.io.placed import Frame, PlacedVolume, place_labels, place_mask
from pytc.io.results import volume_name
from pytc.io.volume import Volume, open_volume

# Raise it when make_neurites changes what it draws: stored volumes are then drawn anew.
GENERATOR = 1


@dataclass(frozen=True)
class Source:
    """One opened volume: the image (C, Z, Y, X), and labels and mask (Z, Y, X) if it has them.

    Labels and mask have the image's shape. Labels that are smaller are a `PlacedVolume`, which is
    unlabelled outside of them.
    """

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
        """What is stored, by name: image, labels and mask, as far as the volume has them.

        Of labels that are smaller than the image each file is a part of its own.
        """
        parts = {"image": self.image}
        for name, part in (("labels", self.labels), ("mask", self.mask)):
            if isinstance(part, PlacedVolume):
                parts |= {f"{name} {n}": piece.volume for n, piece in enumerate(part.pieces)}
            elif part is not None:
                parts[name] = part
        return parts

    def with_parts(self, parts: dict[str, Volume]) -> "Source":
        """The same source, with its parts read from other volumes of the same shapes."""

        def found(name: str, volume: Volume | None) -> Volume | None:
            if isinstance(volume, PlacedVolume):
                numbers = range(len(volume.pieces))
                return volume.with_volumes([parts[f"{name} {number}"] for number in numbers])
            return parts.get(name)

        labels, mask = found("labels", self.labels), found("mask", self.mask)
        return replace(self, image=parts["image"], labels=labels, mask=mask)

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

    def has_objects(self) -> bool | None:
        """Whether any label is above 0; None without labels, or where reading them takes long."""
        if self.labels is None or math.prod(self.labels.spatial_shape) > intensity.SAMPLE:
            return None
        labels = self.labels[...]
        return bool((~is_unlabelled(labels) & (labels != 0)).any())


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
    labels, mask = _open_labels(config, image)
    chosen = config.intensity or data.intensity
    grey_range = intensity.grey_range(image, chosen)
    return Source(volume_name(config), image, grey_range, labels, mask)


def _open_labels(config: VolumeConfig, image: Volume) -> tuple[Volume | None, Volume | None]:
    """Labels and mask of an image, of its shape."""
    axes = config.axes.replace("c", "") if config.axes else None
    order = config.transpose
    if config.labels_axes is not None:
        axes = config.labels_axes
        order = image.spatial_axes

    def opened(part: str, path: str) -> Volume:
        volume = open_volume(path, axes=axes, transpose=order)
        _check_part(part, volume, image)
        return volume

    frame = Frame(f"the image {image.path}", image.spatial_shape, image.voxel_size, image.origin)
    labels, mask = None, None
    if config.labels:
        files = [opened("labels", path) for path in config.label_paths]
        labels = place_labels(files, frame, config.offsets)
        _check_shape("labels", labels, image)
    if config.mask:
        mask = place_mask(opened("mask", config.mask), labels, frame)
        _check_shape("mask", mask, image)
    return labels, mask


def open_image(config: VolumeConfig, data: DataConfig) -> Volume:
    """The image of a volume alone."""
    config = locate_volume(config, data.synthetic)
    datasets.require_data(config.image)
    return open_volume(
        config.image, axes=config.axes, voxel_size=config.voxel_size, transpose=config.transpose
    )


def _check_part(part: str, volume: Volume, image: Volume) -> None:
    """ValueError unless labels or mask are integers with the axes of the image."""
    axes = image.spatial_axes
    both_are_stated = volume.axes_from and image.axes_from
    require(
        not both_are_stated or volume.axes == axes,
        f"{part} {volume.path} with the axes {axes} of the image {image.path} "
        f"(--data.*.transpose {axes}, with * as train.0, reads both in this order)",
        volume.axes,
    )
    integers = f"{part} {volume.path} of an integer dtype (NumPy's astype('uint32') makes one)"
    require(volume.dtype.kind in "iub", integers, str(volume.dtype))


def _check_shape(part: str, volume: Volume, image: Volume) -> None:
    """ValueError, with the way out, unless labels or mask have the image's shape."""
    shape = image.spatial_shape
    if volume.shape == shape:
        return
    advice = ""
    if sorted(volume.shape) == sorted(shape):
        advice = (
            "; where they are stored in another order of axes, name it by data.*.labels-axes "
            f"(--labels-axes), e.g. {image.spatial_axes[::-1]}"
        )
    elif len(volume.shape) == 3 and all(n <= m for n, m in zip(volume.shape, shape)):
        advice = (
            "; labels of a part of the image need an offset, by data.*.offset in voxels or as an "
            "attribute (voxel_offset in voxels, offset in nm)"
        )
    raise ValueError(f"expected {part} {volume.path} of shape {shape}, got {volume.shape}{advice}")


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
