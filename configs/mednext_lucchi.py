"""Mitochondria of Lucchi++: a foreground mask by Dice and cross-entropy.

The volumes have 165 x 1024 x 768 voxels of 5 nm. Fetch them by `python -m pytc.io.datasets
lucchi++`, then:

    torchrun train.py --config configs/mednext_lucchi.py \\
        --data.train.0.image train_im.h5 --data.train.0.labels train_mito.h5 \\
        --data.val.0.image test_im.h5 --data.val.0.labels test_mito.h5
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
    TargetConfig,
)

config = Config(
    name="mednext_lucchi",
    data=DataConfig(patch_size=(112, 112, 112)),
    augment=AugmentConfig(
        permute_prob=0.5, rot90_prob=1.0, flip_prob=0.5, intensity_prob=0.5, noise_prob=0.3
    ),
    target=TargetConfig(kind="binary"),
    model=ModelConfig(
        architecture="mednext",
        mednext_size="S",
        kernel_size=3,
        out_channels=1,
        deep_supervision=True,
    ),
    loss=LossConfig(terms=("dice", "cross_entropy"), weights=(1.0, 1.0)),
    optim=OptimConfig(learning_rate=1e-3, weight_decay=1e-2, warmup_steps=1000),
    loop=LoopConfig(max_steps=50_000, batch_size=4),
    inference=InferenceConfig(activation_scale=1.0),
)
has_cpu_variant = True
