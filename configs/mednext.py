"""The recommended recipe for neurons: BANIS+ with deep supervision and defects of sections.

Precision and batch are fitted to the machine.
"""

from dataclasses import replace

from banis_plus import config as banis_plus

from pytc.config import LoopConfig, SegmentationConfig, SystemConfig

config = replace(
    banis_plus,
    name="mednext",
    augment=replace(
        banis_plus.augment,
        slices_axis="thick",  # where a microscope damages them
        affine_shear=0.2,
        noise_max=0.2,
        gamma_prob=0.3,
        slice_contrast_prob=0.1,
        misalign_prob=0.1,
        missing_section_prob=0.05,
        blur_slice_prob=0.02,
    ),
    target=replace(banis_plus.target, erosion=0),
    model=replace(banis_plus.model, deep_supervision=True, checkpoint_style="auto"),
    optim=replace(banis_plus.optim, warmup_steps=1000),
    loop=LoopConfig(max_steps=100_000, batch_size=8),
    system=SystemConfig(precision="auto", auto=True),
    segmentation=SegmentationConfig(threshold=0.5, min_size=100, method="agglomeration"),
)
has_cpu_variant = True
