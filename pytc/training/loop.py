"""The training loop, from a config to a run on disk. Start reading at `Trainer.run`."""

import logging
import math
import os
import platform
import shutil
import signal
import sys
from collections.abc import Collection, Sequence
from contextlib import closing, nullcontext
from dataclasses import asdict
from pathlib import Path

import torch
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, Dataset, Subset

from pytc import __version__, hardware, messages
from pytc.checks import require
from pytc.config import Config
from pytc.data.batch import Preparation
from pytc.data.inspection import inspect_run, to_plain
from pytc.data.patches import step_numbers, train_dataset, val_dataset
from pytc.data.synthetic_volumes import prepare_volume
from pytc.losses import build_loss, channel_losses, deep_supervision_loss
from pytc.models import build_model, name_plugins
from pytc.models.base import finest
from pytc.models.checkpoint import FORMAT
from pytc.models.weights import initialise
from pytc.runs import create_run, write_json
from pytc.script import RunError, command_line
from pytc.training import distributed
from pytc.training.checkpoint import Keeper, good_checkpoints
from pytc.training.distributed import Ranks
from pytc.training.monitor import Clock, Monitor, Silent
from pytc.training.optim import MovingAverage, build_optimizer, learning_rate
from pytc.training.resolve import (
    Change,
    check_asked,
    check_resumed,
    describe,
    resolve,
    write_resolved,
)
from pytc.training.whole_volumes import scored_volumes, validate_volumes

LOGGER = logging.getLogger(__name__)

# the threads of tensorstore and of the main process do not survive a fork
START_METHOD = "forkserver"


def train(
    config: Config,
    resume: Path | None = None,
    *,
    flags: Collection[str] = (),
    changes: Sequence[Change] = (),
) -> Path:
    """Train as `config` says, or continue the run in the folder `resume`.

    Args:
        flags: fields that the command line names, e.g. loop.batch_size: none is replaced.
        changes: what has been changed already in the config that was asked for.

    Returns:
        The folder of the run.

    Raises:
        ValueError: the data or the run to continue do not fit the config.
        RunError: the loss stops being finite.
        SystemExit: with distributed.exit_code if a signal asked to stop, after a checkpoint.

    A new run that fails before its first step leaves no folder.
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
        distributed.joined(ranks, device),
        distributed.noticed_signals(say=ranks.is_main) as signals,
    ):
        folder, stopped = run_to_its_end(config, resume, flags, changes, ranks, device, signals)
    if stopped is not None:
        sys.exit(distributed.exit_code(stopped))
    return folder


def run_to_its_end(
    config: Config,
    resume: Path | None,
    flags: Collection[str],
    changes: Sequence[Change],
    ranks: Ranks,
    device: torch.device,
    signals: list,
) -> tuple[Path, signal.Signals | None]:
    """Resolve the config and run it; returns the folder, and the signal that stopped the run.

    A function of its own, so that the network, which holds the process group, is gone when it
    returns.
    """
    volumes = (*config.data.train, *config.data.validation)
    ranks.once_a_node(lambda: [prepare_volume(volume, config.data.synthetic) for volume in volumes])
    facts = ranks.once_a_node(lambda: inspect_run(config))
    if config.loop.volumes_every or config.loop.monitor != "val/loss":
        scored_volumes(config)  # refuses what cannot be scored, before any work
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
    trainer.volumes = to_plain(facts)
    trainer.begin(resume, dataset, validation)
    try:
        with closing(trainer.monitor):
            if ranks.is_main:
                trainer.introduce(config, [*changes, *resolved.changes], resolved.choices)
            return trainer.folder, trainer.run(signals)
    except BaseException:
        if ranks.is_main and resume is None and not trainer.begun:
            shutil.rmtree(trainer.folder)
        raise


def read_first_patches(*mixes: Dataset | None) -> None:
    """Read a patch of each volume; ValueError for one that cannot be read or has no labels."""
    for mix in mixes:
        if mix is not None:
            for patches in mix.datasets:
                patches[0]


class Trainer:
    """A run: what takes its steps, and by `begin` its state, its folder and its batches."""

    def __init__(self, config: Config, ranks: Ranks, device: torch.device):
        """ValueError if the network, the patches and the precision do not fit together."""
        self.config, self.loop, self.optim = config, config.loop, config.optim
        self.ranks, self.device = ranks, device

        # Data: what becomes of a batch between the loader and the network.
        samples_per_batch = ranks.world * config.loop.batch_size
        self.preparation = Preparation(config, device, samples_per_batch * self.optim.accumulate)
        self.clock = Clock(samples_per_batch, device)

        # Network: the weights, and the form of it that is called.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.loop.seed)
            self.model = build_model(config, device, quiet=True)
        self.model.require_size(config.data.patch_size)
        network = torch.compile(self.model) if config.system.compile else self.model
        if ranks.world > 1:
            distributed.lay_out_gradients(self.model)
            network = DistributedDataParallel(network)
        self.network = network
        self.average = MovingAverage(self.model, self.optim) if self.optim.ema_decay else None
        self.judged = self.average.model if self.average else self.model

        # Optimisation: one precision on all ranks.
        multiple = self.model.size_multiple
        patch = config.data.patch_size[-len(multiple) :]
        self.coarsest = min(n // m for n, m in zip(patch, multiple))
        self.precision = hardware.choose_precision(
            config.system, device, config.model, self.coarsest
        )
        precisions = ranks.gather(self.precision)
        same = len(set(precisions)) == 1
        require(same, "one precision on all ranks, by --system.precision", precisions)
        self.loss = build_loss(config.loss)
        self.optimizer = build_optimizer(self.model, self.optim)
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.precision == "fp16")

        # State: everything that the rest of a run depends on, and that a checkpoint keeps.
        self.parts = {
            "model": self.model,
            "average": self.average and self.average.model,
            "optimizer": self.optimizer,
            "scaler": self.scaler,
        }
        self.first_step, self.skipped, self.skipped_in_a_row = 0, 0, 0
        self.volumes: list[dict] = []  # facts of the training volumes, saved with each checkpoint

        # Output: none before `begin`.
        self.monitor = Silent()
        self.begun = False  # whether a step was taken, or skipped

    def begin(self, resume: Path | None, dataset: Dataset, validation: Dataset | None) -> None:
        """Take up the state of the run `resume`, or make a new run; load batches from now on.

        dataset, validation: the training and validation patches.
        """
        ranks, device = self.ranks, self.device
        scores = {}
        if resume is None:
            report = initialise(self.model, self.config.model)
            if self.average:
                self.average.model.load_state_dict(self.model.state_dict())
            if report and ranks.is_main:
                LOGGER.info(report)
        else:
            scores = self.restore(resume)
            require(
                self.first_step <= self.loop.max_steps,
                f"--loop.max-steps of {self.first_step} or more, as {resume} is at this step",
                self.loop.max_steps,
            )

        numbers = step_numbers(
            self.first_step, self.loop.batch_size, self.optim.accumulate, ranks.rank, ranks.world
        )
        self.batches = iter(self.load(dataset, numbers))
        mine = range(ranks.rank, self.config.data.val_samples, ranks.world)
        self.val_batches = self.load(Subset(validation, mine)) if validation is not None else None
        self.clock = Clock(ranks.world * self.loop.batch_size, device)

        # Last, as everything above may refuse to start.
        folder = None
        if ranks.is_main:
            folder = resume or create_run(self.config.name)
        self.folder = ranks.gather(folder)[0]
        validates = validation is not None or self.loop.monitor != "val/loss"
        self.keeper = Keeper(self.folder / "checkpoints", self.loop, scores, validates)
        if ranks.is_main:
            self.monitor = Monitor(self.folder, self.first_step, self.loop.max_steps)

    def restore(self, resume: Path) -> dict[int, float]:
        """Take up the state of the newest good checkpoint; returns the kept ones' scores."""
        state = next(good_checkpoints(resume / "checkpoints", set(), self.device), None)
        require(state, f"a good checkpoint in {resume}/checkpoints", None)
        for name, part in self.parts.items():
            if name == "scaler" and not state[name]:
                continue  # the precision before had none
            if part is not None:
                part.load_state_dict(state[name])
        self.first_step = state["step"]
        self.skipped = state["skipped"]
        self.skipped_in_a_row = state["skipped_in_a_row"]
        return state["scores"]

    def load(self, dataset, sampler=None) -> DataLoader:
        workers = hardware.choose_workers(self.config.system, self.device, self.ranks.local_world)
        processes = (
            {
                "multiprocessing_context": START_METHOD,
                "worker_init_fn": distributed.live_with_parent,
                "persistent_workers": True,
            }
            if workers
            else {}
        )
        if workers:
            distributed.start_forkserver()
        return DataLoader(
            dataset,
            self.loop.batch_size,
            sampler=sampler,
            num_workers=workers,
            pin_memory=self.device.type == "cuda",
            **processes,
        )

    def run(self, signals: list[signal.Signals]) -> signal.Signals | None:
        """Train to the last step, or until a signal comes; returns the signal."""
        for step in range(self.first_step, self.loop.max_steps):
            done = step + 1
            logged = self.is_due(done, self.loop.log_every)
            stop, figures, example = self.train_step(step, bool(signals), detailed=logged)
            self.begun = True
            if logged:
                self.monitor.record(done, figures | self.clock.figures())
            if self.is_due(done, self.loop.images_every):
                self.monitor.panel(done, *example)
            scores = (
                self.validate()
                if self.val_batches is not None and self.is_due(done, self.loop.val_every)
                else {}
            )
            if self.is_due(done, self.loop.volumes_every) and not stop:
                self.save(done, {})  # what follows may take longer than a signal gives
                folder = self.folder / "validation"
                scores |= validate_volumes(
                    self.judged, self.config, self.device, folder, self.ranks
                )
            if scores:
                self.monitor.record(done, scores)
                shown = sorted({"val/loss", self.loop.monitor} & scores.keys())
                self.monitor.say(
                    f"step {done}: " + "  ".join(f"{name} {scores[name]:.4f}" for name in shown)
                )
                self.clock.restart()
            if scores or stop or self.is_due(done, self.loop.checkpoint_every):
                self.save(done, scores)
            if stop and done < self.loop.max_steps:
                # a scheduler may end all with the first that leaves: not before the checkpoint
                received = self.ranks.gather(signals[0] if signals else None)
                stopped = next(one for one in received if one is not None)
                to_go_on = command_line("train", ["--resume", str(self.folder)])
                self.monitor.say(
                    f"stopped by {stopped.name} after step {done}; {to_go_on} continues"
                )
                return stopped
        return None

    def is_due(self, done: int, every: int) -> bool:
        """Whether something that is done every so many steps, and at the end, is to be done now.

        Never for 0.
        """
        return every > 0 and (done % every == 0 or done == self.loop.max_steps)

    def save(self, done: int, scores: dict[str, float]) -> None:
        """Save all that the rest of the run depends on after `done` steps, as plain types."""
        if self.ranks.is_main:
            parts = {
                name: part if part is None else part.state_dict()
                for name, part in self.parts.items()
            }
            counts = {
                "step": done,
                "skipped": self.skipped,
                "skipped_in_a_row": self.skipped_in_a_row,
            }
            self.keeper.save(
                {
                    "format": FORMAT,
                    "config": asdict(self.config),
                    "volumes": self.volumes,
                    **counts,
                    **parts,
                },
                scores,
            )

    def train_step(self, step: int, stop: bool, *, detailed: bool):
        """One optimizer step, or none where a loss or gradient is not finite.

        Returns whether `stop` is true on any rank; the step's figures, with `detailed` those of
        each channel, too; and (image, target, valid, logits) of its last batch.
        """
        rate = learning_rate(self.optim, step, self.loop.max_steps)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        losses, details, suspects = [], [], []
        for micro in range(self.optim.accumulate):
            batch = self.clock.next(self.batches)
            image, labels = self.preparation.augmented(batch)
            targets = self.preparation.targets(labels, self.model.output_strides)
            last = micro == self.optim.accumulate - 1
            with nullcontext() if last or self.ranks.world == 1 else self.network.no_sync():
                with hardware.autocast(self.device, self.precision):
                    outputs = self.network(image)
                weights = self.config.loss.scale_weights
                supervised = deep_supervision_loss(
                    outputs, targets, self.loss, weights, self.ranks.mean_count
                )
                self.scaler.scale(supervised.total / self.optim.accumulate).backward()
            logits = finest(outputs)
            losses.append(supervised.total.detach())
            details.append(torch.cat((supervised.scales, supervised.terms)))
            suspects.append((batch["number"], logits.detach()))
        told = torch.cat(
            (
                losses[0].new_tensor([float(stop)]),
                torch.stack(losses).mean(0, keepdim=True),
                torch.stack(details).mean(0),
            )
        )
        stops, loss, *parts = self.ranks.sum(told).tolist()
        loss /= self.ranks.world

        self.scaler.unscale_(self.optimizer)
        norm = float(
            torch.nn.utils.clip_grad_norm_(
                self.model.parameters(), self.optim.clip_norm or math.inf
            )
        )
        if math.isfinite(loss) and math.isfinite(norm):
            self.scaler.step(self.optimizer)
            if self.average:
                self.average.update(self.model, step)
            self.skipped_in_a_row = 0
        elif math.isfinite(loss) and self.scaler.get_scale() > 1:
            # which it does not do: too large a scale for float16 is no failure
            self.scaler.step(self.optimizer)
        else:
            self.skip(step, loss, norm, suspects)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)

        figures = {
            "train/loss_total": loss,
            "train/learning_rate": rate,
            "train/gradient_norm": norm,
        }
        if detailed:
            scales = [f"scale_{number}" for number in range(self.model.output_scales)]
            names = [*scales, *self.loss.functions]
            figures |= {
                f"train/loss_{name}": value / self.ranks.world for name, value in zip(names, parts)
            }
            per_channel = channel_losses(logits.detach(), *targets[0], self.loss)
            figures |= {
                f"train/loss_channel_{channel}": value for channel, value in enumerate(per_channel)
            }
            figures["train/skipped_steps"] = self.skipped
        return stops > 0, figures, (image, *targets[0], logits)

    def skip(
        self, step: int, loss: float, norm: float, suspects: list[tuple[torch.Tensor, torch.Tensor]]
    ) -> None:
        """Count and log a step that is not taken.

        RunError if there have been too many in a row.
        """
        self.begun = True
        self.skipped += 1
        self.skipped_in_a_row += 1
        mine = [
            sample
            for numbers, logits in suspects
            for sample in zip(numbers.tolist(), torch.isfinite(logits).flatten(1).all(1).tolist())
        ]
        samples = sorted(sum(self.ranks.gather(mine), []))
        broken = [number for number, finite in samples if not finite] or [
            number for number, _ in samples
        ]
        self.monitor.skipped(step, loss, norm, [self.preparation.name(number) for number in broken])
        if self.skipped_in_a_row >= self.loop.max_skipped:
            raise RunError(
                f"{self.skipped_in_a_row} steps in a row were skipped, the last of them step "
                f"{step}, with loss {loss} and gradient norm {norm}; {self.folder}/log.jsonl names "
                "the samples"
            )

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """The loss over the fixed validation patches, of the moving average where there is one.

        Sums over counts of all patches: it does not depend on how they are dealt to ranks.
        """
        self.judged.eval()
        sums = torch.zeros(2, len(self.loss.functions), dtype=torch.float64, device=self.device)
        for batch in self.val_batches:
            image, labels = self.preparation.plain(batch)
            ((target, valid),) = self.preparation.targets(labels, self.model.output_strides[:1])
            with hardware.autocast(self.device, self.precision):
                outputs = finest(self.judged(image))
            sums += torch.stack(self.loss.sums(outputs, target, valid))
        self.model.train()
        return {"val/loss": self.loss.value(*self.ranks.sum(sums)).item()}

    def introduce(
        self, asked: Config, changes: list[Change], choices: list[hardware.Choice]
    ) -> None:
        """Save what the run is made of, and say it.

        Args:
            asked: the config before it was resolved.
            changes: what became of it.
            choices: rows that the table of the machine gets besides `hardware.survey`'s.
        """
        system, model, local_ranks = self.config.system, self.config.model, self.ranks.local_world
        choices = [
            *hardware.survey(system, self.device, model, local_ranks, self.coarsest),
            *choices,
        ]
        if system.auto and messages.are_shown():
            hardware.print_table(choices)
        if changes:
            LOGGER.info(describe(changes))
        found = {name: {"value": value, "reason": reason} for name, value, reason in choices}
        write_json(self.folder / "hardware.json", found)
        write_resolved(self.folder, asked, self.config, changes)
        write_json(
            self.folder / "environment.json",
            {
                "pytc": __version__,
                "torch": torch.__version__,
                "python": platform.python_version(),
                "command": sys.argv,
                "host": platform.node(),
                "device": str(self.device),
                "precision": self.precision,
                "ranks": self.ranks.world,
                "samples_per_step": self.preparation.samples_per_step,
                "threads": torch.get_num_threads(),
                "pid": os.getpid(),
            },
        )
        parameters = self.model.get_model_info()["parameters"]
        LOGGER.info(
            f"run {self.folder}: {self.config.model.architecture}, {parameters:,} parameters, "
            f"{self.ranks.world} x {self.device}, {torch.get_num_threads()} threads, "
            f"{self.precision}, steps {self.first_step} to {self.loop.max_steps}"
        )
        if hint := hardware.torchrun_hint(self.device, self.ranks.world):
            LOGGER.info(hint)
        if self.config.system.compile:
            LOGGER.info("compiling the network: the first step takes minutes")
