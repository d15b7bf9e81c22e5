import os
from pathlib import Path

import pytest
import torch

from pytc import hardware
from pytc.cli import load_config_file
from pytc.config import ModelConfig, SystemConfig
from pytc.models import build_model

ROOT = Path(__file__).parent.parent
CPU = torch.device("cpu")


@pytest.mark.parametrize(
    "files, expected",
    [
        ({}, None),
        ({"cpu.max": "max 100000"}, None),
        ({"cpu.max": "100000 100000"}, 1),
        ({"cpu.max": "50000 100000"}, 1),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, None),
        ({"cpu/cpu.cfs_quota_us": "100000", "cpu/cpu.cfs_period_us": "100000"}, 1),
        ({"cpu.max": "99900000 100000"}, None),
    ],
)
def test_cores_are_those_the_cgroup_allows(tmp_path, files, expected):
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content + "\n")
    assert hardware.cpu_count(tmp_path) == (expected or len(os.sched_getaffinity(0)))


def test_a_gpu_that_is_not_there_is_an_error():
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    assert hardware.choose_device(SystemConfig()) == CPU
    with pytest.raises(ValueError, match="expected a CUDA device"):
        hardware.choose_device(SystemConfig(device="cuda"))


@pytest.mark.parametrize("has_bf16, architecture, expected", [
    (True, "unet", "bf16"), (False, "unet", "fp32"), (True, "mednext", "fp32"), (False, "mednext_custom", "fp32"),
])  # fmt: skip
def test_precision_on_a_cpu(monkeypatch, has_bf16, architecture, expected):
    monkeypatch.setattr(hardware, "cpu_multiplies_bf16", lambda: has_bf16)
    assert hardware.choose_precision(SystemConfig(), CPU, ModelConfig(architecture=architecture)) == expected
    asked = SystemConfig(precision="fp16")
    assert hardware.choose_precision(asked, CPU, ModelConfig(architecture=architecture)) == "fp16"


@pytest.mark.parametrize("capability, expected", [((7, 5), "fp16"), ((8, 0), "bf16"), ((9, 0), "bf16")])
def test_precision_on_a_gpu(monkeypatch, capability, expected):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert hardware.choose_precision(SystemConfig(), torch.device("cuda", 0), ModelConfig()) == expected


def test_loader_processes(monkeypatch):
    monkeypatch.setattr(hardware, "cpu_count", lambda: 16)
    gpu = torch.device("cuda", 0)
    assert hardware.choose_workers(SystemConfig(), CPU, 1) == 0
    assert hardware.choose_workers(SystemConfig(), gpu, 1) == 8 and hardware.choose_workers(SystemConfig(), gpu, 8) == 1
    assert hardware.choose_workers(SystemConfig(workers=3), CPU, 1) == 3


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.py")), ids=lambda p: p.stem)
def test_the_cpu_variant_of_every_preset_is_small_and_can_be_built(path):
    full = load_config_file(path)
    small = hardware.cpu_variant(full)
    assert (small.data.train, small.target, small.loss) == (full.data.train, full.target, full.loss)
    assert max(small.data.patch_size) <= 64 and small.loop.max_steps <= 1000
    model = build_model(small.model)
    model.require_size(small.data.patch_size)
    assert model.info()["parameters"] < 3e6
