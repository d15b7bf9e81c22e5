"""Mitochondria of Lucchi++ as a foreground mask: PyTorch Connectomics' recipe, to Jaccard 0.935.

MedNeXt-S with kernels of 3, patches of 112³, batches of 4, warm-up and cosine, and mirroring at
inference. Where the data are looked for: see `mednext_lucchi.py`. The last checkpoint is taken, as
the validation volume is the benchmark's test volume, which must not choose.
"""

from dataclasses import replace

from mednext_lucchi import config as mednext_lucchi

from pytc.config import InferenceConfig, LoopConfig, OptimConfig, TargetConfig

config = replace(
    mednext_lucchi,
    name="lucchi",
    data=replace(mednext_lucchi.data, patch_size=(112, 112, 112)),
    target=TargetConfig(kind="binary"),
    model=replace(mednext_lucchi.model, out_channels=1),
    optim=OptimConfig(learning_rate=1e-3, weight_decay=1e-2, schedule="cosine", warmup_steps=1000),
    loop=LoopConfig(max_steps=50_000, batch_size=4),
    inference=InferenceConfig(flips=True, activation_scale=1.0, checkpoint="last"),
)
