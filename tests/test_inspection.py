"""What is said of volumes that were read, and what is refused before work starts."""

import logging
from dataclasses import replace

import numpy as np
import pytest

from pytc.config import Config, DataConfig, ModelConfig, TargetConfig, VolumeConfig
from pytc.data.facts import from_plain, to_plain
from pytc.data.inspection import grey_doubts, inspect, inspect_run, require_alike
from pytc.data.sources import open_source
from pytc.io.synthetic import make_neurites
from pytc.io.volume import create_volume

MADE = make_neurites((32, 40, 48), 3)
SHAPE = MADE.image.shape


def write(path, array, **more):
    with create_volume(path, array.shape, array.dtype, **more) as volume:
        volume[...] = array
    return str(path)


def volume(folder, name="a", image=MADE.image, labels=MADE.labels, **more):
    labels = write(folder / f"{name}_labels.zarr", labels, **more)
    return VolumeConfig(write(folder / f"{name}.zarr", image, **more), labels)


def run(*train, val=(), patch_size=(16, 16, 16), **more):
    return Config(data=DataConfig(train=train, val=val, patch_size=patch_size), **more)


def facts_of(config):
    return inspect(open_source(config, DataConfig()))[0]


def doubts_of(config):
    return inspect(open_source(config, DataConfig()))[1]


def test_a_line_says_what_was_read(tmp_path, caplog):
    labels = MADE.labels.astype(np.int32)
    labels[:8] = -1
    n_labels = len(np.unique(labels[8:]))
    one = volume(tmp_path, labels=labels, voxel_size=(40, 4.5, 4))
    inspect_run(run(one))
    lines = caplog.messages
    assert lines[0] == (
        f"training volume a: {tmp_path}/a.zarr, zyx 32 x 40 x 48, uint8, grey 0 to 255, "
        f"voxels 40 x 4.5 x 4 nm (attributes), {n_labels} labels, 75.0% labelled, 25.0% unlabelled"
    )
    assert lines[1].startswith("no validation volume is named (--data.val.0.image): best.pt is")


def test_other_ranges_and_unknown_voxel_sizes_are_said(tmp_path):
    image = (MADE.image * 16.0).astype(np.uint16)
    path = write(tmp_path / "b.zarr", image)
    facts = facts_of(VolumeConfig(image=path))
    low, high = np.percentile(image, (0.5, 99.5))
    assert str(facts).endswith(f"grey {low:g} to {high:g}, voxels of unknown size, no labels")


def test_masked_voxels_and_unsigned_maxima_are_unlabelled(tmp_path):
    labels = MADE.labels.astype(np.uint64)
    labels[:8] = 2**64 - 1
    mask = np.ones(SHAPE, np.uint8)
    mask[8:16] = 0
    named = volume(tmp_path, labels=labels)
    facts = facts_of(replace(named, mask=write(tmp_path / "mask.zarr", mask)))
    assert facts.unlabelled == 0.5 and facts.n_labels == len(np.unique(MADE.labels[16:]))


def test_facts_travel_as_plain_types(tmp_path):
    facts = [facts_of(volume(tmp_path, voxel_size=(40, 4, 4)))]
    assert from_plain(to_plain(facts)) == facts and from_plain(()) == []


# --- what looks wrong ---


def test_good_volumes_raise_no_doubt(tmp_path):
    assert doubts_of(volume(tmp_path)) == []
    smooth = (MADE.image.astype(np.float32) + np.roll(MADE.image, 1, 2)) / 2
    assert doubts_of(volume(tmp_path, "b", smooth.astype(np.uint8))) == []


def test_image_and_labels_exchanged(tmp_path):
    image_as_labels, labels_as_image = doubts_of(
        volume(tmp_path, image=MADE.labels, labels=MADE.image)
    )[::-1]
    assert "look like an image" in image_as_labels and "exchanged?" in image_as_labels
    assert "looks like labels" in labels_as_image
    (mask,) = doubts_of(volume(tmp_path, "b", (MADE.labels % 3).astype(np.uint8)))
    assert "looks like labels" in mask


def warnings_of(caplog, config):
    """What is called out about the volumes of a run."""
    caplog.clear()
    inspect_run(config)
    return [record.message for record in caplog.records if record.levelno == logging.WARNING]


def test_a_single_object_under_affinities(tmp_path, caplog):
    one = volume(tmp_path, labels=(MADE.labels > 1).astype(np.uint8))
    assert any("holds a single object" in line for line in warnings_of(caplog, run(one)))
    binary = {"target": TargetConfig(kind="binary"), "model": ModelConfig(out_channels=1)}
    assert warnings_of(caplog, run(one, **binary)) == []


def test_a_patch_larger_than_the_volume(tmp_path, caplog):
    one = volume(tmp_path)
    (warning,) = warnings_of(caplog, run(one, patch_size=(64, 40, 48)))
    assert "larger than" in warning and "50% of each is mirrored" in warning
    assert warnings_of(caplog, run(one, patch_size=SHAPE)) == []


# --- volumes that differ ---


def test_another_order_of_axes_is_refused_and_transposed_on_request(tmp_path):
    train = volume(tmp_path, "train", voxel_size=(40, 4, 4))
    turned = {"axes": "xyz", "voxel_size": (4, 4, 40)}
    val = volume(tmp_path, "val", MADE.image.T, MADE.labels.T, **turned)
    with pytest.raises(ValueError, match="axes zyx of .*, got 'xyz'; --data.val.0.transpose zyx"):
        inspect_run(run(train, val=(val,)))
    with pytest.raises(ValueError, match="--data.train.1.transpose zyx"):
        inspect_run(run(train, val))
    inspect_run(run(train, val=(replace(val, transpose="zyx"),)))
    source = open_source(replace(val, transpose="zyx"), DataConfig())
    np.testing.assert_array_equal(source.image.read((0, 0, 0), SHAPE)[0], MADE.image)
    np.testing.assert_array_equal(source.labels[...], MADE.labels)
    assert source.voxel_size == (40, 4, 4)


def test_labels_in_another_order_than_their_image_are_refused(tmp_path):
    cube = np.zeros((16, 16, 16), np.uint8)
    image = write(tmp_path / "image.zarr", cube, axes="zyx")
    labels = write(tmp_path / "labels.zarr", cube, axes="xyz")
    with pytest.raises(ValueError, match="labels .*labels.zarr with the axes zyx of the image"):
        open_source(VolumeConfig(image, labels), DataConfig())


@pytest.mark.parametrize(
    "size, message",
    [
        ((8, 8, 40), r"voxels of about \(40.0, 8.0, 8.0\) nm.*--data.val.0.voxel-size"),
        ((40, 16, 16), "voxels of about"),
        (None, r"voxel size of the validation volume .* \(by --data.val.0.voxel-size"),
    ],
)
def test_another_voxel_size_is_refused(tmp_path, size, message):
    train = volume(tmp_path, "train", voxel_size=(40, 8, 8))
    val = volume(tmp_path, "val", voxel_size=size)
    with pytest.raises(ValueError, match=message):
        inspect_run(run(train, val=(val,)))
    inspect_run(run(train, val=(replace(val, voxel_size=(36.0, 8.0, 8.0)),)))


def test_a_training_volume_of_unknown_voxel_size_is_refused_beside_one_that_has_it(tmp_path):
    train, val = volume(tmp_path, "train"), volume(tmp_path, "val", voxel_size=(40, 8, 8))
    with pytest.raises(ValueError, match="--data.train.0.voxel-size"):
        inspect_run(run(train, val=(val,)))
    facts = facts_of(val)
    require_alike(facts, [facts_of(train)], prefix="--", role="input")  # it cannot be mended there


def test_grey_values_far_from_those_of_the_training_are_called_out(tmp_path):
    training = [facts_of(volume(tmp_path, "train"))]

    def doubts(name, image, **more):
        return grey_doubts(facts_of(VolumeConfig(write(tmp_path / name, image), **more)), training)

    assert doubts("same.zarr", MADE.image) == []
    assert doubts("float.zarr", MADE.image.astype(np.float32)) == []
    assert doubts("deep.zarr", MADE.image.astype(np.uint16) * 16) == []
    (inverted,) = doubts("inverted.zarr", 255 - MADE.image)
    assert "is it inverted, or should --intensity LOW HIGH be named?" in inverted
    assert doubts("dark.zarr", MADE.image.astype(np.uint16), intensity=(0, 65535))
    assert grey_doubts(training[0], []) == []
