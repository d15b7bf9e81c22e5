"""Every field of a config is checked against its whole type, in Python, JSON and on the command
line."""

import json
import subprocess
import sys
import typing
from dataclasses import asdict, dataclass, fields, is_dataclass
from pathlib import Path

import numpy as np
import pytest

from pytc.checks import Section, from_plain
from pytc.commands import EvaluateConfig, InferConfig, ValidateConfig
from pytc.config import (
    AugmentConfig,
    Config,
    DataConfig,
    LossConfig,
    ModelConfig,
    OptimConfig,
    SystemConfig,
    TargetConfig,
    VolumeConfig,
)

ROOT = Path(__file__).parent.parent


def sections(cls):
    """The class and those of the dataclasses in its fields, also in tuples and unions."""
    yield cls
    for hint in typing.get_type_hints(cls).values():
        for kind in (hint, *typing.get_args(hint)):
            if is_dataclass(kind):
                yield from sections(kind)


@pytest.mark.parametrize("cls", [Config, InferConfig, EvaluateConfig, ValidateConfig])
def test_no_field_of_any_section_takes_a_foreign_type(cls):
    """Also of fields that are added later: an object fits no type."""
    for section in sections(cls):
        for field in fields(section):
            with pytest.raises(ValueError, match=rf"{field.name} .*got <object object"):
                section(**{field.name: object()})


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda: OptimConfig(schedule="constnt"), "optim.schedule as one of 'none', 'cosine', got"),
        (lambda: OptimConfig(schedule="cosin"), "did you mean 'cosine'"),
        (lambda: SystemConfig(precision="16-mixed"), "system.precision as one of 'auto', 'fp32'"),
        (lambda: ModelConfig(norm="batch"), "model.norm as one of 'group', 'layer', got 'batch'"),
        (lambda: ModelConfig(spatial_dims=True), "model.spatial_dims as one of 2, 3, got True"),
        (lambda: ModelConfig(mednext_size="X"), "model.mednext_size as one of 'S', 'B'"),
        (lambda: TargetConfig(kind="foreground"), "target.kind as one of"),
        (lambda: DataConfig(mixing="weight"), "data.mixing.*did you mean 'weighted'"),
        (lambda: DataConfig(patch_size=64), r"data.patch_size of type tuple\[int, int, int\]"),
        (lambda: DataConfig(patch_size=(64, 64)), r"data.patch_size .*got \(64, 64\)"),
        (lambda: DataConfig(patch_size=(64, 64, 6.4)), r"data.patch_size .*got \(64, 64, 6.4\)"),
        (
            lambda: DataConfig(train=VolumeConfig()),
            r"data.train of type tuple\[VolumeConfig, ...\], got VolumeConfig.*with a comma",
        ),
        (lambda: DataConfig(train=("a.tif",)), r"data.train .*got \('a.tif',\)"),
        (lambda: Config(data=AugmentConfig()), "data of type DataConfig, got AugmentConfig"),
        (
            lambda: OptimConfig(learning_rate="1e-3"),
            "optim.learning_rate of type float, got '1e-3'",
        ),
        (lambda: OptimConfig(learning_rate=True), "optim.learning_rate of type float, got True"),
        (lambda: OptimConfig(learning_rate=float("nan")), "optim.learning_rate above 0, got nan"),
        (lambda: OptimConfig(accumulate=2.0), "optim.accumulate of type int, got 2.0"),
        (lambda: ModelConfig(grn=1), "model.grn of type bool, got 1"),
        (lambda: ModelConfig(strides=((1, 2), (2, 2))), "model.strides of type"),
        (lambda: LossConfig(terms="bce"), r"loss.terms of type tuple\[str, ...\], got 'bce'"),
        (lambda: SystemConfig(workers="2"), r"system.workers of type int \| None, got '2'"),
    ],
)
def test_the_error_names_field_type_and_value(make, words):
    with pytest.raises(ValueError, match=words):
        make()


def test_lists_become_tuples_and_whole_numbers_floats():
    data = DataConfig(train=[VolumeConfig(voxel_size=[40, 4, 4])], patch_size=[32, 32, 32])
    assert data.patch_size == (32, 32, 32) and isinstance(data.train, tuple)
    assert data.train[0].voxel_size == (40.0, 4.0, 4.0)
    assert all(type(length) is float for length in data.train[0].voxel_size)
    assert TargetConfig(offsets=[[1, 0, 0], [0, 1, 0]]).offsets == ((1, 0, 0), (0, 1, 0))
    assert VolumeConfig(image=Path("a/b.tif")).image == str(Path("a/b.tif"))


def test_numbers_of_numpy_become_plain_ones():
    section = OptimConfig(accumulate=np.int64(2), learning_rate=np.float32(0.5))
    assert type(section.accumulate) is int and type(section.learning_rate) is float


@dataclass(frozen=True)
class AddedConfig(Section):
    """A section of which nobody has said how it is checked."""

    depth: int = 3
    inner: OptimConfig | None = None


def test_a_new_section_is_checked_without_more_words():
    with pytest.raises(ValueError, match="added.depth of type int, got 'deep'"):
        AddedConfig(depth="deep")
    with pytest.raises(ValueError, match=r"added.inner of type OptimConfig \| None"):
        AddedConfig(inner=AugmentConfig())
    section = AddedConfig(inner=OptimConfig(accumulate=2))
    assert from_plain(AddedConfig, json.loads(json.dumps(asdict(section)))) == section


@pytest.mark.parametrize(
    "plain, words",
    [
        ({"data": {"patch_size": [1, 2]}}, r"data.patch_size .*got \[1, 2\]"),
        ({"data": {"train": [{"imge": "a"}]}}, "config.data.train has no field 'imge'; did you"),
        ({"data": {"train": {"image": "a"}}}, "data.train of type"),
        ({"optim": {"schedule": "step"}}, "optim.schedule as one of"),
        ({"optim": [1]}, r"expected config.optim as a table of its fields, got \[1\]"),
        ([], "expected config as a table of its fields"),
    ],
)
def test_json_is_checked_as_python_is(plain, words):
    with pytest.raises(ValueError, match=words):
        from_plain(Config, plain)


def test_lists_in_a_config_file_give_no_warning(tmp_path):
    (tmp_path / "lists.py").write_text(
        "from pytc.config import *\n"
        "config = Config(data=DataConfig(train=[VolumeConfig()], patch_size=[32, 32, 32]))\n"
    )
    command = [sys.executable, str(ROOT / "train.py"), "--config", "lists.py", "--help"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0 and done.stderr == ""
    assert "32 32 32" in done.stdout
