"""pytc validate: score whole volumes with the checkpoints of a run, during training or after it.

Who writes best.pt? A run that scores `loop.monitor` itself does so (`LoopConfig.picks_best`); then
`pytc validate` only records scores. If loop.monitor is a score of whole volumes that the run leaves
to another process, that process is `pytc validate`, and it writes best.pt.
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

SHOWN = ("val/nerl", "val/dense_voi_sum", "val/jaccard", "val/threshold")
Device = Literal["auto", "cpu", "cuda"]
Rows = dict[int, dict[str, Any]]  # step -> its line in validation.jsonl


def validate(config: ValidateConfig) -> None:
    """Score the checkpoints of a run that have no scores yet.

    With config.watch: score the newest checkpoint, wait for a newer one, and so on, until the last
    step of the run has scores. Ctrl-C or SIGTERM ends it earlier; the next call continues.

    Scores go to validation.jsonl in the folder of the run, one line for each step, and to
    TensorBoard. A checkpoint that cannot be read gives a warning and is skipped.

    Raises:
        ValueError: if there is no such run, another process validates it, or no validation volume
            has labels or skeletons.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    load_plugins(config.plugins)
    file = Path(config.run) if config.run and Path(config.run).is_file() else None
    require(not (file and config.watch), "a run with --watch", f"the file {file}")
    run = _run_of(config)
    try:
        if file is None:
            _wait_for(run, config.interval)
        with _locked(run):
            rows = _read_rows(run)
            if file is not None:
                score_file(run, file, rows, config.device)
            else:
                _score_checkpoints(run, rows, config)
    except KeyboardInterrupt:
        LOGGER.info("stopped; the next call continues with the steps that have no scores yet")


def _run_of(config: ValidateConfig) -> Path:
    """The folder of the run. With config.watch it need not exist yet."""
    if config.run is None:
        return newest_run("config.json")
    try:
        return find_run(config.run)
    except ValueError:
        if config.watch:
            return Path(config.run)
        raise


def _wait_for(run: Path, interval: float) -> None:
    """Return when training has made the folder of the run."""
    while not run.is_dir():
        LOGGER.info(f"waiting for {run}")
        time.sleep(interval)


@contextmanager
def _locked(run: Path) -> Iterator[None]:
    """Keep other processes from validating the run; ValueError if one does so already."""
    folder = run / "validation"
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise ValueError(f"expected a run that no other process validates, got {run}") from None
        yield


def _read_rows(run: Path) -> Rows:
    """What validation.jsonl holds."""
    log = run / "validation.jsonl"
    if not log.exists():
        return {}
    return {row["step"]: row for row in map(json.loads, log.read_text().splitlines())}


def _score_checkpoints(run: Path, rows: Rows, config: ValidateConfig) -> None:
    """Score each checkpoint without scores, the newest first; with config.watch wait for more."""
    files_read: set[tuple[str, int]] = set()
    while True:
        state = newest(run / "checkpoints", rows, files_read, skip_older=config.watch)
        if state is not None:
            score(run, state, rows, config.device)
        elif not config.watch or _is_complete(run, rows):
            return
        else:
            time.sleep(config.interval)


def _is_complete(run: Path, rows: Rows) -> bool:
    """Whether the last step of the run has scores."""
    return (run / "config.json").exists() and load_config(run).loop.max_steps in rows


def score_file(run: Path, file: Path, rows: Rows, device: Device) -> None:
    """Score the weights in one file: a checkpoint of the run, or an export."""
    from pytc.models.checkpoint import load_checkpoint

    is_export = file.suffix == ".safetensors"
    score(run, load_checkpoint(file), rows, device, may_be_best=not is_export)


def newest(
    folder: Path, scored: Collection[int], files_read: set[tuple[str, int]], *, skip_older: bool
) -> "Checkpoint | None":
    """The newest checkpoint in a folder whose step has no scores yet; None if all have some.

    Args:
        scored: the steps that have scores.
        files_read: as `seen` of `good_checkpoints`.
        skip_older: leave out checkpoints that are older than one with scores.
    """
    # here, because torch takes seconds to load, and --help does not need it
    from pytc.models.checkpoint import good_checkpoints

    oldest = max(scored, default=0) if skip_older else 0
    for state in good_checkpoints(folder, files_read):
        if state["step"] not in scored and state["step"] >= oldest:
            return state
    return None


def score(
    run: Path,
    state: "Checkpoint",
    rows: Rows,
    device: Device,
    *,
    may_be_best: bool = True,
) -> None:
    """Predict and score the validation volumes with the weights of a checkpoint.

    Appends the scores to `rows`, validation.jsonl and TensorBoard. Replaces best.pt if this
    checkpoint is the best so far, `may_be_best` is true, and the run does not write best.pt itself.
    """
    from pytc import hardware
    from pytc.models.checkpoint import restore_model, save_if_best
    from pytc.training.whole_volumes import validate_volumes

    step = state["step"]
    model, trained = restore_model(state)
    LOGGER.info(f"{run}: scoring step {step}")
    chosen = hardware.choose_device(replace(trained.system, device=device))
    if chosen.type == "cpu":
        # the run may have chosen its precision for a GPU
        trained = replace(trained, system=replace(trained.system, precision="auto"))
    scores = validate_volumes(model.to(chosen), trained, chosen, run / "validation")

    monitor = trained.loop.monitor
    if may_be_best and monitor in scores and not trained.loop.picks_best:
        others = [row[monitor] for row in rows.values() if monitor in row]
        save_if_best(run / "checkpoints", state, monitor, scores[monitor], others)
    rows[step] = {"step": step, "time": round(time.time(), 3), **scores}
    _write_scores(run, rows, step, scores)
    shown = [f"{name} {scores[name]:.4f}" for name in SHOWN if name in scores]
    print(f"step {step}: {'  '.join(shown)}", flush=True)


def _write_scores(run: Path, rows: Rows, step: int, scores: dict[str, float]) -> None:
    """Write validation.jsonl anew, and add the scores of one step to TensorBoard."""
    from torch.utils.tensorboard import SummaryWriter

    with replacing(run / "validation.jsonl") as temporary:
        temporary.write_text("".join(json.dumps(row) + "\n" for row in rows.values()))
    # TensorBoard follows only the newest file of a folder. In the folder of the run, this file
    # would hide the training curves.
    with SummaryWriter(str(run / "validation")) as board:
        for name, value in scores.items():
            board.add_scalar(name, value, step)
