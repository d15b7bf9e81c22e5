"""A smaller window where not even one fits into the memory of the device."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import torch

from pytc.config import Triple
from pytc.geometry import as_triple
from pytc.inference.output import any_is_finished
from pytc.inference.shards import Shard
from pytc.models.base import ConnectomicsModel

LOGGER = logging.getLogger(__name__)

Result = TypeVar("Result")


def in_memory(
    predict: Callable[[Triple], Result],
    window: Triple,
    model: ConnectomicsModel,
    output: Path,
    shard: Shard,
) -> Result:
    """predict(window), with a smaller window where it runs out of memory.

    The longest axes are halved. A window changes the prediction a little, so it stays where blocks
    are finished, or other processes predict with it.

    Args:
        window: voxels to begin with.
        model: the network, which says what windows it takes.
        output: of the prediction.
        shard: the part of this process.

    Raises:
        ValueError: the window cannot be smaller.
    """
    while True:
        try:
            return predict(window)
        except torch.OutOfMemoryError as error:
            reason = str(error).partition("\n")[0]
        smaller = _halved(window, model)
        if smaller is None or shard.count > 1 or any_is_finished(output):
            raise ValueError(
                f"expected memory for one window of {_words(window)} voxels, got {reason}; "
                "--inference.window names a smaller one, the same for all processes"
            )
        LOGGER.warning(
            f"out of memory with one window of {_words(window)} voxels: going on with windows of "
            f"{_words(smaller)}, which see less (--inference.window)"
        )
        window = smaller


def _halved(window: Triple, model: ConnectomicsModel) -> Triple | None:
    """Half the length of the longest axes; None where the network does not take that."""
    longest = max(window)
    multiple = (1,) * (3 - len(model.size_multiple)) + tuple(model.size_multiple)
    smaller = as_triple(
        length // 2 // m * m if length == longest else length for length, m in zip(window, multiple)
    )
    try:
        model.require_size(smaller)
    except ValueError:
        return None
    return smaller if min(smaller) > 0 else None


def _words(window: Triple) -> str:
    return " x ".join(map(str, window))
