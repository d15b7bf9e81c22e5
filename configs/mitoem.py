"""Mitochondria of MitoEM, rat and human cortex at 30 x 8 x 8 nm, as separate objects by affinities.

`pytc data fetch mitoem_rat` and `pytc data fetch mitoem_human` download them to where this preset
looks for them, $PYTC_DATA, then data/. Planes 0 to 399 of each are for training, 400 to 499 for
validation. Patches and offsets are those of `cremi.py`. No score has been measured with this
preset.
"""

from dataclasses import replace

from cremi import config as cremi

from pytc.io.datasets import volumes

tissues = (volumes("mitoem_rat"), volumes("mitoem_human"))

config = replace(
    cremi,
    name="mitoem",
    data=replace(
        cremi.data,
        train=tuple(tissue["train"] for tissue in tissues),
        val=tuple(tissue["val"] for tissue in tissues),
        min_labelled=0.01,
    ),
)
has_cpu_variant = True
