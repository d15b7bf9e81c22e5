"""Every registered network, and MONAI's MedNeXt: forward pass, training step, memory, parameters.

    python benchmarks/models.py                                     (all, 64^3 voxels, batch 1)
    python benchmarks/models.py --models mednext-S monai-MedNeXt-S --kernel 5 --repeats 10
    python benchmarks/models.py --device cuda --precision bf16 --size 128 --batch 4

Prints a table in Markdown. Networks are timed in turns, several rounds, the least time counts; the
training step is forward, BCE, backward and AdamW. On a CPU "computing" is the time that all threads
computed, divided by the threads, which other work on the machine disturbs less (set
OMP_WAIT_POLICY=passive, so that waiting does not count). Peak memory is that of one training step
above the bare process: of the device, or of a process of its own.
"""

import argparse
import gc
import resource
import subprocess
import sys
import time

import torch
import torch.nn.functional as F
from common import machine, print_table
from torch import nn

from pytc.config import ModelConfig
from pytc.hardware import PRECISIONS
from pytc.models import build_model, list_architectures

SIZES = "SBML"


def names() -> list[str]:
    """mednext in its published sizes, every other architecture, and MONAI's MedNeXt.

    mednext comes with and without checkpointing.
    """
    sizes = [f"mednext-{size}{end}" for size in SIZES for end in ("", "-checkpointed")]
    others = [name for name in list_architectures() if name != "mednext"]
    return sizes + others + [f"monai-MedNeXt-{size}" for size in SIZES]


def build(name: str, options: argparse.Namespace) -> nn.Module:
    """A network of 1 input and 6 output channels, by one of `names()`."""
    if name.startswith("monai-MedNeXt"):
        from monai.networks import nets

        return getattr(nets, f"MedNeXt{name[-1]}")(
            spatial_dims=3,
            in_channels=1,
            out_channels=6,
            kernel_size=options.kernel,
            deep_supervision=False,
        )
    architecture, *choices = name.split("-")
    style = "outside_block" if "checkpointed" in choices else "none"
    size = choices[0] if choices else "S"
    return build_model(
        ModelConfig(
            architecture,
            mednext_size=size,
            kernel_size=options.kernel,
            checkpoint_style=style,
            image_size=(options.size,) * 3,
        ),
        quiet=True,
    )


class Case:
    """A network with its optimizer and data, on the device."""

    def __init__(self, name: str, options: argparse.Namespace):
        torch.manual_seed(0)
        self.device, self.precision = options.device, getattr(torch, PRECISIONS[options.precision])
        self.model = build(name, options).to(self.device)
        self.parameters = sum(p.numel() for p in self.model.parameters())
        self.optimizer = torch.optim.AdamW(self.model.parameters(), 1e-3)
        self.call = torch.compile(self.model) if options.compile else self.model
        self.x = torch.randn(options.batch, 1, *[options.size] * 3, device=self.device)
        self.target = (
            torch.rand(options.batch, 6, *[options.size] * 3, device=self.device) > 0.5
        ).float()

    def autocast(self) -> torch.autocast:
        return torch.autocast(self.device, self.precision, enabled=self.precision != torch.float32)

    def infer(self) -> None:
        self.model.eval()
        with torch.inference_mode(), self.autocast():
            self.call(self.x)

    def train(self) -> None:
        self.model.train()
        with self.autocast():
            logits = self.call(self.x)
        # MONAI's MedNeXt in training: a list
        logits = logits[0] if isinstance(logits, (list, tuple)) else logits
        self.optimizer.zero_grad()
        F.binary_cross_entropy_with_logits(logits.float(), self.target).backward()
        self.optimizer.step()

    def time(self, call) -> tuple[float, float]:
        """Milliseconds by the clock, and milliseconds of computing by each thread."""
        if self.device == "cuda":
            torch.cuda.synchronize()
        start, computed = time.perf_counter(), time.process_time()
        call()
        if self.device == "cuda":
            torch.cuda.synchronize()
        threads = torch.get_num_threads()
        return 1000 * (time.perf_counter() - start), 1000 * (
            time.process_time() - computed
        ) / threads


def peak_mib(name: str, options: argparse.Namespace) -> float:
    """MiB of a training step, with weights, gradients and the optimizer's state.

    It is measured on the step after one that warms up.
    """
    if options.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        case = Case(name, options)
        case.train()
        case.train()
        return torch.cuda.max_memory_allocated() / 2**20
    command = [
        sys.executable,
        __file__,
        "--memory-of",
        name,
        "--size",
        str(options.size),
        "--batch",
        str(options.batch),
        "--kernel",
        str(options.kernel),
        "--precision",
        options.precision,
    ]
    return float(
        subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1]
    )


def own_peak_mib(name: str, options: argparse.Namespace) -> float:
    if name.startswith("monai"):
        build(name, options)  # the import of MONAI is no memory of a network
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    case = Case(name, options)
    case.train()
    case.train()
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--models", nargs="+", default=names(), help="by default all: " + ", ".join(names())
    )
    parser.add_argument("--size", type=int, default=64, help="edge of the image in voxels")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--kernel", type=int, default=3, help="depthwise kernel of MedNeXt")
    parser.add_argument(
        "--device", choices=("cpu", "cuda"), default="cuda" if torch.cuda.is_available() else "cpu"
    )
    parser.add_argument("--precision", choices=tuple(PRECISIONS), default="fp32")
    parser.add_argument(
        "--compile", action="store_true", help="torch.compile; memory is measured without"
    )
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--memory-of", help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    options = parse()
    if options.memory_of:
        print(own_peak_mib(options.memory_of, options))
        return
    for name in options.models:
        if name not in names():
            raise ValueError(f"expected models from {', '.join(names())}, got {name!r}")
    device = (
        torch.cuda.get_device_name()
        if options.device == "cuda"
        else f"{torch.get_num_threads()} torch threads"
    )
    print(
        machine(
            ("torch", "monai"),
            f"{device}, {options.size}^3 voxels, batch {options.batch}, {options.precision}"
            f"{', compiled' if options.compile else ''}, kernel {options.kernel}, "
            f"{options.repeats} rounds",
        )
    )
    peaks = [peak_mib(name, options) for name in options.models]
    cases = [Case(name, options) for name in options.models]
    times = [([], []) for _ in cases]
    for _ in range(options.repeats + 1):
        for case, (forward, step) in zip(cases, times):
            forward.append(case.time(case.infer))
            step.append(case.time(case.train))
            case.optimizer.zero_grad()
            gc.collect()
    rows = []
    for name, case, peak, columns in zip(options.models, cases, peaks, times):
        # The first round warms up. By the clock, then by computing.
        (forward, forward_computed), (step, step_computed) = (
            map(min, zip(*column[1:])) for column in columns
        )
        rows.append(
            (
                name,
                f"{forward:.0f}",
                f"{forward_computed:.0f}",
                f"{step:.0f}",
                f"{step_computed:.0f}",
                f"{1000 * options.batch / step:.2f}",
                f"{peak:.0f}",
                f"{case.parameters:,}",
            )
        )
    print_table(
        (
            "",
            "forward, ms",
            "computing",
            "training step, ms",
            "computing",
            "samples/s in training",
            "peak MiB in training",
            "parameters",
        ),
        rows,
    )


if __name__ == "__main__":
    main()
