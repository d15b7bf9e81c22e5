"""Networks by name: `build_model` makes the one a config asks for."""

from pytc.config import ModelConfig
from pytc.models import mednext, monai_networks, rsunet, unet  # noqa: F401  (each registers its architectures)
from pytc.models.base import ConnectomicsModel
from pytc.models.registry import get_architecture_builder


def build_model(config: ModelConfig) -> ConnectomicsModel:
    """The network of a config, freshly initialised, its weights in channels-last memory layout.

    ValueError for an unknown architecture, or a choice that the architecture does not offer.
    """
    model = get_architecture_builder(config.architecture)(config)
    return model.to(memory_format=model.memory_format)
