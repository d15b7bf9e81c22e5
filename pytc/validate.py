"""python -m pytc.validate: scores whole volumes by the checkpoints of a run, beside the run or after it.

best.pt has one writer: where the run knows the figure loop.monitor (`LoopConfig.picks_best`), its `Keeper`; where it
does not, as it scores no volumes, the run keeps its newest checkpoints, and best.pt is written here.
"""

from __future__ import annotations

import fcntl
import json
import signal
import sys
import time
import warnings
from dataclasses import replace
from pathlib import Path

import tyro

from pytc.commands import ValidateConfig
from pytc.runs import newest_run, replacing

SHOWN = ("val/nerl", "val/dense_voi_sum", "val/jaccard", "val/threshold")


def validate(config: ValidateConfig) -> None:
    """Score the checkpoints of a run that are not scored yet; with config.watch the newest one, again and again.

    Figures go to validation.jsonl, a line a step, and to TensorBoard. Watching ends when the last step is scored, or by
    Ctrl-C or SIGTERM. A checkpoint that is damaged, half written or gone gives a warning. ValueError if there is no
    run, another process validates it, or it has no volumes to score.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    run = Path(config.run) if config.run else newest_run("config.json")
    if not (config.watch or run.is_dir()):
        raise ValueError(f"expected the folder of a run, got {run}")
    try:
        while not run.is_dir():  # it is for the run to make
            print(f"waiting for {run}", flush=True)
            time.sleep(config.interval)
        (run / "validation").mkdir(exist_ok=True)
        with open(run / "validation" / "lock", "w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise ValueError(f"expected a run that no other process validates, got {run}") from None
            Validation(run, config).follow()
    except KeyboardInterrupt:
        print("stopped; the next call goes on from validation.jsonl", flush=True)


class Validation:
    """What is known of a run's checkpoints, and what is told of them."""

    def __init__(self, run: Path, config: ValidateConfig):
        self.run, self.config, self.log = run, config, run / "validation.jsonl"
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        self.rows = {row["step"]: row for row in map(json.loads, lines)}
        self.seen = set()  # checkpoints that were looked at: name and time of writing
        self.ended = False  # the last step of the run was seen

    def follow(self) -> None:
        while (state := self.newest()) or (self.config.watch and not self.ended):
            if state:
                self.score(state)
            else:
                time.sleep(self.config.interval)

    def newest(self) -> dict | None:
        """The newest checkpoint that is readable and not scored; if watching, none that is older than a scored one."""
        from pytc.models.checkpoint import load_checkpoint  # torch takes seconds to load, and --help needs none

        folder = self.run / "checkpoints"
        for path in (*folder.glob("last.pt"), *sorted(folder.glob("step-*.pt"), reverse=True)):
            try:
                looked_at = path.name, path.stat().st_mtime_ns
                if looked_at in self.seen:
                    continue
                self.seen.add(looked_at)
                state = load_checkpoint(path)
            except (ValueError, OSError) as error:
                warnings.warn(f"{error}: passed over", stacklevel=2)
                continue
            self.ended |= state["step"] >= state["config"]["loop"]["max_steps"]
            stale = self.config.watch and state["step"] < max(self.rows, default=0)
            if state["step"] not in self.rows and not stale:
                return state
        return None

    def score(self, state: dict) -> None:
        """Predict and score by the weights of a checkpoint, note the figures, and keep it as best.pt if it is."""
        from torch.utils.tensorboard import SummaryWriter

        from pytc import hardware
        from pytc.models.checkpoint import restore_model
        from pytc.training.checkpoint import is_rising, save_checkpoint
        from pytc.training.validation import validate_volumes

        step = state["step"]
        print(f"{self.run}: scoring step {step}", flush=True)
        model, trained = restore_model(state)
        device = hardware.choose_device(replace(trained.system, device=self.config.device))
        if device.type == "cpu":  # a precision that was chosen for a GPU
            trained = replace(trained, system=replace(trained.system, precision="auto"))
        figures = validate_volumes(model.to(device), trained, device, self.run / "validation")
        name = trained.loop.monitor
        if name in figures and not trained.loop.picks_best:
            earlier = [row[name] for row in self.rows.values() if name in row]
            if not earlier or (figures[name] > max(earlier) if is_rising(name) else figures[name] < min(earlier)):
                save_checkpoint(self.run / "checkpoints" / "best.pt", state)
        self.rows[step] = {"step": step, "time": round(time.time(), 3), **figures}
        with replacing(self.log) as temporary:
            temporary.write_text("".join(json.dumps(row) + "\n" for row in self.rows.values()))
        # In a folder of its own: TensorBoard follows the newest file of a folder, and would lose sight of the run's.
        with SummaryWriter(str(self.run / "validation")) as board:
            for key, value in figures.items():
                board.add_scalar(key, value, step)
        print(f"step {step}: " + "  ".join(f"{key} {figures[key]:.4f}" for key in SHOWN if key in figures), flush=True)


def main(arguments: list[str] | None = None) -> None:
    """python -m pytc.validate [--run RUN] [--watch] [--device DEVICE]"""
    try:
        validate(tyro.cli(ValidateConfig, args=arguments, prog="python -m pytc.validate"))
    except ValueError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
