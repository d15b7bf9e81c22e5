"""pytc: from electron-microscope volumes of brain tissue to neurons.

`pytc.load(run_or_file)` is the way in from Python: see `pytc.segmenter`.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """`pytc.load`, whose module imports torch: not before it is asked for."""
    if name == "load":
        return import_module("pytc.segmenter").load
    raise AttributeError(f"module 'pytc' has no attribute {name!r}")
