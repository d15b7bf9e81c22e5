"""Ranks: who am I, how many are we, and sums over all of us. One process is simply one rank of one."""

from __future__ import annotations

import os
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist


@dataclass(frozen=True)
class Ranks:
    """This process among all processes of a run."""

    rank: int = 0
    world: int = 1
    local_rank: int = 0
    local_world: int = 1

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def sum(self, value: torch.Tensor) -> torch.Tensor:
        """The sum of `value` over all ranks, on every rank; `value` itself is not changed."""
        if self.world == 1:
            return value
        value = value.detach().clone()
        dist.all_reduce(value)
        return value

    def mean_count(self, count: torch.Tensor) -> torch.Tensor:
        """What to divide a local sum by, so that DDP's average over ranks is the mean over all counted values."""
        return self.sum(count) / self.world

    def share(self, value):
        """The main rank's `value` (any picklable object), on every rank."""
        if self.world == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0)
        return box[0]


def read_environment(environment=os.environ) -> Ranks:
    """Ranks as torchrun set them, or as Slurm did (srun), or a single one."""
    if "WORLD_SIZE" in environment:
        names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
        return Ranks(*(int(environment[name]) for name in names))
    if int(environment.get("SLURM_NTASKS", 1)) > 1 and "SLURM_PROCID" in environment:
        world = int(environment["SLURM_NTASKS"])
        local_world = max(1, world // int(environment.get("SLURM_NNODES", 1)))
        return Ranks(int(environment["SLURM_PROCID"]), world, int(environment["SLURM_LOCALID"]), local_world)
    return Ranks()


@contextmanager
def joined(ranks: Ranks, device: torch.device):
    """Within this block all ranks can talk to each other: NCCL between GPUs, gloo between CPUs."""
    if ranks.world == 1:
        yield
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo", rank=ranks.rank, world_size=ranks.world)
    try:
        yield
    finally:
        dist.destroy_process_group()
