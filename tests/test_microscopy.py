"""MRC and NRRD, written by the packages that others write them with."""

import sys

import numpy as np
import pytest

from pytc.io.volume import open_volume

SHAPE = (5, 6, 7)
VALUES = np.random.default_rng(0).integers(0, 200, SHAPE)


@pytest.mark.parametrize("dtype", ["int16", "uint16", "float32", "int8"])
def test_mrc(tmp_path, dtype):
    mrcfile = pytest.importorskip("mrcfile")
    values = (VALUES // 2).astype(dtype)
    with mrcfile.new(tmp_path / "a.mrc") as file:
        file.set_data(values)
        file.voxel_size = (40, 50, 300)  # x, y, z in Å
    volume = open_volume(tmp_path / "a.mrc")
    assert (volume.axes, volume.dtype) == ("zyx", values.dtype)
    assert volume.voxel_size == pytest.approx((30, 5, 4))
    np.testing.assert_array_equal(volume[...], values)
    np.testing.assert_array_equal(volume[1:3, 2:, 4], values[1:3, 2:, 4])


def test_mrc_without_a_voxel_size(tmp_path):
    mrcfile = pytest.importorskip("mrcfile")
    mrcfile.write(tmp_path / "a.rec", VALUES.astype(np.int16))
    assert open_volume(tmp_path / "a.rec").voxel_size is None


@pytest.mark.parametrize("encoding", ["raw", "gzip"])
@pytest.mark.parametrize("dtype", ["uint8", ">u2", "uint32", "float32"])
def test_nrrd(tmp_path, dtype, encoding):
    nrrd = pytest.importorskip("nrrd")
    values = VALUES.astype(dtype)
    sizes = {"spacings": [4, 5, 0.03], "space units": ["nm", "nm", "um"]}  # x, y, z
    header = {**sizes, "encoding": encoding}
    nrrd.write(str(tmp_path / "a.nrrd"), values, header, index_order="C")
    volume = open_volume(tmp_path / "a.nrrd")
    assert (volume.axes, volume.dtype) == ("zyx", values.dtype.newbyteorder("="))
    assert volume.voxel_size == pytest.approx((30, 5, 4))
    np.testing.assert_array_equal(volume[...], values)
    np.testing.assert_array_equal(volume[1:3, 2:, 4], values[1:3, 2:, 4])


@pytest.mark.parametrize(
    "header, voxel_size",
    [
        ({"spacings": [4, 5, 30]}, None),  # no unit: it may be anything
        ({"space directions": np.diag([4, 5, 30]), "space units": ["nm"] * 3}, (30, 5, 4)),
        ({"spacings": [4, 5, 30], "space units": ["pixel"] * 3}, None),
    ],
)
def test_the_voxel_size_of_nrrd(tmp_path, header, voxel_size):
    nrrd = pytest.importorskip("nrrd")
    if "space directions" in header:
        header |= {"space dimension": 3}
    nrrd.write(str(tmp_path / "a.nrrd"), VALUES.astype(np.uint8), header, index_order="C")
    assert open_volume(tmp_path / "a.nrrd").voxel_size == voxel_size


@pytest.mark.parametrize("name, package", [("a.mrc", "mrcfile"), ("a.nrrd", "nrrd")])
def test_a_missing_package_names_its_extra(tmp_path, monkeypatch, name, package):
    (tmp_path / name).write_bytes(b"x")
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ValueError, match=rf"{package} is needed: pip install -e '\.\[formats\]'"):
        open_volume(tmp_path / name)


@pytest.mark.parametrize("name, package", [("a.mrc", "mrcfile"), ("a.nrrd", "nrrd")])
def test_a_broken_file_is_named(tmp_path, name, package):
    pytest.importorskip(package)
    (tmp_path / name).write_bytes(b"no header")
    with pytest.raises(ValueError, match=name):
        open_volume(tmp_path / name)
