"""Checkpoints of a run: written, kept, read back, resumed from."""

import json
import pickle
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import psutil
import pytest
import torch
from tiny_runs import (
    ROOT,
    assert_same_weights,
    read_log,
    start,
    step_of,
    tiny,
    wait_for_steps,
    weights,
)

from pytc.config import (
    LoopConfig,
    OptimConfig,
    SyntheticConfig,
)
from pytc.models.checkpoint import good_checkpoints, load_checkpoint, load_model, save_checkpoint
from pytc.runs import load_config
from pytc.training.checkpoint_keeper import CheckpointKeeper
from pytc.training.distributed import EXIT_REQUEUE
from pytc.training.loop import train
from pytc.training.optim import learning_rate


def test_the_best_checkpoint_is_the_best(finished):
    lines = [json.loads(line) for line in (finished / "log.jsonl").read_text().splitlines()]
    losses = {line["step"]: line["val/loss"] for line in lines if "val/loss" in line}
    assert load_checkpoint(finished / "checkpoints" / "best.pt")["step"] == min(
        losses, key=losses.get
    )


@pytest.mark.slow
def test_a_resumed_run_ends_as_if_it_had_not_stopped(finished):
    half = train(replace(tiny(), name="half", loop=replace(tiny().loop, max_steps=8, epochs=None)))
    last = half / "checkpoints" / "last.pt"
    state = load_checkpoint(half / "checkpoints" / "step-00000004.pt")
    save_checkpoint(last, state)
    assert train(load_config(half), resume=half) == half
    assert_same_weights(weights(half), weights(finished))
    assert_same_weights(
        load_checkpoint(last)["average"],
        load_checkpoint(finished / "checkpoints/last.pt")["average"],
    )
    lines = [json.loads(line) for line in (half / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "train/loss_total" in line] == list(range(1, 9))


def test_a_run_starts_from_the_weights_named_and_resumes_without_them(finished, tmp_path, capsys):
    start = load_checkpoint(finished / "checkpoints" / "last.pt")["average"]
    torch.save({"state_dict": start}, tmp_path / "start.pt")
    config = replace(
        tiny(max_steps=2),
        name="started",
        model=replace(tiny().model, pretrained=f"{tmp_path}/start.pt"),
        optim=OptimConfig(learning_rate=1e-30, weight_decay=0),
    )
    run = train(config)
    assert f"{len(start)} tensors fit" in capsys.readouterr().out
    assert_same_weights(weights(run), start)
    (tmp_path / "start.pt").unlink()
    train(replace(load_config(run), loop=replace(config.loop, max_steps=4)), resume=run)
    assert load_checkpoint(run / "checkpoints" / "last.pt")["step"] == 4
    assert_same_weights(load_model(run / "checkpoints" / "last.pt")[0].state_dict(), start)


@pytest.mark.parametrize("architecture", ("nnunet", "rsunet"))
def test_a_network_shaped_by_its_data_is_rebuilt_from_its_checkpoint(
    architecture, workplace, monkeypatch
):
    monkeypatch.chdir(workplace)
    data = replace(
        tiny().data, synthetic=SyntheticConfig((48, 48, 48), (30.0, 10.0, 10.0)), val_samples=1
    )
    model = replace(tiny().model, architecture=architecture, features=(2, 4, 6))
    run = train(replace(tiny(max_steps=1), name=architecture, data=data, model=model))
    network, config, _ = load_model(run / "checkpoints" / "last.pt")
    assert config.model.voxel_size == (30.0, 10.0, 10.0) and config.model.image_size == (16, 32, 32)
    assert network.output_strides[1] == (1, 2, 2)
    with torch.no_grad():
        assert network(torch.rand(1, 1, 16, 32, 32)).shape == (1, 3, 16, 32, 32)


@pytest.mark.slow
def test_killed_ten_times_a_run_ends_in_the_same_weights_bit_for_bit(finished, tmp_path):
    """By kill -9 and SIGTERM in turn, at random moments, resumed with other numbers of workers."""
    config = replace(tiny(max_steps=120, val_every=40, checkpoint_every=3), name="killed")
    whole = train(replace(config, name="undisturbed"))
    run, random = finished.parent / "killed", np.random.default_rng(0)
    process, reached, exits = start(config, tmp_path), 0, []
    for attempt in range(10):
        wait_for_steps(process, run, reached + 1)
        time.sleep(random.uniform(0, 0.3))
        loaders = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(signal.SIGTERM if attempt % 2 else signal.SIGKILL)
        exits.append(process.wait())
        assert not psutil.wait_procs(loaders, timeout=30)[1]  # none outlives the run
        before, reached = reached, step_of(run)
        assert before < reached < 120
        workers = str(attempt % 3)
        process = subprocess.Popen(
            [
                sys.executable,
                str(ROOT / "train.py"),
                "--resume",
                str(run),
                "--system.workers",
                workers,
            ],
            stdout=subprocess.DEVNULL,
        )
    assert process.wait() == 0
    assert exits == [-signal.SIGKILL, EXIT_REQUEUE] * 5
    assert_same_weights(weights(run), weights(whole))
    ends = [load_checkpoint(folder / "checkpoints" / "last.pt") for folder in (run, whole)]
    assert_same_weights(*(end["average"] for end in ends))
    assert ends[0]["scores"] == ends[1]["scores"]
    logged = [
        [
            (line["step"], line["train/loss_total"])
            for line in read_log(folder)
            if "train/loss_total" in line
        ]
        for folder in (run, whole)
    ]
    assert logged[0] == logged[1]


def test_more_steps_continue_on_the_longer_cosine(finished):
    config = replace(tiny(max_steps=4), name="extended")
    run = train(config)
    train(replace(config, loop=replace(config.loop, max_steps=8)), resume=run)
    rates = [line["train/learning_rate"] for line in read_log(run) if "train/loss_total" in line]
    expected = [learning_rate(config.optim, step, 4) for step in range(4)]
    expected += [learning_rate(config.optim, step, 8) for step in range(4, 8)]
    assert rates == pytest.approx(expected, abs=1e-7)
    assert load_config(run).loop.max_steps == 8


def test_a_damaged_last_checkpoint_falls_back_to_the_newest_good_one(finished):
    run = train(replace(tiny(), name="damaged"))
    folder = run / "checkpoints"
    content = bytearray((folder / "last.pt").read_bytes())
    content[content.index(next(iter(weights(run).values())).numpy().tobytes())] ^= (
        1  # a bit of a weight
    )
    (folder / "last.pt").write_bytes(content)
    with pytest.warns(UserWarning, match="last.pt.*checksum.*skipped"):
        state = next(good_checkpoints(folder, set()))
    assert state["step"] == max(int(path.stem[5:]) for path in folder.glob("step-*.pt"))
    for path in folder.glob("*.pt"):
        path.write_bytes(b"nothing")
    with pytest.raises(ValueError, match="expected a good checkpoint"):
        train(load_config(run), resume=run)


def test_a_model_is_rebuilt_from_its_checkpoint_alone(finished):
    model, config, step = load_model(finished / "checkpoints" / "last.pt")
    filled_in = replace(tiny().model, voxel_size=(10.0, 10.0, 10.0), image_size=(16, 32, 32))
    assert config == replace(tiny(), model=filled_in) and step == 8 and not model.training
    average = load_checkpoint(finished / "checkpoints" / "last.pt")["average"]
    assert_same_weights(dict(model.state_dict()), average)


def test_damaged_checkpoints_are_refused(finished, tmp_path):
    file = tmp_path / "broken.pt"
    file.write_bytes((finished / "checkpoints" / "last.pt").read_bytes()[:1000])
    with pytest.raises(ValueError, match="expected a readable checkpoint"):
        load_checkpoint(file)
    torch.save({"weights": 1}, file)
    with pytest.raises(ValueError, match="expected a pytc checkpoint"):
        load_checkpoint(file)
    with pytest.raises(ValueError, match="found no file"):
        load_checkpoint(tmp_path / "none.pt")


def test_a_failed_save_leaves_the_old_checkpoint(tmp_path):
    save_checkpoint(tmp_path / "last.pt", {"step": 1})
    with pytest.raises((AttributeError, pickle.PicklingError)):  # which, depends on Python
        save_checkpoint(tmp_path / "last.pt", {"step": lambda: 2})
    assert torch.load(tmp_path / "last.pt", weights_only=True) == {"step": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["last.pt"]


@pytest.mark.parametrize(
    "monitor, best", [("val/loss", {2, 4}), ("val/nerl", {1, 3}), ("val/dense_voi_sum", {2, 4})]
)
def test_the_keeper_keeps_the_best(tmp_path, monitor, best):
    keeper = CheckpointKeeper(
        tmp_path / "checkpoints", LoopConfig(monitor=monitor, volumes_every=1, keep_checkpoints=2)
    )
    for step, score in enumerate((0.7, 0.2, 0.9, 0.1), 1):
        keeper.save({"step": step}, {"val/threshold": 0.5, monitor: score})
    keeper.save({"step": 5}, {"val/threshold": 0.5})  # without a score
    keeper.save({"step": 6}, {monitor: float("nan")})
    names = {path.name for path in (tmp_path / "checkpoints").iterdir()}
    assert names == {"last.pt", "best.pt", *(f"step-{step:08d}.pt" for step in best)}
    (first,) = (step for step in best if step in (3, 4))
    assert torch.load(tmp_path / "checkpoints/best.pt")["step"] == first


def test_the_keeper_leaves_the_best_to_another_process_if_that_scores_volumes(tmp_path):
    keeper = CheckpointKeeper(
        tmp_path / "checkpoints", LoopConfig(monitor="val/nerl", keep_checkpoints=2)
    )
    for step in (2, 4, 6):
        keeper.save({"step": step}, {"val/loss": 1 / step})
    names = {path.name for path in (tmp_path / "checkpoints").iterdir()}
    assert names == {"last.pt", "step-00000004.pt", "step-00000006.pt"}  # the newest
    resumed = CheckpointKeeper(
        tmp_path / "checkpoints", LoopConfig(monitor="val/nerl", volumes_every=1), keeper.scores
    )
    resumed.save({"step": 8}, {"val/nerl": 0.1})  # from now on the run knows
    names = {path.name for path in (tmp_path / "checkpoints").iterdir()}
    assert names == {"last.pt", "best.pt", "step-00000008.pt"} and resumed.scores == {8: 0.1}
