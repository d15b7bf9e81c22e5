"""From affinities to objects by the method that a config names: the one door to every decoder.

    decode              the labels at one threshold
    decode_levels       the labels at many thresholds: fragments, and the segment of each of them
    merge_tree          fragments and all their merges, from which any threshold is cut

To add a method: a function here, a row in ROWS, and its name in `SegmentationConfig.method`. A
method that joins fragments gives its fragments and merges as `Levels`.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np

from pytc.config import Lengths, SegmentationConfig
from pytc.io.volume import Volume
from pytc.segmentation.agglomeration import (
    Agglomeration,
    agglomerate,
    edge_weights,
    fragment_threshold,
)
from pytc.segmentation.channels import short_range, unit_channels
from pytc.segmentation.connected_components import connected_components_3d
from pytc.segmentation.edges import is_above, label_dtype
from pytc.segmentation.merge_forest import build_merge_forest, roots_at_thresholds
from pytc.segmentation.packages import mutex_watershed, waterz_segments
from pytc.segmentation.watershed import seeded_watershed

Offsets = Sequence[Sequence[int]]
Segments = Callable[[np.ndarray], np.ndarray]  # fragments (n,) -> their segments (n,) uint64

SAMPLE = 24  # every n-th row of every n-th plane tells how many edges lie between two thresholds
EDGES_AS_A_DECODE = 0.3  # a voxel: joining so many edges one by one costs as much as a decode
FRAGMENT_SIZE = 20  # voxels: smaller fragments are left to the seeded watershed


@dataclass(frozen=True)
class Affinities:
    """Affinities in memory, and what is needed to read them."""

    values: np.ndarray  # (C, Z, Y, X) float16, float32, float64, or uint8 for value / 255
    offsets: Offsets  # (C, 3) voxels
    voxel_size: Lengths | None = None  # nm along z, y, x; None for voxels of equal sides

    @property
    def steps(self) -> np.ndarray:
        """(3, Z, Y, X): the channels to the next voxel along z, y and x."""
        return short_range(self.values, self.offsets)


@dataclass(frozen=True)
class Levels:
    """The segmentations at several thresholds, each of which joins the same fragments."""

    fragments: np.ndarray | Volume  # (Z, Y, X) unsigned integer, 0 = background
    # for each threshold in turn; valid until the next one is taken
    segments: Iterator[Segments]
    needed: np.ndarray | None = None  # the fragments that `needed` picked, where it was called


@dataclass(frozen=True)
class Method:
    """A row of the table of decoders."""

    name: str  # segmentation.method
    decode: "Decode"
    levels: "DecodeLevels"
    reads_long_range: bool  # all channels; otherwise those to the next voxel along z, y and x
    by_blocks: bool  # whether a volume larger than memory can be segmented block by block
    memory: int  # bytes a voxel that it needs at worst beyond affinities and labels
    # Whether the scores at every threshold can be counted: segments are components, with
    # or without a seeded watershed after them.
    has_curve: bool
    # Fragments and all their merges, where a threshold is but a position among the merges.
    tree: "MakeTree | None" = None
    settings: tuple[str, ...] = ()  # fields of the config that it reads besides those that all read


Decode = Callable[[Affinities, SegmentationConfig], np.ndarray]
MakeTree = Callable[[Affinities, SegmentationConfig], Agglomeration]
Needed = Callable[[np.ndarray], np.ndarray] | None
DecodeLevels = Callable[[Affinities, SegmentationConfig, Sequence[float], Needed], Iterator[Levels]]


def decode(
    affinities: np.ndarray,
    offsets: Offsets,
    config: SegmentationConfig,
    voxel_size: Lengths | None = None,
) -> np.ndarray:
    """Segment affinities by config.method at config.threshold.

    Args:
        affinities: (C, Z, Y, X) float16, float32, float64, or uint8 for value / 255.
        offsets: (C, 3) voxels; channel c at v says whether v and v + offsets[c] are one object.
            Those that `channels_to_read` leaves out need not be there.
        voxel_size: nm along z, y, x; None for voxels of equal sides.

    Returns:
        Labels (Z, Y, X) uint32, or uint64 from 2^32 voxels on: 0 = background, 1, 2, ... Objects of
        fewer than config.min_size voxels are background.

    Raises:
        ValueError: if affinities or offsets do not fit the method.
        ImportError: if the method needs a package that is not installed; the message names it.
    """
    return method_of(config).decode(Affinities(affinities, offsets, voxel_size), config)


def decode_levels(
    affinities: np.ndarray,
    offsets: Offsets,
    config: SegmentationConfig,
    thresholds: Sequence[float],
    voxel_size: Lengths | None = None,
    *,
    needed: Needed = None,
) -> Iterator[Levels]:
    """The segmentations that `decode` gives at many thresholds, at a fraction of the cost.

    Where segments at a lower threshold are joined from those at a higher one, several thresholds
    share one decode.

    Args:
        affinities, offsets, voxel_size: as for `decode`.
        thresholds: in descending order.
        needed: picks the fragments whose segments are asked for, (n,), out of all (Z, Y, X); None:
            those of every fragment may be.

    Yields:
        Levels that together have an item for each threshold, in order. A segment is 0 where
        `decode` has the label 0, and segments are numbered in the order of its labels.
    """
    opened = Affinities(affinities, offsets, voxel_size)
    return method_of(config).levels(opened, config, thresholds, needed)


def merge_tree(
    affinities: np.ndarray,
    offsets: Offsets,
    config: SegmentationConfig,
    voxel_size: Lengths | None = None,
) -> Agglomeration | None:
    """Fragments and all their merges, from which `decode` cuts; None if the method has none.

    Args:
        affinities, offsets, voxel_size: as for `decode`.
        config: its threshold and min_size are not read.
    """
    tree = method_of(config).tree
    if tree is None:
        return None
    return tree(Affinities(affinities, offsets, voxel_size), config)


def levels_of_tree(
    agglomeration: Agglomeration, config: SegmentationConfig, thresholds: Sequence[float]
) -> Iterator[Levels]:
    """What `decode_levels` yields, cut from a merge tree."""
    cuts = (
        agglomeration.tree.cut(threshold, min_size=config.min_size).__getitem__
        for threshold in thresholds
    )
    yield Levels(agglomeration.fragments, cuts)


def channels_to_read(n_channels: int, offsets: Offsets, config: SegmentationConfig) -> list[int]:
    """The channels that config.method needs, of affinities with these offsets.

    Raises:
        ValueError: if one is missing, or config.edge_weights does not fit.
    """
    units = unit_channels(n_channels, offsets)
    if method_of(config).tree is not None:
        edge_weights(config, offsets, None)  # fits, or is refused
    if method_of(config).reads_long_range:
        return list(range(n_channels))
    return units


def settings_of(config: SegmentationConfig) -> dict[str, Any]:
    """What a segmentation depends on: the config's fields that its method reads."""
    fields = asdict(config)
    names = ("threshold", "method", "min_size", *method_of(config).settings)
    return {name: fields[name] for name in names}


def method_of(config: SegmentationConfig) -> Method:
    """The row of config.method."""
    return METHODS[config.method]


def _components(affinities: Affinities, config: SegmentationConfig) -> np.ndarray:
    return connected_components_3d(affinities.steps, config.threshold, min_size=config.min_size)


def _components_watershed(affinities: Affinities, config: SegmentationConfig) -> np.ndarray:
    steps = affinities.steps
    seeds = connected_components_3d(steps, config.threshold, min_size=config.min_size)
    return seeded_watershed(seeds, steps)


def _agglomerate(affinities: Affinities, config: SegmentationConfig) -> Agglomeration:
    return agglomerate(affinities.values, affinities.offsets, config, affinities.voxel_size)


def _agglomeration(affinities: Affinities, config: SegmentationConfig) -> np.ndarray:
    made = _agglomerate(affinities, config)
    return made.segmentation(config.threshold, min_size=config.min_size)


def _waterz(affinities: Affinities, config: SegmentationConfig) -> np.ndarray:
    threshold = fragment_threshold(config, "components")
    seeds = replace(config, threshold=threshold, min_size=FRAGMENT_SIZE)
    fragments = _components_watershed(affinities, seeds)
    segments = waterz_segments(affinities.values, fragments, config.threshold, affinities.offsets)
    return _numbered(segments, config.min_size)


def _mutex_watershed(affinities: Affinities, config: SegmentationConfig) -> np.ndarray:
    segments = mutex_watershed(affinities.values, affinities.offsets, threshold=config.threshold)
    return _numbered(segments, config.min_size)


def _component_levels(
    affinities: Affinities,
    config: SegmentationConfig,
    thresholds: Sequence[float],
    needed: Needed,
) -> Iterator[Levels]:
    steps = affinities.steps
    for group in _groups(steps, list(thresholds)):
        if len(group) == 1:  # needs no forest
            labels = connected_components_3d(steps, group[0], min_size=config.min_size)
            yield Levels(labels, iter([_unchanged]))
        else:
            yield _forest_levels(steps, config, group, needed, watershed=False)


def _watershed_levels(
    affinities: Affinities,
    config: SegmentationConfig,
    thresholds: Sequence[float],
    needed: Needed,
) -> Iterator[Levels]:
    """As one group, since most of the time goes into edges below the last threshold."""
    yield _forest_levels(affinities.steps, config, thresholds, needed, watershed=True)


def _forest_levels(
    steps: np.ndarray,
    config: SegmentationConfig,
    thresholds: Sequence[float],
    needed: Needed,
    *,
    watershed: bool,
) -> Levels:
    forest = build_merge_forest(
        steps, thresholds, min_size=config.min_size, watershed=watershed, query=needed
    )
    return Levels(forest.fragments, roots_at_thresholds(forest), forest.queried)


def _agglomeration_levels(
    affinities: Affinities,
    config: SegmentationConfig,
    thresholds: Sequence[float],
    needed: Needed,
) -> Iterator[Levels]:
    return levels_of_tree(_agglomerate(affinities, config), config, thresholds)


def _levels_afresh(
    affinities: Affinities,
    config: SegmentationConfig,
    thresholds: Sequence[float],
    needed: Needed,
) -> Iterator[Levels]:
    """For methods whose segments are not joined from those at a higher threshold."""
    for threshold in thresholds:
        labels = method_of(config).decode(affinities, replace(config, threshold=threshold))
        yield Levels(labels, iter([_unchanged]))


def _groups(affinities: np.ndarray, descending: list[float]) -> list[list[float]]:
    """Cuts thresholds into groups, each of which one decode serves.

    It is cheaper to decode afresh after a threshold that leaves most voxels without an edge, and
    where many edges lie between two thresholds; a sample of the volume tells.
    """
    sample = affinities[:, ::SAMPLE, ::SAMPLE]
    counts = [np.count_nonzero(is_above(sample, threshold)) for threshold in descending]
    above = np.array(counts) / max(1, sample.size)
    is_cut = (above[:-1] < 0.5) | (3 * np.diff(above) > EDGES_AS_A_DECODE)
    cuts = np.flatnonzero(is_cut) + 1
    return [descending[i:j] for i, j in pairwise([0, *cuts.tolist(), len(descending)])]


def _unchanged(fragments: np.ndarray) -> np.ndarray:
    return fragments


def _numbered(segments: np.ndarray, min_size: int) -> np.ndarray:
    """Segments numbered 1, 2, ... in raster order of first voxels, those below min_size as 0."""
    ids, first, inverse, counts = np.unique(
        segments, return_index=True, return_inverse=True, return_counts=True
    )
    kept = np.flatnonzero((ids != 0) & (counts >= min_size))
    numbers: np.ndarray = np.zeros(len(ids), label_dtype(segments.shape))
    numbers[kept[np.argsort(first[kept])]] = np.arange(1, len(kept) + 1)
    return numbers[inverse].reshape(segments.shape)


ROWS = (
    Method(
        "agglomeration",
        _agglomeration,
        _agglomeration_levels,
        reads_long_range=True,
        by_blocks=True,
        memory=52,  # the watershed's; the graph is smaller
        has_curve=True,
        tree=_agglomerate,
        settings=(
            "fragment_seeds",
            "fragment_threshold",
            "fragment_min_size",
            "fragment_block",
            "edge_weights",
        ),
    ),
    Method(
        "components",
        _components,
        _component_levels,
        reads_long_range=False,
        by_blocks=True,
        memory=0,
        has_curve=True,
    ),
    Method(
        "components_watershed",
        _components_watershed,
        _watershed_levels,
        reads_long_range=False,
        by_blocks=False,  # a seeded watershed has no exact form by blocks
        memory=52,  # a copy of the labels, parents, strengths, and edges of basins
        has_curve=True,
    ),
    Method(
        "waterz",
        _waterz,
        _levels_afresh,
        reads_long_range=False,
        by_blocks=False,
        memory=64,  # the watershed's; then three channels in float32, and fragments in uint64
        has_curve=False,
        settings=("fragment_threshold",),
    ),
    Method(
        "mutex_watershed",
        _mutex_watershed,
        _levels_afresh,
        reads_long_range=True,
        by_blocks=False,
        memory=256,  # its channels in float64, and its edges
        has_curve=False,
    ),
)
METHODS = {row.name: row for row in ROWS}
