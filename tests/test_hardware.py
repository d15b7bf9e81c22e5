import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import torch
from pytc_command import PYTC

from pytc import hardware
from pytc.config import Config, LoopConfig, ModelConfig, SystemConfig

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
        (V2, {}, 64),
        (V2, {"cpu.max": "max 100000"}, 64),
        (V2, {"cpu.max": "300000 100000"}, 3),
        (V2, {"cpu.max": "50000 100000"}, 1),  # half a core
        # a limit further up
        (V2, {"slice/cpu.max": "250000 100000", "slice/job/cpu.max": "max 100000"}, 2),
        (V2, {"slice/cpu.max": "250000 100000", "slice/job/cpu.max": "700000 100000"}, 2),
        (V2, {"cpu.max": "99900000 100000"}, 64),
        ("0::/../elsewhere\n", {"cpu.max": "300000 100000"}, 3),  # seen from inside a container
        (V1, {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, 64),
        (
            V1,
            {"cpu/jobs/7/cpu.cfs_quota_us": "300000", "cpu/jobs/7/cpu.cfs_period_us": "100000"},
            3,
        ),
        (V1, {"unified/cpu.max": "300000 100000"}, 3),
    ],
)
def test_cores_are_those_the_cgroups_allow(monkeypatch, tmp_path, own, files, expected):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(64)), raising=False)
    assert hardware.cpu_count(*cgroups(tmp_path, files, own)) == expected


def test_cores_are_those_of_the_affinity(monkeypatch, tmp_path):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {3, 5}, raising=False)
    assert hardware.cpu_count(*cgroups(tmp_path, {"cpu.max": "300000 100000"}, V2)) == 2


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
    "capability, expected",
    [((6, 1), "fp32"), ((7, 0), "fp16"), ((7, 5), "fp16"), ((8, 0), "bf16"), ((9, 0), "bf16")],
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
def test_faults_of_versions(torch_version, cudnn, precision, device, expected):
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


def test_the_table_stands_alone_and_names_what_was_set():
    done = subprocess.run(
        [sys.executable, str(PYTC), "hardware", "--device", "cpu"],
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
    # so that --help answers at once
    code = "import pytc.hardware, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
    rows = {
        name: why
        for name, _, why in hardware.survey(SystemConfig(workers=3, threads=1), CPU, ModelConfig())
    }
    assert rows["workers"] == rows["threads"] == "as set" != rows["precision"]


def test_bf16_gradients_on_a_cpu_need_a_coarsest_level_as_large_as_a_kernel(monkeypatch):
    monkeypatch.setattr(hardware, "cpu_multiplies_bf16", lambda: True)
    unet = ModelConfig(architecture="unet")
    assert [hardware.choose_precision(SystemConfig(), CPU, unet, n) for n in (2, 3)] == [
        "fp32",
        "bf16",
    ]
    with pytest.raises(ValueError, match="3 voxels or more at the coarsest level.*got 2"):
        hardware.choose_precision(SystemConfig(precision="bf16"), CPU, unet, 2)


def simulate(monkeypatch, *, gpus, memory_gb, capability, cores):
    """A made-up machine: its GPUs as torch describes them, and the cores of this process."""
    properties = SimpleNamespace(
        name="Made-up GPU",
        total_memory=int(memory_gb * 1e9),
        major=capability,
        minor=0,
    )
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda number: properties)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (capability, 0))
    monkeypatch.setattr(hardware, "versions", lambda: ("2.13.0", 92000))
    monkeypatch.setattr(hardware, "cpu_multiplies_bf16", lambda: False)
    monkeypatch.setattr(hardware, "cpu_count", lambda: cores)
    monkeypatch.setattr(hardware, "memory", lambda: (64 * 10**9, 32 * 10**9))


# What follows from each property of a machine, for MedNeXt on patches of 128 voxels a side and a
# recipe of 6 patches a step. (GPUs, cores) -> loader processes of a rank: its share of the cores
# but one, 1 to 8.
WORKERS = {(0, 2): 0, (0, 64): 0, (1, 2): 1, (1, 64): 8, (4, 2): 1, (4, 64): 8}
PRECISION = {6: "fp32", 7: "fp16", 8: "bf16", 9: "bf16"}
# (GB, in half precision) -> (patches in a batch, batches a step): 70 % of the memory over 1 GB a
# patch, or 2 GB in fp32; at most 8; a divisor of 6 where fewer than 6 fit.
BATCHES = {
    (8, True): (3, 2),
    (8, False): (2, 3),
    (24, True): (8, 1),
    (24, False): (8, 1),
    (80, True): (8, 1),
    (80, False): (8, 1),
}


@pytest.mark.parametrize("cores", [2, 64])
@pytest.mark.parametrize("capability", [6, 7, 8, 9])
@pytest.mark.parametrize("memory_gb", [8, 24, 80])
@pytest.mark.parametrize("gpus", [0, 1, 4])
def test_training_is_configured_for_various_machines(
    monkeypatch, capsys, gpus, memory_gb, capability, cores
):
    machine = {"gpus": gpus, "memory_gb": memory_gb, "capability": capability, "cores": cores}
    simulate(monkeypatch, **machine)
    recipe = Config(loop=LoopConfig(batch_size=6))
    config = hardware.auto_configure_training(recipe)
    precision, batch = "fp32", (6, 1)  # on a CPU: 32 GB are available, which take 11 patches
    if gpus:
        precision = PRECISION[capability]
        batch = BATCHES[memory_gb, precision != "fp32"]
    assert config.system.precision == precision
    assert config.system.workers == WORKERS[gpus, cores]
    assert config.system.threads == max(1, cores // max(1, gpus))
    assert (config.loop.batch_size, config.optim.accumulate) == batch
    assert replace(config, loop=recipe.loop, optim=recipe.optim, system=recipe.system) == recipe

    said = " ".join(capsys.readouterr().out.split())
    assert ("Made-up GPU" in said) == (gpus > 0)
    assert ("torchrun --nproc-per-node 4" in said) == (gpus == 4)


def test_what_a_user_set_is_kept_when_training_is_configured(monkeypatch, capsys):
    simulate(monkeypatch, gpus=1, memory_gb=80, capability=9, cores=64)
    asked = SystemConfig(precision="fp32", workers=3, threads=5)
    assert hardware.auto_configure_training(Config(system=asked)).system == asked
    large = Config(loop=LoopConfig(batch_size=16))
    assert hardware.auto_configure_training(large).loop.batch_size == 16
    on_cpu = Config(system=SystemConfig(device="cpu"), loop=LoopConfig(batch_size=20))
    config = hardware.auto_configure_training(on_cpu)  # 11 patches of 2 GB in 70 % of 32 GB
    assert (config.loop.batch_size, config.optim.accumulate) == (10, 2)
    assert config.system.workers == 0


def test_gpus_and_cpu_are_described_in_plain_numbers(monkeypatch):
    simulate(monkeypatch, gpus=2, memory_gb=24, capability=8, cores=6)
    assert hardware.detect_gpu_info() == {
        "num_gpus": 2,
        "gpu_names": ["Made-up GPU", "Made-up GPU"],
        "gpu_memory_gb": [24.0, 24.0],
        "compute_capabilities": [(8, 0), (8, 0)],
        "total_memory_gb": 48.0,
    }
    monkeypatch.setattr(psutil, "cpu_count", lambda logical=True: 4)
    assert hardware.detect_cpu_info() == {
        "num_cpus": 4,
        "num_logical_cpus": 6,
        "total_memory_gb": 64.0,
        "available_memory_gb": 32.0,
    }
    # as many cores as a cgroup leaves, and a system that does not count them
    monkeypatch.setattr(hardware, "cpu_count", lambda: 3)
    assert hardware.detect_cpu_info()["num_cpus"] == 3
    monkeypatch.setattr(psutil, "cpu_count", lambda logical=True: None)
    assert hardware.detect_cpu_info()["num_cpus"] == 3


def test_without_a_gpu_there_are_none_to_describe(monkeypatch):
    simulate(monkeypatch, gpus=0, memory_gb=8, capability=8, cores=2)
    info = hardware.detect_gpu_info()
    assert info["num_gpus"] == info["total_memory_gb"] == 0
    assert info["gpu_names"] == info["gpu_memory_gb"] == []


def test_the_command_for_all_gpus_is_the_one_that_was_typed(monkeypatch):
    simulate(monkeypatch, gpus=4, memory_gb=80, capability=9, cores=64)
    monkeypatch.setattr(sys, "argv", ["train.py", "--name", "two words"])
    gpu = torch.device("cuda", 0)
    hint = hardware.torchrun_hint(gpu, 1)
    assert hint.endswith("torchrun --nproc-per-node 4 train.py --name 'two words'")
    assert hardware.torchrun_hint(gpu, 4) == hardware.torchrun_hint(CPU, 1) == ""
    simulate(monkeypatch, gpus=1, memory_gb=80, capability=9, cores=64)
    assert hardware.torchrun_hint(gpu, 1) == ""
