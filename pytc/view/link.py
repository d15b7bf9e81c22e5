"""A link for an existing server of files: Neuroglancer reads the arrays from there, not from us.

Such a server looks nothing up, so the merges at a threshold are written into the link, as
equivalences of fragments: of the selected segments, or of all where there are few.
"""

import logging
import os
from pathlib import Path
from typing import Any

import neuroglancer
import numpy as np
from neuroglancer import url_state

from pytc.checks import require
from pytc.evaluation.errors import read_errors
from pytc.io.volume import Volume
from pytc.view import layers
from pytc.view.command import ViewConfig
from pytc.view.layers import LIVE, Look
from pytc.view.served import coordinate_space
from pytc.view.sources import Fragments, Sources
from pytc.view.threshold import SegmentsAtThreshold, groups_of

LOGGER = logging.getLogger(__name__)

MOST_FRAGMENTS = 20_000  # in the equivalences of a link; browsers refuse links of megabytes
NOT_IN_BROWSERS = ("bool", "int64", "float16", "float64")


def link(sources: Sources, config: ViewConfig) -> str:
    """An address of Neuroglancer whose layers lie at `config.link`, which serves `config.root`.

    Volumes that no browser can read there (HDF5, TIFF, float16) are left out, with a message.

    Raises:
        ValueError: nothing can be shown, or there are too many merges and none are selected.
    """
    assert config.link is not None
    server = f"{config.link.rstrip('/')}"
    root = Path(config.root)
    state = neuroglancer.ViewerState()
    layers.begin_state(state, sources, Look(config.position))
    n_shown = 0
    for shown in sources.volumes:
        source = _source(shown.volume, server, root, sources)
        if source is None:
            continue
        n_shown += 1
        if shown.role in ("image", "affinities"):
            layers.add_image(state, shown, source, "", visible=shown.role == "image")
        else:
            layers.add_ids(state, shown.name, source, visible=shown.role == "segmentation")
    if sources.fragments is not None:
        source = _source(sources.fragments.volume, server, root, sources)
        if source is not None:
            n_shown += 1
            _add_fragments(state, sources.fragments, source, config)
    require(n_shown > 0, f"Zarr, N5 or precomputed folders below {root}", "none")
    if sources.errors is not None:
        layers.add_errors(state, read_errors(sources.errors, sources.axes), sources)
    address: str = url_state.to_url(state, config.client.rstrip("/") + "/")
    return address


def _source(volume: Volume, server: str, root: Path, sources: Sources) -> Any:
    """A volume as Neuroglancer's client reads it from the server; None if it cannot."""
    path = Path(volume.path).resolve()
    reason = ""
    if not path.is_dir():
        reason = "only Zarr, N5 and precomputed folders are read by a browser"
    elif not path.is_relative_to(root.resolve()):
        reason = f"it does not lie below --root {root}"
    elif volume.dtype.name in NOT_IN_BROWSERS:
        reason = f"no browser reads {volume.dtype}"
    kind = _format(path)
    if not kind:
        reason = reason or "only Zarr, N5 and precomputed folders are read by a browser"
    if reason:
        LOGGER.info(f"not in the link: {volume.path}: {reason}")
        return None
    url = f"{kind}://{server}/{path.relative_to(root.resolve()).as_posix()}"
    if volume.voxel_size_from not in ("", "attributes", "given"):
        return url  # the file says it in a way that Neuroglancer knows, e.g. OME-Zarr
    space = coordinate_space(volume.axes, volume.voxel_size or sources.voxel_size)
    transform = neuroglancer.CoordinateSpaceTransform(output_dimensions=space)
    return neuroglancer.LayerDataSource(url=url, transform=transform)


def _format(path: Path) -> str:
    """How Neuroglancer names the format of a folder; empty for another one."""
    names = {
        "zarr.json": "zarr",
        ".zarray": "zarr",
        ".zgroup": "zarr",
        "attributes.json": "n5",
        "info": "precomputed",
    }
    for name, kind in names.items():
        if os.path.exists(path / name):
            return kind
    return ""


def _add_fragments(state: Any, fragments: Fragments, source: Any, config: ViewConfig) -> None:
    """The fragments, those of one segment equivalent."""
    threshold = fragments.threshold if config.threshold is None else config.threshold
    segments = SegmentsAtThreshold(
        fragments.tree, threshold, min_size=fragments.min_size, numbers=config.numbers
    )
    selected = set(config.select)
    groups = groups_of(segments.table, selected or None)
    n_fragments = sum(map(len, groups))
    require(
        n_fragments <= MOST_FRAGMENTS,
        f"--select with the segments to show: a link holds {MOST_FRAGMENTS} merged fragments",
        n_fragments,
    )
    layer = layers.add_ids(state, f"{LIVE} {threshold:g}", source, visible=True)
    layer.equivalences = groups
    if selected:
        members = np.isin(segments.table, np.array(sorted(selected), np.uint64))
        layer.segments = np.flatnonzero(members).tolist()
