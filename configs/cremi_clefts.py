"""Synaptic clefts of CREMI as a foreground mask, with the volumes and patches of `cremi.py`.

Clefts are rare, so a patch is taken as soon as it has a voxel of one. No score has been measured
with this preset.
"""

from dataclasses import replace

from cremi import config as cremi

from pytc.config import TargetConfig, VolumeConfig


def with_clefts(volume: VolumeConfig) -> VolumeConfig:
    file = volume.image.rpartition(":")[0]
    return replace(volume, labels=f"{file}:clefts")


config = replace(
    cremi,
    name="cremi_clefts",
    data=replace(
        cremi.data,
        train=tuple(map(with_clefts, cremi.data.train)),
        val=tuple(map(with_clefts, cremi.data.val)),
        min_labelled=0.0,
        max_tries=100,
    ),
    target=TargetConfig(kind="binary"),
    model=replace(cremi.model, out_channels=1),
)
has_cpu_variant = True
