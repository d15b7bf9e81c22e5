"""The training loop, from a config to a run on disk. Start reading at `Trainer.run`."""

from __future__ import annotations

import math
import os
import platform
import sys
import time
from contextlib import nullcontext
from dataclasses import asdict, replace
from pathlib import Path

import torch
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, Subset

from pytc import __version__, hardware
from pytc.config import Config
from pytc.data.patches import StepSampler, train_dataset, val_dataset
from pytc.data.random import sample_key
from pytc.data.recipe import augment, section_axis
from pytc.data.sources import open_source, prepare_volume
from pytc.data.targets import make_targets
from pytc.losses import build_loss, deep_supervision_loss
from pytc.models import build_model
from pytc.models.checkpoint import load_checkpoint
from pytc.runs import create_run, write_json
from pytc.training.checkpoint import Keeper, training_state
from pytc.training.distributed import Ranks, joined, read_environment
from pytc.training.monitor import Monitor
from pytc.training.optim import MovingAverage, build_optimizer, learning_rate

START_METHOD = "forkserver"  # the threads of tensorstore and of the main process do not survive a fork


def train(config: Config, resume: Path | None = None) -> Path:
    """Train as `config` says, or continue the run in the folder `resume`; returns the folder of the run.

    ValueError if the data do not fit the config; RuntimeError if the loss stops being finite.
    """
    ranks = read_environment()
    device = hardware.choose_device(config.system, ranks.local_rank)
    torch.set_num_threads(config.system.threads or max(1, hardware.cpu_count() // ranks.local_world))
    torch.backends.cudnn.benchmark = device.type == "cuda"
    with joined(ranks, device):
        if ranks.is_main:
            for volume in (*config.data.train, *config.data.val):
                prepare_volume(volume, config.data.synthetic)
        ranks.share(None)  # the others wait for the volumes
        return Trainer(config, resume, ranks, device).run()


class Trainer:
    """A run: built from its config, or from its last checkpoint."""

    def __init__(self, config: Config, resume: Path | None, ranks: Ranks, device: torch.device):
        self.ranks, self.device = ranks, device
        self.global_batch = ranks.world * config.optim.accumulate * config.loop.batch_size
        dataset = train_dataset(config)
        if config.loop.epochs is not None:
            steps = math.ceil(config.loop.epochs * len(dataset) / self.global_batch)
            config = replace(config, loop=replace(config.loop, max_steps=steps, epochs=None))
        self.config, self.loop, self.optim = config, config.loop, config.optim
        sources = [open_source(volume, config.data.synthetic) for volume in config.data.train]
        self.voxel_size = _least_isotropic([source.voxel_size for source in sources])

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.loop.seed)
            self.model = build_model(config.model).to(device)
        self.model.require_size(config.data.patch_size)
        self.average = MovingAverage(self.model, self.optim) if self.optim.ema_decay else None
        self.optimizer = build_optimizer(self.model, self.optim, device)
        self.precision = hardware.choose_precision(config.system, device, config.model)
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.precision == "fp16")
        self.loss = build_loss(config.loss)
        self.first_step, scores = self.restore(resume) if resume else (0, {})
        self.network = DistributedDataParallel(self.model) if ranks.world > 1 else self.model

        self.folder = ranks.share((resume or create_run(config.name)) if ranks.is_main else None)
        self.keeper = Keeper(self.folder / "checkpoints", self.loop.monitor, self.loop.keep_checkpoints, scores)
        self.batches = iter(self.load(dataset, StepSampler(self.first_step, self.loop.batch_size, self.optim.accumulate,
                                                           ranks.rank, ranks.world)))  # fmt: skip
        validation = val_dataset(config)
        mine = range(ranks.rank, config.data.val_samples, ranks.world)
        self.val_batches = self.load(Subset(validation, mine)) if validation is not None else None

    def restore(self, resume: Path) -> tuple[int, dict[int, float]]:
        """Take up the state of the last checkpoint; returns its step and the scores of the kept checkpoints."""
        state = load_checkpoint(resume / "checkpoints" / "last.pt", self.device)
        self.model.load_state_dict(state["model"])
        if self.average:
            self.average.model.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        return state["step"], state["scores"]

    def load(self, dataset, sampler=None) -> DataLoader:
        workers = hardware.choose_workers(self.config.system, self.device, self.ranks.local_world)
        return DataLoader(dataset, self.loop.batch_size, sampler=sampler, num_workers=workers,
                          multiprocessing_context=START_METHOD if workers else None,
                          pin_memory=self.device.type == "cuda", persistent_workers=workers > 0)  # fmt: skip

    def run(self) -> Path:
        """Train to the last step; returns the folder of the run."""
        self.introduce()
        monitor = Monitor(self.folder, self.first_step, self.loop.max_steps, is_main=self.ranks.is_main)
        clock, counted = time.perf_counter(), self.first_step
        for step in range(self.first_step, self.loop.max_steps):
            figures, example = self.train_step(step)

            done, last = step + 1, step + 1 == self.loop.max_steps
            if done % self.loop.log_every == 0 or last:
                speed = (done - counted) * self.global_batch / (time.perf_counter() - clock)
                monitor.progress(done, figures["train/loss"], speed)
                monitor.record(done, {**figures, "train/samples_per_second": speed})
                clock, counted = time.perf_counter(), done
            if done % self.loop.images_every == 0:
                monitor.panel(done, *example)
            validated = {}
            if self.val_batches is not None and (done % self.loop.val_every == 0 or last):
                validated = self.validate()
                monitor.record(done, validated)
                monitor.say(f"step {done}: " + "  ".join(f"{name} {value:.4f}" for name, value in validated.items()))
                clock, counted = time.perf_counter(), done
            if self.ranks.is_main and (validated or done % self.loop.checkpoint_every == 0 or last):
                state = training_state(self.config, done, self.model, self.average, self.optimizer, self.scaler)
                self.keeper.save(state, validated)
        monitor.close()
        return self.folder

    def train_step(self, step: int) -> tuple[dict[str, float], tuple[torch.Tensor, ...]]:
        """One optimizer step; returns its figures, and (image, target, logits) of its last batch."""
        rate = learning_rate(self.optim, step, self.loop.max_steps)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        scales = self.model.output_scales if self.config.model.deep_supervision else self.model.output_scales[:1]

        losses = []
        for micro in range(self.optim.accumulate):
            image, labels = self.prepare(next(self.batches), augmented=True)
            targets = self.targets(labels, scales)
            last = micro == self.optim.accumulate - 1
            with nullcontext() if last or self.ranks.world == 1 else self.network.no_sync():
                with self.autocast():
                    outputs = self.network(image)
                weights = self.config.loss.scale_weights
                total, per_scale = deep_supervision_loss(outputs, targets, self.loss, weights, self.ranks.mean_count)
                self.scaler.scale(total / self.optim.accumulate).backward()
            losses.append(total.detach())
        loss = float(self.ranks.sum(torch.stack(losses).mean())) / self.ranks.world
        if not math.isfinite(loss):
            raise RuntimeError(f"the loss is {loss} at step {step} of seed {self.loop.seed}; resume from last.pt")

        self.scaler.unscale_(self.optimizer)
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.optim.clip_norm or math.inf)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        if self.average:
            self.average.update(self.model, step)
        figures = {"train/loss": loss, "train/learning_rate": rate, "train/gradient_norm": float(norm)}
        figures |= {f"train/loss_{name}": float(value) for name, value in per_scale.items()}
        finest = outputs["output"] if isinstance(outputs, dict) else outputs
        return figures, (image, targets[0][0], finest)

    def prepare(self, batch: dict, *, augmented: bool) -> tuple[torch.Tensor, torch.Tensor]:
        """A batch on the device: image (B, C, Z, Y, X) float32 in [0, 1], labels (B, Z, Y, X) int32."""
        image = batch["image"].to(self.device, non_blocking=True)
        labels = batch["labels"].to(self.device, non_blocking=True)
        if not augmented:
            return image.float() / 255 if image.dtype == torch.uint8 else image, labels
        numbers = (divmod(n, self.global_batch) for n in batch["number"].tolist())
        keys = torch.tensor([sample_key(self.loop.seed, step, index) for step, index in numbers])
        return augment(image, labels, keys, self.config.augment, self.voxel_size)

    def targets(self, labels: torch.Tensor, scales) -> list[tuple[torch.Tensor, torch.Tensor]]:
        return make_targets(labels, self.config.target, scales, section_axis(self.voxel_size))

    def autocast(self):
        dtype = hardware.PRECISIONS[self.precision]
        return torch.autocast(self.device.type, dtype, enabled=self.precision != "fp32")

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """The loss over the fixed validation patches, of the moving average where there is one."""
        model = (self.average.model if self.average else self.model).eval()
        sums = torch.zeros(2, device=self.device)
        for batch in self.val_batches:
            image, labels = self.prepare(batch, augmented=False)
            targets = self.targets(labels, self.model.output_scales[:1])
            with self.autocast():
                outputs = model(image)
            total, _ = deep_supervision_loss(outputs, targets, self.loss)
            sums += torch.stack((total * len(image), torch.ones_like(total) * len(image)))
        self.model.train()
        total, count = self.ranks.sum(sums).tolist()
        return {"val/loss": total / count}

    def introduce(self) -> None:
        """Save what the run is made of, and say it."""
        if not self.ranks.is_main:
            return
        write_json(self.folder / "config.json", asdict(self.config))
        write_json(self.folder / "environment.json", {
            "pytc": __version__, "torch": torch.__version__, "python": platform.python_version(),
            "command": sys.argv, "host": platform.node(), "device": str(self.device), "precision": self.precision,
            "ranks": self.ranks.world, "threads": torch.get_num_threads(), "pid": os.getpid(),
        })  # fmt: skip
        print(f"run {self.folder}: {self.config.model.architecture}, {self.model.info()['parameters']:,} parameters, "
              f"{self.ranks.world} x {self.device}, {torch.get_num_threads()} threads, {self.precision}, "
              f"steps {self.first_step} to {self.loop.max_steps}", flush=True)  # fmt: skip


def _least_isotropic(voxel_sizes: list[tuple[float, ...]]) -> tuple[float, ...]:
    """The voxel size that allows the fewest axes to be exchanged."""
    return min(voxel_sizes, key=lambda size: sum(a == b for a in size for b in size))
