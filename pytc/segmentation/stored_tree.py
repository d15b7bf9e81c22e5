"""fragments.zarr and merges.npz beside a prediction: what agglomeration made of it.

A later decode at another threshold, a sweep and a viewer read these two files and not the
affinities. Both carry a key, the hash of all that they were made from; files with another key are
never used.
"""

import hashlib
import json
import logging
import os
import shutil
from pathlib import Path

from pytc.blocks import FINISHED
from pytc.config import Lengths, SegmentationConfig
from pytc.io.results import prediction_key
from pytc.io.volume import Volume, create_volume, open_volume
from pytc.runs import replacing
from pytc.segmentation.agglomeration import Agglomeration
from pytc.segmentation.decode import Offsets, settings_of
from pytc.segmentation.merge_tree import load_merge_tree

LOGGER = logging.getLogger(__name__)

FRAGMENTS = "fragments.zarr"
MERGES = "merges.npz"


def read_tree(
    prediction: Volume,
    offsets: Offsets,
    config: SegmentationConfig,
    voxel_size: Lengths | None,
) -> Agglomeration | None:
    """What was made of a prediction by these settings; None if it is not stored.

    Its fragments are a stored volume, of which nothing is read yet.

    Args:
        prediction: the affinities, beside which the files lie.
        offsets: of the channels that the method reads.
        config: its threshold and min_size are not read, as both are applied later.
        voxel_size: nm along z, y, x; None for voxels of equal sides.
    """
    folder = Path(prediction.path).parent
    key = tree_key(prediction, offsets, config, voxel_size)
    if key is None or not (folder / FRAGMENTS).is_dir() or not (folder / MERGES).is_file():
        return None
    fragments = open_volume(folder / FRAGMENTS)
    if fragments.attributes.get("key") != key:
        return None
    tree = load_merge_tree(folder / MERGES)
    if tree.key != key:
        return None
    LOGGER.info(f"{folder / FRAGMENTS} and {MERGES} are of this prediction, and are read")
    return Agglomeration(fragments, tree)


def write_tree(
    made: Agglomeration,
    prediction: Volume,
    offsets: Offsets,
    config: SegmentationConfig,
    voxel_size: Lengths | None,
) -> None:
    """Store what was made of a prediction beside it, instead of what an earlier decode left.

    An array of another program gets nothing beside it: no key says what it was made from.
    """
    key = tree_key(prediction, offsets, config, voxel_size)
    if key is None:
        return
    folder = Path(prediction.path).parent
    (folder / MERGES).unlink(missing_ok=True)  # until the new fragments are whole
    with (
        replacing(folder / FRAGMENTS) as path,
        create_volume(
            path,
            made.fragments.shape,
            made.fragments.dtype,
            axes=prediction.spatial_axes,
            voxel_size=voxel_size,
            attributes=attributes_of_tree(config, key),
        ) as fragments,
    ):
        fragments[...] = made.fragments[...]
    with replacing(folder / MERGES) as path:
        made.tree.save(path, key)


def publish_tree(made_in: Path, folder: Path) -> None:
    """Move fragments and merges from where they were made into a folder, both or none.

    Killed in between, the old fragments have another key than the new merges, and what was made is
    still there.
    """
    with replacing(folder / MERGES) as path:
        shutil.copyfile(made_in / MERGES, path)
    shutil.rmtree(made_in / FRAGMENTS / FINISHED, ignore_errors=True)
    with replacing(folder / FRAGMENTS) as path:
        os.rename(made_in / FRAGMENTS, path)


def attributes_of_tree(config: SegmentationConfig, key: str) -> dict[str, object]:
    """What is stored with fragments: how they were made."""
    return _settings(config) | {"key": key}


def tree_key(
    prediction: Volume, offsets: Offsets, config: SegmentationConfig, voxel_size: Lengths | None
) -> str | None:
    """Names all that fragments and merges follow from; None if the prediction has no key."""
    key = prediction_key(str(prediction.path))
    if key is None:
        return None
    made_of = [key, _settings(config), [list(o) for o in offsets], voxel_size]
    return hashlib.sha256(json.dumps(made_of).encode()).hexdigest()


def _settings(config: SegmentationConfig) -> dict[str, object]:
    settings = settings_of(config)
    return {name: settings[name] for name in settings if name not in ("threshold", "min_size")}
