"""Several processes on one prediction, killed ones, regions and masks by infer.py's flags."""

import hashlib
import json
import os
import random
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from documents import commands
from small_predictions import make_image, predict
from test_results import SHAPE, TINY, make_run, said, volume, with_volumes
from test_results import workplace as workplace
from tiny_runs import TORCHRUN

from pytc import cli
from pytc.commands import EvaluateConfig
from pytc.evaluate import evaluate
from pytc.geometry import Box
from pytc.inference import pipeline
from pytc.inference.output import missing_blocks
from pytc.inference.shards import require_finished
from pytc.io.results import read_source
from pytc.io.skeleton import save_skeleton
from pytc.io.synthetic import make_neurites
from pytc.io.volume import create_volume, open_volume
from pytc.models.checkpoint import load_checkpoint, save_checkpoint
from pytc.script import RunError

TESTS = Path(__file__).parent
# A process that predicts slowly: folder, number and count of its shard, seconds a batch.
PROCESS = """
import sys, time
from dataclasses import replace
from pathlib import Path
import small_predictions
from pytc.inference.shards import Shard
from pytc.io.volume import open_volume
folder, number, count, seconds = Path(sys.argv[1]), *map(float, sys.argv[2:])

def slow(x):
    time.sleep(seconds)
    return small_predictions.network(x)

print("begins", flush=True)
small_predictions.predict(
    open_volume(folder / "image.zarr"), folder / "out.zarr", slow, block=(8, 13, 12),
    arguments={"shard": Shard(int(number), int(count))},
)
"""
SMALL_BLOCKS = ["--inference.block", "8", "16", "32"]


def start(folder, number=0, count=1, seconds=0.0):
    return subprocess.Popen(
        [sys.executable, "-c", PROCESS, *map(str, (folder, number, count, seconds))],
        env={**os.environ, "PYTHONPATH": f"{TESTS.parent}:{TESTS}", "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        text=True,
    )


def contents(array):
    """The bytes of all chunks and of the metadata of an array."""
    return {
        str(path.relative_to(array)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(array.rglob("*"))
        if path.is_file() and "finished" not in path.parts
    }


@pytest.fixture
def whole(tmp_path):
    """The folder of an image, and the contents of its prediction by one process."""
    image = make_image(tmp_path / "image.zarr")
    predict(image, tmp_path / "whole.zarr", block=(8, 13, 12))
    return tmp_path, contents(tmp_path / "whole.zarr")


def test_two_processes_at_once_write_the_bytes_of_one(whole):
    """They share the blocks, and a third one predicts all of them: all write the same bytes.

    The first one of them removes what lies there, a prediction by other weights.
    """
    folder, expected = whole
    predict(open_volume(folder / "image.zarr"), folder / "out.zarr", key="b")
    shards = [(0, 2), (1, 2), (0, 1)]
    processes = [start(folder, *shard, seconds=0.002) for shard in shards]
    assert [process.wait(60) for process in processes] == [0, 0, 0]
    assert missing_blocks(folder / "out.zarr") == []
    assert contents(folder / "out.zarr") == expected


def test_what_is_killed_again_and_again_has_the_same_bytes_at_the_end(whole):
    folder, expected = whole
    times = random.Random(0)
    deaths = 0
    for _ in range(3):
        process = start(folder, seconds=0.02)
        process.stdout.readline()
        time.sleep(times.uniform(0.0, 0.5))
        process.kill()
        deaths += process.wait() != 0
    assert deaths > 1
    assert start(folder).wait(60) == 0
    assert contents(folder / "out.zarr") == expected


def test_shards_are_finished_when_none_is_missing():
    run = make_run(with_volumes(volume("a")))
    cli.infer(["--run", "tiny", "--output", "alone", *SMALL_BLOCKS])
    heard = said(cli.infer, ["--run", "tiny", "--shard", "1/2", *SMALL_BLOCKS])
    folder = run / "predictions/a_raw"
    assert "next, when all shards are done: " in heard and "--finish" in heard
    assert not (folder / "segmentation.zarr").exists()
    assert missing_blocks(folder / "affinities.zarr") == [2, 3]
    finish = ["--run", "tiny", "--finish", *SMALL_BLOCKS]
    with pytest.raises(SystemExit, match=r"got 2 that are missing: 2, 3; the shards"):
        cli.infer(finish)
    with pytest.raises(RunError, match="got none at"):
        require_finished(Path("nowhere"))
    cli.infer(["--run", "tiny", "--shard", "2/2", *SMALL_BLOCKS])
    predicted_by = read_source(folder)["weights"]
    checkpoint = run / "checkpoints" / "best.pt"
    state = load_checkpoint(checkpoint)
    save_checkpoint(checkpoint, {**state, "step": predicted_by["step"] + 1})
    said(cli.infer, finish)
    assert read_source(folder)["weights"] == predicted_by  # not what lies there now
    for name in ("affinities.zarr", "segmentation.zarr"):
        assert contents(folder / name) == contents(Path("alone", name))
    source = json.loads((folder / "source.json").read_text())
    assert "--shard" not in source["infer"] and "--finish" not in source["infer"]


def test_ranks_share_a_prediction_and_the_first_one_segments_it():
    run = make_run(with_volumes(volume("a")))
    cli.infer(["--run", "tiny", "--output", "alone", *SMALL_BLOCKS])
    done = subprocess.run(
        [*TORCHRUN, "--", TESTS.parent / "infer.py", "--run", "tiny", *SMALL_BLOCKS],
        env={**os.environ, "PYTHONPATH": str(TESTS.parent)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("results: ") == 1 and done.stdout.count("checkpoint: ") == 1
    for name in ("affinities.zarr", "segmentation.zarr"):
        assert contents(run / "predictions/a_raw" / name) == contents(Path("alone", name))


def test_a_region_is_scored_against_its_part_of_the_truth():
    """As the same voxels are, stored by themselves."""
    make_run(with_volumes(volume("a")))
    skeleton = make_neurites(SHAPE, 0).skeleton
    save_skeleton("a.npz", skeleton)
    region = (slice(2, 14), slice(0, 20), slice(5, 32))
    cli.infer(
        ["--run", "tiny", "--input", "a.zarr/raw", "--labels", "a.zarr/labels", "--skeleton"]
        + ["a.npz", "--output", "part", "--roi", "2:14,:20,5:"]
    )
    made = {
        "labels": open_volume("a.zarr/labels"),
        "segmentation": open_volume("part/segmentation.zarr"),
    }
    made["labels"] = made["labels"][region]
    made["segmentation"] = made["segmentation"][...]
    for name, array in made.items():
        with create_volume(f"{name}.zarr", array.shape, array.dtype, voxel_size=(10,) * 3) as new:
            new[...] = array
    inside = ((skeleton.positions >= (2, 0, 5)) & (skeleton.positions < (14, 20, 32))).all(1)
    cut = skeleton.cropped(Box((2, 0, 5), (14, 20, 32)))
    assert 0 < len(cut.ids) == inside.sum() < len(skeleton.ids)
    np.testing.assert_array_equal(cut.positions, skeleton.positions[inside] - (2, 0, 5))
    both = inside[skeleton.edges].all(1)
    np.testing.assert_array_equal(cut.nm[cut.edges], skeleton.nm[skeleton.edges[both]])
    save_skeleton("cut.npz", cut)
    (scores,) = evaluate(EvaluateConfig(segmentation="part/segmentation.zarr", output="o")).values()
    named = {"labels": "labels.zarr", "skeleton": "cut.npz", "segmentation": "segmentation.zarr"}
    (expected,) = evaluate(EvaluateConfig(**named, output="p")).values()
    for metric in ("dense_voi_sum", "nerl", "voi_sum"):
        assert scores[metric] == expected[metric]
    assert Path("o/report.html").is_file()


def test_a_region_and_a_mask_by_flags():
    make_run(with_volumes(volume("a")))
    words = ["--run", "tiny", "--input", "a.zarr/raw"]
    cli.infer([*words, "--output", "whole"])
    cli.infer([*words, "--output", "part", "--roi", "2:14,:20,5:"])
    for name in ("affinities.zarr", "segmentation.zarr"):
        made = open_volume(f"part/{name}")
        assert made.spatial_shape == (12, 20, 27)
        assert made.attributes["voxel_offset"] == [2, 0, 5]
        assert made.attributes["image_shape"] == [16, 32, 32]
    whole = open_volume("whole/affinities.zarr")[:, 2:14, :20, 5:]
    np.testing.assert_array_equal(open_volume("part/affinities.zarr")[...], whole)
    with create_volume("mask.zarr", (4, 8, 8), np.uint8, voxel_size=(40, 40, 40)) as mask:
        mask[...] = np.repeat(np.uint8([1, 1, 0, 0]), 64).reshape(4, 8, 8)
    cli.infer([*words, "--output", "masked", "--mask", "mask.zarr", *SMALL_BLOCKS])
    masked = open_volume("masked/affinities.zarr")[...]
    assert masked[:, :8].all() and not masked[:, 8:].any()
    for flags, message in (
        (["--roi", "0:17,:,:"], r"expected a region inside of \(16, 32, 32\) voxels, got '0:17"),
        (["--roi", "1:2"], "expected a region z0:z1,y0:y1,x0:x1"),
        (["--shard", "3/2"], "expected --shard I/N, from 1/N to N/N, got '3/2'"),
    ):
        with pytest.raises(SystemExit) as error:
            cli.infer([*words, "--output", "refused", *flags])
        if error.value.code != 2:
            assert error.match(message)


@pytest.mark.parametrize("shard, ends", [(None, False), ("1/2", True)])
def test_smaller_windows_where_memory_ends(monkeypatch, shard, ends):
    """A window is halved where a process is alone, and stays where others use it, too."""
    run = make_run(with_volumes(volume("a")))
    logits = pipeline._logits

    def limited(*arguments):
        if arguments[-1][0].numel() > 12 * 8 * 8:
            raise torch.OutOfMemoryError("simulated")
        return logits(*arguments)

    monkeypatch.setattr(pipeline, "_logits", limited)
    words = ["--run", "tiny"]
    if ends:
        with pytest.raises(SystemExit, match="expected memory for one window of 12 x 16 x 16"):
            cli.infer([*words, "--shard", shard, *SMALL_BLOCKS])
        return
    heard = said(cli.infer, words)
    assert "out of memory with 2 windows at once: going on with 1 window" in heard
    assert "one window of 12 x 16 x 16 voxels: going on with windows of 12 x 8 x 8" in heard
    made = contents(run / "predictions/a_raw/affinities.zarr")
    monkeypatch.setattr(pipeline, "_logits", logits)
    cli.infer([*words, "--output", "named", "--inference.window", "12", "8", "8"])
    named = contents(Path("named/affinities.zarr"))
    assert {k: v for k, v in made.items() if k[0].isdigit()} == {
        k: v for k, v in named.items() if k[0].isdigit()
    }


def test_every_command_of_the_page_runs(workplace):
    """Each into an empty folder, but for --finish. A part and a job's number are smaller ones."""
    for seed, name in enumerate(("mine", "other")):
        make_run(replace(TINY, name=name), seed=seed)
    image = make_neurites(SHAPE, seed=1).image
    for name, array in (("big.zarr/raw", image), ("tissue.zarr", np.ones(SHAPE, np.uint8))):
        with create_volume(name, SHAPE, np.uint8, voxel_size=(10, 10, 10)) as stored:
            stored[...] = array
    *calls, shard, finish = commands("docs/inference.md")
    assert len(calls) == 5
    for call in calls:
        shutil.rmtree("results", ignore_errors=True)
        run_documented(call.replace("100:400,:1024,2000:", "2:10,:16,4:"))
    shutil.rmtree("results")
    for number in (1, 2):
        run_documented(shard.replace("$((SLURM_ARRAY_TASK_ID + 1))/16", f"{number}/2"))
    run_documented(finish)


def run_documented(call):
    program, *words = call.split()
    if program == "torchrun":
        script = words[words.index("--") + 1 :]
        subprocess.run([*TORCHRUN, "--", TESTS.parent / script[0], *script[1:]], check=True)
    else:
        assert (program, words.pop(0)) == ("pytc", "infer")
        cli.infer(words)
    output = Path(words[words.index("--output") + 1])
    assert (output / "affinities.zarr").exists()
    assert (output / "segmentation.zarr").exists() or "--shard" in words
