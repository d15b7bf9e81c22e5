"""The recommended recipe with MONAI's basic U-Net."""

from dataclasses import replace

from mednext import config as mednext

config = replace(
    mednext,
    name="unet",
    model=replace(mednext.model, architecture="monai_basic_unet3d", deep_supervision=False),
)
has_cpu_variant = True
