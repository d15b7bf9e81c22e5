"""`pytc mesh`: meshes of labelled objects in Neuroglancer's precomputed format, block by block.

    OUT/info                  {"@type": "neuroglancer_legacy_mesh"}
    OUT/17:0                  {"fragments": ["17:0:0", "17:0:4"]}: the pieces of object 17
    OUT/17:0:4                vertices (x, y, z in nm) and triangles in block 4

Two blocks share a layer of voxels, and the surfaces of both end in its middle.
"""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from pytc.checks import require
from pytc.convert.convert import whole_origin
from pytc.io.remote import PRECOMPUTED, RemoteFolder, parse_folder
from pytc.io.volume import Volume
from pytc.runs import replacing
from pytc.shapes.command import MeshConfig
from pytc.shapes.labels import extra, open_labels, read_blocks

INFO = {"@type": "neuroglancer_legacy_mesh"}
REDUCTION = 100  # so many times fewer triangles, where max_error allows it


def mesh(config: MeshConfig) -> Path:
    """Make the meshes and write them; returns their folder.

    Raises:
        ValueError: before any work, if the labels cannot be read or the target is not what it
            should be.
        ImportError: names the extra.
    """
    is_precomputed = config.target.startswith(PRECOMPUTED)
    require(is_precomputed, f"{PRECOMPUTED}PATH as the target", config.target)
    target = parse_folder(config.target)
    if isinstance(target, RemoteFolder):
        raise ValueError(f"expected a target on this machine, got {config.target}")
    folder = Path(target)
    volume_info = _info_of(folder)
    is_volume = "scales" in volume_info
    if is_volume:
        is_labels = volume_info.get("type") == "segmentation"
        require(is_labels, "a precomputed volume of labels", volume_info.get("type"))
        folder = folder / "mesh"
    has_meshes = _info_of(folder).get("@type") == INFO["@type"]
    is_free = not folder.exists() or not any(folder.iterdir())
    require(is_free or has_meshes, "a folder of meshes, or none, as the target", str(folder))
    may_write = config.overwrite or is_free
    require(may_write, "--overwrite to replace meshes that are there", str(folder))
    extra("zmesh")
    labels = open_labels(config.labels, config.axes, config.voxel_size, transpose="xyz")

    with replacing(folder) as fresh:
        fresh.mkdir()
        _write_meshes(labels, config, fresh)
    if is_volume:
        with replacing(folder.parent / "info") as fresh:
            fresh.write_text(json.dumps(volume_info | {"mesh": folder.name}))
    return folder


def _info_of(folder: Path) -> dict[str, Any]:
    """What a precomputed folder says of itself; empty for any other folder."""
    path = folder / "info"
    info: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}
    return info


def _write_meshes(labels: Volume, config: MeshConfig, folder: Path) -> None:
    """The meshes of all objects of labels whose axes are x, y, z."""
    assert labels.voxel_size is not None
    voxel_size = np.array(labels.voxel_size)
    max_error = max(labels.voxel_size) if config.max_error is None else config.max_error
    origin = whole_origin(labels) or (0, 0, 0)
    mesher = extra("zmesh").Mesher(labels.voxel_size)
    sizes: Counter[int] = Counter()
    fragments: dict[int, list[str]] = {}
    for number, (box, of_block) in enumerate(read_blocks(labels, config.block, sizes, "meshes")):
        # a layer of 0 at the faces of the volume closes the surfaces there
        margins = [
            (int(start == 0), int(stop == n))
            for start, stop, n in zip(box.start, box.stop, labels.spatial_shape)
        ]
        mesher.mesh(np.pad(of_block, margins))
        corner = np.array(box.start) - [low for low, _ in margins] + origin
        for label in mesher.ids():
            piece = mesher.get(
                label, reduction_factor=REDUCTION, max_error=max_error, voxel_centered=True
            )
            mesher.erase(label)
            piece.vertices += np.float32(corner * voxel_size)
            name = f"{label}:0:{number}"
            (folder / name).write_bytes(piece.to_precomputed())
            fragments.setdefault(int(label), []).append(name)
    for label, names in fragments.items():
        if sizes[label] >= config.min_size:
            (folder / f"{label}:0").write_text(json.dumps({"fragments": names}))
        else:
            for name in names:
                (folder / name).unlink()
    (folder / "info").write_text(json.dumps(INFO))
