"""The scripts in examples/ and docs/quickstart.md run to their end, on small volumes."""

import os
import subprocess
import sys
from pathlib import Path

import h5py
import pytest
from documents import commands
from pytc_command import PYTC
from test_readme import SMALL

from pytc.io.datasets import DATASETS
from pytc.io.synthetic import make_neurites

ROOT = Path(__file__).parent.parent
FIB25 = """--model.features 4 8 8 8 --data.patch-size 32 32 32 --loop.max-steps 2 --loop.val-every 2
    --system.workers 0 --system.threads 1""".split()
SMALL_DEMO = """--data.patch-size 32 32 32 --data.synthetic.shape 40 48 48 --data.val-samples 1
    --loop.max-steps 2 --loop.val-every 2 --loop.batch-size 1 --system.workers 0
    --system.threads 1""".split()
FEWER = [word for word in SMALL if word != "--system.no-cpu-variant"]


@pytest.fixture
def clone(tmp_path):
    """The scripts, their presets, and the volumes that `pytc data fetch` would make."""
    for name in ("train.py", "infer.py", "evaluate.py", "configs", "examples"):
        (tmp_path / name).symlink_to(ROOT / name)
    for name, split, seed in (
        ("fib25", "train", 1),
        ("fib25", "val", 2),
        ("cremi_a", "train", 3),
        ("cremi_b", "train", 4),
        ("cremi_c", "train", 5),
    ):
        voxel_size = DATASETS[name].voxel_size
        volume = make_neurites((48, 48, 48), seed, voxel_size=voxel_size)
        folder = tmp_path / "data" / name
        folder.mkdir(parents=True, exist_ok=True)
        with h5py.File(folder / f"{name}_{split}.h5", "w") as file:
            for key, array in (("raw", volume.image), ("labels", volume.labels)):
                file[key] = array
                file[key].attrs.update({"axes": "zyx", "resolution": voxel_size, "unit": "nm"})
    return tmp_path


def run(script, words, folder, **variables):
    """The script as it stands, in a clone of its own, with the tools of this environment."""
    tools = Path(sys.executable).parent
    environment = {**os.environ, "PATH": f"{tools}:{os.environ['PATH']}", **variables}
    for name in ("PYTC_DATA", "PYTC_RUNS"):
        environment.pop(name, None)
    # the script goes to the folder above its own, so it must lie in the clone, not be a link
    copied = folder / "scripts"
    copied.mkdir()
    text = (ROOT / "examples" / script).read_text()
    # two tests at once would meet at torchrun's own port
    text = text.replace("torchrun ", "torchrun --rdzv-backend c10d --rdzv-endpoint localhost:0 ")
    (copied / script).write_text(text)
    done = subprocess.run(
        ["bash", copied / script, *words],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.mark.slow
def test_the_whole_road_on_a_cpu(clone):
    said = run("cpu.sh", FIB25, clone)
    report = Path(said.splitlines()[-1].removeprefix("open "))
    assert (clone / report).is_file()
    assert (clone / "fib25-check.png").is_file()
    results = clone / "runs" / "fib25" / "predictions" / "fib25_val_raw"
    assert (results / "segmentation.ome.zarr").is_dir()


@pytest.mark.slow
def test_the_whole_road_on_the_gpus_of_a_machine(clone):
    """Two processes on the CPU."""
    words = [*FEWER, "--data.patch-size", "16", "32", "32"]
    run("gpu.sh", words, clone, PROCESSES="2")
    evaluations = list((clone / "runs" / "cremi" / "evaluation").glob("*/report.html"))
    assert len(evaluations) == 1 and (clone / "cremi-check.png").is_file()


@pytest.mark.slow
def test_the_commands_of_the_quickstart(tmp_path, monkeypatch):
    monkeypatch.delenv("PYTC_RUNS", raising=False)
    for name in ("train.py", "infer.py", "evaluate.py", "configs"):
        (tmp_path / name).symlink_to(ROOT / name)
    *calls, view = commands("docs/quickstart.md")
    assert view == "pytc view narrow"  # tests/test_view.py opens it
    for call in calls:
        program, *words = call.split()
        script = [str(PYTC)] if program == "pytc" else []
        small = SMALL_DEMO if "train.py" in words else []
        done = subprocess.run(
            [sys.executable, *script, *words, *small], cwd=tmp_path, capture_output=True, text=True
        )
        assert done.returncode == 0, f"{call}\n{done.stdout}\n{done.stderr}"
    assert "narrow" in (tmp_path / "compare.html").read_text()
    assert (tmp_path / "runs/narrow/evaluation/synthetic-1/report.html").is_file()
