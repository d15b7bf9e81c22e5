"""`pytc check`: what it prints, the page that it draws, and its document."""

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from documents import commands, text_of
from PIL import Image
from public_data import needs, public_data

from pytc.check import NO_LOSS, draw_target, patch_rows
from pytc.config import Config, DataConfig, ModelConfig, SyntheticConfig, TargetConfig
from pytc.data.doubts import CHECKS
from pytc.data.synthetic_volumes import prepare_volume
from pytc.evaluation.pictures import palette
from pytc.main import main

ROOT = Path(__file__).parent.parent
DOCUMENT = text_of("docs/check.md")
OFFSETS = ((1, 0, 0), (0, 1, 0), (0, 0, 1), (0, 8, 0))
SMALL = """
from pytc.config import *
config = Config(
    name="small",
    data=DataConfig(patch_size=(16, 32, 32), synthetic=SyntheticConfig(shape=(48, 64, 64))),
    target=TargetConfig(offsets=((1, 0, 0), (0, 1, 0), (0, 0, 1))),
    model=ModelConfig(
        architecture="unet", features=(4, 8, 8), deep_supervision=True, out_channels=3
    ),
)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("check")
    (folder / "small.py").write_text(SMALL)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.delenv("PYTC_DATA", raising=False)
        yield folder


def said_by(capsys, *words):
    main(["check", *map(str, words)])
    return capsys.readouterr().out.splitlines()


def test_synthetic_volumes_raise_no_doubt_and_the_page_is_drawn(folder, capsys):
    lines = said_by(capsys, "small.py", "--patches", 2, "--output", "pages/small.png")
    assert lines[-1] == "nothing looks wrong; the page: pages/small.png"
    assert any(line.startswith("training volume synthetic-0: ") for line in lines)
    page = np.asarray(Image.open("pages/small.png").convert("RGB"))
    assert page.shape[1] >= 800 and len(np.unique(page.reshape(-1, 3), axis=0)) > 100
    three = said_by(capsys, "--config", "small.py", "--patches", 3, "--output", "pages/three.png")
    assert three[-1].startswith("nothing looks wrong")
    assert Image.open("pages/three.png").height > page.shape[0]


def test_what_looks_wrong_is_printed_and_counted(folder, capsys):
    lines = said_by(capsys, "small.py", "--patches", 1, "--data.patch-size", 16, 96, 32, "--quiet")
    assert [line for line in lines if line.startswith("warning: patches of (16, 96, 32)")]
    assert lines[-1] == "2 things look wrong; the page: check.png"  # of training and validation


def test_a_page_that_cannot_be_written_is_refused_first(folder, capsys):
    for words, message in (
        (("--output", "page.jpg"), "expected --output FILE.png, got 'page.jpg'"),
        (("--patches", 0), "expected --patches of 1 or more, got 0"),
        (("--data.train.0.image", "none.zarr"), "none.zarr"),
    ):
        with pytest.raises(SystemExit) as left:
            main(["check", "small.py", *map(str, words)])
        assert message in str(left.value) + capsys.readouterr().err


def test_a_patch_is_shown_at_each_scale_as_the_network_sees_it(folder):
    config = Config(
        data=DataConfig(patch_size=(16, 32, 32), synthetic=SyntheticConfig(shape=(48, 64, 64))),
        target=TargetConfig(offsets=OFFSETS),
        model=ModelConfig("unet", features=(4, 8, 8), deep_supervision=True, out_channels=4),
    )
    prepare_volume(config.data.train[0], config.data.synthetic)
    ((name, panels),) = patch_rows(config, 1)
    assert name == "synthetic-0"
    titles = [panel.title for panel in panels]
    assert titles == [
        "image, augmented",
        "labels",
        "affinity 1,0,0 0,1,0 0,0,1\nfull resolution",
        "affinity 0,8,0\nfull resolution",
        "affinity 1,0,0 0,1,0 0,0,1\n1/2 x 1/2 x 1/2",
        "affinity 0,4,0\n1/2 x 1/2 x 1/2",
    ]
    shapes = [panel.pixels.shape for panel in panels]
    assert shapes == [(32, 32, 3)] * 4 + [(16, 16, 3)] * 2


def test_targets_are_drawn_by_their_kind():
    target = np.zeros((3, 3, 2, 2), bool)
    target[:, 1, 0, 0] = (True, False, True)
    valid = np.ones_like(target)
    valid[:, :, 1, 1] = False
    valid[0, :, 1, 0] = False
    (pixels,) = draw_target(target, valid, "affinity", OFFSETS[:3], 0).values()
    assert pixels[0, 0].tolist() == [255, 0, 255] and pixels[0, 1].tolist() == [0, 0, 0]
    assert tuple(pixels[1, 1]) == NO_LOSS  # valid in no channel
    (pixels,) = draw_target(target[:1], valid[:1], "binary", (), 0).values()
    assert pixels[0, 0].tolist() == [255, 255, 255] and tuple(pixels[1, 0]) == NO_LOSS
    classes = np.arange(12).reshape(1, 3, 2, 2)
    (pixels,) = draw_target(classes, valid[:1], "classes", (), 0).values()
    np.testing.assert_array_equal(pixels[0], palette(classes[0, 1, 0]))


# --- the document ---


def test_the_document_has_the_table_of_checks():
    rows = re.findall(r"^\| (.*) \| (.*) \|$", DOCUMENT, flags=re.MULTILINE)
    assert rows[2:] == [(check.name, check.looks_at) for check in CHECKS]


def test_the_picture_is_small_and_there():
    (name,) = re.findall(r"\]\((images/\S+)\)", DOCUMENT)
    assert (ROOT / "docs" / name).stat().st_size < 400_000


@needs("fib25")
def test_the_command_of_the_document_runs(tmp_path, monkeypatch, capsys):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "fib25").symlink_to(public_data("fib25"))
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PYTC_DATA", raising=False)
    (command,) = commands("docs/check.md")
    main(shlex.split(command)[1:])
    assert "; the page: check.png" in capsys.readouterr().out
    assert Image.open("check.png").width > 1000
