"""What this process may use, as limited by cgroups and affinity, and the choices that follow from it."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import psutil
import torch

from pytc.config import Config, SystemConfig

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def cpu_count() -> int:
    """CPU cores that this process may use: affinity and cgroup quota, at least 1."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _cgroup_value("cpu.max", "cpu/cpu.cfs_quota_us")
    if quota and quota[0] not in ("max", "-1"):
        period = quota[1] if len(quota) > 1 else _cgroup_value("", "cpu/cpu.cfs_period_us")[0]
        cores = min(cores, max(1, int(quota[0]) // int(period)))
    return cores


def memory_bytes() -> int:
    """Memory in bytes that this process may use: the machine's or its cgroup's."""
    limit = _cgroup_value("memory.max", "memory/memory.limit_in_bytes")
    total = psutil.virtual_memory().total
    return min(total, int(limit[0])) if limit and limit[0] != "max" else total


def _cgroup_value(v2: str, v1: str, root: Path = Path("/sys/fs/cgroup")) -> list[str] | None:
    for name in filter(None, (v2, v1)):
        if (root / name).is_file():
            return (root / name).read_text().split()
    return None


def choose_device(system: SystemConfig, local_rank: int = 0) -> torch.device:
    """The device of this rank; ValueError if a GPU is asked for and there is none."""
    if system.device == "cpu" or (system.device == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise ValueError("expected a CUDA device for system.device 'cuda', got a machine without one")
    return torch.device("cuda", local_rank)


def choose_precision(system: SystemConfig, device: torch.device) -> str:
    """fp32, bf16 or fp16: bf16 where the hardware multiplies it, on a GPU without it fp16, on a CPU without it fp32."""
    if system.precision != "auto":
        return system.precision
    if device.type == "cpu":
        return "bf16" if cpu_multiplies_bf16() else "fp32"
    return "bf16" if torch.cuda.get_device_capability(device)[0] >= 8 else "fp16"


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
    """A small relative of a recipe, for minutes on a CPU: same data, target and loss, fewer channels, small patches."""
    patch = tuple(min(size, 48) for size in config.data.patch_size)
    features = tuple(min(size, 64) for size in config.model.features)
    channels = min(config.model.base_channels, 12)
    model = replace(config.model, features=features, base_channels=channels, image_size=patch)
    if model.architecture == "mednext":
        model = replace(model, architecture="mednext_custom", expansion=(2,) * 9, block_counts=(1,) * 9)
    steps = min(config.loop.max_steps, 300)
    return replace(
        config,
        model=model,
        data=replace(config.data, patch_size=patch, val_samples=4),
        optim=replace(config.optim, warmup_steps=min(config.optim.warmup_steps, steps // 10), accumulate=1),
        loop=replace(config.loop, max_steps=steps, batch_size=2, val_every=100, checkpoint_every=100, images_every=100),
        inference=replace(config.inference, window=None),
    )
