"""Five classes of a fly's nerve cord in thick sections (50 x 4.6 x 4.6 nm), on two CPU cores.

Class 0 is the inside of cells, 1 membrane, 2 glia and the extracellular, 3 mitochondria, 4
synapses. The data are looked for in $PYTC_DATA/vnc, then in data/vnc: vnc_train.h5 and vnc_val.h5,
each with the sets raw and classes. They are made from the 20 sections of Gerhard et al. 2013
(figshare 856713, CC BY-NC-SA 3.0): stacked, the nine values of the labels mapped to five classes,
cut along z.

Neighbouring sections lie eleven pixels apart, so the network (nnU-Net's plan) works in plane until
its pixels are as large as the sections are thick.
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
    SystemConfig,
    TargetConfig,
    VolumeConfig,
)
from pytc.io.datasets import locate

source = (
    "ssTEM of the Drosophila larva's ventral nerve cord, Gerhard, Funke, Martel, Cardona, Fetter "
    "2013 (figshare 856713), CC BY-NC-SA 3.0"
)


def volume(split: str) -> VolumeConfig:
    return VolumeConfig(
        image=locate(f"vnc/vnc_{split}.h5:raw"),
        labels=locate(f"vnc/vnc_{split}.h5:classes"),
        name=f"vnc_{split}",
        attribution=source,
    )


config = Config(
    name="vnc",
    data=DataConfig(
        train=(volume("train"),), val=(volume("val"),), patch_size=(4, 128, 128), val_samples=8
    ),
    augment=AugmentConfig(
        permute_prob=0.5,
        rot90_prob=0.5,
        flip_prob=0.5,
        intensity_prob=1.0,
        intensity_scale=0.2,
        intensity_offset=0.1,
        gamma_prob=0.3,
        noise_prob=0.3,
        noise_max=0.05,
    ),
    target=TargetConfig(kind="classes", classes=5),
    model=ModelConfig(
        architecture="nnunet",
        base_channels=8,
        out_channels=5,
        image_size=(4, 128, 128),
        voxel_size=(50.0, 4.6, 4.6),
    ),
    loss=LossConfig(terms=("dice", "cross_entropy"), weights=(1.0, 1.0)),
    optim=OptimConfig(learning_rate=3e-3, weight_decay=1e-2, warmup_steps=50, ema_decay=0.99),
    loop=LoopConfig(
        max_steps=2000,
        # torch computes 3-D convolutions of a single small sample several times more slowly
        batch_size=2,
        val_every=500,
        checkpoint_every=500,
        log_every=50,
        images_every=500,
    ),
    system=SystemConfig(cpu_variant=False),
    # windows as deep as the validation volume, of four training patches and more in plane
    inference=InferenceConfig(
        window=(6, 256, 256), overlap=0.25, batch_size=2, flips=True, checkpoint="last"
    ),
)
