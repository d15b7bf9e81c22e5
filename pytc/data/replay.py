"""Make one training sample of a run again from its number, without the steps before it.

    pytc replay --run runs/mine --step 1200 --index 3

The run's log.jsonl names the step and the index of samples whose loss was not finite.
"""

import json
from pathlib import Path

import h5py
import numpy as np

from pytc.checks import require
from pytc.commands import ReplayConfig
from pytc.config import Config
from pytc.runs import load_config


def replay(config: ReplayConfig) -> Path:
    """Write the sample, print a line about each array, and return the path of the file.

    ValueError if the run has no such sample.
    """
    run = Path(config.run)
    trained = load_config(run)
    samples_per_step = json.loads((run / "environment.json").read_text())["samples_per_step"]
    possible = config.step >= 0 and 0 <= config.index < samples_per_step
    require(
        possible,
        f"a step from 0 up and an index below {samples_per_step}",
        (config.step, config.index),
    )
    sample = make_sample(trained, config.step * samples_per_step + config.index, samples_per_step)
    path = (
        Path(config.output)
        if config.output
        else run / "replay" / f"{config.step}-{config.index}.h5"
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        for name, array in sample.items():
            dataset = file.create_dataset(name, data=array, compression="gzip")
            dataset.attrs["axes"] = "czyx"[4 - array.ndim :]
            finite = array[np.isfinite(array)]
            extent = f"{finite.min()} to {finite.max()}" if finite.size else "no number"
            broken = array.size - finite.size
            print(f"{name} {array.dtype} {array.shape}: {extent}, {broken} not finite")
    print(f"written: {path}")
    return path


def make_sample(config: Config, number: int, samples_per_step: int) -> dict[str, np.ndarray]:
    """Sample `number` of a run at each stage of its preparation, by name:

    - crop: (C, Z, Y, X) as it is read.
    - raw: (C, Z, Y, X) float32, after augmentation.
    - labels: (Z, Y, X) int32, after augmentation.
    - target, valid: (channels, Z, Y, X) bool at full resolution; the target of classes is integer.
    """
    # torch takes seconds to load, and --help needs none
    import torch
    from torch.utils.data import default_collate

    from pytc.data.batch import Preparation
    from pytc.data.patches import train_dataset
    from pytc.data.synthetic_volumes import prepare_volume

    for volume in config.data.train:
        prepare_volume(volume, config.data.synthetic)
    preparation = Preparation(config, torch.device("cpu"), samples_per_step)
    crop = train_dataset(config)[number]
    image, labels = preparation.augmented(default_collate([crop]))
    ((target, valid),) = preparation.targets(labels, ((1, 1, 1),))
    parts = {"raw": image, "labels": labels, "target": target, "valid": valid}
    return {"crop": crop["image"], **{name: part[0].numpy() for name, part in parts.items()}}
