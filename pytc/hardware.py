"""What this process may use, as limited by cgroups and affinity, and the choices that follow from it."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import torch

from pytc.config import AugmentConfig, Config, ModelConfig, SystemConfig

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def cpu_count(cgroup: Path = Path("/sys/fs/cgroup")) -> int:
    """CPU cores that this process may use: affinity and cgroup quota (v2 or v1), at least 1."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    files = [cgroup / "cpu.max"]
    if not files[0].is_file():
        files = [cgroup / "cpu" / name for name in ("cpu.cfs_quota_us", "cpu.cfs_period_us")]
    if not all(file.is_file() for file in files):
        return cores
    quota, period = " ".join(file.read_text() for file in files).split()
    return cores if quota in ("max", "-1") else min(cores, max(1, int(quota) // int(period)))


def choose_device(system: SystemConfig, local_rank: int = 0) -> torch.device:
    """The device of this rank; ValueError if a GPU is asked for and there is none."""
    if system.device == "cpu" or (system.device == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise ValueError("expected a CUDA device for system.device 'cuda', got a machine without one")
    return torch.device("cuda", local_rank)


def choose_precision(system: SystemConfig, device: torch.device, model: ModelConfig) -> str:
    """fp32, bf16 or fp16, as asked for, or what is fast: on a GPU bf16, or fp16 on one that lacks it (before Ampere).

    On a CPU bf16 where it has the instructions and the network is made of dense convolutions: the gradients of
    depthwise ones, as in MedNeXt, are four times slower in bf16 there (benchmarks/layout.py).
    """
    if system.precision != "auto":
        return system.precision
    if device.type == "cuda":
        return "bf16" if torch.cuda.get_device_capability(device)[0] >= 8 else "fp16"
    return "bf16" if cpu_multiplies_bf16() and not model.architecture.startswith("mednext") else "fp32"


def cpu_multiplies_bf16() -> bool:
    """Whether this CPU has bf16 instructions (AVX512-BF16 or AMX); emulated bf16 is many times slower than fp32."""
    cpuinfo = Path("/proc/cpuinfo")
    flags = cpuinfo.read_text() if cpuinfo.is_file() else ""
    return "avx512_bf16" in flags or "amx_bf16" in flags


def choose_workers(system: SystemConfig, device: torch.device, local_ranks: int) -> int:
    """Loader processes of a rank: none on a CPU, whose cores train; with a GPU, its share of the cores, at most 8."""
    if system.workers is not None:
        return system.workers
    return 0 if device.type == "cpu" else max(1, min(8, cpu_count() // local_ranks - 1))


def cpu_variant(config: Config) -> Config:
    """A small relative of a recipe, for minutes on a CPU: same data, target and loss; little network, patch and run."""
    patch = tuple(min(size, 48) for size in config.data.patch_size)
    features = tuple(min(size, 64) for size in config.model.features)
    model = replace(config.model, features=features, base_channels=12, image_size=patch)
    if model.architecture == "mednext":
        model = replace(model, architecture="mednext_custom", expansion=(2,) * 9, block_counts=(1,) * 9)
    return replace(
        config,
        model=model,
        data=replace(config.data, patch_size=patch, val_samples=4),
        augment=AugmentConfig(permute_prob=1.0, noise_max=0.05),
        optim=replace(config.optim, learning_rate=3e-3, warmup_steps=20, ema_decay=0.98, ema_warmup_steps=10),
        loop=replace(config.loop, max_steps=400, batch_size=2, val_every=100, checkpoint_every=100, images_every=100),
        inference=replace(config.inference, window=None),
    )
