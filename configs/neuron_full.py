"""All that is recommended for neurons, switched on: for a long run on a GPU that nobody watches.

To `mednext.py` (deep supervision, averaged weights, balanced BCE, defects of sections, a batch
fitted to the machine) it adds a compiled network and whole volumes for validation: the best
checkpoint is the one with the highest NERL on them, which needs skeletons.
"""

from dataclasses import replace

from mednext import config as mednext

config = replace(
    mednext,
    name="neuron_full",
    loop=replace(
        mednext.loop, max_steps=200_000, val_every=5000, volumes_every=5000, monitor="val/nerl"
    ),
    system=replace(mednext.system, compile=True),
)
has_cpu_variant = True
