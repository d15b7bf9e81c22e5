"""Architectures by name; a builder takes a ModelConfig and returns a ConnectomicsModel.

    @register_architecture("my_network")
    def build_my_network(config: ModelConfig) -> ConnectomicsModel: ...
"""

from __future__ import annotations

from collections.abc import Callable

from pytc.config import ModelConfig, suggest
from pytc.models.base import ConnectomicsModel

Builder = Callable[[ModelConfig], ConnectomicsModel]
_builders: dict[str, Builder] = {}


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
    if name not in _builders:
        raise ValueError(f"the registry has no architecture {name!r}{suggest(name, list_architectures())}")
    return _builders[name]


def list_architectures() -> list[str]:
    """All registered names, sorted."""
    return sorted(_builders)


def is_architecture_available(name: str) -> bool:
    """Whether a name is registered."""
    return name in _builders
