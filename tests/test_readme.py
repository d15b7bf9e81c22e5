"""Every command of the README and of the pages it sends a user to first runs, on small data.

They run in the order of the pages. The data have the names that the pages use.
"""

import json
import os
import pickle
import re
import shlex
import subprocess
import sys
from pathlib import Path

import h5py
import networkx
import numpy as np
import pytest
import torch
from documents import commands, examples, text_of
from PIL import Image
from public_data import needs, public_data
from pytc_command import PYTC

from pytc.io.synthetic import make_neurites
from pytc.io.volume import create_volume, open_volume

ROOT = Path(__file__).parent.parent
README = text_of("README.md")
FIB25 = public_data("fib25")
SMALL = """--system.no-cpu-variant
    --model.architecture mednext_custom --model.base-channels 4 --model.grn
    --model.expansion 1 1 1 1 1 1 1 1 1 --model.block-counts 1 1 1 1 1 1 1 1 1
    --data.patch-size 32 32 32 --data.synthetic.shape 48 48 48 --data.val-samples 1
    --loop.max-steps 2 --loop.val-every 2 --loop.batch-size 1
    --system.workers 0 --system.threads 1""".split()


def commands_to_run():
    """Those of the README, and of the pages that go on where it ends, in this order."""
    networks = [line for line in commands("docs/networks.md") if "my_net" not in line]
    return [*commands("README.md"), *commands("docs/training.md"), *networks]


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    """A clone's scripts and configs, beside the files that the README names."""
    folder = tmp_path_factory.mktemp("clone")
    for name in ("train.py", "infer.py", "evaluate.py", "configs"):
        (folder / name).symlink_to(ROOT / name)
    if FIB25 is not None:
        (folder / "data").mkdir()
        (folder / "data" / "fib25").symlink_to(FIB25)
    cube, other = (make_neurites((48, 48, 48), seed) for seed in (5, 6))
    with h5py.File(folder / "cube.h5", "w") as file:
        for name, array in (("raw", cube.image), ("labels", cube.labels)):
            file[name] = array
            file[name].attrs.update({"axes": "zyx", "resolution": [10.0, 10.0, 10.0]})
    for path, array in (("other.zarr/raw", other.image), ("other.zarr/labels", other.labels)):
        with create_volume(
            folder / path, array.shape, array.dtype, voxel_size=(10, 10, 10)
        ) as volume:
            volume[...] = array
    graph, skeleton = networkx.Graph(), other.skeleton
    for node, (key, at, nm) in enumerate(zip(skeleton.ids, skeleton.positions, skeleton.nm)):
        graph.add_node(
            node, id=int(key), index_position=tuple(map(int, at)), nm_position=tuple(map(float, nm))
        )
    graph.add_edges_from(skeleton.edges.tolist())
    (folder / "other.pkl").write_bytes(pickle.dumps(graph))
    return folder


def run(command, folder):
    environment = dict(os.environ)
    program, *arguments = shlex.split(command)
    if program == "torchrun":
        if "gpu" in arguments and not torch.cuda.is_available():
            arguments[arguments.index("gpu")] = "2"
        free_port = ["--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0"]
        arguments = ["-m", "torch.distributed.run", *free_port, *arguments]
    elif program == "tensorboard":
        # the same reading of the same folder, without the server
        arguments = ["-m", "tensorboard.main", "--inspect", *arguments]
    elif program == "pytc":
        arguments = [str(PYTC), *arguments]
    else:
        assert program == "python", command
    if "--config" in arguments or "check" in arguments:
        arguments += SMALL
    elif "--resume" in arguments:
        arguments += ["--loop.max-steps", "3"]
    done = subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def test_the_three_lines_are_there():
    assert commands_to_run()[:3] == [
        "torchrun train.py --config configs/mednext.py",
        "python infer.py",
        "python evaluate.py --sweep",
    ]


def test_what_make_is_asked_for_exists():
    targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    named = re.findall(r"^make (\w+)", README, re.MULTILINE)
    assert named == ["demo", "test"] and set(named) <= set(targets)


@pytest.mark.slow
def test_every_command_runs(workplace):
    said = [run(command, workplace) for command in commands_to_run()]
    assert "trained: runs/mednext" in said[0] and "run: runs/mednext" in said[1]
    evaluation = next((workplace / "runs" / "mednext" / "evaluation").glob("*/metrics.json"))
    assert {"nerl", "voi_sum", "dense_voi_sum", "threshold"} <= set(
        json.loads(evaluation.read_text())
    )
    results = workplace / "results"
    affinities, segmentation = (
        open_volume(results / "affinities.zarr"),
        open_volume(results / "segmentation.zarr"),
    )
    assert (
        affinities.shape == (6, 48, 48, 48)
        and affinities.dtype == np.float16
        and len(affinities.offsets) == 6
    )
    assert segmentation.shape == (48, 48, 48) and segmentation.attributes["threshold"] == 0.7
    written = {path.name for path in (workplace / "scores").iterdir()}
    assert {"metrics.json", "sweep.csv", "sweep.png", "report.html"} <= written


@needs("fib25")
def test_the_command_about_fib25_runs(workplace):
    (command,) = commands("docs/fib25.md")
    assert "trained: runs/fib25" in run(command, workplace)


@pytest.mark.slow
def test_the_python_examples_run(workplace, monkeypatch):
    """In order, in one namespace, with the run that the commands of the README have made."""
    monkeypatch.chdir(workplace)
    if not (workplace / "runs" / "mine").is_dir():
        run(next(line for line in commands_to_run() if "--name mine" in line), workplace)
    names = {}
    assert len(examples("docs/python.md")) == 2
    for example in examples("docs/python.md"):
        exec(example, names)
    assert names["affinities"].shape == (6, 48, 48, 48)
    assert names["labels"].shape == (48, 48, 48) and 0 <= names["scores"]["nerl"] <= 1
    assert names["model"].get_model_info()["parameters"] > 1e7


def test_every_preset_is_described():
    presets = {path.name for path in (ROOT / "configs").glob("*.py")}
    assert presets <= set(re.findall(r"`(\w+\.py)`", text_of("docs/recipes.md")))


def test_every_page_is_named():
    pages = {f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md")}
    assert pages <= set(re.findall(r"\]\((docs/\w[\w-]*\.md)\)", README))


def test_the_picture_of_the_readme_is_made_by_its_script(tmp_path):
    volume = make_neurites((16, 40, 50), 5)
    wrong = np.where(volume.labels == volume.labels[8].max(), 0, volume.labels)
    arrays = {"image": volume.image, "labels": volume.labels, "segmentation": wrong}
    for name, array in arrays.items():
        np.save(tmp_path / f"{name}.npy", array)
    script = ROOT / "docs" / "images" / "picture.py"
    paths = [tmp_path / f"{name}.npy" for name in arrays]
    output = tmp_path / "picture.png"
    words = [sys.executable, script, *paths, "--slice", "8", "--output", output]
    subprocess.run(words, check=True)
    pixels = np.asarray(Image.open(output))
    gap = 6
    assert pixels.shape == (40, 4 * 50 + 3 * gap, 3)
    starts = [number * (50 + gap) for number in range(4)]
    image, labels, segments, errors = (pixels[:, start : start + 50] for start in starts)
    assert (image == image[..., :1]).all() and (labels != image).any()
    missing = (volume.labels[8] > 0) & (wrong[8] == 0)
    assert missing.any()
    assert ((errors != image).any(-1) == missing).mean() > 0.99
    assert (segments[missing] == image[missing]).all()
