"""pytc validate: score whole volumes by a run's checkpoints, beside it or after it.

If the run computes loop.monitor itself (`LoopConfig.picks_best`), it also picks best.pt, and here
the scores are only written down. Otherwise the run keeps its newest checkpoints, and best.pt is
picked here. Either way `pytc.models.checkpoint.save_if_best` writes it.
"""

import fcntl
import json
import logging
import signal
import time
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

from pytc.checks import require
from pytc.commands import ValidateConfig
from pytc.python_files import load_plugins
from pytc.runs import find_run, load_config, newest_run, replacing

LOGGER = logging.getLogger(__name__)

SHOWN = ("val/nerl", "val/dense_voi_sum", "val/jaccard", "val/threshold")


def validate(config: ValidateConfig) -> None:
    """Score the checkpoints of a run that are not scored yet.

    With config.watch the newest one, again and again. Figures go to validation.jsonl, a line a
    step, and to TensorBoard. Watching ends when the last step is scored, or by Ctrl-C or SIGTERM. A
    checkpoint that is damaged, half written or gone gives a warning. ValueError if there is no run,
    another process validates it, or it has no volumes to score.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    load_plugins(config.plugins)
    file = Path(config.run) if config.run and Path(config.run).is_file() else None
    require(not (file and config.watch), "a run with --watch", f"the file {file}")
    run = _run_of(config)
    try:
        while file is None and not run.is_dir():  # it is for the run to make
            LOGGER.info(f"waiting for {run}")
            time.sleep(config.interval)
        (run / "validation").mkdir(parents=True, exist_ok=True)
        with open(run / "validation" / "lock", "w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise ValueError(
                    f"expected a run that no other process validates, got {run}"
                ) from None
            log, seen = run / "validation.jsonl", set()
            rows = (
                {row["step"]: row for row in map(json.loads, log.read_text().splitlines())}
                if log.exists()
                else {}
            )
            if file is not None:
                score_file(run, file, rows, config.device)
                return
            while True:
                if state := newest(run / "checkpoints", rows, seen, skip_older=config.watch):
                    score(run, state, rows, config.device)
                elif not config.watch or (
                    (run / "config.json").exists() and load_config(run).loop.max_steps in rows
                ):
                    return
                else:
                    time.sleep(config.interval)
    except KeyboardInterrupt:
        LOGGER.info("stopped; the next call goes on from validation.jsonl")


def _run_of(config: ValidateConfig) -> Path:
    """The folder of the run; that of one that is waited for need not be there yet."""
    if config.run is None:
        return newest_run("config.json")
    try:
        return find_run(config.run)
    except ValueError:
        if config.watch:
            return Path(config.run)
        raise


def score_file(run: Path, file: Path, rows: dict[int, dict], device: str) -> None:
    """Score the weights in one file, a checkpoint of the run or an export."""
    from pytc.models.checkpoint import load_checkpoint

    is_export = file.suffix == ".safetensors"
    score(run, load_checkpoint(file), rows, device, may_be_best=not is_export)


def newest(folder: Path, scored: Collection[int], seen: set, *, skip_older: bool) -> dict | None:
    """The newest checkpoint whose step is not scored.

    With skip_older none that is older than a scored one.
    """
    # torch takes seconds to load, and --help needs none
    from pytc.models.checkpoint import good_checkpoints

    for state in good_checkpoints(folder, seen):
        if state["step"] not in scored and not (
            skip_older and state["step"] < max(scored, default=0)
        ):
            return state
    return None


def score(
    run: Path, state: dict, rows: dict[int, dict], device: str, *, may_be_best: bool = True
) -> None:
    """Predict and score the volumes with the weights of a checkpoint.

    Appends the scores to `rows`, validation.jsonl and TensorBoard; replaces best.pt if the run does
    not pick it, `may_be_best` is true, and this checkpoint is the best so far.
    """
    from torch.utils.tensorboard import SummaryWriter

    from pytc import hardware
    from pytc.models.checkpoint import restore_model, save_if_best
    from pytc.training.whole_volumes import validate_volumes

    step, (model, trained) = state["step"], restore_model(state)
    LOGGER.info(f"{run}: scoring step {step}")
    device = hardware.choose_device(replace(trained.system, device=device))
    if device.type == "cpu":  # a precision that was chosen for a GPU
        trained = replace(trained, system=replace(trained.system, precision="auto"))
    figures, name = (
        validate_volumes(model.to(device), trained, device, run / "validation"),
        trained.loop.monitor,
    )
    if may_be_best and name in figures and not trained.loop.picks_best:
        others = [row[name] for row in rows.values() if name in row]
        save_if_best(run / "checkpoints", state, name, figures[name], others)
    rows[step] = {"step": step, "time": round(time.time(), 3), **figures}
    with replacing(run / "validation.jsonl") as temporary:
        temporary.write_text("".join(json.dumps(row) + "\n" for row in rows.values()))
    # In a folder of its own: TensorBoard follows the newest file of a folder, and would lose sight
    # of the run's.
    with SummaryWriter(str(run / "validation")) as board:
        for key, value in figures.items():
            board.add_scalar(key, value, step)
    print(
        f"step {step}: "
        + "  ".join(f"{key} {figures[key]:.4f}" for key in SHOWN if key in figures),
        flush=True,
    )
