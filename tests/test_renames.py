"""What an earlier release wrote: configs, runs and checkpoints load by one table of renames.

`golden/release_0_1` is a run of two steps as release 0.1 left it at e5514a4: two training volumes,
a constant learning rate, a moving average.
"""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from pytc import renames
from pytc.config import Config
from pytc.config_files import load_config_file
from pytc.models.checkpoint import load_checkpoint, load_model
from pytc.renames import config_from_plain, renamed
from pytc.runs import load_config
from pytc.training.loop import train

RUN = Path(__file__).parent / "golden" / "release_0_1"


def test_a_config_of_an_earlier_release_loads():
    config = load_config(RUN)
    assert config == load_config_file(RUN / "config.json")
    assert config.optim.schedule == "none"
    assert [volume.weight for volume in config.data.train] == [0.25, 0.75]
    assert config.model.features == (2, 4) and config.loop.max_steps == 2
    assert config.data.intensity == "dtype"


def test_a_checkpoint_of_an_earlier_release_loads_and_predicts():
    model, config, step = load_model(RUN / "checkpoints" / "last.pt")
    assert step == 2 and config == load_config(RUN)
    with torch.no_grad():
        assert model(torch.zeros(1, 1, 16, 16, 16)).shape == (1, 3, 16, 16, 16)


def test_a_run_of_an_earlier_release_goes_on(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = Path("runs") / "old"
    shutil.copytree(RUN, run)
    config = load_config(run)
    train(replace(config, loop=replace(config.loop, max_steps=3)), resume=run)
    assert load_checkpoint(run / "checkpoints" / "last.pt")["step"] == 3
    assert load_config(run).optim.schedule == "none"


def test_fields_move_by_the_table(monkeypatch):
    monkeypatch.setattr(
        renames,
        "RENAMED_FIELDS",
        {"loop.steps": "loop.max_steps", "threshold": "segmentation.threshold", "old.gone": None},
    )
    plain = {"loop": {"steps": 7}, "threshold": 0.75, "old": {"gone": 1}, "segmentation": {}}
    expected = {"loop": {"max_steps": 7}, "old": {}, "segmentation": {"threshold": 0.75}}
    assert renamed(plain) == expected  # nothing is added to a section that is missing
    assert plain["loop"] == {"steps": 7}  # what was read is left as it was


def test_what_no_release_knows_is_refused_in_one_line(tmp_path):
    with pytest.raises(ValueError, match="config.loop has no field 'steps_max'"):
        config_from_plain({"loop": {"steps_max": 7}})
    state = torch.load(RUN / "checkpoints" / "last.pt", weights_only=True)
    torch.save({**state, "format": 2}, tmp_path / "newer.pt")
    with pytest.raises(ValueError, match="format 1.*got .*newer.pt of format 2.*newer release"):
        load_checkpoint(tmp_path / "newer.pt")
    torch.save({"state_dict": state["model"]}, tmp_path / "foreign.pt")
    with pytest.raises(ValueError, match="foreign.pt.*--model.pretrained"):
        load_checkpoint(tmp_path / "foreign.pt")


def test_every_name_of_this_release_is_right():
    moved = [new for new in renames.RENAMED_FIELDS.values() if new is not None]
    for field in (*moved, *(field for field, _ in renames.RENAMED_VALUES)):
        value = Config()
        for part in field.split("."):
            value = getattr(value, part)
