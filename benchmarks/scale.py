"""A volume larger than the memory it is given: infer.py and evaluate.py, step by step.

    python benchmarks/scale.py whole --size 1000 --memory 2
    python benchmarks/scale.py decode --size 512 --repeats 3
    python benchmarks/scale.py engines --size 512 --repeats 3

whole: an image of --size voxels along each axis goes through predict (a network of one 1 x 1 x 1
convolution), fragments, graph, segmentation and evaluation, within --memory GB (a cgroup; Linux, as
root). Prints the time of each step, and the peak of the resident memory of all its processes.
decode: stored affinities to stored labels, in memory and by blocks, beside reading and copying.
engines: blocks in threads against one after the other with each kernel in one thread, beside
    copying blocks, in which tensorstore has threads in any case; and what a block costs that does
    nothing.
"""

import argparse
import contextlib
import io
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from statistics import median
from unittest.mock import patch

import numpy as np
import psutil
from common import TILE, machine, print_table, synthetic_affinities, synthetic_tissue

from pytc.blocks import Manifest, map_blocks
from pytc.config import (
    SHORT_AND_LONG,
    Config,
    DataConfig,
    ModelConfig,
    SegmentationConfig,
    SystemConfig,
    TargetConfig,
)
from pytc.geometry import Box, blocks
from pytc.io.volume import Volume, create_volume, open_volume
from pytc.runs import write_json
from pytc.segmentation import block_tree, blockwise
from pytc.segmentation.blockwise import segment_volume
from pytc.segmentation.compiled import thread_count

ROOT = Path(__file__).parent.parent
GROUPS = Path("/sys/fs/cgroup/memory/pytc_scale"), Path("/sys/fs/cgroup/pytc_scale")
PLUGIN = '''
import torch
from torch import nn

from pytc.models import register_architecture
from pytc.models.base import ConnectomicsModel


@register_architecture("pointwise")
class Pointwise(ConnectomicsModel):
    """An affinity is high where the image is bright: a network of one convolution."""

    def __init__(self, config):
        super().__init__()
        self.conv = nn.Conv3d(config.in_channels, config.out_channels, 1)
        nn.init.constant_(self.conv.weight, 60.0)
        nn.init.constant_(self.conv.bias, -33.0)

    def forward(self, x):
        return self.conv(x)
'''


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("whole", "decode", "engines"))
    parser.add_argument("--size", type=int, default=512, help="voxels along each axis")
    parser.add_argument("--memory", type=float, default=2.0, help="GB (10^9 bytes) to use")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--folder", type=Path, default=Path("scale"), help="where data is made")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    volume = f"{options.size} voxels along each axis"
    print(machine(("torch", "numba", "tensorstore"), volume))
    if options.what == "whole":
        whole(options.folder.resolve(), options.size, options.memory)
    elif options.what == "decode":
        decode(options.folder.resolve(), options.size, options.repeats)
    else:
        engines(options.folder.resolve(), options.size, options.repeats)


def whole(folder: Path, size: int, memory: float) -> None:
    make_image(folder, size)
    run = make_run(folder)
    steps = Steps(memory)
    infer = [
        *(sys.executable, str(ROOT / "infer.py"), "--run", str(run)),
        *("--plugins", str(folder / "pointwise.py")),
        *("--input", str(folder / "image.zarr"), "--labels", str(folder / "labels.zarr")),
        *("--output", str(folder / "results"), "--segmentation.method", "agglomeration"),
    ]
    results = folder / "results"
    shutil.rmtree(results, ignore_errors=True)
    steps.follow(infer)
    evaluate = [
        *(sys.executable, str(ROOT / "evaluate.py"), "--sweep", "--method", "agglomeration"),
        *("--affinities", str(results / "affinities.zarr")),
        *("--labels", str(folder / "labels.zarr"), "--output", str(folder / "scores")),
    ]
    steps.follow(evaluate)
    rows = [
        [name, f"{seconds:.0f}", f"{seconds / size**3 * 1e9:.0f}", f"{peak / 1e9:.2f}"]
        for name, (seconds, peak) in steps.found.items()
    ]
    print_table(["step", "s", "ns a voxel", "peak resident, GB"], rows)
    print("limit:", "a cgroup" if steps.group else "none, as no cgroup can be made here")


class Steps:
    """Time and peak memory of commands; a step ends with the last line that it prints."""

    def __init__(self, memory: float):
        self.found: dict[str, tuple[float, int]] = {}
        self.group = limited_group(int(memory * 1e9))

    def follow(self, command: list[str]) -> None:
        """Run a command to its end; it must succeed."""
        name = Path(command[1]).stem
        environment = os.environ | {"OMP_WAIT_POLICY": "passive"}
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, text=True, env=environment, preexec_fn=self._enter
        )
        peaks = [0]  # since the last line
        ended = threading.Event()
        sampler = threading.Thread(target=self._sample, args=(process.pid, peaks, ended))
        sampler.start()
        last = time.perf_counter()
        for line in process.stdout:
            print(line, end="", flush=True)
            step = f"{name}: {step_of(line)}"
            now = time.perf_counter()
            seconds, peak = self.found.get(step, (0.0, 0))
            self.found[step] = seconds + now - last, max(peak, *peaks)
            last = now
            peaks[:] = [0]
        ended.set()
        sampler.join()
        if process.wait():
            raise SystemExit(f"{' '.join(command)} failed with {process.returncode}")

    def _enter(self) -> None:
        if self.group:
            (self.group / "cgroup.procs").write_text(str(os.getpid()))

    def _sample(self, pid: int, peaks: list[int], ended: threading.Event) -> None:
        while not ended.wait(0.05):
            peaks.append(resident(pid))


def step_of(line: str) -> str:
    """The step that a line of progress belongs to, such as "fragments 3/64 blocks, ..."."""
    words = line.split()
    is_progress = len(words) > 2 and words[1].replace("/", "").isdigit()
    return words[0] if is_progress else "other"


def resident(pid: int) -> int:
    """Bytes of a process and of all that it started."""
    total = 0
    with contextlib.suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        for each in (process, *process.children(recursive=True)):
            with contextlib.suppress(psutil.NoSuchProcess):
                total += each.memory_info().rss
    return total


def limited_group(limit: int) -> Path | None:
    """A cgroup with a limit of memory; None where none can be made."""
    for group, name in zip(GROUPS, ("memory.limit_in_bytes", "memory.max")):
        if not (group.parent / "cgroup.procs").is_file():
            continue
        try:
            group.mkdir(exist_ok=True)
            (group / name).write_text(str(limit))
        except OSError:
            continue
        return group
    return None


def make_image(folder: Path, size: int) -> None:
    """Bright neurites with dark membranes, uint8, and their labels: one tile again and again."""
    if (folder / "labels.zarr").exists():
        return
    labels, _ = synthetic_tissue(TILE, 0)
    inside = np.ones(labels.shape, bool)
    for axis in range(3):
        border = np.moveaxis(labels, axis, 0)[1:] != np.moveaxis(labels, axis, 0)[:-1]
        np.moveaxis(inside, axis, 0)[1:] &= ~border
        np.moveaxis(inside, axis, 0)[:-1] &= ~border
    noise = np.random.default_rng(0).normal(0, 15, labels.shape)
    image = np.clip(np.where(inside, 200, 90) + noise, 0, 255).astype(np.uint8)
    shape = (size,) * 3
    stored = {
        name: create_volume(
            folder / f"{name}.zarr", shape, dtype, voxel_size=(10, 10, 10), overwrite=True,
            chunks=(50,) * 3,
        )
        for name, dtype in (("image", np.uint8), ("labels", np.uint32))
    }  # fmt: skip
    for number, box in enumerate(blocks(shape, labels.shape)):
        part = tuple(map(slice, box.shape))
        stored["image"][box.slices] = image[part]
        stored["labels"][box.slices] = labels[part] + number * labels.max()


def make_run(folder: Path) -> Path:
    """A run whose checkpoint is the pointwise network."""
    from pytc.models import build_model
    from pytc.models.checkpoint import FORMAT, save_checkpoint
    from pytc.python_files import load_plugins

    (folder / "pointwise.py").write_text(PLUGIN)
    load_plugins((str(folder / "pointwise.py"),))
    config = Config(
        name="pointwise",
        data=DataConfig(patch_size=(64, 64, 64)),
        target=TargetConfig(offsets=SHORT_AND_LONG),
        model=ModelConfig("pointwise", out_channels=6),
        system=SystemConfig(device="cpu", precision="fp32"),
        plugins=(str(folder / "pointwise.py"),),
    )
    run = folder / "runs" / "pointwise"
    (run / "checkpoints").mkdir(parents=True, exist_ok=True)
    state = {"format": FORMAT, "config": asdict(config), "step": 1, "average": None}
    state["model"] = build_model(config.model).state_dict()
    for name in ("last", "best"):
        save_checkpoint(run / "checkpoints" / f"{name}.pt", state)
    write_json(run / "config.json", asdict(config))
    return run


def decode(folder: Path, size: int, repeats: int) -> None:
    calls = routes(make_affinities(folder / f"affinities-{size}.zarr", size), folder)
    times: dict[str, list[float]] = {}
    for repeat in range(1 + repeats):
        if repeat < 2:  # before the second one, code was compiled
            times = {name: [] for name in calls}
        for name, call in calls.items():
            start = time.perf_counter()
            with contextlib.redirect_stdout(io.StringIO()):
                call()
            times[name].append(time.perf_counter() - start)
    reading = times["three channels read"]
    rows = [
        [
            name,
            f"{median(each):.2f}",
            f"{median(each) / size**3 * 1e9:.1f}",
            f"{median(np.divide(each, reading)):.1f}",
        ]
        for name, each in times.items()
    ]
    print_table(["route", "s", "ns a voxel", "times reading"], rows)


def make_affinities(path: Path, size: int) -> Volume:
    """Six stored channels; the long ones are but of the size of long ones."""
    if not path.exists():
        labels, _ = synthetic_tissue(size, 0)
        short = synthetic_affinities(labels, 0)
        with create_volume(
            path, (6, *labels.shape), np.float16, attributes={"offsets": SHORT_AND_LONG}
        ) as volume:
            for channel in range(6):
                volume[channel] = short[channel % 3]
    return open_volume(path)


def routes(affinities: Volume, folder: Path) -> dict[str, Callable[[], None]]:
    """Each way from stored affinities to stored labels, by its name; then reading and copying."""
    target = folder / "s.zarr"
    components = SegmentationConfig(0.7, 100, "components")

    def whole(config: SegmentationConfig) -> None:
        segment_volume(affinities, target, config)

    def by_blocks(config: SegmentationConfig, engine: str) -> None:
        with patch.object(blockwise, "fits_in_memory", lambda *_: False):
            segment_volume(affinities, target, config, engine=engine)

    def copy() -> None:
        labels = open_volume(target)
        copied = create_volume(folder / "copy.zarr", labels.shape, labels.dtype, overwrite=True)
        for box in blocks(labels.shape, (256, 256, 256)):
            copied[box.slices] = labels[box.slices]

    def read() -> None:
        for box in blocks(affinities.spatial_shape, (256, 256, 256)):
            affinities.read_box(box, (0, 1, 2))

    made: dict[str, Callable[[], None]] = {}
    for method in ("components", "agglomeration"):
        config = replace(components, method=method)
        made[f"{method}, in one piece"] = partial(whole, config)
        for engine in ("threads", "serial"):
            made[f"{method}, blocks, {engine}"] = partial(by_blocks, config, engine)
    return made | {
        "labels read and written": copy,
        "three channels read into memory of tensorstore's": partial(
            read_by_tensorstore, affinities
        ),
        "three channels read": read,
    }


def read_by_tensorstore(affinities: Volume) -> None:
    for box in blocks(affinities.spatial_shape, (256, 256, 256)):
        np.asarray(affinities.handle.array[slice(3), *box.slices])


def engines(folder: Path, size: int, repeats: int) -> None:
    affinities = make_affinities(folder / f"affinities-{size}.zarr", size)
    calls = by_engines(affinities, folder)
    times: dict[tuple[str, str], list[float]] = {key: [] for key in calls}
    for repeat in range(1 + repeats):
        for key, call in calls.items():
            start = time.perf_counter()
            with contextlib.redirect_stdout(io.StringIO()):
                call()
            if repeat > 0:  # before, code was compiled
                times[key].append(time.perf_counter() - start)
    rows = []
    for name in dict(calls):
        if name[1] == "serial":
            serial, threads = times[name], times[name[0], "threads"]
            ratio = median(np.divide(serial, threads))
            rows.append(
                (name[0], f"{median(serial):.2f}", f"{median(threads):.2f}", f"{ratio:.2f}")
            )
    print_table(("by blocks", "serial, s", "threads, s", "serial / threads"), rows)
    print()
    costs = [
        (engine, *(f"{1e3 * seconds_a_block(engine, folder, seen):.2f}" for seen in (True, False)))
        for engine in ("serial", "threads", "dask:local:1", "dask:local:2")
    ]
    print_table(("engine", "ms a block that does nothing", "without a manifest"), costs)


def by_engines(affinities: Volume, folder: Path) -> dict[tuple[str, str], Callable[[], object]]:
    """Each work by blocks, by its name and engine; with serial every kernel has one thread."""
    target = folder / "s.zarr"
    grid = blocks(affinities.spatial_shape, blockwise.BLOCK)

    def one_thread(*_: object) -> block_tree.Workers:
        return block_tree.Workers(1, 1)

    def segmented(config: SegmentationConfig, engine: str) -> None:
        with contextlib.ExitStack() as stack:
            if engine == "serial":
                for module in (blockwise, block_tree):
                    stack.enter_context(patch.object(module, "free_workers", one_thread))
            segment_volume(affinities, target, config, engine=engine, block=blockwise.BLOCK)

    def copied(engine: str) -> None:
        shape = affinities.shape
        copy = create_volume(folder / "copy.zarr", shape, affinities.dtype, overwrite=True)

        def step(box: Box) -> None:
            copy[box.channel_slices] = affinities[box.channel_slices]

        map_blocks(step, grid, engine=engine, workers=thread_count())

    made: dict[tuple[str, str], Callable[[], object]] = {}
    for engine in ("serial", "threads"):
        for method in ("components", "agglomeration"):
            config = SegmentationConfig(0.7, 100, method)
            made[method, engine] = partial(segmented, config, engine)
        made["affinities read and written", engine] = partial(copied, engine)
    return made


def seconds_a_block(engine: str, folder: Path, with_manifest: bool) -> float:
    """What a block costs beside its step: the difference of many and few, so no start counts."""

    def taken(count: int) -> float:
        manifest = None
        if with_manifest:
            manifest = Manifest(folder / "manifest", str(count))
            shutil.rmtree(folder / "manifest", ignore_errors=True)
        boxes = [Box((0, 0, n), (1, 1, n + 1)) for n in range(count)]
        start = time.perf_counter()
        with contextlib.redirect_stdout(io.StringIO()):
            map_blocks(do_nothing, boxes, manifest=manifest, engine=engine, workers=thread_count())
        return time.perf_counter() - start

    few, many = 100, 1100
    return (taken(many) - taken(few)) / (many - few)


def do_nothing(box: Box) -> None:
    """A step."""


if __name__ == "__main__":
    main()
