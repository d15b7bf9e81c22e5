"""Convolutions computed by other means on a CPU against PyTorch's own, in double precision.

benchmarks/models.py.
"""

import copy
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from reference_models import fill_parameters, make_image
from torch import nn

from pytc.config import ModelConfig
from pytc.models import build_model, convolution, get_architecture_builder
from pytc.models.convolution import (
    Conv2d,
    Conv3d,
    ConvTranspose3d,
    Depthwise,
    Perceptron,
    by_halves,
)
from pytc.models.fast_cpu import FastMedNeXtBlock, fast_cpu, perceptron
from pytc.models.layers import ChannelNorm, InstanceNorm
from pytc.models.mednext import MedNeXtBlock

ROOT = Path(__file__).parent.parent
PLAIN = {Conv3d: nn.Conv3d, ConvTranspose3d: nn.ConvTranspose3d}
TINY = ModelConfig(
    "mednext_custom", out_channels=3, base_channels=4, expansion=(2,) * 9, block_counts=(1,) * 9
)


def results(layer, x):
    """Output, then the gradients of input and parameters."""
    x = x.clone().requires_grad_()
    y = layer(x)
    y.backward(make_image(tuple(y.shape)).flip(2).to(y.dtype))
    return [y, x.grad, *[p.grad for p in layer.parameters()]]


@pytest.mark.parametrize("kind", PLAIN)
@pytest.mark.parametrize("kernel", [1, 3, 5, 7, (1, 3, 3), (3, 5, 7)])
@pytest.mark.parametrize("stride", [1, 2, (1, 2, 2)])
def test_convolutions_equal_pytorch(kind, kernel, stride):
    # In double precision: oneDNN's weight gradient of kernel 7 and stride 2 is wrong on images
    # smaller than that.
    padding = tuple(size // 2 for size in (kernel if isinstance(kernel, tuple) else (kernel,) * 3))
    for groups in (1, 4) if kernel == 1 else (4,):
        mine = kind(4, 4, kernel, stride, padding, groups=groups)
        plain = PLAIN[kind](4, 4, kernel, stride, padding, groups=groups).double()
        plain.load_state_dict(mine.state_dict())
        for size in ((6, 8, 4), (1, 7, 5), (2, 2, 2)):
            for batch in (1, 2):
                x = make_image((batch, 4, *size)).contiguous(memory_format=torch.channels_last_3d)
                mine.zero_grad()
                plain.zero_grad()
                for ours, theirs in zip(results(mine, x), results(plain, x.double()), strict=True):
                    torch.testing.assert_close(ours, theirs.float(), atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("kernel", [2, 3, (1, 3, 3), (5, 3, 1)])
@pytest.mark.parametrize("stride", [1, 2, (1, 2, 2)])
def test_one_sample_by_halves_equals_pytorch(monkeypatch, bias, kernel, stride):
    used = []
    monkeypatch.setattr(
        convolution,
        "by_halves",
        lambda *a: used.append(a) or by_halves(*a),
    )
    sizes = kernel if isinstance(kernel, tuple) else (kernel,) * 3
    padding = tuple((size - 1) // 2 for size in sizes)
    mine = Conv3d(3, 4, kernel, stride, padding, bias=bias)
    plain = nn.Conv3d(3, 4, kernel, stride, padding, bias=bias).double()
    plain.load_state_dict(mine.state_dict())
    for size in ((6, 8, 4), (9, 7, 5), (12, 5, 6)):
        x = make_image((1, 3, *size)).contiguous(memory_format=torch.channels_last_3d)
        mine.zero_grad()
        plain.zero_grad()
        for ours, theirs in zip(results(mine, x), results(plain, x.double()), strict=True):
            torch.testing.assert_close(ours, theirs.float(), atol=2e-5, rtol=1e-4)
    assert used


def test_a_transposed_convolution_takes_the_size_of_its_output():
    x = make_image((1, 4, 3, 4, 5))
    mine = ConvTranspose3d(4, 4, 3, 2, 1, groups=4)
    plain = nn.ConvTranspose3d(4, 4, 3, 2, 1, groups=4)
    plain.load_state_dict(mine.state_dict())
    for size in ([5, 7, 9], [6, 8, 10]):
        torch.testing.assert_close(mine(x, size), plain(x, size))


def test_layers_of_other_rules_are_pytorch_s_own():
    x = make_image((1, 4, 6, 6, 6))
    for layer in (
        Conv3d(4, 4, 3, padding="same", groups=4),
        Conv3d(4, 4, 3, padding=1, groups=4, padding_mode="circular"),
        Conv3d(4, 4, 3, padding="same"),
        Conv3d(4, 4, 3, padding=1, padding_mode="reflect"),
        Conv3d(4, 4, 3, padding=2, dilation=2),
        Conv3d(4, 4, 3, padding=1, groups=2),
        Conv3d(4, 4, 1, padding=1),
        Conv2d(4, 4, 1, 2, padding=1),
        Conv2d(4, 4, 1, 2, groups=2),
        Conv2d(4, 4, 1, padding="same"),
    ):
        kind = nn.Conv3d if isinstance(layer, nn.Conv3d) else nn.Conv2d
        image = x if kind is nn.Conv3d else x[:, :, 0]
        torch.testing.assert_close(layer(image), kind.forward(layer, image))


@pytest.mark.parametrize("up", [False, True])
@pytest.mark.parametrize("stride", [(1, 1, 1), (2, 2, 2), (1, 2, 2)])
def test_depthwise_gradients(stride, up):
    generator = torch.Generator().manual_seed(0)
    arrays = [
        torch.rand(shape, generator=generator, dtype=torch.float64).requires_grad_()
        for shape in ((1, 2, 2, 3, 3), (2, 1, 3, 1, 5), (2,))
    ]
    assert torch.autograd.gradcheck(lambda *a: Depthwise.apply(*a, stride, up), arrays)


@pytest.mark.parametrize("kind", PLAIN)
@pytest.mark.parametrize("kernel", [3, 7])
def test_bf16_gradients_where_rows_are_one_voxel_long(kind, kernel):
    # oneDNN's depthwise weight gradient of stride 2 reads beyond its memory there: numbers of 1e30,
    # now and then.
    mine = kind(4, 4, kernel, 2, kernel // 2, groups=4).bfloat16()
    plain = PLAIN[kind](4, 4, kernel, 2, kernel // 2, groups=4).double()
    plain.load_state_dict(mine.state_dict())
    for size in 10 * ((2, 3, 1), (1, 1, 1), (4, 2, 1)):
        x = make_image((1, 4, *size)).bfloat16().contiguous(memory_format=torch.channels_last_3d)
        mine.zero_grad()
        plain.zero_grad()
        for ours, theirs in zip(results(mine, x), results(plain, x.double()), strict=True):
            torch.testing.assert_close(ours.double(), theirs, atol=0.1, rtol=0.05)


@pytest.mark.parametrize(
    "norm", [InstanceNorm(4), ChannelNorm(4)], ids=lambda norm: type(norm).__name__
)
def test_perceptron_equals_its_layers_part_by_part(monkeypatch, norm):
    norm, inner, outer = norm.double(), Conv3d(4, 8, 1).double(), Conv3d(8, 3, 1).double()
    for layer in (norm, inner, outer):
        fill_parameters(layer)
    x, residual = (
        make_image((2, c, 3, 4, 5)).double().contiguous(memory_format=torch.channels_last_3d)
        for c in (4, 3)
    )
    for part in (2**19, 8 * 7, 1):  # all voxels of a sample at once, by sevens, one by one
        monkeypatch.setattr(Perceptron, "PART", part)
        fast, plain = [], []
        for gradients, call in (
            (fast, perceptron),
            (plain, lambda x, n, i, o, r: o(F.gelu(i(n(x)))) + r),
        ):
            arrays = [x.clone().requires_grad_(), residual.clone().requires_grad_()]
            y = call(arrays[0], norm, inner, outer, arrays[1])
            arrays += [*norm.parameters(), *inner.parameters(), *outer.parameters()]
            gradients += [y, *torch.autograd.grad(y, arrays, make_image(tuple(y.shape)).double())]
        for ours, theirs in zip(fast, plain, strict=True):
            torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("bf16", [False, True])
def test_without_gradients_memory_is_reused_and_the_result_the_same(bf16):
    model = build_model(TINY)
    fill_parameters(model)
    x = make_image((2, 1, 32, 16, 32))
    before = x.clone()
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        y = model(x)
        with torch.no_grad():
            torch.testing.assert_close(model(x), y, atol=0, rtol=0)
    assert torch.equal(x, before)


def test_autocast_computes_in_bf16_with_gradients_of_full_precision():
    model = build_model(TINY)
    fill_parameters(model)
    x = make_image((1, 1, 48, 32, 48))
    with torch.autocast("cpu", torch.bfloat16):
        y = model(x)
    assert y.dtype == torch.bfloat16
    y.float().square().mean().backward()
    low = [p.grad for p in model.parameters()]
    model.zero_grad()
    model(x).square().mean().backward()
    total = sum(p.grad.square().sum() for p in model.parameters()).sqrt()
    for (name, p), g in zip(model.named_parameters(), low, strict=True):
        assert g.dtype == torch.float32
        if name.endswith("conv1.bias"):
            # the normalisation that follows takes a bias away: its gradient is rounding alone
            assert g.norm() < 1e-3 * total and p.grad.norm() < 1e-3 * total
        else:
            assert (g - p.grad).norm() < 0.1 * p.grad.norm()


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("norm", ["group", "layer"])
@pytest.mark.parametrize("grn", [False, True])
def test_a_network_on_a_cpu_equals_the_plain_one(dims, norm, grn):
    config = replace(TINY, spatial_dims=dims, norm=norm, grn=grn, deep_supervision=True)
    plain = get_architecture_builder("mednext_custom")(config).double()
    fill_parameters(plain)
    fast = copy.deepcopy(plain)
    fast_cpu(fast)
    kinds = Counter(type(module) for module in fast.modules())
    assert kinds[MedNeXtBlock] == 0 and kinds[FastMedNeXtBlock] == 17
    assert not any(issubclass(kind, FastMedNeXtBlock) for kind in map(type, plain.modules()))
    assert list(fast.state_dict()) == list(plain.state_dict())

    x = make_image((2, 1, 16 if dims == 3 else 1, 16, 32)).double()
    for model in (plain, fast):
        sum(output.square().mean() for output in model(x).values()).backward()
    for name, output in plain(x).items():
        torch.testing.assert_close(fast(x)[name], output)
    for ours, theirs in zip(fast.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad)


def test_only_a_network_on_a_cpu_is_swapped_and_subclasses_never():
    assert FastMedNeXtBlock in map(type, build_model(TINY, "cpu").modules())
    assert FastMedNeXtBlock not in map(type, build_model(TINY, "meta").modules())

    class Doubled(nn.Conv3d):
        def forward(self, x):
            return 2 * super().forward(x)

    layers = nn.Sequential(Doubled(1, 1, 1), nn.Conv3d(1, 1, 1))
    fast_cpu(layers)
    assert [type(layer) for layer in layers] == [Doubled, Conv3d]


def test_a_compiled_network_has_pytorch_s_own_convolutions():
    graphs = []

    def record(graph, inputs):
        graphs.append({node.target for node in graph.graph.nodes})
        return graph.forward

    layers = nn.Sequential(Conv3d(4, 4, 3, padding=1, groups=4), Conv3d(4, 8, 1))
    x = make_image((1, 4, 4, 4, 4))
    torch.testing.assert_close(torch.compile(layers, backend=record)(x), layers(x))
    assert [graph & {F.linear, torch.conv3d} for graph in graphs] == [{torch.conv3d}]


def test_an_exported_network_has_pytorch_s_own_convolutions():
    model = build_model(TINY).eval()
    x = make_image((1, 1, 16, 16, 32))
    program = torch.export.export(model, (x,))
    targets = {str(node.target) for node in program.graph.nodes}
    assert "aten.conv3d.default" in targets and "aten.addmm.out" not in targets
    torch.testing.assert_close(program.module()(x), model(x), atol=1e-4, rtol=1e-3)


@pytest.mark.slow
def test_the_benchmark_prints_its_table():
    models = ("mednext-S", "monai_unet")
    command = [
        sys.executable,
        "benchmarks/models.py",
        "--models",
        *models,
        "--size",
        "32",
        "--repeats",
        "1",
    ]
    lines = subprocess.run(
        command, cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout.splitlines()
    rows = [line.strip("| ").split(" | ") for line in lines if line.startswith("| m")]
    assert [row[0] for row in rows] == list(models)
    assert rows[0][-1] == f"{build_model(ModelConfig()).get_model_info()['parameters']:,}"
    assert all(float(number) > 0 for row in rows for number in row[1:-1])
