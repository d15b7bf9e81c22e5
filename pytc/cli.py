"""The three scripts: arguments in, one call of the package out.

Heavy imports wait until the arguments are read.
"""

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import tyro

from pytc.checks import require
from pytc.commands import EvaluateConfig, InferConfig, TrainCommand
from pytc.config import Config, VolumeConfig
from pytc.config_files import ConfigFile, read_config_file
from pytc.models import check_options
from pytc.python_files import load_plugins
from pytc.renames import DOCUMENTED_FLAGS, config_from_plain
from pytc.runs import (
    export_config,
    find_run,
    load_config,
    newest_run,
    require_writable,
    runs_folder,
)
from pytc.script import command_line, program_of, script, told_by_one_rank
from pytc.training.resolve import NO_GPU, check_asked, check_resumed, cpu_variant, differences


def train(arguments: list[str] | None = None) -> None:
    """torchrun train.py --config FILE.py [--section.field value ...] [--resume [RUN]]"""
    with script(
        f"interrupted at once; {command_line('train', ['--resume'])} continues from the last "
        "checkpoint, where there is one"
    ):
        first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
        first.add_argument("--config", type=Path)
        first.add_argument("--resume", nargs="?", const="")
        given, rest = first.parse_known_args(arguments)
        require(
            given.config is None or given.resume is None,
            "--resume alone, as a run continues with its own config and flags",
            f"--config {given.config}",
        )
        resume = None
        if given.resume is not None:
            resume = _run_to_resume(given.resume)

        file = ConfigFile(Config(), has_cpu_variant=True)
        if given.config is not None:
            file = read_config_file(given.config)
        if resume is not None:
            file = ConfigFile(load_config(resume))
        flags = named_flags(rest)
        default = with_named_fields(file.config, flags)
        # The files that a run names are loaded only where they are named again.
        of_a_run = resume is not None or file.is_of_a_run
        if of_a_run:
            default = replace(default, plugins=())
        config = parse_config(rest, default, given.config, resume)
        require_writable(resume if resume else runs_folder())
        check_volumes((*config.data.train, *config.data.validation), config)
        load_plugins(config.plugins)
        if of_a_run and not config.plugins:
            config = replace(config, plugins=file.config.plugins)
        if resume is None:
            check_asked(config)
        else:
            check_resumed(config, resume)

        # From here on torch is loaded: what is wrong so far was told at once.
        from pytc import hardware
        from pytc.training.distributed import read_environment
        from pytc.training.loop import train

        changes = []
        on_cpu = hardware.choose_device(config.system).type == "cpu"
        if file.has_cpu_variant and config.system.cpu_variant and on_cpu:
            variant = cpu_variant(default, flags)
            config = parse_config(rest, variant, given.config, resume)
            made = differences(default, variant, NO_GPU)
            changes = [change for change in made if change.field not in flags]
        check_options(config.model.architecture, flags)
        run = train(config, resume, flags=flags, changes=changes)
        if read_environment().is_main:
            print(f"trained: {run}")
            print(f"next: {command_line('infer', ['--run', str(run)])}")


def parse_config(
    arguments: list[str], default: Config, file: Path | None, resume: Path | None
) -> Config:
    """The config that the flags make of the default."""
    command = TrainCommand(file, str(resume) if resume else None, default)
    with told_by_one_rank():
        return tyro.cli(
            TrainCommand, args=arguments, default=command, prog=program_of("train")
        ).settings


def named_flags(arguments: list[str]) -> set[str]:
    """The fields that a command line names, e.g. system.cpu_variant for --system.no-cpu-variant.

    ValueError for a flag that the documents behind this library have under another name.
    """
    flags = set()
    for argument in arguments:
        if argument.startswith("--"):
            flag = argument.partition("=")[0]
            field = flag.removeprefix("--").replace("-", "_")
            if field in DOCUMENTED_FLAGS:
                raise ValueError(f"expected {DOCUMENTED_FLAGS[field]} in place of {flag}")
            section, dot, name = field.rpartition(".")
            flags.add(f"{section}{dot}{name.removeprefix('no_')}")
    return flags


def with_named_fields(config: Config, flags: set[str]) -> Config:
    """The config made ready for flags that need more than a field's value.

    Volumes that only the command line names, e.g. by --data.train.1.image, get a place; the length
    of a config in epochs gives way to --loop.max-steps. ValueError for a volume without an image.
    """
    data = config.data
    for part in ("train", "val"):
        volumes = list(getattr(data, part))
        while any(flag.startswith(f"data.{part}.{len(volumes)}.") for flag in flags):
            prefix = f"data.{part}.{len(volumes)}"
            require(f"{prefix}.image" in flags, f"--{prefix}.image for a volume of its own", None)
            volumes.append(VolumeConfig())
        data = replace(data, **{part: tuple(volumes)})
    loop = config.loop
    if "loop.max_steps" in flags:
        require("loop.epochs" not in flags, "--loop.max-steps or --loop.epochs, not both", "both")
        loop = replace(loop, epochs=None)
    return replace(config, data=data, loop=loop)


def _run_to_resume(name: str) -> Path:
    """The folder of the run of that path or name, or of the newest where it is empty."""
    if not name:
        return newest_run("checkpoints/last.pt")
    expected = "a run to --resume; from a file of weights --model.pretrained starts a new one"
    require(not Path(name).is_file(), expected, name)
    return find_run(name)


def infer(arguments: list[str] | None = None) -> None:
    """python infer.py [--run RUN] [--input IMAGE --output FOLDER] [--segmentation.field value]"""
    with script("interrupted; the same call continues after the last block that was predicted"):
        first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
        first.add_argument("--run")
        given, rest = first.parse_known_args(arguments)
        default = InferConfig(run=given.run)
        asks_for_help = bool({"-h", "--help"} & set(rest))
        if given.run or not asks_for_help:
            run = given.run or str(newest_run("checkpoints/last.pt"))
            trained = _config_of(run)
            if not asks_for_help:
                print(f"run: {run}", flush=True)
            default = InferConfig(
                run,
                inference=trained.inference,
                segmentation=trained.segmentation,
                system=trained.system,
            )
        config = tyro.cli(InferConfig, args=rest, default=default, prog=program_of("infer"))

        require_writable(Path(config.output or find_run(config.run) / "predictions"))
        if config.input is not None:
            check_volumes((config.input_volume(),), trained)

        from pytc.inference.pipeline import infer

        infer(config)


def _config_of(name: str) -> Config:
    """The config of a run, or of a file of weights; of most without loading torch."""
    if Path(name).suffix == ".safetensors":
        return export_config(Path(name))
    run = find_run(name)
    if Path(name).is_file() and run != Path(name).parent.parent:
        from pytc.models.checkpoint import load_checkpoint

        return config_from_plain(load_checkpoint(Path(name))["config"])
    return load_config(run)


def evaluate(arguments: list[str] | None = None) -> None:
    """python evaluate.py [--run RUN] [--sweep] [--affinities A] [--labels L] [--output D] ..."""
    with script("interrupted; the next call starts anew"):
        config = tyro.cli(EvaluateConfig, args=arguments, prog=program_of("evaluate"))

        from pytc.evaluate import evaluate

        evaluate(config)


def check_volumes(volumes: Sequence[VolumeConfig], config: Config) -> None:
    """Open what will be read, before torch is loaded; ValueError names what is missing or unfit.

    Synthetic volumes are left out: they may not have been made yet.
    """
    from pytc.data.sources import open_source

    for volume in volumes:
        if not volume.is_synthetic:
            open_source(volume, config.data, config.model.in_channels)
