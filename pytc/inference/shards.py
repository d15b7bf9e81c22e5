"""Several processes, jobs or GPUs share the blocks of a prediction, and one of them decodes it.

They do not talk to each other: a process knows its own part of the blocks, and the manifest of the
output which ones are finished.
"""

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pytc.inference.output import missing_blocks
from pytc.progress import Progress
from pytc.script import RunError

LOGGER = logging.getLogger(__name__)

SECONDS = 2.0  # between looks for the blocks of other processes
NAMED_BLOCKS = 20  # of those that are missing


@dataclass(frozen=True)
class Shard:
    """Which part of the blocks a process predicts: part `number`, from 0, of `count`.

    on_machine: how many processes share the memory of this machine.
    """

    number: int = 0
    count: int = 1
    on_machine: int = 1

    def of(self, numbers: Sequence[int]) -> Sequence[int]:
        """A run of neighbours, so that most blocks go on from the one before."""
        first, last = (len(numbers) * part // self.count for part in (self.number, self.number + 1))
        return numbers[first:last]

    def part(self, rank: int, world: int, local_world: int) -> "Shard":
        """What one of several ranks predicts of this shard; local_world: those on this machine."""
        return Shard(self.number * world + rank, self.count * world, local_world)


ALL_BLOCKS = Shard()


def parse_shard(text: str | None) -> Shard:
    """The shard that --shard I/N names, from 1 to N; all blocks for None."""
    if text is None:
        return ALL_BLOCKS
    number, _, count = text.partition("/")
    return Shard(int(number) - 1, int(count))


def require_finished(output: Path) -> None:
    """RunError with the numbers of the blocks that are not predicted yet, if there are any."""
    missing = missing_blocks(output)
    if missing is None:
        raise RunError(f"expected a prediction to finish, got none at {output}")
    if missing:
        numbers = ", ".join(map(str, missing[:NAMED_BLOCKS]))
        more = ", ..." if len(missing) > NAMED_BLOCKS else ""
        raise RunError(
            f"expected all blocks of {output}, got {len(missing)} that are missing: "
            f"{numbers}{more}; the shards that have them can be started again, and go on"
        )


def wait_for_blocks(output: Path, seconds: float = SECONDS) -> None:
    """Return when other processes have predicted the rest of the blocks."""
    missing = missing_blocks(output) or []
    if not missing:
        return
    with Progress("waiting for other processes", "blocks", len(missing)) as progress:
        total = len(missing)
        while missing:
            time.sleep(seconds)
            missing = missing_blocks(output) or []
            progress.show(total - len(missing))
