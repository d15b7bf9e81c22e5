"""BANIS, the baseline of the NISB benchmark, at its published settings.

MedNeXt-S, six affinities, plain BCE, fp16. Every choice is stated here, also where it is pytc's
default. What is done differently, and why:

- Axes are permuted only where voxels are of one size: other orders do not exist in tissue. With
  the flips these are all orientations, so one plane of quarter turns replaces three.
- Slices are shifted along both axes of their plane; BANIS rolls the channels instead of one of
  them.
- The affine map comes first, as a microscope adds noise and damage to tissue that is deformed
  already; BANIS warps them too. What the map brings in from outside the patch is unlabelled, not
  mirrored. Dropped slices are blanked last.
- Labels are not split where a neuron leaves the patch and returns: truth does not depend on where
  a patch ends.
- Long affinities are not valid in the last 10 voxels of a patch; BANIS crops 138 voxels to have
  valid ones, and drops the rest.
- A patch with under 5 % of labelled neurons is drawn anew; BANIS fails below 10 % of valid
  affinities.
- Weight decay spares biases and normalisation. The loss is the mean over the batch of all ranks,
  not of their means.
- Windows are blended before the sigmoid, not after it. Thresholds of the sweep are not rounded to
  four digits.
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
    SystemConfig,
    TargetConfig,
)

config = Config(
    name="banis",
    data=DataConfig(patch_size=(128, 128, 128), mixing="weighted"),
    augment=AugmentConfig(
        permute_prob=1.0,
        rot90_prob=1.0,
        flip_prob=0.5,
        affine_prob=0.5,
        affine_scale=0.2,
        affine_shear=0.5,
        affine_rotation=180.0,
        slices_prob=0.5,
        slices_axis="random",
        drop_slice_prob=0.05,
        shift_slice_prob=0.05,
        shift_slice_max=10,
        shift_slice_fill="wrap",
        intensity_prob=0.5,
        intensity_scale=0.1,
        intensity_offset=0.1,
        noise_prob=0.5,
        noise_max=0.5,
    ),
    target=TargetConfig(
        kind="affinity",
        offsets=((1, 0, 0), (0, 1, 0), (0, 0, 1), (10, 0, 0), (0, 10, 0), (0, 0, 10)),
        erosion=0,
    ),
    model=ModelConfig(
        architecture="mednext",
        mednext_size="S",
        kernel_size=3,
        out_channels=6,
        deep_supervision=False,
        checkpoint_style="outside_block",
    ),
    loss=LossConfig(terms=("bce",), weights=(1.0,)),
    optim=OptimConfig(
        learning_rate=1e-3,
        weight_decay=1e-2,
        schedule="cosine",
        warmup_steps=0,
        clip_norm=1.0,
        ema_decay=0.0,
    ),
    loop=LoopConfig(
        max_steps=50_000,
        batch_size=8,
        seed=0,
        val_every=5000,
        volumes_every=5000,
        checkpoint_every=5000,
        keep_checkpoints=100,
        monitor="val/loss",
        log_every=100,
        images_every=5000,
    ),
    system=SystemConfig(precision="fp16", compile=True),
    inference=InferenceConfig(
        overlap=0.5, blending="distance", flips=False, activation_scale=0.2, checkpoint="last"
    ),
    segmentation=SegmentationConfig(threshold=0.6, min_size=0, method="components"),
)
has_cpu_variant = True
