"""The recommended recipe with a MedNeXt of the size that you choose.

Every stage has its width, depth and expansion.
"""

from dataclasses import replace

from mednext import config as mednext

config = replace(
    mednext,
    name="mednext_custom",
    model=replace(
        mednext.model,
        architecture="mednext_custom",
        base_channels=32,
        expansion=(2, 3, 4, 4, 4, 4, 4, 3, 2),
        block_counts=(2, 2, 2, 4, 4, 4, 2, 2, 2),
        kernel_size=3,
        grn=True,
    ),
)
has_cpu_variant = True
