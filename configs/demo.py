"""The demo: a small U-Net on a synthetic volume, in a few minutes on two CPU cores."""

from pytc.config import (
    AugmentConfig,
    Config,
    DataConfig,
    InferenceConfig,
    LoopConfig,
    LossConfig,
    ModelConfig,
    OptimConfig,
    SegmentationConfig,
    SyntheticConfig,
    TargetConfig,
)

config = Config(
    name="demo",
    data=DataConfig(
        synthetic=SyntheticConfig(shape=(128, 128, 128)), patch_size=(32, 32, 32), val_samples=8
    ),
    augment=AugmentConfig(
        permute_prob=1.0, rot90_prob=0.0, flip_prob=0.5, intensity_prob=0.5, noise_prob=0.3
    ),
    target=TargetConfig(erosion=1),
    model=ModelConfig(architecture="unet", features=(16, 32, 64), out_channels=6),
    loss=LossConfig(terms=("balanced_bce",), weights=(1.0,)),
    optim=OptimConfig(learning_rate=3e-3, warmup_steps=20, ema_decay=0.98),
    loop=LoopConfig(
        max_steps=1200,
        # torch computes 3-D convolutions of a single small sample several times more slowly
        batch_size=2,
        val_every=400,
        checkpoint_every=400,
        log_every=50,
        images_every=400,
    ),
    inference=InferenceConfig(overlap=0.25),
    segmentation=SegmentationConfig(threshold=0.44, min_size=50, method="agglomeration"),
)
