"""Networks by name: `build_model` makes the one that a config asks for.

A network of your own is one function in a file of your own, which `--plugins FILE` loads:

    @register_architecture("my_network")
    def build_my_network(config: ModelConfig) -> ConnectomicsModel: ...

PyTorch is imported when a network is built, not before.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from pytc.checks import require, suggest
from pytc.config import Config, ModelConfig

if TYPE_CHECKING:
    import torch

    from pytc.models.base import ConnectomicsModel

    Builder = Callable[[ModelConfig], ConnectomicsModel]

LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True)
class Network:
    """A network of pytc."""

    module: str  # of this package, which registers it when it is imported
    options: tuple[str, ...]  # the fields of ModelConfig that it has, besides SHARED


# Fields of ModelConfig that are asked of every network, which may refuse deep supervision.
SHARED = (
    "architecture",
    "in_channels",
    "out_channels",
    "pretrained",
    "reset_head",
    "deep_supervision",
)
CUSTOM_MEDNEXT = (
    "base_channels",
    "expansion",
    "block_counts",
    "do_res",
    "do_res_up_down",
    "norm",
    "grn",
    "spatial_dims",
)
MEDNEXT = ("kernel_size", "checkpoint_style", "upkern")
LEVELS = ("features", "strides", "voxel_size")
BUILT_IN = {
    "mednext": Network("mednext", ("mednext_size", *MEDNEXT)),
    "mednext_custom": Network("mednext", (*CUSTOM_MEDNEXT, *MEDNEXT, "voxel_size")),
    "monai_basic_unet3d": Network("monai_networks", ("features", "dropout", "basic_unet")),
    "monai_swin_unetr": Network("monai_networks", ("feature_size", "dropout", "swin")),
    "monai_unet": Network("monai_networks", (*LEVELS, "residual_units", "dropout", "monai_unet")),
    "monai_unetr": Network("monai_networks", ("image_size", "feature_size", "dropout", "unetr")),
    "nnunet": Network("unet", ("base_channels", "image_size", "voxel_size")),
    "rsunet": Network("unet", LEVELS),
    "unet": Network("unet", LEVELS),
}


@dataclass(frozen=True)
class Registered:
    """A builder, and the file that registered it; of a notebook or prompt the name `__main__`."""

    builder: Builder
    source: str


_registered: dict[str, Registered] = {}


def register_architecture(name: str) -> Callable[[Builder], Builder]:
    """Decorator that makes a builder available under a name.

    A builder takes a ModelConfig and returns a ConnectomicsModel. The file that registered a name
    may register it again, as a notebook's cell does that is run twice. ValueError if the name
    belongs to pytc or to another file.
    """
    source = _file_or_module(sys._getframe(1).f_globals)

    def register(builder: Builder) -> Builder:
        owner = _owner(name)
        if owner is not None and owner != source:
            raise ValueError(
                f"expected a new architecture name, got {name!r}, which is registered by {owner}"
            )
        _registered[name] = Registered(builder, source)
        return builder

    return register


def _file_or_module(scope: dict) -> str:
    """The file in which code with these globals stands, or the name of its module without one."""
    if "__file__" in scope:
        return str(Path(scope["__file__"]).resolve())
    return scope["__name__"]


def _owner(name: str) -> str | None:
    """The file that may register this name; None if the name is free."""
    if name in BUILT_IN:
        return str(Path(__file__).resolve().with_name(f"{BUILT_IN[name].module}.py"))
    if name in _registered:
        return _registered[name].source
    return None


def list_architectures() -> list[str]:
    """All registered names, sorted."""
    return sorted({*BUILT_IN, *_registered})


def is_architecture_available(name: str) -> bool:
    """Whether a name is registered."""
    return name in BUILT_IN or name in _registered


def get_architecture_builder(name: str) -> Builder:
    """The builder registered under a name; ValueError with a suggestion if there is none."""
    if not is_architecture_available(name):
        near = suggest(name, list_architectures())
        raise ValueError(
            f"the registry has no architecture {name!r}{near}; a network of your own is loaded by "
            "--plugins FILE.py"
        )
    if name in BUILT_IN:
        import_module(f"pytc.models.{BUILT_IN[name].module}")
    return _registered[name].builder


def check_options(architecture: str, flags: Iterable[str]) -> None:
    """ValueError for a flag of an option that this network of pytc does not have.

    flags: fields that a command line names, e.g. model.kernel_size or model.unetr.norm.
    """
    if architecture not in BUILT_IN:
        return
    options = (*SHARED, *BUILT_IN[architecture].options)
    for flag in sorted(flags):
        section, _, field = flag.partition(".")
        name = field.partition(".")[0]
        if section == "model" and name not in options:
            having = [other for other, network in BUILT_IN.items() if name in network.options]
            shown = flag.replace("_", "-")
            raise ValueError(
                f"expected --{shown} with {', '.join(having)} alone, got it with {architecture}"
            )


def name_plugins(config: Config) -> Config:
    """The config, with the file that registered its network among its `plugins`.

    So a checkpoint says which file its network needs. A notebook has no file to name.
    """
    name = config.model.architecture
    if name in BUILT_IN or name not in _registered:
        return config
    file = Path(_registered[name].source)
    named = [Path(plugin).resolve() for plugin in config.plugins]
    if file in named or not file.is_file():
        return config
    if file.is_relative_to(Path.cwd()):
        file = file.relative_to(Path.cwd())
    return replace(config, plugins=(*config.plugins, str(file)))


def _require_plugins(config: Config) -> None:
    """ValueError that names `config.plugins` if the network is unknown without them."""
    name = config.model.architecture
    if config.plugins and not is_architecture_available(name):
        files = " ".join(config.plugins)
        raise ValueError(
            f"this network {name!r} was registered by {files}: name it with --plugins {files}"
        )


def default_device() -> torch.device:
    """The device of a surrounding `torch.device(...)` block, else a GPU, else the CPU."""
    import torch

    surrounding = torch.get_default_device()
    if surrounding.type == "cpu" and torch.cuda.is_available():
        return torch.device("cuda")
    return surrounding


def build_model(
    config: ModelConfig | Config,
    device: torch.device | str | None = None,
    rank: int | None = None,
    *,
    quiet: bool = False,
) -> ConnectomicsModel:
    """The network of a config, freshly initialised, its weights in channels-last memory layout.

    Its outputs are logits: an affinity is their sigmoid, scaled by `inference.activation_scale`.

    Args:
        config: the network alone, or a whole run. A run's patch is the `image_size` of networks
            that are made for one size. A voxel size that only the files of the training volumes
            state is filled in by the training; a run's config.json has it.
        device: where the network goes. By default the device of a surrounding `torch.device(...)`
            block, else a GPU if there is one, else the CPU.
        rank: number of this process among those of a run. All but rank 0 are silent.
        quiet: say nothing on rank 0 either.

    Raises:
        ValueError: for an unknown architecture, or a choice that the architecture does not offer.
    """
    import torch

    from pytc.models.base import ConnectomicsModel

    require(isinstance(config, ModelConfig | Config), "a ModelConfig or a Config", config)
    if isinstance(config, Config):
        _require_plugins(config)
        patch = config.data.patch_size
        config = config.model
        if config.image_size is None:
            config = replace(config, image_size=patch)
    device = default_device() if device is None else torch.device(device)
    # made on the CPU, so that a seed gives the same weights on every device
    with torch.device("meta") if device.type == "meta" else nullcontext():
        model = get_architecture_builder(config.architecture)(config)
    require(
        isinstance(model, ConnectomicsModel),
        f"a ConnectomicsModel from the builder of {config.architecture}",
        type(model).__name__,
    )
    model.adopt(config)
    if device.type == "cpu":
        from pytc.models.fast_cpu import fast_cpu

        fast_cpu(model)
    if not quiet and rank in (None, 0):
        info = model.get_model_info()
        scales = f"{info['output_scales']} scales" if info["deep_supervision"] else "off"
        LOGGER.info(f"model: {info['name']} ({config.architecture}), on {device}")
        LOGGER.info(f"  parameters: {info['parameters']:,}")
        LOGGER.info(f"  deep supervision: {scales}")
    return model.to(device)
