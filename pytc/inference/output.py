"""The Zarr array of a prediction, and what is noted in it: its key, its blocks, what is finished.

Several processes may begin at once, and work on one array: the first one creates it, and decides
which blocks there are. A block consists of whole chunks, so no two processes write to one chunk.
"""

import json
import logging
import math
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pytc.blocks import FINISHED, Manifest
from pytc.config import Triple
from pytc.geometry import Box, as_triple, blocks
from pytc.io.results import MANIFEST
from pytc.io.volume import CHUNK, Volume, chunks_of_blocks, create_volume, open_volume
from pytc.runs import locked, write_json

LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True)
class Plan:
    """Which blocks a prediction consists of.

    Attributes:
        region: what is predicted, in voxels of the image.
        block: voxels of a block.
        empty: numbers of blocks that are not predicted, and stay 0.
    """

    region: Box
    block: Triple
    empty: tuple[int, ...] = ()

    @property
    def boxes(self) -> list[Box]:
        """All blocks, in voxels of the image; those of a column follow each other."""
        found = blocks(self.region.shape, self.block)
        found.sort(key=lambda box: (*box.start[1:], box.start[0]))
        return [box.moved(self.region.start) for box in found]

    @property
    def numbers(self) -> list[int]:
        """Of the blocks that are predicted."""
        empty = set(self.empty)
        return [number for number in range(len(self.boxes)) if number not in empty]


def create_or_continue(
    output: Path,
    plan: Plan,
    *,
    channels: int,
    axes: str,
    voxel_size: tuple[float, float, float] | None,
    attributes: dict[str, Any],
    key: str,
) -> Plan:
    """Make a float16 array (channels, *plan.region.shape), unless there is one of this key.

    Its plan is returned: that of the process which made it. A prediction of another key is
    replaced. ValueError if something that is no prediction of ours is in the way.
    """
    require_prediction(output)
    with locked(output):
        stated = stored_plan(output, key)
        if stated is not None:
            return stated
        for name in (MANIFEST, ".zarray"):  # from here on it is no prediction, and no array
            (output / name).unlink(missing_ok=True)
        for path in output.iterdir():
            if path.name != ".lock":
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        with tempfile.TemporaryDirectory(prefix=f".{output.name}.", dir=output.parent) as aside:
            new = Path(aside) / output.name
            create_volume(
                new,
                (channels, *plan.region.shape),
                np.float16,
                axes=axes,
                voxel_size=voxel_size,
                chunks=(1, *chunks_of_blocks(plan.block, plan.region.shape)),
                attributes=attributes,
            ).close()
            (new / ".zattrs").rename(output / ".zattrs")
            write_json(output / MANIFEST, {"key": key, **_plain(plan)})
            (new / ".zarray").rename(output / ".zarray")  # last: now it is an array
    return plan


def require_prediction(output: Path) -> None:
    """ValueError if there is something at `output` which no prediction has made."""
    if not output.exists():
        return
    ours = (output / MANIFEST).is_file() or (output / ".lock").is_file()
    if not ours:
        raise ValueError(
            f"expected a new path or an earlier prediction, got {output}; remove it or name another"
        )


def stored_plan(output: Path, key: str | None = None) -> Plan | None:
    """The blocks of the prediction at `output`; None if there is none, or one of another key.

    key: None stands for any.
    """
    manifest = output / MANIFEST
    if not manifest.is_file() or not (output / ".zarray").is_file():
        return None
    content = json.loads(manifest.read_text())
    if "block" not in content or key not in (None, content["key"]):
        return None
    region = Box(tuple(content["start"]), tuple(content["stop"]))
    return Plan(region, as_triple(content["block"]), tuple(content["empty"]))


def missing_blocks(output: Path) -> list[int] | None:
    """Numbers of the blocks that are not finished yet; None where there is no prediction."""
    plan = stored_plan(output)
    if plan is None:
        return None
    finished = manifest_of(output).finished()
    return [number for number in plan.numbers if number not in finished]


def any_is_finished(output: Path) -> bool:
    """Whether there is a prediction of which a block is finished."""
    return stored_plan(output) is not None and bool(manifest_of(output).finished())


def manifest_of(output: Path) -> Manifest:
    """What remembers the finished blocks of the prediction at `output`."""
    key = json.loads((output / MANIFEST).read_text())["key"]
    return Manifest(output / FINISHED, key)


def open_prediction(output: Path) -> Volume:
    return open_volume(output, writable=True)


def choose_block(
    shape: Triple,
    window: Triple,
    stride: Triple,
    channels: tuple[int, int],
    available: int,
    processes: int = 1,
) -> Triple:
    """Voxels of a block that fits into memory.

    A block has few planes, as sums are carried over to the block below, and is as wide as memory
    allows: a window on the other faces is predicted once for each block that it touches.

    Args:
        shape: of what is predicted.
        window, stride: in voxels.
        channels: of the image and of the prediction.
        available: bytes that may be used.
        processes: that share the blocks, each of them two or more if windows are small enough.
    """
    depth = CHUNK * math.ceil(stride[0] / CHUNK)
    planes = depth + window[0]
    of_image, of_prediction = channels
    # of a voxel in the plane: sums, and two blocks of float16; the image twice, and the weights
    each = of_prediction * (4 * planes + 2 * 2 * depth) + (2 * of_image + 1) * 4 * planes
    pieces = [1, 1]

    def sides() -> list[int]:
        lengths = zip(shape[1:], pieces)
        return [CHUNK * math.ceil(length / (number * CHUNK)) for length, number in lengths]

    def are_too_few() -> bool:
        made = math.prod(map(_ceil, shape, (depth, *sides())))
        worthwhile = max(sides()) > 2 * max(window)  # smaller blocks share more windows than not
        return made < 2 * processes and worthwhile

    while (math.prod(sides()) * each > available or are_too_few()) and max(sides()) > CHUNK:
        pieces[int(np.argmax(sides()))] += 1
    return as_triple((depth, *sides()))


def _ceil(length: int, step: int) -> int:
    return -(-length // step)


def _plain(plan: Plan) -> dict[str, Any]:
    return {
        "start": plan.region.start,
        "stop": plan.region.stop,
        "block": plan.block,
        "blocks": len(plan.boxes),
        "empty": plan.empty,
    }
