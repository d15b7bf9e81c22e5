import ast
import json
import math
import os
import re
import subprocess
import sys
from dataclasses import asdict, fields, is_dataclass, replace
from pathlib import Path

import pytest

from pytc.checks import from_plain
from pytc.commands import EvaluateConfig, InferConfig, ValidateConfig
from pytc.config import (
    AugmentConfig,
    Config,
    DataConfig,
    LossConfig,
    ModelConfig,
    TargetConfig,
    VolumeConfig,
)
from pytc.config_files import load_config_file
from pytc.thresholds import DEFAULT_THRESHOLDS

ROOT = Path(__file__).parent.parent
PRESETS = sorted((ROOT / "configs").glob("*.py"))


@pytest.mark.parametrize("path", PRESETS, ids=lambda p: p.stem)
def test_presets_load_and_survive_json(path):
    config = load_config_file(path)
    assert from_plain(Config, json.loads(json.dumps(asdict(config)))) == config


def test_the_promised_presets_exist():
    promised = "mednext mednext_custom banis banis_plus mixed_data neuron_full fib25 mednext_lucchi"
    assert {*promised.split(), "demo", "unet"} <= {path.stem for path in PRESETS}


# Read from the code of BANIS (StructuralNeurobiologyLab/banis at 7e4834c): its defaults, and the
# steps of its README.
BANIS = """
    data.patch_size (128, 128, 128)
    augment.permute_prob 1.0, augment.rot90_prob 1.0, augment.flip_prob 0.5
    augment.slices_prob 0.5, augment.slices_axis 'random', augment.drop_slice_prob 0.05
    augment.shift_slice_prob 0.05, augment.shift_slice_max 10, augment.shift_slice_fill 'wrap'
    augment.intensity_prob 0.5, augment.intensity_scale 0.1, augment.intensity_offset 0.1
    augment.noise_prob 0.5, augment.noise_max 0.5
    augment.affine_prob 0.5, augment.affine_scale 0.2
    augment.affine_shear 0.5, augment.affine_rotation 180.0
    target.kind 'affinity', target.erosion 0
    target.offsets ((1, 0, 0), (0, 1, 0), (0, 0, 1), (10, 0, 0), (0, 10, 0), (0, 0, 10))
    model.architecture 'mednext', model.mednext_size 'S', model.kernel_size 3, model.out_channels 6
    model.deep_supervision False, model.checkpoint_style 'outside_block'
    loss.terms ('bce',)
    optim.learning_rate 0.001, optim.weight_decay 0.01, optim.clip_norm 1.0, optim.accumulate 1
    optim.schedule 'cosine', optim.warmup_steps 0, optim.ema_decay 0.0
    loop.max_steps 50000, loop.batch_size 8, loop.seed 0, loop.epochs None
    loop.val_every 5000, loop.volumes_every 5000, loop.monitor 'val/loss', loop.keep_checkpoints 100
    system.precision 'fp16', system.compile True
    inference.window None, inference.overlap 0.5
    inference.blending 'distance', inference.flips False
    inference.activation_scale 0.2, inference.checkpoint 'last'
    segmentation.min_size 0, segmentation.method 'components'
"""
BANIS_PLUS = """
    target.erosion 2, loss.terms ('balanced_bce',), loss.max_positive_weight 10.0
    optim.ema_decay 0.999, optim.ema_warmup_steps 500
    loop.max_steps 200000, loop.keep_checkpoints 3, inference.checkpoint 'best'
"""
# augmentations BANIS lacks
OFF = "elastic misalign missing_section blur_slice gamma slice_contrast cutout".split()


def stated(text):
    return {
        name: ast.literal_eval(value)
        for name, value in re.findall(r"(\w+\.\w+) (.+?)(?=, \w+\.|\n)", text)
    }


def flat(config):
    sections = {f.name: getattr(config, f.name) for f in fields(config)}
    return {
        f"{name}.{f.name}": getattr(section, f.name)
        for name, section in sections.items()
        if is_dataclass(section)
        for f in fields(section)
    }


def test_banis_states_every_choice_of_banis():
    config, expected = load_config_file(ROOT / "configs" / "banis.py"), stated(BANIS)
    assert len(expected) == 54
    assert {name: value for name, value in flat(config).items() if name in expected} == expected
    assert {name: flat(config)[f"augment.{name}_prob"] for name in OFF} == dict.fromkeys(OFF, 0.0)
    source = (ROOT / "configs" / "banis.py").read_text()
    unstated = {name.partition(".")[2] for name in expected} - set(re.findall(r"(\w+)=", source))
    # one batch a step, steps not epochs, windows like patches
    assert unstated == {"accumulate", "epochs", "window"}


def test_banis_is_scored_at_the_thresholds_of_banis():
    assert pytest.approx(DEFAULT_THRESHOLDS) == (
        [1 / (1 + math.exp(-0.2 * k)) for k in range(-1, 12)]
    )


def test_banis_trains_by_adamw_on_a_cosine_to_zero():
    """Betas and eps are torch's defaults, as in BANIS.

    The rate is that of CosineAnnealingLR, step by step.
    """
    import torch

    from pytc.training.optim import build_optimizer, learning_rate

    config = load_config_file(ROOT / "configs" / "banis.py").optim
    network = torch.nn.Conv3d(1, 1, 3)
    ours, theirs = build_optimizer(network, config), torch.optim.AdamW(network.parameters(), 1e-3)
    assert isinstance(ours, torch.optim.AdamW)
    assert all(ours.defaults[key] == theirs.defaults[key] for key in ("betas", "eps", "amsgrad"))
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(theirs, T_max=100)
    for step in range(101):
        assert learning_rate(config, step, 100) == pytest.approx(
            theirs.param_groups[0]["lr"], abs=1e-9
        )
        theirs.step()
        schedule.step()


def test_banis_plus_changes_what_it_says_and_no_more():
    plus, banis = (
        flat(load_config_file(ROOT / "configs" / f"{name}.py")) for name in ("banis_plus", "banis")
    )
    changed = {name: value for name, value in plus.items() if value != banis[name]}
    # the cap is stated, and the default
    assert changed | {"loss.max_positive_weight": 10.0} == stated(BANIS_PLUS)


def test_mixed_data_is_four_fifths_synthetic():
    synthetic, real = load_config_file(ROOT / "configs" / "mixed_data.py").data.train
    assert (synthetic.image, synthetic.weight, real.weight) == ("synthetic:0", 0.8, 0.2)
    assert not real.image.startswith("synthetic") and real.labels and real.attribution


def test_neuron_full_has_everything_on():
    config = load_config_file(ROOT / "configs" / "neuron_full.py")
    assert (
        config.model.deep_supervision
        and config.optim.ema_decay > 0
        and config.loss.terms == ("balanced_bce",)
    )
    assert config.system.auto and config.system.compile
    assert (
        config.loop.volumes_every > 0
        and config.loop.monitor == "val/nerl"
        and config.loop.picks_best
    )
    assert sum(value > 0 for name, value in flat(config).items() if name.endswith("_prob")) > 12


def test_optional_and_nested_fields_survive_json():
    volume = VolumeConfig(
        image="a.h5:raw", labels="a.h5:labels", voxel_size=(40.0, 4.0, 4.0), weight=0.25
    )
    config = Config(
        data=DataConfig(train=(volume, replace(volume, weight=0.75)), patch_size=(16, 32, 32))
    )
    assert from_plain(Config, json.loads(json.dumps(asdict(config)))) == config


def test_an_unknown_field_gets_a_suggestion(tmp_path):
    with pytest.raises(
        ValueError, match="config.model has no field 'kernal_size'; did you mean 'kernel_size'"
    ):
        from_plain(Config, {"model": {"kernal_size": 5}})
    file = tmp_path / "typo.py"
    file.write_text(
        "from pytc.config import *\nconfig = Config(model=ModelConfig(kernal_size=5))\n"
    )
    # one suggestion, also where Python makes one itself (from 3.13 on)
    with pytest.raises(
        ValueError, match="has no field 'kernal_size'; did you mean 'kernel_size'\\?$"
    ):
        load_config_file(file)
    with pytest.raises(ValueError, match="did you mean 'demo.py'"):
        load_config_file(ROOT / "configs" / "dmo.py")
    file.write_text("settings = 1\n")
    with pytest.raises(ValueError, match="to define config"):
        load_config_file(file)


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda: ModelConfig(kernel_size=4), "3, 5 or 7, got 4"),
        (lambda: ModelConfig(block_counts=(1, 2)), "nine block counts"),
        (
            lambda: Config(model=ModelConfig(out_channels=3)),
            "out_channels 6 for this target, got 3",
        ),
        (
            lambda: Config(data=DataConfig(patch_size=(8, 64, 64))),
            r"smaller than the patch \(8, 64, 64\)",
        ),
        (lambda: AugmentConfig(flip_prob=1.5), r"flip_prob in \[0, 1\], got 1.5"),
        (lambda: TargetConfig(offsets=((0, 0, -1),)), "positive along an axis"),
        (lambda: VolumeConfig(image="synthetic:x"), "synthetic:SEED"),
        (lambda: DataConfig(train=(VolumeConfig(weight=0.0),)), "a weight above 0"),
        (lambda: VolumeConfig(weight=-0.5), "volume.weight of 0 or more, got -0.5"),
        (lambda: DataConfig(train=()), "a training volume or more"),
        (lambda: LossConfig(terms=("DiceLoss",)), "got 'DiceLoss'"),
        (lambda: LossConfig(terms=("focl",)), "did you mean 'focal'"),
        (lambda: LossConfig(weights=(-1.0,)), "loss.weights of 0 or more"),
        (lambda: EvaluateConfig(affinities="a", segmentation="b"), "one of --run or"),
    ],
)
def test_impossible_values_are_refused(make, words):
    with pytest.raises(ValueError, match=words):
        make()


def _leaves(cls):
    for f in fields(cls):
        default = f.default
        if is_dataclass(default):
            yield from _leaves(type(default))
        else:
            yield cls, f.name


@pytest.mark.parametrize("cls", [Config, InferConfig, EvaluateConfig, ValidateConfig, VolumeConfig])
def test_every_field_has_help(cls):
    """A comment behind the field or on the line above it."""
    for owner, name in _leaves(cls):
        lines = Path(sys.modules[owner.__module__].__file__).read_text().splitlines()
        start = lines.index(
            next(line for line in lines if line.startswith(f"class {owner.__name__}"))
        )
        at = next(i for i in range(start, len(lines)) if lines[i].startswith(f"    {name}: "))
        is_commented = "  # " in lines[at] or lines[at - 1].startswith("    # ")
        assert is_commented or "arg(help=" in lines[at], f"{owner.__name__}.{name}"


@pytest.mark.parametrize("flag, said", [("--help", "used most"), ("--help-all", "options")])
@pytest.mark.parametrize("script", ["train.py", "infer.py", "evaluate.py"])
def test_help_answers_without_torch(script, flag, said, tmp_path):
    code = (
        f"import runpy, sys; sys.argv = [{script!r}, {flag!r}]\n"
        f"try: runpy.run_path({str(ROOT / script)!r}, run_name='__main__')\n"
        "except SystemExit as end: sys.exit(3 if 'torch' in sys.modules else end.code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert said in done.stdout


@pytest.mark.parametrize("command", [Config, InferConfig])
def test_help_introduces_each_section_by_its_own_words(command):
    """Not by the comment of the field before it."""
    module, name = command.__module__, command.__name__
    code = f"import tyro; from {module} import {name}; tyro.cli({name}, args=['--help'])"
    environment = {**os.environ, "COLUMNS": "80", "PYTHONIOENCODING": "utf-8"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True
    )
    shown = " ".join(done.stdout.replace("│", " ").split())
    for field in fields(command):
        if is_dataclass(field.default):
            first_line = type(field.default).__doc__.partition("\n")[0]
            assert re.search(rf"─ {field.name} options ─+╮ {re.escape(first_line)}", shown)


def test_a_wrong_flag_gets_a_suggestion_and_a_wrong_value_its_reason(tmp_path):
    def run(*arguments):
        return subprocess.run(
            [sys.executable, ROOT / "train.py", *arguments],
            cwd=tmp_path,
            capture_output=True,
            text=True,
        )

    typo = run("--model.kernel-siz", "5")
    assert typo.returncode != 0 and "--model.kernel-size" in typo.stderr
    wrong = run("--model.kernel-size", "4")
    assert wrong.returncode != 0 and "3, 5 or 7, got 4" in wrong.stderr
    missing = run("--config", "nowhere.py")
    assert missing.returncode != 0 and missing.stderr.startswith("error: expected a config file")
    assert not (tmp_path / "runs").exists()
