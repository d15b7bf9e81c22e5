"""Neurons of CREMI: adult fly brain in thick sections, 40 x 4 x 4 nm.

Samples A and B are for training, C for validation.
`pytc data fetch cremi_a` (and cremi_b, cremi_c) downloads them to where this preset looks for them,
$PYTC_DATA, then data/. To the recipe of `mednext.py` it brings what thick sections ask for: flat
patches, and long affinities within sections, two and three sections across them. Agglomeration then
makes fragments in each section on its own. No score has been measured with this preset.
"""

from dataclasses import replace

from mednext import config as mednext

from pytc.io.datasets import volumes

offsets = (
    (1, 0, 0),
    (0, 1, 0),
    (0, 0, 1),
    (2, 0, 0),
    (3, 0, 0),
    (0, 9, 0),
    (0, 0, 9),
    (0, 27, 0),
    (0, 0, 27),
)

config = replace(
    mednext,
    name="cremi",
    data=replace(
        mednext.data,
        train=(volumes("cremi_a")["train"], volumes("cremi_b")["train"]),
        val=(volumes("cremi_c")["train"],),
        patch_size=(32, 256, 256),
    ),
    target=replace(mednext.target, offsets=offsets),
    model=replace(mednext.model, out_channels=len(offsets)),
)
has_cpu_variant = True
