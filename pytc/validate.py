"""pytc validate: score the checkpoints of a run on whole volumes, during training or after it.

Only one process writes best.pt:

- If the training run computes the score loop.monitor itself (`LoopConfig.picks_best`), the run
  writes best.pt, and `pytc validate` only records scores.
- If it does not, `pytc validate` computes that score, and writes best.pt.
"""

import fcntl
import json
import logging
import signal
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pytc.checks import require
from pytc.commands import ValidateConfig
from pytc.python_files import load_plugins
from pytc.runs import find_run, load_config, newest_run, replacing

if TYPE_CHECKING:
    from pytc.models.checkpoint import Checkpoint

LOGGER = logging.getLogger(__name__)

PRINTED = ("val/nerl", "val/dense_voi_sum", "val/jaccard", "val/threshold")
Device = Literal["auto", "cpu", "cuda"]
Rows = dict[int, dict[str, Any]]  # step -> its line in validation.jsonl


def validate(config: ValidateConfig) -> None:
    """Score the checkpoints of a run that have no scores yet.

    With config.watch: score the newest checkpoint, wait for a newer one, and so on, until the last
    step of the run has scores. Ctrl-C or SIGTERM ends it earlier; the next call continues.

    The scores are written to validation.jsonl in the folder of the run, one line for each step, and
    to TensorBoard. A checkpoint that cannot be read is skipped with a warning.

    Raises:
        ValueError: the run does not exist, another process validates it, or no validation volume
            has labels or skeletons.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    load_plugins(config.plugins)
    file = Path(config.run) if config.run and Path(config.run).is_file() else None
    require(not (file and config.watch), "a run with --watch", f"the file {file}")
    run = _folder_of_run(config)
    try:
        if file is None:
            _wait_for(run, config.interval)
        with _locked(run):
            rows = _read_rows(run)
            if file is None:
                _score_checkpoints(run, rows, config)
            else:
                _score_file(run, file, rows, config.device)
    except KeyboardInterrupt:
        LOGGER.info("stopped; the next call continues with the steps that have no scores yet")


def _folder_of_run(config: ValidateConfig) -> Path:
    """The folder of the run, which with config.watch need not exist yet."""
    if config.run is None:
        return newest_run("config.json")
    try:
        return find_run(config.run)
    except ValueError:
        if config.watch:
            return Path(config.run)
        raise


def _wait_for(run: Path, interval: float) -> None:
    """Wait until training has made the folder of the run."""
    while not run.is_dir():
        LOGGER.info(f"waiting for {run}")
        time.sleep(interval)


@contextmanager
def _locked(run: Path) -> Iterator[None]:
    """Lock the run, so that no other process validates it. ValueError if one does already."""
    folder = run / "validation"
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise ValueError(f"expected a run that no other process validates, got {run}") from None
        yield


def _read_rows(run: Path) -> Rows:
    """The lines of validation.jsonl, by step. Without the file there are none."""
    log = run / "validation.jsonl"
    if not log.exists():
        return {}
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    return {row["step"]: row for row in rows}


def _score_checkpoints(run: Path, rows: Rows, config: ValidateConfig) -> None:
    """Score each unscored checkpoint, the newest first; with config.watch, wait for more."""
    files_read: set[tuple[str, int]] = set()
    while True:
        checkpoint = newest_unscored(run / "checkpoints", rows, files_read, skip_older=config.watch)
        if checkpoint is not None:
            score_checkpoint(run, checkpoint, rows, config.device)
        elif not config.watch or _is_complete(run, rows):
            return
        else:
            time.sleep(config.interval)


def _is_complete(run: Path, rows: Rows) -> bool:
    """Whether the last step of the run has scores."""
    return (run / "config.json").exists() and load_config(run).loop.max_steps in rows


def _score_file(run: Path, file: Path, rows: Rows, device: Device) -> None:
    """Score the weights in one file: a checkpoint of the run, or an export."""
    from pytc.models.checkpoint import load_checkpoint

    is_export = file.suffix == ".safetensors"
    score_checkpoint(run, load_checkpoint(file), rows, device, may_be_best=not is_export)


def newest_unscored(
    folder: Path, scored: Collection[int], files_read: set[tuple[str, int]], *, skip_older: bool
) -> "Checkpoint | None":
    """The newest readable checkpoint whose step has no scores yet; None if there is none.

    Args:
        folder: checkpoints/ of the run.
        scored: the steps that have scores.
        files_read: the files that were read before, which are not read again (`seen` of
            `good_checkpoints`); this call adds those that it reads.
        skip_older: skip every checkpoint that is older than a scored one.
    """
    # imported here, because torch takes seconds to load, and --help does not need it
    from pytc.models.checkpoint import good_checkpoints

    oldest = max(scored, default=0) if skip_older else 0
    for checkpoint in good_checkpoints(folder, files_read):
        if checkpoint["step"] not in scored and checkpoint["step"] >= oldest:
            return checkpoint
    return None


def score_checkpoint(
    run: Path,
    checkpoint: "Checkpoint",
    rows: Rows,
    device: Device,
    *,
    may_be_best: bool = True,
) -> None:
    """Predict and score the validation volumes with the weights of a checkpoint.

    The scores are added to `rows`, validation.jsonl and TensorBoard. The checkpoint replaces
    best.pt if it is the best so far, `may_be_best` is true, and the run does not write best.pt
    itself.
    """
    from pytc import hardware
    from pytc.models.checkpoint import restore_model, save_if_best
    from pytc.training.whole_volumes import validate_volumes

    step = checkpoint["step"]
    model, trained = restore_model(checkpoint)
    LOGGER.info(f"{run}: scoring step {step}")
    chosen = hardware.choose_device(replace(trained.system, device=device))
    if chosen.type == "cpu":
        # the run may have chosen its precision for a GPU, so choose again
        trained = replace(trained, system=replace(trained.system, precision="auto"))
    scores = validate_volumes(model.to(chosen), trained, chosen, run / "validation")

    monitor = trained.loop.monitor
    if may_be_best and monitor in scores and not trained.loop.picks_best:
        others = [row[monitor] for row in rows.values() if monitor in row]
        save_if_best(run / "checkpoints", checkpoint, monitor, scores[monitor], others)
    rows[step] = {"step": step, "time": round(time.time(), 3), **scores}
    _write_scores(run, rows, step, scores)
    printed = [f"{name} {scores[name]:.4f}" for name in PRINTED if name in scores]
    print(f"step {step}: {'  '.join(printed)}", flush=True)


def _write_scores(run: Path, rows: Rows, step: int, scores: dict[str, float]) -> None:
    """Rewrite validation.jsonl from `rows`, and add the scores of one step to TensorBoard."""
    from torch.utils.tensorboard import SummaryWriter

    with replacing(run / "validation.jsonl") as temporary:
        temporary.write_text("".join(json.dumps(row) + "\n" for row in rows.values()))
    # In a folder of its own: TensorBoard shows only the newest file of a folder, so this file would
    # hide the training curves in the folder of the run.
    with SummaryWriter(str(run / "validation")) as board:
        for name, value in scores.items():
            board.add_scalar(name, value, step)
