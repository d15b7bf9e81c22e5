"""From an image to affinities: block by block, each blended from windows and written when whole.

      block
  +-----------+
+-|-+-|-+-|-+-|-+  windows
  +-----------+

A block needs every window that touches it. The windows lie on one grid over the whole volume, so
the affinities do not depend on the blocks, and memory depends on the block alone. Blocks of a
column follow each other, and a block carries its sums over to the one below, see `Sums`; on the
other faces a window is predicted for each block that it touches.

A layer of windows (those of one first plane) is predicted in the same batches whether a block
before carries it over or not: what is killed and continued, or shared by several processes, has the
same bytes.
"""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from pytc import hardware
from pytc.config import InferenceConfig, Triple
from pytc.geometry import Box, as_triple
from pytc.inference.batches import Batches
from pytc.inference.blending import Grid, Sums, blending_weights
from pytc.inference.flips import Activation, Network
from pytc.inference.output import (
    Plan,
    choose_block,
    create_or_continue,
    manifest_of,
    open_prediction,
    stored_plan,
)
from pytc.inference.reading import BlockReader, Part, Writer, is_below, layers_of, parts_of
from pytc.inference.shards import ALL_BLOCKS, Shard
from pytc.inference.tissue import blocks_without_tissue
from pytc.io.intensity import Range
from pytc.io.results import region_attributes
from pytc.io.volume import Volume
from pytc.progress import Progress

LOGGER = logging.getLogger(__name__)

MEMORY_SHARE = 0.5  # of the free memory, for the blocks of a prediction
# Blocks are skipped whole, so they are no wider where there is a mask.
WIDEST_WITH_MASK = 512


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
    region: Box | None = None,
    tissue: Volume | None = None,
    shard: Shard = ALL_BLOCKS,
) -> Volume:
    """Predict `image` (C, Z, Y, X) window by window into the Zarr array `output`.

    What is written is the activation, sigmoid or softmax over the channels, of
    config.activation_scale x logits. `network` maps (B, C, *window) float32, with the stored values
    of `grey_range` as 0 to 1, on `device` to logits (B, `channels`, *window). The result is float16
    (`channels`, Z, Y, X) with `attributes`; volumes smaller than a window are padded by reflection.
    A killed prediction of the same `key` (a hash of all that produced it) is continued; one of
    another key is replaced. Several processes may work on one output.

    Args:
        region: of the image, that is predicted; by default all of it. The result has its shape, and
            the attributes `voxel_offset`, its first voxel, and `image_shape`; the values are those
            of the whole image.
        tissue: not 0 where there is tissue, of the voxels of the image or of larger ones. Blocks
            without any are not predicted. They are 0, as are blocks whose image is constant, with
            all of the windows that touch them.
        shard: the blocks that this process predicts; there are others for the rest.

    Raises:
        torch.OutOfMemoryError: not even a single window fits into the memory of the device.
        RunError: a block of the image cannot be read, after all others are predicted.
    """
    shape = as_triple(max(n, w) for n, w in zip(image.spatial_shape, window))
    stride = as_triple(max(1, round(w * (1 - config.overlap))) for w in window)
    grid = Grid(shape, window, stride)
    plan = stored_plan(output, key)
    if plan is None:
        about_region = region_attributes(region, image.spatial_shape) if region else {}
        wanted = region or Box((0, 0, 0), image.spatial_shape)
        plan = _make_plan(grid, image, wanted, tissue, channels, config, device, shard)
        plan = create_or_continue(
            output,
            plan,
            channels=channels,
            axes="c" + image.spatial_axes,
            voxel_size=image.voxel_size,
            attributes=attributes | about_region,
            key=key,
        )
    affinities = open_prediction(output)
    manifest = manifest_of(output)
    numbers = shard.of(plan.numbers)
    finished = manifest.finished()
    todo = [number for number in numbers if number not in finished]
    if len(todo) < len(numbers):
        LOGGER.info(_how_far(output, len(numbers), len(todo)))
    if not todo:
        return affinities

    boxes = plan.boxes
    scale = _activation_scale(config)
    sums = _sums_that_fit(grid, channels, boxes, config, device)
    batches = Batches(network, config.batch_size)
    reader = BlockReader(image, grey_range, grid, boxes, manifest)
    counts = _window_counts(grid, boxes, numbers)
    total, done = sum(counts.values()), sum(counts[number] for number in finished & counts.keys())
    constant = 0

    def write(number: int, values: torch.Tensor) -> None:
        box = boxes[number].seen_from(plan.region)
        affinities[box.channel_slices] = values.cpu().numpy()
        manifest.write(number)

    with (
        torch.inference_mode(),
        Writer() as writer,
        Progress("predicting", "windows", total, done) as progress,
    ):
        for part in parts_of(reader, todo, "predicting"):
            if part.is_constant:
                constant += 1
                writer.call(manifest.write, part.number)
            elif not part.is_finished:
                pixels = part.on_device(device, grey_range)
                sums.begin(boxes[part.number], goes_on=part.goes_on)
                for seen in _add_windows(sums, part, pixels, batches):
                    progress.show(min(done + seen, total - 1))
                writer.call(write, part.number, sums.activated(scale, activation))
            done = _advance(progress, done, counts[part.number])
    if constant:
        LOGGER.info(f"{output}: {constant} blocks are 0, as the image is constant in and near them")
    return affinities


def _activation_scale(config: InferenceConfig) -> float:
    if config.activation_scale is None:
        raise ValueError("expected an activation_scale to predict with, got None")
    return config.activation_scale


def _how_far(output: Path, blocks: int, left: int) -> str:
    if left == 0:
        return f"{output}: already predicted by these weights and settings"
    return f"{output}: {blocks - left} of {blocks} blocks are done, going on"


def _advance(progress: Progress, done: int, more: int) -> int:
    """Show that `more` windows are done, and return how many these are in all."""
    if more > 0:
        progress.show(done + more)
    return done + more


def _add_windows(sums: Sums, part: Part, pixels: torch.Tensor, batches: Batches) -> Iterator[int]:
    """Predict the windows of a part, and add them up; yields how many are done."""
    done = 0
    for start in part.layers:
        windows = sums.grid.layer(start, sums.box)
        for window, logits in batches.predict(pixels, part.corner, windows):
            sums.add(window, logits)
            done += 1
            yield done


def _make_plan(
    grid: Grid,
    image: Volume,
    region: Box,
    tissue: Volume | None,
    channels: int,
    config: InferenceConfig,
    device: torch.device,
    shard: Shard,
) -> Plan:
    """The blocks of a new prediction, as config.block says or as memory allows."""
    block = config.block
    if block is None:
        shape = as_triple(region.shape)
        both = image.n_channels, channels
        available = _free_memory(device, shard.on_machine)
        block = choose_block(shape, grid.window, grid.stride, both, available, shard.count)
        if tissue is not None:
            block = as_triple(min(length, WIDEST_WITH_MASK) for length in block)
    plan = Plan(region, block)
    if tissue is None:
        return plan
    empty = blocks_without_tissue(tissue, image, plan.boxes)
    LOGGER.info(f"mask: {len(empty)} of {len(plan.boxes)} blocks have no tissue")
    return replace(plan, empty=tuple(empty))


def _free_memory(device: torch.device, processes: int) -> int:
    """Bytes that the blocks of a prediction may take, in one of several processes of a machine."""
    available = hardware.memory()[1] // processes
    if device.type == "cuda":
        available = min(available, torch.cuda.mem_get_info(device)[0])
    return int(available * MEMORY_SHARE)


def _sums_that_fit(
    grid: Grid, channels: int, boxes: Sequence[Box], config: InferenceConfig, device: torch.device
) -> Sums:
    """The sums on the device of the network, or in main memory if they do not fit there."""
    weights = blending_weights(grid.window, config.blending)
    depth = max(box.shape[0] for box in boxes)
    sums = Sums(grid, weights, channels, depth, device)
    widest = max(boxes, key=lambda box: box.shape[1] * box.shape[2])
    try:
        sums.begin(widest, goes_on=False)
    except torch.OutOfMemoryError:
        LOGGER.warning(f"out of memory for the sums of a block on {device}: blending on the CPU")
        sums = Sums(grid, weights, channels, depth, torch.device("cpu"))
    return sums


def _window_counts(grid: Grid, boxes: Sequence[Box], numbers: Sequence[int]) -> dict[int, int]:
    """How many windows are predicted for each of these blocks."""
    counts = {}
    before = None
    for number in numbers:
        box = boxes[number]
        layers = layers_of(grid, box, goes_on=is_below(boxes, number, before))
        counts[number] = len(layers) * len(grid.starts(1, box)) * len(grid.starts(2, box))
        before = number
    return counts
