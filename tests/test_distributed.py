"""Several ranks: who they are, where they meet, and how they part."""

import os
import socket
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest
import torch

from pytc.training.distributed import (
    Ranks,
    first_host,
    joined,
    meeting_point,
    read_environment,
)

ROOT = Path(__file__).parent.parent


def test_ranks_come_from_torchrun_or_slurm():
    assert read_environment({}) == Ranks()
    torchrun = {"RANK": "3", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"}
    assert read_environment(torchrun) == Ranks(3, 8, 1, 2)
    slurm = {"SLURM_NTASKS": "8", "SLURM_PROCID": "5", "SLURM_LOCALID": "1", "SLURM_NNODES": "2"}
    assert read_environment(slurm) == Ranks(5, 8, 1, 4)


def test_ranks_meet_at_the_first_node_of_a_slurm_job():
    nodes = {
        "gpu007": "gpu007",
        "gpu[007-010,12],cpu1": "gpu007",
        "a-[3,5-9]-ib": "a-3-ib",
        "n1,n2": "n1",
    }
    assert {name: first_host(name) for name in nodes} == nodes
    job = {"SLURM_JOB_ID": "20012345", "SLURM_JOB_NODELIST": "gpu[07-10]"}
    assert meeting_point(job) == "tcp://gpu07:32345"
    assert (
        meeting_point({**job, "MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "999"})
        == "tcp://10.0.0.1:999"
    )
    with pytest.raises(ValueError, match="expected MASTER_ADDR"):
        meeting_point({})


def test_ranks_wait_for_hours_for_the_one_that_scores_a_volume(monkeypatch):
    asked = {}
    monkeypatch.setattr(
        "torch.distributed.init_process_group", lambda *_, **options: asked.update(options)
    )
    monkeypatch.setattr("torch.distributed.rendezvous", lambda *_, **options: iter([(None, 1, 2)]))
    for name in ("barrier", "destroy_process_group"):
        monkeypatch.setattr(f"torch.distributed.{name}", lambda: None)
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "1")
    with joined(Ranks(1, 2, 1, 2), torch.device("cpu")):
        assert asked["timeout"] >= timedelta(hours=2) and asked["rank"] == 1


PARTING = """
import os, sys, time
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
from pytc.training.distributed import joined, read_environment

def sum_whose_tensors_are_freed_late(value):
    '''As gloo's thread does it where it has to wait for a core.'''
    done = dist.all_reduce(value, async_op=True).get_future()
    done.add_done_callback(lambda _: time.sleep(3))
    done.wait()

def train():
    network = DistributedDataParallel(torch.nn.Linear(2, 1))
    itself = [network]
    itself.append(itself)  # as a trainer that refers to itself
    network(torch.ones(1, 2)).sum().backward()
    sum_whose_tensors_are_freed_late(torch.ones(2))

with joined(read_environment(), torch.device("cpu")):
    train()
tasks = [open(f"/proc/self/task/{task}/comm").read() for task in os.listdir("/proc/self/task")]
print(sum("gloo" in task for task in tasks), "threads of gloo")
"""


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def ranks_of(program, world=2):
    """(exit code, stdout, stderr) of `world` processes of one Python program."""
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
        "WORLD_SIZE": str(world),
        "LOCAL_WORLD_SIZE": str(world),
    }
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", program],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**environment, "RANK": str(rank), "LOCAL_RANK": str(rank)},
        )
        for rank in range(world)
    ]
    outputs = [process.communicate(timeout=180) for process in processes]
    return [(process.returncode, *texts) for process, texts in zip(processes, outputs)]


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="no /proc to count threads in")
def test_no_thread_of_the_group_outlives_it():
    """One that frees its tensors while the interpreter exits would abort the process."""
    for code, out, err in ranks_of(PARTING):
        assert (code, out) == (0, "0 threads of gloo\n"), err


STRIDES = """
import torch
from torch.nn.parallel import DistributedDataParallel
from pytc.config import ModelConfig
from pytc.models import build_model
from pytc.training.distributed import joined, lay_out_gradients, read_environment

def train():
    torch.manual_seed(0)
    model = build_model(
        ModelConfig(architecture="mednext_custom", base_channels=4, expansion=(2,) * 9,
                    block_counts=(1,) * 9, out_channels=3, deep_supervision=True)
    )
    image = torch.rand(1, 1, 32, 32, 32)
    sum(output.square().sum() for output in model(image).values()).backward()
    alone = [parameter.grad.clone() for parameter in model.parameters()]
    model.zero_grad()
    lay_out_gradients(model)
    network = DistributedDataParallel(model)
    for _ in range(2):
        sum(output.square().sum() for output in network(image).values()).backward()
    for parameter, gradient in zip(model.parameters(), alone):
        torch.testing.assert_close(parameter.grad, 2 * gradient, rtol=1e-4, atol=1e-4)

with joined(read_environment(), torch.device("cpu")):
    train()
"""


def test_gradients_fit_the_buckets_of_all_reduce():
    """DDP warns "Grad strides do not match bucket view strides" where they do not."""
    for code, _, err in ranks_of(STRIDES):
        assert (code, err) == (0, ""), err


INTERRUPTED = """
import torch
import torch.distributed as dist
from pytc.training.distributed import joined, read_environment

ranks = read_environment()

def interrupted(tensor):
    work = dist.group.WORLD.allreduce([tensor])
    work.wait()
    raise KeyboardInterrupt  # while this frame holds the collective

with joined(ranks, torch.device("cpu")):
    reduce, dist.all_reduce = dist.all_reduce, interrupted
    try:
        ranks.sum(torch.ones(3))
    except KeyboardInterrupt:
        print("ended")
    dist.all_reduce = reduce
"""


def test_ctrl_c_within_a_collective_ends_it():
    """Waiting for gloo's thread must not wait for what the interrupted call holds itself."""
    for code, out, err in ranks_of(INTERRUPTED):
        assert (code, out) == (0, "ended\n"), err
