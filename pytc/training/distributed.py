"""Distributed training: ranks, sums and gathers over them, the process group, stop signals."""

import gc
import importlib
import os
import pickle
import re
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from multiprocessing import forkserver, parent_process, resource_tracker
from multiprocessing.connection import wait

import torch
import torch.distributed as dist

from pytc.checks import require
from pytc.script import EXIT_INTERRUPTED, RankError, user_message

# Each ends a run after the step it is in, with a checkpoint. SIGTERM and SIGUSR1 come from a
# scheduler, SIGINT is Ctrl-C.
SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
# EX_TEMPFAIL of sysexits.h: stopped by a scheduler before the end, to be continued by --resume
EXIT_REQUEUE = 75
# Seconds within which the signals of a scheduler are one: Slurm sends SIGTERM to each task, and so
# does srun, which gets it too.
TOGETHER = 5.0
# ranks wait for one another while one predicts and scores a whole volume, or decodes it
PATIENCE = timedelta(hours=6)
FAILURE = "pytc/failure"  # key in the ranks' store: the rank that failed first, and its message


@dataclass(frozen=True)
class Ranks:
    """This process among all processes of a run; a run of one process is rank 0 of 1."""

    rank: int = 0  # number of this process
    world: int = 1  # processes of the run
    local_rank: int = 0  # number of this process on its node
    local_world: int = 1  # processes on its node

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def sum(self, value: torch.Tensor) -> torch.Tensor:
        """The sum of `value` over all ranks, on every rank; `value` is not changed."""
        value = value.detach().clone()
        if self.world > 1:
            with _released(value):
                dist.all_reduce(value)
        return value

    def mean_count(self, count: torch.Tensor) -> torch.Tensor:
        """The number to divide a local sum by, so that DDP's average over the ranks is the mean
        over all counted values of all ranks.
        """
        return self.sum(count) / self.world

    def gather(self, value) -> list:
        """The `value` (any picklable object) of every rank, in order, on every rank."""
        if self.world == 1:
            return [value]
        device = torch.device("cuda" if dist.get_backend() == "nccl" else "cpu")
        pickled = torch.frombuffer(bytearray(pickle.dumps(value)), dtype=torch.uint8)
        lengths = torch.zeros(self.world, dtype=torch.int64, device=device)
        lengths[self.rank] = len(pickled)
        lengths = self.sum(lengths)
        mine = torch.zeros(int(lengths.max()), dtype=torch.uint8, device=device)
        mine[: len(pickled)] = pickled
        parts = [torch.empty_like(mine) for _ in range(self.world)]
        with _released(mine, *parts):
            dist.all_gather(parts, mine)
        return [
            pickle.loads(part[:length].cpu().numpy().tobytes())
            for part, length in zip(parts, lengths.tolist())
        ]

    def once_a_node(self, make):
        """Call make() on the first rank of each node; every rank returns its node's result.

        ValueError on all ranks if any call fails.
        """
        made, error = None, None
        if self.local_rank == 0:
            try:
                made = make()
            except (ValueError, OSError) as problem:
                error = user_message(problem)
        results = self.gather((made, error))
        if errors := [error for _, error in results if error]:
            raise ValueError(errors[0])
        return results[self.rank - self.local_rank][0]


@contextmanager
def _released(*tensors: torch.Tensor):
    """Go on when gloo's worker thread has let go of the tensors of a collective, done or failed.

    It does so a moment after the collective is over, and needs the GIL for it. If the interpreter
    exits in between, as after an error on this rank, it never gets the GIL, and the thread aborts
    the process.
    """
    try:
        yield
    except BaseException as error:  # Ctrl-C, too
        traceback.clear_frames(error.__traceback__)  # they hold the collective, and so its tensors
        raise
    finally:
        while any(_is_held(tensor) for tensor in tensors):
            time.sleep(0)  # lets the thread have the GIL


def _is_held(tensor: torch.Tensor) -> bool:
    """Whether something other than Python has a tensor on the CPU, such as a thread of gloo."""
    return tensor.device.type == "cpu" and tensor._use_count() > 1  # type: ignore[attr-defined]


def read_environment(environment=os.environ) -> Ranks:
    """The ranks that torchrun or Slurm (srun) started, or a single one."""
    if "WORLD_SIZE" in environment:
        return Ranks(
            rank=int(environment["RANK"]),
            world=int(environment["WORLD_SIZE"]),
            local_rank=int(environment["LOCAL_RANK"]),
            local_world=int(environment["LOCAL_WORLD_SIZE"]),
        )
    if int(environment.get("SLURM_NTASKS", 1)) > 1 and "SLURM_PROCID" in environment:
        world = int(environment["SLURM_NTASKS"])
        local_world = max(1, world // int(environment.get("SLURM_NNODES", 1)))
        return Ranks(
            int(environment["SLURM_PROCID"]), world, int(environment["SLURM_LOCALID"]), local_world
        )
    return Ranks()


def meeting_point(environment=os.environ) -> str:
    """The address at which the ranks find each other, tcp://HOST:PORT.

    MASTER_ADDR and MASTER_PORT if they are set, else the first node of a Slurm job. The port of a
    Slurm job follows from its number, so that two jobs on a node do not meet. ValueError if there
    is neither.
    """
    host, port = environment.get("MASTER_ADDR"), environment.get("MASTER_PORT")
    if "SLURM_JOB_ID" in environment:
        host = host or first_host(environment["SLURM_JOB_NODELIST"])
        port = port or 20_000 + int(environment["SLURM_JOB_ID"]) % 20_000
    require(
        host and port,
        "MASTER_ADDR and MASTER_PORT, or a Slurm job, to find the other ranks",
        (host, port),
    )
    return f"tcp://{host}:{port}"


def first_host(nodes: str) -> str:
    """The first name of a list as Slurm writes it, e.g. gpu007 of gpu[007-010,12],cpu1."""
    match = re.match(r"([^\[,]*)(?:\[([^\],-]+)[^\]]*\])?([^\[,]*)", nodes)
    assert match is not None  # every part of the pattern may be empty
    prefix, number, suffix = match.groups()
    return prefix + (number or "") + suffix


@contextmanager
def joined(ranks: Ranks, device: torch.device):
    """Set up the process group within this block: NCCL between GPUs, gloo between CPUs.

    When the block ends, nothing may hold the group any more (a DistributedDataParallel does):
    destroying it then ends gloo's worker threads. A thread that lives on may still own the tensors
    of the last collective when the interpreter exits; it cannot free them by then, and aborts the
    process.

    If a rank raises, the process group is deliberately not destroyed: the other ranks may be
    blocked in a collective. The process exits, its connections close, and they fail instead of
    hanging. RankError on each rank but the one that failed first with a fault of the program, which
    keeps its traceback.
    """
    if ranks.world == 1:
        yield
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    # Its functions take the group of that moment as their default argument and hold it for ever.
    # DistributedDataParallel imports it; here there is no group yet.
    importlib.import_module("torch.distributed.nn.functional")
    inherited = "TORCHELASTIC_RUN_ID" in os.environ  # torchrun's own store, which its agent serves
    address = "env://" if inherited else meeting_point()
    store, *_ = next(dist.rendezvous(address, ranks.rank, ranks.world, timeout=PATIENCE))
    dist.init_process_group(
        "nccl" if device.type == "cuda" else "gloo",
        rank=ranks.rank,
        world_size=ranks.world,
        store=store,
        timeout=PATIENCE,
    )
    try:
        yield
    except Exception as error:
        line = user_message(error)
        first, reason = first_failure(store, ranks.rank, line or repr(error))
        if first == ranks.rank:
            if line is None:
                raise
            raise RankError(line, is_reported=False) from error
        # The same error, or a connection that was lost because the other rank ended.
        is_reported = line is None or line == reason
        message = line or f"rank {first} failed: {reason}"
        raise RankError(message, is_reported=is_reported) from error
    dist.barrier()  # nothing is on its way any more
    gc.collect()  # what a reference cycle keeps alive may hold the group
    dist.destroy_process_group()


def first_failure(store: dist.Store, rank: int, message: str) -> tuple[int, str]:
    """(rank, message) of the failure that a run of several ranks noted first; this one if none."""
    mine = f"{rank} {message}"
    try:
        noted = store.compare_set(FAILURE, "", mine).decode()
    except RuntimeError:  # the rank that served the store has ended
        noted = mine
    first, _, reason = noted.partition(" ")
    return int(first), reason


def lay_out_gradients(model: torch.nn.Module) -> None:
    """Give each gradient the strides of its parameter, as DistributedDataParallel's buckets have.

    A 1 x 1 x 1 kernel is contiguous and channels_last at once; its gradient comes with the strides
    of the other format, and DDP warns of a copy that is slow.
    """

    def same_strides(parameter: torch.nn.Parameter) -> Callable[[torch.Tensor], torch.Tensor]:
        size, strides = parameter.shape, parameter.stride()

        def lay_out(gradient: torch.Tensor) -> torch.Tensor:
            if gradient.stride() == strides:
                return gradient
            return gradient.new_empty_strided(size, strides).copy_(gradient)

        return lay_out

    for parameter in model.parameters():
        if 1 in parameter.shape:
            parameter.register_hook(same_strides(parameter))


@contextmanager
def noticed_signals(*, say: bool = True):
    """Yield a list to which the first of SIGNALS is appended.

    A second signal ends the process at once, as it would without this block. But a scheduler may
    send its signal several times: a SIGTERM or SIGUSR1 that follows the first signal within
    `TOGETHER` seconds is ignored.

    say: answer the first one by a line on stderr.
    """
    received: list[signal.Signals] = []
    first_at = 0.0
    with ExitStack() as handlers:

        def note(number, frame):
            nonlocal first_at
            if received:
                is_repeated = time.monotonic() - first_at < TOGETHER
                if is_repeated and number != signal.SIGINT:
                    return
                handlers.close()
                signal.raise_signal(number)
                return
            first_at = time.monotonic()
            received.append(signal.Signals(number))
            if say:  # print may be interrupted by this very handler
                name = signal.Signals(number).name
                line = (
                    f"\n{name}: ending after this step, with a checkpoint; a second one ends now\n"
                )
                os.write(sys.stderr.fileno(), line.encode())

        for number in SIGNALS:
            handlers.callback(signal.signal, number, signal.signal(number, note))
        yield received


def exit_code(stopped: signal.Signals) -> int:
    """What a run that a signal stopped leaves with: 130 after Ctrl-C, else 75 ("run me again")."""
    return EXIT_INTERRUPTED if stopped == signal.SIGINT else EXIT_REQUEUE


def start_forkserver() -> None:
    """Start the process that forks DataLoader workers, with SIGNALS blocked in it and in them.

    A terminal sends Ctrl-C, and a scheduler its signal, to every process of a run. Workers must
    outlive it, from their first moment on, as the trainer still needs batches to finish its step.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        resource_tracker.ensure_running()
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)  # the tracker's start unblocks some
        forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def live_with_parent(worker: int) -> None:
    """DataLoader `worker_init_fn`: ignore SIGNALS, and exit when the trainer exits.

    torch watches the forkserver instead, which lives as long as the workers it forked.
    """

    def end_with_parent():
        parent = parent_process()
        assert parent is not None  # this is a child process
        wait([parent.sentinel])
        os._exit(1)

    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=end_with_parent, daemon=True).start()
