"""What a run tells: a progress bar on a terminal, plain lines elsewhere, log.jsonl and TensorBoard always."""

from __future__ import annotations

import json
import math
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import psutil
import torch
from rich.progress import TextColumn
from torch.utils.tensorboard import SummaryWriter

from pytc.progress import bar, rate_and_rest


class Monitor:
    """The voice of a run; on ranks other than the main one, silent."""

    def __init__(self, run: Path, first_step: int, max_steps: int, *, is_main: bool):
        self.is_main, self.max_steps = is_main, max_steps
        self.started, self.first_step = time.perf_counter(), first_step
        if not is_main:
            return
        self.log_path = run / "log.jsonl"
        _forget_after(self.log_path, first_step)
        self.log_file = open(self.log_path, "a", buffering=1)
        self.board = SummaryWriter(str(run), purge_step=first_step + 1)
        self.bar = bar("training", TextColumn("{task.fields[note]}")) if sys.stdout.isatty() else None
        if self.bar:
            self.task = self.bar.add_task("", total=max_steps, completed=first_step, note="")
            self.bar.start()

    def say(self, line: str) -> None:
        if not self.is_main:
            return
        if self.bar:
            self.bar.console.print(line, highlight=False, markup=False, soft_wrap=True)
        else:
            print(line, flush=True)

    def progress(self, step: int, loss: float, samples_per_second: float) -> None:
        """Show that `step` steps are done."""
        if not self.is_main:
            return
        if self.bar:
            self.bar.update(self.task, completed=step, note=f"loss {loss:.4f}, {samples_per_second:.3g} samples/s")
        else:
            seconds, steps = time.perf_counter() - self.started, step - self.first_step
            left = rate_and_rest(seconds, steps, self.max_steps - self.first_step, "steps")
            self.say(f"step {step}/{self.max_steps}, loss {loss:.4f}, {samples_per_second:.3g} samples/s, {left}")

    def record(self, step: int, figures: dict[str, float]) -> None:
        """Append figures to log.jsonl, null where they are not finite, and TensorBoard."""
        if not self.is_main:
            return
        self.log(step, {name: round(float(value), 8) if math.isfinite(value) else None
                        for name, value in figures.items()})
        for name, value in figures.items():
            self.board.add_scalar(name, value, step)

    def log(self, step: int, content: dict) -> None:
        self.log_file.write(json.dumps({"step": step, "time": round(time.time(), 3), **content}) + "\n")

    def skipped(self, step: int, loss: float, norm: float, samples: list[tuple[int, int, int]]) -> None:
        """Log and say that step number `step` (from 0) is not taken, and the (seed, step, index) of its samples."""
        if not self.is_main:
            return
        self.log(step + 1, {"skipped": samples, "loss": str(loss), "gradient_norm": str(norm)})
        _, at, index = samples[0]
        self.say(f"step {step + 1} is skipped: loss {loss}, gradient norm {norm}; {len(samples)} suspect samples, the "
                 f"first by python -m pytc.data.replay --run {self.log_path.parent} --step {at} --index {index}")

    def panel(self, step: int, image: torch.Tensor, target: torch.Tensor, valid: torch.Tensor,
              logits: torch.Tensor) -> None:  # fmt: skip
        """A picture in TensorBoard: image, target, prediction and, where it is known, error; each (B, C, Z, Y, X).

        Of the first sample the first channel's middle slice; the target is in [0, 1].
        """
        if not self.is_main:
            return
        prediction = torch.sigmoid(logits)
        volumes = (image, target, prediction, (prediction - target.float()).abs() * valid)
        slices = [v[0, 0, v.shape[2] // 2].detach().float().nan_to_num().clamp(0, 1).cpu().numpy() for v in volumes]
        picture = np.concatenate(slices, axis=1)
        self.board.add_image("image | target | prediction | error", picture, step, dataformats="HW")

    def close(self) -> None:
        if not self.is_main:
            return
        if self.bar:
            self.bar.stop()
        self.log_file.close()
        self.board.close()


class Clock:
    """How fast steps are taken, and which share of the time they wait for the loader."""

    def __init__(self, samples_per_step: int):
        self.samples_per_step = samples_per_step
        self.restart()

    def restart(self) -> None:
        self.started, self.waited, self.steps = time.perf_counter(), 0.0, 0

    @contextmanager
    def waiting(self):
        """Around a wait for data."""
        started = time.perf_counter()
        yield
        self.waited += time.perf_counter() - started

    def step(self) -> None:
        self.steps += 1

    def figures(self) -> dict[str, float]:
        """Samples per second and the waiting share since the last call, which starts anew."""
        seconds = time.perf_counter() - self.started
        figures = {"train/samples_per_second": self.steps * self.samples_per_step / seconds,
                   "train/data_wait": self.waited / seconds}  # fmt: skip
        self.restart()
        return figures


def memory_figures(device: torch.device) -> dict[str, float]:
    """Memory in GiB: the peak on the GPU since the last call, or what the process holds on a CPU."""
    if device.type == "cpu":
        return {"train/memory_gib": psutil.Process().memory_info().rss / 2**30}
    peak = torch.cuda.max_memory_allocated(device) / 2**30
    torch.cuda.reset_peak_memory_stats(device)
    return {"train/memory_gib": peak}


def _forget_after(log: Path, step: int) -> None:
    """Drop the lines of steps that a resumed run will take again."""
    if log.exists():
        whole = [line for line in log.read_text().splitlines() if line.endswith("}")]
        log.write_text("".join(line + "\n" for line in whole if json.loads(line)["step"] <= step))
