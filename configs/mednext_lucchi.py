"""Mitochondria of Lucchi++ as two classes: MedNeXt by softmax Dice and cross-entropy, 100 epochs.

The volumes have 165 x 1024 x 768 voxels of 5 nm; `pytc data fetch lucchi++` downloads
them to where this preset looks for them, $PYTC_DATA, then data/. The rate is constant, and the best
three checkpoints by the validation loss are kept. The validation volume is the benchmark's test
volume, as it has no other: --inference.checkpoint last gives a score that did not choose its own
checkpoint. `lucchi.py` is a longer recipe with a single channel.
"""

from pytc.config import (
    AugmentConfig,
    Config,
    DataConfig,
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
    data=DataConfig(train=(lucchi["train"],), val=(lucchi["test"],), patch_size=(128, 128, 128)),
    augment=AugmentConfig(
        permute_prob=0.5, rot90_prob=1.0, flip_prob=0.5, intensity_prob=0.5, noise_prob=0.3
    ),
    target=TargetConfig(kind="classes", classes=2),
    model=ModelConfig(
        architecture="mednext",
        mednext_size="S",
        kernel_size=3,
        out_channels=2,
        deep_supervision=True,
    ),
    loss=LossConfig(terms=("dice", "cross_entropy"), weights=(1.0, 1.0)),
    optim=OptimConfig(learning_rate=1e-3, weight_decay=1e-4, schedule="none", clip_norm=1.0),
    # an epoch of this volume is 31 steps
    loop=LoopConfig(
        epochs=100,
        batch_size=2,
        val_every=31,
        checkpoint_every=31,
        keep_checkpoints=3,
        monitor="val/loss",
    ),
)
has_cpu_variant = True
