"""OME-Zarr and neuroglancer's precomputed: how each stores the levels of a pyramid.

Voxels are written before any metadata: tensorstore is told the layout (`assume_metadata`). Until
the last file is written there is no array, so a conversion that was killed leaves nothing that a
program could open.

Sources: OME-NGFF 0.4 and 0.5 (https://ngff.openmicroscopy.org), and the description of precomputed
volumes in the repository of neuroglancer.
"""

import json
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np

from pytc.config import Lengths
from pytc.convert.pyramid import CHUNK, METHODS, Kind, Level, translation
from pytc.io.chunked import (
    key_value_store,
    write_json,
    zarr2_metadata,
    zarr3_metadata,
)
from pytc.io.remote import Folder
from pytc.io.stored import NewArray

OmeVersion = Literal["0.4", "0.5"]
PRECOMPUTED_DTYPES = (
    "uint8",
    "int8",
    "uint16",
    "int16",
    "uint32",
    "int32",
    "uint64",
    "float32",
)


@dataclass(frozen=True)
class OmeZarr:
    """A multiscale image of OME-Zarr, axes (c,) z, y, x.

    Attributes:
        folder: the group.
        name: of the image.
        dtype, n_channels: of all levels; n_channels is None for an array without channels.
        kind: what the voxels are.
        levels: the pyramid.
        voxel_size: nm, of the finest level; None where it is not known.
        attributes: of the finest array, for pytc: offsets, activation and so on.
        version: 0.5 (Zarr 3) or 0.4 (Zarr 2).
    """

    folder: Folder
    name: str
    dtype: np.dtype
    n_channels: int | None
    kind: Kind
    levels: tuple[Level, ...]
    voxel_size: Lengths | None
    attributes: dict[str, Any]
    version: OmeVersion

    @property
    def axes(self) -> str:
        return "zyx" if self.n_channels is None else "czyx"

    def open_level(self, number: int) -> Any:
        """A level as an array of tensorstore (C, Z, Y, X), each voxel at its position."""
        import tensorstore

        level = self.levels[number]
        driver = "zarr3" if self.version == "0.5" else "zarr"
        spec = {
            "driver": driver,
            "kvstore": key_value_store(self.folder / str(number)),
            "metadata": self._metadata(level),
        }
        array = tensorstore.open(spec, open=True, assume_metadata=True).result()
        if self.n_channels is None:
            array = array[tensorstore.newaxis]
        return array[tensorstore.d[1:4].translate_to[level.origin]]

    def _metadata(self, level: Level) -> dict[str, Any]:
        channels = () if self.n_channels is None else (self.n_channels,)
        array = NewArray(
            self.folder / str(level.number),
            (*channels, *level.shape),
            self.dtype,
            self.attributes if level.number == 0 else {},
            "",
            (*(1 for _ in channels), CHUNK, CHUNK, CHUNK),
        )
        if self.version == "0.4":
            return zarr2_metadata(array)
        return zarr3_metadata(array) | {"dimension_names": list(self.axes)}

    def finish(self) -> None:
        """Write the metadata of every level, and at last that of the group."""
        for level in self.levels:
            folder = self.folder / str(level.number)
            if self.version == "0.5":
                write_json(folder, "zarr.json", self._complete(level))
                continue
            attributes = self.attributes if level.number == 0 else {}
            write_json(folder, ".zattrs", attributes)
            write_json(folder, ".zarray", self._complete(level))
        described: dict[str, Any] = {"multiscales": [self._multiscale()]}
        if self.kind == "labels":
            described["image-label"] = {"version": self.version}
        if self.version == "0.5":
            attributes = {"ome": {"version": self.version} | described}
            group = {"zarr_format": 3, "node_type": "group", "attributes": attributes}
            write_json(self.folder, "zarr.json", group)
            return
        write_json(self.folder, ".zattrs", described)
        write_json(self.folder, ".zgroup", {"zarr_format": 2})

    def _complete(self, level: Level) -> dict[str, Any]:
        """The content of the file that describes an array, as tensorstore writes it."""
        import tensorstore

        driver, name = ("zarr3", "zarr.json") if self.version == "0.5" else ("zarr", ".zarray")
        store = {"driver": "memory"}
        spec = {"driver": driver, "kvstore": store, "metadata": self._metadata(level)}
        array = tensorstore.open(spec, create=True).result()
        written: Any = array.kvstore
        described: dict[str, Any] = json.loads(written.read(name).result().value)
        return described

    def _multiscale(self) -> dict[str, Any]:
        unit = {} if self.voxel_size is None else {"unit": "nanometer"}
        axes: list[dict[str, str]] = [
            {"name": axis, "type": "space"} | unit for axis in self.axes.replace("c", "")
        ]
        finest = self.voxel_size or (1.0, 1.0, 1.0)
        channel: list[float] = []
        if self.n_channels is not None:
            axes.insert(0, {"name": "c", "type": "channel"})
            channel = [1.0]
        datasets = []
        for level in self.levels:
            shift = [0.0 for _ in channel]
            transforms = [
                {"type": "scale", "scale": [*channel, *level.voxel_size(finest)]},
                {"type": "translation", "translation": [*shift, *translation(level, finest)]},
            ]
            datasets.append({"path": str(level.number), "coordinateTransformations": transforms})
        image = {"name": self.name, "axes": axes, "datasets": datasets, "type": METHODS[self.kind]}
        return image if self.version == "0.5" else {"version": self.version} | image


@dataclass(frozen=True)
class Precomputed:
    """A volume of neuroglancer's precomputed format, axes x, y, z, channel.

    Attributes: as those of `OmeZarr`; the voxel size must be known.
    """

    folder: Folder
    dtype: np.dtype
    n_channels: int | None
    kind: Kind
    levels: tuple[Level, ...]
    voxel_size: Lengths

    def open_level(self, number: int) -> Any:
        """A level as an array of tensorstore (C, Z, Y, X), each voxel at its position."""
        import tensorstore

        spec = {
            "driver": "neuroglancer_precomputed",
            "kvstore": key_value_store(self.folder),
            "multiscale_metadata": self._multiscale(),
            "scale_metadata": self._scale(self.levels[number]),
            "scale_index": 0,
        }
        array = tensorstore.open(spec, open=True, assume_metadata=True).result()
        return array[tensorstore.d["channel", "z", "y", "x"].transpose[:].label["", "", "", ""]]

    def _multiscale(self) -> dict[str, Any]:
        return {
            "type": "segmentation" if self.kind == "labels" else "image",
            "data_type": self.dtype.name,
            "num_channels": self.n_channels or 1,
        }

    def _scale(self, level: Level) -> dict[str, Any]:
        size = level.voxel_size(self.voxel_size)[::-1]
        scale: dict[str, Any] = {
            "key": "_".join(f"{length:g}" for length in size),
            "size": level.shape[::-1],
            "voxel_offset": level.origin[::-1],
            "resolution": size,
            "chunk_size": [CHUNK, CHUNK, CHUNK],
            "encoding": "raw",
        }
        if self.kind == "labels":
            scale["encoding"] = "compressed_segmentation"
            scale["compressed_segmentation_block_size"] = [8, 8, 8]
        return scale

    def finish(self) -> None:
        """Write the one file of metadata."""
        scales = []
        for level in self.levels:
            scale = self._scale(level)
            scales.append(scale | {"chunk_sizes": [scale.pop("chunk_size")]})
        described = {"@type": "neuroglancer_multiscale_volume"} | self._multiscale()
        write_json(self.folder, "info", described | {"scales": scales})


Target = OmeZarr | Precomputed


def opener(target: Target, level: Level) -> Any:
    """What opens a level, for a step: it can be pickled."""
    return partial(target.open_level, level.number)
