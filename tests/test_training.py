import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch

from pytc.config import (
    AugmentConfig,
    Config,
    DataConfig,
    LoopConfig,
    ModelConfig,
    OptimConfig,
    SyntheticConfig,
    SystemConfig,
    TargetConfig,
    VolumeConfig,
)
from pytc.models.checkpoint import load_checkpoint, load_model
from pytc.runs import create_run, load_config, newest_run
from pytc.training.checkpoint import Keeper, save_checkpoint
from pytc.training.distributed import Ranks, read_environment
from pytc.training.loop import train
from pytc.training.optim import MovingAverage, build_optimizer, learning_rate

ROOT = Path(__file__).parent.parent
OFFSETS = ((1, 0, 0), (0, 1, 0), (0, 0, 1))


def tiny(**loop):
    """A run of seconds: MedNeXt of four channels on patches of 16 voxels."""
    return Config(
        name="tiny",
        data=DataConfig(patch_size=(16, 32, 32), synthetic=SyntheticConfig(shape=(48, 48, 48)), val_samples=3),
        augment=AugmentConfig(affine_prob=0.5, drop_slice_prob=0.1, shift_slice_prob=0.1),
        target=TargetConfig(offsets=OFFSETS),
        model=ModelConfig(architecture="mednext_custom", base_channels=4, expansion=(1,) * 9, block_counts=(1,) * 9,
                          out_channels=3, deep_supervision=True),
        optim=OptimConfig(ema_decay=0.9),
        loop=LoopConfig(**{"max_steps": 8, "batch_size": 2, "val_every": 4, "checkpoint_every": 2, "log_every": 1,
                           "images_every": 4, **loop}),
        system=SystemConfig(device="cpu", precision="fp32", threads=1, workers=0),
    )  # fmt: skip


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


def weights(run, name="last"):
    return load_checkpoint(run / "checkpoints" / f"{name}.pt")["model"]


def assert_same_weights(a, b):
    assert a.keys() == b.keys()
    assert all(torch.equal(a[key], b[key]) for key in a)


def test_a_run_leaves_what_the_design_promises(finished):
    assert load_config(finished) == tiny()
    files = {path.name for path in finished.rglob("*")}
    assert {"config.json", "environment.json", "log.jsonl", "last.pt", "best.pt"} <= files
    assert any(name.startswith("events.") for name in files) and not any(name.endswith(".tmp") for name in files)
    lines = [json.loads(line) for line in (finished / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "train/loss" in line] == list(range(1, 9))
    assert [line["step"] for line in lines if "val/loss" in line] == [4, 8]
    assert {"train/loss_output", "train/loss_ds_1", "train/gradient_norm", "train/samples_per_second"} <= set(lines[0])
    assert newest_run("checkpoints/last.pt").resolve() == finished.resolve()


def test_the_best_checkpoint_is_the_best(finished):
    lines = [json.loads(line) for line in (finished / "log.jsonl").read_text().splitlines()]
    losses = {line["step"]: line["val/loss"] for line in lines if "val/loss" in line}
    assert load_checkpoint(finished / "checkpoints" / "best.pt")["step"] == min(losses, key=losses.get)


def test_the_same_config_gives_the_same_weights_with_any_number_of_workers(finished):
    again = train(replace(tiny(), name="again", system=replace(tiny().system, workers=2)))
    assert_same_weights(weights(again), weights(finished))


def test_a_resumed_run_ends_as_if_it_had_not_stopped(finished):
    half = train(replace(tiny(), name="half", loop=replace(tiny().loop, max_steps=8, epochs=None)))
    last = half / "checkpoints" / "last.pt"
    state = load_checkpoint(half / "checkpoints" / "step-00000004.pt")
    save_checkpoint(last, state)
    assert train(load_config(half), resume=half) == half
    assert_same_weights(weights(half), weights(finished))
    assert_same_weights(load_checkpoint(last)["average"], load_checkpoint(finished / "checkpoints/last.pt")["average"])
    lines = [json.loads(line) for line in (half / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "train/loss" in line] == list(range(1, 9))


def write_config(folder, config):
    file = folder / "config_file.py"
    plain = json.dumps(asdict(config))
    file.write_text(f"import json\nfrom pytc.config import Config, from_plain\n"
                    f"config = from_plain(Config, json.loads({plain!r}))\n")  # fmt: skip
    return file


def test_kill_9_and_resume_gives_the_same_weights_bit_for_bit(finished, tmp_path):
    config = replace(tiny(max_steps=60, val_every=60, checkpoint_every=3), name="killed", data=tiny().data)
    file = write_config(tmp_path, config)
    whole = train(replace(config, name="undisturbed"))
    run = finished.parent / "killed"
    script = [sys.executable, str(ROOT / "train.py")]
    process = subprocess.Popen([*script, "--config", str(file), "--system.no-cpu-variant"], stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not (run / "checkpoints" / "last.pt").exists():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    reached = load_checkpoint(run / "checkpoints" / "last.pt")["step"]
    assert 0 < reached < 60
    done = subprocess.run([*script, "--resume", str(run), "--system.workers", "1"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert f"steps {reached} to 60" in done.stdout
    assert_same_weights(weights(run), weights(whole))


def test_two_ranks_take_the_steps_of_one(finished, tmp_path):
    """2 ranks x batch 1 against 1 rank x batch 2, by torchrun over gloo."""
    one = train(replace(tiny(max_steps=5), name="one_rank"))
    file = write_config(tmp_path, replace(tiny(max_steps=5, batch_size=1), name="two_ranks"))
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", "0"]
    torchrun += ["--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0"]
    done = subprocess.run([*torchrun, str(ROOT / "train.py"), "--config", str(file), "--system.no-cpu-variant"],
                          capture_output=True, text=True)  # fmt: skip
    assert done.returncode == 0, done.stderr
    two = finished.parent / "two_ranks"
    losses = [
        [json.loads(line).get("train/loss") for line in (run / "log.jsonl").read_text().splitlines()]
        for run in (one, two)
    ]
    kept = [[loss for loss in run if loss is not None] for run in losses]
    assert len(kept[0]) == 5
    assert kept[0] == pytest.approx(kept[1], abs=1e-5)


def test_accumulation_takes_the_steps_of_a_larger_batch(finished):
    whole = train(replace(tiny(max_steps=3), name="whole"))
    config = tiny(max_steps=3, batch_size=1)
    parts = train(replace(config, name="parts", optim=replace(config.optim, accumulate=2)))
    a, b = weights(whole), weights(parts)
    assert max(float((a[key] - b[key]).abs().max()) for key in a) < 5e-3  # the loss is normalised batch by batch


def test_a_model_is_rebuilt_from_its_checkpoint_alone(finished):
    model, config, step = load_model(finished / "checkpoints" / "last.pt")
    assert config == tiny() and step == 8 and not model.training
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
    with pytest.raises(Exception, match="pickle"):
        save_checkpoint(tmp_path / "last.pt", {"step": lambda: 2})
    assert torch.load(tmp_path / "last.pt", weights_only=True) == {"step": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["last.pt"]


@pytest.mark.parametrize("monitor, best", [("val/loss", {2, 4}), ("val/nerl", {1, 3})])
def test_the_keeper_keeps_the_best(tmp_path, monitor, best):
    keeper = Keeper(tmp_path / "checkpoints", monitor, keep=2)
    for step, score in enumerate((0.7, 0.2, 0.9, 0.1), 1):
        keeper.save({"step": step}, {monitor: score})
    names = {path.name for path in (tmp_path / "checkpoints").iterdir()}
    assert names == {"last.pt", "best.pt", *(f"step-{step:08d}.pt" for step in best)}
    with pytest.raises(ValueError, match="loop.monitor"):
        keeper.save({"step": 9}, {"val/other": 1.0})


def test_learning_rate_warms_up_and_falls_to_zero():
    config = OptimConfig(learning_rate=2.0, warmup_steps=4, schedule="cosine")
    rates = [learning_rate(config, step, 24) for step in range(25)]
    assert rates[:5] == pytest.approx([0.4, 0.8, 1.2, 1.6, 2.0])
    assert rates[14] == pytest.approx(1.0) and rates[24] == pytest.approx(0.0)
    assert all(a > b for a, b in zip(rates[4:], rates[5:]))
    assert learning_rate(replace(config, schedule="constant"), 20, 24) == 2.0


def test_weight_decay_spares_biases_and_norms():
    model = torch.nn.Sequential(torch.nn.Conv3d(1, 2, 3), torch.nn.GroupNorm(1, 2))
    decayed, spared = build_optimizer(model, OptimConfig(weight_decay=0.1), torch.device("cpu")).param_groups
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


def test_ranks_come_from_torchrun_or_slurm():
    assert read_environment({}) == Ranks()
    torchrun = {"RANK": "3", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"}
    assert read_environment(torchrun) == Ranks(3, 8, 1, 2)
    slurm = {"SLURM_NTASKS": "8", "SLURM_PROCID": "5", "SLURM_LOCALID": "1", "SLURM_NNODES": "2"}
    assert read_environment(slurm) == Ranks(5, 8, 1, 4)


def test_run_names_are_never_taken_twice(tmp_path):
    assert [create_run("a", tmp_path).name for _ in range(3)] == ["a", "a-2", "a-3"]
    with pytest.raises(ValueError, match="expected a run with"):
        newest_run("checkpoints/last.pt", tmp_path)


def test_epochs_become_steps(finished):
    run = train(replace(tiny(epochs=0.4), name="epochs"))
    assert load_config(run).loop.max_steps == 2  # 48³ voxels are 7 patches, of which 0.4 are 3, two a step


def test_a_volume_that_does_not_fit_is_refused_before_a_run_is_made(finished):
    before = set((finished.parent).iterdir())
    config = tiny()
    with pytest.raises(ValueError, match="expected a volume at nowhere.zarr"):
        train(replace(config, data=replace(config.data, train=(VolumeConfig(image="nowhere.zarr", labels="x.zarr"),))))
    assert set((finished.parent).iterdir()) == before


def test_a_loss_that_is_not_finite_stops_the_run(finished):
    config = tiny()
    config = replace(config, name="diverged", optim=OptimConfig(learning_rate=1e30, clip_norm=0.0))
    with pytest.raises(RuntimeError, match="the loss is"):
        train(config)
    assert os.path.exists(finished.parent / "diverged" / "config.json")


def test_a_two_dimensional_semantic_run_from_training_to_scores(finished):
    """Slices of one voxel's thickness, a foreground mask, two volumes in turn; inferred and scored as semantic."""
    from pytc.commands import EvaluateConfig, InferConfig
    from pytc.inference.pipeline import infer
    from pytc.report.evaluate import evaluate

    config = tiny(max_steps=2)
    volumes = (VolumeConfig(image="synthetic:0", weight=0.5), VolumeConfig(image="synthetic:1", weight=0.5))
    config = replace(
        config,
        name="flat",
        data=replace(config.data, train=volumes, mixing="stratified", patch_size=(1, 48, 48)),
        target=TargetConfig(kind="binary"),
        model=replace(config.model, spatial_dims=2, out_channels=1),
    )
    run = train(config)
    (folder,) = infer(InferConfig(run=str(run), system=config.system))
    assert {path.name for path in folder.iterdir()} == {"affinities.zarr", "segmentation.zarr", "source.json"}
    scores = evaluate(EvaluateConfig(run=str(run), sweep=True))
    assert scores["task"] == "semantic" and 0 <= scores["jaccard"] <= 1


def test_a_prediction_is_made_anew_when_the_image_has_changed(finished, capsys):
    """The folder's own date does not change when a chunk is rewritten; the prediction must not be a stale one."""
    from pytc.commands import InferConfig
    from pytc.inference.pipeline import infer
    from pytc.io.volume import open_volume

    source = open_volume(next(finished.parents[1].glob("data/synthetic-1-*")) / "image.zarr", writable=True)
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


def test_console_scripts_are_the_three_functions():
    from importlib.metadata import distribution

    scripts = {entry.name: entry.load() for entry in distribution("pytc").entry_points}
    assert {name: script.__name__ for name, script in scripts.items()} == {
        "pytc-train": "train", "pytc-infer": "infer", "pytc-evaluate": "evaluate"}  # fmt: skip
