"""Typical mistakes, each as a user meets it: by the command line, in one line with the way out."""

import json
import os
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from pytc_command import PYTC
from small_volumes import written

from pytc.config import Config

ROOT = Path(__file__).parent.parent
SMALL = """--loop.max-steps 1 --system.threads 1 --system.workers 0 --system.device cpu
    --data.patch-size 16 16 16 --model.architecture unet --model.features 4 4""".split()
SWEEP = ["--affinities", "edges.npy", "--labels", "labels.npy", "--sweep", "--output", "out"]
# A guard against work before the check: it imports torch, or reads much. An error takes half a
# second on two idle cores.
SECONDS = 10


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Files with a mistake each, beside a sound image."""
    folder = tmp_path_factory.mktemp("mistakes")
    image = np.random.default_rng(0).integers(0, 256, (20, 24, 28), np.uint8)
    labels = np.zeros(image.shape, np.uint32)
    labels[2:15, 2:20, 2:20] = 1
    arrays = {
        "image": image,
        "labels": labels,
        "turned": labels.transpose(2, 1, 0),
        "larger": np.pad(labels, 2),
        "part": labels[:-3],
        "float": labels.astype(np.float32),
        "empty": np.zeros_like(labels),
        "edges": np.ones((3, *labels.shape), np.float32),
    }
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)
    written(folder / "cube.h5:raw", image, axes="zyx")
    written(folder / "turned.h5:labels", labels.transpose(2, 1, 0), axes="xyz")
    config = 'from pytc.config import Config\nconfig = Config(\n    name="a"\n    seed=3)\n'
    (folder / "broken.py").write_text(config)
    (folder / "file").touch()
    return folder


def of(labels, image="image.npy"):
    return ["--data.train.0.image", image, "--data.train.0.labels", labels]


def call(folder, script, *words):
    """(exit code, what was said on stderr) of a script; torch may not be imported."""
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-X", "importtime", ROOT / script, *words],
        cwd=folder,
        capture_output=True,
        text=True,
    )
    assert time.monotonic() - began < SECONDS
    lines = done.stderr.splitlines()
    imported = {line.rpartition("|")[2].strip() for line in lines}
    assert "torch" not in imported, "torch was imported first"
    said = [line for line in lines if not line.startswith("import time:")]
    return done.returncode, "\n".join(said)


@pytest.mark.parametrize(
    "words, parts",
    [
        (of("turned.npy"), ("(28, 24, 20)", "another order", "labels-axes")),
        (of("turned.h5:labels", "cube.h5:raw"), ("the axes zyx", "--data.*.transpose zyx")),
        (of("larger.npy"), ("of shape (20, 24, 28), got (24, 28, 32)",)),
        (of("part.npy"), ("need an offset", "data.*.offset")),
        (of("float.npy"), ("integer dtype", "astype('uint32')", "got 'float32'")),
        (of("empty.npy"), ("objects in the labels empty.npy", "the right dataset")),
        (of("labels.npy", "cube.h5:rwa"), ("the name of a dataset", "cube.h5:raw")),
        (of("labels.npy", "imag.npy"), ("imag.npy", "no such file")),
        ([*of("labels.npy"), "--data.train.0.axes", "zxq"], ("zyx", "got 'zxq'")),
        (["--config", "broken.py"], ("broken.py, line 3", "forgot a comma")),
        (["--config", "configs/mednxt.py"], ("expected a config file", "mednxt.py")),
        (["--resume", "mine"], ("expected the folder or the name of a run",)),
    ],
    ids=lambda value: None if isinstance(value, tuple) else value[-1],
)
def test_a_mistake_is_one_line_with_the_way_out(folder, words, parts):
    code, said = call(folder, "train.py", *SMALL[: 0 if "--resume" in words else None], *words)
    assert code == 1 and said.startswith("error: ") and "\n" not in said, said
    assert all(part in said for part in parts), said


@pytest.mark.parametrize(
    "script, flag, meant",
    [
        ("train.py", "--loop.max-step", "--loop.max-steps"),
        ("train.py", "--data.patchsize", "--data.patch-size"),
        ("evaluate.py", "--swep", "--sweep"),
        ("infer.py", "--treshold", "--segmentation.threshold"),
        ("pytc view", "--volum", "--volume"),
        ("pytc data fetch snemi3d", "--spilt", "--split"),
        ("pytc models list", "--plugin", "--plugins"),
        ("pytc check", "--system.worker", "--system.workers"),
    ],
)
def test_a_typo_in_a_flag_gets_a_suggestion(folder, script, flag, meant):
    script, *words = script.replace("pytc", str(PYTC)).split()
    code, said = call(folder, script, *words, flag, "4")
    assert code == 2 and said.startswith("error: ") and "\n" not in said, said
    assert f"has no flag {flag}; did you mean {meant}" in said, said


@pytest.mark.skipif(Path("/dev/nvidiactl").exists(), reason="there is a driver of a GPU")
def test_no_gpu_is_said_at_once(folder):
    words = [*SMALL, *of("labels.npy")]
    words[words.index("cpu")] = "cuda"
    code, said = call(folder, "train.py", *words)
    assert code == 1 and said.startswith("error: expected a CUDA device") and "\n" not in said
    assert "auto takes the CPU" in said


def test_a_typo_in_a_verb_gets_a_suggestion(folder):
    code, said = call(folder, str(PYTC), "trian", "--config", "a.py")
    assert code == 2 and "\n" not in said
    assert said.startswith(
        "error: pytc has no verb 'trian'; did you mean train? (its verbs: train,"
    )


def test_no_right_to_write_is_said_before_work(folder, monkeypatch):
    monkeypatch.setenv("PYTC_RUNS", str(folder / "file" / "runs"))
    code, said = call(folder, "train.py", *SMALL, *of("labels.npy"))
    assert code == 1 and said.startswith("error: expected a folder at") and "\n" not in said


@pytest.mark.parametrize(
    "package, words, extra",
    [
        ("waterz", ["infer", "--run", "mine", "--segmentation.method", "waterz"], "agglomeration"),
        ("distributed", ["infer", "--run", "mine", "--engine", "dask:local:2"], "dask"),
        ("mwatershed", ["evaluate", *SWEEP, "--method", "mutex_watershed"], "agglomeration"),
        ("neuroglancer", ["view", "image.npy"], "view"),
        ("pooch", ["data", "fetch", "snemi3d", "--output", "sets"], "data"),
        ("kimimaro", ["skeletonize", "labels.npy", "out.npz"], "shapes"),
    ],
)
def test_a_missing_extra_is_named_before_work(folder, monkeypatch, package, words, extra):
    (folder / "without" / package).mkdir(parents=True, exist_ok=True)
    (folder / "without" / package / "__init__.py").write_text("raise ImportError('not here')")
    monkeypatch.setenv("PYTHONPATH", f"{folder / 'without'}{os.pathsep}{ROOT}")
    run = folder / "runs" / "mine" / "checkpoints"
    run.mkdir(parents=True, exist_ok=True)
    (run / "last.pt").touch()
    (run.parent / "config.json").write_text(json.dumps(asdict(Config())))
    code, said = call(folder, str(PYTC), *words)
    last = said.splitlines()[-1]
    assert code == 1 and last.startswith("error: ") and f"pip install -e '.[{extra}]'" in last, said
