"""The calls that the documents behind this library describe for networks, written as they write
them: registry, MedNeXt, deep supervision, building, and the machine.
"""

import pytest
import torch
from torch import nn

from pytc.config import Config, ModelConfig
from pytc.hardware import detect_cpu_info, detect_gpu_info
from pytc.models import (
    build_model,
    default_device,
    get_architecture_builder,
    is_architecture_available,
    list_architectures,
    register_architecture,
)
from pytc.models.base import ConnectomicsModel


def mednext(**fields):
    return ModelConfig("mednext", in_channels=1, out_channels=2, kernel_size=3, **fields)


def test_the_architectures_of_the_documents_are_registered():
    for name in (
        "monai_basic_unet3d",
        "monai_unet",
        "monai_unetr",
        "monai_swin_unetr",
        "mednext",
        "mednext_custom",
    ):
        assert is_architecture_available(name) and name in list_architectures()
        assert callable(get_architecture_builder(name))
    assert list_architectures() == sorted(list_architectures())
    with pytest.raises(ValueError, match="no_such_net"):
        get_architecture_builder("no_such_net")


def test_a_builder_is_registered_by_a_decorator_and_built_by_name(registry):
    class Threshold(ConnectomicsModel):
        def __init__(self):
            super().__init__()
            self.layer = nn.Conv3d(1, 1, 1)

        def forward(self, x):
            return self.layer(x)

    for _ in range(2):  # as a cell of a notebook that is run again

        @register_architecture("threshold")
        def build(cfg) -> ConnectomicsModel:
            return Threshold()

    assert get_architecture_builder("threshold") is build
    model = build_model(ModelConfig("threshold", out_channels=1))
    assert model.supports_deep_supervision is False and model.output_scales == 1
    info = model.get_model_info()
    assert info["name"] == "Threshold" and info["deep_supervision"] is False
    assert info["output_scales"] == 1 and info["parameters"] == 2
    assert model(torch.zeros(1, 1, 4, 4, 4)).shape == (1, 1, 4, 4, 4)


def test_the_base_does_not_say_how_to_predict():
    with pytest.raises(NotImplementedError):
        ConnectomicsModel()(torch.zeros(1, 1, 2, 2, 2))


@pytest.mark.parametrize("size", ["S", "B", "M", "L"])
@pytest.mark.parametrize("kernel_size", [3, 5, 7])
def test_every_size_of_mednext_is_built(size, kernel_size):
    cfg = ModelConfig("mednext", out_channels=2, mednext_size=size, kernel_size=kernel_size)
    info = build_model(cfg, device="meta").get_model_info()
    assert info["parameters"] > 5e6 and info["deep_supervision"] is False


@pytest.mark.parametrize("field, value", [("mednext_size", "X"), ("kernel_size", 4)])
def test_a_mednext_that_is_not_published_is_refused(field, value):
    with pytest.raises(ValueError, match=f"{value!r}|got {value}"):
        ModelConfig("mednext", **{field: value})


def test_mednext_keeps_the_size_of_an_image():
    model = build_model(mednext(mednext_size="S"))
    with torch.no_grad():
        output = model(torch.randn(1, 1, 32, 32, 32))
    assert output.shape == (1, 2, 32, 32, 32)


def test_deep_supervision_returns_a_dictionary_of_five_scales():
    model = build_model(mednext(mednext_size="S", deep_supervision=True))
    with torch.no_grad():
        outputs = model(torch.randn(1, 1, 32, 32, 32))
    assert isinstance(outputs, dict)
    assert list(outputs) == ["output", "ds_1", "ds_2", "ds_3", "ds_4"]
    for scale, output in enumerate(outputs.values()):
        assert output.shape == (1, 2, *(32 // 2**scale,) * 3)
    info = model.get_model_info()
    assert info["deep_supervision"] is True and info["output_scales"] == 5


def test_one_number_serves_as_expansion_of_mednext_custom():
    cfg = ModelConfig("mednext_custom", expansion=4, base_channels=8, kernel_size=7, grn=True)
    assert build_model(cfg, device="meta").get_model_info()["parameters"] > 0


def test_build_model_takes_a_run_and_a_device_and_prints_on_the_first_rank(capsys):
    run = Config(model=ModelConfig("unet"))
    model = build_model(run, device=torch.device("cpu"), rank=0)
    said = capsys.readouterr().out
    assert f"{model.get_model_info()['parameters']:,}" in said and "deep supervision" in said
    build_model(run, torch.device("cpu"), 1)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("has_gpu, expected", [(False, "cpu"), (True, "cuda")])
def test_without_a_device_a_network_goes_to_the_gpu_if_there_is_one(monkeypatch, has_gpu, expected):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: has_gpu)
    assert default_device().type == expected
    with torch.device("meta"):
        assert default_device().type == "meta"


def test_the_machine_is_described_under_the_keys_of_the_documents():
    keys = {"num_gpus", "gpu_names", "gpu_memory_gb", "total_memory_gb"}
    assert keys <= set(detect_gpu_info())
    info = detect_cpu_info()
    assert {"num_cpus", "num_logical_cpus", "total_memory_gb", "available_memory_gb"} <= set(info)
    assert 1 <= info["num_cpus"] <= info["num_logical_cpus"]
    assert 0 < info["available_memory_gb"] <= info["total_memory_gb"]
