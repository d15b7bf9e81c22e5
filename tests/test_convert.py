"""pytc convert: pyramids and single files, as other programs read them."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from documents import commands

from pytc import runs
from pytc.commands import ConvertConfig
from pytc.convert import convert as module
from pytc.convert.convert import convert
from pytc.convert.pyramid import plan_levels
from pytc.io.volume import create_volume, open_volume
from pytc.main import main

ROOT = Path(__file__).parent.parent
SHAPE = (9, 70, 131)
VOXEL = (40.0, 8.0, 8.0)
OFFSETS = ((1, 0, 0), (0, 1, 0), (0, 0, 1))


def store(path, array, axes=None, voxel_size=VOXEL, **attributes):
    with create_volume(
        path, array.shape, array.dtype, axes=axes, voxel_size=voxel_size, attributes=attributes
    ) as volume:
        volume[...] = array
    return str(path)


@pytest.fixture
def labels(tmp_path):
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 9, (9, 24, 44)) * 2**33
    array = coarse.repeat(3, 1).repeat(3, 2)[:, : SHAPE[1], : SHAPE[2]].astype(np.uint64)
    return array, store(tmp_path / "labels.zarr", array)


@pytest.fixture
def image(tmp_path):
    array = np.random.default_rng(1).integers(0, 256, SHAPE).astype(np.uint8)
    return array, store(tmp_path / "image.zarr", array)


@pytest.fixture
def affinities(tmp_path):
    array = np.random.default_rng(2).random((3, *SHAPE)).astype(np.float16)
    return array, store(tmp_path / "affinities.zarr", array, offsets=OFFSETS)


def halved(array, reduce):
    """Pairs of voxels along y and x reduced to one, in plain NumPy; the last one may be alone."""
    z, y, x = array.shape
    made = np.empty((z, -(-y // 2), -(-x // 2)), array.dtype)
    for place in np.ndindex(made.shape):
        k, j, i = place
        made[place] = reduce(array[k, 2 * j : 2 * j + 2, 2 * i : 2 * i + 2].ravel())
    return made


def mode(values):
    found, counts = np.unique(values, return_counts=True)
    return found[counts.argmax()]


def mean(values):
    return np.rint(values.astype(float).mean())


@pytest.mark.parametrize("version", ["0.5", "0.4"])
def test_an_ome_zarr_of_labels(labels, tmp_path, version):
    array, path = labels
    target = tmp_path / "out.ome.zarr"
    convert(ConvertConfig(path, str(target), ome_version=version))
    finest = open_volume(target)
    assert finest.axes == "zyx" and finest.voxel_size == VOXEL and finest.dtype == np.uint64
    np.testing.assert_array_equal(finest[...], array)
    second = open_volume(target / "1")
    np.testing.assert_array_equal(second[...], halved(array, mode))
    # sections of 40 nm are kept until the voxels are nearly cubes
    assert [open_volume(target / str(n)).shape for n in range(3)] == [
        (9, 70, 131),
        (9, 35, 66),
        (9, 18, 33),
    ]
    assert sorted(each.name for each in tmp_path.iterdir()) == ["labels.zarr", "out.ome.zarr"]


@pytest.mark.parametrize("version", ["0.5", "0.4"])
def test_other_programs_read_the_ome_zarr(image, tmp_path, version):
    models = pytest.importorskip("ome_zarr_models")
    reader = pytest.importorskip("ome_zarr.reader")
    from ome_zarr.io import parse_url

    array, path = image
    target = tmp_path / "out.ome.zarr"
    convert(ConvertConfig(path, str(target), ome_version=version))
    models.open_ome_zarr(str(target))  # valid, or it raises
    (node,) = reader.Reader(parse_url(str(target)))()
    np.testing.assert_array_equal(np.asarray(node.data[0]), array)
    np.testing.assert_array_equal(np.asarray(node.data[1]), halved(array, mean))
    scale = node.metadata["coordinateTransformations"][0][0]["scale"]
    assert scale == list(VOXEL)


def test_a_precomputed_volume_of_labels(labels, tmp_path):
    cloudvolume = pytest.importorskip("cloudvolume")
    array, path = labels
    convert(ConvertConfig(path, f"precomputed://{tmp_path}/out"))
    info = json.loads((tmp_path / "out" / "info").read_text())
    assert info["type"] == "segmentation" and info["data_type"] == "uint64"
    assert info["scales"][0]["encoding"] == "compressed_segmentation"
    volume = cloudvolume.CloudVolume(f"precomputed://file://{tmp_path}/out", progress=False)
    assert volume.resolution.tolist() == [8, 8, 40]
    np.testing.assert_array_equal(np.asarray(volume[:])[..., 0].T, array)
    coarser = cloudvolume.CloudVolume(
        f"precomputed://file://{tmp_path}/out", mip=1, progress=False, fill_missing=True
    )
    np.testing.assert_array_equal(np.asarray(coarser[:])[..., 0].T, halved(array, mode))


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_a_precomputed_volume_of_affinities(affinities, tmp_path, dtype):
    array, path = affinities
    convert(ConvertConfig(path, f"precomputed://{tmp_path}/out", dtype=dtype))
    stored = open_volume(tmp_path / "out")
    found = stored.read((0, 0, 0), stored.spatial_shape)  # channels first, x first
    expected = array.astype(np.float32)
    if dtype == "uint8":
        expected = np.rint(expected * 255)
    np.testing.assert_array_equal(found.transpose(0, 3, 2, 1), expected.astype(dtype))


def test_affinities_keep_what_a_decode_needs(affinities, tmp_path):
    array, path = affinities
    convert(ConvertConfig(path, str(tmp_path / "out.ome.zarr")))
    stored = open_volume(tmp_path / "out.ome.zarr")
    assert stored.offsets == OFFSETS and stored.axes == "czyx"
    np.testing.assert_array_equal(stored[...], array)


@pytest.mark.parametrize("name", ["out.tif", "out.h5", "out.h5:volumes/labels"])
def test_single_files(labels, tmp_path, name):
    array, path = labels
    convert(ConvertConfig(path, str(tmp_path / name)))
    stored = open_volume(tmp_path / name)
    np.testing.assert_array_equal(stored[...], array)
    assert stored.voxel_size == VOXEL


def test_an_array_stored_x_first_is_written_z_first(image, tmp_path):
    array, _ = image
    path = store(tmp_path / "x.zarr", array.T, axes="xyz", voxel_size=VOXEL[::-1])
    convert(ConvertConfig(path, str(tmp_path / "out.ome.zarr")))
    stored = open_volume(tmp_path / "out.ome.zarr")
    assert stored.voxel_size == VOXEL
    np.testing.assert_array_equal(stored[...], array)


def test_levels_of_cubes_and_of_thick_sections():
    shapes = [level.shape for level in plan_levels((200, 200, 200), None)]
    assert shapes == [(200, 200, 200), (100, 100, 100), (50, 50, 50)]
    levels = plan_levels((100, 4000, 4000), (40, 4, 4))
    assert [level.factors for level in levels][:5] == [
        (1, 1, 1),
        (1, 2, 2),
        (1, 4, 4),
        (1, 8, 8),
        (2, 16, 16),
    ]
    assert len(plan_levels((200, 200, 200), None, most=2)) == 2


@pytest.mark.parametrize(
    "change, message",
    [
        ({"target": "out.png"}, "NAME.ome.zarr, precomputed://PATH, .tif or .h5"),
        ({"kind": "labels", "result": "affinities.zarr"}, "labels of whole numbers without"),
        ({"dtype": "uint8"}, "--dtype with affinities"),
        ({"what": "affinities"}, "--what with a run"),
        ({"result": "other.zarr"}, "other.zarr"),
        ({"target": "labels.zarr"}, "exists; remove it, or say --overwrite"),
    ],
)
def test_refused_in_words(labels, affinities, tmp_path, monkeypatch, change, message):
    monkeypatch.chdir(tmp_path)
    words = {"result": "labels.zarr", "target": "out.ome.zarr"} | change
    with pytest.raises(ValueError, match=message):
        convert(ConvertConfig(**words))


def test_an_existing_volume_is_replaced_when_asked(labels, image, tmp_path):
    target = str(tmp_path / "out.ome.zarr")
    convert(ConvertConfig(labels[1], target))
    convert(ConvertConfig(image[1], target, overwrite=True))
    np.testing.assert_array_equal(open_volume(target)[...], image[0])


def test_a_volume_that_is_half_removed_is_never_one(labels, image, tmp_path, monkeypatch):
    """A conversion that is killed while it replaces a volume leaves none that lacks chunks."""
    target = tmp_path / "out.ome.zarr"
    convert(ConvertConfig(labels[1], str(target)))

    def killed(folder, **_):
        first = next(path for path in sorted(Path(folder).rglob("c/*")) if path.is_dir())
        original(first)
        raise KeyboardInterrupt

    original = runs.shutil.rmtree
    again = ConvertConfig(image[1], str(target), overwrite=True)
    with monkeypatch.context() as patched:
        patched.setattr(runs.shutil, "rmtree", killed)
        with pytest.raises(KeyboardInterrupt):
            convert(again)
    with pytest.raises(ValueError):
        open_volume(target)
    convert(again)
    np.testing.assert_array_equal(open_volume(target)[...], image[0])


def test_a_conversion_that_failed_goes_on_and_never_looks_finished(labels, tmp_path, monkeypatch):
    array, path = labels
    target = tmp_path / "out.ome.zarr"
    monkeypatch.setattr(module, "block_shape", lambda _: (64, 64, 64))
    copied = []

    def fails(step, box):
        if len(copied) == 3:
            raise KeyboardInterrupt
        copied.append(box)
        return original(step, box)

    original = module.CopyBlock.__call__
    monkeypatch.setattr(module.CopyBlock, "__call__", fails)
    config = ConvertConfig(path, str(target), engine="serial")
    with pytest.raises(KeyboardInterrupt):
        convert(config)
    with pytest.raises(ValueError):
        open_volume(target)

    def counted(step, box):
        copied.append(box)
        return original(step, box)

    monkeypatch.setattr(module.CopyBlock, "__call__", counted)
    convert(config)
    assert len(copied) == len(set(copied)) == 6
    np.testing.assert_array_equal(open_volume(target)[...], array)


def test_the_command(labels, tmp_path):
    code = f"from pytc.main import main; main({['convert', labels[1], str(tmp_path / 'o.tif')]})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert f"converted: {labels[1]} -> {tmp_path}/o.tif" in done.stdout


def test_the_commands_of_the_docs(labels, affinities, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PYTC_RUNS", raising=False)
    results = tmp_path / "runs" / "mine" / "predictions" / "raw"
    results.mkdir(parents=True)
    store(results / "segmentation.zarr", labels[0])
    store(results / "affinities.zarr", affinities[0], offsets=OFFSETS)
    said = [line.split() for line in commands("docs/formats.md")]
    assert len(said) == 5
    for program, verb, *words in said:
        assert (program, verb) == ("pytc", "convert")
        main([verb, *words])
        target = words[1].removeprefix("precomputed://")
        shape = open_volume(target).spatial_shape
        assert sorted(shape) == sorted(SHAPE)
