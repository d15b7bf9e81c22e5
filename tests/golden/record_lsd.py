"""Records lsd.json from the package lsds (0.1.3): local shape descriptors at some voxels.

Not run by the tests. In an environment with lsds:
    PYTHONPATH=tests python tests/golden/record_lsd.py
"""

import json
from pathlib import Path

import numpy as np
from lsd.train.local_shape_descriptor import LsdExtractor
from reference_shapes import LSD_CASES, some_objects

HERE = Path(__file__).parent


def main():
    recorded = {}
    for name, (voxel_size, sigma, stride) in LSD_CASES.items():
        labels = some_objects()
        extractor = LsdExtractor((sigma,) * 3, downsample=stride)
        found = extractor.get_descriptors(labels, voxel_size=voxel_size)
        picked = [channel[labels > 0][::37] for channel in found]
        recorded[name] = np.round(np.array(picked, float), 7).tolist()
    (HERE / "lsd.json").write_text(json.dumps(recorded) + "\n")


if __name__ == "__main__":
    main()
