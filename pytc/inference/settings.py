"""The settings that a run brings to inference: they hold where no flag says otherwise.

No torch, but for a checkpoint that lies in no run.
"""

from pathlib import Path

from pytc.commands import InferConfig
from pytc.config import Config
from pytc.renames import config_from_plain
from pytc.runs import export_config, find_run, load_config


def settings_of_run(name: str, trained: Config) -> InferConfig:
    """What infer.py does without flags, with a run or a file of weights of this config."""
    return InferConfig(
        name,
        inference=trained.inference,
        segmentation=trained.segmentation,
        system=trained.system,
    )


def config_of_run(name: str) -> Config:
    """The config of a run, or of a file of weights; of most without loading torch.

    ValueError if nothing has that name.
    """
    if Path(name).suffix == ".safetensors":
        return export_config(Path(name))
    run = find_run(name)
    if Path(name).is_file() and run != Path(name).parent.parent:
        from pytc.models.checkpoint import load_checkpoint

        return config_from_plain(load_checkpoint(Path(name))["config"])
    return load_config(run)
