"""Memory layouts of 3-D networks: layers, MedNeXt S and the U-Net, forward and training step, fp32.

    python benchmarks/layout.py            (on the CPU, or on a GPU if there is one)

Prints a table in Markdown. Each number is the fastest of several calls, in ms a sample; on a CPU
with --cpu-time the time all threads spent computing, divided by the threads, for machines that
others use too (set OMP_WAIT_POLICY=passive with it, so that waiting does not count).
"""

import argparse
import platform
import time

import torch
from torch import nn

from pytc.config import ModelConfig
from pytc.models import build_model
from pytc.models.layers import InstanceNorm

LAYOUTS = {"default": torch.contiguous_format, "channels-last": torch.channels_last_3d}
SIZE = 48
# Name, layer, input channels, and batch size.
LAYERS = [
    ("depthwise 3x3x3, 32 channels", lambda: nn.Conv3d(32, 32, 3, padding=1, groups=32), 32, 1),
    ("depthwise 5x5x5, 32 channels", lambda: nn.Conv3d(32, 32, 5, padding=2, groups=32), 32, 1),
    ("1x1x1, 32 to 64 channels", lambda: nn.Conv3d(32, 64, 1), 32, 1),
    ("dense 3x3x3, 32 channels", lambda: nn.Conv3d(32, 32, 3, padding=1), 32, 1),
    (
        "the same at 24^3, batch 1",
        lambda: nn.Sequential(nn.MaxPool3d(2), nn.Conv3d(32, 32, 3, padding=1)),
        32,
        1,
    ),
    (
        "the same at 24^3, batch 2",
        lambda: nn.Sequential(nn.MaxPool3d(2), nn.Conv3d(32, 32, 3, padding=1)),
        32,
        2,
    ),
    ("nn.GroupNorm(32, 32)", lambda: nn.GroupNorm(32, 32), 32, 1),
    ("nn.InstanceNorm3d(32)", lambda: nn.InstanceNorm3d(32, affine=True), 32, 1),
    ("pytc InstanceNorm(32)", lambda: InstanceNorm(32), 32, 1),
]
NETWORKS = [
    ("mednext S, kernel 3", ModelConfig(), 1),
    ("mednext S, kernel 3, batch 2", ModelConfig(), 2),
    ("unet 16, 32, 64, 128", ModelConfig("unet", features=(16, 32, 64, 128)), 1),
    ("unet 16, 32, 64, 128, batch 2", ModelConfig("unet", features=(16, 32, 64, 128)), 2),
    ("monai_basic_unet3d, batch 2", ModelConfig("monai_basic_unet3d"), 2),
]


def fastest(call, clock, repeats: int) -> float:
    """Milliseconds of the fastest call, the first one (which warms up) not counted."""
    times = []
    for _ in range(repeats + 1):
        start = clock()
        call()
        times.append(clock() - start)
    return 1000 * min(times[1:])


def measure(module: nn.Module, x: torch.Tensor, clock, repeats: int) -> tuple[float, float]:
    """Milliseconds a sample of the forward pass without gradients, and of forward and backward."""

    def infer():
        with torch.no_grad():
            module(x)

    # in the layout of the output, as from a convolution behind it
    gradient = torch.randn_like(module(x).detach())

    def train():
        module.zero_grad()
        module(x).backward(gradient)

    return fastest(infer, clock, repeats) / len(x), fastest(train, clock, repeats) / len(x)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cpu-time", action="store_true", help="count computing time, not waiting")
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"

    def clock() -> float:
        if options.cpu_time:
            return time.process_time() / torch.get_num_threads()
        if device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    machine = (
        torch.cuda.get_device_name()
        if device == "cuda"
        else f"CPU, {torch.get_num_threads()} threads"
    )
    print(
        f"{machine}, torch {torch.__version__}, Python {platform.python_version()}, "
        f"{SIZE}^3 voxels, ms a sample\n"
    )
    print(
        "| | "
        + " | ".join(f"{layout}, {step}" for layout in LAYOUTS for step in ("forward", "training"))
        + " |"
    )
    print("|---" * (1 + 2 * len(LAYOUTS)) + "|")
    cases = [(name, make, channels, batch) for name, make, channels, batch in LAYERS]
    cases += [
        (name, lambda config=config: build_model(config, quiet=True), 1, batch)
        for name, config, batch in NETWORKS
    ]
    for name, make, channels, batch in cases:
        times = []
        for layout in LAYOUTS.values():
            module = make().to(device, memory_format=layout)
            module.memory_format = layout
            x = torch.randn(batch, channels, SIZE, SIZE, SIZE, device=device).contiguous(
                memory_format=layout
            )
            times += measure(module, x.requires_grad_(channels > 1), clock, options.repeats)
        print(f"| {name} | " + " | ".join(f"{time:.1f}" for time in times) + " |", flush=True)


if __name__ == "__main__":
    main()
