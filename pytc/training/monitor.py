"""The log of a run: progress on the terminal, log.jsonl, TensorBoard, and how fast it is."""

import json
import logging
import math
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import psutil
import torch
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams

from pytc.checks import flat
from pytc.config import Config
from pytc.progress import Progress
from pytc.run_table import STOPPED, lock_log

LOGGER = logging.getLogger(__name__)


class Monitor:
    """Writes the log of a run, on its main rank."""

    def __init__(self, run: Path, first_step: int, config: Config):
        self.log_path = run / "log.jsonl"
        if self.log_path.exists():
            _drop_lines_after(self.log_path, first_step)
        self.log_file = open(self.log_path, "a", buffering=1)  # noqa: SIM115, as long as the run
        lock_log(self.log_file)
        self.board = SummaryWriter(str(run), purge_step=first_step + 1)
        # for the page that sets fields of configs beside the scores of runs
        scores = {"val/loss": 0.0, config.loop.monitor: 0.0}  # their names: values are scalars
        file: Any = self.board.file_writer
        for summary in hparams(_hyper_parameters(config), scores):
            file.add_summary(summary)
        steps = config.loop.max_steps
        self.bar = Progress("training", "steps", steps, first_step, seconds=0).__enter__()

    def say(self, line: str) -> None:
        LOGGER.info(line)

    def record(self, step: int, scalars: dict[str, float]) -> None:
        """Append scalars to log.jsonl and TensorBoard; update the progress if they are of training.

        step: steps that were taken. In log.jsonl a number that is not finite becomes null.
        """
        if "train/loss_total" in scalars:
            loss, rate = scalars["train/loss_total"], scalars["train/samples_per_second"]
            self.bar.show(step, f"loss {loss:.4f}, {rate:.3g} samples/s")
        self.log(step, {name: _json_number(value) for name, value in scalars.items()})
        for name, value in scalars.items():
            self.board.add_scalar(name, value, step)

    def log(self, step: int, content: dict[str, Any]) -> None:
        """Append a line to log.jsonl."""
        line = {"step": step, "time": round(time.time(), 3), **content}
        self.log_file.write(json.dumps(line) + "\n")

    def stopped(self, step: int, signal_name: str) -> None:
        """Log that a signal asked the run to end after `step` steps: its last line."""
        self.log(step, {STOPPED: signal_name})

    def skipped(
        self, step: int, loss: float, norm: float, samples: list[tuple[int, int, int]]
    ) -> None:
        """Log and print that step number `step` (from 0) was skipped.

        samples: (seed, step, index) of each sample that may be the cause.
        """
        self.log(step + 1, {"skipped": samples, "loss": str(loss), "gradient_norm": str(norm)})
        _, sample_step, index = samples[0]
        self.say(
            f"step {step + 1} is skipped: loss {loss}, gradient norm {norm}; "
            f"{len(samples)} suspect samples, the first by pytc replay "
            f"--run {self.log_path.parent} --step {sample_step} --index {index}"
        )

    def panel(self, step: int, *volumes: torch.Tensor, of: str = "training") -> None:
        """Add a picture to TensorBoard: image, target, prediction and error side by side.

        It shows the middle slice of the first channel of the first sample. The error is 0 where the
        target is not valid. A class is shown as a grey value that grows with its number.

        volumes: image, target, valid and logits, each (B, C, Z, Y, X).
        of: what the batch is of, "training" or "validation".
        """
        slices = [volume[0, :, volume.shape[2] // 2].detach().float() for volume in volumes]
        image, target, valid, logits = slices  # each (C, Y, X)
        largest_class = len(logits) - 1
        if len(target) < len(logits):
            classes = logits.argmax(0)
            error = (classes != target[0]).float()
            prediction = classes / largest_class
            target = target / largest_class
        else:
            prediction = torch.sigmoid(logits[0])
            error = (prediction - target[0]).abs()
        panels = (image[0], target[0], prediction, error * valid[0])
        picture = torch.cat(panels, dim=1).nan_to_num().clamp(0, 1).cpu().numpy()
        name = f"{of}: image | target | prediction | error"
        self.board.add_image(name, picture, step, dataformats="HW")

    def close(self) -> None:
        self.bar.__exit__()
        self.log_file.close()
        self.board.close()


class NullMonitor:
    """Stands in for a `Monitor` on all other ranks, and writes nothing."""

    def say(self, line: str) -> None: ...

    def record(self, step: int, scalars: dict[str, float]) -> None: ...

    def stopped(self, step: int, signal_name: str) -> None: ...

    def skipped(
        self, step: int, loss: float, norm: float, samples: list[tuple[int, int, int]]
    ) -> None: ...

    def panel(self, step: int, *volumes: torch.Tensor, of: str = "training") -> None: ...

    def close(self) -> None: ...


class Throughput:
    """Samples per second, and the share of the time in which training waits for the loader.

    samples: in a batch, of all ranks together.
    """

    def __init__(self, samples: int, device: torch.device):
        self.samples = samples
        self.device = device
        self.restart()

    def restart(self) -> None:
        """Count from now on."""
        self.started = time.perf_counter()
        self.waited = 0.0
        self.batches = 0

    def timed(self, batches: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        """Yield the batches; count them, and the wait for each."""
        while True:
            started = time.perf_counter()
            batch = next(batches, None)
            self.waited += time.perf_counter() - started
            if batch is None:
                return
            self.batches += 1
            yield batch

    def scalars(self) -> dict[str, float]:
        """Samples per second, share of waiting, and memory in GiB (on a GPU, its peak).

        All are counted since the last call, or since `restart`.
        """
        seconds = time.perf_counter() - self.started
        if self.device.type == "cpu":
            used = psutil.Process().memory_info().rss
        else:
            used = torch.cuda.max_memory_allocated(self.device)
            torch.cuda.reset_peak_memory_stats(self.device)
        scalars = {
            "train/samples_per_second": self.batches * self.samples / seconds,
            "train/data_wait": self.waited / seconds,
            "train/memory_gib": used / 2**30,
        }
        self.restart()
        return scalars


def _hyper_parameters(config: Config) -> dict[str, bool | float | str]:
    """Each field of a config by its name, e.g. optim.learning_rate; without the volumes."""
    fields = flat(asdict(config))
    names = [name for name in fields if not name.startswith(("data.train", "data.val."))]
    return {
        name: fields[name] if isinstance(fields[name], bool | int | float) else str(fields[name])
        for name in names
    }


def _drop_lines_after(log: Path, step: int) -> None:
    """Delete what a resumed run will write again: the lines of later steps, and half a line."""
    whole = [line for line in log.read_text().splitlines() if line.endswith("}")]
    kept = [line for line in whole if json.loads(line)["step"] <= step]
    log.write_text("".join(f"{line}\n" for line in kept))


def _json_number(value: float) -> float | None:
    return round(float(value), 8) if math.isfinite(value) else None
