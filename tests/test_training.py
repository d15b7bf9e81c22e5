"""Whole runs: what they leave, and that ranks, workers, accumulation and compilation agree."""

import json
import os
import subprocess
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from tiny_runs import (
    ROOT,
    TORCHRUN,
    assert_same_weights,
    read_log,
    tiny,
    weights,
    write_config,
)

from pytc import hardware
from pytc.config import (
    AugmentConfig,
    OptimConfig,
    VolumeConfig,
)
from pytc.data.patches import train_dataset, val_dataset
from pytc.data.synthetic_volumes import prepare_volume
from pytc.models import build_model
from pytc.runs import create_run, load_config, newest_run
from pytc.training import trainer
from pytc.training.loop import train


def test_a_run_leaves_what_the_design_promises(finished):
    # as the data say
    model = replace(tiny().model, voxel_size=(10.0, 10.0, 10.0), image_size=(16, 32, 32))
    assert load_config(finished) == replace(tiny(), model=model)
    files = {path.name for path in finished.rglob("*")}
    assert {"config.json", "environment.json", "log.jsonl", "last.pt", "best.pt"} <= files
    assert any(name.startswith("events.") for name in files) and not any(
        name.endswith(".tmp") for name in files
    )
    lines = [json.loads(line) for line in (finished / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "train/loss_total" in line] == list(range(1, 9))
    assert [line["step"] for line in lines if "val/loss" in line] == [4, 8]
    assert {
        "train/loss_scale_0",
        "train/loss_scale_1",
        "train/gradient_norm",
        "train/samples_per_second",
    } <= set(lines[0])
    assert newest_run("checkpoints/last.pt").resolve() == finished.resolve()


@pytest.mark.slow
def test_the_same_config_gives_the_same_weights_with_any_number_of_workers(finished):
    again = train(replace(tiny(), name="again", system=replace(tiny().system, workers=2)))
    assert_same_weights(weights(again), weights(finished))


# Each rank writes a file of its own: lines of two processes on one pipe may mix.
COUNTING = """
import os, pathlib, sys
from pytc.cli import train
train(sys.argv[1:])
tasks = [open(f"/proc/self/task/{task}/comm").read() for task in os.listdir("/proc/self/task")]
count = sum("gloo" in task for task in tasks)
pathlib.Path(__file__).with_name("gloo_threads_" + os.environ["RANK"]).write_text(str(count))
"""


@pytest.mark.slow
def test_two_ranks_take_the_steps_of_one(finished, tmp_path):
    """2 ranks x batch 1 against 1 rank x batch 2 over 20 steps, by torchrun over gloo.

    Half the volume is masked out. Smaller patches would leave 1.4e-6: four voxels at the coarsest
    level, whose normalisation multiplies roundings.
    """
    synthetic = prepare_volume(VolumeConfig(), tiny().data.synthetic)
    mask = np.zeros((48, 48, 48), np.uint8)
    mask[:24], mask[:, :, :16] = 1, 1
    np.save(tmp_path / "mask.npy", mask)
    volume = replace(synthetic, mask=str(tmp_path / "mask.npy"))
    masked = replace(
        tiny(max_steps=20),
        data=replace(
            tiny().data, train=(volume,), val=(volume,), min_labelled=0.0, patch_size=(32, 32, 32)
        ),
    )
    one = train(replace(masked, name="one_rank"))
    valid = [int((train_dataset(masked)[n]["labels"] >= 0).sum()) for n in range(40)]
    # what is masked differs between the ranks, in training and in validation
    assert sum(a != b for a, b in zip(valid[::2], valid[1::2])) > 10
    validation = val_dataset(masked)
    assert len({int((validation[n]["labels"] >= 0).sum()) for n in range(3)}) == 3
    two_ranks = replace(masked, name="two_ranks", loop=replace(masked.loop, batch_size=1))
    (tmp_path / "counting.py").write_text(COUNTING)
    done = subprocess.run(
        [
            *TORCHRUN,
            str(tmp_path / "counting.py"),
            "--config",
            str(write_config(tmp_path, two_ranks)),
            "--system.no-cpu-variant",
        ],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr
    # one that lives on may abort its process at exit
    assert [(tmp_path / f"gloo_threads_{rank}").read_text() for rank in (0, 1)] == ["0", "0"]
    assert "Grad strides" not in done.stderr
    names = ("train/loss_total", "train/loss_scale_0", "train/loss_scale_3", "train/loss_bce")
    for name, count in (*((name, 20) for name in names), ("val/loss", 5)):
        losses = [
            [line[name] for line in read_log(run) if name in line]
            for run in (one, finished.parent / "two_ranks")
        ]
        assert len(losses[0]) == count
        # the coarsest scales have few voxels, whose normalisation multiplies roundings
        tolerance = 1e-5 if name == "train/loss_scale_3" else 1e-6
        assert losses[0] == pytest.approx(losses[1], abs=tolerance), name


def test_accumulation_takes_the_steps_of_a_larger_batch(finished, monkeypatch):
    """By plain gradient descent, whose step is the gradient; AdamW's hardly depends on it.

    The loss is normalised batch by batch, so all voxels of all samples are labelled.
    """
    monkeypatch.setattr(
        trainer, "build_optimizer", lambda model, _: torch.optim.SGD(model.parameters())
    )
    config = replace(
        tiny(max_steps=1),
        augment=AugmentConfig(),
        optim=OptimConfig(learning_rate=1.0, warmup_steps=0, schedule="none", clip_norm=0.0),
    )
    whole = train(replace(config, name="whole"))
    halves = replace(config, name="halves", optim=replace(config.optim, accumulate=2))
    parts = train(replace(halves, loop=replace(config.loop, batch_size=1)))
    with torch.random.fork_rng():
        torch.manual_seed(config.loop.seed)
        start = build_model(load_config(whole).model).state_dict()
    a, b = weights(whole), weights(parts)
    largest = max(float((a[key] - start[key]).abs().max()) for key in a)
    assert largest > 0.01
    assert max(float((a[key] - b[key]).abs().max()) for key in a) < 1e-5 * max(largest, 1)


def test_run_names_are_never_taken_twice(tmp_path):
    assert [create_run("a", tmp_path).name for _ in range(3)] == ["a", "a-2", "a-3"]
    with pytest.raises(ValueError, match="expected a run with"):
        newest_run("checkpoints/last.pt", tmp_path)


def test_epochs_become_steps(finished):
    run = train(replace(tiny(epochs=0.4), name="epochs"))
    # 48³ voxels are 7 patches, of which 0.4 are 3, two a step
    assert load_config(run).loop.max_steps == 2


def test_a_volume_that_does_not_fit_is_refused_before_a_run_is_made(finished):
    before = set((finished.parent).iterdir())
    config = tiny()
    with pytest.raises(ValueError, match="expected a volume at nowhere.zarr"):
        train(
            replace(
                config,
                data=replace(
                    config.data, train=(VolumeConfig(image="nowhere.zarr", labels="x.zarr"),)
                ),
            )
        )
    assert set((finished.parent).iterdir()) == before


def test_the_log_tells_of_scales_terms_channels_waits_and_memory(finished):
    line = next(line for line in read_log(finished) if "train/loss_total" in line)
    assert {
        "train/loss_scale_4",
        "train/loss_bce",
        "train/loss_channel_2",
        "train/gradient_norm",
        "train/learning_rate",
        "train/data_wait",
        "train/memory_gib",
        "train/skipped_steps",
    } <= line.keys()
    assert 0 <= line["train/data_wait"] < 1 and 0.05 < line["train/memory_gib"] < 50
    channels = [line[f"train/loss_channel_{channel}"] for channel in range(3)]
    assert line["train/loss_scale_0"] == pytest.approx(np.mean(channels), rel=0.05)
    assert line["train/loss_bce"] == pytest.approx(line["train/loss_scale_0"])
    scales = [line[f"train/loss_scale_{scale}"] * 0.5**scale for scale in range(5)]
    assert line["train/loss_total"] == pytest.approx(sum(scales), rel=1e-5)


@pytest.mark.slow
def test_compilation_changes_no_numbers(finished, monkeypatch):
    """By dynamo alone: inductor's code for a whole network takes minutes to build."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    config = replace(
        tiny(max_steps=2), name="compiled", system=replace(tiny().system, compile=True)
    )
    losses = [
        [line["train/loss_total"] for line in read_log(run) if "train/loss_total" in line][:2]
        for run in (train(config), finished)
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_a_run_prints_the_command_for_all_gpus(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        hardware, "torchrun_hint", lambda device, ranks: f"{ranks} of 4 on {device}"
    )
    train(tiny(max_steps=1, volumes_every=0))
    assert "1 of 4 on cpu\n" in capsys.readouterr().out
