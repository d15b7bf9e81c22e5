"""BANIS, the baseline of the NISB benchmark: MedNeXt-S, three short and three long affinities, plain BCE, fp16."""

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
    SystemConfig,
)

config = Config(
    name="banis",
    data=DataConfig(patch_size=(128, 128, 128)),
    augment=AugmentConfig(
        permute_prob=1.0,
        rot90_prob=1.0,
        flip_prob=0.5,
        affine_prob=0.5,
        affine_scale=0.2,
        affine_shear=0.5,
        affine_rotation=180.0,
        drop_slice_prob=0.05,
        shift_slice_prob=0.05,
        shift_slice_max=10,
        intensity_prob=0.5,
        intensity_scale=0.1,
        intensity_offset=0.1,
        noise_prob=0.5,
        noise_max=0.5,
    ),
    model=ModelConfig(architecture="mednext", mednext_size="S", kernel_size=3, out_channels=6),
    loss=LossConfig(terms=("bce",), weights=(1.0,)),
    optim=OptimConfig(learning_rate=1e-3, weight_decay=1e-2, schedule="cosine", clip_norm=1.0),
    loop=LoopConfig(max_steps=50_000, batch_size=8),
    system=SystemConfig(precision="fp16"),
    inference=InferenceConfig(overlap=0.5, blending="distance", activation_scale=0.2),
    segmentation=SegmentationConfig(threshold=0.6),
)
