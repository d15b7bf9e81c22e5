"""What objects say of themselves at the prompt: what differs from the default, and sizes."""

import numpy as np
from small_volumes import written

from pytc.commands import InferConfig
from pytc.config import Config, DataConfig, LoopConfig, SegmentationConfig, VolumeConfig
from pytc.io.skeleton import Skeleton
from pytc.io.volume import open_volume


def test_a_config_shows_what_differs_from_the_default():
    assert repr(Config()) == "Config()"
    config = Config(loop=LoopConfig(max_steps=7), data=DataConfig(patch_size=(16, 32, 32)))
    assert repr(config) == (
        "Config(data=DataConfig(patch_size=(16, 32, 32)), loop=LoopConfig(max_steps=7))"
    )
    names = {kind.__name__: kind for kind in (Config, DataConfig, LoopConfig)}
    assert eval(repr(config), names) == config
    volumes = DataConfig(train=(VolumeConfig(image="a.zarr"),))
    assert repr(volumes) == "DataConfig(train=(VolumeConfig(image='a.zarr'),))"
    asked = InferConfig("mine", segmentation=SegmentationConfig(min_size=3))
    assert repr(asked) == "InferConfig(run='mine', segmentation=SegmentationConfig(min_size=3))"


def test_skeletons_are_counted():
    positions = np.array([[0, 1, 2], [3, 4, 5], [9, 0, 1]])
    ids = np.array([4, 4, 9], np.uint64)
    skeleton = Skeleton(ids, positions, positions * 10.0, np.array([[0, 1]]))
    assert repr(skeleton) == (
        "Skeleton(2 skeletons, 3 nodes, 1 edges, voxels (0, 0, 1) to (9, 4, 5))"
    )
    nothing = Skeleton(ids[:0], positions[:0], positions[:0] * 1.0, np.empty((0, 2), np.int64))
    assert repr(nothing) == "Skeleton(0 skeletons)"


def test_a_volume_shows_its_axes_and_voxel_size(tmp_path):
    written(tmp_path / "a.zarr", np.zeros((2, 3, 4), np.uint8), voxel_size=(40, 4, 4))
    shown = repr(open_volume(tmp_path / "a.zarr"))
    assert "zyx (2, 3, 4) uint8" in shown and "(40.0, 4.0, 4.0) nm" in shown


def test_a_transform_shows_its_settings():
    from pytc.data.augment import DropSliced

    shown = repr(DropSliced(keys=["image"], prob=0.25))
    assert shown.startswith("DropSliced(keys=('image',), prob=0.25")
