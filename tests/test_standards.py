"""Axes and voxel sizes from the metadata of OME-Zarr, OME-TIFF and ImageJ, as those programs write
them.
"""

import json

import numpy as np
import pytest
import tensorstore
import tifffile

from pytc.io.volume import create_volume, open_volume

VOXELS = np.random.default_rng(0).integers(0, 255, (5, 6, 7), dtype=np.uint8)


def zarr_array(path, array, version):
    """An array as other programs write it: without attributes."""
    driver, metadata = "zarr", {"dtype": array.dtype.str}
    if version == 3:
        driver, metadata = "zarr3", {"data_type": array.dtype.name}
    spec = {
        "driver": driver,
        "kvstore": {"driver": "file", "path": f"{path}/"},
        "metadata": {"shape": array.shape, **metadata},
    }
    tensorstore.open(spec, create=True).result()[...] = array


def describe(group, image, version):
    """Write what an OME-Zarr group of NGFF 0.4 (Zarr 2) or 0.5 (Zarr 3) says of its image."""
    group.mkdir(parents=True, exist_ok=True)
    if version == 3:
        ome = {"ome": {"version": "0.5", "multiscales": [image]}}
        content = {"zarr_format": 3, "node_type": "group", "attributes": ome}
        (group / "zarr.json").write_text(json.dumps(content))
        return
    (group / ".zgroup").write_text(json.dumps({"zarr_format": 2}))
    (group / ".zattrs").write_text(json.dumps({"multiscales": [{"version": "0.4", **image}]}))


def scaled(path, scale):
    return {"path": path, "coordinateTransformations": [{"type": "scale", "scale": scale}]}


def axes_of(names, unit="nanometer"):
    kinds = {"t": {"type": "time"}, "c": {"type": "channel"}}
    space = {"type": "space"} | ({"unit": unit} if unit else {})
    return [{"name": name, **kinds.get(name, space)} for name in names]


def ome_zarr(group, version, array=VOXELS, names="zyx", scale=(40, 4, 4), unit="nanometer", **more):
    """A group of two levels, of which 0 is the finest."""
    coarse = tuple(slice(None, None, 2) for _ in array.shape)
    for level, stored in (("0", array), ("1", array[coarse])):
        zarr_array(group / level, stored, version)
    levels = [scaled("0", list(scale)), scaled("1", [2 * size for size in scale])]
    describe(group, {"axes": axes_of(names, unit), "datasets": levels, **more}, version)


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("path", ["v.zarr", "v.zarr/0", "v.zarr:0"])
def test_ome_zarr(tmp_path, version, path):
    ome_zarr(tmp_path / "v.zarr", version)
    volume = open_volume(tmp_path / path)
    assert (volume.axes, volume.voxel_size) == ("zyx", (40.0, 4.0, 4.0))
    assert (volume.axes_from, volume.voxel_size_from) == ("OME-Zarr", "OME-Zarr")
    np.testing.assert_array_equal(volume[...], VOXELS)


@pytest.mark.parametrize("version", [2, 3])
def test_a_coarser_level_has_larger_voxels(tmp_path, version):
    whole = [{"type": "scale", "scale": [1, 0.5, 0.5]}]
    ome_zarr(tmp_path / "v.zarr", version, coordinateTransformations=whole)
    volume = open_volume(tmp_path / "v.zarr/1")
    assert volume.voxel_size == (80.0, 4.0, 4.0)
    np.testing.assert_array_equal(volume[...], VOXELS[::2, ::2, ::2])


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("channels, axes", [(1, "zyx"), (2, "czyx")])
def test_single_time_points_and_channels_are_left_out(tmp_path, version, channels, axes):
    array = np.stack([VOXELS + n for n in range(channels)])[None]
    group = tmp_path / "v.zarr"
    ome_zarr(group, version, array, "tczyx", (1, 1, 0.04, 0.004, 0.004), "micrometer")
    volume = open_volume(group)
    assert (volume.axes, volume.voxel_size) == (axes, pytest.approx((40, 4, 4)))
    np.testing.assert_array_equal(volume.read((1, 0, 2), (4, 6, 7)), array[0, :, 1:4, :, 2:])


def test_several_time_points_are_refused(tmp_path):
    ome_zarr(tmp_path / "v.zarr", 2, np.stack([[VOXELS]] * 2), "tczyx", (1, 1, 40, 4, 4))
    with pytest.raises(ValueError, match="expected one time point in .*v.zarr/0, got 2"):
        open_volume(tmp_path / "v.zarr")


def test_a_scale_without_unit_is_no_voxel_size(tmp_path):
    ome_zarr(tmp_path / "v.zarr", 2, unit=None)
    volume = open_volume(tmp_path / "v.zarr")
    assert (volume.voxel_size, volume.voxel_size_from) == (None, "")


def test_axes_that_do_not_fit_are_refused(tmp_path):
    ome_zarr(tmp_path / "v.zarr", 2, names="yx", scale=(4, 4))
    with pytest.raises(ValueError, match="expected 3 axes .* OME metadata of .*v.zarr/0, got 'yx'"):
        open_volume(tmp_path / "v.zarr")


def test_what_bioformats2raw_writes(tmp_path):
    ome_zarr(tmp_path / "v.zarr/0", 2)
    (tmp_path / "v.zarr/.zgroup").write_text('{"zarr_format": 2}')
    (tmp_path / "v.zarr/.zattrs").write_text('{"bioformats2raw.layout": 3}')
    assert open_volume(tmp_path / "v.zarr").voxel_size == (40.0, 4.0, 4.0)
    ome_zarr(tmp_path / "v.zarr/1", 2)
    with pytest.raises(ValueError, match="arrays in it: .*v.zarr/0/0"):
        open_volume(tmp_path / "v.zarr")


def test_attributes_of_the_array_come_before_those_of_its_group(tmp_path):
    path = tmp_path / "v.zarr/0"
    with create_volume(path, VOXELS.shape, "uint8", voxel_size=(30, 6, 6)) as volume:
        volume[...] = VOXELS
    describe(tmp_path / "v.zarr", {"axes": axes_of("xyz"), "datasets": [scaled("0", [9] * 3)]}, 2)
    volume = open_volume(path)
    assert (volume.axes, volume.voxel_size) == ("zyx", (30.0, 6.0, 6.0))
    assert volume.voxel_size_from == "attributes"


@pytest.mark.parametrize("packed", [None, "zlib"])
def test_ome_tiff(tmp_path, packed):
    sizes = {"PhysicalSizeX": 4.0, "PhysicalSizeXUnit": "nm", "PhysicalSizeY": 0.0045}
    sizes |= {"PhysicalSizeZ": 400.0, "PhysicalSizeZUnit": "Å"}
    metadata = {"axes": "ZYX", **sizes}
    tifffile.imwrite(
        tmp_path / "v.ome.tif", VOXELS, ome=True, metadata=metadata, compression=packed
    )
    volume = open_volume(tmp_path / "v.ome.tif")
    assert volume.voxel_size == pytest.approx((40, 4.5, 4))  # the unit of y is µm, if none is said
    assert volume.voxel_size_from == "OME-TIFF"
    np.testing.assert_array_equal(volume[...], VOXELS)


@pytest.mark.parametrize(
    "metadata, expected",
    [
        ({"spacing": 0.05, "unit": "um"}, (50, 5, 4)),
        ({"spacing": 0.05, "unit": "micron"}, (50, 5, 4)),
        ({"spacing": 0.05, "unit": "\\u00B5m"}, (50, 5, 4)),
        ({"spacing": 0.05, "unit": "pixel"}, None),
        ({"spacing": 0.05}, None),
        ({"unit": "um"}, None),  # the distance of the slices is unknown
    ],
)
def test_imagej(tmp_path, metadata, expected):
    metadata = {"axes": "ZYX", **metadata}
    per_micrometre = (250, 200)  # x, y
    path = tmp_path / "v.tif"
    tifffile.imwrite(path, VOXELS, imagej=True, resolution=per_micrometre, metadata=metadata)
    volume = open_volume(path)
    assert volume.voxel_size == (expected and pytest.approx(expected))
    assert volume.voxel_size_from == ("ImageJ" if expected else "")
