"""The U-Nets: nnU-Net's plans, rsunet and nnunet against plain forms, strides and scales."""

from dataclasses import replace

import pytest
import torch
from reference_models import fill_parameters, make_image, rsunet
from small_networks import NETWORKS, outputs_of

from pytc.config import (
    ModelConfig,
)
from pytc.models import (
    build_model,
)
from pytc.models.anisotropy import fit_to_data, plan_levels

pytestmark = pytest.mark.usefixtures("one_thread")


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
