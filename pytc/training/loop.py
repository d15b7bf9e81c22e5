"""The training loop: `train` sets a run up, and `Run.take_steps` goes through it."""

import logging
import shutil
import signal
import sys
from collections.abc import Collection, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Subset

from pytc import hardware
from pytc.checks import require
from pytc.config import Config
from pytc.data.facts import to_plain
from pytc.data.inspection import inspect_run
from pytc.data.patches import TrainingPatches, step_numbers, train_dataset, val_dataset
from pytc.data.synthetic_volumes import prepare_volume
from pytc.models import name_plugins
from pytc.models.card import differences_to_weights
from pytc.models.checkpoint import Checkpoint, good_checkpoints
from pytc.runs import create_run
from pytc.script import RunError, command_line
from pytc.training import distributed
from pytc.training.checkpoint_keeper import CheckpointKeeper
from pytc.training.distributed import Ranks
from pytc.training.loader import feeders_joined, make_loader, read_first_patches
from pytc.training.monitor import Monitor, NullMonitor, Throughput
from pytc.training.resolve import Change, check_asked, check_resumed, resolve
from pytc.training.run_files import introduce
from pytc.training.trainer import StepResult, Trainer
from pytc.training.whole_volumes import scored_volumes, validate_volumes

LOGGER = logging.getLogger(__name__)


def train(
    config: Config,
    resume: Path | None = None,
    *,
    flags: Collection[str] = (),
    changes: Sequence[Change] = (),
) -> Path:
    """Train as `config` says, or continue the run in the folder `resume`.

    A new run that fails before its first step leaves no folder.

    Args:
        config: what was asked for; `resolve` turns it into what will run.
        resume: folder of the run to continue; None makes a new run.
        flags: fields that the command line names, e.g. loop.batch_size. None of them is replaced.
        changes: what was changed already in the config that was asked for.

    Returns:
        The folder of the run.

    Raises:
        ValueError: the data, or the run to continue, do not fit the config.
        RunError: the loss is not finite, step after step.
        SystemExit: a signal asked the run to stop. It has written a checkpoint; the exit code is
            `distributed.exit_code`.
    """
    if resume is None:
        check_asked(config)
    else:
        check_resumed(config, resume)
    ranks = distributed.read_environment()
    config = name_plugins(config)
    device = hardware.choose_device(config.system, ranks.local_rank)
    torch.set_num_threads(hardware.choose_threads(config.system, ranks.local_world))
    torch.backends.cudnn.benchmark = device.type == "cuda"
    with (
        feeders_joined(),
        distributed.joined(ranks, device),
        distributed.noticed_signals(say=ranks.is_main) as signals,
    ):
        folder, stopped = resolve_and_run(config, resume, flags, changes, ranks, device, signals)
    if stopped is not None:
        sys.exit(distributed.exit_code(stopped))
    return folder


def resolve_and_run(
    config: Config,
    resume: Path | None,
    flags: Collection[str],
    changes: Sequence[Change],
    ranks: Ranks,
    device: torch.device,
    signals: list[signal.Signals],
) -> tuple[Path, signal.Signals | None]:
    """Resolve the config and train; returns the run's folder and the signal that stopped it.

    The network holds the process group. It is local to this function, so that nothing holds the
    group when `distributed.joined` destroys it.
    """
    # Volumes: made, inspected and opened. What does not fit is refused here.
    volumes = (*config.data.train, *config.data.validation)
    ranks.once_a_node(lambda: [prepare_volume(volume, config.data.synthetic) for volume in volumes])
    facts = ranks.once_a_node(lambda: inspect_run(config))
    if config.loop.volumes_every or config.loop.monitor != "val/loss":
        scored_volumes(config)
    memory = hardware.chunk_memory(config.system, device, ranks.local_world)
    dataset = train_dataset(config, memory, ranks.once_a_node)
    validation = val_dataset(config, memory, ranks.once_a_node)
    ranks.once_a_node(lambda: read_first_patches(dataset, validation))

    resolved = resolve(
        config,
        dataset,
        ranks,
        device,
        lambda asked: Trainer(asked, Ranks(), device),
        flags=flags,
        resume=resume,
    )
    trainer = Trainer(resolved.config, ranks, device)
    run = Run(trainer, resume, dataset, validation, to_plain(facts))
    try:
        with closing(run.monitor):
            if ranks.is_main:
                introduce(run, config, [*changes, *resolved.changes], resolved.choices)
            return run.folder, run.take_steps(signals)
    except BaseException:
        if ranks.is_main and resume is None and not run.begun:
            shutil.rmtree(run.folder)
        raise


class Run:
    """A run on disk and the loop that fills it: loaders, log, validation and checkpoints."""

    def __init__(
        self,
        trainer: Trainer,
        resume: Path | None,
        dataset: TrainingPatches,
        validation: TrainingPatches | None,
        volumes: list[dict[str, Any]],
    ):
        """Continue the run in the folder `resume`, or make a new one.

        Args:
            trainer: takes the steps.
            resume: folder of the run to continue, or None.
            dataset: the training patches.
            validation: the validation patches, None if no volume is named for it.
            volumes: facts of the training volumes, for the checkpoints.

        Raises:
            ValueError: there is no good checkpoint to continue from, or its step is past the last.
        """
        config, ranks, device = trainer.config, trainer.ranks, trainer.device
        self.trainer = trainer
        self.config = config
        self.loop = config.loop
        self.ranks = ranks
        self.volumes = volumes

        # State: from the newest good checkpoint, or at the start.
        self.first_step, scores = _load_state(trainer, resume)
        if resume is None and ranks.is_main:
            _warn_of_differences(trainer, volumes)
        self.begun = False  # whether this process has taken or skipped a step

        # Data: every rank loads other samples.
        numbers = step_numbers(
            self.first_step,
            self.loop.batch_size,
            config.optim.accumulate,
            ranks.rank,
            ranks.world,
        )
        loader = make_loader(dataset, config, device, ranks, numbers)
        self.throughput = Throughput(ranks.world * self.loop.batch_size, device)
        self.batches = self.throughput.timed(iter(loader))
        self.val_batches = None
        if validation is not None:
            share = range(ranks.rank, config.data.val_samples, ranks.world)
            self.val_batches = make_loader(Subset(validation, share), config, device, ranks)

        # Output: last, as everything above may refuse to start.
        folder = None
        if ranks.is_main:
            folder = resume or create_run(config.name)
        self.folder = ranks.gather(folder)[0]
        validates = validation is not None or self.loop.monitor != "val/loss"
        checkpoints = self.folder / "checkpoints"
        self.keeper = CheckpointKeeper(checkpoints, self.loop, scores, validates)
        self.monitor: Monitor | NullMonitor = NullMonitor()
        if ranks.is_main:
            self.monitor = Monitor(self.folder, self.first_step, config)

    def take_steps(self, signals: list[signal.Signals]) -> signal.Signals | None:
        """Train to the last step, or until a signal is received; returns the signal.

        signals: the list to which a signal is appended when it is received.
        """
        for step in range(self.first_step, self.loop.max_steps):
            done = step + 1
            is_logged = self.is_due(done, self.loop.log_every)
            result = self.trainer.train_step(
                step, self.batches, stop=bool(signals), detailed=is_logged
            )
            self.begun = True
            if result.broken_samples:
                self.tell_skip(step, result)
            if is_logged:
                self.monitor.record(done, result.scalars | self.throughput.scalars())
            if self.is_due(done, self.loop.images_every):
                self.monitor.panel(done, *result.example)
            scores = self.validate(done, result.stop)
            if scores or result.stop or self.is_due(done, self.loop.checkpoint_every):
                self.save(done, scores)
            if result.stop and done < self.loop.max_steps:
                return self.tell_stop(done, signals)
        return None

    def is_due(self, done: int, every: int) -> bool:
        """Whether to do what is done every `every` steps and after the last one; 0 means never."""
        return every > 0 and (done % every == 0 or done == self.loop.max_steps)

    def validate(self, done: int, stop: bool) -> dict[str, float]:
        """Validate on patches and on whole volumes where that is due; returns and logs the scores.

        stop: whether the run was asked to stop; then no volume is scored.
        """
        scores: dict[str, float] = {}
        if self.val_batches is not None and self.is_due(done, self.loop.val_every):
            scores["val/loss"], example = self.trainer.validation_loss(self.val_batches)
            if example is not None:
                self.monitor.panel(done, *example, of="validation")
        if self.is_due(done, self.loop.volumes_every) and not stop:
            # Scoring may take longer than a scheduler waits between its signal and the kill.
            self.save(done, {})
            scores |= validate_volumes(
                self.trainer.eval_model,
                self.config,
                self.trainer.device,
                self.folder / "validation",
                self.ranks,
            )
        if scores:
            self.monitor.record(done, scores)
            shown = sorted({"val/loss", self.loop.monitor} & scores.keys())
            text = "  ".join(f"{name} {scores[name]:.4f}" for name in shown)
            self.monitor.say(f"step {done}: {text}")
            self.throughput.restart()
        return scores

    def save(self, done: int, scores: dict[str, float]) -> None:
        """Write the checkpoint after `done` steps, on the main rank. scores: from `validate`."""
        if self.ranks.is_main:
            self.keeper.save(self.trainer.checkpoint(done, self.volumes), scores)

    def tell_skip(self, step: int, result: StepResult) -> None:
        """Log a step that was skipped; RunError if too many in a row were."""
        loss = result.scalars["train/loss_total"]
        norm = result.scalars["train/gradient_norm"]
        self.monitor.skipped(step, loss, norm, result.broken_samples)
        in_a_row = self.trainer.skipped_in_a_row
        if in_a_row >= self.loop.max_skipped:
            raise RunError(
                f"{in_a_row} steps in a row were skipped, the last of them step "
                f"{step}, with loss {loss} and gradient norm {norm}; {self.folder}/log.jsonl names "
                "the samples"
            )

    def tell_stop(self, done: int, signals: list[signal.Signals]) -> signal.Signals:
        """Say how to continue the run; returns the signal that one of the ranks received.

        A scheduler may end all ranks when the first one leaves. So the ranks meet here, after the
        main rank has written the checkpoint.
        """
        received = self.ranks.gather(signals[0] if signals else None)
        stopped = next(number for number in received if number is not None)
        command = command_line("train", ["--resume", str(self.folder)])
        self.monitor.stopped(done, stopped.name)
        self.monitor.say(f"stopped by {stopped.name} after step {done}; {command} continues")
        return stopped


def _load_state(trainer: Trainer, resume: Path | None) -> tuple[int, dict[int, float]]:
    """The state that a run goes on from: (steps taken, scores of the checkpoints)."""
    if resume is None:
        report = trainer.load_pretrained()
        if report and trainer.ranks.is_main:
            LOGGER.info(report)
        return 0, {}
    state = newest_checkpoint(resume, trainer.device)
    trainer.restore(state)
    step = state["step"]
    max_steps = trainer.config.loop.max_steps
    expected = f"--loop.max-steps of {step} or more, as {resume} is at this step"
    require(step <= max_steps, expected, max_steps)
    return step, state["scores"]


def _warn_of_differences(trainer: Trainer, volumes: list[dict[str, Any]]) -> None:
    """Warn where the weights that a run starts from were trained on other data or targets."""
    parent = trainer.parent
    if parent is None or parent["card"] is None:
        return
    for line in differences_to_weights(parent["card"], trainer.config, volumes):
        LOGGER.warning(f"{parent['weights']}: {line}")


def newest_checkpoint(run: Path, device: torch.device) -> Checkpoint:
    """The newest checkpoint of a run that can be read; ValueError if there is none."""
    folder = run / "checkpoints"
    state = next(good_checkpoints(folder, set(), device), None)
    if state is None:
        raise ValueError(f"expected a good checkpoint in {folder}, got None")
    return state
