"""Reading volumes of every format: voxels, attributes, axes, paths, images."""

import json
import pickle

import h5py
import numpy as np
import pytest
import tensorstore
import tifffile
from PIL import Image
from public_data import needs, public_data
from small_volumes import AFFINITY_ATTRIBUTES, WRITTEN, pixels, written

from pytc.io import stores
from pytc.io.volume import open_volume

FIB25 = public_data("fib25")


@pytest.mark.parametrize("name", WRITTEN)
@pytest.mark.parametrize(
    "dtype", ["bool", "uint8", "uint16", "uint32", "uint64", "int64", "float16", "float32"]
)
def test_what_is_written_is_read(tmp_path, name, dtype):
    array = pixels((5, 9, 70), dtype)
    if name == "v.tif" and dtype == "bool":
        with pytest.raises(ValueError, match="cannot hold bool"):
            written(tmp_path / name, array)
        return
    written(tmp_path / name, array)
    volume = open_volume(tmp_path / name)
    assert (volume.shape, volume.dtype, volume.axes) == (array.shape, array.dtype, "zyx")
    read = volume[:]
    assert read.dtype == array.dtype and read.flags.writeable
    np.testing.assert_array_equal(read, array)


@pytest.mark.parametrize("name", [name for name in WRITTEN if name != "v.npy"])
@pytest.mark.parametrize("axes", ["czyx", "zyxc", "xyzc"])
def test_metadata_travels_with_the_array(tmp_path, name, axes):
    shape = (3, 6, 7, 8) if axes[0] == "c" else (6, 7, 8, 3)
    made = written(
        tmp_path / name,
        pixels(shape, "float16"),
        axes=axes,
        voxel_size=(30, 8, 8.5),
        attributes=AFFINITY_ATTRIBUTES,
    )
    volume = open_volume(tmp_path / name)
    for either in (made, volume):
        assert (either.axes, either.voxel_size) == (axes, (30.0, 8.0, 8.5))
        assert either.offsets == ((1, 0, 0), (0, 1, 0), (0, 0, 1))
        assert either.attributes["activation"] == "sigmoid(0.2 x)"
        assert (either.spatial_shape, either.n_channels) == ((6, 7, 8), 3)


@pytest.fixture(scope="module")
def every_format(tmp_path_factory):
    """The same array in each format that can be read: path -> array in stored order."""
    folder = tmp_path_factory.mktemp("formats")
    array = pixels((12, 20, 70), "uint16")
    paths = {}
    for name in WRITTEN:
        written(folder / name, array)
        paths[name] = (str(folder / name), array)
    tifffile.imwrite(folder / "packed.tif", array, compression="zlib", photometric="minisblack")
    tifffile.imwrite(folder / "big_endian.tif", array, byteorder=">", photometric="minisblack")
    tifffile.imwrite(folder / "imagej.tif", array, imagej=True)
    for name in ("packed.tif", "big_endian.tif", "imagej.tif"):
        paths[name] = (str(folder / name), array)
    for kind in ("png", "tif"):
        (folder / kind).mkdir()
        for z, image in enumerate(array):
            path = folder / kind / f"slice_z{z}.{kind}"  # z10 sorts before z2 as text
            Image.fromarray(image).save(path) if kind == "png" else tifffile.imwrite(path, image)
        paths[kind] = (str(folder / kind), array)
    n5 = tensorstore.open(
        {
            "driver": "n5",
            "kvstore": {"driver": "file", "path": f"{folder}/v.n5/raw/"},
            "metadata": {"dimensions": array.shape, "blockSize": [8, 8, 8], "dataType": "uint16"},
        },
        create=True,
    ).result()
    n5[:] = array
    paths["n5"] = (f"{folder}/v.n5:raw", array)
    precomputed = tensorstore.open(
        {
            "driver": "neuroglancer_precomputed",
            "kvstore": {"driver": "file", "path": f"{folder}/precomputed/"},
            "multiscale_metadata": {"data_type": "uint16", "num_channels": 1, "type": "image"},
            "scale_metadata": {
                "size": array.shape,
                "voxel_offset": [5, 6, 7],
                "resolution": [4, 4, 40],
                "chunk_size": [8, 8, 8],
                "encoding": "raw",
            },
        },
        create=True,
    ).result()
    precomputed[..., 0] = array
    paths["precomputed"] = (f"{folder}/precomputed", array)
    return paths


READ = [*WRITTEN, "packed.tif", "big_endian.tif", "imagej.tif", "png", "tif", "n5", "precomputed"]


INDICES = [
    np.s_[...],
    np.s_[3],
    np.s_[-1, 2],
    np.s_[2:5, ::3, 60:],
    np.s_[..., 7],
    np.s_[4:4],
    np.s_[-3:, 5:-5, 1:1000],
    np.s_[1, ..., 2:9:2],
    np.s_[0, 0, 0],
    np.s_[9:3],
]


@pytest.mark.parametrize("name", READ)
def test_indexing_equals_numpy(every_format, name):
    path, array = every_format[name]
    volume = open_volume(path)
    for index in INDICES:
        read, wanted = volume[index], array[index]
        assert read.dtype == wanted.dtype and read.dtype.isnative and read.shape == wanted.shape, (
            index
        )
        np.testing.assert_array_equal(read, wanted)


@pytest.mark.parametrize("name", READ)
def test_a_volume_crosses_processes_unopened(every_format, name):
    path, array = every_format[name]
    volume = open_volume(path)
    volume[0]
    again = pickle.loads(pickle.dumps(volume))
    assert again._handle is None
    np.testing.assert_array_equal(again[5], array[5])


def test_implied_axes_and_voxel_sizes(every_format):
    assert open_volume(every_format["n5"][0]).axes == "xyz"
    volume = open_volume(every_format["precomputed"][0])
    assert (volume.axes, volume.voxel_size) == ("xyz", (4.0, 4.0, 40.0))


@pytest.mark.parametrize("name", ["packed.tif", "png"])
def test_only_the_needed_slices_are_decoded(every_format, name, monkeypatch):
    path, array = every_format[name]
    decoded = []
    whole, asarray = stores.read_slice, tifffile.TiffPage.asarray
    monkeypatch.setattr(stores, "read_slice", lambda file: decoded.append(file) or whole(file))
    monkeypatch.setattr(
        tifffile.TiffPage, "asarray", lambda page: decoded.append(page) or asarray(page)
    )
    volume = open_volume(path)
    decoded.clear()
    np.testing.assert_array_equal(volume.read((4, 1, 2), (7, 5, 9))[0], array[4:7, 1:5, 2:9])
    assert len(decoded) == 3


@pytest.mark.parametrize("axes", ["czyx", "zyxc", "xyzc", "zcyx", "zyx", "xyz"])
@pytest.mark.parametrize("name", ["v.zarr", "v.h5", "v.tif"])
def test_read_puts_channels_first_and_keeps_the_spatial_order(tmp_path, name, axes):
    sizes = {
        "c": 2,
        axes.replace("c", "")[0]: 5,
        axes.replace("c", "")[1]: 6,
        axes.replace("c", "")[2]: 7,
    }
    array = pixels([sizes[axis] for axis in axes], "uint8")
    written(tmp_path / name, array, axes=axes)
    read = open_volume(tmp_path / name).read((1, 0, 3), (4, 6, 5))
    channels_first = np.moveaxis(array, axes.index("c"), 0) if "c" in axes else array[None]
    assert read.flags.c_contiguous
    np.testing.assert_array_equal(read, channels_first[:, 1:4, 0:6, 3:5])


@pytest.mark.parametrize(
    "start, stop",
    [((0, 0, 0), (5, 6, 8)), ((-1, 0, 0), (2, 2, 2)), ((2, 0, 0), (2, 1, 1)), ((0, 0), (1, 1))],
)
def test_read_refuses_a_box_outside(tmp_path, start, stop):
    written(tmp_path / "v.zarr", pixels((5, 6, 7), "uint8"))
    with pytest.raises(ValueError, match=r"expected a box inside \(5, 6, 7\)"):
        open_volume(tmp_path / "v.zarr").read(start, stop)


@pytest.mark.parametrize("index", [5, (0, 0, 0, 0), (..., 0, ...), np.s_[::-1]])
def test_indices_that_do_not_fit(tmp_path, index):
    written(tmp_path / "v.npy", pixels((5, 6, 7), "uint8"))
    with pytest.raises(ValueError, match="expected"):
        open_volume(tmp_path / "v.npy")[index]


# --- what a file says about itself ---


@pytest.mark.parametrize(
    "attributes, shape, axes, voxel_size",
    [
        ({}, (4, 5, 6), "zyx", None),
        ({}, (3, 4, 5, 6), "czyx", None),
        ({"axes": "xyz"}, (4, 5, 6), "xyz", None),
        ({"axes": ["X", "Y", "Z", "C"]}, (3, 4, 5, 6), "xyzc", None),
        ({"resolution": [40, 4, 4]}, (4, 5, 6), "zyx", (40, 4, 4)),
        ({"voxel_size": [0.04, 0.004, 0.004], "unit": "um"}, (4, 5, 6), "zyx", (40, 4, 4)),
        (
            {
                "resolution": [9.0, 9, 0.02],
                "units": ["nm", "nanometer", "µm"],
                "voxel_size": [9, 9, 0.02],
            },
            (4, 5, 6),
            "zyx",
            (9, 9, 20),
        ),
    ],
)
def test_attributes_are_understood(tmp_path, attributes, shape, axes, voxel_size):
    with h5py.File(tmp_path / "v.h5", "w") as file:
        file.create_dataset("raw", data=pixels(shape, "uint8")).attrs.update(attributes)
    volume = open_volume(tmp_path / "v.h5")
    assert volume.axes == axes
    assert volume.voxel_size == (pytest.approx(voxel_size) if voxel_size else None)


def test_attributes_become_what_json_can_say(tmp_path):
    with h5py.File(tmp_path / "v.h5", "w") as file:
        attributes = file.create_dataset("raw", data=pixels((4, 5, 6), "uint8")).attrs
        attributes.update({"bytes": np.bytes_("grey"), "latin": b"\xb5m", "scale": np.float32(0.5)})
        attributes.update({"ids": np.arange(3), "empty": h5py.Empty("f")})
    read = open_volume(tmp_path / "v.h5").attributes
    assert (read["bytes"], read["scale"], read["ids"]) == ("grey", 0.5, [0, 1, 2]) and read[
        "latin"
    ].endswith("m")
    assert json.loads(json.dumps(read)) == read


@pytest.mark.parametrize(
    "attributes, shape, message",
    [
        ({"axes": "zyx"}, (2, 4, 5, 6), "order of zyxc"),
        ({"axes": "zyy"}, (4, 5, 6), "order of zyx"),
        ({"axes": [1, 2, 3]}, (4, 5, 6), "order of zyx"),
        ({}, (9, 4, 5, 6), "expected axes .* does not say"),
        ({}, (5, 6), "three axes"),
        ({}, (0, 5, 6), "none empty"),
        ({"resolution": [4, 4]}, (4, 5, 6), "one voxel size of three"),
        ({"resolution": 4.0}, (4, 5, 6), "one voxel size of three"),
        ({"resolution": [4, 4, 0]}, (4, 5, 6), "positive lengths"),
        ({"resolution": [4, 4, 4], "voxel_size": [4, 4, 5]}, (4, 5, 6), "one voxel size"),
        ({"resolution": [4, 4, 4], "unit": "inch"}, (4, 5, 6), "expected units"),
        ({"resolution": [4, 4, 4], "units": ["nm", "nm"]}, (4, 5, 6), "expected units"),
        ({"offsets": [[1, 0, 0], [0, 1, 0]]}, (3, 4, 5, 6), "each of 3 offsets"),
        ({"offsets": [[1, 0, 0, 0]]}, (4, 5, 6), "each of 1 offsets"),
        ({"offsets": [[0.5, 0, 0]]}, (4, 5, 6), "whole voxels"),
    ],
)
def test_contradictions_are_refused(tmp_path, attributes, shape, message):
    with h5py.File(tmp_path / "v.h5", "w") as file:
        file.create_dataset("raw", data=pixels(shape, "uint8")).attrs.update(attributes)
    with pytest.raises(ValueError, match=message):
        open_volume(tmp_path / "v.h5")


def test_arguments_come_before_attributes(tmp_path):
    written(tmp_path / "v.zarr", pixels((4, 5, 6), "uint8"), axes="xyz", voxel_size=(9, 9, 20))
    volume = open_volume(tmp_path / "v.zarr", axes="zyx", voxel_size=(30, 6, 6))
    assert (volume.axes, volume.voxel_size, volume.attributes["axes"]) == (
        "zyx",
        (30.0, 6.0, 6.0),
        "xyz",
    )
    with pytest.raises(ValueError, match="order of zyx"):
        open_volume(tmp_path / "v.zarr", axes="czyx")
    with pytest.raises(ValueError, match="three positive lengths"):
        open_volume(tmp_path / "v.zarr", voxel_size=(30, 6))


# --- paths ---


def test_wrong_paths_say_what_is_there(tmp_path):
    array = pixels((4, 5, 6), "uint8")
    with h5py.File(tmp_path / "two.h5", "w") as file:
        file["volumes/raw"], file["volumes/labels"] = array, array
    for name in ("img", "labels/seg"):
        written(tmp_path / "two.zarr" / name, array)
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.h5").write_text("not HDF5")
    (tmp_path / "text.tif").write_text("not TIFF")
    (tmp_path / "text.npy").write_text("not npy")
    cases = {
        "none.h5:raw": "no such file",
        "none.zarr": "no such file",
        "two.h5": "volumes/labels, .*volumes/raw",
        "two.h5:raw": "volumes/labels, .*volumes/raw.*got 'raw'",
        "two.h5:volumes": "volumes/labels",
        "two.zarr": "img, .*labels/seg",
        "two.zarr/raw": "no such .*img, .*labels/seg",
        "two.zarr:raw": "no such .*img, .*labels/seg",
        "empty": "arrays in it: none",
        "text.h5": "expected .h5",
        "text.tif": "expected .tif in .*text.tif, got not a TIFF file",
        "text.npy": "expected a .npy array",
    }
    for name, message in cases.items():
        with pytest.raises(ValueError, match=message):
            open_volume(tmp_path / name)
    for name in (
        "two.h5:volumes/raw",
        "two.h5:/volumes/raw",
        "two.zarr:img",
        "two.zarr/labels",
        "two.zarr/labels/seg",
    ):
        np.testing.assert_array_equal(open_volume(tmp_path / name)[:], array)


def test_a_compression_that_cannot_be_decoded_is_refused_at_once(every_format, monkeypatch):
    def refuse(page):
        raise ValueError("<COMPRESSION.LZW: 5> requires the 'imagecodecs' package")

    monkeypatch.setattr(tifffile.TiffPage, "asarray", refuse)
    with pytest.raises(ValueError, match="decode in .*packed.tif, got .*imagecodecs"):
        open_volume(every_format["packed.tif"][0])


def test_images_that_are_no_volume(tmp_path):
    tifffile.imwrite(tmp_path / "flat.tif", np.zeros((5, 6), np.uint8))
    np.save(tmp_path / "complex.npy", np.zeros((2, 3, 4), complex))
    np.save(tmp_path / "objects.npy", np.array([[[None]]]), allow_pickle=True)
    for name, message in {
        "flat.tif": "three axes",
        "complex.npy": "complex128",
        "objects.npy": "expected",
    }.items():
        with pytest.raises(ValueError, match=message):
            open_volume(tmp_path / name)
    (tmp_path / "slices").mkdir()
    for z, shape in enumerate([(5, 6), (5, 7)]):
        Image.fromarray(np.zeros(shape, np.uint8)).save(tmp_path / "slices" / f"{z}.png")
    with pytest.raises(ValueError, match=r"expected \(5, 6\) uint8 in .*1.png"):
        open_volume(tmp_path / "slices")[:]


def test_slices_may_be_larger_than_pillow_takes_for_an_attack(tmp_path, monkeypatch):
    slices = pixels((2, 5, 6), "uint8")
    for z, plane in enumerate(slices):
        Image.fromarray(plane).save(tmp_path / f"{z}.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    with pytest.raises(Image.DecompressionBombError):
        Image.open(tmp_path / "0.png")
    np.testing.assert_array_equal(open_volume(tmp_path)[:], slices)


@pytest.mark.parametrize("bands", ["LA", "RGB", "RGBA"])
def test_slices_in_colour_are_grey_if_their_colours_are_equal(tmp_path, bands):
    grey = pixels((3, 5, 6), "uint8")
    opacity = np.full((5, 6), 255, np.uint8)
    for z, plane in enumerate(grey):
        layers = [plane] * (3 if "RGB" in bands else 1) + [opacity] * ("A" in bands)
        Image.fromarray(np.stack(layers, -1), bands).save(tmp_path / f"{z}.png")
    np.testing.assert_array_equal(open_volume(tmp_path)[:], grey)
    coloured = np.stack([grey[2], grey[2], opacity], -1)
    Image.fromarray(coloured, "RGB").save(tmp_path / "2.png")
    with pytest.raises(ValueError, match="expected grey values in .*2.png; convert .*colours"):
        open_volume(tmp_path)[:]


def test_a_stack_in_colour_has_channels(tmp_path):
    colours = pixels((4, 5, 6, 3), "uint8")
    tifffile.imwrite(tmp_path / "v.tif", colours, photometric="rgb")
    volume = open_volume(tmp_path / "v.tif", axes="zyxc")
    assert volume.n_channels == 3
    np.testing.assert_array_equal(volume.read((0, 0, 0), (4, 5, 6)), np.moveaxis(colours, -1, 0))


@needs("fib25")
def test_fib25():
    raw, labels = (
        open_volume(f"{FIB25}/fib25_val.h5:raw"),
        open_volume(f"{FIB25}/fib25_val.h5:labels"),
    )
    assert (raw.shape, raw.dtype, labels.dtype) == ((60, 250, 250), np.uint8, np.uint16)
    assert (raw.axes, raw.voxel_size) == ("zyx", (10.0, 10.0, 10.0))
    with h5py.File(FIB25 / "fib25_val.h5") as file:
        np.testing.assert_array_equal(
            labels.read((10, 60, 0), (20, 70, 250))[0], file["labels"][10:20, 60:70]
        )
