"""What this process may use, as limited by cgroups and affinity, and what is chosen for it.

`python -m pytc.hardware` prints both. torch is imported where it is asked, so that `--help` answers
at once.
"""

from __future__ import annotations

import os
import platform
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
from rich.console import Console
from rich.table import Table

from pytc.config import AugmentConfig, Config, ModelConfig, SystemConfig, require

if TYPE_CHECKING:
    import torch

PRECISIONS = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}
CGROUPS, OWN_CGROUP = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")
GIB = 2**30
KERNEL = 3  # voxels: the usual extent of a kernel
Choice = tuple[str, str, str]  # what the machine has or what was chosen for it: name, value, reason


def cpu_count(root: Path = CGROUPS, own: Path = OWN_CGROUP) -> int:
    """CPU cores that this process may use, at least 1.

    Affinity and the quota (v2 or v1) of its cgroups limit them.
    """
    limits = [
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    ]
    for folder in _cgroups("cpu", root, own):
        v1 = _words(folder / "cpu.cfs_quota_us") + _words(folder / "cpu.cfs_period_us")
        quota, period = _words(folder / "cpu.max") or v1 or ("max", "1")
        if quota not in ("max", "-1"):
            limits.append(int(quota) // int(period))
    return max(1, min(limits))


def memory(root: Path = CGROUPS, own: Path = OWN_CGROUP) -> tuple[int, int]:
    """Bytes that machine and cgroups let this process use, and how many are free.

    File cache counts as free, as it yields.
    """
    machine = psutil.virtual_memory()
    limits, free = [machine.total], [machine.available]
    for folder in _cgroups("memory", root, own):
        for names in (
            ("memory.max", "memory.current"),
            ("memory.limit_in_bytes", "memory.usage_in_bytes"),
        ):
            limit, used = (_words(folder / name) for name in names)
            if limit and used and limit != ["max"]:
                words = _words(folder / "memory.stat")
                stat = dict(zip(words[::2], words[1::2]))
                cached = int(stat.get("total_inactive_file", stat.get("inactive_file", 0)))
                limits.append(int(limit[0]))
                free.append(max(0, int(limit[0]) - int(used[0]) + cached))
    return min(limits), min(free)


def _cgroups(controller: str, root: Path, own: Path) -> Iterator[Path]:
    """The folders of this process's cgroup and of those around it, v2 and v1.

    Each of them may set a limit of its own.
    """
    for line in own.read_text().splitlines() if own.is_file() else ():
        _, controllers, path = line.split(":", 2)
        v1 = (root / controller,) if controller in controllers.split(",") else ()
        for top in v1 if controllers else (root, root / "unified"):
            folder = top / path.strip("/")
            yield from (f for f in (folder, *folder.parents) if f.is_relative_to(top))


def _words(file: Path) -> list[str]:
    return file.read_text().split() if file.is_file() else []


def choose_device(system: SystemConfig, local_rank: int = 0) -> torch.device:
    """The device of this rank; ValueError if a GPU is asked for and there is none."""
    import torch

    there = torch.cuda.is_available()
    require(
        there or system.device != "cuda",
        "a CUDA device for system.device 'cuda'",
        "a machine without one",
    )
    return (
        torch.device("cuda", local_rank)
        if there and system.device != "cpu"
        else torch.device("cpu")
    )


def choose_precision(
    system: SystemConfig, device: torch.device, model: ModelConfig, coarsest: int = KERNEL
) -> str:
    """fp32, bf16 or fp16, as asked for, or what is fast on this device.

    On a GPU that is bf16, or fp16 on one that lacks it (before Ampere). On a CPU bf16 where it has
    the instructions and the network is made of dense convolutions: the gradients of depthwise ones,
    as in MedNeXt, gain nothing clear (a training step takes 0.86 times fp32's computing, but 1.5
    times its time by the clock; forward 1.13 times: benchmarks/README.md, Networks). ValueError for
    a precision in which this torch and cuDNN compute wrongly; a warning for one in which they are
    slow.

    coarsest: for training, the voxels along the shortest axis of a patch at the network's coarsest
    level. Where they are fewer than a kernel's, torch's gradients in bf16 on a CPU hold whatever
    was in memory (oneDNN, torch 2.13).
    """
    precision, _ = precision_and_reason(system, device, model, coarsest)
    if precision == "bf16" and device.type == "cpu":
        require(
            coarsest >= KERNEL,
            f"{KERNEL} voxels or more at the coarsest level to train in bf16 on a CPU, which "
            "else computes wrong gradients (larger patches, or --system.precision fp32)",
            coarsest,
        )
    degree, fault = version_fault(*versions(), precision, device.type)
    require(degree != "wrong", "versions that compute rightly", fault)
    if degree == "slow":
        warnings.warn(fault, stacklevel=2)
    return precision


def precision_and_reason(
    system: SystemConfig, device: torch.device, model: ModelConfig, coarsest: int = KERNEL
) -> tuple[str, str]:
    """What `choose_precision` returns, and why.

    Faults of versions that cannot be avoided are not looked for.
    """
    import torch

    if system.precision != "auto":
        return system.precision, "as set"
    if device.type == "cpu":
        if not cpu_multiplies_bf16():
            return "fp32", "this CPU has no bf16 instructions"
        if model.architecture.startswith("mednext"):
            return "fp32", "depthwise convolutions train slowly in bf16 on a CPU"
        if coarsest < KERNEL:
            return "fp32", "the coarsest level is too small for gradients in bf16 on a CPU"
        return "bf16", "this CPU has bf16 instructions"
    major, minor = torch.cuda.get_device_capability(device)
    if major < 8:
        return "fp16", f"compute capability {major}.{minor} has no bf16"
    if version_fault(*versions(), "bf16", "cuda")[0] == "wrong":
        return "fp16", f"cuDNN {versions()[1]} computes wrongly in bf16"
    return "bf16", f"compute capability {major}.{minor}"


def autocast(device: torch.device, precision: str):
    """The context in which a network computes in this precision."""
    import torch

    return torch.autocast(
        device.type, getattr(torch, PRECISIONS[precision]), enabled=precision != "fp32"
    )


def versions() -> tuple[str, int | None]:
    """torch's version, and cuDNN's as one number (9.10.2 is 91002), None without it."""
    import torch

    return torch.__version__, torch.backends.cudnn.version()


def version_fault(
    torch_version: str, cudnn: int | None, precision: str, device_type: str
) -> tuple[str, str]:
    """What is known to be wrong with 3-D convolutions in these versions, if anything.

    Returns ("wrong" or "slow", what and the remedy), else ("", "").

    Wrong: bf16 on cuDNN 9.8 to 9.10 (pytorch issue 163539). Slow: bf16 or fp16 on torch 2.9, four
    times (166122).
    """
    on_gpu = device_type == "cuda"
    if on_gpu and precision == "bf16" and cudnn is not None and 90800 <= cudnn < 91100:
        return "wrong", (
            f"cuDNN {cudnn}, whose 3-D convolutions in bf16 give wrong results without a sign; "
            "install cuDNN 9.15 or newer, or set --system.precision fp16"
        )
    if on_gpu and precision != "fp32" and torch_version.startswith("2.9."):
        return "slow", (
            f"torch {torch_version} is about four times slower in 3-D convolutions in {precision} "
            "than others; install torch 2.11 or newer"
        )
    return "", ""


def cpu_multiplies_bf16() -> bool:
    """Whether this CPU has bf16 instructions (AVX512-BF16 or AMX).

    Emulated bf16 is many times slower than fp32.
    """
    cpuinfo = Path("/proc/cpuinfo")
    flags = cpuinfo.read_text() if cpuinfo.is_file() else ""
    return "avx512_bf16" in flags or "amx_bf16" in flags


def choose_workers(system: SystemConfig, device: torch.device, local_ranks: int) -> int:
    """Loader processes of a rank: none on a CPU, whose cores train.

    With a GPU it is its share of the cores, at most 8.
    """
    if system.workers is not None:
        return system.workers
    return 0 if device.type == "cpu" else max(1, min(8, cpu_count() // local_ranks - 1))


def choose_threads(system: SystemConfig, local_ranks: int) -> int:
    """CPU threads of a rank: its share of the cores."""
    return system.threads or max(1, cpu_count() // local_ranks)


def chunk_memory(system: SystemConfig, device: torch.device, local_ranks: int) -> int:
    """Bytes of decoded chunks that a loader process may keep.

    All that train share a quarter of what is free.
    """
    return memory()[1] // 4 // (local_ranks * max(1, choose_workers(system, device, local_ranks)))


def survey(
    system: SystemConfig, device: torch.device, model: ModelConfig, local_ranks: int = 1
) -> list[Choice]:
    """What the machine has, and what is chosen for a rank on it."""
    import torch

    def chosen(field: str, value, reason: str) -> Choice:
        return field, str(value), reason if getattr(system, field) in ("auto", None) else "as set"

    gpus = [torch.cuda.get_device_properties(number) for number in range(torch.cuda.device_count())]
    on_gpu, (limit, free) = device.type == "cuda", memory()
    precision, why = precision_and_reason(system, device, model)
    degree, fault = version_fault(*versions(), precision, device.type)
    return [
        *(
            (
                f"GPU {number}",
                f"{gpu.name}, {gpu.total_memory / GIB:.1f} GiB",
                f"compute capability {gpu.major}.{gpu.minor}",
            )
            for number, gpu in enumerate(gpus)
        ),
        chosen("device", device.type, "a GPU" if on_gpu else "no GPU that torch can use"),
        ("CPU cores", str(cpu_count()), f"what affinity and cgroups leave of {os.cpu_count()}"),
        (
            "memory",
            f"{limit / GIB:.1f} GiB",
            f"the least of machine and cgroups; {free / GIB:.1f} free",
        ),
        chosen(
            "threads",
            choose_threads(system, local_ranks),
            f"share of {local_ranks} ranks on this machine",
        ),
        chosen(
            "workers",
            choose_workers(system, device, local_ranks),
            "its share of the cores but one, at most 8" if on_gpu else "on a CPU the cores train",
        ),
        chosen("precision", precision, why),
        (
            "versions",
            f"torch {versions()[0]}",
            f"CUDA {torch.version.cuda}, cuDNN {versions()[1]}, Python {platform.python_version()}",
        ),
        *([("warning", degree, fault)] if degree else []),
    ]


def print_table(choices: list[Choice]) -> None:
    table = Table("", "this machine", "because", title="hardware", title_justify="left")
    for choice in choices:
        table.add_row(*choice)
    Console(width=None if Console().is_terminal else 110).print(table, highlight=False)


def cpu_variant(config: Config) -> Config:
    """A small relative of a recipe, for minutes on a CPU: same data, target and loss.

    The network, the patch and the run are little.
    """
    patch = tuple(min(size, 48) for size in config.data.patch_size)
    features = tuple(min(size, 64) for size in config.model.features)
    # which is for GPUs
    precision = "auto" if config.system.precision == "fp16" else config.system.precision
    model = replace(config.model, features=features, base_channels=12, image_size=patch)
    if model.architecture == "mednext":
        model = replace(
            model, architecture="mednext_custom", expansion=(2,) * 9, block_counts=(1,) * 9
        )
    return replace(
        config,
        model=model,
        data=replace(config.data, patch_size=patch, val_samples=4),
        augment=AugmentConfig(permute_prob=1.0, noise_max=0.05),
        optim=replace(
            config.optim, learning_rate=3e-3, warmup_steps=20, ema_decay=0.98, ema_warmup_steps=10
        ),
        loop=replace(
            config.loop,
            max_steps=400,
            batch_size=2,
            val_every=100,
            checkpoint_every=100,
            images_every=100,
        ),
        system=replace(config.system, compile=False, precision=precision),
        inference=replace(config.inference, window=None),
    )


if __name__ == "__main__":
    import tyro

    from pytc.commands import readable_errors

    with readable_errors():
        asked = tyro.cli(SystemConfig, prog="python -m pytc.hardware", description=__doc__)
        print_table(survey(asked, choose_device(asked), ModelConfig()))
