"""BANIS+: class-balanced BCE, averaged weights and eroded labels, for four times the steps.

The average's decay grows as (1 + step) / (500 + step) up to 0.999, instead of 500 steps without an
average. The checkpoint with the least validation loss is used.
"""

from dataclasses import replace

from banis import config as banis

from pytc.config import LossConfig

config = replace(
    banis,
    name="banis_plus",
    target=replace(banis.target, erosion=2),
    loss=LossConfig(terms=("balanced_bce",), weights=(1.0,), max_positive_weight=10.0),
    optim=replace(banis.optim, ema_decay=0.999, ema_warmup_steps=500),
    loop=replace(banis.loop, max_steps=200_000, keep_checkpoints=3),
    inference=replace(banis.inference, checkpoint="best"),
)
has_cpu_variant = True
