"""FIB-25 (fly medulla, 10 nm isotropic) in under 20 minutes on two CPU cores: a small U-Net.

It computes in bf16 where the CPU can. The sample is training_sample2 of the FlyEM team's
neuroproof_examples (CC BY 3.0), cut along z into fib25_train.h5 and fib25_val.h5 with the data sets
raw and labels. `pytc data fetch fib25` makes them; they are looked for in $PYTC_DATA/fib25, then in
data/fib25. Skeletons of the validation volume are scored where they lie beside it.
"""

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
    VolumeConfig,
)
from pytc.io.datasets import find, locate

source = "FIB-25, FlyEM team, Janelia (neuroproof_examples, training_sample2), CC BY 3.0"

skeleton = find("fib25/fib25_val_skeleton.pkl")

config = Config(
    name="fib25",
    data=DataConfig(
        train=(
            VolumeConfig(
                image=locate("fib25/fib25_train.h5:raw"),
                labels=locate("fib25/fib25_train.h5:labels"),
                attribution=source,
            ),
        ),
        val=(
            VolumeConfig(
                image=locate("fib25/fib25_val.h5:raw"),
                labels=locate("fib25/fib25_val.h5:labels"),
                skeleton=skeleton and str(skeleton),
                attribution=source,
            ),
        ),
        patch_size=(64, 64, 64),
        val_samples=8,
    ),
    augment=AugmentConfig(
        permute_prob=1.0,
        rot90_prob=0.0,  # permutations and flips already give all 48 orientations
        flip_prob=0.5,
        intensity_prob=1.0,
        intensity_scale=0.2,
        intensity_offset=0.05,
        noise_prob=0.5,
        noise_max=0.04,
    ),
    model=ModelConfig(architecture="unet", features=(16, 32, 64, 128), out_channels=6),
    loss=LossConfig(terms=("bce",), weights=(1.0,)),
    optim=OptimConfig(
        learning_rate=3e-3, weight_decay=1e-2, warmup_steps=50, clip_norm=1.0, ema_decay=0.998
    ),
    loop=LoopConfig(
        max_steps=5000,
        batch_size=1,
        val_every=1000,
        checkpoint_every=500,
        log_every=50,
        images_every=1000,
    ),
    inference=InferenceConfig(flips=True, checkpoint="last"),
    segmentation=SegmentationConfig(threshold=0.53, min_size=200, method="agglomeration"),
)
