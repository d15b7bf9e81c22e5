"""Config files: where they are found, what they may import, and errors of one line."""

import json
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from pytc.config import Config, DataConfig, LoopConfig
from pytc.config_files import load_config_file

ROOT = Path(__file__).parent.parent


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("name", ["demo", "demo.py", ROOT / "configs" / "demo"])
def test_a_preset_is_found_by_its_name(name):
    assert load_config_file(Path(name)) == load_config_file(ROOT / "configs" / "demo.py")


def test_a_file_here_comes_before_a_preset_of_its_name(tmp_path):
    (tmp_path / "demo.py").write_text("from pytc.config import *\nconfig = Config(name='here')\n")
    assert load_config_file(Path("demo")).name == "here"


def test_a_file_anywhere_may_extend_a_preset_and_import_its_neighbours(tmp_path):
    (tmp_path / "neighbour_of_a_config.py").write_text("steps = 7\n")
    (tmp_path / "extends.py").write_text(
        "from dataclasses import replace\n"
        "from demo import config as demo\n"
        "from neighbour_of_a_config import steps\n"
        "config = replace(demo, loop=replace(demo.loop, max_steps=steps))\n"
    )
    before = list(sys.path)
    assert load_config_file(tmp_path / "extends.py").loop.max_steps == 7
    assert sys.path == before


def test_the_presets_do_not_shadow_modules_of_the_user(tmp_path):
    (tmp_path / "fib25.py").write_text("steps = 3\n")
    (tmp_path / "mine.py").write_text(
        "from fib25 import steps\nfrom pytc.config import *\n"
        "config = Config(loop=LoopConfig(max_steps=steps))\n"
    )
    code = (
        "from pathlib import Path; from pytc.config_files import load_config_file\n"
        "assert load_config_file(Path('mine.py')).loop.max_steps == 3"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_json_of_a_run_is_a_config_file(tmp_path):
    config = Config(name="plain", data=DataConfig(patch_size=(16, 32, 32)))
    (tmp_path / "config.json").write_text(json.dumps(asdict(config)))
    resolved = {"config": asdict(replace(config, name="resolved")), "changes": []}
    (tmp_path / "resolved.json").write_text(json.dumps(resolved))
    assert load_config_file(Path("config.json")) == config
    assert load_config_file(Path("resolved.json")).name == "resolved"
    with pytest.raises(ValueError, match="--config .*/config.json trains anew.*--resume"):
        load_config_file(tmp_path)


@pytest.mark.parametrize(
    "text, words",
    [
        ("config = Config(\n", "bad.py, line 3: '\\(' was never closed"),
        ("patch = 3\nconfig = Confg()\n", "bad.py, line 4: NameError: name 'Confg'"),
        ("config = Config(loop=LoopConfig(steps=3))\n", "line 3: LoopConfig has no field 'steps'"),
        (
            "from demmo import config\n",
            "bad.py, line 3: ModuleNotFoundError: No module named 'demm",
        ),
        (
            "config = Config(model=ModelConfig(kernal_size=5))\n",
            "line 3: ModelConfig has no field 'kernal_size'; did you mean 'kernel_size'\\?$",
        ),
        (
            "config = Config(data=DataConfig(patch_size=64))\n",
            r"bad.py, line 3: expected data.patch_size of type tuple\[int, int, int\], got 64",
        ),
        ("settings = 1\n", "bad.py to define config = Config\\(...\\), got NoneType"),
    ],
)
def test_an_error_is_one_line_with_file_and_line(tmp_path, text, words):
    (tmp_path / "bad.py").write_text(
        f"from dataclasses import *\nfrom pytc.config import *\n{text}"
    )
    with pytest.raises(ValueError, match=words) as caught:
        load_config_file(Path("bad.py"))
    assert "\n" not in str(caught.value)


def test_an_error_in_an_imported_config_names_that_file(tmp_path):
    (tmp_path / "broken_base.py").write_text("\n\nconfig = 1 / 0\n")
    (tmp_path / "outer.py").write_text("from broken_base import config\n")
    with pytest.raises(ValueError, match="broken_base.py, line 3: ZeroDivisionError"):
        load_config_file(Path("outer.py"))


@pytest.mark.parametrize(
    "text, words",
    [
        ('{"name": null,}', "config.json: .*line 1 column"),
        ('{"name": null}', "config.json: expected name of type str, got None"),
        ('{"loop": {"max_step": 1}}', "config.loop has no field 'max_step'; did you mean"),
        ("[]", "config.json: expected config as a table"),
    ],
)
def test_an_error_in_json_is_one_line_with_the_file(tmp_path, text, words):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ValueError, match=words):
        load_config_file(Path("config.json"))


def test_a_missing_file_gets_the_nearest_preset():
    with pytest.raises(ValueError, match="found no mednxt; did you mean 'mednext.py'"):
        load_config_file(Path("mednxt"))
    with pytest.raises(ValueError, match="did you mean 'demo.py'"):
        load_config_file(ROOT / "configs" / "dmo.py")


def test_lists_in_a_config_file_become_tuples(tmp_path):
    (tmp_path / "lists.py").write_text(
        "from pytc.config import *\nconfig = Config(data=DataConfig(patch_size=[32, 32, 32]))\n"
    )
    assert load_config_file(Path("lists.py")) == Config(data=DataConfig(patch_size=(32, 32, 32)))
    assert load_config_file(Path("lists")).loop == LoopConfig()
