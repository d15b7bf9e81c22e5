"""Networks by name: whose names they are, and what build_model makes of a builder."""

from dataclasses import replace

import pytest
import torch
from small_networks import NETWORKS, SMALL
from torch import nn

from pytc import models
from pytc.config import (
    Config,
    DataConfig,
    ModelConfig,
)
from pytc.models import (
    build_model,
    is_architecture_available,
    list_architectures,
    register_architecture,
)
from pytc.models.base import ConnectomicsModel

pytestmark = pytest.mark.usefixtures("one_thread")


def test_registry_names_what_it_has():
    assert list_architectures() == sorted(NETWORKS)
    assert is_architecture_available("unet") and not is_architecture_available("mednxt")
    with pytest.raises(ValueError, match="no architecture 'mednxt'; did you mean 'mednext'"):
        build_model(ModelConfig("mednxt"))


def test_a_name_of_pytc_or_of_another_file_cannot_be_taken(registry):
    with pytest.raises(ValueError, match="new architecture name, got 'unet'.*models/unet.py"):
        register_architecture("unet")(lambda config: None)
    register = "from pytc.models import register_architecture as r\nr('mine')(lambda config: 1)"
    exec(register, {"__name__": "a", "__file__": "/a/mine.py"})
    with pytest.raises(ValueError, match="new architecture name, got 'mine'.*/a/mine.py"):
        exec(register, {"__name__": "b", "__file__": "/b/mine.py"})


@pytest.mark.parametrize(
    "scope", [{"__name__": "m", "__file__": "/m.py"}, {"__name__": "__main__"}]
)
def test_the_same_file_or_notebook_may_register_its_name_again(registry, scope):
    for number in (1, 2):
        code = f"from pytc.models import register_architecture as r\nr('mine')(lambda c: {number})"
        exec(code, dict(scope))
    assert models.get_architecture_builder("mine")(None) == 2


class OwnForward(ConnectomicsModel):
    """A network as a user writes it: no arguments to the base, and a forward of its own."""

    def __init__(self, config, scales=1):
        super().__init__()
        self.supports_deep_supervision = scales > 1
        self.output_scales = scales
        self.conv = nn.Conv3d(config.in_channels, config.out_channels, 3, padding=1)
        self.flat = nn.Conv2d(1, 1, 1)

    def forward(self, x):
        y = self.conv(x)
        if self.output_scales == 1:
            return y
        return {"output": y, "ds_1": y[..., ::2, ::2, ::2]}


def test_a_network_with_a_forward_of_its_own_needs_no_arguments_for_its_base(registry):
    register_architecture("own")(OwnForward)
    config = ModelConfig("own", in_channels=2, out_channels=3)
    model = build_model(config)
    assert model.config == config and model.output_strides == ((1, 1, 1),)
    assert model(torch.rand(1, 2, 5, 6, 7)).shape == (1, 3, 5, 6, 7)
    info = model.get_model_info()
    assert (info["name"], info["architecture"], info["output_scales"]) == ("OwnForward", "own", 1)
    assert model.conv.weight.is_contiguous(memory_format=torch.channels_last_3d)
    with pytest.raises(ValueError, match="deep_supervision off for own, which has one output"):
        build_model(replace(config, deep_supervision=True))

    register_architecture("two_scales")(lambda config: OwnForward(config, scales=2))
    config = replace(config, architecture="two_scales", deep_supervision=True)
    assert build_model(config).output_strides == ((1, 1, 1), (2, 2, 2))
    with pytest.raises(ValueError, match="deep_supervision on for two_scales, of 2 outputs"):
        build_model(replace(config, deep_supervision=False))


def test_a_builder_must_return_a_network_of_the_base(registry):
    register_architecture("plain")(lambda config: nn.Conv3d(1, 1, 1))
    with pytest.raises(ValueError, match="a ConnectomicsModel from the builder of plain.*Conv3d"):
        build_model(ModelConfig("plain"))


def test_build_model_says_what_it_builds_on_the_first_rank_alone(capsys):
    model = build_model(SMALL, rank=0)
    count = sum(p.numel() for p in model.parameters())
    said = capsys.readouterr().out
    assert "model: MedNeXt (mednext_custom), on cpu" in said and f"{count:,}" in said
    build_model(SMALL, rank=1)
    build_model(SMALL, quiet=True)
    assert capsys.readouterr().out == ""


def test_build_model_takes_a_device_and_a_whole_run():
    assert next(build_model(SMALL, "meta").parameters()).device.type == "meta"
    network = replace(NETWORKS["monai_unetr"][0], image_size=None, out_channels=6)
    run = Config(data=DataConfig(patch_size=(16, 16, 32)), model=network)
    build_model(run, "meta").require_size((16, 16, 32))
    with pytest.raises(ValueError, match="expected a ModelConfig or a Config"):
        build_model({"model": {"architecture": "mednext"}})
