"""Neurons of SNEMI3D: mouse cortex in thick sections, 30 x 6 x 6 nm.

`pytc data fetch snemi3d` downloads it to where this preset looks for it, $PYTC_DATA, then data/.
Planes 0 to 79 of the labelled volume are for training, 80 to 99 for validation: the labels of the
test volume are secret. Patches and offsets are those of `cremi.py`, with patches as deep as the
validation volume allows. No score has been measured with this preset.
"""

from dataclasses import replace

from cremi import config as cremi

from pytc.io.datasets import volumes

snemi3d = volumes("snemi3d")

config = replace(
    cremi,
    name="snemi3d",
    data=replace(
        cremi.data, train=(snemi3d["part"],), val=(snemi3d["val"],), patch_size=(16, 256, 256)
    ),
)
has_cpu_variant = True
