"""The flags of train.py: volumes, names of the documents, and what goes with --resume."""

from dataclasses import replace
from pathlib import Path

import pytest

from pytc import cli
from pytc.cli import named_flags, parse_config, with_named_fields
from pytc.config import (
    Config,
    DataConfig,
    LoopConfig,
    ModelConfig,
    SyntheticConfig,
    SystemConfig,
    TargetConfig,
    ValidationConfig,
    VolumeConfig,
)
from pytc.config_files import load_config_file
from pytc.renames import DOCUMENTED_FLAGS
from pytc.runs import load_config
from pytc.training.loop import train

ROOT = Path(__file__).parent.parent


def parsed(*arguments, default=Config()):
    default = with_named_fields(default, named_flags(list(arguments)))
    return parse_config(list(arguments), default, None, None)


def test_more_volumes_are_named_by_flags():
    config = parsed(
        *("--data.train.1.image", "b.tif", "--data.train.1.labels", "c.tif"),
        *("--data.train.2.image=d.tif", "--data.train.2.voxel-size", "40", "4", "4"),
        *("--data.val.0.image", "e.tif"),
        default=load_config_file(Path("demo")),
    )
    first, second, third = config.data.train
    assert first == VolumeConfig()
    assert second == VolumeConfig(image="b.tif", labels="c.tif")
    assert third == VolumeConfig(image="d.tif", voxel_size=(40.0, 4.0, 4.0))
    assert [volume.image for volume in config.data.val] == ["e.tif"]


def test_a_further_volume_needs_an_image():
    with pytest.raises(ValueError, match="expected --data.train.1.image for a further volume"):
        parsed("--data.train.1.labels", "c.tif")


@pytest.mark.parametrize(
    "flag, ours",
    [
        ("--data.batch-size", "--loop.batch-size"),
        ("--data.batch_size=4", "--loop.batch-size"),
        ("--optimizer.lr", "--optim.learning-rate"),
        ("--training.max-epochs", "--loop.epochs"),
        ("--system.num-gpus", "torchrun --nproc-per-node gpu"),
        ("--auto-config", "--system.auto"),
    ],
)
def test_a_flag_of_the_documents_is_answered_with_ours(flag, ours):
    with pytest.raises(ValueError, match=f"expected {ours}.* in place of {flag.split('=')[0]}"):
        named_flags([flag, "1"])


def test_every_answer_to_a_flag_of_the_documents_is_a_flag():
    for answer in DOCUMENTED_FLAGS.values():
        for word in answer.split():
            section, dot, name = word.strip(",").removeprefix("--").rpartition(".")
            if not word.startswith("--") or not dot:
                continue
            value = Config()
            for part in (*section.replace("-", "_").split("."), name.replace("-", "_")):
                if part.isdigit():
                    value = VolumeConfig()
                else:
                    value = getattr(value, part)


def test_no_flag_of_ours_is_taken_for_one_of_the_documents():
    for flag in DOCUMENTED_FLAGS:
        value = Config()
        for part in flag.split("."):
            value = getattr(value, part, None)
        assert value is None, flag


TINY = Config(
    name="tiny",
    data=DataConfig(
        patch_size=(16, 16, 16), synthetic=SyntheticConfig(shape=(32, 32, 32)), val_samples=1
    ),
    target=TargetConfig(offsets=((1, 0, 0), (0, 1, 0), (0, 0, 1))),
    model=ModelConfig("unet", features=(2, 4), out_channels=3),
    loop=LoopConfig(max_steps=3, batch_size=1, log_every=1),
    system=SystemConfig(device="cpu", precision="fp32", threads=1, workers=0),
)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("flags")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        train(TINY)
    return folder / "runs" / "tiny"


@pytest.fixture
def refused(run, monkeypatch, capfd):
    """The one line with which train.py ends, before a run is made."""
    monkeypatch.chdir(run.parent.parent)

    def call(*arguments):
        before = sorted(run.parent.iterdir())
        with pytest.raises(SystemExit) as end:
            cli.train(list(arguments))
        assert sorted(run.parent.iterdir()) == before
        message = str(end.value)
        assert message.startswith("error: ") and "\n" not in message
        return message

    return call


def test_resume_and_config_are_refused_together(refused):
    assert "--resume alone" in refused("--resume", "runs/tiny", "--config", "demo")


@pytest.mark.parametrize(
    "flags, fields",
    [
        (("--model.architecture", "rsunet"), "model.architecture 'rsunet' for 'unet'"),
        (("--model.features", "2", "8"), r"model.features (2, 8) for (2, 4)"),
        (("--optim.ema-decay", "0.9"), "optim.ema_decay 0.9 for 0.0"),
        (
            ("--target.offsets", *"1 0 0 0 1 0 0 0 2".split()),
            "target.offsets ((1, 0, 0), (0, 1, 0), (0, 0, 2)) for",
        ),
    ],
)
def test_a_run_is_not_continued_as_another_network(refused, flags, fields):
    assert fields in refused("--resume", "runs/tiny", *flags)


def test_a_run_is_not_continued_to_a_step_before_the_one_it_is_at(refused):
    line = refused("--resume", "runs/tiny", "--loop.max-steps", "2")
    assert "--loop.max-steps of 3 or more" in line and line.endswith("got 2")


def test_a_run_is_continued_in_another_precision(run, monkeypatch):
    """A scaler of float16 has no state before; it begins with its own."""
    monkeypatch.chdir(run.parent.parent)
    config = load_config(train(replace(TINY, name="precise")))
    longer = replace(config.loop, max_steps=4)
    system = replace(config.system, precision="fp16")
    train(replace(config, loop=longer, system=system), resume=Path("runs/precise"))
    assert load_config(Path("runs/precise")).system.precision == "fp16"


@pytest.mark.parametrize(
    "words, thresholds",
    [
        (["0.1:0.4:0.1"], (0.1, 0.2, 0.3, 0.4)),
        (["0.3", "0.5:0.7:0.1"], (0.3, 0.5, 0.6, 0.7)),
        (["0.65"], (0.65,)),
    ],
)
def test_thresholds_of_validation_are_numbers_or_ranges(words, thresholds):
    assert parsed("--validation.thresholds", *words).validation.thresholds == thresholds
    assert ValidationConfig(thresholds=words).thresholds == thresholds
    assert ValidationConfig(thresholds=thresholds).thresholds == thresholds


def test_thresholds_of_a_config_file_stay_as_they_are_to_the_last_digit():
    file = Config(validation=ValidationConfig(thresholds=(0.1234567890123, 1 / 3)))
    assert parsed("--loop.max-steps", "5", default=file).validation == file.validation
    assert parsed("--validation.thresholds", "None", default=file).validation.thresholds is None


def test_a_range_of_thresholds_is_not_taken_for_three_of_them():
    with pytest.raises(ValueError, match="that rise, or a range such as '0.1:0.9:0.05', got"):
        ValidationConfig(thresholds=[0.1, 0.9, 0.05])
    with pytest.raises(ValueError, match="thresholds in"):
        ValidationConfig(thresholds=[1.5])


def test_weights_of_volumes_are_shares(run, monkeypatch):
    monkeypatch.chdir(run.parent.parent)
    volumes = (VolumeConfig(weight=3.0), VolumeConfig(image="synthetic:1"))
    config = replace(TINY, name="shares", data=replace(TINY.data, train=volumes))
    assert train(config).is_dir()
