"""YAML files that a user writes, or that another program has written.

PyYAML is loaded when a file is read, not before.
"""

from pathlib import Path
from typing import Any

from pytc.checks import require


def read_yaml(path: Path) -> dict[str, Any]:
    """The table that a YAML file holds; an empty file is an empty table.

    Numbers such as 1e-3, which PyYAML takes for text, are read as numbers. Nothing in the file is
    executed: a tag that asks for an object of Python is refused.

    Raises:
        ValueError: the file is missing, no YAML (with its line), or no table.
    """
    require(path.is_file(), "a YAML file", f"{path}, which does not exist")
    import yaml

    try:
        content = yaml.load(path.read_text(), _loader())
    except yaml.MarkedYAMLError as error:
        line = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise ValueError(f"{path}{line}: {error.problem}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: no YAML: {error}") from error
    if content is None:
        return {}
    require(isinstance(content, dict), f"{path} to hold a table of names and values", content)
    return content


def _loader() -> Any:
    """PyYAML's safe loader, with the numbers of YAML 1.2: 1e-3 has neither a point nor a sign."""
    import re

    import yaml

    class Loader(yaml.SafeLoader):
        pass

    number = re.compile(r"^[-+]?(?:[0-9][0-9_]*)(?:\.[0-9_]*)?[eE][-+]?[0-9]+$")
    Loader.add_implicit_resolver("tag:yaml.org,2002:float", number, list("-+0123456789"))
    return Loader
