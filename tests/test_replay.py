"""Steps that are skipped, and samples made again by their number."""

import os
from dataclasses import replace

import h5py
import numpy as np
import pytest
import torch
from tiny_runs import (
    read_log,
    tiny,
    weights,
)

from pytc.commands import ReplayConfig
from pytc.config import (
    OptimConfig,
    VolumeConfig,
)
from pytc.data.batch import Preparation
from pytc.data.patches import train_dataset
from pytc.data.replay import make_sample, replay
from pytc.data.synthetic_volumes import prepare_volume
from pytc.io.volume import open_volume
from pytc.models.checkpoint import load_checkpoint
from pytc.training.loop import train


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
    lines = [line for line in read_log(run) if "train/loss_total" in line]
    assert [line["step"] for line in lines if line["train/loss_total"] is None] == [
        event["step"] for event in events
    ]
    assert lines[-1]["train/skipped_steps"] == len(events) < 12
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
