import json
import os
import pickle
import signal
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial

import h5py
import numpy as np
import psutil
import pytest
import torch
from tiny_runs import (
    ROOT,
    TORCHRUN,
    assert_same_weights,
    read_log,
    start,
    step_of,
    tiny,
    wait_for_steps,
    weights,
    write_config,
)

from pytc import hardware
from pytc.commands import ReplayConfig
from pytc.config import (
    AugmentConfig,
    LoopConfig,
    OptimConfig,
    SyntheticConfig,
    TargetConfig,
    VolumeConfig,
)
from pytc.data.batch import Preparation
from pytc.data.patches import train_dataset, val_dataset
from pytc.data.replay import make_sample, replay
from pytc.data.synthetic_volumes import prepare_volume
from pytc.io.volume import open_volume
from pytc.models import build_model
from pytc.models.checkpoint import good_checkpoints, load_checkpoint, load_model, save_checkpoint
from pytc.runs import create_run, load_config, newest_run
from pytc.training import trainer
from pytc.training.checkpoint_keeper import CheckpointKeeper
from pytc.training.distributed import EXIT_REQUEUE
from pytc.training.loop import train
from pytc.training.optim import MovingAverage, build_optimizer, learning_rate


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    """A folder in which one run of 8 steps is finished."""
    folder = tmp_path_factory.mktemp("work")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        train(tiny())
    return folder


@pytest.fixture
def finished(workplace, monkeypatch):
    monkeypatch.chdir(workplace)
    return workplace / "runs" / "tiny"


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


def test_the_best_checkpoint_is_the_best(finished):
    lines = [json.loads(line) for line in (finished / "log.jsonl").read_text().splitlines()]
    losses = {line["step"]: line["val/loss"] for line in lines if "val/loss" in line}
    assert load_checkpoint(finished / "checkpoints" / "best.pt")["step"] == min(
        losses, key=losses.get
    )


@pytest.mark.slow
def test_the_same_config_gives_the_same_weights_with_any_number_of_workers(finished):
    again = train(replace(tiny(), name="again", system=replace(tiny().system, workers=2)))
    assert_same_weights(weights(again), weights(finished))


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
        assert reached < (reached := step_of(run)) < 120
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
    with pytest.warns(UserWarning, match="last.pt.*checksum.*passed over"):
        state = next(good_checkpoints(folder, set()))
    assert state["step"] == max(int(path.stem[5:]) for path in folder.glob("step-*.pt"))
    for path in folder.glob("*.pt"):
        path.write_bytes(b"nothing")
    with pytest.raises(ValueError, match="expected a good checkpoint"):
        train(load_config(run), resume=run)


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
    keeper.save({"step": 5}, {"val/threshold": 0.5})  # not known of this one
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


def test_learning_rate_warms_up_and_falls_to_zero():
    config = OptimConfig(learning_rate=2.0, warmup_steps=4, schedule="cosine")
    rates = [learning_rate(config, step, 24) for step in range(25)]
    assert rates[:5] == pytest.approx([0.4, 0.8, 1.2, 1.6, 2.0])
    assert rates[14] == pytest.approx(1.0) and rates[24] == pytest.approx(0.0)
    assert all(a > b for a, b in zip(rates[4:], rates[5:]))
    assert learning_rate(replace(config, schedule="none"), 20, 24) == 2.0


def test_weight_decay_spares_biases_and_norms():
    model = torch.nn.Sequential(torch.nn.Conv3d(1, 2, 3), torch.nn.GroupNorm(1, 2))
    decayed, spared = build_optimizer(model, OptimConfig(weight_decay=0.1)).param_groups
    assert [p.ndim for p in decayed["params"]] == [5] and decayed["weight_decay"] == 0.1
    assert [p.ndim for p in spared["params"]] == [1, 1, 1] and spared["weight_decay"] == 0


def test_moving_average_equals_its_definition():
    model = torch.nn.Linear(3, 2)
    average = MovingAverage(model, OptimConfig(ema_decay=0.9, ema_warmup_steps=5))
    expected = model.weight.detach().clone()
    for step in range(10):
        with torch.no_grad():
            model.weight += torch.randn(2, 3, generator=torch.Generator().manual_seed(step))
        average.update(model, step)
        decay = min(0.9, (1 + step) / (5 + step))
        expected = decay * expected + (1 - decay) * model.weight.detach()
    torch.testing.assert_close(average.model.weight, expected)


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


def test_a_loss_that_is_not_finite_stops_the_run(finished):
    config = tiny(max_skipped=3, val_every=100)
    config = replace(config, name="diverged", optim=OptimConfig(learning_rate=1e30, clip_norm=0.0))
    with pytest.raises(
        RuntimeError, match="3 steps in a row were skipped, the last of them step 3"
    ):
        train(config)
    assert os.path.exists(finished.parent / "diverged" / "config.json")


def test_a_broken_sample_is_skipped_and_can_be_replayed(finished, tmp_path, capsys, monkeypatch):
    """One voxel that is not a number, let through by the reader: such a thing can come up later.

    The steps that see it leave the weights as they were.
    """
    monkeypatch.setattr("pytc.io.intensity._require_finite", lambda *_: None)
    synthetic = prepare_volume(VolumeConfig(), tiny().data.synthetic)
    image = open_volume(synthetic.image)[...].astype(np.float32) / 255
    image[24, 24, 24] = np.nan
    np.save(tmp_path / "image.npy", image)
    config = tiny(max_steps=12, max_skipped=12, checkpoint_every=1, keep_checkpoints=1)
    volume = replace(
        synthetic,
        image=str(tmp_path / "image.npy"),
        voxel_size=(10, 10, 10),
        axes="zyx",
        intensity=(0, 1),
    )
    config = replace(config, name="broken", data=replace(config.data, train=(volume,), val=()))
    crops = train_dataset(config)
    broken = {n for n in range(24) if np.isnan(crops[n]["image"]).any()}
    assert 0 < len(broken) < 24
    run = train(config)
    events = [line for line in read_log(run) if "skipped" in line]
    seen = {2 * step + index for event in events for _, step, index in event["skipped"]}
    assert seen <= broken and {n // 2 for n in seen} == {event["step"] - 1 for event in events}
    figures = [line for line in read_log(run) if "train/loss_total" in line]
    assert [line["step"] for line in figures if line["train/loss_total"] is None] == [
        event["step"] for event in events
    ]
    assert figures[-1]["train/skipped_steps"] == len(events) < 12
    assert load_checkpoint(run / "checkpoints" / "last.pt")["skipped"] == len(events)
    assert all(torch.isfinite(weight).all() for weight in weights(run).values())

    seed, step, index = events[0]["skipped"][0]
    capsys.readouterr()
    path = replay(ReplayConfig(run=str(run), step=step, index=index))
    assert seed == config.loop.seed and "not finite" in capsys.readouterr().out
    with h5py.File(path) as file:
        assert np.isnan(file["raw"][...]).any() and file["target"].shape == (3, 16, 32, 32)
        np.testing.assert_array_equal(file["crop"][...], crops[2 * step + index]["image"])
    with pytest.raises(ValueError, match="index below 2"):
        replay(ReplayConfig(run=str(run), step=step, index=2))


def test_a_sample_is_replayed_as_the_network_saw_it(finished, monkeypatch):
    seen = {}
    augmented = Preparation.augmented

    def noted(self, batch):
        image, labels = augmented(self, batch)
        seen.update(
            {n: (image[row], labels[row]) for row, n in enumerate(batch["number"].tolist())}
        )
        return image, labels

    monkeypatch.setattr(Preparation, "augmented", noted)
    train(replace(tiny(max_steps=3), name="seen"))
    monkeypatch.undo()
    sample = make_sample(tiny(), 5, 2)
    torch.testing.assert_close(torch.from_numpy(sample["raw"]), seen[5][0], rtol=0, atol=0)
    torch.testing.assert_close(torch.from_numpy(sample["labels"]), seen[5][1], rtol=0, atol=0)


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
def test_compilation_changes_no_figures(finished, monkeypatch):
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


def test_a_two_dimensional_semantic_run_from_training_to_scores(finished):
    """Slices of one voxel's thickness, a foreground mask, two volumes in turn.

    Inferred and scored as semantic.
    """
    from pytc.commands import EvaluateConfig, InferConfig
    from pytc.evaluate import evaluate
    from pytc.inference.pipeline import infer

    config = tiny(max_steps=2)
    volumes = (
        VolumeConfig(image="synthetic:0", weight=0.5),
        VolumeConfig(image="synthetic:1", weight=0.5),
    )
    config = replace(
        config,
        name="flat",
        data=replace(config.data, train=volumes, mixing="stratified", patch_size=(1, 48, 48)),
        target=TargetConfig(kind="binary"),
        model=replace(config.model, spatial_dims=2, out_channels=1),
    )
    run = train(config)
    (folder,) = infer(InferConfig(run=str(run), system=config.system))
    assert {path.name for path in folder.iterdir()} == {
        "probabilities.zarr",
        "segmentation.zarr",
        "source.json",
    }
    (scores,) = evaluate(EvaluateConfig(run=str(run), sweep=True)).values()
    assert scores["task"] == "semantic" and 0 <= scores["jaccard"] <= 1


def test_a_prediction_is_made_anew_when_the_image_has_changed(finished, capsys):
    """The folder's own date does not change when a chunk is rewritten.

    The prediction must not be a stale one.
    """
    from pytc.commands import InferConfig
    from pytc.inference.pipeline import infer
    from pytc.io.volume import open_volume

    source = open_volume(
        prepare_volume(tiny().data.validation[0], tiny().data.synthetic).image, writable=True
    )
    pixels = source[...]
    config = InferConfig(run=str(finished), system=tiny().system)
    (folder,) = infer(config)
    before = open_volume(folder / "affinities.zarr")[...]
    capsys.readouterr()
    infer(config)
    assert "predicting" not in capsys.readouterr().out  # nothing has changed
    source[...] = 255 - pixels
    infer(config)
    assert "predicting" in capsys.readouterr().out
    assert (open_volume(folder / "affinities.zarr")[...] != before).any()
    source[...] = pixels


def test_a_run_prints_the_command_for_all_gpus(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        hardware, "torchrun_hint", lambda device, ranks: f"{ranks} of 4 on {device}"
    )
    train(tiny(max_steps=1, volumes_every=0))
    assert "1 of 4 on cpu\n" in capsys.readouterr().out
