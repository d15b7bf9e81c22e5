"""Networks by name: `build_model` makes the one a config asks for. PyTorch is imported when it is called."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytc.config import ModelConfig

if TYPE_CHECKING:
    from pytc.models.base import ConnectomicsModel


def build_model(config: ModelConfig) -> ConnectomicsModel:
    """The network of a config, freshly initialised, its weights in channels-last memory layout.

    ValueError for an unknown architecture, or a choice that the architecture does not offer.
    """
    from pytc.models.registry import get_architecture_builder

    model = get_architecture_builder(config.architecture)(config)
    return model.to(memory_format=model.memory_format)
