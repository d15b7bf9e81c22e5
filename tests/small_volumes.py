"""Small volumes in every format, for the tests that read and write them."""

from pathlib import Path

import numpy as np

from pytc.io.volume import create_volume

ROOT = Path(__file__).resolve().parent.parent
WRITTEN = ["v.zarr", "v3.zarr", "store.zarr/group/v", "v.h5", "nested.h5:group/v", "v.tif", "v.npy"]
AFFINITY_ATTRIBUTES = {"offsets": ((1, 0, 0), (0, 1, 0), (0, 0, 1)), "activation": "sigmoid(0.2 x)"}


def pixels(shape, dtype, seed=0):
    """Random values over the whole range of an integer dtype, so that a lost byte shows."""
    rng = np.random.default_rng(seed)
    dtype = np.dtype(dtype)
    if dtype.kind == "f":
        return rng.normal(size=shape).astype(dtype)
    if dtype.kind == "b":
        return rng.random(shape) < 0.5
    return np.frombuffer(rng.bytes(int(np.prod(shape)) * dtype.itemsize), dtype).reshape(shape)


def written(path, array, **more):
    if "v3" in str(path):
        more["zarr_format"] = 3
    with create_volume(path, array.shape, array.dtype, **more) as volume:
        volume[...] = array
    return volume
