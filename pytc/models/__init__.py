"""Networks by name: `build_model` makes the one a config asks for.

PyTorch is imported when it is called.

    @register_architecture("my_network")
    def build_my_network(config: ModelConfig) -> ConnectomicsModel: ...
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING

from pytc.checks import suggest
from pytc.config import ModelConfig

if TYPE_CHECKING:
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


def list_architectures() -> list[str]:
    """All registered names, sorted."""
    for module in (
        "mednext",
        "monai_networks",
        "unet",
    ):  # those that come with pytc register when they are imported
        import_module(f"pytc.models.{module}")
    return sorted(_builders)


def is_architecture_available(name: str) -> bool:
    """Whether a name is registered."""
    return name in list_architectures()


def get_architecture_builder(name: str) -> Builder:
    """The builder registered under a name; ValueError with a suggestion if there is none."""
    if not is_architecture_available(name):
        raise ValueError(
            f"the registry has no architecture {name!r}{suggest(name, list_architectures())}"
        )
    return _builders[name]


def build_model(config: ModelConfig) -> ConnectomicsModel:
    """The network of a config, freshly initialised, its weights in channels-last memory layout.

    ValueError for an unknown architecture, or a choice that the architecture does not offer.
    """
    model = get_architecture_builder(config.architecture)(config)
    return model.to(memory_format=model.memory_format)
