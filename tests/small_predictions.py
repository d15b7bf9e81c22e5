"""A small image, a network that depends on the place in a window, and a prediction of seconds."""

import numpy as np
import torch
from small_volumes import written

from pytc.config import InferenceConfig
from pytc.inference.predict import predict_volume
from pytc.io.intensity import UINT8
from pytc.io.volume import open_volume

SHAPE = (19, 26, 23)
WINDOW = (8, 10, 12)


def network(x):
    """Two channels that depend on a voxel's position in its window, so that blending matters."""
    ramp = torch.arange(x.shape[-1], dtype=torch.float32) / x.shape[-1]
    return torch.cat([x[:, :1] * 4 - 2 + ramp, x.mean((2, 3, 4), keepdim=True) - x[:, :1]], 1)


def make_image(path):
    pixels = np.random.default_rng(0).integers(0, 256, SHAPE, dtype=np.uint8)
    written(path, pixels, voxel_size=(40, 4, 4))
    return open_volume(path)


def predict(image, output, net=network, key="a", arguments=None, **settings):
    """`predict_volume` with some settings of the config, and more arguments."""
    settings = {"block": (512, 512, 512), "activation_scale": 1.0, **settings}
    return predict_volume(
        net,
        image,
        output,
        grey_range=UINT8,
        channels=2,
        window=WINDOW,
        config=InferenceConfig(**settings),
        activation="sigmoid",
        device=torch.device("cpu"),
        attributes={"activation": "sigmoid(1 x)"},
        key=key,
        **(arguments or {}),
    )
