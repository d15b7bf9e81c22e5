"""Every network: shapes, scales, layout, errors.

MedNeXt against the official one (golden/record_mednext.py).
"""

import json
from dataclasses import asdict, fields, replace
from pathlib import Path

import pytest
import torch
from einops.layers.torch import Rearrange
from reference_models import fill_parameters, hash_parameters, make_image, rsunet, summarise
from small_networks import NETWORKS, SMALL, SUPERVISED
from torch import nn

from pytc import models
from pytc.checks import from_plain
from pytc.config import (
    BasicUNetOptions,
    Config,
    DataConfig,
    ModelConfig,
    MonaiUNetOptions,
    SwinOptions,
    UNETROptions,
)
from pytc.models import (
    build_model,
    check_options,
    is_architecture_available,
    list_architectures,
    register_architecture,
)
from pytc.models.anisotropy import fit_to_data, plan_levels
from pytc.models.base import ConnectomicsModel
from pytc.models.layers import ChannelNorm, InstanceNorm
from pytc.models.weights import head_names

GOLDEN = json.loads((Path(__file__).parent / "golden" / "mednext.json").read_text())


@pytest.fixture(autouse=True)
def one_thread():
    """More threads only wait for each other on images this small."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(params=NETWORKS)
def network(request):
    return NETWORKS[request.param]


def outputs_of(model, x):
    outputs = model(x)
    return list(outputs.values()) if isinstance(outputs, dict) else [outputs]


@pytest.mark.parametrize("case", [case for case in GOLDEN if not case.startswith("upkern")])
def test_mednext_equals_the_official_network(case):
    golden = GOLDEN[case]
    config = from_plain(ModelConfig, golden["config"])
    with torch.device("cpu" if "outputs" in golden else "meta"):
        model = build_model(config)
    assert hash_parameters(model) == golden["hash"]
    assert model.get_model_info()["parameters"] == golden["parameters"]
    if "outputs" not in golden:
        return
    fill_parameters(model)
    with torch.set_grad_enabled("gradients" in golden):
        outputs = outputs_of(model, make_image(tuple(golden["input"])))
    for output, expected in zip(outputs, golden["outputs"], strict=True):
        figures = summarise(output)
        assert figures.pop("shape") == expected["shape"]
        for name, figure in figures.items():
            assert figure == pytest.approx(expected[name], rel=1e-4, abs=1e-4 * expected["std"])
    if "gradients" not in golden:
        return
    sum(output.square().mean() for output in outputs).backward()
    for name, norm in golden["gradients"].items():
        assert model.get_parameter(name).grad.norm().item() == pytest.approx(norm, rel=1e-3)


def test_mednext_names_its_parameters_as_the_official_network():
    with torch.device("meta"):
        names = set(build_model(ModelConfig(deep_supervision=True)).state_dict())
        single = set(build_model(ModelConfig()).state_dict())
    assert {
        "stem.weight",
        "enc_block_0.0.conv1.weight",
        "down_3.res_conv.bias",
        "bottleneck.1.norm.weight",
        "up_3.conv2.weight",
        "dec_block_0.1.conv3.bias",
        "out_4.conv_out.weight",
    } <= names
    assert names - single == {
        f"out_{i}.conv_out.{kind}" for i in range(1, 5) for kind in ("weight", "bias")
    }


def test_checkpointing_changes_nothing_but_memory():
    x = make_image((1, 1, 32, 16, 16))
    gradients = []
    for style in ("none", "outside_block"):
        model = build_model(replace(SMALL, deep_supervision=True, checkpoint_style=style))
        fill_parameters(model)
        saved = []
        with torch.autograd.graph.saved_tensors_hooks(
            lambda t, saved=saved: saved.append(t.numel()) or t, lambda t: t
        ):
            outputs = outputs_of(model, x)
        sum(output.square().mean() for output in outputs).backward()
        gradients.append(([p.grad for p in model.parameters()], sum(saved)))
    (plain, stored), (recomputed, less) = gradients
    assert all(map(torch.equal, plain, recomputed))
    assert less < stored / 3


def test_two_dimensional_layer_norm_treats_each_pixel_alone():
    # The official network cannot do this: its 2-D layer norm mixes up channels and samples.
    model = build_model(replace(SMALL, spatial_dims=2, norm="layer"))
    assert model(torch.rand(2, 1, 32, 16)).shape == (2, 3, 32, 16)


@pytest.mark.parametrize(
    "channels, dtype",
    [
        pytest.param(1, None, id="fp32"),
        # minutes on a CPU that has no bf16 of its own
        pytest.param(2, torch.bfloat16, id="bf16", marks=pytest.mark.slow),
    ],
)
def test_every_network_runs_forward_and_backward(network, channels, dtype):
    config, size = network
    model = build_model(replace(config, in_channels=channels))
    if dtype is torch.bfloat16:  # hardware.choose_precision says why
        size = model.nearest_valid_size(
            tuple(max(n, 3 * m) for n, m in zip(size, model.size_multiple))
        )
    with torch.autocast("cpu", dtype, enabled=dtype is not None):
        output = model(make_image((1, channels, *size)))
    assert isinstance(output, torch.Tensor) and output.shape == (1, 3, *size)
    assert output.dtype == dtype or torch.float32 in (dtype, output.dtype)
    assert model.output_strides == ((1, 1, 1),)
    output.float().square().mean().backward()
    unused = [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert not unused
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.requires_grad)


@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_is_exported(name):
    config, size = NETWORKS[name]
    model = build_model(replace(config, deep_supervision=name in SUPERVISED)).eval()
    x = make_image((1, 1, *size))
    with torch.no_grad():
        if name in ("mednext_custom", "unet", "rsunet", "nnunet"):
            exported = torch.export.export(model, (x,)).module()
        else:  # TorchScript, in a tenth of the time
            exported = torch.jit.trace(model, x, check_trace=False)
        torch.testing.assert_close(exported(x), model(x), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_names_a_size_it_takes_instead_of_one_it_does_not(name):
    model = build_model(NETWORKS[name][0])
    with pytest.raises(
        ValueError, match=f"size that {name} can take, such as .* got \\(11, 13, 51\\)"
    ):
        model(torch.zeros(1, 1, 11, 13, 51))
    nearest = model.nearest_valid_size((11, 13, 51))
    model.require_size(nearest)
    if name != "monai_unetr":
        assert all(
            abs(n - wanted) <= step
            for n, wanted, step in zip(nearest, (11, 13, 51), model.size_multiple)
        )


@pytest.mark.parametrize("name", SUPERVISED)
def test_deep_supervision_gives_a_dict_in_training_and_uses_every_head(name):
    config, size = NETWORKS[name]
    model = build_model(replace(config, in_channels=2, deep_supervision=True))
    x = make_image((2, 2, *size))
    with torch.autocast("cpu", torch.bfloat16):
        rough = model(x)
    outputs = model(x)
    assert [y.shape for y in rough.values()] == [y.shape for y in outputs.values()]
    assert list(outputs) == ["output", *[f"ds_{i}" for i in range(1, len(model.output_strides))]]
    assert len(outputs) == {"unet": 2, "rsunet": 2, "nnunet": 2}.get(name, 5)
    for output, scale in zip(outputs.values(), model.output_strides, strict=True):
        assert output.shape == (2, 3, *[n // s for n, s in zip(size, scale)])
    sum(output.square().mean() for output in outputs.values()).backward()
    assert all(p.grad is not None for p in model.parameters())
    torch.testing.assert_close(model.eval()(x), outputs["output"])


# What nnU-Net's own planner (get_pool_and_conv_props, MIC-DKFZ/nnUNet commit 0e49508) makes of
# these voxel sizes and patches, those of three tasks of the Medical Segmentation Decathlon and one
# flat along another axis: strides, and the number of finest levels whose kernels are flat.
PLANS = {
    "D2 heart": ((1.37, 1.25, 1.25), (80, 192, 160), ["222", "222", "222", "222", "122"], 0),
    "D4 hippocampus": ((1, 1, 1), (40, 56, 40), ["222", "222", "222"], 0),
    "D5 prostate": (
        (3.6, 0.62, 0.62),
        (20, 320, 256),
        ["122", "122", "222", "222", "122", "122"],
        2,
    ),
    "x first": ((9, 9, 20), (128, 128, 128), ["221", "222", "222", "222", "222"], 1),
}


@pytest.mark.parametrize("voxel_size, patch, strides, flat", PLANS.values(), ids=PLANS)
def test_nnunet_is_planned_as_nnunet_plans(voxel_size, patch, strides, flat):
    levels = plan_levels(voxel_size, patch_size=patch)
    assert ["".join(map(str, level.stride)) for level in levels[1:]] == strides
    thin = tuple(1 if size > 2 * min(voxel_size) else 3 for size in voxel_size)
    assert [level.kernel(3) for level in levels] == [thin] * flat + [(3, 3, 3)] * (
        len(levels) - flat
    )


@pytest.mark.parametrize("voxel_size", [(10, 10, 10), (30, 6, 6)])
def test_a_size_that_nnunet_names_is_one_it_can_be_planned_for(voxel_size):
    for size in (17, 27, 60, 70, 100, 124):
        config = ModelConfig(
            "nnunet", base_channels=1, voxel_size=voxel_size, image_size=(size, size, size + 1)
        )
        with torch.device("meta"):
            nearest = build_model(config).nearest_valid_size(config.image_size)
            build_model(replace(config, image_size=nearest)).require_size(nearest)


def test_nnunet_equals_dynunet():
    from monai.networks.nets import DynUNet

    model = build_model(ModelConfig("nnunet", base_channels=4, image_size=(16, 32, 32)))
    strides = [(1, 1, 1), (2, 2, 2), (2, 2, 2), (1, 2, 2)]
    twin = DynUNet(3, 1, 6, [3] * 4, strides, strides[1:], filters=[4, 8, 16, 32])
    fill_parameters(model)
    parts = [
        (model.stem, twin.input_block),
        *zip(model.down, [*twin.downsamples, twin.bottleneck]),
        *((narrow, rise.transp_conv) for narrow, rise in zip(model.narrow, twin.upsamples[::-1])),
        *((up, rise.conv_block) for up, rise in zip(model.up, twin.upsamples[::-1])),
        (model.heads[0], twin.output_block),
    ]
    with torch.no_grad():
        for part in parts:
            kernels, rest = (
                [[p for p in side.parameters() if (p.ndim == 5) == dense] for side in part]
                for dense in (True, False)
            )
            for ours, theirs in (*zip(*kernels, strict=True), *zip(*rest, strict=True)):
                theirs.copy_(ours)
    assert sum(p.numel() for p in twin.parameters()) == model.get_model_info()["parameters"]
    x = make_image((2, 1, 16, 32, 32))
    torch.testing.assert_close(model(x), twin(x), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("architecture", ("nnunet", "monai_unetr"))
def test_a_network_made_for_a_patch_asks_for_it(architecture):
    with pytest.raises(ValueError, match=f"image_size for {architecture}.*got None"):
        build_model(ModelConfig(architecture))
    with pytest.raises(ValueError, match="at least 8 voxels"):
        build_model(ModelConfig("nnunet", image_size=(7, 7, 7)))


@pytest.mark.parametrize("voxel_size", [None, (30, 6, 6)])
def test_rsunet_equals_its_plain_twin(voxel_size):
    model = build_model(
        replace(NETWORKS["rsunet"][0], voxel_size=voxel_size, deep_supervision=True)
    )
    fill_parameters(model)
    x = make_image((2, 1, 8, 12, 20))
    plain = rsunet(model.state_dict(), x, [rise.factor for rise in model.narrow])
    for output, expected in zip(outputs_of(model, x), plain, strict=True):
        torch.testing.assert_close(output, expected, atol=1e-4, rtol=1e-4)
    kernels = {tuple(p.shape[2:]) for p in model.parameters() if p.ndim == 5 and p.shape[-1] > 1}
    assert kernels == ({(3, 3, 3)} if voxel_size is None else {(1, 5, 5), (1, 3, 3), (3, 3, 3)})
    assert model.size_multiple == ((4, 4, 4) if voxel_size is None else (1, 4, 4))


@pytest.mark.parametrize("dims", (2, 3))
@pytest.mark.parametrize("kernel", (3, 5))
def test_mednext_custom_is_anisotropic_where_the_voxels_are(dims, kernel):
    config = replace(
        SMALL, kernel_size=kernel, voxel_size=(40, 8, 8), spatial_dims=dims, deep_supervision=True
    )
    model, cube = build_model(config), build_model(replace(config, voxel_size=(8, 8, 8)))
    assert hash_parameters(cube) == hash_parameters(build_model(replace(config, voxel_size=None)))
    assert cube.size_multiple == (16,) * dims
    x = make_image((1, 1, 4, 32, 16) if dims == 3 else (1, 1, 32, 16))
    outputs = outputs_of(model, x)
    if dims == 2:
        assert model.size_multiple == (16, 16) and hash_parameters(model) == hash_parameters(cube)
        return
    assert model.output_strides == ((1, 1, 1), (1, 2, 2), (1, 4, 4), (2, 8, 8), (4, 16, 16))
    assert [tuple(y.shape[2:]) for y in outputs][-1] == (1, 2, 1)
    flat, full = (1, kernel, kernel), (kernel,) * 3
    expected = {
        "enc_block_0.0": flat,
        "down_1": flat,
        "up_1": flat,
        "dec_block_1.0": flat,
        "enc_block_3.0": full,
        "down_3": full,
        "up_3": full,
        "bottleneck.0": full,
    }
    assert {
        name: tuple(model.get_parameter(f"{name}.conv1.weight").shape[2:]) for name in expected
    } == expected


def test_a_published_mednext_is_the_same_for_every_voxel_size():
    with torch.device("meta"):
        flat, plain = (build_model(ModelConfig(voxel_size=size)) for size in ((40, 4, 4), None))
    assert (
        hash_parameters(flat) == hash_parameters(plain)
        and flat.size_multiple == plain.size_multiple
    )


def test_default_strides_of_the_unets_follow_the_voxel_size():
    for name in ("unet", "monai_unet"):
        model = build_model(ModelConfig(name, features=(2, 2, 2, 2), voxel_size=(30, 6, 6)))
        assert model.size_multiple == (2, 8, 8)
        assert build_model(ModelConfig(name, features=(2, 2, 2, 2))).size_multiple == (8, 8, 8)


def test_what_the_data_decide_is_filled_in_where_it_is_open():
    open_, set_ = ModelConfig(), ModelConfig(voxel_size=(1.0, 2.0, 3.0), image_size=(8, 8, 8))
    filled = fit_to_data(open_, (16, 32, 32), (30.0, 6.0, 6.0))
    assert filled == ModelConfig(voxel_size=(30.0, 6.0, 6.0), image_size=(16, 32, 32))
    assert fit_to_data(set_, (16, 32, 32), (30.0, 6.0, 6.0)) == set_


def test_unet_scales_follow_its_strides():
    config, _ = NETWORKS["unet"]
    model = build_model(replace(config, deep_supervision=True))
    assert model.output_strides == ((1, 1, 1), (1, 2, 2))
    assert model.size_multiple == (2, 6, 4)


@pytest.mark.parametrize("name", [name for name in NETWORKS if name not in SUPERVISED])
def test_deep_supervision_is_refused_where_there_is_one_output(name):
    with pytest.raises(ValueError, match=f"deep_supervision off for {name}"):
        build_model(replace(NETWORKS[name][0], deep_supervision=True))


def test_own_networks_stay_in_channels_last_layout():
    # With one thread or one small image, PyTorch takes convolutions of its own on a CPU, which know
    # no layouts.
    torch.set_num_threads(2)
    for name in ("mednext_custom", "unet", "rsunet", "nnunet"):
        config, size = NETWORKS[name]
        model = build_model(replace(config, features=(4, 6, 8)))
        kernels = [p for p in model.parameters() if p.ndim == 5]
        assert all(p.is_contiguous(memory_format=torch.channels_last_3d) for p in kernels)
        strays = []

        def check(module, inputs, output, strays=strays):
            if not output.is_contiguous(memory_format=torch.channels_last_3d):
                strays.append(module)

        for module_name, module in model.named_modules():
            if (
                not list(module.children()) and module_name != "stem"
            ):  # MedNeXt's stem is laid out anew
                module.register_forward_hook(check)
        model(make_image((2, 1, *size)))
        assert not strays


class PermutedLayerNorm(nn.LayerNorm):
    def forward(self, x):
        return super().forward(x.permute(0, 2, 3, 4, 1)).permute(0, 4, 1, 2, 3)


@pytest.mark.parametrize(
    "ours, reference",
    [
        (InstanceNorm(4), nn.GroupNorm(4, 4)),
        (InstanceNorm(4, affine=False), nn.InstanceNorm3d(4)),
        (ChannelNorm(4), PermutedLayerNorm(4)),
    ],
)
def test_norms_equal_those_of_pytorch_and_keep_the_layout(ours, reference):
    results = []
    for norm in (ours, reference):
        fill_parameters(norm)
        x = (
            (make_image((3, 4, 5, 6, 7)) * 3 + 2)
            .contiguous(memory_format=torch.channels_last_3d)
            .requires_grad_()
        )
        y = norm(x)
        y.backward(make_image(tuple(x.shape)).flip(0))
        results.append((y, x.grad, *[p.grad for p in norm.parameters()]))
    for mine, theirs in zip(*results, strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=1e-4)
    assert results[0][0].is_contiguous(memory_format=torch.channels_last_3d)


@pytest.mark.parametrize(
    "size, nearest",
    [((48, 40, 70), (48, 32, 64)), ((20, 3, 25), (16, 16, 32)), ((16, 16, 16), (16, 16, 32))],
)
def test_a_size_that_does_not_fit_is_refused_with_the_nearest_that_does(size, nearest):
    model = build_model(SMALL)
    assert model.nearest_valid_size(size) == nearest
    with pytest.raises(ValueError, match=rf"such as \({', '.join(map(str, nearest))}\), got"):
        model(torch.zeros(1, 1, *size))
    model.require_size(nearest)


def test_unetr_takes_its_image_size_alone():
    model = build_model(NETWORKS["monai_unetr"][0])
    with pytest.raises(ValueError, match=r"such as \(16, 16, 32\), got \(32, 32, 32\)"):
        model(torch.zeros(1, 1, 32, 32, 32))


@pytest.mark.parametrize("shape", [(1, 2, 16, 16, 32), (16, 16, 32), (1, 1, 16, 32)])
def test_an_image_of_other_channels_or_dimensions_is_refused(shape):
    with pytest.raises(ValueError, match=r"expected an image \(B, 1, Z, Y, X\), got"):
        build_model(SMALL)(torch.zeros(shape))


def test_mednext_refuses_fields_that_would_have_no_effect():
    with pytest.raises(ValueError, match="base_channels unset for mednext.*mednext_custom.*got 16"):
        build_model(ModelConfig(base_channels=16))


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


def test_one_number_is_the_expansion_of_all_stages():
    one, nine = (build_model(replace(SMALL, expansion=e), "meta") for e in (3, (3,) * 9))
    assert [p.shape for p in one.parameters()] == [p.shape for p in nine.parameters()]
    assert one.bottleneck[0].conv2.weight.shape[0] == 3 * one.bottleneck[0].conv2.weight.shape[1]
    stored = json.loads(json.dumps(asdict(replace(SMALL, expansion=3))))
    assert from_plain(ModelConfig, stored) == replace(SMALL, expansion=3)
    for wrong in ((4,), 0, "4"):
        with pytest.raises(ValueError, match="expansion"):
            replace(SMALL, expansion=wrong)


@pytest.mark.parametrize(
    "asked, size, expected",
    [
        ("auto", "S", "none"),
        ("auto", "B", "none"),
        ("auto", "M", "outside_block"),
        ("auto", "L", "outside_block"),
        ("none", "L", "none"),
        ("outside_block", "S", "outside_block"),
    ],
)
def test_the_sizes_m_and_l_are_recomputed_as_published(asked, size, expected):
    config = ModelConfig(mednext_size=size, checkpoint_style=asked)
    assert build_model(config, "meta").config.checkpoint_style == expected


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


@pytest.fixture
def registry(monkeypatch):
    """What a test registers is forgotten afterwards."""
    monkeypatch.setattr(models, "_registered", dict(models._registered))


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


def test_a_size_of_one_coarsest_voxel_is_refused_with_the_reason():
    model = build_model(NETWORKS["monai_swin_unetr"][0], "meta")
    with pytest.raises(ValueError, match="at least one of them twice that or more"):
        model.require_size((32, 32, 32))
    with pytest.raises(ValueError) as error:
        model.require_size((32, 48, 32))
    assert "twice" not in str(error.value)


@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_knows_its_heads(name):
    config = NETWORKS[name][0]
    heads = head_names(config)
    model = build_model(config, "meta", quiet=True)
    shapes = [model.get_parameter(head).shape for head in heads]
    assert (config.out_channels,) in shapes  # its bias


def test_get_model_info_describes_the_network():
    model = build_model(replace(SMALL, in_channels=2, deep_supervision=True))
    info = model.get_model_info()
    assert info["name"] == "MedNeXt" and info["architecture"] == "mednext_custom"
    assert info["in_channels"] == 2 and info["out_channels"] == 3
    assert info["deep_supervision"] is True and info["output_scales"] == 5
    assert info["output_strides"][-1] == (16, 16, 16) and info["size_multiple"] == (16, 16, 16)
    assert json.loads(json.dumps(info))["parameters"] == sum(p.numel() for p in model.parameters())
    plain = build_model(SMALL).get_model_info()
    assert plain["deep_supervision"] is False and plain["output_scales"] == 1
