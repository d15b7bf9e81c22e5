"""Steps over a volume, block by block: in this process, in threads, or on a Dask cluster.

    +-------+-------+      A step is a function of one block. It reads the block and a halo around
    |  ...:.|.      |      it, writes the voxels of the block alone, and returns a few small arrays.
    |  : b :|       |      Steps do not talk to each other, so any number of them run at once, in
    |  :...:|.      |      any order, and the result is the same.
    +-------+-------+

A manifest remembers the blocks that are finished, and what the step returned for each: one small
file a block, which appears when the block is written. So a step that was killed goes on where it
was, and several processes can share the blocks of one output without talking to each other. A block
that two of them work on is written twice, with the same bytes.
"""

from __future__ import annotations

import itertools
import logging
import os
import socket
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from pytc.geometry import Box
from pytc.progress import Progress
from pytc.script import RunError

LOGGER = logging.getLogger(__name__)

Result = dict[str, np.ndarray]  # small arrays by their names
Step = Callable[[Box], Result | None]

# In the folder of an array: the manifest of its blocks. There it comes and goes with the array.
FINISHED = "finished"
ATTEMPTS = 3  # at a block that fails: a file server may be away for a moment
MOST_FAILED = 20  # blocks; after so many failures the step is wrong, not the block
PER_FOLDER = 1000  # files of a manifest in one folder
IN_ADVANCE = 2  # blocks for each worker that are handed out before one is finished


@dataclass(frozen=True)
class Manifest:
    """The finished blocks of a step.

    Attributes:
        folder: where the files lie; manifests of several keys may share it.
        key: a hash of all that the blocks were made from. Blocks of another key do not count.
    """

    folder: Path
    key: str

    def finished(self) -> set[int]:
        """The numbers of the finished blocks."""
        return {int(path.parent.name + path.stem) for path in self._home.glob("*/*.npz")}

    def has(self, number: int) -> bool:
        """Whether a block is finished."""
        return self._path(number).is_file()

    def write(self, number: int, result: Result | None = None) -> None:
        """Note that a block is finished, with what the step returned for it."""
        path = self._path(number)
        path.parent.mkdir(parents=True, exist_ok=True)
        writer = f"{socket.gethostname()}.{os.getpid()}.{threading.get_ident()}"
        temporary = path.with_name(f".{path.stem}.{writer}.tmp")
        with open(temporary, "wb") as file:
            np.savez(file, **(result or {}))  # type: ignore[arg-type]
        os.replace(temporary, path)

    def read(self, number: int) -> Result:
        """What the step returned for a finished block."""
        with np.load(self._path(number)) as stored:
            return dict(stored)

    @property
    def _home(self) -> Path:
        return self.folder / self.key[:16]

    def _path(self, number: int) -> Path:
        # digits of the folder and of the file together are the number
        return self._home / f"{number // PER_FOLDER:06d}" / f"{number % PER_FOLDER:03d}.npz"


class Results(Sequence[Result]):
    """What a step returned for each block, in their order; read from disk when it is asked for."""

    def __init__(self, manifest: Manifest, length: int) -> None:
        self.manifest = manifest
        self.length = length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, number: Any) -> Any:
        return self.manifest.read(range(self.length)[number])


def map_blocks(
    step: Step,
    boxes: Sequence[Box],
    *,
    manifest: Manifest | None = None,
    engine: str = "serial",
    workers: int = 1,
    name: str = "blocks",
    numbers: Iterable[int] | None = None,
) -> Sequence[Result]:
    """Call a step for each block that is not finished yet.

    Args:
        step: called with a box of `boxes`. For a Dask engine it can be pickled, and reads and
            writes files that all machines share.
        boxes: the blocks, in an order that is the same each time.
        manifest: remembers the finished blocks on disk; None: nothing is remembered.
        engine: serial, threads, or an engine of Dask, see `open_executor`.
        workers: blocks at once with `threads`.
        name: what the step does, for the progress and for errors.
        numbers: of the blocks to do, e.g. those of one shard; None for all.

    Returns:
        What the step returned for each block. With a manifest it is read from disk when asked for,
        also for blocks that another process has finished; without one the numbers not done are
        left out.

    Raises:
        RunError: if a block still fails at its last attempt, after all others are done.
    """
    asked = list(range(len(boxes)) if numbers is None else numbers)
    finished = manifest.finished() if manifest else set()
    todo = [number for number in asked if number not in finished]
    results: dict[int, Result] = {}
    if todo:
        with (
            open_executor(engine, workers) as (executor, n_workers),
            Progress(name, "blocks", len(asked), len(asked) - len(todo)) as progress,
        ):

            def attempt(numbers: Sequence[int]) -> dict[int, str]:
                """Do these blocks; what went wrong, by the number of the block."""
                failures: dict[int, str] = {}
                tasks = ((step, boxes[number], number, manifest) for number in numbers)
                for outcome in _outcomes(executor, n_workers, tasks):
                    if outcome.error is None:
                        results[outcome.number] = outcome.result or {}
                        progress.show(len(asked) - len(todo) + len(results))
                        continue
                    LOGGER.warning(f"{name}: block {outcome.number}: {outcome.error}")
                    failures[outcome.number] = outcome.error
                    if len(failures) >= MOST_FAILED:
                        break
                return failures

            failures = attempt(todo)
            for _ in range(1, ATTEMPTS):
                if 0 < len(failures) < MOST_FAILED:
                    LOGGER.warning(f"{name}: {len(failures)} blocks failed; trying them once more")
                    failures = attempt(sorted(failures))
        if failures:
            raise RunError(explain_failures(name, boxes, failures))
    if manifest is None:
        return [results[number] for number in asked]
    return Results(manifest, len(boxes))


@contextmanager
def open_executor(engine: str, workers: int = 1) -> Iterator[tuple[Executor, int]]:
    """Where blocks are computed, and how many at once.

    Args:
        engine: serial, threads, or one of Dask (an extra): dask:tcp://HOST:PORT is a scheduler that
            runs; dask:local:N are N processes on this machine; dask:slurm:N are N jobs, by the
            settings of dask-jobqueue (jobqueue.yaml).
        workers: the number of threads.

    Raises:
        ImportError: without the package that the engine needs.
    """
    kind, _, where = engine.partition(":")
    if kind == "serial":
        yield _Here(), 1
    elif kind == "threads":
        with ThreadPoolExecutor(workers) as pool:
            yield pool, workers
    elif kind == "dask":
        with _dask_client(where) as client:
            yield client.get_executor(pure=False), max(1, sum(client.ncores().values()))
    else:
        raise ValueError(f"expected an engine serial, threads or dask:..., got {engine!r}")


def require_packages_of(engine: str) -> None:
    """ImportError, with the way out, if an engine needs a package that is missing."""
    if not engine.startswith("dask:"):
        return
    _extra("distributed")
    if engine.startswith("dask:slurm:"):
        _extra("dask_jobqueue")


class _Here(Executor):
    """Calls each function at once, in this thread."""

    def submit(self, function: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        future.set_result(function(*args, **kwargs))
        return future


@contextmanager
def _dask_client(where: str) -> Iterator[Any]:
    """A client of Dask, and the cluster that it needs, which ends with the block."""
    distributed = _extra("distributed")
    kind, _, number = where.partition(":")
    if kind == "local":
        cluster = distributed.LocalCluster(
            n_workers=int(number), threads_per_worker=1, dashboard_address=None
        )
    elif kind == "slurm":
        cluster = _slurm_cluster(int(number))
    else:
        with distributed.Client(where) as client:
            yield client
        return
    with cluster, distributed.Client(cluster) as client:
        client.wait_for_workers(1)
        yield client


def _slurm_cluster(jobs: int) -> Any:
    """A cluster of jobs, by the user's settings of dask-jobqueue."""
    cluster = _extra("dask_jobqueue").SLURMCluster()
    cluster.scale(jobs=jobs)
    return cluster


def _extra(name: str) -> ModuleType:
    try:
        return import_module(name)
    except ImportError as error:
        raise ImportError(f"{name} is needed: pip install -e '.[dask]' in a clone") from error


class _Outcome(NamedTuple):
    number: int
    result: Result | None
    error: str | None


def _do_block(step: Step, box: Box, number: int, manifest: Manifest | None) -> _Outcome:
    """One block, where it is computed. What it returns is small: results go to the manifest."""
    try:
        if manifest is None:
            return _Outcome(number, step(box), None)
        if not manifest.has(number):  # another process may have done it meanwhile
            manifest.write(number, step(box))
    except Exception as error:
        LOGGER.debug(f"block {number}", exc_info=True)
        return _Outcome(number, None, f"{type(error).__name__}: {error}")
    return _Outcome(number, None, None)


def _outcomes(
    executor: Executor, n_workers: int, tasks: Iterable[tuple[Step, Box, int, Manifest | None]]
) -> Iterator[_Outcome]:
    """Hands out tasks, a few in advance, and yields their outcomes as they come."""
    tasks = iter(tasks)
    waiting: dict[Future[_Outcome], int] = {}

    def hand_out(count: int) -> None:
        for task in itertools.islice(tasks, count):
            waiting[executor.submit(_do_block, *task)] = task[2]

    try:
        hand_out(IN_ADVANCE * n_workers)
        while waiting:
            done, _ = wait(waiting, return_when=FIRST_COMPLETED)
            for future in done:
                number = waiting.pop(future)
                error = future.exception()  # a worker that died again and again
                if error is not None:
                    yield _Outcome(number, None, f"{type(error).__name__}: {error}")
                else:
                    yield future.result()
            hand_out(len(done))
    finally:
        for future in waiting:
            future.cancel()


def explain_failures(name: str, boxes: Sequence[Box], failures: dict[int, str]) -> str:
    """What a user is told where blocks still fail; failures: errors by the number of the block."""
    number, error = min(failures.items())
    box = boxes[number]
    more = f", and {len(failures) - 1} more" if len(failures) > 1 else ""
    tried = f"in {ATTEMPTS} attempts" if len(failures) < MOST_FAILED else "and others at once"
    return (
        f"{name}: block {number} (voxels {box.start} to {box.stop}){more} failed {tried}: {error}; "
        "blocks that are done are kept, and the same command goes on with the others"
    )
