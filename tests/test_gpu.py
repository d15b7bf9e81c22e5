"""On a GPU: networks and predictions equal those of the CPU, runs train, resume and fit a batch.

`make test-gpu` runs these alone.
"""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from reference_models import make_image
from small_networks import NETWORKS
from tiny_runs import read_log, step_of, tiny

from pytc.config import InferenceConfig, SystemConfig
from pytc.inference.predict import predict_volume
from pytc.io.intensity import UINT8
from pytc.io.volume import create_volume, open_volume
from pytc.models import build_model
from pytc.runs import load_config
from pytc.training.loop import train

pytestmark = pytest.mark.gpu
GPU = torch.device("cuda")
CPU = torch.device("cpu")


@pytest.fixture
def full_precision():
    """Convolutions without TF32, which keeps 10 bits of a factor."""
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        yield


@pytest.mark.usefixtures("full_precision")
@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_gives_the_outputs_and_gradients_of_the_cpu(name):
    config, size = NETWORKS[name]
    on_cpu = build_model(config, CPU, quiet=True).eval()
    on_gpu = copy.deepcopy(on_cpu).to(GPU)
    image = make_image((1, 1, *size))
    expected = on_cpu(image)
    found = on_gpu(image.to(GPU))
    torch.testing.assert_close(found.cpu(), expected, atol=1e-3, rtol=1e-3)

    expected.square().mean().backward()
    found.square().mean().backward()
    for (label, theirs), ours in zip(on_cpu.named_parameters(), on_gpu.parameters()):
        if theirs.grad is None:
            assert ours.grad is None, label
            continue
        largest = theirs.grad.abs().max().item()
        difference = (ours.grad.cpu() - theirs.grad).abs().max().item()
        assert difference <= 0.01 * largest + 1e-5, label


def on_gpu(precision, **system):
    settings = SystemConfig(device=GPU.type, precision=precision, threads=1, workers=0, **system)
    return replace(tiny(max_steps=4), system=settings)


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_run_trains_and_resumes(precision, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = train(on_gpu(precision))
    assert step_of(run) == 4
    config = load_config(run)
    longer = replace(config, loop=replace(config.loop, max_steps=8))
    train(longer, resume=run)
    assert step_of(run) == 8
    losses = [line["train/loss_total"] for line in read_log(run) if "train/loss_total" in line]
    assert len(losses) == 8 and np.isfinite(losses).all()


def test_a_run_finds_the_batch_that_fits(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = train(on_gpu("bf16", auto=True))
    assert step_of(run) == 4
    assert (run / "hardware.json").is_file()


@pytest.mark.usefixtures("full_precision")
def test_a_prediction_equals_that_of_the_cpu(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (24, 40, 36), dtype=np.uint8)
    path = tmp_path / "image.zarr"
    with create_volume(path, pixels.shape, pixels.dtype, voxel_size=(10, 10, 10)) as volume:
        volume[...] = pixels
    config, size = NETWORKS["mednext_custom"]
    network = build_model(config, CPU, quiet=True).eval()
    results = []
    for number, device in enumerate((CPU, GPU)):
        predicted = predict_volume(
            copy.deepcopy(network).to(device),
            open_volume(path),
            tmp_path / f"{number}.zarr",
            grey_range=UINT8,
            channels=3,
            window=size,
            config=InferenceConfig(activation_scale=1.0),
            activation="sigmoid",
            device=device,
            attributes={"activation": "sigmoid(1 x)"},
            key="key",
        )
        results.append(predicted[...].astype(np.float32))
    # float16 keeps steps of 0.0005 between 0.5 and 1
    np.testing.assert_allclose(results[1], results[0], atol=2e-3)
