"""python -m pytc.models export RUN_OR_CHECKPOINT OUT.safetensors | list"""

import sys
from pathlib import Path

import tyro
from tyro.conf import Positional

from pytc.models import list_architectures


def export(source: Positional[Path], target: Positional[Path], /) -> None:
    """Write the network of SOURCE, a run or a checkpoint, to TARGET.

    TARGET is one .safetensors file, which holds the config too.
    """
    from pytc.models.checkpoint import export

    print(f"exported: {export(source, target)} -> {target}")


def list_() -> None:
    """Print the name of every architecture."""
    print("\n".join(list_architectures()))


if __name__ == "__main__":
    try:
        tyro.extras.subcommand_cli_from_dict(
            {"export": export, "list": list_}, prog="python -m pytc.models"
        )
    except ValueError as error:
        sys.exit(f"error: {error}")
