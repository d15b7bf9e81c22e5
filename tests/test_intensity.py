"""Grey values: one function maps them, in arrays and on the device; ranges are measured once."""

import numpy as np
import pytest
import torch
from torch.utils.data import default_collate

from pytc.config import Config, DataConfig, VolumeConfig
from pytc.data.batch import Preparation
from pytc.data.patches import train_dataset
from pytc.data.sources import open_source
from pytc.io import intensity
from pytc.io.intensity import UINT8, grey_range, measure_range, read_grey, to_float32
from pytc.io.volume import create_volume, open_volume

RNG = np.random.default_rng(0)


def write(path, array, **more):
    with create_volume(path, array.shape, array.dtype, **more) as volume:
        volume[...] = array
    return open_volume(path)


def tissue(shape=(24, 30, 40)):
    """Grey values in [0, 1], smooth enough to look like tissue, none at the ends of the range."""
    return np.clip(RNG.normal(0.5, 0.15, shape), 0.02, 0.98)


@pytest.mark.parametrize(
    "stored, limits",
    [
        (np.arange(256, dtype=np.uint8), (0.0, 255.0)),
        (np.arange(0, 65536, 17, dtype=np.uint16), (1000.0, 50000.0)),
        (np.arange(-(2**15), 2**15, 19, dtype=np.int16), (-2000.0, 3000.0)),
        (np.linspace(-3, 5, 999, dtype=np.float32), (-1.7, 2.3)),
        (np.linspace(-3, 5, 999), (-1.7, 2.3)),
        (np.array([2**31 + 1, 2**31 + 2], np.uint32), (2.0**31, 2.0**31 + 4)),
    ],
)
def test_the_range_becomes_0_to_1(stored, limits):
    low, high = limits
    mapped = to_float32(stored, limits)
    assert mapped.dtype == np.float32
    exact = (stored.astype(np.float64) - low) / (high - low)
    np.testing.assert_allclose(mapped, exact, rtol=3e-7, atol=3e-7)


@pytest.mark.parametrize("limits", [UINT8, (3.0, 200.0), (0.1, 0.7)])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_tensors_are_mapped_to_the_same_bits(limits, dtype):
    stored = RNG.integers(0, 256, 5000).astype(dtype)
    on_device = to_float32(torch.from_numpy(stored), limits)
    np.testing.assert_array_equal(on_device.numpy(), to_float32(stored, limits))
    assert on_device.dtype == torch.float32


def test_the_range_follows_from_setting_and_dtype(tmp_path):
    grey = write(tmp_path / "a.zarr", (255 * tissue()).astype(np.uint8))
    assert grey_range(grey, "auto") == (0.0, 255.0)
    assert grey_range(grey, (10.0, 90.0)) == (10.0, 90.0)
    mask = write(tmp_path / "b.zarr", tissue() > 0.5)
    assert grey_range(mask, "auto") == (0.0, 1.0)
    wide = write(tmp_path / "c.zarr", (4095 * tissue()).astype(np.uint16))
    assert grey_range(wide, "auto") == tuple(np.percentile(wide[...], (0.5, 99.5)))


@pytest.mark.parametrize(
    "dtype, limits",
    [
        (np.uint8, (0.0, 255.0)),
        (np.uint16, (0.0, 65535.0)),
        (np.int16, (0.0, 32767.0)),
        (np.float32, (0.0, 1.0)),
    ],
)
def test_a_range_by_dtype_is_what_release_0_1_had(tmp_path, dtype, limits):
    grey = write(tmp_path / "a.zarr", (100 * tissue()).astype(dtype))
    assert grey_range(grey, "dtype") == limits
    assert DataConfig(intensity="dtype").intensity == "dtype"


@pytest.mark.parametrize("padding", [0, 65535, 7000])
def test_padding_is_left_out(tmp_path, padding):
    values = (4000 + 9000 * tissue()).astype(np.uint16)
    plain = measure_range(write(tmp_path / "plain.zarr", values))
    padded = np.pad(values, 20, constant_values=padding)
    measured = measure_range(write(tmp_path / "padded.zarr", padded))
    # tissue of the same value goes, too
    assert measured == pytest.approx(plain, rel=1e-4)


def test_a_frequent_grey_value_is_no_padding(tmp_path):
    """Such as that of saturated voxels, which lie apart from each other."""
    values = np.minimum(tissue(), 0.6).astype(np.float32)
    assert (values == values.max()).mean() > 0.2
    assert measure_range(write(tmp_path / "a.zarr", values))[1] == values.max()


def test_large_volumes_are_sampled_from_border_to_border(monkeypatch):
    monkeypatch.setattr(intensity, "SAMPLE", 1000)
    monkeypatch.setattr(intensity, "SAMPLE_BOX", 4)
    boxes = intensity.sample_boxes((100, 6, 50))
    assert min(box.start for box in boxes) == (0, 0, 0)
    assert max(box.stop for box in boxes) == (100, 6, 50)
    assert len(boxes) == len({box.start for box in boxes}) == 4 * 3 * 4
    assert {box.shape for box in boxes} == {(4, 4, 4)}
    assert intensity.sample_boxes((10, 10, 10)) == [intensity.Box((0, 0, 0), (10, 10, 10))]


def test_the_range_does_not_depend_on_the_axes(tmp_path):
    values = tissue().astype(np.float32)
    stored = write(tmp_path / "a.zarr", values, axes="xyz")
    turned = open_volume(tmp_path / "a.zarr", transpose="zyx")
    assert measure_range(turned) == measure_range(stored)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_no_finite_number_is_named(tmp_path, bad):
    values = tissue().astype(np.float32)
    values[5, 7, 9] = values[5, 8, 0] = bad
    volume = write(tmp_path / "a.zarr", values)
    message = rf"finite grey values in .*a.zarr, got {bad} at voxel \(5, 7, 9\) \(zyx\)"
    with pytest.raises(ValueError, match=message):
        measure_range(volume)
    with pytest.raises(ValueError, match=message):
        read_grey(volume, (4, 6, 0), (20, 20, 20), (0.0, 1.0))
    with pytest.raises(ValueError, match=message):
        open_source(VolumeConfig(image=volume.path), DataConfig())
    assert read_grey(volume, (6, 0, 0), (20, 20, 20), (0.0, 1.0)).shape == (1, 14, 20, 20)


def test_a_volume_of_one_value_has_no_range(tmp_path):
    volume = write(tmp_path / "a.zarr", np.full((8, 8, 8), 3, np.uint16))
    with pytest.raises(ValueError, match="data.intensity LOW HIGH, got '3.0 everywhere'"):
        measure_range(volume)


@pytest.mark.parametrize("wrong", [(5.0, 5.0), (7.0, 2.0), (0.0, float("nan")), "half"])
def test_impossible_ranges_are_refused(wrong):
    with pytest.raises(ValueError, match="intensity"):
        DataConfig(intensity=wrong)
    with pytest.raises(ValueError, match="intensity"):
        VolumeConfig(intensity=wrong)


def labelled(folder, name, image, **more):
    labels = np.ones(image.shape, np.uint8)
    write(folder / f"{name}.zarr", image)
    write(folder / f"{name}_labels.zarr", labels)
    return VolumeConfig(f"{folder}/{name}.zarr", f"{folder}/{name}_labels.zarr", **more)


def plain_batch(*volumes, data=None):
    data = data or DataConfig(train=volumes, patch_size=(16, 16, 16), mixing="stratified")
    config = Config(data=data)
    dataset = train_dataset(config)
    batch = default_collate([dataset[n] for n in range(4)])
    image, _ = Preparation(config, torch.device("cpu"), 4).plain(batch)
    return batch["image"].dtype, image.numpy()


def test_patches_of_uint8_are_moved_as_they_are_and_mapped_alike(tmp_path):
    values = (255 * tissue()).astype(np.uint8)
    dtype, image = plain_batch(labelled(tmp_path, "a", values))
    assert dtype == torch.uint8
    same = labelled(tmp_path, "b", values.astype(np.uint16), intensity=(0, 255))
    other_dtype, other = plain_batch(same)
    assert other_dtype == torch.float32
    np.testing.assert_array_equal(image, other)


def test_a_batch_of_several_dtypes_is_mapped_volume_by_volume(tmp_path):
    """A batch of uint8 in 0..255 and float in 0..1 would show one tissue 255 times as bright."""
    values = (255 * tissue()).astype(np.uint8)
    grey = labelled(tmp_path, "a", values)
    deep = labelled(tmp_path, "b", values.astype(np.uint16) * 16, intensity=(0, 4080))
    dtype, image = plain_batch(grey, deep)
    assert dtype == torch.float32 and 0.3 < image[0].mean() < 0.7
    np.testing.assert_allclose(image[0].mean(), image[1].mean(), atol=0.02)


def test_a_volume_has_its_own_range_or_that_of_the_data(tmp_path):
    values = (1000 * tissue()).astype(np.uint16)
    with_range = labelled(tmp_path, "a", values, intensity=(100, 900))
    shared = labelled(tmp_path, "b", values)
    data = DataConfig(train=(with_range, shared), intensity=(0, 4000))
    ranges = [open_source(volume, data).grey_range for volume in data.train]
    assert ranges == [(100, 900), (0, 4000)]


def test_histograms_tell_how_far_grey_values_are_apart():
    values = tissue().astype(np.float32)
    plain = intensity.histogram(values, (0.0, 1.0))
    assert sum(plain) == pytest.approx(1, abs=1e-4)
    for shift in (0.0, 0.25, 0.5):
        moved = intensity.histogram(values + np.float32(shift), (0.0, 1.0))
        assert intensity.shift_between(plain, moved) == pytest.approx(shift, abs=0.01)
