"""Neurons of the NISB benchmark, setting base: the recipe of `mednext.py` on its five cubes.

`pytc data fetch nisb_base --split train val` streams them to where this preset looks for them,
$PYTC_DATA, then data/; with `--roi`, a part of each. Cubes are stored x, y, z at 9 x 9 x 20 nm.
Another setting is a line here: volumes("nisb_liconn"), say. `banis.py` and `banis_plus.py` are the
published recipes. No score has been measured with this preset.
"""

from dataclasses import replace

from mednext import config as mednext

from pytc.io.datasets import volumes

nisb = volumes("nisb_base")

config = replace(
    mednext,
    name="nisb",
    data=replace(
        mednext.data,
        train=tuple(nisb[f"train_{cube}"] for cube in range(5)),
        val=(nisb["val"],),
    ),
)
has_cpu_variant = True
