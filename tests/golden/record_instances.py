"""Records instances.json from StarDist (0.9.2) and from mAP_3Dvolume, by which MitoEM is scored.

Not run by the tests. In an environment with stardist, and with vol3d_eval.py and vol3d_util.py of
github.com/ygCoconut/mAP_3Dvolume (commit d494665e) on the path:
    PYTHONPATH=tests:MAP3D python tests/golden/record_instances.py
"""

import json
from pathlib import Path

import numpy as np
from reference_segmentation import instance_cases
from stardist.matching import matching
from vol3d_eval import VOL3Deval
from vol3d_util import seg_iou3d_sorted

HERE = Path(__file__).parent
EVERYTHING = np.array([[0, 1e10]] * 4, int)
np.float = float  # a name that NumPy has dropped


def scores(truth, segmentation):
    found = {}
    for name, threshold in (("50", 0.5), ("75", 0.75)):
        report = matching(truth.astype(np.int64), segmentation.astype(np.int64), threshold)
        found[f"precision_{name}"] = float(report.precision)
        found[f"recall_{name}"] = float(report.recall)
        found[f"f1_{name}"] = float(report.f1)
        found[f"pq_{name}"] = float(report.panoptic_quality)
        found[f"accuracy_{name}"] = float(report.accuracy)
    ids, sizes = np.unique(segmentation[segmentation > 0], return_counts=True)
    if len(ids) == 0:
        return found
    by_size = np.column_stack([ids, sizes]).astype(np.int64)
    rows = seg_iou3d_sorted(
        segmentation.astype(np.int64), truth.astype(np.int64), by_size, EVERYTHING
    )
    evaluated = VOL3Deval(*rows[:2], rows[2].ravel())
    evaluated.params.areaRng = EVERYTHING
    evaluated.accumulate()
    precision = evaluated.eval["precision"][:, :, 0].mean(axis=1)
    found |= {"ap_50": precision[0], "ap_75": precision[5], "ap": float(precision.mean())}
    return found


def main():
    recorded = {name: scores(*volumes) for name, *volumes in instance_cases()}
    (HERE / "instances.json").write_text(json.dumps(recorded, indent=1) + "\n")


if __name__ == "__main__":
    main()
