"""The commands of docs/own-volume.md, in order, on small stacks of its kind."""

import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile
from documents import commands, text_of
from pytc_command import PYTC
from test_readme import SMALL

from pytc.io.synthetic import make_neurites

ROOT = Path(__file__).parent.parent
PAGE = text_of("docs/own-volume.md")
FEWER = [word for word in SMALL if word != "--system.no-cpu-variant"]


def run(command, folder):
    program, *words = shlex.split(command)
    script = str(PYTC) if program == "pytc" else words.pop(0)
    if "train.py" in script:
        words += [*FEWER, "--data.patch-size", "16", "32", "32"]
    command = [sys.executable, script, *words]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True)


@pytest.mark.slow
def test_the_commands_of_the_page(tmp_path):
    for name in ("train.py", "infer.py", "evaluate.py", "configs"):
        (tmp_path / name).symlink_to(ROOT / name)
    for name, seed in (("train", 11), ("val", 12)):
        volume = make_neurites((32, 40, 48), seed, voxel_size=(40.0, 4.0, 4.0))
        tifffile.imwrite(tmp_path / f"{name}.tif", volume.image)
        tifffile.imwrite(tmp_path / f"{name}_labels.tif", volume.labels.T.astype(np.uint16))
    refused, *others, view = commands("docs/own-volume.md")
    assert view == "pytc view mine"  # tests/test_view.py opens it
    done = run(refused, tmp_path)
    assert done.returncode == 1
    said = PAGE.partition("\nerror: ")[2].partition("\n```")[0]
    advice = " ".join(said.split()).partition("; ")[2]
    assert advice and advice in done.stderr
    for command in others:
        done = run(command, tmp_path)
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        if command.startswith("pytc check"):
            assert "voxels 40 x 4 x 4 nm (given)" in done.stdout + done.stderr
    assert len(others) == 5
    assert (tmp_path / "check.png").is_file()
    assert (tmp_path / "runs/mine/evaluation/snemi3d_val/report.html").is_file()
