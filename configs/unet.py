"""The recommended recipe with MONAI's basic U-Net."""

import runpy
from dataclasses import replace
from pathlib import Path

mednext = runpy.run_path(str(Path(__file__).with_name("mednext.py")))["config"]

config = replace(
    mednext,
    name="unet",
    model=replace(
        mednext.model,
        architecture="monai_basic_unet3d",
        deep_supervision=False,
        features=(32, 32, 64, 128, 256, 32),
    ),
)
