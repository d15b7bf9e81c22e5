"""MedNeXt: equal to the official network (golden/record_mednext.py), sizes, anisotropic forms."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from reference_models import fill_parameters, hash_parameters, make_image, summarise
from small_networks import SMALL, outputs_of

from pytc.checks import from_plain
from pytc.config import (
    ModelConfig,
)
from pytc.models import (
    build_model,
)

GOLDEN = json.loads((Path(__file__).parent / "golden" / "mednext.json").read_text())
pytestmark = pytest.mark.usefixtures("one_thread")


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
        summary = summarise(output)
        assert summary.pop("shape") == expected["shape"]
        for name, value in summary.items():
            assert value == pytest.approx(expected[name], rel=1e-4, abs=1e-4 * expected["std"])
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


def test_mednext_refuses_fields_that_would_have_no_effect():
    with pytest.raises(ValueError, match="base_channels unset for mednext.*mednext_custom.*got 16"):
        build_model(ModelConfig(base_channels=16))


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
