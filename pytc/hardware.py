"""What this process may use, as limited by cgroups and affinity, and what is chosen for it.

`pytc hardware` prints both. torch is imported where it is asked, so that `--help` answers
at once.
"""

from __future__ import annotations

import logging
import math
import os
import platform
import shlex
import sys
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from pytc import console, messages
from pytc.checks import require
from pytc.config import Config, ModelConfig, SystemConfig

if TYPE_CHECKING:
    import torch

LOGGER = logging.getLogger(__name__)

PRECISIONS = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}
CGROUPS, OWN_CGROUP = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")
# A cgroup's limit of memory and what is used of it: v2, v1.
MEMORY_FILES = (
    ("memory.max", "memory.current"),
    ("memory.limit_in_bytes", "memory.usage_in_bytes"),
)
GIB = 2**30
GB = 10**9
MEMORY_SHARE = 0.7  # of a device's memory, for the patches of a batch
LARGEST_BATCH = 8  # patches that `auto_configure_training` puts into a batch by itself
KERNEL = 3  # voxels: the usual extent of a kernel
Choice = tuple[str, str, str]  # what the machine has or what was chosen for it: name, value, reason


def cpu_count(root: Path = CGROUPS, own: Path = OWN_CGROUP) -> int:
    """CPU cores that this process may use, at least 1.

    The least of its affinity and of the quotas of its cgroups (v2 or v1).
    """
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    else:
        cores = psutil.cpu_count()
    for folder in _cgroups("cpu", root, own):
        cores = min(cores, _cpu_quota(folder, cores))
    return max(1, cores)


def _cpu_quota(folder: Path, without_limit: int) -> int:
    """Whole cores that a cgroup allows."""
    words = _words(folder / "cpu.max")  # v2: QUOTA PERIOD, the quota "max" for no limit
    if not words:  # v1: a file each, the quota -1 for no limit
        words = _words(folder / "cpu.cfs_quota_us") + _words(folder / "cpu.cfs_period_us")
    if len(words) != 2 or words[0] in ("max", "-1"):
        return without_limit
    quota, period = map(int, words)
    return quota // period


def memory(root: Path = CGROUPS, own: Path = OWN_CGROUP) -> tuple[int, int]:
    """(limit, available) memory of this process in bytes, within the limits of its cgroups.

    The page cache counts as available, since the kernel gives it up when memory is asked for.
    """
    machine = psutil.virtual_memory()
    limit, available = machine.total, machine.available
    for folder in _cgroups("memory", root, own):
        for limit_file, usage_file in MEMORY_FILES:
            allowed, used = _words(folder / limit_file), _words(folder / usage_file)
            if allowed in ([], ["max"]) or used == []:
                continue
            unused = int(allowed[0]) - int(used[0]) + _page_cache(folder)
            limit = min(limit, int(allowed[0]))
            available = min(available, max(0, unused))
    return limit, available


def _page_cache(folder: Path) -> int:
    """Bytes of files that a cgroup holds in memory and has not used lately."""
    words = _words(folder / "memory.stat")  # NAME VALUE NAME VALUE ...
    stat = dict(zip(words[::2], words[1::2]))
    return int(stat.get("total_inactive_file", stat.get("inactive_file", 0)))


def _cgroups(controller: str, root: Path, own: Path) -> Iterator[Path]:
    """The folders of this process's cgroup and of those around it, each of which may set limits."""
    if not own.is_file():
        return
    for line in own.read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        tops = []
        if not controllers:  # v2 has one tree for all controllers
            tops = [root, root / "unified"]
        elif controller in controllers.split(","):
            tops = [root / controller]
        for top in tops:
            folder = top / path.strip("/")
            for candidate in (folder, *folder.parents):
                if candidate.is_relative_to(top):
                    yield candidate


def _words(file: Path) -> list[str]:
    """The words of a file, none of one that does not exist."""
    return file.read_text().split() if file.is_file() else []


def detect_gpu_info() -> dict[str, Any]:
    """The GPUs that torch can use.

    Returns:
        num_gpus; and for each GPU gpu_names, gpu_memory_gb (in units of 10^9 bytes) and
        compute_capabilities, (major, minor); total_memory_gb of all.
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
    """Cores and memory, as far as affinity and cgroups let this process use them.

    Returns:
        num_cpus (cores), num_logical_cpus (two for a core with hyper-threading), total_memory_gb
        and available_memory_gb, in units of 10^9 bytes.
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
    """The config fitted to this machine, with a table of what was chosen and why.

    - system.precision, workers and threads, where they are left open: as `choose_precision`,
      `choose_workers` and `choose_threads` say, for one process on each GPU.
    - loop.batch_size and optim.accumulate: see `batch_by_rule`. A batch becomes smaller or larger
      than the recipe's; where it becomes smaller, a step takes as many patches in more batches.

    `train.py --system.auto` measures the memory of real training steps instead.
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
    """(patches in a batch, batches a step, the reason), by a rule of thumb.

    A patch of 128 voxels a side takes 1 GB in half precision, 2 GB in fp32, and others in
    proportion to their voxels. On a GPU a batch takes at most 70 % of the memory of the smallest
    one, and 8 patches, or as many as the recipe says if those are more; it may be larger than the
    recipe's. On a CPU it takes at most 70 % of what is available, and is never made larger, since
    that makes a step longer by as much.
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
    """The command that trains on all GPUs of this machine; empty if this one uses all it has."""
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
    """The device of this rank; ValueError if a GPU is asked for and there is none."""
    import torch

    has_gpu = torch.cuda.is_available()
    require(
        has_gpu or system.device != "cuda",
        "a CUDA device for system.device 'cuda'",
        "a machine without one",
    )
    if has_gpu and system.device != "cpu":
        return torch.device("cuda", local_rank)
    return torch.device("cpu")


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
    """Loader processes of a rank: none on a CPU, whose cores train; with a GPU, its share of the
    cores but one, at most 8.
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

    All loader processes of a machine share a quarter of the available memory.
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
    """What the machine has, and what is chosen for a rank; coarsest as in choose_precision."""
    import torch

    def chosen(field: str, value, reason: str) -> Choice:
        is_open = getattr(system, field) in ("auto", None)
        return field, str(value), reason if is_open else "as set"

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
    choices += [
        chosen("device", device.type, "a GPU" if on_gpu else "no GPU that torch can use"),
        ("CPU cores", str(cpu_count()), f"what affinity and cgroups leave of {os.cpu_count()}"),
        (
            "memory",
            f"{limit / GIB:.1f} GiB",
            f"the least of machine and cgroups; {available / GIB:.1f} available",
        ),
        chosen("threads", threads, f"share of {local_ranks} ranks on this machine"),
        chosen("workers", workers, why_workers),
        chosen("precision", precision, reason),
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
