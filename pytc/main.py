"""`pytc VERB`: one command for all that pytc does.

A verb imports what it needs when it is called, so that `pytc --help` answers at once.
"""

import sys
from collections.abc import Callable

from pytc.messages import begin_verb
from pytc.script import printed_by_one_rank, script
from pytc.typos import refuse_verb


def main(arguments: list[str] | None = None) -> None:
    """Call the verb that the first word of the command line names, with the other words."""
    words = sys.argv[1:] if arguments is None else arguments
    if not words:
        words = ["--help"]
    if words[0] not in VERBS:
        with script():
            _explain(words[0])
    VERBS[words[0]](words[1:])


def _explain(word: str) -> None:
    """Print the list of verbs, or why a word is no verb, and end the process."""
    if not word.startswith("-"):
        refuse_verb(word, list(VERBS))
    import tyro

    def described(verb: Callable[[list[str]], None]) -> Callable[[], None]:
        def without_arguments() -> None: ...

        without_arguments.__doc__ = verb.__doc__
        return without_arguments

    subcommands = {name: described(verb) for name, verb in VERBS.items()}
    about = (
        "From electron-microscope volumes of brain tissue to neurons. "
        "`pytc VERB --help` says what a verb does; `pytc VERB --help-all` lists all its flags."
    )
    with printed_by_one_rank():
        tyro.extras.subcommand_cli_from_dict(
            subcommands, prog="pytc", description=about, args=[word]
        )


def _train(arguments: list[str]) -> None:
    """Train a network on labelled volumes."""
    from pytc import cli

    cli.train(arguments)


def _infer(arguments: list[str]) -> None:
    """Predict a volume with a trained network, and segment it."""
    from pytc import cli

    cli.infer(arguments)


def _evaluate(arguments: list[str]) -> None:
    """Score a prediction or a segmentation, and write a report."""
    from pytc import cli

    cli.evaluate(arguments)


def _validate(arguments: list[str]) -> None:
    """Score the checkpoints of a run on whole volumes."""
    with script():
        words = begin_verb(arguments)

        from pytc.commands import ValidateConfig, parse
        from pytc.validate import validate

        validate(parse(ValidateConfig, "validate", words))


def _launch(arguments: list[str]) -> None:
    """Train every combination of swept fields under Slurm."""
    with script():
        words = begin_verb(arguments)

        from pytc.cli import check_training
        from pytc.commands import LaunchConfig, parse
        from pytc.launch.launcher import launch

        own, training = words, []
        if "--" in words:
            own, training = words[: words.index("--")], words[words.index("--") + 1 :]
        if own and own[-1] == "--status":
            own = [*own, ""]  # the newest
        launch(parse(LaunchConfig, "launch", own), training, check_training)


def _check(arguments: list[str]) -> None:
    """Say what looks wrong with the data before training."""
    with script():
        words = begin_verb(arguments)

        from pytc.cli import config_to_check

        config, output, patches = config_to_check(words)

        from pytc.check import check

        found = check(config, output, patches)
        how_many = {0: "nothing looks wrong", 1: "1 thing looks wrong"}
        said = how_many.get(len(found), f"{len(found)} things look wrong")
        print(f"{said}; the page: {output}", flush=True)


def _replay(arguments: list[str]) -> None:
    """Make one training sample of a run again."""
    with script():
        words = begin_verb(arguments)

        from pytc.commands import ReplayConfig, parse
        from pytc.data.replay import replay

        replay(parse(ReplayConfig, "replay", words))


def _hardware(arguments: list[str]) -> None:
    """Print what this machine has, and what is chosen for it."""
    with script():
        words = begin_verb(arguments)

        from pytc.commands import parse
        from pytc.config import ModelConfig, SystemConfig
        from pytc.hardware import choose_device, print_table, survey

        about = "Print what this process may use, and what would be chosen for it."
        system = parse(SystemConfig, "hardware", words, description=about)
        print_table(survey(system, choose_device(system), ModelConfig()))


def _models(arguments: list[str]) -> None:
    """List networks, export one, or show its model card."""
    with script():
        words = begin_verb(arguments)

        from pytc.commands import ListModels, ModelsCommand, ShowModel, parse_words
        from pytc.help import answer_help
        from pytc.models import list_architectures
        from pytc.python_files import load_plugins

        words = answer_help("models", words, ModelsCommand)
        asked = parse_words(ModelsCommand, "models", words).action
        load_plugins(asked.plugins)
        if isinstance(asked, ListModels):
            print("\n".join(list_architectures()))
            return

        from pytc.models.checkpoint import export, read_card

        if isinstance(asked, ShowModel):
            import json

            from pytc.messages import show_messages
            from pytc.models.card import describe

            show_messages(quiet=asked.json)  # nothing but JSON then
            card = read_card(asked.source)
            print(json.dumps(card, indent=1) if asked.json else describe(card))
            return
        taken = export(asked.source, asked.target, licence=asked.licence, citation=asked.citation)
        print(f"exported: {taken} -> {asked.target}")


def _data(arguments: list[str]) -> None:
    """List public data sets, and fetch them."""
    with script(interrupted="interrupted; the same command continues"):
        words = begin_verb(arguments)

        from pytc.commands import DataCommand, ListData, ShowData, parse_words
        from pytc.help import answer_help

        words = answer_help("data", words, DataCommand)
        # `pytc data NAME`, as it was before there were other actions
        if words and words[0] not in ("list", "show", "fetch") and not words[0].startswith("-"):
            words = ["fetch", *words]
        asked = parse_words(DataCommand, "data", words or ["--help"]).action

        from pytc.io.catalogue import describe, list_datasets

        if isinstance(asked, ListData):
            print(list_datasets())
            return
        if isinstance(asked, ShowData):
            print(describe(asked.name))
            return

        from pytc.io.fetch import fetch

        try:
            volumes = fetch(asked.name, asked.output, asked.split, asked.roi)
        except (ImportError, OSError) as error:
            raise ValueError(f"{asked.name}: {error}") from error
        for volume in volumes.values():
            print(volume)


def _migrate(arguments: list[str]) -> None:
    """Make a preset of a config of another program."""
    with script():
        words = begin_verb(arguments)

        from pytc.commands import MigrateCommand, parse
        from pytc.migration.migrate import migrate

        asked = parse(MigrateCommand, "migrate", words)
        _, report = migrate(
            asked.source, asked.output, asked.base, asked.configuration, asked.overwrite
        )
        print(report)


def _runs(arguments: list[str]) -> None:
    """List all runs: step, best score, age, state."""
    with script():
        words = begin_verb(arguments)

        from pytc.commands import RunsCommand, parse

        asked = parse(RunsCommand, "runs", words)

        from pytc.run_table import show_runs
        from pytc.runs import runs_folder

        show_runs(asked.folder or runs_folder())


def _compare(arguments: list[str]) -> None:
    """Put runs beside each other on one page."""
    with script():
        words = begin_verb(arguments)

        from pytc.commands import CompareConfig, parse

        config = parse(CompareConfig, "compare", words)

        from pytc.evaluation.compare import compare

        compare(config.runs, config.output, config.metric)


def _view(arguments: list[str]) -> None:
    """Look at a run or at files in a browser."""
    with script("the viewer is closed"):
        words = begin_verb(arguments)

        from pytc.commands import parse
        from pytc.view.command import ViewConfig

        config = parse(ViewConfig, "view", words)

        from pytc.view.main import view

        view(config)


def _convert(arguments: list[str]) -> None:
    """Write a volume as OME-Zarr, precomputed, TIFF or HDF5."""
    with script(interrupted="interrupted; the same command continues"):
        words = begin_verb(arguments)

        from pytc.commands import ConvertConfig, parse

        config = parse(ConvertConfig, "convert", words)

        from pytc.convert.convert import convert

        print(f"converted: {config.result} -> {convert(config)}")


def _skeletonize(arguments: list[str]) -> None:
    """Make skeletons of labelled objects."""
    with script():
        words = begin_verb(arguments)

        from pytc.commands import parse
        from pytc.shapes.command import SkeletonizeConfig

        config = parse(SkeletonizeConfig, "skeletonize", words)

        from pytc.shapes.skeletons import skeletonize

        print(f"{config.output}: {skeletonize(config)}")


def _mesh(arguments: list[str]) -> None:
    """Make meshes of labelled objects for Neuroglancer."""
    with script():
        words = begin_verb(arguments)

        from pytc.commands import parse
        from pytc.shapes.command import MeshConfig

        config = parse(MeshConfig, "mesh", words)

        from pytc.shapes.meshes import mesh

        print(f"meshes: {mesh(config)}")


# The first line of a verb's docstring is its line in `pytc --help`.
VERBS: dict[str, Callable[[list[str]], None]] = {
    "train": _train,
    "infer": _infer,
    "evaluate": _evaluate,
    "validate": _validate,
    "launch": _launch,
    "check": _check,
    "replay": _replay,
    "hardware": _hardware,
    "models": _models,
    "data": _data,
    "convert": _convert,
    "skeletonize": _skeletonize,
    "mesh": _mesh,
    "migrate": _migrate,
    "view": _view,
    "runs": _runs,
    "compare": _compare,
}
