"""One small network of each kind, for the tests that build every network."""

from pytc import models
from pytc.config import ModelConfig

SMALL = ModelConfig(
    "mednext_custom", out_channels=3, base_channels=4, expansion=(2,) * 9, block_counts=(1,) * 9
)
# One small network of each kind, and an image size that it takes.
NETWORKS = {
    "mednext_custom": (SMALL, (16, 32, 16)),
    "mednext": (ModelConfig(out_channels=3), (32, 16, 16)),
    "unet": (
        ModelConfig("unet", out_channels=3, features=(4, 6, 8), strides=((1, 2, 2), (2, 3, 2))),
        (6, 12, 8),
    ),
    "rsunet": (
        ModelConfig("rsunet", out_channels=3, features=(4, 6, 8), voxel_size=(30, 6, 6)),
        (3, 12, 20),
    ),
    "nnunet": (
        ModelConfig(
            "nnunet",
            out_channels=3,
            base_channels=4,
            voxel_size=(30, 10, 10),
            image_size=(10, 24, 20),
        ),
        (10, 24, 20),
    ),
    "monai_basic_unet3d": (
        ModelConfig("monai_basic_unet3d", out_channels=3, features=(4, 4, 6, 8, 8)),
        (16, 32, 16),
    ),
    "monai_unet": (
        ModelConfig("monai_unet", out_channels=3, features=(4, 6), strides=((1, 2, 2),)),
        (3, 12, 8),
    ),
    "monai_unetr": (
        ModelConfig("monai_unetr", out_channels=3, feature_size=4, image_size=(16, 16, 32)),
        (16, 16, 32),
    ),
    "monai_swin_unetr": (
        ModelConfig("monai_swin_unetr", out_channels=3, feature_size=12),
        (64, 32, 32),
    ),
}
SUPERVISED = ("mednext_custom", "mednext", "unet", "rsunet", "nnunet")


def forget_plugins():
    """Leave the registry as in a process that has loaded no plugin."""
    for name in set(models._registered) - set(models.BUILT_IN):
        del models._registered[name]


def outputs_of(model, x):
    outputs = model(x)
    return list(outputs.values()) if isinstance(outputs, dict) else [outputs]
