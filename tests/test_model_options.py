"""Options of the networks: each arrives, and one that would have no effect is refused."""

from dataclasses import fields, replace

import pytest
from einops.layers.torch import Rearrange
from small_networks import NETWORKS
from torch import nn

from pytc import models
from pytc.config import (
    BasicUNetOptions,
    ModelConfig,
    MonaiUNetOptions,
    SwinOptions,
    UNETROptions,
)
from pytc.models import (
    build_model,
    check_options,
)

pytestmark = pytest.mark.usefixtures("one_thread")


def test_basic_unet_takes_five_features_or_a_sixth_for_its_last_stage():
    with pytest.raises(ValueError, match="expected five features .*and no strides"):
        build_model(ModelConfig("monai_basic_unet3d", features=(4, 8)))
    config = ModelConfig("monai_basic_unet3d", features=(4, 4, 6, 8, 8, 10))
    assert build_model(config, "meta").network.final_conv.in_channels == 10


# Options of one architecture, and what shows in its network that each arrived.
OPTIONS = [
    (ModelConfig("monai_basic_unet3d", basic_unet=BasicUNetOptions(act="relu")), nn.ReLU),
    (ModelConfig("monai_basic_unet3d", basic_unet=BasicUNetOptions(norm="batch")), nn.BatchNorm3d),
    (ModelConfig("monai_unet", monai_unet=MonaiUNetOptions(norm="batch")), nn.BatchNorm3d),
    (ModelConfig("monai_unetr", unetr=UNETROptions(norm="batch")), nn.BatchNorm3d),
    (ModelConfig("monai_unetr", unetr=UNETROptions(pos_embed="perceptron")), Rearrange),
]


@pytest.mark.parametrize("config, kind", OPTIONS)
def test_an_option_of_a_monai_network_arrives(config, kind):
    def count(config):
        model = build_model(replace(config, image_size=(32, 32, 32)), "meta")
        return sum(isinstance(module, kind) for module in model.modules())

    assert count(config) > count(ModelConfig(config.architecture))


def test_sizes_of_a_transformer_and_kernels_are_those_of_the_options():
    options = UNETROptions(hidden_size=48, mlp_dim=40, num_heads=3)
    config = ModelConfig("monai_unetr", image_size=(16, 16, 32), unetr=options)
    block = build_model(config, "meta").network.vit.blocks[0]
    assert block.mlp.linear1.weight.shape == (40, 48) and block.attn.num_heads == 3
    config = ModelConfig("monai_unet", monai_unet=MonaiUNetOptions(kernel_size=5))
    kernels = {tuple(p.shape[2:]) for p in build_model(config, "meta").parameters() if p.ndim == 5}
    assert (5, 5, 5) in kernels and (3, 3, 3) not in kernels


def test_options_of_swin_arrive():
    options = SwinOptions(use_checkpoint=True, attn_drop_rate=0.25, dropout_path_rate=0.5)
    config = replace(NETWORKS["monai_swin_unetr"][0], swin=options)
    block = build_model(config, "meta").network.swinViT.layers4[0].blocks[-1]
    assert block.attn.attn_drop.p == 0.25 and block.drop_path.drop_prob == 0.5
    assert block.use_checkpoint
    plain = build_model(NETWORKS["monai_swin_unetr"][0], "meta")
    assert not plain.network.swinViT.layers4[0].blocks[-1].use_checkpoint


@pytest.mark.parametrize("config", [config for config, _ in OPTIONS])
def test_an_option_that_does_not_apply_is_refused(config):
    name = config.architecture
    with pytest.raises(ValueError, match=f"with the architecture {name} alone, got .*for mednext"):
        replace(config, architecture="mednext")
    with pytest.raises(ValueError, match="model.unetr.hidden_size as a multiple of 12 heads"):
        UNETROptions(hidden_size=100)


def test_a_flag_that_a_network_has_no_use_for_is_refused():
    message = "--model.kernel-size with mednext, mednext_custom alone, got it with unet"
    with pytest.raises(ValueError, match=message):
        check_options("unet", {"loop.max_steps", "model.kernel_size"})
    with pytest.raises(ValueError, match="--model.unetr.norm with monai_unetr alone.*nnunet"):
        check_options("nnunet", {"model.unetr.norm"})
    check_options("mednext_custom", {"model.kernel_size", "model.architecture", "data.cache"})
    check_options("monai_unetr", {"model.unetr.norm", "model.image_size"})
    check_options("one_of_a_plugin", {"model.kernel_size"})


def test_every_option_belongs_to_a_network_and_every_network_takes_its_own():
    options = {option for network in models.BUILT_IN.values() for option in network.options}
    assert options | set(models.SHARED) == {field.name for field in fields(ModelConfig)}
    read = {name: set() for name in NETWORKS}

    class Recorded(ModelConfig):
        """Notes which fields a builder reads."""

        def __getattribute__(self, name):
            if name in options:
                read[object.__getattribute__(self, "architecture")].add(name)
            return super().__getattribute__(name)

    for name, (config, _) in NETWORKS.items():
        if name == "mednext":  # makes a config of a mednext_custom, which reads them all
            continue
        values = {field.name: getattr(config, field.name) for field in fields(config)}
        recorded = Recorded(**values)
        read[name].clear()  # what its own checks read
        models.get_architecture_builder(name)(recorded)
        if name == "monai_basic_unet3d":  # looks at them to refuse them
            read[name].discard("strides")
        assert read[name] <= set(models.BUILT_IN[name].options)
