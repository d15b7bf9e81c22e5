"""What a run writes and prints once, before its first step."""

from __future__ import annotations

import logging
import os
import platform
import sys
from typing import TYPE_CHECKING

import torch

from pytc import __version__, hardware, messages
from pytc.config import Config
from pytc.runs import write_json
from pytc.training.resolve import Change, describe, write_resolved

if TYPE_CHECKING:
    from pytc.training.loop import Run
    from pytc.training.trainer import Trainer

LOGGER = logging.getLogger(__name__)


def introduce(
    run: Run, asked: Config, changes: list[Change], choices: list[hardware.Choice]
) -> None:
    """Write hardware.json, config.json, resolved.json and environment.json; print what will run.

    Args:
        run: before its first step.
        asked: the config before it was resolved.
        changes: what was changed in it, and why.
        choices: rows of the hardware table in addition to those of `hardware.survey`.
    """
    trainer, config, folder = run.trainer, run.config, run.folder
    choices = [*survey(trainer), *choices]
    if config.system.auto and messages.are_shown():
        hardware.print_table(choices)
    if changes:
        LOGGER.info(describe(changes))
    found = {name: {"value": value, "reason": reason} for name, value, reason in choices}
    write_json(folder / "hardware.json", found)
    write_resolved(folder, asked, config, changes)
    write_json(folder / "environment.json", environment(trainer))
    parameters = trainer.model.get_model_info()["parameters"]
    LOGGER.info(
        f"run {folder}: {config.model.architecture}, {parameters:,} parameters, "
        f"{trainer.ranks.world} x {trainer.device}, {torch.get_num_threads()} threads, "
        f"{trainer.precision}, steps {run.first_step} to {config.loop.max_steps}"
    )
    hint = hardware.torchrun_hint(trainer.device, trainer.ranks.world)
    if hint:
        LOGGER.info(hint)
    if config.system.compile:
        LOGGER.info("compiling the network: the first step takes minutes")


def survey(trainer: Trainer) -> list[hardware.Choice]:
    """What this machine has, and what was chosen for the run."""
    return hardware.survey(
        trainer.config.system,
        trainer.device,
        trainer.config.model,
        trainer.ranks.local_world,
        trainer.coarsest,
    )


def environment(trainer: Trainer) -> dict[str, object]:
    """The versions, the command and the machine of a run."""
    return {
        "pytc": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "command": sys.argv,
        "host": platform.node(),
        "device": str(trainer.device),
        "precision": trainer.precision,
        "ranks": trainer.ranks.world,
        "samples_per_step": trainer.preparation.samples_per_step,
        "threads": torch.get_num_threads(),
        "pid": os.getpid(),
    }
