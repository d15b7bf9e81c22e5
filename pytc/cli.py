"""The three scripts: arguments in, one call of the package out.

Heavy imports wait until the arguments are read.
"""

import argparse
import os
import re
import runpy
import sys
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Annotated

import tyro

from pytc import config as config_module
from pytc.checks import suggest
from pytc.commands import EvaluateConfig, InferConfig, readable_errors
from pytc.config import Config, require
from pytc.plugins import load_plugins
from pytc.runs import load_config, newest_run

# Read when torch is loaded: threads that spin while they wait for one another stall where cores are
# shared.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")


@dataclass(frozen=True)
class TrainCommand:
    """Train a network on labelled volumes; a run is written to runs/NAME."""

    config: Path | None = None  # Python file that defines `config`; the fields below override it.
    # Folder of a run to continue from its last checkpoint; alone, the newest run.
    resume: str | None = None
    settings: Annotated[Config, tyro.conf.arg(name="")] = Config()


def train(arguments: list[str] | None = None) -> None:
    """torchrun train.py --config FILE.py [--section.field value ...] [--resume [RUN]]"""
    with readable_errors():
        first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
        first.add_argument("--config", type=Path)
        first.add_argument("--resume", nargs="?", const="")
        given, rest = first.parse_known_args(arguments)
        resume = (
            newest_run("checkpoints/last.pt")
            if given.resume == ""
            else given.resume and Path(given.resume)
        )
        settings = (
            load_config_file(given.config)
            if given.config
            else load_config(resume)
            if resume
            else Config()
        )
        # the files that a run names are loaded only where they are named again
        of_the_run = settings.plugins if resume else ()
        if resume:
            settings = replace(settings, plugins=())
        command = TrainCommand(given.config, str(resume) if resume else None, settings)
        config = tyro.cli(TrainCommand, args=rest, default=command, prog="train.py").settings
        load_plugins(config.plugins)
        if not config.plugins:
            config = replace(config, plugins=of_the_run)

        from pytc import hardware
        from pytc.training.distributed import read_environment
        from pytc.training.loop import train

        say = print if read_environment().is_main else lambda line, **_: None
        if (
            resume is None
            and config.system.cpu_variant
            and hardware.choose_device(config.system).type == "cpu"
        ):
            config = hardware.cpu_variant(config)
            say(
                "no GPU here: training a small variant of this recipe, made for a CPU "
                "(--system.no-cpu-variant trains the full recipe)",
                flush=True,
            )
        say(f"trained: {train(config, resume)}")


def infer(arguments: list[str] | None = None) -> None:
    """python infer.py [--run RUN] [--input IMAGE --output FOLDER] [--segmentation.field value]"""
    with readable_errors():
        first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
        first.add_argument("--run")
        given, rest = first.parse_known_args(arguments)
        default = InferConfig(run=given.run)
        if not {"-h", "--help"} & set(rest):
            run = Path(given.run) if given.run else newest_run("checkpoints/last.pt")
            print(f"run: {run}", flush=True)
            trained = load_config(run)
            default = InferConfig(
                str(run),
                inference=trained.inference,
                segmentation=trained.segmentation,
                system=trained.system,
            )
        config = tyro.cli(InferConfig, args=rest, default=default, prog="infer.py")

        from pytc.inference.pipeline import infer

        infer(config)


def evaluate(arguments: list[str] | None = None) -> None:
    """python evaluate.py [--run RUN] [--sweep] [--affinities A] [--labels L] [--output D] ..."""
    with readable_errors():
        config = tyro.cli(EvaluateConfig, args=arguments, prog="evaluate.py")

        from pytc.evaluation.report import evaluate

        evaluate(config)


def load_config_file(path: Path) -> Config:
    """The `config` that a Python file, which may import others of its folder, defines.

    ValueError if there is none.
    """
    if not path.is_file():
        others = sorted(p.name for p in path.parent.glob("*.py"))
        raise ValueError(f"expected a config file, found no {path}{suggest(path.name, others)}")
    sys.path.insert(0, str(path.parent.resolve()))
    try:
        config = runpy.run_path(str(path)).get("config")
    except TypeError as error:
        found = re.match(
            r"(\w+)\.__init__\(\) got an unexpected keyword argument '(\w+)'", str(error)
        )
        known = (
            fields(getattr(config_module, found[1]))
            if found and hasattr(config_module, found[1])
            else ()
        )
        near = suggest(found[2], [f.name for f in known]) if found else ""
        # what a newer Python adds to its message, a suggestion of its own, is left out
        message = found[0] if found else error
        raise ValueError(f"{path}: {message}{near}") from error
    finally:
        sys.path.pop(0)
    require(
        isinstance(config, Config), f"{path} to define config = Config(...)", type(config).__name__
    )
    return config
