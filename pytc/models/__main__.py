"""python -m pytc.models export RUN_OR_CHECKPOINT OUT.safetensors | list"""

from pathlib import Path

import tyro
from tyro.conf import Positional

from pytc.models import list_architectures
from pytc.python_files import load_plugins
from pytc.script import script


def export(
    source: Positional[Path], target: Positional[Path], /, plugins: tuple[Path, ...] = ()
) -> None:
    """Write the network of a run or a checkpoint, with its config, to one .safetensors file.

    Args:
        source: Folder of a run, or a checkpoint.
        target: The file to write, which ends in .safetensors.
        plugins: Python files to load first, which register the network if it is none of pytc's.
    """
    from pytc.models.checkpoint import export

    load_plugins(plugins)
    print(f"exported: {export(source, target)} -> {target}")


def list_(plugins: tuple[Path, ...] = ()) -> None:
    """Print the name of every architecture.

    Args:
        plugins: Python files to load first, which register networks of your own.
    """
    load_plugins(plugins)
    print("\n".join(list_architectures()))


if __name__ == "__main__":
    with script():
        tyro.extras.subcommand_cli_from_dict(
            {"export": export, "list": list_}, prog="python -m pytc.models"
        )
