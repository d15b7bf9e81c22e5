"""Volumes whose axes are presented in another order than they are stored in."""

import pickle

import numpy as np
import pytest

from pytc.io.volume import create_volume, open_volume

RNG = np.random.default_rng(0)


def stored(path, shape, axes, **more):
    array = RNG.integers(0, 255, shape, dtype=np.uint8)
    with create_volume(path, shape, "uint8", axes=axes, voxel_size=(4, 5, 40), **more) as volume:
        volume[...] = array
    return array


@pytest.mark.parametrize("name", ["v.zarr", "v.h5", "v.tif"])
@pytest.mark.parametrize("order", ["zyx", "yzx", "xyz", "zxy"])
def test_a_transposed_volume_equals_the_transposed_array(tmp_path, name, order):
    array = stored(tmp_path / name, (6, 7, 8), "xyz")
    volume = open_volume(tmp_path / name, transpose=order)
    expected = array.transpose(["xyz".index(axis) for axis in order])
    assert (volume.axes, volume.shape) == (order, expected.shape)
    assert volume.voxel_size == tuple({"x": 4, "y": 5, "z": 40}[axis] for axis in order)
    for index in (np.s_[...], np.s_[2], np.s_[1:4, ::2, 3], np.s_[..., -1], np.s_[5:5]):
        np.testing.assert_array_equal(volume[index], expected[index])
    np.testing.assert_array_equal(volume.read((1, 2, 3), (4, 5, 6))[0], expected[1:4, 2:5, 3:6])
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(volume))[...], expected)


@pytest.mark.parametrize("axes, presented", [("cxyz", "czyx"), ("xyzc", "zyxc"), ("xcyz", "zcyx")])
def test_channels_keep_their_axis_and_offsets_turn(tmp_path, axes, presented):
    sizes = {"c": 2, "x": 6, "y": 7, "z": 8}
    shape = tuple(sizes[axis] for axis in axes)
    attributes = {"offsets": [[1, 0, 0], [0, 0, 3]]}
    array = stored(tmp_path / "v.zarr", shape, axes, attributes=attributes)
    volume = open_volume(tmp_path / "v.zarr", transpose="zyx")
    assert (volume.axes, volume.offsets) == (presented, ((0, 0, 1), (3, 0, 0)))
    channels_first = np.moveaxis(array, axes.index("c"), 0).transpose(0, 3, 2, 1)
    np.testing.assert_array_equal(volume.read((0, 0, 0), (8, 7, 6)), channels_first)
    planes = volume.read_channels([1], slice(2, 4))
    np.testing.assert_array_equal(planes, channels_first[1:, 2:4])


def test_what_is_written_to_a_transposed_volume_lies_where_it_is_read(tmp_path):
    array = stored(tmp_path / "v.zarr", (6, 7, 8), "xyz")
    volume = open_volume(tmp_path / "v.zarr", transpose="zyx", writable=True)
    volume[2:4, 1] = 9
    expected = array.transpose(2, 1, 0).copy()
    expected[2:4, 1] = 9
    np.testing.assert_array_equal(
        open_volume(tmp_path / "v.zarr")[...], expected.transpose(2, 1, 0)
    )


def test_other_axes_are_refused(tmp_path):
    stored(tmp_path / "v.zarr", (6, 7, 8), "xyz")
    with pytest.raises(
        ValueError, match="axes to transpose .*v.zarr to, an order of xyz, got 'zy'"
    ):
        open_volume(tmp_path / "v.zarr", transpose="zy")
