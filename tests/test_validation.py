"""Whole volumes scored within a run, and by `pytc validate` outside it."""

import fcntl
import json
import signal
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from pytc_command import PYTC
from tensorboard.backend.event_processing.event_multiplexer import EventMultiplexer
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

from pytc.commands import EvaluateConfig, InferConfig, ValidateConfig
from pytc.config import (
    AugmentConfig,
    Config,
    DataConfig,
    InferenceConfig,
    LoopConfig,
    ModelConfig,
    OptimConfig,
    SegmentationConfig,
    SyntheticConfig,
    SystemConfig,
    ValidationConfig,
    VolumeConfig,
)
from pytc.evaluate import evaluate
from pytc.inference.pipeline import infer
from pytc.models import build_model
from pytc.models.checkpoint import load_checkpoint
from pytc.training.loop import train
from pytc.training.whole_volumes import scored_volumes, validate_volumes
from pytc.validate import newest_unscored, score_checkpoint, validate

ROOT = Path(__file__).parent.parent
CPU = torch.device("cpu")


def tiny(name, volumes=("synthetic:1",), **loop):
    return Config(
        name=name,
        data=DataConfig(
            patch_size=(16, 32, 32),
            synthetic=SyntheticConfig(shape=(32, 48, 48)),
            val_samples=1,
            val=tuple(VolumeConfig(image=image) for image in volumes),
        ),
        augment=AugmentConfig(),
        model=ModelConfig(
            architecture="mednext_custom",
            base_channels=4,
            expansion=(1,) * 9,
            block_counts=(1,) * 9,
        ),
        inference=InferenceConfig(
            activation_scale=5.0
        ),  # so that thresholds tell apart what four steps have learnt
        optim=OptimConfig(learning_rate=1e-2, ema_decay=0.5),
        loop=LoopConfig(
            **{
                "max_steps": 4,
                "batch_size": 1,
                "val_every": 2,
                "checkpoint_every": 1,
                "log_every": 1,
                "keep_checkpoints": 2,
                **loop,
            }
        ),
        system=SystemConfig(device="cpu", precision="fp32", threads=1, workers=0),
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("work")


@pytest.fixture(autouse=True)
def workplace(folder, monkeypatch):
    """One folder for all, so that the synthetic volumes are made once."""
    monkeypatch.chdir(folder)


@pytest.fixture(scope="module")
def finished(folder):
    """A run of four steps, ranked by whole volumes that it does not validate itself.

    Steps 3 and 4 are kept.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        return folder / train(tiny("finished", monitor="val/dense_voi_sum"))


pytestmark = pytest.mark.filterwarnings("ignore:.*skipped")


@pytest.fixture
def run(finished, tmp_path):
    """A copy of it."""
    (tmp_path / "checkpoints").mkdir()
    for path in (finished / "checkpoints").iterdir():
        (tmp_path / "checkpoints" / path.name).write_bytes(path.read_bytes())
    (tmp_path / "config.json").write_bytes((finished / "config.json").read_bytes())
    return tmp_path


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def checkpoints(run):
    return {path.name for path in (run / "checkpoints").iterdir()}


def once(run, **fields):
    validate(ValidateConfig(run=str(run), device="cpu", **fields))
    return {row["step"]: row for row in lines(run / "validation.jsonl")}


def scores_of_the_scripts(run, checkpoint, metric):
    """What infer.py and evaluate.py --sweep say of the same weights, for each volume."""
    inference = replace(tiny("").inference, checkpoint=checkpoint)
    infer(InferConfig(run=str(run), inference=inference, system=tiny("").system))
    return evaluate(EvaluateConfig(run=str(run), sweep=True, metric=metric))


def test_a_run_that_scores_volumes_keeps_the_best_by_their_scores(folder):
    volumes = ("synthetic:1", "synthetic:2")
    run = folder / train(tiny("inside", volumes, volumes_every=2, monitor="val/dense_voi_sum"))
    rows = {row["step"]: row for row in lines(run / "log.jsonl") if "val/nerl" in row}
    assert list(rows) == [2, 4] and all("val/loss" in row for row in rows.values())
    best = min(rows, key=lambda step: rows[step]["val/dense_voi_sum"])
    assert load_checkpoint(run / "checkpoints" / "best.pt")["step"] == best
    assert not list((run / "validation").glob("*"))  # affinities are not kept
    for key in ("nerl", "dense_voi_sum", "threshold", "n_splits"):
        parts = [rows[best][f"val/synthetic-{seed}/{key}"] for seed in (1, 2)]
        assert rows[best][f"val/{key}"] == pytest.approx(sum(parts) / 2, abs=1e-7)
    assert len({rows[best][f"val/synthetic-{seed}/threshold"] for seed in (1, 2)}) == 1
    by_scripts = scores_of_the_scripts(run, "best", "dense_voi_sum")
    assert list(by_scripts) == ["synthetic-1", "synthetic-2"]
    for name, of_volume in by_scripts.items():
        for key in ("nerl", "voi_sum", "dense_voi_sum", "dense_adapted_rand_error", "threshold"):
            assert rows[best][f"val/{name}/{key}"] == pytest.approx(of_volume[key], abs=1e-7)
    board = EventMultiplexer().AddRunsFromDirectory(str(run)).Reload()
    of_run = board.GetAccumulator(".")
    assert set(of_run.Tags()["images"]) == {
        f"{part}: image | target | prediction | error" for part in ("training", "validation")
    }
    started = of_run.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    told = HParamsPluginData.FromString(started).session_start_info.hparams
    assert told["optim.learning_rate"].number_value == tiny("").optim.learning_rate
    assert told["data.patch_size"].string_value == str(tiny("").data.patch_size)
    assert told["loop.monitor"].string_value == "val/dense_voi_sum" and "name" in told
    shown = {event.step: event.value for event in board.Scalars(".", "val/dense_voi_sum")}
    assert shown == pytest.approx(
        {step: row["val/dense_voi_sum"] for step, row in rows.items()}, rel=1e-6
    )


def test_the_thresholds_of_validation_reach_the_sweep(folder, tmp_path):
    config = replace(tiny("thresholds"), segmentation=SegmentationConfig(method="components"))
    for thresholds in ((0.123,), (0.321, 0.322)):
        validation = ValidationConfig(thresholds=thresholds)
        torch.manual_seed(0)
        model = build_model(config.model)
        scores = validate_volumes(model, replace(config, validation=validation), CPU, tmp_path)
        assert scores["val/threshold"] in thresholds


def test_ranks_share_the_volumes(folder, tmp_path):
    """Two ranks and three volumes, then one volume: all ranks have the scores of a single one."""
    configs = [
        tiny("ranks", ("synthetic:1", "synthetic:2", "synthetic:1")[:count]) for count in (3, 1)
    ]
    (tmp_path / "configs.json").write_text(json.dumps([asdict(config) for config in configs]))
    script = tmp_path / "script.py"
    script.write_text(f"""
import json, sys
from pathlib import Path
import torch
from pytc.checks import from_plain
from pytc.config import Config
from pytc.models import build_model
from pytc.training.distributed import joined, read_environment
from pytc.training.whole_volumes import validate_volumes

ranks, folder = read_environment(), Path({str(tmp_path)!r})
torch.set_num_threads(1)
with joined(ranks, torch.device("cpu")):
    for config in json.loads((folder / "configs.json").read_text()):
        config = from_plain(Config, config)
        torch.manual_seed(0)
        model = build_model(config.model)
        scores = validate_volumes(model, config, torch.device("cpu"), folder / "v", ranks)
        name = f"{{len(config.data.val)}}-{{ranks.rank}}.json"
        (folder / name).write_text(json.dumps(scores))
""")
    alone = []
    for config in configs:
        torch.manual_seed(0)
        model = build_model(config.model)
        alone.append(validate_volumes(model, config, CPU, tmp_path / "alone"))
        assert model.training  # as it was
    torchrun = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nproc-per-node",
        "2",
        "--master-port",
        "0",
        "--rdzv-backend",
        "c10d",
        "--rdzv-endpoint",
        "localhost:0",
    ]
    done = subprocess.run([*torchrun, str(script)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    for count, expected in zip((3, 1), alone):
        for rank in (0, 1):
            assert json.loads((tmp_path / f"{count}-{rank}.json").read_text()) == expected
    assert {"val/synthetic-1/nerl", "val/synthetic-2/nerl", "val/synthetic-1-2/nerl"} <= set(
        alone[0]
    )
    assert {"val/nerl", "val/threshold"} <= set(alone[1]) and not any(
        name.count("/") > 1 for name in alone[1]
    )


def test_what_cannot_be_scored_is_refused(folder):
    config = tiny("refused", volumes_every=2)
    assert list(scored_volumes(config)) == ["synthetic-1"]
    before = set((folder / "runs").iterdir())
    for monitor, message in (
        ("nerll", "did you mean 'nerl'"),
        ("jaccard", "a metric, got 'jaccard'; it has 'erl'"),
        ("adapted_rand", "val/dense_adapted_rand_error, got 'val/adapted_rand'"),
    ):
        with pytest.raises(ValueError, match=message):
            train(replace(config, loop=replace(config.loop, monitor=f"val/{monitor}")))
    (image,) = folder.glob("data/synthetic-1-*/image.zarr")
    alone = replace(config.data, val=(VolumeConfig(image=str(image)),))
    with pytest.raises(ValueError, match="volumes with skeleton or labels to score, got 'none'"):
        train(replace(config, data=alone))
    with pytest.raises(ValueError, match="val/loss, or val/ and a score"):
        LoopConfig(monitor="train/loss")
    assert set((folder / "runs").iterdir()) == before


@pytest.mark.slow
def test_checkpoints_that_are_there_are_scored_once_and_the_best_is_kept(run, capsys):
    # the newest; none is best yet
    assert checkpoints(run) == {"last.pt", "step-00000003.pt", "step-00000004.pt"}
    rows = once(run)
    assert set(rows) == {3, 4}
    best = min(rows, key=lambda step: rows[step]["val/dense_voi_sum"])
    assert load_checkpoint(run / "checkpoints" / "best.pt")["step"] == best
    (by_scripts,) = scores_of_the_scripts(run, "best", "dense_voi_sum").values()
    for key in ("nerl", "dense_voi_sum", "threshold"):
        assert rows[best][f"val/{key}"] == pytest.approx(by_scripts[key], abs=1e-7)
    capsys.readouterr()
    assert once(run) == rows and "scoring" not in capsys.readouterr().out
    board = EventMultiplexer().AddRunsFromDirectory(str(run)).Reload()
    assert {event.step for event in board.Scalars("validation", "val/nerl")} == {3, 4}


@pytest.mark.parametrize("monitor, best", [("val/dense_voi_sum", 3), ("val/nerl", 1)])
def test_the_first_checkpoint_with_the_best_score_is_kept(run, monkeypatch, monitor, best):
    """Five steps are scored in turn."""
    rows = {}
    (run / "checkpoints" / "last.pt").unlink()
    state = load_checkpoint(run / "checkpoints" / "step-00000004.pt")
    state["config"]["loop"]["monitor"] = monitor
    for step, value in enumerate((0.9, 0.5, 0.2, 0.2, 0.9), 1):
        scores = {monitor: value, "val/threshold": 0.5}
        monkeypatch.setattr(
            "pytc.training.whole_volumes.validate_volumes", lambda *_, scores=scores: scores
        )
        score_checkpoint(run, {**state, "step": step}, rows, "cpu")
    assert load_checkpoint(run / "checkpoints" / "best.pt")["step"] == best
    assert [row["step"] for row in lines(run / "validation.jsonl")] == [1, 2, 3, 4, 5]


def test_a_run_that_picks_its_best_itself_is_left_alone(folder):
    run = folder / train(tiny("own", max_steps=2))
    before = (run / "checkpoints" / "best.pt").read_bytes()
    assert set(once(run)) == {2} and (run / "checkpoints" / "best.pt").read_bytes() == before


def test_a_watcher_takes_the_newest_and_passes_over_what_is_stale(run, capsys):
    assert set(once(run, watch=True)) == {4}  # it ends, as the last step is scored
    capsys.readouterr()
    # at once, started anew
    assert set(once(run, watch=True)) == {4} and "scoring" not in capsys.readouterr().out


def test_what_cannot_be_read_is_passed_over(run):
    folder = run / "checkpoints"
    whole = (folder / "last.pt").read_bytes()
    (folder / "last.pt").write_bytes(whole[: len(whole) // 2])
    # listed, and gone when it is looked at
    (folder / "step-00000009.pt").symlink_to(folder / "gone.pt")
    (folder / "step-00000004.pt").write_bytes(b"")
    seen = set()
    with pytest.warns(UserWarning, match="expected a readable checkpoint.*last.pt.*skipped"):
        assert newest_unscored(folder, [], seen, skip_older=True)["step"] == 3
    assert newest_unscored(folder, [], seen, skip_older=True) is None  # each is looked at once
    (folder / "last.pt").write_bytes(whole)
    assert newest_unscored(folder, [3], seen, skip_older=True)["step"] == 4
    with pytest.warns(UserWarning, match="step-00000004.pt"):
        # step 3 is older than step 4, which has scores
        assert newest_unscored(folder, [4], set(), skip_older=True) is None
        assert newest_unscored(folder, [4], set(), skip_older=False)["step"] == 3


def test_a_checkpoint_that_goes_while_it_is_read(run, monkeypatch):
    def vanishes(path, device):
        path.unlink()
        return load_checkpoint(path, device)

    monkeypatch.setattr("pytc.models.checkpoint.load_checkpoint", vanishes)
    with pytest.warns(UserWarning, match="found no file"):
        assert newest_unscored(run / "checkpoints", [], set(), skip_older=False) is None


def test_only_one_process_validates_a_run(run, tmp_path):
    (run / "validation").mkdir()
    with open(run / "validation" / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(ValueError, match="no other process validates"):
            once(run)
    with pytest.raises(ValueError, match="expected the folder or the name of a run"):
        once(tmp_path / "nowhere")


@pytest.mark.slow
def test_a_watcher_that_starts_before_the_run_ends_with_it(folder):
    command = [
        sys.executable,
        "-u",
        str(PYTC),
        "validate",
        "--run",
        "runs/watched",
        "--watch",
        "--interval",
        "0.1",
        "--device",
        "cpu",
    ]
    watcher = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert watcher.stdout.readline() == "waiting for runs/watched\n"
    watcher.send_signal(signal.SIGTERM)
    said, _ = watcher.communicate(timeout=60)
    assert watcher.returncode == 0 and "stopped" in said
    watcher = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    run = folder / train(tiny("watched", monitor="val/nerl", max_steps=3))
    said, _ = watcher.communicate(timeout=120)
    assert watcher.returncode == 0 and run.name == "watched", said
    assert lines(run / "validation.jsonl")[-1]["step"] == 3 and "best.pt" in checkpoints(run)
