"""Runs of seconds for tests: in this process, in another one, and by torchrun."""

import json
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path

import torch

from pytc.config import (
    AugmentConfig,
    Config,
    DataConfig,
    LoopConfig,
    ModelConfig,
    OptimConfig,
    SyntheticConfig,
    SystemConfig,
    TargetConfig,
)
from pytc.models.checkpoint import load_checkpoint

ROOT = Path(__file__).parent.parent
OFFSETS = ((1, 0, 0), (0, 1, 0), (0, 0, 1))

# A config file for a run of one step, to be written where `--config` names it.
ONE_STEP = """
from pytc.config import Config, DataConfig, LoopConfig, ModelConfig
from pytc.config import SyntheticConfig, SystemConfig
config = Config(
    name="small",
    data=DataConfig(patch_size=(16, 16, 32), synthetic=SyntheticConfig(shape=(32, 32, 32))),
    model=ModelConfig(
        architecture="mednext_custom",
        base_channels=4,
        expansion=(1,) * 9,
        block_counts=(1,) * 9,
        deep_supervision=False,
    ),
    loop=LoopConfig(max_steps=1, batch_size=1, checkpoint_every=1),
    system=SystemConfig(device="cpu", workers=0, threads=1),
)
"""

TORCHRUN = [
    sys.executable,
    "-m",
    "torch.distributed.run",
    "--nproc-per-node",
    "2",
    "--rdzv-backend",
    "c10d",
    "--rdzv-endpoint",
    "localhost:0",
]


def tiny(**loop):
    """A run of seconds: MedNeXt of four channels on patches of 16 voxels."""
    return Config(
        name="tiny",
        data=DataConfig(
            patch_size=(16, 32, 32), synthetic=SyntheticConfig(shape=(48, 48, 48)), val_samples=3
        ),
        augment=AugmentConfig(affine_prob=0.5, drop_slice_prob=0.1, shift_slice_prob=0.1),
        target=TargetConfig(offsets=OFFSETS),
        model=ModelConfig(
            architecture="mednext_custom",
            base_channels=4,
            expansion=(1,) * 9,
            block_counts=(1,) * 9,
            out_channels=3,
            deep_supervision=True,
        ),
        optim=OptimConfig(ema_decay=0.9),
        loop=LoopConfig(
            **{
                "max_steps": 8,
                "batch_size": 2,
                "val_every": 4,
                "checkpoint_every": 2,
                "log_every": 1,
                "images_every": 4,
                **loop,
            }
        ),
        system=SystemConfig(device="cpu", precision="fp32", threads=1, workers=0),
    )


def weights(run, name="last"):
    return load_checkpoint(run / "checkpoints" / f"{name}.pt")["model"]


def assert_same_weights(a, b):
    assert a.keys() == b.keys()
    assert all(torch.equal(a[key], b[key]) for key in a)


def read_log(run):
    return [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]


def write_config(folder, config):
    file = folder / "config_file.py"
    plain = json.dumps(asdict(config))
    file.write_text(
        f"import json\nfrom pytc.checks import from_plain\nfrom pytc.config import Config\n"
        f"config = from_plain(Config, json.loads({plain!r}))\n"
    )
    return file


def start(config, folder, *arguments, **options):
    """train.py in another process."""
    return subprocess.Popen(
        [
            sys.executable,
            str(ROOT / "train.py"),
            "--config",
            str(write_config(folder, config)),
            "--system.no-cpu-variant",
            *arguments,
        ],
        **{"stdout": subprocess.DEVNULL, **options},
    )


def step_of(run):
    last = run / "checkpoints" / "last.pt"
    return load_checkpoint(last)["step"] if last.exists() else 0


def wait_for_steps(process, run, step):
    deadline = time.monotonic() + 180
    while step_of(run) < step:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
