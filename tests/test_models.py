"""Every network: shapes, scales, layout, errors."""

import json
from dataclasses import replace

import pytest
import torch
from reference_models import fill_parameters, make_image
from small_networks import NETWORKS, SMALL, SUPERVISED
from torch import nn

from pytc.hardware import cpu_multiplies_bf16
from pytc.models import build_model
from pytc.models.layers import ChannelNorm, InstanceNorm
from pytc.models.weights import head_names

SLOW_IN_BF16 = ("monai_swin_unetr", "mednext")  # the largest ones
# Outputs under deep supervision; a network that is added may have any number above 1.
SCALES = {"mednext": 5, "mednext_custom": 5, "unet": 2, "rsunet": 2, "nnunet": 2}

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(params=NETWORKS)
def network(request):
    return NETWORKS[request.param]


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
    if dtype is not None and config.architecture in SLOW_IN_BF16 and not cpu_multiplies_bf16():
        pytest.skip("takes minutes on a CPU without bf16 instructions")
    model = build_model(replace(config, in_channels=channels))
    if dtype is torch.bfloat16:  # hardware.choose_precision says why
        size = tuple(max(n, 3 * m) for n, m in zip(size, model.size_multiple))
        if config.architecture == "monai_unetr":  # it takes images of one size alone
            model = build_model(replace(config, in_channels=channels, image_size=size))
        size = model.nearest_valid_size(size)
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
    """In float64: in float32 an exported network's kernels round differently, by up to 3e-5."""
    config, size = NETWORKS[name]
    model = build_model(replace(config, deep_supervision=name in SUPERVISED)).eval().double()
    x = make_image((1, 1, *size)).double()
    with torch.no_grad():
        if name in ("mednext_custom", "unet", "rsunet", "nnunet"):
            exported = torch.export.export(model, (x,)).module()
        else:  # TorchScript, in a tenth of the time
            exported = torch.jit.trace(model, x, check_trace=False)
        torch.testing.assert_close(exported(x), model(x), atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_names_a_size_it_takes_instead_of_one_it_does_not(name):
    model = build_model(NETWORKS[name][0])
    if model.nearest_valid_size((11, 13, 51)) == (11, 13, 51):
        pytest.skip("it takes this size, too")
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
    assert len(outputs) == model.output_scales > 1
    assert len(outputs) == SCALES.get(name, len(outputs))
    for output, scale in zip(outputs.values(), model.output_strides, strict=True):
        assert output.shape == (2, 3, *[n // s for n, s in zip(size, scale)])
    sum(output.square().mean() for output in outputs.values()).backward()
    assert all(p.grad is not None for p in model.parameters())
    torch.testing.assert_close(model.eval()(x), outputs["output"])


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
