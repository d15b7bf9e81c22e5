"""The scores a second time, by funlib.evaluate, the reference for run lengths and VOI."""

import networkx
import numpy as np

from pytc.io.labels import is_unlabelled
from pytc.io.skeleton import Skeleton
from pytc.metrics.skeleton import SkeletonMetrics

try:
    from funlib.evaluate import expected_run_length, rand_voi
except ImportError as error:
    install = (
        "pip install cython setuptools wheel scipy && "
        "pip install --no-build-isolation git+https://github.com/funkelab/funlib.evaluate"
    )
    raise ValueError(
        f"expected the package funlib.evaluate for --backend funlib; to install it: {install}"
    ) from error

TOLERANCE = 1e-5  # relative; larger differences are called out


def cross_check(
    scores: dict[str, float],
    skeleton: Skeleton | None,
    labels: np.ndarray | None,
    segmentation: np.ndarray,
) -> dict[str, float]:
    """Compare scores with those of the reference, and print the largest difference.

    Args:
        scores: ours.
        skeleton: for erl and voi_*.
        labels: (Z, Y, X), for dense_voi_* and dense_rand_*.
        segmentation: (Z, Y, X).

    Returns:
        The scores of the reference, as funlib_NAME.
    """
    reference: dict[str, float] = {}
    if skeleton is not None:
        segments = SkeletonMetrics(skeleton).segments_at_nodes(segmentation)
        overlap = _overlap(skeleton.ids, segments)
        reference |= {key: overlap[key] for key in ("voi_split", "voi_merge")}
        graph = networkx.Graph(skeleton.edges.tolist())
        for node, (owner, position) in enumerate(zip(skeleton.ids.tolist(), skeleton.nm.tolist())):
            graph.add_node(node, id=owner, **dict(zip("zyx", position)))
        reference["erl"] = float(
            expected_run_length(
                graph,
                "id",
                "length",
                dict(enumerate(segments.tolist())),
                skeleton_position_attributes=["z", "y", "x"],
            )
        )
    if labels is not None:
        reference |= {
            f"dense_{key}": value
            for key, value in _overlap(
                np.where(is_unlabelled(labels), 0, labels), segmentation
            ).items()
        }
    off = {key: abs(scores[key] - value) / max(abs(value), 1) for key, value in reference.items()}
    worst = max(off, key=lambda key: off[key])
    verdict = "agrees with" if off[worst] <= TOLERANCE else "DISAGREES with"
    print(
        f"funlib.evaluate {verdict} {len(off)} scores; "
        f"largest difference {off[worst]:.1e} ({worst})",
        flush=True,
    )
    return {f"funlib_{key}": value for key, value in reference.items()}


def _overlap(truth: np.ndarray, segmentation: np.ndarray) -> dict[str, float]:
    scores = rand_voi(*(np.ascontiguousarray(ids, np.uint64) for ids in (truth, segmentation)))
    return {
        key: float(scores[key]) for key in ("voi_split", "voi_merge", "rand_split", "rand_merge")
    }
