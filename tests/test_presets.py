"""Every preset trains: its network is built, and a small relative of it takes two steps."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from pytc.config import SyntheticConfig
from pytc.config_files import load_config_file
from pytc.models import build_model
from pytc.models.checkpoint import load_model
from pytc.training.loop import train

PRESETS = sorted((Path(__file__).parent.parent / "configs").glob("*.py"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("presets")


def small(config):
    """The preset's mixing, augmentations, target, loss and optimizer, on little data.

    The network is little too.
    """
    model = replace(
        config.model, features=(8, 16, 16, 16, 32)[: len(config.model.features)], base_channels=4
    )
    if model.architecture == "mednext":
        model = replace(model, architecture="mednext_custom")
    if model.architecture == "mednext_custom":
        model = replace(model, expansion=(1,) * 9, block_counts=(1,) * 9)
    target = config.target
    if target.kind == "classes":  # two of them: a synthetic volume's objects and what is around
        target = replace(target, classes=2)
        model = replace(model, out_channels=2)
    data = replace(
        config.data,
        synthetic=SyntheticConfig(shape=(48, 48, 48)),
        patch_size=(32, 32, 32),
        val_samples=1,
        train=tuple(
            replace(volume, image=f"synthetic:{i}", labels=None, skeleton=None)
            for i, volume in enumerate(config.data.train)
        ),
        val=tuple(
            replace(volume, image="synthetic:2", labels=None, skeleton=None)
            for volume in config.data.val
        ),
    )
    loop = replace(config.loop, epochs=None, max_steps=2, batch_size=1, val_every=2, log_every=1)
    system = replace(
        config.system,
        device="cpu",
        precision="fp32",
        threads=1,
        workers=0,
        auto=False,
        compile=False,
    )
    return replace(config, model=model, target=target, data=data, loop=loop, system=system)


@pytest.mark.slow
@pytest.mark.parametrize("path", PRESETS, ids=lambda path: path.stem)
def test_a_preset_builds_its_network_and_takes_two_steps(path, folder, monkeypatch):
    monkeypatch.chdir(folder)
    config = load_config_file(path)
    with torch.device("meta"):  # every parameter, and no memory
        network = build_model(config.model)
    network.require_size(config.data.patch_size)
    assert network.get_model_info()["parameters"] > 1e5
    assert len(network.output_strides) == (5 if config.model.deep_supervision else 1)
    run = train(small(config))
    trained, saved, step = load_model(run / "checkpoints" / "last.pt")
    # sizes of the data are filled in
    assert step == 2 and replace(saved, model=small(config).model) == small(config)
    assert all(bool(parameter.isfinite().all()) for parameter in trained.parameters())
    assert (run / "checkpoints" / "best.pt").is_file()
