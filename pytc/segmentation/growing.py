"""Growing: voxels that no component took join the one they are most strongly tied to."""

import numpy as np

from pytc.segmentation.edges import (
    check_affinities,
    descending_edges,
    label_dtype,
    slabs_of,
    values_above,
)
from pytc.segmentation.merge_forest import grow_components, names


def grow(labels: np.ndarray, affinities: np.ndarray, *, floor: float = 0.0) -> np.ndarray:
    """Labels in which every voxel that was 0 has the label it is most strongly tied to.

    labels (Z, Y, X) integer; affinities (3 or more, Z, Y, X) as for `connected_components_3d`.
    Edges with a value above `floor` (0 or more) are visited in descending affinity, equal ones in
    the raster order of their first voxel, then z, y, x; each joins the groups at its two ends
    unless both are labelled already: a seeded watershed on the affinity graph, and so a maximum
    spanning forest rooted in the given labels, which never change or merge. Voxels without a path
    to a label stay 0. Returns a new array of the same dtype.

    Source: Cousty et al., "Watershed cuts: minimum spanning forests and the drop of water
    principle", PAMI 2009.
    """
    check_affinities(affinities)
    shape = affinities.shape[1:]
    if labels.shape != shape or labels.dtype.kind not in "iu":
        raise ValueError(
            f"expected integer labels of shape {shape}, got {labels.dtype} {labels.shape}"
        )
    if floor < 0:
        raise ValueError(f"expected a floor of 0 or more, got {floor}")
    grown = np.array(labels, order="C")
    floors = np.append(floor, values_above(affinities[:3], floor))
    parents, labelled = (
        np.arange(1, grown.size + 1, dtype=label_dtype(shape)),
        np.append(False, grown != 0),
    )
    slabs, known = slabs_of(shape[0], n_floors=len(floors)), labelled[1:].reshape(shape)
    edges, _ = descending_edges(affinities[:3], slabs, known, floors, parents.reshape(shape))
    grow_components(edges, parents, labelled, 1)
    del edges  # 24 bytes a voxel at worst
    flat, empty = grown.ravel(), np.flatnonzero(grown == 0)
    roots = names(parents, labelled, 1, empty + 1)
    reached = roots > 0
    flat[empty[reached]] = flat[roots[reached] - 1]
    return grown
