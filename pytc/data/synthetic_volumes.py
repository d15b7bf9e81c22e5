"""Making the volumes named synthetic:SEED, each once, in the data folder."""

import logging
import os
import shutil
from dataclasses import asdict
from pathlib import Path

from pytc.config import SyntheticConfig, VolumeConfig
from pytc.data.sources import locate_volume, synthetic_folder, synthetic_seed
from pytc.io.skeleton import save_skeleton
from pytc.io.synthetic import STEPS, make_neurites
from pytc.io.volume import create_volume
from pytc.progress import Progress

LOGGER = logging.getLogger(__name__)


def prepare_volume(config: VolumeConfig, synthetic: SyntheticConfig) -> VolumeConfig:
    """Make a synthetic volume unless its files exist; return the config with their paths.

    The files are kept in the data folder ($PYTC_DATA if it is set and can be written to, else
    data/). The config of any other volume is returned as it is.
    """
    if config.is_synthetic:
        folder = synthetic_folder(config, synthetic)
        if not folder.exists():
            _generate(folder, synthetic_seed(config), synthetic)
    return locate_volume(config, synthetic)


def _generate(folder: Path, seed: int, synthetic: SyntheticConfig) -> None:
    shape = " x ".join(map(str, synthetic.shape))
    LOGGER.info(f"making a synthetic volume of {shape} voxels, seed {seed}, in {folder}")
    with Progress("making a synthetic volume", "steps", STEPS) as progress:
        made = make_neurites(seed=seed, **asdict(synthetic), on_step=progress.show)
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}")
    temporary.mkdir(parents=True)
    for name, array in (("image.zarr", made.image), ("labels.zarr", made.labels)):
        with create_volume(
            temporary / name, array.shape, array.dtype, voxel_size=made.voxel_size
        ) as volume:
            volume[...] = array
    save_skeleton(temporary / "skeleton.npz", made.skeleton)
    try:
        temporary.rename(folder)
    except OSError:  # another process made it in the meantime
        shutil.rmtree(temporary)
