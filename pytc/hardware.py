"""What this process may use of the machine, and what is chosen for it.

`pytc hardware` prints both. torch is imported inside the functions, so that `--help`
answers at once.
"""

from __future__ import annotations

import logging
import math
import os
import platform
import shlex
import sys
import warnings
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import psutil

from pytc import cgroups, console, messages
from pytc.checks import require
from pytc.config import Config, ModelConfig, SystemConfig

if TYPE_CHECKING:
    import torch

LOGGER = logging.getLogger(__name__)

PRECISIONS = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}
GIB = 2**30
GB = 10**9
MEMORY_SHARE = 0.7  # share of the memory of a device that the patches of a batch may take
LARGEST_BATCH = 8  # `auto_configure_training` makes no batch larger than this
KERNEL = 3  # voxels: the usual extent of a kernel
# (name, value, reason) of what the machine has, or of what was chosen for it
Choice = tuple[str, str, str]
Precision = Literal["fp32", "bf16", "fp16"]


def cpu_count(root: Path = cgroups.ROOT, membership: Path = cgroups.MEMBERSHIP) -> int:
    """CPU cores that this process may use, at least 1.

    It is the smallest of the number of its affinity and the quotas of its cgroups.
    """
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    else:
        cores = psutil.cpu_count()
    return max(1, min([cores, *cgroups.cpu_quotas(root, membership)]))


def memory(root: Path = cgroups.ROOT, membership: Path = cgroups.MEMBERSHIP) -> tuple[int, int]:
    """(limit, available) memory of this process in bytes, within the limits of its cgroups."""
    machine = psutil.virtual_memory()
    limits = [(machine.total, machine.available), *cgroups.memory_limits(root, membership)]
    return min(limit for limit, _ in limits), min(available for _, available in limits)


def detect_gpu_info() -> dict[str, Any]:
    """The GPUs that torch can use.

    Returns:
        num_gpus; lists with an entry for each GPU: gpu_names, gpu_memory_gb (in units of 10^9
        bytes) and compute_capabilities, (major, minor); total_memory_gb, the sum.
    """
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    gpus = [torch.cuda.get_device_properties(number) for number in range(count)]
    memory_gb = [gpu.total_memory / GB for gpu in gpus]
    return {
        "num_gpus": count,
        "gpu_names": [gpu.name for gpu in gpus],
        "gpu_memory_gb": memory_gb,
        "compute_capabilities": [(gpu.major, gpu.minor) for gpu in gpus],
        "total_memory_gb": sum(memory_gb),
    }


def detect_cpu_info() -> dict[str, Any]:
    """Cores and memory that this process may use, within its affinity and its cgroups.

    Returns:
        num_cpus (cores); num_logical_cpus (a core with hyper-threading counts as two);
        total_memory_gb and available_memory_gb, in units of 10^9 bytes.
    """
    logical = cpu_count()
    physical = psutil.cpu_count(logical=False)  # None where the system does not say
    limit, available = memory()
    return {
        "num_cpus": logical if physical is None else min(physical, logical),
        "num_logical_cpus": logical,
        "total_memory_gb": limit / GB,
        "available_memory_gb": available / GB,
    }


def auto_configure_training(config: Config) -> Config:
    """Fit a config to this machine, for a script of your own; print what was chosen and why.

    - system.precision, workers and threads are chosen where they are left open, by
      `choose_precision`, `choose_workers` and `choose_threads`, for one process on each GPU.
    - loop.batch_size and optim.accumulate are set by `batch_by_rule`. A batch may become smaller
      than the recipe's (a step then takes as many patches in more batches), or larger.

    `train.py --system.auto` has another rule on purpose. It measures the memory of real training
    steps, and never makes a batch larger: a step of a run takes as many patches as its recipe says,
    so that the run can be compared with other runs of the recipe. Here the caller gets the config
    back before anything runs, and may refuse the larger batch.
    """
    device = choose_device(config.system)
    gpus = detect_gpu_info()
    ranks = max(1, gpus["num_gpus"]) if device.type == "cuda" else 1
    choices = survey(config.system, device, config.model, ranks)
    precision = choose_precision(config.system, device, config.model)
    batch, accumulate, reason = batch_by_rule(config, device, precision)
    choices.append(("batch", f"{batch} patches, {accumulate} a step", reason))
    if messages.are_shown():
        print_table(choices)
    if hint := torchrun_hint(device, ranks=1):
        LOGGER.info(hint)
    system = replace(
        config.system,
        precision=precision,
        workers=choose_workers(config.system, device, ranks),
        threads=choose_threads(config.system, ranks),
    )
    return replace(
        config,
        system=system,
        loop=replace(config.loop, batch_size=batch),
        optim=replace(config.optim, accumulate=accumulate),
    )


def batch_by_rule(config: Config, device: torch.device, precision: str) -> tuple[int, int, str]:
    """(patches in a batch, batches in a step, the reason), by a rule of thumb.

    A patch of 128 voxels a side takes 1 GB in half precision and 2 GB in fp32; other patches take
    memory in proportion to their voxels. On a GPU, a batch takes at most 70 % of the memory of the
    smallest GPU. It has at most 8 patches, or as many as the recipe says if that is more. On a CPU,
    a batch takes at most 70 % of the available memory, and is never larger than the recipe's, since
    a larger one only makes a step longer.
    """
    patch_gb = math.prod(config.data.patch_size) / 128**3
    if precision == "fp32":
        patch_gb *= 2
    recipe = config.loop.batch_size
    if device.type == "cuda":
        memory_gb = min(detect_gpu_info()["gpu_memory_gb"])
        most = max(recipe, LARGEST_BATCH)
    else:
        memory_gb = detect_cpu_info()["available_memory_gb"]
        most = recipe
    fits = min(most, max(1, int(MEMORY_SHARE * memory_gb / patch_gb)))
    patches = recipe * config.optim.accumulate
    reason = f"{fits} of about {patch_gb:.2g} GB in {MEMORY_SHARE:.0%} of {memory_gb:.1f} GB"
    if fits >= patches:
        return fits, 1, reason
    batch = max(size for size in range(1, fits + 1) if patches % size == 0)
    return batch, patches // batch, reason


def torchrun_hint(device: torch.device, ranks: int) -> str:
    """A hint how to train on all GPUs of this machine; empty if the run uses all of them."""
    import torch

    if device.type != "cuda" or ranks > 1 or torch.cuda.device_count() == 1:
        return ""
    count = torch.cuda.device_count()
    command = shlex.join(sys.argv)
    return (
        f"this run uses one of {count} GPUs; to use all of them:\n"
        f"    torchrun --nproc-per-node {count} {command}"
    )


def choose_device(system: SystemConfig, local_rank: int = 0) -> torch.device:
    """The device of this rank; ValueError if a GPU is asked for but there is none."""
    import torch

    has_gpu = torch.cuda.is_available()
    require(
        has_gpu or system.device != "cuda",
        "a CUDA device for system.device 'cuda' (auto takes the CPU where torch finds no GPU; pytc "
        "hardware shows what it finds)",
        "a machine without one",
    )
    if has_gpu and system.device != "cpu":
        return torch.device("cuda", local_rank)
    return torch.device("cpu")


def choose_precision(
    system: SystemConfig, device: torch.device, model: ModelConfig, coarsest: int = KERNEL
) -> Precision:
    """The precision that was asked for, or else the one that is fast on this device.

    On a GPU it is bf16, or fp16 if the GPU has no bf16 (before Ampere). On a CPU it is bf16 if the
    CPU has the instructions and the network is made of dense convolutions. Depthwise convolutions,
    as in MedNeXt, gain nothing clear: a training step takes 0.86 times the computing of fp32, but
    1.5 times its time by the clock, and a forward pass 1.13 times (benchmarks/README.md, Networks).

    Args:
        system: what was asked for.
        device: of this rank.
        model: the network.
        coarsest: for training, the voxels along the shortest axis of a patch at the coarsest level
            of the network. If they are fewer than a kernel's, gradients in bf16 on a CPU hold
            whatever was in memory (oneDNN, torch 2.13).

    Raises:
        ValueError: this torch and cuDNN compute wrongly in the precision. If they are slow in it,
            there is a warning.
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
) -> tuple[Precision, str]:
    """What `choose_precision` returns, and the reason; without its errors and warnings."""
    import torch

    if system.precision != "auto":
        return system.precision, "as set"
    if device.type == "cpu":
        return _precision_on_cpu(model, coarsest)
    return _precision_on_gpu(*torch.cuda.get_device_capability(device))


def _precision_on_cpu(model: ModelConfig, coarsest: int) -> tuple[Precision, str]:
    if not cpu_multiplies_bf16():
        return "fp32", "this CPU has no bf16 instructions"
    if model.architecture.startswith("mednext"):
        return "fp32", "depthwise convolutions train slowly in bf16 on a CPU"
    if coarsest < KERNEL:
        return "fp32", "the coarsest level is too small for gradients in bf16 on a CPU"
    return "bf16", "this CPU has bf16 instructions"


def _precision_on_gpu(major: int, minor: int) -> tuple[Precision, str]:
    """By the compute capability."""
    if major < 7:
        return "fp32", f"compute capability {major}.{minor} is not faster in half precision"
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
    """The fault of 3-D convolutions in these versions, if one has been reported.

    - wrong: bf16 on cuDNN 9.8 to 9.10 (pytorch issue 163539).
    - slow: bf16 or fp16 on torch 2.9, four times slower (pytorch issue 166122).

    Returns:
        ("wrong" or "slow", a description with the remedy), or ("", "").
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

    Without them, bf16 is emulated, and many times slower than fp32.
    """
    cpuinfo = Path("/proc/cpuinfo")
    flags = cpuinfo.read_text() if cpuinfo.is_file() else ""
    return "avx512_bf16" in flags or "amx_bf16" in flags


def choose_workers(system: SystemConfig, device: torch.device, local_ranks: int) -> int:
    """Loader processes of a rank.

    On a CPU there are none, since its cores train. With a GPU, a rank gets its share of the cores
    less one, at most 8.
    """
    if system.workers is not None:
        return system.workers
    if device.type == "cpu":
        return 0
    share = cpu_count() // local_ranks
    return max(1, min(8, share - 1))


def choose_threads(system: SystemConfig, local_ranks: int) -> int:
    """CPU threads of a rank: its share of the cores."""
    if system.threads is not None:
        return system.threads
    return max(1, cpu_count() // local_ranks)


def chunk_memory(system: SystemConfig, device: torch.device, local_ranks: int) -> int:
    """Bytes of decoded chunks that a loader process may keep.

    All loader processes of a machine together may take a quarter of the available memory.
    """
    _, available = memory()
    loaders = local_ranks * max(1, choose_workers(system, device, local_ranks))
    return available // 4 // loaders


def survey(
    system: SystemConfig,
    device: torch.device,
    model: ModelConfig,
    local_ranks: int = 1,
    coarsest: int = KERNEL,
) -> list[Choice]:
    """Rows about what the machine has, and what is chosen for a rank.

    coarsest: see `choose_precision`.
    """
    import torch

    on_gpu = device.type == "cuda"
    limit, available = memory()
    precision, reason = precision_and_reason(system, device, model, coarsest)
    degree, fault = version_fault(*versions(), precision, device.type)
    choices = []
    for number in range(torch.cuda.device_count()):
        gpu = torch.cuda.get_device_properties(number)
        size = f"{gpu.name}, {gpu.total_memory / GIB:.1f} GiB"
        choices.append((f"GPU {number}", size, f"compute capability {gpu.major}.{gpu.minor}"))
    threads = choose_threads(system, local_ranks)
    workers = choose_workers(system, device, local_ranks)
    why_workers = "its share of the cores but one, at most 8" if on_gpu else "the CPU's cores train"
    why_device = "a GPU" if on_gpu else "no GPU that torch can use"
    why_threads = f"share of {local_ranks} ranks on this machine"
    choices += [
        ("device", device.type, why_device if system.device == "auto" else "as set"),
        ("CPU cores", str(cpu_count()), f"what affinity and cgroups leave of {os.cpu_count()}"),
        (
            "memory",
            f"{limit / GIB:.1f} GiB",
            f"the least of machine and cgroups; {available / GIB:.1f} available",
        ),
        ("threads", str(threads), why_threads if system.threads is None else "as set"),
        ("workers", str(workers), why_workers if system.workers is None else "as set"),
        ("precision", precision, reason),
        (
            "versions",
            f"torch {versions()[0]}",
            f"CUDA {torch.version.cuda}, cuDNN {versions()[1]}, Python {platform.python_version()}",
        ),
    ]
    if degree:
        choices.append(("warning", degree, fault))
    return choices


def print_table(choices: list[Choice]) -> None:
    console.print_table(["", "this machine", "because"], choices, title="hardware", prose=(2,))
