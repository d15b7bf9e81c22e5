"""Architectures by name; a builder takes a ModelConfig and returns a ConnectomicsModel.

    @register_architecture("my_network")
    def build_my_network(config: ModelConfig) -> ConnectomicsModel: ...
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module

from pytc.config import ModelConfig, suggest
from pytc.models.base import ConnectomicsModel

Builder = Callable[[ModelConfig], ConnectomicsModel]
_builders: dict[str, Builder] = {}
OWN = ("mednext", "monai_networks", "rsunet", "unet")  # modules of this room that register architectures


def register_architecture(name: str) -> Callable[[Builder], Builder]:
    """Decorator that makes a builder available under a name; ValueError if the name is taken."""

    def register(builder: Builder) -> Builder:
        if name in _builders:
            raise ValueError(f"expected a new architecture name, got {name!r}, which is registered")
        _builders[name] = builder
        return builder

    return register


def get_architecture_builder(name: str) -> Builder:
    """The builder registered under a name; ValueError with a suggestion if there is none."""
    register_own()
    if name not in _builders:
        raise ValueError(f"the registry has no architecture {name!r}{suggest(name, list_architectures())}")
    return _builders[name]


def list_architectures() -> list[str]:
    """All registered names, sorted."""
    register_own()
    return sorted(_builders)


def is_architecture_available(name: str) -> bool:
    """Whether a name is registered."""
    register_own()
    return name in _builders


def register_own() -> None:
    """Import the modules whose architectures come with pytc."""
    for module in OWN:
        import_module(f"pytc.models.{module}")
