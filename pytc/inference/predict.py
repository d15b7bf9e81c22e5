"""From an image to affinities: block by block, each blended from windows and written when whole.

      block
  +-----------+
+-|-+-|-+-|-+-|-+  windows
  +-----------+

A block needs every window that touches it, so it reads a halo of up to one window around itself; a
window on the border of two blocks is predicted for both. The windows lie on one grid over the whole
volume, so the affinities do not depend on the blocks, and memory depends on the block alone.
"""

import json
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pytc.config import InferenceConfig, Triple
from pytc.geometry import Box, as_triple, blocks, tile
from pytc.inference.flips import Activation, Network
from pytc.io.intensity import Range, read_grey
from pytc.io.results import MANIFEST
from pytc.io.volume import Volume, create_volume, open_volume
from pytc.progress import Progress
from pytc.runs import replacing, write_json

LOGGER = logging.getLogger(__name__)


def predict_volume(
    network: Network,
    image: Volume,
    output: Path,
    *,
    grey_range: Range,
    channels: int,
    window: Triple,
    config: InferenceConfig,
    activation: Activation,
    device: torch.device,
    attributes: dict[str, Any],
    key: str,
) -> Volume:
    """Predict `image` (C, Z, Y, X) window by window into the Zarr array `output`.

    What is written is the activation, sigmoid or softmax over the channels, of
    config.activation_scale x logits. `network` maps (B, C, *window) float32, with the stored values
    of `grey_range` as 0 to 1, on `device` to logits (B, `channels`, *window). The result is float16
    (`channels`, Z, Y, X) with `attributes`; volumes smaller than a window are padded by reflection.
    A killed prediction of the same `key` (a hash of all that produced it) is continued; one of
    another key is replaced.
    """
    scale = config.activation_scale
    if scale is None:
        raise ValueError("expected an activation_scale to predict with, got None")
    boxes = blocks(image.spatial_shape, config.block)
    manifest = output / MANIFEST
    finished = _finished(output, manifest, key)
    if finished is None:
        finished = []
        _create_prediction(output, image, channels, attributes, key)
    affinities = open_volume(output, writable=True)
    if len(finished) == len(boxes):
        LOGGER.info(f"{output}: already predicted by these weights and settings")
        return affinities
    if finished:
        LOGGER.info(f"{output}: {len(finished)} of {len(boxes)} blocks are done, going on")
    counts = [len(block_windows(image, box, window, config)) for box in boxes]
    done = sum(counts[number] for number in finished)
    with Progress("predicting", "windows", sum(counts), done) as progress:
        for number, box in enumerate(boxes):
            if number in finished:
                continue

            def show(count: int, before: int = done) -> None:
                progress.show(before + count)

            windows = block_windows(image, box, window, config)
            logits = predict_block(
                network, image, grey_range, box, windows, channels, config, device, show
            )
            scaled = torch.from_numpy(logits).mul_(scale)
            activated = scaled.softmax(0) if activation == "softmax" else scaled.sigmoid_()
            affinities[box.channel_slices] = activated.to(torch.float16).numpy()
            finished.append(number)
            done += counts[number]
            write_json(manifest, {"key": key, "finished": finished})
    return affinities


def _create_prediction(
    output: Path, image: Volume, channels: int, attributes: dict[str, Any], key: str
) -> None:
    """An empty array and its manifest; a killed process leaves none of them under the name."""
    with replacing(output) as new:
        create_volume(
            new,
            (channels, *image.spatial_shape),
            np.float16,
            axes="c" + image.spatial_axes,
            voxel_size=image.voxel_size,
            attributes=attributes,
        ).close()
        write_json(new / MANIFEST, {"key": key, "finished": []})


def block_windows(image: Volume, box: Box, window: Triple, config: InferenceConfig) -> list[Box]:
    """The windows of the whole volume's grid that touch a block."""
    shape = tuple(max(n, w) for n, w in zip(image.spatial_shape, window))
    stride = tuple(max(1, round(w * (1 - config.overlap))) for w in window)
    return tile(shape, window, stride, touching=box)


def predict_block(
    network: Network,
    image: Volume,
    grey_range: Range,
    box: Box,
    windows: Sequence[Box],
    channels: int,
    config: InferenceConfig,
    device: torch.device,
    show: Callable[[int], None],
) -> np.ndarray:
    """Blended logits (channels, *box.shape) float32 of one block of `image`.

    windows: those that touch the block, of one size. show: called with how many are done.
    """
    window = windows[0].shape
    region = Box(
        tuple(map(min, zip(*(w.start for w in windows)))),
        tuple(map(max, zip(*(w.stop for w in windows)))),
    )
    pixels = _read_padded(image, grey_range, region)
    weights = blending_weights(window, config.blending)
    total = np.zeros((channels, *box.shape), np.float32)
    norm = np.zeros(box.shape, np.float32)

    for first in range(0, len(windows), config.batch_size):
        batch = windows[first : first + config.batch_size]
        patches = np.stack([pixels[w.seen_from(region).channel_slices] for w in batch])
        with torch.inference_mode():
            logits = network(torch.from_numpy(patches).to(device)).float().cpu().numpy()
        for w, values in zip(batch, logits):
            part = w.intersection(box)
            assert part is not None, "every window touches the block"
            inside = part.seen_from(w)
            target = part.seen_from(box)
            total[target.channel_slices] += values[inside.channel_slices] * weights[inside.slices]
            norm[target.slices] += weights[inside.slices]
        show(first + len(batch))
    total /= norm
    return total


def blending_weights(window: tuple[int, ...], kind: str) -> np.ndarray:
    """Weights of `window`'s voxels, float32 in (0, 1], largest at the centre.

    They are the same seen from either side. `distance`: chessboard distance to the nearest voxel
    outside (the distance transform of BANIS); `gaussian`: a Gaussian of one eighth of the window
    (nnU-Net's importance map), no smaller than 1e-3.
    """
    if kind == "distance":
        ramps = [np.minimum(np.arange(n) + 1, n - np.arange(n)) for n in window]
        weights = np.min(np.stack(np.meshgrid(*ramps, indexing="ij")), axis=0).astype(np.float32)
        return weights / weights.max()
    bells = [np.exp(-0.5 * ((np.arange(n) - (n - 1) / 2) / (n / 8)) ** 2) for n in window]
    weights = np.prod(np.stack(np.meshgrid(*bells, indexing="ij")), axis=0)
    return np.maximum(weights / weights.max(), 1e-3).astype(np.float32)


def _read_padded(image: Volume, grey_range: Range, region: Box) -> np.ndarray:
    """A region of the image, float32 with `grey_range` as 0 to 1.

    It is reflected where it leaves the volume at the far end.
    """
    stop = as_triple(min(b, n) for b, n in zip(region.stop, image.spatial_shape))
    pixels = read_grey(image, as_triple(region.start), stop, grey_range)
    return np.pad(
        pixels, [(0, 0), *((0, b - s) for b, s in zip(region.stop, stop))], mode="reflect"
    )


def _finished(output: Path, manifest: Path, key: str) -> list[int] | None:
    """Numbers of the blocks that an earlier call with this key has written, or None to start anew.

    ValueError if something that is no prediction of ours is in the way.
    """
    if not output.exists():
        return None
    if not manifest.is_file():
        raise ValueError(
            f"expected a new path or an earlier prediction, got {output}; remove it or name another"
        )
    earlier = json.loads(manifest.read_text())
    return earlier["finished"] if earlier["key"] == key else None
