"""pytc check: what looks wrong with the volumes of a config, and a page of what a network will see.

The page shows training patches after augmentation: the image, its labels, and the target at each
scale of deep supervision.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.utils.data import default_collate

from pytc.checks import require
from pytc.config import Config, TargetConfig, Triple
from pytc.data.augment import section_axis
from pytc.data.batch import Preparation
from pytc.data.doubts import Look, in_words
from pytc.data.inspection import look_at_volumes
from pytc.data.patches import PatchDataset, train_dataset
from pytc.data.sources import training_voxel_size
from pytc.data.synthetic_volumes import prepare_volume
from pytc.data.targets import scaled_offset
from pytc.evaluation.pictures import palette
from pytc.models import build_model
from pytc.runs import replacing, require_writable
from pytc.target_kinds import target_kind
from pytc.training.resolve import fit_network

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LOGGER = logging.getLogger(__name__)

NO_LOSS = (255, 214, 120)  # colour of voxels without a target: no loss is counted there
DESCRIPTORS = ("LSD mean", "LSD variance", "LSD correlation", "LSD share")  # by threes
LETTERS = 150  # in a line of the text below the patches


@dataclass(frozen=True)
class Panel:
    """A picture of the page: (rows, columns, 3) uint8, and what it shows."""

    title: str
    pixels: np.ndarray


def check(config: Config, output: Path, patches: int = 4) -> list[str]:
    """Log what looks wrong with each volume of a config, and draw a page of its patches.

    Args:
        config: as for training.
        output: the PNG to write.
        patches: rows of the page; the training volumes share them.

    Returns:
        A sentence about each thing that looks wrong.

    Raises:
        ValueError: a volume is missing or does not fit, as in training.
    """
    require(patches > 0, "--patches of 1 or more", patches)
    require(output.suffix == ".png", "--output FILE.png", str(output))
    require_writable(output.parent)
    for volume in (*config.data.train, *config.data.validation):
        prepare_volume(volume, config.data.synthetic)
    config, _ = fit_network(config, None)
    looks = look_at_volumes(config, patient=True)
    found = [doubt for look in looks for doubt in look.said]
    for look in looks:
        if look.sections:
            everything = in_words(look.sections, most=len(look.sections))
            LOGGER.info(f"damaged sections of {look.facts.image}: {everything}")
    draw_page(patch_rows(config, patches), looks, found, _aspect(config), output)
    return found


def patch_rows(config: Config, count: int) -> list[tuple[str, list[Panel]]]:
    """Patches of the training volumes in turn: the name of the volume, and the pictures."""
    with torch.device("meta"):  # only its scales are asked for
        scales = build_model(config, quiet=True).output_strides
    samples_per_step = config.loop.batch_size * config.optim.accumulate
    preparation = Preparation(config, torch.device("cpu"), samples_per_step)
    mix = train_dataset(config)
    rows = []
    for number in range(count):
        dataset: PatchDataset = mix.datasets[number % len(mix.datasets)]
        sample = dataset[number]
        image, labels = preparation.augmented(default_collate([sample]))
        targets = preparation.targets(labels, scales)
        axis = section_axis(preparation.voxel_size)
        panels = [
            Panel("image, augmented", _grey(_section(image[0, 0].numpy(), axis))),
            Panel("labels", _labels(_section(labels[0].numpy(), axis))),
        ]
        for scale, (target, valid) in zip(scales, targets):
            offsets = _offsets_at(config.target, scale)
            pictures = draw_target(
                target[0].numpy(), valid[0].numpy(), config.target.kind, offsets, axis
            )
            for name, pixels in pictures.items():
                panels.append(Panel(f"{name}\n{_in_words(scale)}", pixels))
        rows.append((dataset.source.name, panels))
    return rows


def _offsets_at(target: TargetConfig, scale: Sequence[int]) -> Sequence[Triple]:
    """The offsets of the affinities that a target has at a scale, in voxels of that scale."""
    if target.scale_by != "stride":
        return target.offsets
    return [scaled_offset(offset, tuple(scale)) for offset in target.offsets]


def _in_words(scale: Sequence[int]) -> str:
    if max(scale) == 1:
        return "full resolution"
    return f"1/{' x 1/'.join(map(str, scale))}"


def _section(volume: np.ndarray, axis: int) -> np.ndarray:
    """The middle section of (..., Z, Y, X) across an axis."""
    across = axis - 3
    section: np.ndarray = volume.take(volume.shape[across] // 2, across)
    return section


def _grey(section: np.ndarray) -> np.ndarray:
    """Grey values as the network sees them, 0 black and 1 white."""
    pixels = (np.clip(section, 0, 1) * 255).astype(np.uint8)
    return np.repeat(pixels[..., None], 3, axis=-1)


def _labels(section: np.ndarray) -> np.ndarray:
    pixels = palette(np.maximum(section, 0))
    pixels[section < 0] = NO_LOSS
    return pixels


def draw_target(
    target: np.ndarray, valid: np.ndarray, kind_name: str, offsets: Sequence[Triple], axis: int
) -> dict[str, np.ndarray]:
    """The middle section of a target (C, Z, Y, X), by what it shows.

    Affinities: three offsets are red, green and blue, and so are local shape descriptors. Other
    targets are grey, or a colour for each class. Voxels that are valid in none of the channels
    shown have the colour NO_LOSS.
    """
    target, valid = _section(target, axis), _section(valid, axis)
    kind = target_kind(kind_name)
    if kind.has_classes and target.dtype.kind in "iu":
        pixels = palette(target[0])
        pixels[~valid[0]] = NO_LOSS
        return {"class": pixels}
    pictures: dict[str, np.ndarray] = {}
    groups: dict[str, slice] = {}
    if kind.per_offset:
        for first in range(0, len(offsets), 3):
            steps = [_offset_in_words(offset) for offset in offsets[first : first + 3]]
            groups["affinity " + " ".join(steps)] = slice(first, first + len(steps))
        for number, name in enumerate(DESCRIPTORS[: len(target) - len(offsets)]):
            first = len(offsets) + 3 * number
            groups[name] = slice(first, first + 3)
    else:
        groups[kind.name] = slice(0, 3)
    for name, part in groups.items():
        shown, known = target[part].astype(np.float32), valid[part]
        if len(shown) == 1:
            shown, known = np.repeat(shown, 3, 0), np.repeat(known, 3, 0)
        while len(shown) < 3:
            shown = np.concatenate([shown, np.zeros_like(shown[:1])])
            known = np.concatenate([known, known[:1]])
        pixels = (np.moveaxis(np.where(known, shown, 0), 0, -1) * 255).astype(np.uint8)
        pixels[~known.any(0)] = NO_LOSS
        pictures[name] = pixels
    return pictures


def _offset_in_words(offset: Triple) -> str:
    return ",".join(map(str, offset))


def _aspect(config: Config) -> float:
    """How much longer than wide a pixel of a section is."""
    size = training_voxel_size(config.data)
    height, width = (length for axis, length in enumerate(size) if axis != section_axis(size))
    return height / width


def draw_page(
    rows: Sequence[tuple[str, list[Panel]]],
    looks: Sequence[Look],
    found: Sequence[str],
    aspect: float,
    output: Path,
) -> None:
    """Write the page as a PNG: a row of pictures for each patch, and below what was found.

    aspect: the height of a pixel over its width.
    """
    from matplotlib.figure import Figure

    lines = [fill(str(look.facts), LETTERS, subsequent_indent="    ") for look in looks]
    lines += [fill(f"! {doubt}", LETTERS, subsequent_indent="    ") for doubt in found]
    if not found:
        lines.append("nothing looks wrong")
    text = "\n".join(lines)
    columns = max(len(panels) for _, panels in rows)
    side = 1.75  # inches
    height = side * len(rows) + 0.45
    below = 0.16 * (text.count("\n") + 2)
    figure = Figure(figsize=(max(8.0, side * columns), height + below), dpi=100)
    grid = figure.add_gridspec(
        len(rows),
        columns,
        left=0.03,
        right=0.995,
        top=1 - 0.4 / (height + below),
        bottom=below / (height + below),
        wspace=0.04,
        hspace=0.06,
    )
    for row, (name, panels) in enumerate(rows):
        for column, panel in enumerate(panels):
            axes = figure.add_subplot(grid[row, column])
            _show(axes, panel, aspect, title=row == 0)
            if column == 0:
                axes.set_ylabel(name, fontsize=6)
    figure.text(
        0.03, (below - 0.14) / (height + below), text, fontsize=6, family="monospace", va="top"
    )
    output.parent.mkdir(parents=True, exist_ok=True)
    with replacing(output) as temporary:
        figure.savefig(temporary, format="png")


def _show(axes: "Axes", panel: Panel, aspect: float, *, title: bool) -> None:
    axes.imshow(panel.pixels, interpolation="nearest", aspect=aspect)
    axes.set(xticks=[], yticks=[])
    if title:
        axes.set_title(panel.title, fontsize=6)
