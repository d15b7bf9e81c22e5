"""The three scripts, train.py, infer.py and evaluate.py: arguments in, one call of the package out.

Help and errors in the arguments must come at once: torch is imported after they are read.
"""

import argparse
import ctypes
import logging
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from pytc.checks import require
from pytc.commands import (
    CheckCommand,
    EvaluateConfig,
    InferConfig,
    TrainCommand,
    parse,
    parse_words,
)
from pytc.config import Config, SystemConfig, VolumeConfig
from pytc.config_files import ConfigFile, read_config_file
from pytc.help import ALL_FLAGS, answer_help, field_texts
from pytc.inference.settings import config_of_run, settings_of_run
from pytc.messages import QUIET, QUIET_HELP, begin_verb
from pytc.models import check_options
from pytc.python_files import load_plugins
from pytc.renames import DOCUMENTED_FLAGS, refuse_renamed_flags
from pytc.runs import (
    find_run,
    load_config,
    newest_run,
    require_writable,
    runs_folder,
)
from pytc.script import command_line, printed_by_one_rank, program_of, script
from pytc.training.resolve import (
    NO_GPU,
    check_asked,
    check_resumed,
    cpu_variant,
    differences,
    network_of_weights,
)

if TYPE_CHECKING:
    from pytc.data.sources import Source

LOGGER = logging.getLogger(__name__)

DRIVERS = ("/dev/nvidiactl", "/dev/kfd")  # of NVIDIA, and of AMD: torch calls both cuda


def train(arguments: list[str] | None = None) -> None:
    """torchrun train.py --config FILE.py [--section.field value ...] [--resume [RUN]]"""
    to_go_on = command_line("train", ["--resume"])
    interrupted = (
        f"interrupted at once; {to_go_on} continues from the last checkpoint, where there is one"
    )
    with script(interrupted):
        config_path, resume, words = _read_first_flags(begin_verb(arguments))
        refuse_renamed_flags(words)
        file = _starting_config(config_path, resume)
        flags = named_flags(words)
        default = with_named_fields(file.config, flags)
        # The plugins of a run are loaded only where the command line names them again.
        of_a_run = resume is not None or file.is_of_a_run
        if of_a_run:
            default = replace(default, plugins=())
        config = parse_config(words, default, config_path, resume)

        _check_gpu(config.system)
        require_writable(resume or runs_folder())
        check_objects(check_volumes(config.data.train, config))
        check_volumes(config.data.validation, config)
        load_plugins(config.plugins)
        if of_a_run and not config.plugins:
            config = replace(config, plugins=file.config.plugins)
        if resume is None:
            check_asked(config)
        else:
            check_resumed(config, resume)

        # From here on torch is loaded: all that is wrong so far was reported at once.
        from pytc import hardware
        from pytc.training.distributed import read_environment
        from pytc.training.loop import train

        changes = []
        on_cpu = hardware.choose_device(config.system).type == "cpu"
        if file.has_cpu_variant and config.system.cpu_variant and on_cpu:
            variant = cpu_variant(default, flags)
            config = parse_config(words, variant, config_path, resume)
            made = differences(default, variant, NO_GPU)
            changes = [change for change in made if change.field not in flags]
        if resume is None:
            adopted = _with_network_of_weights(config, flags)
            reason = f"as in the weights of {config.model.pretrained}"
            changes += differences(config, adopted, reason)
            config = adopted
        check_options(config.model.architecture, flags)
        run = train(config, resume, flags=flags, changes=changes)
        if read_environment().is_main:
            print(f"trained: {run}")
            print(f"next: {command_line('infer', ['--run', str(run)])}")


def check_training(words: list[str]) -> Config:
    """The config of a new training, from the words of its command line; nothing is trained.

    Its checks are those of `train` that need neither torch nor the machine of the training.
    ValueError, or the end of the process with a message, if something is wrong.
    """
    config_path, _, flags_only = _read_first_flags(words)
    refuse_renamed_flags(flags_only)
    file = _starting_config(config_path, None)
    flags = named_flags(flags_only)
    default = with_named_fields(file.config, flags)
    if file.is_of_a_run:
        default = replace(default, plugins=())
    config = parse_config(flags_only, default, config_path, None)
    check_objects(check_volumes(config.data.train, config))
    check_volumes(config.data.validation, config)
    load_plugins(config.plugins)
    check_asked(config)
    config = _with_network_of_weights(config, flags)
    check_options(config.model.architecture, flags)
    return config


def config_to_check(words: list[str]) -> tuple[Config, Path, int]:
    """The config that `pytc check CONFIG` names, as training would run it; the page and its rows.

    The words are those of train.py, but that the file may come first, without --config.
    """
    texts, default = field_texts(CheckCommand), CheckCommand()
    parser = argparse.ArgumentParser(
        prog=program_of("check"),
        description=CheckCommand.__doc__,
        usage="%(prog)s [CONFIG] [options] [any flag of train.py]",
    )
    parser.add_argument("--config", metavar="CONFIG", help=texts["config"])
    for name in ("output", "patches"):
        value = getattr(default, name)
        help = f"{texts[name]} (default: {value})"
        parser.add_argument(f"--{name}", type=type(value), default=value, help=help)
    parser.add_argument(QUIET, action="store_true", help=QUIET_HELP)
    words = answer_help("check", words, CheckCommand)
    if words and not words[0].startswith("-"):
        words = ["--config", *words]
    with printed_by_one_rank():
        given, rest = parser.parse_known_args(words)
    file_words = [] if given.config is None else ["--config", given.config]
    config = check_training([*file_words, *rest])

    from pytc import hardware

    file = _starting_config(None if given.config is None else Path(given.config), None)
    on_cpu = hardware.choose_device(config.system).type == "cpu"
    if file.has_cpu_variant and config.system.cpu_variant and on_cpu:
        flags = named_flags(rest)
        variant = cpu_variant(with_named_fields(file.config, flags), flags)
        config = _with_network_of_weights(parse_config(rest, variant, None, None), flags)
    return config, given.output, given.patches


def _read_first_flags(words: list[str]) -> tuple[Path | None, Path | None, list[str]]:
    """The file of --config, the run of --resume, and the other words.

    These two flags are read first: the other flags override what the config or the run says.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--config", type=Path)
    parser.add_argument("--resume", nargs="?", const="")  # "" where no run is named: the newest
    given, rest = parser.parse_known_args(words)
    if given.resume is None:
        return given.config, None, rest
    require(
        given.config is None,
        "--resume alone, as a run continues with its config and flags",
        f"--config {given.config}",
    )
    return None, _run_to_resume(given.resume), rest


def _starting_config(config_path: Path | None, resume: Path | None) -> ConfigFile:
    """The config that the flags override: of a run, of a file, or the default one."""
    if resume is not None:
        return ConfigFile(load_config(resume))
    if config_path is not None:
        return read_config_file(config_path)
    return ConfigFile(Config(), has_cpu_variant=True)


def parse_config(
    arguments: list[str], default: Config, file: Path | None, resume: Path | None
) -> Config:
    """The config that the flags make of the default."""
    command = TrainCommand(file, str(resume) if resume else None, settings=default)
    words = answer_help("train", arguments, command)
    config: Config = parse_words(TrainCommand, "train", words, default=command).settings
    return config


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

    - A volume that only the command line names, e.g. by --data.train.1.image, is added to `data`.
    - The length of a config in epochs gives way to --loop.max-steps.

    ValueError for an added volume without an image.
    """
    data = replace(
        config.data,
        train=_with_named_volumes(config.data.train, "data.train", flags),
        val=_with_named_volumes(config.data.val, "data.val", flags),
    )
    loop = config.loop
    if "loop.max_steps" in flags:
        require("loop.epochs" not in flags, "--loop.max-steps or --loop.epochs, not both", "both")
        loop = replace(loop, epochs=None)
    return replace(config, data=data, loop=loop)


def _with_named_volumes(
    volumes: Sequence[VolumeConfig], field: str, flags: set[str]
) -> tuple[VolumeConfig, ...]:
    """The volumes, and one more for each further number that a flag such as FIELD.1.image names."""
    extended = list(volumes)
    while any(flag.startswith(f"{field}.{len(extended)}.") for flag in flags):
        image = f"{field}.{len(extended)}.image"
        require(image in flags, f"--{image} for a further volume", None)
        extended.append(VolumeConfig())
    return tuple(extended)


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
        words = begin_verb(arguments)
        refuse_renamed_flags(words)
        parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
        parser.add_argument("--run", nargs="+", default=[])
        given, rest = parser.parse_known_args(words)
        if len(given.run) > 1:
            rest += ["--ensemble", *given.run[1:]]
        asks_for_help = bool({"-h", "--help", ALL_FLAGS} & set(rest))
        if asks_for_help and not given.run:
            parse(InferConfig, "infer", rest)  # prints the help that needs no run, and ends
        try:
            run = given.run[0] if given.run else str(newest_run("checkpoints/last.pt"))
            trained = config_of_run(run)
        except ValueError:
            parse(InferConfig, "infer", rest)  # a flag may be wrong, too: that is said first
            raise
        default = settings_of_run(run, trained)
        if not asks_for_help:
            LOGGER.info(f"run: {run}")
        config = parse(InferConfig, "infer", rest, default=default)

        _check_gpu(config.system)
        require_writable(Path(config.output or find_run(run) / "predictions"))
        if config.input is not None:
            check_volumes((config.input_volume(),), trained)
        _check_packages(config, trained)

        from pytc.inference.pipeline import infer
        from pytc.training.distributed import read_environment

        ranks = read_environment()
        infer(
            config,
            rank=ranks.rank,
            world=ranks.world,
            local_rank=ranks.local_rank,
            local_world=ranks.local_world,
        )


def _check_gpu(system: SystemConfig) -> None:
    """ValueError if a GPU is asked for where no driver of one is installed.

    It loads no torch, which finds what is left: a driver without a GPU.
    """
    if system.device != "cuda" or any(Path(driver).exists() for driver in DRIVERS):
        return
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        expected = "a CUDA device for system.device 'cuda' (auto takes the CPU where there is none)"
        require(False, expected, "a machine without the driver of a GPU")


def _check_packages(config: InferConfig, trained: Config) -> None:
    """ImportError, before anything is predicted, if its decode needs a package that is missing."""
    from pytc.blocks import require_packages_of
    from pytc.segmentation.packages import require_package_of
    from pytc.target_kinds import target_kind

    if config.shard is None and target_kind(trained.target.kind).decode == "objects":
        require_package_of(config.segmentation.method)
        require_packages_of(config.engine)


def _with_network_of_weights(config: Config, flags: Collection[str]) -> Config:
    """The config with the network of the weights that it starts from, if any, as pytc knows it."""
    if config.model.pretrained is None:
        return config
    theirs = _config_of_weights(config.model.pretrained)
    return config if theirs is None else network_of_weights(config, theirs, flags)


def _config_of_weights(name: str) -> Config | None:
    """The config of a run, or of a file of weights; None of weights of another program."""
    try:
        return config_of_run(name)
    except ValueError:
        LOGGER.info(f"{name} has no config of pytc: the network is built as asked for")
        return None


def evaluate(arguments: list[str] | None = None) -> None:
    """python evaluate.py [--run RUN] [--sweep] [--affinities A] [--labels L] [--output D] ..."""
    with script("interrupted; the next call starts anew"):
        words = begin_verb(arguments)
        refuse_renamed_flags(words)
        config = parse(EvaluateConfig, "evaluate", words)

        from pytc.evaluate import evaluate

        evaluate(config)


def check_volumes(volumes: Sequence[VolumeConfig], config: Config) -> "list[Source]":
    """Open what will be read, before torch is loaded; ValueError names what is missing or unfit.

    Synthetic volumes are left out: they may not have been made yet.
    """
    from pytc.data.sources import open_source

    return [
        open_source(volume, config.data, config.model.in_channels)
        for volume in volumes
        if not volume.is_synthetic
    ]


def check_objects(sources: "Sequence[Source]") -> None:
    """ValueError for labels without any object, where they are few enough to be read.

    Larger ones are refused when training finds no patch with an object.
    """
    for source in sources:
        if source.labels is not None and source.has_objects() is False:
            expected = f"objects in the labels {source.labels.path} (is it the right dataset?)"
            require(False, expected, "background (0) or unlabelled voxels alone")
