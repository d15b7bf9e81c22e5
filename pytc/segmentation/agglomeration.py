"""Agglomeration: affinities become fragments, and a merge tree that joins them to neurons.

    affinities --make_fragments--> fragments --region_graph--> graph --average_linkage--> merges

The threshold comes last: a segmentation at any threshold is cut from fragments and merges, so one
pass over the volume serves a decode, a sweep and a viewer's slider. Plain form: `plain.py`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pytc.checks import require
from pytc.config import Lengths, SegmentationConfig
from pytc.geometry import RATIO, thick_axis
from pytc.io.volume import Volume
from pytc.segmentation.channels import short_range
from pytc.segmentation.fragments import FragmentSettings, Seeds, make_fragments
from pytc.segmentation.linkage import average_linkage
from pytc.segmentation.merge_tree import MergeTree, relabelled
from pytc.segmentation.region_graph import region_graph

# Components need more than peaks: one weak spot of a membrane joins two of them for good.
DEFAULT_FRAGMENT_THRESHOLD: dict[Seeds, float] = {"components": 0.8, "distance_peaks": 0.5}
STEP_WEIGHT = 9  # of an edge to the next voxel
LONG_WEIGHT = 3  # of a longer edge: its neighbours tell nearly the same
ACROSS_SECTIONS = 3  # weights of edges across thick sections are divided by this


@dataclass(frozen=True)
class Agglomeration:
    """A volume cut into fragments, and how these are joined."""

    fragments: np.ndarray | Volume  # (Z, Y, X) uint32 or uint64, 0 = background
    tree: MergeTree

    def segmentation(self, threshold: float, *, min_size: int = 0) -> np.ndarray:
        """The segmentation (Z, Y, X) at a threshold, numbered as `MergeTree.cut` says."""
        return relabelled(self.fragments[...], self.tree.cut(threshold, min_size=min_size))


def agglomerate(
    affinities: np.ndarray,
    offsets: Sequence[Sequence[int]],
    config: SegmentationConfig,
    voxel_size: Lengths | None = None,
) -> Agglomeration:
    """The fragments of a volume in memory, and all their merges by average linkage.

    Args:
        affinities: (C, Z, Y, X) float16, float32, float64, or uint8 for value / 255.
        offsets: (C, 3) voxels, 0 or more; those to the next voxel along z, y and x are among them.
        config: how fragments are made, and the weights of edges. The threshold is not read.
        voxel_size: nm along z, y, x; None for voxels of equal sides.

    Raises:
        ValueError: if affinities, offsets and config do not fit each other.
    """
    weights = edge_weights(config, offsets, voxel_size)
    made = make_fragments(short_range(affinities, offsets), fragment_settings(config, voxel_size))
    graph = region_graph(made.labels, affinities, offsets, weights)
    merges = average_linkage(graph)
    return Agglomeration(made.labels, MergeTree(merges, made.sizes, made.first_voxels))


def fragment_settings(config: SegmentationConfig, voxel_size: Lengths | None) -> FragmentSettings:
    """How the fragments of a volume with this voxel size are made.

    Raises:
        ValueError: if each section is to be treated on its own, and no axis has thick sections.
    """
    thick = thick_axis(voxel_size)
    seeds = config.fragment_seeds
    if seeds == "auto":
        seeds = "components" if thick is None else "sections"
    if seeds != "sections":
        thick = None
    else:
        require(
            thick is not None,
            f"a voxel size at least {RATIO} times as large along one axis for "
            "segmentation.fragment_seeds sections",
            voxel_size,
        )
    kind: Seeds = "components" if seeds == "components" else "distance_peaks"
    return FragmentSettings(
        seeds=kind,
        threshold=fragment_threshold(config, kind),
        min_size=config.fragment_min_size,
        block=config.fragment_block,
        sections=thick,
    )


def fragment_threshold(config: SegmentationConfig, seeds: Seeds) -> float:
    """config.fragment_threshold, or the default one for this kind of seeds."""
    if config.fragment_threshold is not None:
        return config.fragment_threshold
    return DEFAULT_FRAGMENT_THRESHOLD[seeds]


def edge_weights(
    config: SegmentationConfig, offsets: Sequence[Sequence[int]], voxel_size: Lengths | None
) -> tuple[int, ...]:
    """The weight of each channel's edges: config.edge_weights, or the default ones.

    Raises:
        ValueError: if there is not one weight for each channel, or all are 0.
    """
    if config.edge_weights is not None:
        expected = f"segmentation.edge_weights for {len(offsets)} channels, one above 0 at least"
        fits = len(config.edge_weights) == len(offsets) and max(config.edge_weights) > 0
        require(fits, expected, config.edge_weights)
        return config.edge_weights
    thick = thick_axis(voxel_size)
    weights = []
    for offset in offsets:
        weight = STEP_WEIGHT if sum(offset) == 1 else LONG_WEIGHT
        if thick is not None and offset[thick] != 0:
            weight //= ACROSS_SECTIONS
        weights.append(weight)
    return tuple(weights)
