"""Growing: voxels that no component took join the one they are most strongly tied to."""

from __future__ import annotations

import numba
import numpy as np

from pytc.segmentation.connected_components import find
from pytc.segmentation.edges import check_affinities, descending_edges, values_above


def grow(labels: np.ndarray, affinities: np.ndarray, *, floor: float = 0.0) -> np.ndarray:
    """Labels in which every voxel that was 0 has the label it is most strongly tied to.

    labels (Z, Y, X) integer; affinities (3 or more, Z, Y, X) as for `connected_components_3d`. Edges with a value
    above `floor` (0 or more) are visited in descending affinity, equal ones in the raster order of their first voxel,
    then z, y, x; each joins the groups at its two ends unless both are labelled already: a seeded watershed on the
    affinity graph, and so a maximum spanning forest rooted in the given labels, which never change or merge. Voxels
    without a path to a label stay 0. Returns a new array of the same dtype.

    Source: Cousty et al., "Watershed cuts: minimum spanning forests and the drop of water principle", PAMI 2009.
    """
    check_affinities(affinities)
    shape = affinities.shape[1:]
    if labels.shape != shape or labels.dtype.kind not in "iu":
        raise ValueError(f"expected integer labels of shape {shape}, got {labels.dtype} {labels.shape}")
    if floor < 0:
        raise ValueError(f"expected a floor of 0 or more, got {floor}")
    grown = np.array(labels, order="C")
    floors = np.append(floor, values_above(affinities[:3], floor))
    edges, _ = descending_edges(affinities[:3], grown != 0, floors)
    _join(grown.ravel(), edges, np.arange(1, grown.size + 1, dtype=edges.dtype))
    return grown


@numba.njit(cache=True, nogil=True)
def _join(labels, edges, parents):
    """Join groups of unlabelled voxels, edge by edge; a group with a label has a labelled voxel as its root."""
    for n in range(len(edges)):
        i, j = find(parents, edges[n, 0]), find(parents, edges[n, 1])
        if labels[i - 1] == 0:
            parents[i - 1] = j
        elif labels[j - 1] == 0:
            parents[j - 1] = i
    for i in range(len(labels)):
        if labels[i] == 0:
            labels[i] = labels[find(parents, parents[i]) - 1]
