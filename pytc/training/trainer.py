"""Trainer: the network, its optimizer and the loss, which take the steps of a run."""

import math
from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from dataclasses import asdict
from typing import Any, NamedTuple, cast

import torch
from torch.nn.parallel import DistributedDataParallel

from pytc import hardware
from pytc.checks import require
from pytc.config import Config
from pytc.data.batch import Preparation
from pytc.losses import build_loss, channel_losses, deep_supervision_loss
from pytc.models import build_model
from pytc.models.base import ConnectomicsModel, finest
from pytc.models.checkpoint import FORMAT, Checkpoint
from pytc.models.weights import Report, initialise
from pytc.training import distributed
from pytc.training.distributed import Ranks
from pytc.training.optim import MovingAverage, build_optimizer, learning_rate

Batch = dict[str, Any]  # image, labels and number, see `pytc.data.patches.PatchDataset`


class Example(NamedTuple):
    """What the network saw and gave at full resolution, each (B, C, Z, Y, X)."""

    image: torch.Tensor
    target: torch.Tensor
    valid: torch.Tensor
    logits: torch.Tensor


class Pass(NamedTuple):
    """What is kept of one forward and backward pass, without its graph."""

    numbers: torch.Tensor  # (B,) sample numbers
    logits: torch.Tensor  # (B, C, Z, Y, X)
    loss: torch.Tensor  # ()
    parts: torch.Tensor  # (scales + terms,) the loss of each scale, then of each term


class StepResult(NamedTuple):
    """What `Trainer.train_step` returns."""

    stop: bool  # whether any rank was asked to stop
    scalars: dict[str, float]  # for the log, by name
    example: Example  # of the step's last batch
    # if the step was skipped, (seed, step, index) of the samples that may be the cause
    broken_samples: list[tuple[int, int, int]]


class Trainer:
    """The network of a run, and all that changes with its steps.

    `system.auto` makes one as well, to measure the memory that a step takes.
    """

    def __init__(self, config: Config, ranks: Ranks, device: torch.device):
        """ValueError if the network, the patches and the precision do not fit together."""
        self.config = config
        self.optim = config.optim
        self.ranks = ranks
        self.device = device

        # Data: how a batch becomes what the network takes.
        samples_per_step = ranks.world * config.loop.batch_size * self.optim.accumulate
        self.preparation = Preparation(config, device, samples_per_step)

        # Network: the same initial weights on every rank. `network` is the form that is trained.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.loop.seed)
            self.model = build_model(config, device, quiet=True)
        self.model.require_size(config.data.patch_size)
        self.network: Any = torch.compile(self.model) if config.system.compile else self.model
        if ranks.world > 1:
            distributed.lay_out_gradients(self.model)
            self.network = DistributedDataParallel(self.network)

        # Optimisation: in one precision on all ranks.
        patch = config.data.patch_size[-len(self.model.size_multiple) :]
        self.coarsest = min(n // m for n, m in zip(patch, self.model.size_multiple))
        self.precision = hardware.choose_precision(
            config.system, device, config.model, self.coarsest
        )
        precisions = ranks.gather(self.precision)
        agree = len(set(precisions)) == 1
        require(agree, "one precision on all ranks, by --system.precision", precisions)
        self.loss = build_loss(config.loss, config.target)
        self.optimizer = build_optimizer(self.model, self.optim)
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.precision == "fp16")

        # State: what a checkpoint keeps, besides the weights and the state of the optimizer.
        self.average = MovingAverage(self.model, self.optim) if self.optim.ema_decay else None
        self.skipped = 0
        self.skipped_in_a_row = 0
        self.parent: dict[str, Any] | None = None  # the weights it started from, for the model card

    @property
    def eval_model(self) -> ConnectomicsModel:
        """The network that is validated and used: the moving average if there is one."""
        if self.average is None:
            return self.model
        return cast(ConnectomicsModel, self.average.model)

    def train_step(
        self, step: int, batches: Iterator[Batch], *, stop: bool, detailed: bool
    ) -> StepResult:
        """Take one optimizer step, or skip it if the loss or a gradient is not finite.

        Args:
            step: number of the step, from 0.
            batches: optim.accumulate batches are taken from it.
            stop: whether this rank was asked to stop.
            detailed: return the loss of each scale, term and channel, too.
        """
        rate = learning_rate(self.optim, step, self.config.loop.max_steps)
        for group in self.optimizer.param_groups:
            group["lr"] = rate

        passes = []
        for micro_batch in range(self.optim.accumulate):
            is_last = micro_batch == self.optim.accumulate - 1
            kept, example = self.forward_backward(next(batches), synchronise=is_last)
            passes.append(kept)
        stop, loss, parts = self.sum_over_ranks(stop, passes)

        self.scaler.unscale_(self.optimizer)
        largest = self.optim.clip_norm or math.inf
        norm = float(torch.nn.utils.clip_grad_norm_(self.model.parameters(), largest))
        broken_samples = []
        if math.isfinite(loss) and math.isfinite(norm):
            self.scaler.step(self.optimizer)
            if self.average is not None:
                self.average.update(self.model, step)
            self.skipped_in_a_row = 0
        elif math.isfinite(loss) and self.scaler.get_scale() > 1:
            # The scale was too large for float16, which is no failure: the scaler takes no step.
            self.scaler.step(self.optimizer)
        else:
            self.skipped += 1
            self.skipped_in_a_row += 1
            broken_samples = self.find_broken_samples(passes)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)

        scalars = {
            "train/loss_total": loss,
            "train/learning_rate": rate,
            "train/gradient_norm": norm,
        }
        if detailed:
            scalars |= self.loss_scalars(parts, example)
            scalars["train/skipped_steps"] = self.skipped
        return StepResult(stop, scalars, example, broken_samples)

    def forward_backward(self, batch: Batch, *, synchronise: bool) -> tuple[Pass, Example]:
        """Add the gradients of a batch to those of the step.

        synchronise: average the gradients over the ranks, as is done with a step's last batch.
        """
        image, labels = self.preparation.augmented(batch)
        targets = self.preparation.targets(labels, self.model.output_strides)
        waits = self.ranks.world > 1 and not synchronise
        with self.network.no_sync() if waits else nullcontext():
            with hardware.autocast(self.device, self.precision):
                outputs = self.network(image)
            scale_weights = self.config.loss.scale_weights
            loss = deep_supervision_loss(
                outputs, targets, self.loss, scale_weights, self.ranks.mean_count
            )
            self.scaler.scale(loss.total / self.optim.accumulate).backward()
        logits = finest(outputs)
        parts = torch.cat((loss.scales, loss.terms))
        kept = Pass(batch["number"], logits.detach(), loss.total.detach(), parts)
        return kept, Example(image, *targets[0], logits)

    def sum_over_ranks(self, stop: bool, passes: list[Pass]) -> tuple[bool, float, list[float]]:
        """(whether any rank was asked to stop, the loss, its parts), the same on every rank.

        All are summed in one collective, since each collective costs a wait.
        """
        stops = passes[0].loss.new_tensor([float(stop)])
        loss = torch.stack([kept.loss for kept in passes]).mean(0, keepdim=True)
        parts = torch.stack([kept.parts for kept in passes]).mean(0)
        number_of_stops, *sums = self.ranks.sum(torch.cat((stops, loss, parts))).tolist()
        means = [value / self.ranks.world for value in sums]
        return number_of_stops > 0, means[0], means[1:]

    def loss_scalars(self, parts: list[float], example: Example) -> dict[str, float]:
        """The loss of each scale, term and channel, for the log."""
        scales = [f"scale_{number}" for number in range(self.model.output_scales)]
        values = dict(zip([*scales, *self.loss.functions], parts))
        logits = example.logits.detach()
        per_channel = channel_losses(logits, example.target, example.valid, self.loss)
        values |= {f"channel_{number}": loss for number, loss in enumerate(per_channel)}
        return {f"train/loss_{name}": value for name, value in values.items()}

    def find_broken_samples(self, passes: list[Pass]) -> list[tuple[int, int, int]]:
        """The samples of a step, on all ranks, whose logits are not finite; all if none is."""
        is_finite: dict[int, bool] = {}
        for kept in passes:
            of_each = torch.isfinite(kept.logits).flatten(1).all(1)
            is_finite |= dict(zip(kept.numbers.tolist(), of_each.tolist()))
        for of_rank in self.ranks.gather(is_finite):
            is_finite |= of_rank
        broken = [number for number, finite in is_finite.items() if not finite]
        return [self.preparation.sample_of(number) for number in sorted(broken or is_finite)]

    @torch.no_grad()
    def validation_loss(self, batches: Iterable[Batch]) -> tuple[float, Example | None]:
        """The loss over the validation patches of all ranks, and the first batch of this rank.

        The loss is a ratio of sums and counts over all patches, so it does not depend on how the
        patches are divided among the ranks. A rank may have no batch.
        """
        example = None
        self.eval_model.eval()
        # (2, terms): the sum and the count of each term
        sums = torch.zeros(2, len(self.loss.functions), dtype=torch.float64, device=self.device)
        for batch in batches:
            image, labels = self.preparation.plain(batch)
            ((target, valid),) = self.preparation.targets(labels, self.model.output_strides[:1])
            with hardware.autocast(self.device, self.precision):
                logits = finest(self.eval_model(image))
            sums += torch.stack(self.loss.sums(logits, target, valid))
            example = example or Example(image, target, valid, logits)
        self.model.train()
        return self.loss.value(*self.ranks.sum(sums)).item(), example

    def load_pretrained(self) -> Report | None:
        """Start from the weights that the config names, if any; reports what was taken."""
        report = initialise(self.model, self.config.model)
        if report is not None:
            self.parent = {"weights": str(report.source), "card": report.card}
        if self.average is not None:
            self.average.model.load_state_dict(self.model.state_dict())
        return report

    def checkpoint(self, step: int, volumes: list[dict[str, Any]]) -> Checkpoint:
        """The state after `step` steps, all but the scores. volumes: facts of what it trains on."""
        return Checkpoint(
            format=FORMAT,
            config=asdict(self.config),
            volumes=volumes,
            step=step,
            parent=self.parent,
            skipped=self.skipped,
            skipped_in_a_row=self.skipped_in_a_row,
            model=self.model.state_dict(),
            average=None if self.average is None else self.average.model.state_dict(),
            optimizer=self.optimizer.state_dict(),
            scaler=self.scaler.state_dict(),
        )

    def restore(self, state: Checkpoint) -> None:
        """Continue from a checkpoint."""
        self.model.load_state_dict(state["model"])
        if self.average is not None:
            average = state["average"]
            assert average is not None  # `check_resumed` has refused such a checkpoint
            self.average.model.load_state_dict(average)
        self.optimizer.load_state_dict(state["optimizer"])
        if state["scaler"]:  # empty if the run was not in fp16
            self.scaler.load_state_dict(state["scaler"])
        self.parent = state.get("parent")
        self.skipped = state["skipped"]
        self.skipped_in_a_row = state["skipped_in_a_row"]
