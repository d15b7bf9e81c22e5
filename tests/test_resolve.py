"""What was asked for becomes what will run: in one order, said field by field, flags kept."""

import json
import random
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
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
    VolumeConfig,
)
from pytc.config_files import load_config_file, read_config_file
from pytc.data.patches import train_dataset
from pytc.data.synthetic_volumes import prepare_volume
from pytc.models import build_model
from pytc.models.anisotropy import fit_to_data
from pytc.runs import load_config
from pytc.training import memory_trial
from pytc.training.distributed import Ranks
from pytc.training.loop import train
from pytc.training.resolve import Change, cpu_variant, differences, resolve
from pytc.training.trainer import Trainer

ROOT = Path(__file__).parent.parent
PRESETS = sorted((ROOT / "configs").glob("*.py"))
# Presets made for a CPU have none.
WITH_VARIANT = [path for path in PRESETS if read_config_file(path).has_cpu_variant]
CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)
THICK = (30.0, 10.0, 10.0)

TINY = Config(
    name="resolved",
    data=DataConfig(
        patch_size=(16, 32, 32),
        synthetic=SyntheticConfig(shape=(48, 48, 48), voxel_size=THICK),
        val_samples=1,
    ),
    augment=AugmentConfig(affine_prob=0.5),
    loop=LoopConfig(max_steps=1, batch_size=4, log_every=1),
    optim=OptimConfig(accumulate=3, ema_decay=0.9),
    model=ModelConfig("unet", features=(2, 4), out_channels=6),
    system=SystemConfig(auto=True, device="cpu", precision="fp32", threads=1, workers=0),
)


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    return tmp_path_factory.mktemp("resolve")


@pytest.fixture(autouse=True)
def in_workplace(workplace, monkeypatch):
    monkeypatch.chdir(workplace)


def make_trainer(config):
    return Trainer(config, Ranks(), CPU)


def training_patches(config):
    for volume in config.data.train:
        prepare_volume(volume, config.data.synthetic)
    return train_dataset(config)


def resolved(config, device=CPU, ranks=Ranks(), **options):
    dataset = training_patches(config)
    return resolve(config, dataset, ranks, device, make_trainer, **options)


class Terminal:
    """train.py, called as a user calls it."""

    def __init__(self, folder):
        self.folder = folder

    def __call__(self, *arguments):
        return subprocess.run(
            [sys.executable, str(ROOT / "train.py"), *arguments],
            cwd=self.folder,
            capture_output=True,
            text=True,
        )


@pytest.fixture
def terminal(workplace):
    return Terminal(workplace)


SMALL_PATCHES = (
    *("--data.patch-size", "32", "32", "32", "--system.threads", "1"),
    *("--data.synthetic.shape", "48", "48", "48"),
    *("--system.device", "cpu", "--loop.log-every", "1", "--data.val-samples", "1"),
)
SMALL = (*SMALL_PATCHES, "--loop.max-steps", "2", "--model.base-channels", "4")


def test_flags_override_the_variant_for_a_cpu_and_what_it_changed_is_said(terminal, workplace):
    flags = ("--name", "flags", "--augment.drop-slice-prob", "0.3", "--loop.batch-size", "1")
    done = terminal("--config", "mednext", *SMALL, *flags)
    assert done.returncode == 0, done.stderr
    config = load_config(workplace / "runs" / "flags")
    assert (config.loop.max_steps, config.loop.batch_size) == (2, 1)
    assert config.augment.drop_slice_prob == 0.3 and config.data.patch_size == (32, 32, 32)
    assert config.model.architecture == "mednext_custom"  # as nobody said otherwise
    assert "    loop.val_every: 1000 -> 100" in done.stdout
    assert "    model.voxel_size: None -> (10.0, 10.0, 10.0)" in done.stdout
    assert "loop.max_steps:" not in done.stdout and "batch_size:" not in done.stdout
    saved = json.loads((workplace / "runs" / "flags" / "resolved.json").read_text())
    changed = {change["field"]: change for change in saved["changes"]}
    assert changed["loop.val_every"]["before"] == 1000 and changed["loop.val_every"]["after"] == 100
    assert "--system.no-cpu-variant" in changed["loop.val_every"]["why"]
    assert "loop.max_steps" not in changed


def test_a_file_of_the_users_own_is_not_rewritten(terminal, workplace):
    (workplace / "own.py").write_text(
        "from dataclasses import replace\n"
        "from demo import config as demo\n"
        "from mednext import config as mednext\n"
        "config = replace(demo, name='own', loop=replace(mednext.loop, max_steps=3, val_every=3))\n"
    )
    done = terminal("--config", "own.py", *SMALL_PATCHES)
    assert done.returncode == 0, done.stderr
    config = load_config(workplace / "runs" / "own")
    assert (config.loop.max_steps, config.loop.val_every, config.loop.batch_size) == (3, 3, 8)
    assert "no GPU here" not in done.stdout


def test_presets_mark_themselves_and_extensions_of_them_do_not(workplace):
    marked = {path.stem for path in PRESETS if read_config_file(path).has_cpu_variant}
    assert {"mednext", "banis", "neuron_full", "unet"} <= marked
    assert not {"demo", "fib25"} & marked
    (workplace / "extended.py").write_text("from mednext import config\n")
    assert not read_config_file(workplace / "extended.py").has_cpu_variant


def test_a_size_of_mednext_that_the_variant_would_lose_is_refused(terminal):
    done = terminal("--config", "mednext", "--model.mednext-size", "B", "--system.device", "cpu")
    assert done.returncode == 1 and "--system.no-cpu-variant" in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("path", WITH_VARIANT, ids=lambda path: path.stem)
def test_the_cpu_variant_of_every_preset_is_small_and_can_be_built(path):
    full = load_config_file(path)
    small = cpu_variant(full)
    assert (small.data.train, small.target, small.loss) == (full.data.train, full.target, full.loss)
    assert max(small.data.patch_size) <= 64 and small.loop.max_steps <= 1000
    assert not small.system.compile and small.system.precision != "fp16"  # of banis.py: for GPUs
    patch_size = small.data.patch_size
    model = build_model(fit_to_data(small.model, patch_size, (10.0, 10.0, 10.0)))
    model.require_size(patch_size)
    assert model.get_model_info()["parameters"] < 3e6


def test_epochs_become_steps_and_max_steps_by_flag_win_over_the_epochs_of_a_file(
    terminal, workplace
):
    asked = replace(TINY, loop=replace(TINY.loop, epochs=40.0), system=SystemConfig())
    # 48³ voxels are 7 patches of 16 x 32 x 32; 4 x 3 of them a step
    what = resolved(asked)
    assert what.config.loop.max_steps == 24 and what.config.loop.epochs is None
    assert Change("loop.epochs", 40.0, None, "an epoch is 7 patches") in what.changes
    (workplace / "epochs.py").write_text(
        "from dataclasses import replace\n"
        "from demo import config as demo\n"
        "config = replace(demo, name='epochs', loop=replace(demo.loop, epochs=100.0))\n"
    )
    done = terminal("--config", "epochs", *SMALL_PATCHES, "--loop.max-steps", "2")
    assert done.returncode == 0, done.stderr
    assert load_config(workplace / "runs" / "epochs").loop.max_steps == 2
    both = terminal(
        "--config", "epochs", *SMALL_PATCHES, "--loop.max-steps", "2", "--loop.epochs", "3"
    )
    assert both.returncode == 1 and "--loop.max-steps or --loop.epochs, not both" in both.stderr


def test_a_run_keeps_what_was_asked_and_what_runs():
    run = train(replace(TINY, name="both"))
    asked = json.loads((run / "config.json").read_text())
    assert asked["model"]["voxel_size"] is None
    saved = json.loads((run / "resolved.json").read_text())
    assert saved["config"]["model"]["voxel_size"] == list(THICK)
    assert load_config(run).model.voxel_size == THICK
    longer = replace(load_config(run), loop=replace(load_config(run).loop, max_steps=2))
    train(longer, resume=run)
    assert json.loads((run / "config.json").read_text()) == asked
    continued = json.loads((run / "resolved.json").read_text())
    assert continued["changes"][: len(saved["changes"])] == saved["changes"]
    assert continued["changes"][-1]["field"] == "loop.max_steps"
    assert load_config(run).loop.max_steps == 2
    for name in ("config.json", "resolved.json"):
        assert read_config_file(run / name).config.data == TINY.data


@pytest.mark.parametrize(
    "changed, words",
    [
        (
            {"target": TargetConfig(offsets=((2, 0, 0), (0, 1, 0), (0, 0, 1)))},
            r"target.offsets with \[\(1, 0, 0\)\].*or another target.kind: binary",
        ),
        (
            {
                "target": TargetConfig(offsets=((0, 1, 0), (0, 0, 1))),
                "data": replace(TINY.data, patch_size=(1, 32, 32)),
                "model": ModelConfig("mednext_custom", spatial_dims=2, out_channels=2),
            },
            "model.spatial_dims 3 for the target affinity",
        ),
        (
            {"model": replace(TINY.model, pretrained="nowhere.pt")},
            "a run or a file of weights at model.pretrained, got 'nowhere.pt'",
        ),
    ],
)
def test_what_would_fail_after_the_training_is_refused_before_it(changed, words, workplace):
    if "target" in changed:
        channels = changed["target"].channels
        changed = {"model": replace(TINY.model, out_channels=channels), **changed}
    with pytest.raises(ValueError, match=words):
        train(replace(TINY, name="refused", **changed))
    assert not (workplace / "runs" / "refused").exists()


def test_every_volume_is_read_before_a_run_is_made(workplace):
    """Labels without an object are found in the second training volume."""
    for name in ("image", "empty"):
        np.save(workplace / f"{name}.npy", np.zeros((48, 48, 48), np.uint8))
    empty = VolumeConfig(image="image.npy", labels="empty.npy", voxel_size=THICK)
    data = replace(TINY.data, train=(VolumeConfig(), empty))
    with pytest.raises(ValueError, match="labelled voxels in empty.npy"):
        train(replace(TINY, name="unread", data=data))
    assert not (workplace / "runs" / "unread").exists()


def test_differences_name_fields_by_their_sections():
    other = replace(TINY, name="other", optim=replace(TINY.optim, accumulate=1))
    assert differences(TINY, other, "so") == [
        Change("name", "resolved", "other", "so"),
        Change("optim.accumulate", 3, 1, "so"),
    ]


@pytest.mark.parametrize(
    "wanted, fits, expected, tried",
    [
        (8, 8, 8, [8]),
        (8, 3, 2, [8, 4, 2]),
        (8, 1, 1, [8, 4, 2, 1]),
        (6, 5, 3, [6, 3]),
        (12, 2, 1, [12, 6, 3, 1]),
        (7, 6, 1, [7, 1]),
        (4, 0, 0, [4, 2, 1]),
    ],
)
def test_a_batch_is_halved_until_it_fits(wanted, fits, expected, tried):
    sizes = []

    def try_batch(size):
        sizes.append(size)
        if size > fits:
            raise torch.OutOfMemoryError(f"no room for {size}")

    assert memory_trial.largest_batch(try_batch, wanted) == expected and sizes == tried


def test_other_errors_of_a_trial_are_not_taken_for_lack_of_memory():
    def try_batch(size):
        raise RuntimeError("expected all tensors on one device")

    with pytest.raises(RuntimeError, match="one device"):
        memory_trial.largest_batch(try_batch, 8)


def fitted(config):
    """The config as the data of TINY make it."""
    return replace(config, model=fit_to_data(config.model, config.data.patch_size, THICK))


def test_a_trial_takes_the_steps_of_the_run_and_leaves_random_states_alone(monkeypatch):
    """The steps of the trainer itself, the second with the optimizer's state in memory."""
    seen, states, step = [], [], Trainer.train_step

    def watched(self, *rest, **options):
        outcome = step(self, *rest, **options)
        batch_size = self.config.loop.batch_size
        seen.append((batch_size, self.optim.accumulate, len(outcome.example.image)))
        states.append(len(self.optimizer.state))
        return outcome

    monkeypatch.setattr(Trainer, "train_step", watched)
    torch.manual_seed(1)
    before = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    config = fitted(TINY)
    sample = training_patches(config)[0]
    trial = partial(memory_trial.trial_steps, make_trainer, config, sample, several_ranks=True)
    assert memory_trial.largest_batch(trial, 4) == 4
    assert seen == [(4, 2, 4)] * 2 and states[0] > 0
    assert torch.equal(torch.get_rng_state(), before[0]) and random.getstate() == before[2]
    np.testing.assert_array_equal(np.random.get_state()[1], before[1])


@pytest.fixture
def pretended_gpu(monkeypatch):
    """A GPU as far as its memory and its name are asked for; steps are taken on the CPU."""
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    for name in ("reset_peak_memory_stats", "max_memory_reserved"):
        monkeypatch.setattr(torch.cuda, name, lambda device: 2**30)
    monkeypatch.setattr(
        torch.cuda, "get_device_properties", lambda device: SimpleNamespace(total_memory=2**33)
    )


@pytest.mark.parametrize("architecture", ["nnunet", "monai_unetr", "unet"])
def test_the_trial_measures_the_network_that_the_data_shape(
    architecture, pretended_gpu, monkeypatch
):
    measured, step = [], Trainer.train_step

    def watched(self, *rest, **options):
        measured.append(self.config)
        return step(self, *rest, **options)

    monkeypatch.setattr(Trainer, "train_step", watched)
    patch_size = (32, 32, 32)
    model = replace(TINY.model, architecture=architecture, base_channels=2, feature_size=2)
    config = replace(TINY, model=model, data=replace(TINY.data, patch_size=patch_size))
    config = replace(config, loop=replace(config.loop, batch_size=1))
    what = resolved(config, GPU).config
    assert {asked.model for asked in measured} == {what.model}
    assert what.model.voxel_size == THICK and what.model.image_size == patch_size


def test_a_smaller_batch_keeps_the_patches_of_a_step_on_all_ranks(pretended_gpu, monkeypatch):
    class Two(Ranks):
        def gather(self, value):
            # the other rank fits a single patch
            return [value, 1 if isinstance(value, int) else value]

    def trial_steps(make_trainer, config, sample, size, several_ranks):
        if size > 2:
            raise torch.OutOfMemoryError

    monkeypatch.setattr(memory_trial, "trial_steps", trial_steps)
    one = resolved(TINY, GPU)
    assert (one.config.loop.batch_size, one.config.optim.accumulate) == (2, 6)
    ((name, chosen, reason),) = one.choices
    assert (name, chosen) == ("batch", "2 patches, 12 a step")
    assert "4 patches did not fit" in reason
    assert Change("loop.batch_size", 4, 2, reason) in one.changes
    two = resolved(TINY, GPU, Two()).config
    assert (two.loop.batch_size, two.optim.accumulate) == (1, 12)
    run = train(replace(TINY, name="own_batch", loop=replace(TINY.loop, batch_size=1)))
    same = resolved(TINY, GPU, resume=run).config
    assert same == fitted(TINY)  # a run that goes on keeps its batch
    off = replace(TINY, system=SystemConfig())
    assert resolved(off, GPU).config == fitted(off)
    with pytest.raises(ValueError, match=r"--loop.batch-size 2 --optim.accumulate 6.*got '--loop"):
        resolved(TINY, GPU, flags={"loop.batch_size"})
    monkeypatch.setattr(memory_trial, "largest_batch", lambda *_: 0)
    with pytest.raises(ValueError, match="one patch of"):
        resolved(TINY, GPU)
