import json
import subprocess
import sys
from dataclasses import asdict, fields, is_dataclass, replace
from pathlib import Path

import pytest

from pytc.cli import load_config_file
from pytc.commands import EvaluateConfig, InferConfig
from pytc.config import (
    AugmentConfig,
    Config,
    DataConfig,
    ModelConfig,
    TargetConfig,
    VolumeConfig,
    from_plain,
)

ROOT = Path(__file__).parent.parent
PRESETS = sorted((ROOT / "configs").glob("*.py"))


@pytest.mark.parametrize("path", PRESETS, ids=lambda p: p.stem)
def test_presets_load_and_survive_json(path):
    config = load_config_file(path)
    assert from_plain(Config, json.loads(json.dumps(asdict(config)))) == config


def test_the_promised_presets_exist():
    promised = "mednext mednext_custom banis banis_plus fib25 mednext_lucchi demo unet".split()
    assert set(promised) <= {path.stem for path in PRESETS}


def test_optional_and_nested_fields_survive_json():
    volume = VolumeConfig(image="a.h5:raw", labels="a.h5:labels", voxel_size=(40.0, 4.0, 4.0), weight=0.25)
    config = Config(data=DataConfig(train=(volume, replace(volume, weight=0.75)), patch_size=(16, 32, 32)))
    assert from_plain(Config, json.loads(json.dumps(asdict(config)))) == config


def test_an_unknown_field_gets_a_suggestion(tmp_path):
    with pytest.raises(ValueError, match="config.model has no field 'kernal_size'; did you mean 'kernel_size'"):
        from_plain(Config, {"model": {"kernal_size": 5}})
    file = tmp_path / "typo.py"
    file.write_text("from pytc.config import *\nconfig = Config(model=ModelConfig(kernal_size=5))\n")
    with pytest.raises(ValueError, match="'kernal_size'; did you mean 'kernel_size'"):
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
        (lambda: Config(model=ModelConfig(out_channels=3)), "out_channels 6 for this target, got 3"),
        (lambda: Config(data=DataConfig(patch_size=(8, 64, 64))), r"smaller than the patch \(8, 64, 64\)"),
        (lambda: AugmentConfig(flip_prob=1.5), r"probability in \[0, 1\], got 1.5"),
        (lambda: TargetConfig(offsets=((0, 0, -1),)), "positive along an axis"),
        (lambda: VolumeConfig(image="synthetic:x"), "synthetic:SEED"),
        (lambda: DataConfig(train=(VolumeConfig(weight=0.5), VolumeConfig(weight=0.2))), "sum to 1"),
        (lambda: EvaluateConfig(affinities="a", segmentation="b"), "not both"),
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


@pytest.mark.parametrize("cls", [Config, InferConfig, EvaluateConfig, VolumeConfig])
def test_every_field_has_help(cls):
    """A comment behind the field or on the line above it."""
    for owner, name in _leaves(cls):
        lines = Path(sys.modules[owner.__module__].__file__).read_text().splitlines()
        start = lines.index(next(line for line in lines if line.startswith(f"class {owner.__name__}")))
        at = next(i for i in range(start, len(lines)) if lines[i].startswith(f"    {name}: "))
        assert "  # " in lines[at] or lines[at - 1].startswith("    # "), f"{owner.__name__}.{name}"


@pytest.mark.parametrize("script", ["train.py", "infer.py", "evaluate.py"])
def test_help_answers_without_torch(script, tmp_path):
    code = (
        f"import runpy, sys; sys.argv = [{script!r}, '--help']\n"
        f"try: runpy.run_path({str(ROOT / script)!r}, run_name='__main__')\n"
        "except SystemExit as end: sys.exit(3 if 'torch' in sys.modules else end.code)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "options" in done.stdout


def test_a_wrong_flag_gets_a_suggestion_and_a_wrong_value_its_reason(tmp_path):
    def run(*arguments):
        return subprocess.run(
            [sys.executable, ROOT / "train.py", *arguments], cwd=tmp_path, capture_output=True, text=True
        )

    typo = run("--model.kernel-siz", "5")
    assert typo.returncode != 0 and "--model.kernel-size" in typo.stderr
    wrong = run("--model.kernel-size", "4")
    assert wrong.returncode != 0 and "3, 5 or 7, got 4" in wrong.stderr
    missing = run("--config", "nowhere.py")
    assert missing.returncode != 0 and missing.stderr.startswith("error: expected a config file")
    assert not (tmp_path / "runs").exists()
