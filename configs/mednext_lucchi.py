"""Mitochondria of Lucchi++: a foreground mask by Dice and cross-entropy.

The volumes have 165 x 1024 x 768 voxels of 5 nm; `python -m pytc.io.datasets lucchi++` downloads
them to where this preset looks for them, $PYTC_DATA, then data/.
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
from pytc.io.datasets import volumes

lucchi = volumes("lucchi++")

config = Config(
    name="mednext_lucchi",
    data=DataConfig(train=(lucchi["train"],), val=(lucchi["test"],), patch_size=(112, 112, 112)),
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
