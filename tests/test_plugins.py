"""Networks of a user's own file: trained, and then found again by every command that needs them."""

import re
import subprocess
import sys
from dataclasses import fields, is_dataclass
from pathlib import Path

import pytest
from documents import commands, examples
from pytc_command import PYTC
from small_networks import forget_plugins

from pytc import cli, models
from pytc.commands import InferConfig, ValidateConfig
from pytc.config import ModelConfig
from pytc.inference.pipeline import infer
from pytc.main import main
from pytc.models import build_model
from pytc.models.checkpoint import export, load_model
from pytc.python_files import load_plugins
from pytc.runs import load_config
from pytc.validate import validate

pytestmark = pytest.mark.usefixtures("registry")

ROOT = Path(__file__).parent.parent
NETWORK = """
from torch import nn

from helper import KERNEL
from pytc.models import register_architecture
from pytc.models.base import ConnectomicsModel


@register_architecture("my_net")
class MyNet(ConnectomicsModel):
    def __init__(self, config):
        super().__init__()
        self.conv = nn.Conv3d(config.in_channels, config.out_channels, KERNEL, padding=1)

    def forward(self, x):
        return self.conv(x)
"""
CONFIG = """
from pytc.config import (
    Config, DataConfig, InferenceConfig, LoopConfig, ModelConfig, SyntheticConfig, SystemConfig,
    TargetConfig, VolumeConfig,
)

config = Config(
    name="mine",
    data=DataConfig(
        val=(VolumeConfig("synthetic:1"),),
        synthetic=SyntheticConfig((24, 24, 24)),
        patch_size=(16, 16, 16),
        val_samples=1,
    ),
    target=TargetConfig(offsets=((1, 0, 0), (0, 1, 0), (0, 0, 1))),
    model=ModelConfig("my_net", out_channels=3),
    loop=LoopConfig(max_steps=1, batch_size=1),
    system=SystemConfig(device="cpu", precision="fp32", workers=0, threads=1, cpu_variant=False),
)
"""
ASKS = "this network 'my_net' was registered by .*: name it with --plugins"


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    """A folder with a network's file, a module it imports, and a config."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "helper.py").write_text("KERNEL = 3\n")
    (tmp_path / "my_net.py").write_text(NETWORK)
    (tmp_path / "own.py").write_text(CONFIG)
    return tmp_path


def test_every_command_takes_the_file_of_a_network_and_asks_for_it_by_name(workplace):
    cli.train(["--config", "own.py", "--plugins", "my_net.py"])
    run = workplace / "runs" / "mine"
    assert load_config(run).plugins == ("my_net.py",)

    forget_plugins()
    checkpoint = run / "checkpoints" / "last.pt"
    for call in (
        lambda: load_model(checkpoint),
        lambda: infer(InferConfig(str(run))),
        lambda: validate(ValidateConfig(str(run))),
        lambda: export(checkpoint, workplace / "mine.safetensors"),
    ):
        with pytest.raises(ValueError, match=ASKS):
            call()
    target = str(workplace / "mine.safetensors")
    with pytest.raises(SystemExit, match=ASKS):
        cli.train(["--resume", "runs/mine", "--loop.max-steps", "2"])
    with pytest.raises(SystemExit, match=ASKS):
        main(["models", "export", str(checkpoint), target])

    # resuming with the file under another name
    (workplace / "my_net.py").rename(workplace / "moved.py")
    cli.train(["--resume", "runs/mine", "--loop.max-steps", "2", "--plugins", "moved.py"])
    assert load_model(checkpoint)[2] == 2

    for call in (
        lambda: cli.infer(["--run", "runs/mine", "--plugins", "moved.py"]),
        lambda: validate(ValidateConfig(str(run), plugins=("moved.py",))),
        lambda: main(["models", "export", str(checkpoint), target, "--plugins", "moved.py"]),
    ):
        forget_plugins()
        call()
    assert (workplace / "mine.safetensors").is_file()


def test_a_config_file_that_registers_its_network_is_the_file_to_name(workplace):
    (workplace / "own.py").write_text(NETWORK + CONFIG)
    cli.train(["--config", "own.py"])
    forget_plugins()
    checkpoint = workplace / "runs" / "mine" / "checkpoints" / "last.pt"
    with pytest.raises(ValueError, match="registered by own.py: name it with --plugins own.py"):
        load_model(checkpoint)
    load_plugins(["own.py"])
    model, config, _ = load_model(checkpoint)
    assert type(model).__name__ == "MyNet" and config.plugins == ("own.py",)


def test_nothing_that_a_checkpoint_names_is_run(workplace):
    cli.train(["--config", "own.py", "--plugins", "my_net.py"])
    forget_plugins()
    (workplace / "my_net.py").write_text(f"open({str(workplace / 'was_run')!r}, 'w').close()\n")
    run = workplace / "runs" / "mine"
    for call in (
        lambda: cli.train(["--resume", "runs/mine", "--loop.max-steps", "2"]),
        lambda: cli.train(["--config", "runs/mine/config.json"]),
        lambda: cli.infer(["--run", "runs/mine"]),
        lambda: load_model(run / "checkpoints" / "last.pt"),
    ):
        with pytest.raises((ValueError, SystemExit), match=ASKS):
            call()
    assert not (workplace / "was_run").exists()


@pytest.mark.parametrize(
    "content, expected",
    [
        (None, "expected a Python file for plugins, got 'my_net.py, which does not exist'"),
        ("x = (\n", "my_net.py, line 1: '(' was never closed"),
        ("\n\nimport nothing_of_that_name\n", "my_net.py, line 3: ModuleNotFoundError"),
        (
            "from pytc.models import register_architecture\nregister_architecture('unet')(len)\n",
            "my_net.py, line 2: expected a new architecture name, got 'unet'",
        ),
    ],
)
def test_a_plugin_that_fails_is_one_line_with_its_file(workplace, content, expected):
    (workplace / "my_net.py").unlink()
    if content is not None:
        (workplace / "my_net.py").write_text(content)
    with pytest.raises(ValueError) as error:
        load_plugins(["my_net.py"])
    assert str(error.value).startswith(expected) and "\n" not in str(error.value)


def test_a_plugin_may_import_a_preset(workplace):
    (workplace / "my_net.py").write_text("import mednext\nfrom mednext import config\n")
    load_plugins(["my_net.py"])


def test_a_plugin_is_a_python_file(workplace):
    with pytest.raises(ValueError, match=r"expected a Python file \(.py\) for plugins, got 'x.pt'"):
        load_plugins(["x.pt"])


def test_the_list_of_networks_has_those_of_plugins(workplace):
    command = [sys.executable, str(PYTC), "models", "list", "--plugins", "my_net.py"]
    done = subprocess.run(command, text=True, capture_output=True, check=True)
    assert {"my_net", "mednext", "unet"} <= set(done.stdout.split())


def test_the_error_for_an_unknown_network_says_how_to_load_it():
    with pytest.raises(ValueError, match="no architecture 'my_net'.*--plugins FILE.py"):
        build_model(ModelConfig("my_net"))


def test_the_network_of_the_documentation_can_be_trained(workplace):
    """By the commands of the page, on a smaller volume."""
    (code,) = examples("docs/networks.md")
    (workplace / "my_net.py").write_text(code)
    for name in ("train.py", "infer.py", "configs"):
        (workplace / name).symlink_to(ROOT / name)
    small = "--data.synthetic.shape 32 32 32 --data.patch-size 16 16 16 --data.val-samples 1"
    small += " --loop.max-steps 1 --loop.batch-size 1 --system.workers 0 --system.threads 1"
    train, infer, *verbs = [line for line in commands("docs/networks.md") if "my_net" in line]
    assert train.startswith("python train.py ") and infer.startswith("python infer.py ")
    cli.train([*train.split()[2:], *small.split()])
    model, _, step = load_model(workplace / "runs" / "mednext" / "checkpoints" / "last.pt")
    assert step == 1 and type(model).__name__ == "MyNet"
    cli.infer(infer.split()[2:])
    for verb in verbs:
        main(verb.split()[1:])
    assert (workplace / "my_net.safetensors").is_file() and len(verbs) == 2


def test_the_documentation_lists_the_options_of_every_architecture():
    page = (ROOT / "docs" / "networks.md").read_text()
    rows = [line for line in page.splitlines() if line.startswith("| `")]
    for name, network in models.BUILT_IN.items():
        (row,) = [line for line in rows if f"`{name}`" in line.split("|")[1]]
        named = set(re.findall(r"`([\w.-]+)`", row.split("|", 2)[2]))
        expected = set()
        for option in network.options:
            default = getattr(ModelConfig, option)
            if is_dataclass(default):
                expected |= {f"{option}.{field.name}" for field in fields(default)}
            else:
                expected.add(option)
        assert named - {"deep-supervision"} == {option.replace("_", "-") for option in expected}


def test_a_flag_that_the_network_has_no_use_for_is_refused(workplace):
    message = "error: expected --model.feature-size with .* alone, got it with unet"
    arguments = ["--config", "own.py", "--model.architecture", "unet"]
    with pytest.raises(SystemExit, match=message):
        cli.train([*arguments, "--model.feature-size", "12"])
    assert not (workplace / "runs").exists()
