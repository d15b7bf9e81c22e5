"""What a run tells: progress on a terminal or as lines, log.jsonl and TensorBoard."""

import json
import logging
import math
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import torch
from torch.utils.tensorboard import SummaryWriter

from pytc.progress import Progress

LOGGER = logging.getLogger(__name__)


class Monitor:
    """The voice of a run, on its main rank."""

    def __init__(self, run: Path, first_step: int, max_steps: int):
        self.log_path = run / "log.jsonl"
        if self.log_path.exists():  # a resumed run takes the steps after first_step again
            whole = [line for line in self.log_path.read_text().splitlines() if line.endswith("}")]
            self.log_path.write_text(
                "".join(f"{line}\n" for line in whole if json.loads(line)["step"] <= first_step)
            )
        self.log_file = open(self.log_path, "a", buffering=1)
        self.board = SummaryWriter(str(run), purge_step=first_step + 1)
        self.bar = Progress("training", "steps", max_steps, first_step, seconds=0).__enter__()

    def say(self, line: str) -> None:
        LOGGER.info(line)

    def record(self, step: int, figures: dict[str, float]) -> None:
        """Append figures to log.jsonl, null where they are not finite, and TensorBoard.

        Those of training are shown.
        """
        if "train/loss_total" in figures:
            loss, rate = figures["train/loss_total"], figures["train/samples_per_second"]
            self.bar.show(step, f"loss {loss:.4f}, {rate:.3g} samples/s")
        self.log(
            step,
            {name: round(float(x), 8) if math.isfinite(x) else None for name, x in figures.items()},
        )
        for name, value in figures.items():
            self.board.add_scalar(name, value, step)

    def log(self, step: int, content: dict) -> None:
        self.log_file.write(
            json.dumps({"step": step, "time": round(time.time(), 3), **content}) + "\n"
        )

    def skipped(
        self, step: int, loss: float, norm: float, samples: list[tuple[int, int, int]]
    ) -> None:
        """Log and say that step number `step` (from 0) is not taken.

        samples: the (seed, step, index) of each.
        """
        self.log(step + 1, {"skipped": samples, "loss": str(loss), "gradient_norm": str(norm)})
        _, at, index = samples[0]
        self.say(
            f"step {step + 1} is skipped: loss {loss}, gradient norm {norm}; "
            f"{len(samples)} suspect samples, the first by pytc replay "
            f"--run {self.log_path.parent} --step {at} --index {index}"
        )

    def panel(self, step: int, *volumes: torch.Tensor) -> None:
        """A picture in TensorBoard of (image, target, valid, logits), each (B, C, Z, Y, X).

        Of the first sample the first channel's middle slice, with the error where the target is
        known; of classes, the number of the class as a grey value.
        """
        image, target, valid, logits = (v[0, :, v.shape[2] // 2].detach().float() for v in volumes)
        image, valid, classes = image[0], valid[0], len(logits)
        if len(target) < classes:
            target = target[0]
            prediction = logits.argmax(0)
            error = (prediction != target).float()
            prediction, target = prediction / (classes - 1), target / (classes - 1)
        else:
            target, prediction = target[0], torch.sigmoid(logits[0])
            error = (prediction - target).abs()
        slices = (image, target, prediction, error * valid)
        picture = torch.cat(slices, dim=1).nan_to_num().clamp(0, 1).cpu().numpy()
        self.board.add_image("image | target | prediction | error", picture, step, dataformats="HW")

    def close(self) -> None:
        self.bar.__exit__()
        self.log_file.close()
        self.board.close()


class Silent:
    """What the other ranks have for a Monitor."""

    def __getattr__(self, name):
        return lambda *_: None


class Clock:
    """How fast batches of `samples` are gone through, and how long the loader is awaited.

    `samples` counts those of all ranks.
    """

    def __init__(self, samples: int, device: torch.device):
        self.samples, self.device = samples, device
        self.restart()

    def restart(self) -> None:
        self.started, self.waited, self.batches = time.perf_counter(), 0.0, 0

    def next(self, batches: Iterator) -> dict:
        """The next batch; the wait for it is counted."""
        started = time.perf_counter()
        batch = next(batches)
        self.waited += time.perf_counter() - started
        self.batches += 1
        return batch

    def figures(self) -> dict[str, float]:
        """Samples per second, share of waiting, and memory in GiB, on a GPU its peak.

        All since the last call.
        """
        seconds = time.perf_counter() - self.started
        figures = {
            "samples_per_second": self.batches * self.samples / seconds,
            "data_wait": self.waited / seconds,
        }
        if self.device.type == "cpu":
            used = psutil.Process().memory_info().rss
        else:
            used = torch.cuda.max_memory_allocated(self.device)
            torch.cuda.reset_peak_memory_stats(self.device)
        self.restart()
        return {
            f"train/{name}": value
            for name, value in (figures | {"memory_gib": used / 2**30}).items()
        }
