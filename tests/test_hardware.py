import os
import random
import re
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import psutil
import pytest
import torch

from pytc import hardware
from pytc.cli import load_config_file
from pytc.config import Config, DataConfig, LoopConfig, ModelConfig, OptimConfig, SystemConfig
from pytc.models import build_model
from pytc.training import memory_trial
from pytc.training.distributed import Ranks

ROOT = Path(__file__).parent.parent
CPU = torch.device("cpu")


def cgroups(folder, files, own):
    """A made-up /sys/fs/cgroup and /proc/self/cgroup."""
    for name, content in files.items():
        (folder / "fs" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "fs" / name).write_text(content + "\n")
    (folder / "own").write_text(own)
    return folder / "fs", folder / "own"


V1 = "4:memory:/jobs/7\n2:cpu,cpuacct:/jobs/7\n0::/\n"
V2 = "0::/slice/job\n"


@pytest.mark.parametrize(
    "own, files, expected",
    [
        (V2, {}, None),
        (V2, {"cpu.max": "max 100000"}, None),
        (V2, {"cpu.max": "100000 100000"}, 1),
        (
            V2,
            {"slice/cpu.max": "50000 100000", "slice/job/cpu.max": "max 100000"},
            1,
        ),  # a limit further up
        (V2, {"cpu.max": "99900000 100000"}, None),
        ("0::/../elsewhere\n", {"cpu.max": "100000 100000"}, 1),  # seen from inside a container
        (V1, {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, None),
        (
            V1,
            {"cpu/jobs/7/cpu.cfs_quota_us": "100000", "cpu/jobs/7/cpu.cfs_period_us": "100000"},
            1,
        ),
        (V1, {"unified/cpu.max": "100000 100000"}, 1),
    ],
)
def test_cores_are_those_the_cgroups_allow(tmp_path, own, files, expected):
    assert hardware.cpu_count(*cgroups(tmp_path, files, own)) == (
        expected or len(os.sched_getaffinity(0))
    )


@pytest.mark.parametrize(
    "own, files, limit, free",
    [
        (
            V2,
            {
                "slice/job/memory.max": "1000",
                "slice/job/memory.current": "900",
                "slice/job/memory.stat": "anon 1\ninactive_file 300\nactive_file 5",
            },
            1000,
            400,
        ),
        (
            V2,
            {
                "slice/memory.max": "500",
                "slice/memory.current": "500",
                "slice/job/memory.max": "max",
                "slice/job/memory.current": "3",
            },
            500,
            0,
        ),
        (
            V1,
            {
                "memory/jobs/7/memory.limit_in_bytes": "1000",
                "memory/jobs/7/memory.usage_in_bytes": "100",
                "memory/jobs/7/memory.stat": "inactive_file 1\ntotal_inactive_file 50",
            },
            1000,
            950,
        ),
        (
            V1,
            {
                "memory/memory.limit_in_bytes": "9223372036854771712",
                "memory/memory.usage_in_bytes": "7",
            },
            None,
            None,
        ),
        (V2, {}, None, None),
    ],
)
def test_memory_is_what_the_cgroups_leave(tmp_path, own, files, limit, free):
    found = hardware.memory(*cgroups(tmp_path, files, own))
    if limit is None:
        assert found[0] == psutil.virtual_memory().total and 0 < found[1] < found[0]
    else:
        assert found == (limit, free)


def test_a_gpu_that_is_not_there_is_an_error():
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    assert hardware.choose_device(SystemConfig()) == CPU
    with pytest.raises(ValueError, match="expected a CUDA device"):
        hardware.choose_device(SystemConfig(device="cuda"))


@pytest.mark.parametrize(
    "has_bf16, architecture, expected",
    [
        (True, "unet", "bf16"),
        (False, "unet", "fp32"),
        (True, "mednext", "fp32"),
        (False, "mednext_custom", "fp32"),
    ],
)
def test_precision_on_a_cpu(monkeypatch, has_bf16, architecture, expected):
    monkeypatch.setattr(hardware, "cpu_multiplies_bf16", lambda: has_bf16)
    assert (
        hardware.choose_precision(SystemConfig(), CPU, ModelConfig(architecture=architecture))
        == expected
    )
    asked = SystemConfig(precision="fp16")
    assert hardware.choose_precision(asked, CPU, ModelConfig(architecture=architecture)) == "fp16"


@pytest.mark.parametrize(
    "capability, expected", [((7, 5), "fp16"), ((8, 0), "bf16"), ((9, 0), "bf16")]
)
def test_precision_on_a_gpu(monkeypatch, capability, expected):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert (
        hardware.choose_precision(SystemConfig(), torch.device("cuda", 0), ModelConfig())
        == expected
    )


def test_loader_processes(monkeypatch):
    monkeypatch.setattr(hardware, "cpu_count", lambda: 16)
    gpu = torch.device("cuda", 0)
    assert hardware.choose_workers(SystemConfig(), CPU, 1) == 0
    assert (
        hardware.choose_workers(SystemConfig(), gpu, 1) == 8
        and hardware.choose_workers(SystemConfig(), gpu, 8) == 1
    )
    assert hardware.choose_workers(SystemConfig(workers=3), CPU, 1) == 3


BF16_WRONG, SLOW = "wrong results without a sign.*--system.precision fp16", "four times slower"


@pytest.mark.parametrize(
    "torch_version, cudnn, precision, device, expected",
    [
        ("2.13.0", 92000, "bf16", "cuda", None),
        ("2.13.0+cu130", 92000, "fp16", "cuda", None),
        ("2.8.0", 90800, "bf16", "cuda", BF16_WRONG),
        ("2.8.0", 91002, "bf16", "cuda", BF16_WRONG),
        ("2.9.1", 91002, "bf16", "cuda", BF16_WRONG),
        ("2.8.0", 90799, "bf16", "cuda", None),
        ("2.8.0", 91100, "bf16", "cuda", None),
        ("2.8.0", 91002, "fp16", "cuda", None),
        ("2.8.0", 91002, "bf16", "cpu", None),
        ("2.8.0", None, "bf16", "cuda", None),
        ("2.9.0+cu128", 91002, "fp16", "cuda", SLOW),
        ("2.9.1", 91300, "bf16", "cuda", SLOW),
        ("2.9.1", 91002, "fp32", "cuda", None),
        ("2.9.1", None, "bf16", "cpu", None),
        ("2.10.0", 91501, "fp16", "cuda", None),
    ],
)
def test_known_faults_of_versions(torch_version, cudnn, precision, device, expected):
    degree, fault = hardware.version_fault(torch_version, cudnn, precision, device)
    assert degree == {BF16_WRONG: "wrong", SLOW: "slow", None: ""}[expected]
    assert re.search(expected or "^$", fault)


def test_faults_steer_or_stop_the_choice_of_precision(monkeypatch):
    gpu = torch.device("cuda", 0)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr(hardware, "versions", lambda: ("2.8.0", 91002))
    assert hardware.choose_precision(SystemConfig(), gpu, ModelConfig()) == "fp16"
    with pytest.raises(ValueError, match=BF16_WRONG):
        hardware.choose_precision(SystemConfig(precision="bf16"), gpu, ModelConfig())
    monkeypatch.setattr(hardware, "versions", lambda: ("2.9.1", 91500))
    with pytest.warns(UserWarning, match=SLOW):
        assert hardware.choose_precision(SystemConfig(), gpu, ModelConfig()) == "bf16"


@pytest.mark.parametrize(
    "wanted, fits, expected, tried",
    [
        (8, 8, 8, [8]),
        (8, 3, 2, [8, 4, 2]),
        (8, 1, 1, [8, 4, 2, 1]),
        (6, 5, 3, [6, 3]),
        (12, 2, 1, [12, 6, 3, 1]),
        (7, 6, 1, [7, 1]),
        (4, 0, 0, [4, 2, 1]),
    ],
)
def test_a_batch_is_halved_until_it_fits(wanted, fits, expected, tried):
    sizes = []

    def try_batch(size):
        sizes.append(size)
        if size > fits:
            raise torch.OutOfMemoryError(f"no room for {size}")

    assert memory_trial.largest_batch(try_batch, wanted) == expected and sizes == tried


def test_other_errors_of_a_trial_are_not_taken_for_lack_of_memory():
    def try_batch(size):
        raise RuntimeError("expected all tensors on one device")

    with pytest.raises(RuntimeError, match="one device"):
        memory_trial.largest_batch(try_batch, 8)


TINY = Config(
    data=DataConfig(patch_size=(16, 16, 16)),
    loop=LoopConfig(batch_size=4),
    optim=OptimConfig(accumulate=3),
    model=ModelConfig("unet", features=(2, 4), out_channels=6),
    system=SystemConfig(auto=True),
)


def test_a_trial_takes_real_steps_and_leaves_random_states_alone(monkeypatch):
    taken, step = [], torch.optim.AdamW.step
    monkeypatch.setattr(torch.optim.AdamW, "step", lambda self: (taken.append(self), step(self))[1])
    torch.manual_seed(1)
    states = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    assert (
        memory_trial.largest_batch(partial(memory_trial.trial_steps, TINY, CPU, "fp32", 2), 4) == 4
    )
    assert len(taken) == 2 and taken[1].state  # the second with the first's moments
    assert torch.equal(torch.get_rng_state(), states[0]) and random.getstate() == states[2]
    np.testing.assert_array_equal(np.random.get_state()[1], states[1])


def test_a_smaller_batch_keeps_the_patches_of_a_step_on_all_ranks(monkeypatch):
    class Two(Ranks):
        def gather(self, value):
            # the other rank fits a single patch
            return [value, 1 if isinstance(value, int) else value]

    gpu = torch.device("cuda", 0)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    for name in ("reset_peak_memory_stats", "max_memory_reserved"):
        monkeypatch.setattr(torch.cuda, name, lambda device: 2**30)
    monkeypatch.setattr(
        torch.cuda, "get_device_properties", lambda device: SimpleNamespace(total_memory=2**33)
    )

    def trial_steps(*arguments):
        if arguments[-1] > 2:
            raise torch.OutOfMemoryError

    monkeypatch.setattr(memory_trial, "trial_steps", trial_steps)
    one, choices = memory_trial.configure(TINY, Ranks(), gpu, resumed=False)
    assert (one.loop.batch_size, one.optim.accumulate) == (2, 6)
    assert (
        choices[-1][:2] == ("batch", "2 patches, 6 a step")
        and "4 patches did not fit" in choices[-1][2]
    )
    two, _ = memory_trial.configure(TINY, Two(), gpu, resumed=False)
    assert (two.loop.batch_size, two.optim.accumulate) == (1, 12)
    assert memory_trial.configure(TINY, Ranks(), gpu, resumed=True)[0] == TINY
    off = replace(TINY, system=SystemConfig())
    assert memory_trial.configure(off, Ranks(), gpu, resumed=False)[0] == off
    monkeypatch.setattr(memory_trial, "largest_batch", lambda *_: 0)
    with pytest.raises(ValueError, match="one patch of"):
        memory_trial.configure(TINY, Ranks(), gpu, resumed=False)


def test_the_table_stands_alone_and_names_what_was_set():
    done = subprocess.run(
        [sys.executable, "-m", "pytc.hardware", "--device", "cpu"],
        cwd=ROOT,
        text=True,
        capture_output=True,
        check=True,
    ).stdout
    for word in (
        "CPU cores",
        "memory",
        "workers",
        "precision",
        f"torch {torch.__version__}",
        "as set",
    ):
        assert word in done
    start = time.perf_counter()
    code = "import pytc.hardware, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
    assert time.perf_counter() - start < 5
    rows = {
        name: why
        for name, _, why in hardware.survey(SystemConfig(workers=3, threads=1), CPU, ModelConfig())
    }
    assert rows["workers"] == rows["threads"] == "as set" != rows["precision"]


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.py")), ids=lambda p: p.stem)
def test_the_cpu_variant_of_every_preset_is_small_and_can_be_built(path):
    full = load_config_file(path)
    small = hardware.cpu_variant(full)
    assert (small.data.train, small.target, small.loss) == (full.data.train, full.target, full.loss)
    assert max(small.data.patch_size) <= 64 and small.loop.max_steps <= 1000
    assert not small.system.compile and small.system.precision != "fp16"  # of banis.py: for GPUs
    model = build_model(small.model)
    model.require_size(small.data.patch_size)
    assert model.get_model_info()["parameters"] < 3e6


def test_bf16_gradients_on_a_cpu_need_a_coarsest_level_as_large_as_a_kernel(monkeypatch):
    monkeypatch.setattr(hardware, "cpu_multiplies_bf16", lambda: True)
    unet = ModelConfig(architecture="unet")
    assert [hardware.choose_precision(SystemConfig(), CPU, unet, n) for n in (2, 3)] == [
        "fp32",
        "bf16",
    ]
    with pytest.raises(ValueError, match="3 voxels or more at the coarsest level.*got 2"):
        hardware.choose_precision(SystemConfig(precision="bf16"), CPU, unet, 2)
