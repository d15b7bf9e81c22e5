"""The recommended recipe on two sources: four of five samples synthetic, the fifth real.

The real one is FIB-25, found as `fib25.py` finds it; name your own by --data.train.1.image and
--data.train.1.labels.
"""

from dataclasses import replace

from fib25 import config as fib25
from mednext import config as mednext

from pytc.config import VolumeConfig

config = replace(
    mednext,
    name="mixed_data",
    data=replace(
        mednext.data,
        train=(
            VolumeConfig(image="synthetic:0", weight=0.8),
            replace(fib25.data.train[0], weight=0.2),
        ),
        val=fib25.data.val,
        mixing="weighted",
    ),
)
has_cpu_variant = True
