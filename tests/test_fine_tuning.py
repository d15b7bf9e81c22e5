"""Training from the weights of another run: the same network is built, and differences are told."""

import json
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from documents import commands

from pytc import cli
from pytc.config import Config, ModelConfig
from pytc.main import main
from pytc.models.checkpoint import load_checkpoint
from pytc.training.resolve import network_of_weights

ROOT = Path(__file__).parent.parent
STEPS = ((1, 0, 0), (0, 1, 0), (0, 0, 1))
PRESET = """
from pytc.config import Config, DataConfig, LoopConfig, ModelConfig
from pytc.config import SyntheticConfig, SystemConfig, TargetConfig
config = Config(
    name="{name}",
    data=DataConfig(
        patch_size=(16, 32, 32), synthetic=SyntheticConfig((32, 32, 32), {voxel_size})
    ),
    model=ModelConfig("unet", features={features}, out_channels=3, deep_supervision=False),
    target=TargetConfig(offsets={offsets}),
    loop=LoopConfig(max_steps=1, batch_size=1, checkpoint_every=1),
    system=SystemConfig(device="cpu", workers=0, threads=1),
)
"""


def write(name, **choices):
    Path(f"{name}.py").write_text(PRESET.format(name=name, **choices))
    return ["--config", f"{name}.py"]


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_run_is_fine_tuned_by_one_flag(workplace, capsys):
    """On isotropic voxels, from a network for thick sections of other widths."""
    cli.train(write("parent", voxel_size=(30.0, 10.0, 10.0), features=(2, 4, 6), offsets=STEPS))
    ours = write("mine", voxel_size=(10.0, 10.0, 10.0), features=(3, 5), offsets=STEPS[::-1])
    capsys.readouterr()
    cli.train([*ours, "--model.pretrained", "runs/parent", "--optim.learning-rate", "1e-30"])
    said = capsys.readouterr().out

    parent = load_checkpoint(Path("runs/parent/checkpoints/best.pt"))
    mine = load_checkpoint(Path("runs/mine/checkpoints/last.pt"))
    for name, tensor in (parent["average"] or parent["model"]).items():
        assert torch.equal(mine["model"][name], tensor), name
    assert mine["config"]["model"]["voxel_size"] == (30.0, 10.0, 10.0)
    assert "as in the weights of runs/parent:" in said
    assert "model.features: (3, 5) -> (2, 4, 6)" in said
    warning = "warning: runs/parent/checkpoints/best.pt: "
    assert f"{warning}voxel size: 30 x 10 x 10 nm in the weights, 10 x 10 x 10 nm here" in said
    assert f"{warning}offsets: [[1, 0, 0], [0, 1, 0], [0, 0, 1]] in the weights, " in said
    assert said.count("warning: runs/parent") == 2, "no difference is told where there is none"
    changes = json.loads(Path("runs/mine/resolved.json").read_text())["changes"]
    assert "model.features" in {change["field"] for change in changes}
    main(["models", "show", "runs/mine"])
    assert "started from: runs/parent/checkpoints/best.pt" in capsys.readouterr().out


def test_the_commands_of_the_page_run(workplace, capsys):
    (workplace / "configs").symlink_to(ROOT / "configs")
    small = "--data.synthetic.shape 32 32 32 --data.val-samples 1 --model.features 2 4 6".split()
    small += "--loop.max-steps 2 --loop.val-every 2 --loop.batch-size 1 --system.workers 0".split()
    said = [line.split() for line in commands("docs/fine-tuning.md")]
    assert [words[:2] for words in said] == [["python", "train.py"]] * 2 + [["pytc", "models"]]
    for words in said[:2]:
        cli.train([*words[2:], *small, "--system.threads", "1"])
    capsys.readouterr()
    main(said[2][1:])
    assert "started from: runs/parent/checkpoints/" in capsys.readouterr().out


def test_a_flag_is_never_replaced_by_the_weights():
    theirs = Config(model=ModelConfig("unet", features=(2, 4), in_channels=2))
    asked = Config(model=ModelConfig("rsunet", features=(8, 9, 10), pretrained="there"))
    taken = network_of_weights(asked, theirs).model
    assert (taken.architecture, taken.features) == ("unet", (2, 4))
    assert (taken.in_channels, taken.pretrained) == (1, "there")
    assert network_of_weights(asked, theirs, {"model.features"}).model.features == (8, 9, 10)
    assert network_of_weights(asked, theirs, {"model.architecture"}) == asked


def test_a_run_that_is_not_there_is_refused_at_once(workplace):
    preset = write("mine", voxel_size=(10.0, 10.0, 10.0), features=(3, 5), offsets=STEPS[::-1])
    with pytest.raises(SystemExit, match="a run or a file of weights at model.pretrained, got"):
        cli.train([*preset, "--model.pretrained", "runs/parent"])


def test_check_and_launch_build_the_network_of_the_weights(workplace):
    network = ModelConfig("unet", features=(2, 4, 6), deep_supervision=False)
    Path("runs/parent/checkpoints").mkdir(parents=True)
    Path("runs/parent/checkpoints/best.pt").touch()
    Path("runs/parent/config.json").write_text(json.dumps(asdict(Config(model=network))))
    ours = write("mine", voxel_size=(10.0, 10.0, 10.0), features=(3, 5), offsets=STEPS)
    words = [*ours, "--model.pretrained", "runs/parent"]
    for has_cpu_variant in (False, True):
        with Path("mine.py").open("a") as file:
            file.write(f"has_cpu_variant = {has_cpu_variant}\n")
        assert cli.check_training(words).model.features == (2, 4, 6)
        assert cli.config_to_check(words)[0].model.features == (2, 4, 6)
    assert cli.check_training([*words, "--model.features", "7", "8"]).model.features == (7, 8)
