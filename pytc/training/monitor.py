"""What a run tells: a progress bar on a terminal, plain lines elsewhere, log.jsonl and TensorBoard always."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import numpy as np
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
        """Append figures to log.jsonl and TensorBoard."""
        if not self.is_main:
            return
        figures = {name: round(float(value), 8) for name, value in figures.items()}
        self.log_file.write(json.dumps({"step": step, "time": round(time.time(), 3), **figures}) + "\n")
        for name, value in figures.items():
            self.board.add_scalar(name, value, step)

    def panel(self, step: int, image: torch.Tensor, target: torch.Tensor, logits: torch.Tensor) -> None:
        """A picture in TensorBoard: the middle slice of the first sample's image, target and prediction, first channel.

        Each is (B, C, Z, Y, X); the target is in [0, 1].
        """
        if not self.is_main:
            return
        volumes = (image, target, torch.sigmoid(logits))
        slices = [v[0, 0, v.shape[2] // 2].detach().float().cpu().clamp(0, 1).numpy() for v in volumes]
        self.board.add_image("image | target | prediction", np.concatenate(slices, axis=1), step, dataformats="HW")

    def close(self) -> None:
        if not self.is_main:
            return
        if self.bar:
            self.bar.stop()
        self.log_file.close()
        self.board.close()


def _forget_after(log: Path, step: int) -> None:
    """Drop the lines of steps that a resumed run will take again."""
    if log.exists():
        whole = [line for line in log.read_text().splitlines() if line.endswith("}")]
        log.write_text("".join(line + "\n" for line in whole if json.loads(line)["step"] <= step))
