"""Prediction by windows against MONAI's sliding_window_inference, with a network that costs little.

    OMP_WAIT_POLICY=passive python benchmarks/inference.py [--size 250] [--repeats 7]

The networks make 6 channels of 1, voxel by voxel, so what is measured is the way from an image to
blended affinities: windows of 64^3, half overlap. `Conv3d` is torch's convolution 1x1x1, whose time
depends on what oneDNN makes of it; `product` is a product with 6 numbers, and costs next to
nothing. pytc reads a Zarr array and writes another, float16 and compressed; MONAI has the image in
memory and leaves its result there, or it reads and writes the same arrays as pytc. All take turns,
and medians are printed, by the clock and in time that all threads spent computing, with the median
of the ratios turn by turn to MONAI in memory.
"""

import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median

import numpy as np
import torch
from common import machine, parser, print_table
from monai.inferers import sliding_window_inference

from pytc.config import InferenceConfig, Triple
from pytc.inference.flips import Network
from pytc.inference.predict import predict_volume
from pytc.io.intensity import UINT8
from pytc.io.volume import create_volume, open_volume

CHANNELS = 6
CPU = torch.device("cpu")


def main() -> None:
    arguments = parser(__doc__, size=250, repeats=7)
    arguments.add_argument("--window", type=int, default=64, help="voxels along each axis")
    arguments.add_argument("--batch", type=int, default=2, help="windows predicted at once")
    arguments.add_argument("--threads", type=int, default=2)
    arguments.add_argument("--block", type=int, help="voxels along each axis; by default as infer")
    given = arguments.parse_args()
    torch.set_num_threads(given.threads)
    torch.manual_seed(given.seed)
    factors = torch.randn(1, CHANNELS, 1, 1, 1)
    networks = {
        "Conv3d": torch.nn.Conv3d(1, CHANNELS, 1).eval().requires_grad_(False),
        "product": partial(torch.mul, factors),
    }
    window = (given.window,) * 3
    shape = (given.size,) * 3
    pixels = np.random.default_rng(given.seed).integers(0, 256, shape, np.uint8)
    print(machine(("torch", "monai", "tensorstore"), f"{given.size}^3 voxels"))
    settings = InferenceConfig(batch_size=given.batch, blending="gaussian", activation_scale=1.0)
    if given.block:
        settings = replace(settings, block=(given.block,) * 3)
    tensor = torch.from_numpy(pixels[None, None].astype(np.float32) / 255)
    with tempfile.TemporaryDirectory() as folder:
        image, output = Path(folder) / "image.zarr", Path(folder) / "affinities.zarr"
        with create_volume(image, shape, pixels.dtype) as volume:
            volume[...] = pixels
        calls: dict[str, Callable[[], object]] = {}
        for name, network in networks.items():
            of_pytc = partial(predicted_by_pytc, network, image, output, window, settings)
            of_monai = partial(predicted_by_monai, network, tensor, window, given.batch)
            alone = partial(every_window, network, tensor, window, given.batch)
            calls[f"{name}: MONAI, in memory"] = of_monai
            calls[f"{name}: pytc, from Zarr to Zarr"] = of_pytc
            calls[f"{name}: MONAI, from Zarr to Zarr"] = partial(
                from_zarr_by_monai, network, image, Path(folder) / "m.zarr", window, given.batch
            )
            calls[f"{name}: the network alone"] = alone
        of_pytc()
        values = open_volume(output)[...]
        calls["writing the affinities alone"] = partial(written, Path(folder) / "w.zarr", values)
        times = in_turns(calls, given.repeats)
        difference = largest_difference(of_monai(), values)
    header = ("", "ns a voxel", "times MONAI's", "computing, ns a voxel", "times MONAI's")
    rows = []
    for name, each in times.items():
        of_network = name.partition(":")[0]
        of_monai_times = times.get(f"{of_network}: MONAI, in memory", times[next(iter(times))])
        cells = [name]
        for mine, other in zip(each, of_monai_times):
            ratio = median(a / b for a, b in zip(mine, other))
            cells += [f"{median(mine) / given.size**3 * 1e9:.0f}", f"{ratio:.2f}"]
        if of_network == name:
            cells[2] = cells[4] = ""
        rows.append(tuple(cells))
    print_table(header, rows)
    print(f"\nlargest difference of an affinity from MONAI's: {difference:.1e}")


def predicted_by_pytc(
    network: Network, image: Path, output: Path, window: Triple, settings: InferenceConfig
) -> None:
    shutil.rmtree(output, ignore_errors=True)
    predict_volume(
        network,
        open_volume(image),
        output,
        grey_range=UINT8,
        channels=CHANNELS,
        window=window,
        config=settings,
        activation="sigmoid",
        device=CPU,
        attributes={},
        key="benchmark",
    )


def predicted_by_monai(
    network: Network, image: torch.Tensor, window: Triple, batch: int
) -> torch.Tensor:
    with torch.inference_mode():
        return sliding_window_inference(
            image, window, batch, network, overlap=0.5, mode="gaussian", sigma_scale=0.125
        )


def from_zarr_by_monai(
    network: Network, image: Path, output: Path, window: Triple, batch: int
) -> None:
    """As a user of MONAI would do it: read, grey values to 0 to 1, predict, sigmoid, write."""
    pixels = torch.from_numpy(open_volume(image)[...]).float().div_(255)
    logits = predicted_by_monai(network, pixels[None, None], window, batch)[0]
    with torch.inference_mode():
        affinities = logits.sigmoid_().half().numpy()
    written(output, affinities)


def every_window(network: Network, image: torch.Tensor, window: Triple, batch: int) -> None:
    """As many calls as a prediction makes, of one batch, and nothing else."""
    along = (-(-(n - w) // (w // 2)) + 1 for n, w in zip(image.shape[2:], window))
    calls = -(-int(np.prod(list(along))) // batch)
    patches = image[:, :, *(slice(w) for w in window)].repeat(batch, 1, 1, 1, 1)
    with torch.inference_mode():
        for _ in range(calls):
            network(patches)


def written(path: Path, values: np.ndarray) -> None:
    with create_volume(path, values.shape, values.dtype, overwrite=True) as volume:
        volume[...] = values


def in_turns(
    calls: dict[str, Callable[[], object]], repeats: int
) -> dict[str, tuple[list[float], list[float]]]:
    """(seconds by the clock, seconds of computing) of each call, after one that warms up."""
    times: dict[str, tuple[list[float], list[float]]] = {name: ([], []) for name in calls}
    for turn in range(repeats + 1):
        for name, call in calls.items():
            clock, computing = time.perf_counter(), time.process_time()
            call()
            if turn > 0:
                times[name][0].append(time.perf_counter() - clock)
                times[name][1].append(time.process_time() - computing)
    return times


def largest_difference(logits: torch.Tensor, affinities: np.ndarray) -> float:
    stored = torch.from_numpy(affinities.astype(np.float32))
    return float((torch.sigmoid(logits[0]) - stored).abs().max())


if __name__ == "__main__":
    main()
