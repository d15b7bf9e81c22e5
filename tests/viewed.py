"""A folder of results with a merge tree, made by hand for the tests of the viewer."""

import numpy as np

from pytc.io.results import write_source
from pytc.io.skeleton import Skeleton, save_skeleton
from pytc.io.volume import create_volume
from pytc.segmentation.merge_tree import Merges, MergeTree

SHAPE = (12, 70, 90)
VOXEL_SIZE = (40.0, 8.0, 4.0)  # along z, y, x


def blocks_of_fragments(shape=SHAPE, block=(4, 14, 15)):
    """Fragments on a grid, a plane of background between them: (Z, Y, X) uint32."""
    counts = [-(-n // b) for n, b in zip(shape, block)]
    numbers = np.arange(1, np.prod(counts) + 1, dtype=np.uint32).reshape(counts)
    for axis, b in enumerate(block):
        numbers = np.repeat(numbers, b, axis)
    fragments = numbers[tuple(slice(0, n) for n in shape)].copy()
    fragments[:, ::14] = 0
    return fragments


def random_tree(fragments, seed=0):
    """Merges of random clusters, as average linkage would list them."""
    rng = np.random.default_rng(seed)
    n = int(fragments.max())
    roots = list(range(1, n + 1))
    first, second = [], []
    while len(roots) > 6:
        low, high = sorted(rng.choice(len(roots), 2, replace=False))
        first.append(roots[low])
        second.append(roots.pop(high))
        roots.sort()
    scores = np.sort(rng.random(len(first)))[::-1]
    ids, first_voxels, counts = np.unique(fragments, return_index=True, return_counts=True)
    sizes, places = np.zeros(n + 1, np.int64), np.zeros(n + 1, np.int64)
    sizes[ids], places[ids] = counts, first_voxels
    sizes[0] = 0
    merges = Merges(scores, np.array(first, np.uint64), np.array(second, np.uint64))
    return MergeTree(merges, sizes, places)


def write_results(run, name="cube"):
    """RUN/predictions/NAME as infer.py leaves it, with image, labels and skeletons elsewhere."""
    folder = run / "predictions" / name
    folder.mkdir(parents=True)
    data = run.parent / "data"
    data.mkdir(exist_ok=True)
    rng = np.random.default_rng(1)
    fragments = blocks_of_fragments()
    tree = random_tree(fragments)
    arrays = {
        data / "image.zarr": rng.integers(0, 256, SHAPE, np.uint8),
        data / "labels.zarr": fragments.astype(np.int64) // 7 - 1,
        folder / "fragments.zarr": fragments,
        folder / "affinities.zarr": rng.random((3, *SHAPE)).astype(np.float16),
    }
    for path, array in arrays.items():
        key = {"key": "k"} if path.name == "fragments.zarr" else {}
        with create_volume(
            path, array.shape, array.dtype, voxel_size=VOXEL_SIZE, attributes=key
        ) as volume:
            volume[...] = array
    tree.save(folder / "merges.npz", "k")
    positions = np.array([[1, 5, 5], [1, 9, 30], [6, 40, 80], [6, 50, 80], [7, 60, 80]])
    skeleton = Skeleton(
        np.array([3, 3, 8, 8, 8], np.uint64),
        positions,
        positions * np.array(VOXEL_SIZE),
        np.array([[0, 1], [2, 3], [4, 3]]),
    )
    save_skeleton(data / "skeleton.npz", skeleton)
    noted = {"threshold": 0.5, "min_size": 0, "method": "agglomeration"}
    write_source(
        folder,
        {
            "image": str(data / "image.zarr"),
            "labels": str(data / "labels.zarr"),
            "mask": None,
            "skeleton": str(data / "skeleton.npz"),
            "axes": None,
            "transpose": None,
            "attribution": None,
            "intensity": [0.0, 255.0],
            "segmentation": noted,
            "voxel_size": VOXEL_SIZE,
            "target": "affinity",
        },
    )
    return fragments, tree
