"""From stored probabilities to a stored mask, or to classes. No output is left half written."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from pytc.geometry import blocks
from pytc.io.volume import Volume, create_volume
from pytc.runs import replacing
from pytc.segmentation.edges import is_above

BLOCK = (256, 256, 256)  # voxels read at once


def threshold_volume(
    probabilities: Volume,
    output: Path,
    threshold: float,
    *,
    attributes: dict[str, Any] | None = None,
) -> None:
    """Write the mask probability > threshold, uint8 (Z, Y, X), of one channel of probabilities."""
    with _new_mask(probabilities, output, {"threshold": threshold, **(attributes or {})}) as mask:
        for box in blocks(mask.spatial_shape, BLOCK):
            mask[box.slices] = is_above(probabilities.read(box.start, box.stop)[0], threshold)


def argmax_volume(
    probabilities: Volume, output: Path, *, attributes: dict[str, Any] | None = None
) -> None:
    """Write the most probable class of each voxel, uint8 (Z, Y, X), the first of equal ones.

    The array's attribute `classes` is the number of channels of `probabilities`.
    """
    about = {"classes": probabilities.n_channels, **(attributes or {})}
    with _new_mask(probabilities, output, about) as segmentation:
        for box in blocks(segmentation.spatial_shape, BLOCK):
            classes = probabilities.read(box.start, box.stop).argmax(0)
            segmentation[box.slices] = classes.astype(np.uint8)


@contextmanager
def _new_mask(probabilities: Volume, output: Path, attributes: dict[str, Any]) -> Iterator[Volume]:
    """An empty uint8 volume as large as the probabilities, renamed to `output` at the end."""
    with (
        replacing(output) as path,
        create_volume(
            path,
            probabilities.spatial_shape,
            np.uint8,
            axes=probabilities.spatial_axes,
            voxel_size=probabilities.voxel_size,
            attributes=attributes,
        ) as mask,
    ):
        yield mask
