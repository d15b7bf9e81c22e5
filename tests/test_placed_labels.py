"""Labels that are smaller than their image, as in CREMI's padded volumes."""

import json
import pickle
from dataclasses import replace

import h5py
import numpy as np
import pytest
import torch
from documents import examples

from pytc.commands import EvaluateConfig, InferConfig
from pytc.config import (
    Config,
    DataConfig,
    LoopConfig,
    ModelConfig,
    SystemConfig,
    TargetConfig,
    VolumeConfig,
)
from pytc.data.inspection import inspect
from pytc.data.patches import PatchDataset, train_dataset
from pytc.data.sources import open_source
from pytc.data.targets import affinities
from pytc.evaluate import evaluate
from pytc.inference.pipeline import infer
from pytc.io.placed import PlacedVolume
from pytc.io.volume import create_volume, open_volume
from pytc.training.loop import train

SHAPE = (24, 40, 48)  # of the image
VOXEL = (40.0, 4.0, 4.0)
BOX = (slice(8, 18), slice(10, 30), slice(16, 40))  # of the labels
START = (8, 10, 16)
OFFSETS = ((1, 0, 0), (0, 1, 0), (0, 0, 1))
UNLABELLED = 2**64 - 1
RNG = np.random.default_rng(0)
IMAGE = np.arange(np.prod(SHAPE), dtype=np.uint16).reshape(SHAPE)  # a voxel says where it lies
GREY = (0.0, IMAGE.size - 1.0)
LABELS = RNG.integers(0, 4, (10, 20, 24)).astype(np.uint64)
LABELS[0, 0, 0] = UNLABELLED


def padded(labels=LABELS, start=START, fill=-1):
    """Labels in a volume of the image's shape, written by hand."""
    whole = np.full(SHAPE, fill, np.int64)
    box = tuple(slice(at, at + length) for at, length in zip(start, labels.shape))
    whole[box] = np.where(labels == UNLABELLED, -1, labels.astype(np.int64))
    return whole


def cremi(path, offset=(320.0, 40.0, 64.0), resolution=VOXEL, labels=LABELS):
    """A file of the layout of sample_A_padded_20160501.hdf; `offset` is in nm."""
    with h5py.File(path, "w") as file:
        volumes = file.create_group("volumes")
        stored = volumes.create_dataset("raw", data=IMAGE, chunks=(8, 16, 16))
        stored.attrs["resolution"] = VOXEL
        ids = volumes.create_dataset("labels/neuron_ids", data=labels, chunks=(8, 16, 16))
        if offset is not None:
            ids.attrs["offset"] = offset
        if resolution is not None:
            ids.attrs["resolution"] = resolution
    return VolumeConfig(f"{path}:volumes/raw", f"{path}:volumes/labels/neuron_ids")


def write(path, array, axes="zyx", voxel_size=VOXEL, **attributes):
    more = {"axes": axes, "voxel_size": voxel_size, "attributes": attributes}
    with create_volume(path, array.shape, array.dtype, **more) as volume:
        volume[...] = array
    return str(path)


def opened(config):
    return open_source(config, DataConfig(intensity=GREY))


def box_of(sample):
    """Where the crop of a sample lies in the image."""
    _, *shape = sample["image"].shape
    first = round(float(sample["image"][0, 0, 0, 0]) * (IMAGE.size - 1))
    start = [int(at) for at in np.unravel_index(first, SHAPE)]
    return tuple(slice(at, at + length) for at, length in zip(start, shape))


def as_signed(labels):
    """Labels as int64, -1 where they are unlabelled."""
    if labels.dtype.kind == "u":
        return np.where(labels == np.iinfo(labels.dtype).max, -1, labels.astype(np.int64))
    return labels.astype(np.int64)


def test_the_config_of_the_document_is_one(tmp_path, monkeypatch):
    """docs/labels.md, on small files of the same layout."""
    made = {}
    (example,) = examples("docs/labels.md")
    exec(example, made)
    padded_volume, by_hand = made["config"].data.train
    monkeypatch.chdir(tmp_path)
    assert cremi("sample_A_padded_20160501.hdf") == padded_volume
    write("cube.zarr/raw", IMAGE)
    for path in by_hand.label_paths:
        write(path, LABELS[:4])
    nearer = replace(by_hand, offset=(by_hand.offsets[0], (10, 5, 5)))
    for volume in (padded_volume, nearer):
        assert isinstance(opened(volume).labels, PlacedVolume)


# --- where they lie ---


def test_the_offset_in_nm_of_a_cremi_file_is_read(tmp_path):
    labels = opened(cremi(tmp_path / "padded.hdf")).labels
    assert isinstance(labels, PlacedVolume)
    assert labels.shape == SHAPE and labels.dtype == np.uint64 and labels.voxel_size == VOXEL
    np.testing.assert_array_equal(as_signed(labels[...]), padded())


def test_any_part_of_the_volume_is_that_part_of_the_padded_array(tmp_path):
    labels = pickle.loads(pickle.dumps(opened(cremi(tmp_path / "padded.hdf")).labels))
    whole = padded()
    rng = np.random.default_rng(1)
    for _ in range(200):
        slices = []
        for length in SHAPE:
            start, stop = sorted(rng.integers(0, length + 1, 2).tolist())
            slices.append(slice(start, stop, int(rng.integers(1, 5))))
        np.testing.assert_array_equal(as_signed(labels[tuple(slices)]), whole[tuple(slices)])
    np.testing.assert_array_equal(as_signed(labels[9, 12]), whole[9, 12])


@pytest.mark.parametrize("dtype, widened", [("u1", "i2"), ("u2", "i4"), ("i4", "i4"), ("b1", "i1")])
def test_small_dtypes_get_a_value_for_unlabelled(tmp_path, dtype, widened):
    values = (LABELS % 2).astype(dtype)
    config = VolumeConfig(
        write(tmp_path / "image.zarr", IMAGE),
        write(tmp_path / "labels.zarr", values, voxel_offset=START),
    )
    labels = opened(config).labels
    assert labels.dtype == np.dtype(widened)
    np.testing.assert_array_equal(labels[...], padded(values.astype(np.int64)))


def test_an_offset_of_the_image_is_taken_off(tmp_path):
    config = cremi(tmp_path / "a.hdf", offset=(400.0, 48.0, 64.0))
    with h5py.File(tmp_path / "a.hdf", "a") as file:
        file["volumes/raw"].attrs["offset"] = (80.0, 8.0, 0.0)
    np.testing.assert_array_equal(as_signed(opened(config).labels[...]), padded())


def test_labels_as_large_as_the_image_are_read_as_they_are(tmp_path):
    """Also where they have an offset and the image has none: both are one part of a volume."""
    whole = RNG.integers(0, 4, SHAPE).astype(np.uint64)
    source = opened(cremi(tmp_path / "a.hdf", offset=(400.0, 48.0, 64.0), labels=whole))
    assert not isinstance(source.labels, PlacedVolume)
    np.testing.assert_array_equal(source.labels[...], whole)


def test_a_transposed_volume(tmp_path):
    config = VolumeConfig(
        write(tmp_path / "image.zarr", IMAGE.T, "xyz", VOXEL[::-1]),
        write(tmp_path / "labels.zarr", LABELS.T, "xyz", VOXEL[::-1], offset=(64.0, 40.0, 320.0)),
        transpose="zyx",
    )
    np.testing.assert_array_equal(as_signed(opened(config).labels[...]), padded())
    named = replace(config, offset=START[::-1])
    np.testing.assert_array_equal(as_signed(opened(named).labels[...]), padded())


def two_parts(folder):
    """An image with labels in two parts, which only the config places."""
    first, second = LABELS[:4].astype(np.uint16), LABELS[4:].astype(np.int64)
    whole = np.maximum(padded(first, (0, 0, 0)), padded(second, (18, 20, 24)))
    config = VolumeConfig(
        write(folder / "image.zarr", IMAGE),
        (write(folder / "a.zarr", first), write(folder / "b.zarr", second)),
        offset=((0, 0, 0), (18, 20, 24)),
    )
    return config, whole


@pytest.mark.parametrize("cache", ["none", "memory"])
def test_several_labels_of_one_image(tmp_path, cache):
    config, whole = two_parts(tmp_path)
    data = DataConfig(train=(config,), patch_size=(8, 8, 8), cache=cache, intensity=GREY)
    run = Config(data=data, target=TargetConfig(offsets=OFFSETS), model=ModelConfig(out_channels=3))
    (patches,) = train_dataset(run).datasets
    np.testing.assert_array_equal(patches.labels[...], whole)
    is_deep = set()
    for number in range(60):
        sample = patches[number]
        box = box_of(sample)
        np.testing.assert_array_equal(sample["labels"], whole[box])
        is_deep.add(box[0].start > 8)
    assert is_deep == {False, True}
    assert len(patches) == round((4 + 6) * 20 * 24 / 8**3)


def test_unlabelled_voxels_stay_so_in_labels_of_two_dtypes(tmp_path):
    first = LABELS[:4].astype(np.uint32)
    first[1] = 2**32 - 1
    config, whole = two_parts(tmp_path)
    first_path = write(tmp_path / "c.zarr", first)
    labels = opened(replace(config, labels=(first_path, config.label_paths[1]))).labels
    assert labels.dtype == np.int64 and (labels[1, :20, :24] == -1).all()
    np.testing.assert_array_equal(labels[2:], whole[2:])


def test_a_mask_of_the_labels_lies_where_they_lie(tmp_path):
    mask = RNG.integers(0, 2, LABELS.shape).astype(np.uint8)
    config = replace(cremi(tmp_path / "a.hdf"), mask=write(tmp_path / "mask.zarr", mask))
    source = opened(config)
    wanted = np.zeros(SHAPE, np.uint8)
    wanted[BOX] = mask
    np.testing.assert_array_equal(source.mask[...], wanted)
    facts, _ = inspect(source)
    assert facts.unlabelled == pytest.approx(
        1 - np.count_nonzero(mask[LABELS != UNLABELLED]) / 4800
    )


# --- what is refused ---


@pytest.mark.parametrize(
    "change, message",
    [
        ({"offset": (330.0, 40.0, 64.0)}, r"whole number of voxels of \(40.0, 4.0, 4.0\) nm, got"),
        ({"offset": (330.0, 40.0, 64.0)}, r"\(330, 40, 64\) nm, which is \(8.25, 10.0, 16.0\)"),
        ({"offset": (600.0, 40.0, 64.0)}, r"inside the image .* of shape \(24, 40, 48\), got .*25"),
        ({"offset": (-40.0, 0.0, 0.0)}, r"inside the image .* at the offset \(-1, 0, 0\)"),
        ({"offset": None}, r"of shape \(24, 40, 48\), got \(10, 20, 24\); labels of a part"),
        ({"resolution": (40.0, 8.0, 8.0)}, r"voxels of \(40.0, 4.0, 4.0\) nm, as in the image"),
        ({"labels": np.zeros((30, 16, 16), np.uint64)}, "inside the image"),
    ],
)
def test_offsets_that_do_not_fit_are_refused_in_words(tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        opened(cremi(tmp_path / "a.hdf", **change))


def test_an_offset_in_nm_needs_a_voxel_size(tmp_path):
    image, labels = tmp_path / "image.zarr", tmp_path / "labels.zarr"
    write(image, IMAGE, voxel_size=None)
    write(labels, LABELS, voxel_size=None, offset=(8.0, 10.0, 16.0))
    config = VolumeConfig(str(image), str(labels))
    with pytest.raises(ValueError, match="a voxel size for .*labels.zarr, as its offset is in nm"):
        opened(config)
    np.testing.assert_array_equal(
        as_signed(opened(replace(config, voxel_size=(1.0, 1.0, 1.0))).labels[...]), padded()
    )


def test_several_labels_that_do_not_fit_are_refused(tmp_path):
    config, _ = two_parts(tmp_path)
    with pytest.raises(ValueError, match=r"do not overlap, got .*a.zarr at \(0, 0, 0\) and .*b.z"):
        opened(replace(config, offset=((0, 0, 0), (3, 0, 0))))
    with pytest.raises(ValueError, match="an offset of each .* by data.\\*.offset, got none for"):
        opened(replace(config, offset=None))
    with pytest.raises(ValueError, match="volume.offset of three voxels for each of 2 volume.lab"):
        replace(config, offset=(0, 0, 0))
    with pytest.raises(ValueError, match="volume.offset of 0 or more"):
        replace(config, offset=((0, 0, 0), (0, -1, 0)))


# --- training ---


def test_crops_reach_beyond_the_labels_and_all_have_enough(tmp_path):
    config = cremi(tmp_path / "a.hdf", labels=np.ones_like(LABELS))
    patches = PatchDataset(opened(config), (12, 16, 16), seed=0, min_labelled=0.1, max_tries=1)
    whole = padded(np.ones_like(LABELS))
    unlabelled, seen = [], np.zeros(SHAPE, bool)
    for number in range(150):
        sample = patches[number]
        box = box_of(sample)
        np.testing.assert_array_equal(sample["labels"], whole[box])
        assert np.count_nonzero(sample["labels"] > 0) >= 0.1 * 12 * 16 * 16
        unlabelled.append(np.count_nonzero(sample["labels"] < 0))
        seen[box] = True
    assert max(unlabelled) > 0.5 * 12 * 16 * 16  # the image around the labels is context
    assert seen[BOX].all()  # and all labels are drawn


def test_what_lies_outside_is_no_background_and_carries_no_loss(tmp_path):
    config = cremi(tmp_path / "a.hdf", labels=np.ones_like(LABELS))
    patches = PatchDataset(opened(config), SHAPE, seed=0)
    labels = torch.from_numpy(patches[0]["labels"])[None]
    assert (labels == 0).sum() == 0 and (labels == -1).sum() == np.prod(SHAPE) - LABELS.size
    _, valid = affinities(labels, ((0, 0, 1),))
    inside = torch.zeros_like(labels, dtype=torch.bool)
    inside[0][BOX] = True
    inside[0, :, :, 39] = False  # the last column has no neighbour that is labelled
    assert (valid[:, 0] == inside).all()


def test_the_line_about_a_volume_says_how_large_the_labelled_part_is(tmp_path):
    facts, doubts = inspect(opened(cremi(tmp_path / "a.hdf")))
    share = LABELS.size / np.prod(SHAPE)
    assert str(facts).endswith(f"in a part of {share:.1%} of the image")
    assert facts.n_labels == 3 and facts.unlabelled == pytest.approx(1 / LABELS.size)
    # exchanged image and labels are still called out
    noise = RNG.integers(1, 2**20, LABELS.shape).astype(np.uint64)
    _, doubts = inspect(opened(cremi(tmp_path / "b.hdf", labels=noise)))
    assert any("look like an image" in doubt for doubt in doubts)


# --- evaluation ---


def score(folder, **flags):
    (metrics,) = evaluate(EvaluateConfig(output=str(folder / "scores"), **flags)).values()
    names = ("dense_voi_split", "dense_voi_merge", "dense_adapted_rand_error")
    return [metrics[name] for name in names]


def test_a_prediction_is_scored_where_it_is_labelled(tmp_path):
    segments = RNG.integers(1, 6, SHAPE).astype(np.uint32)
    whole = write(tmp_path / "segmentation.zarr", segments)
    part = write(tmp_path / "part.zarr", segments[BOX].copy())
    labels = write(tmp_path / "labels.zarr", LABELS)
    placed = write(tmp_path / "placed.zarr", LABELS, offset=(320.0, 40.0, 64.0))
    wanted = score(tmp_path, segmentation=part, labels=labels)
    assert score(tmp_path, segmentation=whole, labels=labels, labels_offset=(START,)) == wanted
    assert score(tmp_path, segmentation=whole, labels=placed) == wanted
    with pytest.raises(ValueError, match="got Volume.*--labels-offset Z Y X says where smaller"):
        score(tmp_path, segmentation=whole, labels=labels)
    with pytest.raises(
        ValueError, match=r"placed.zarr inside the prediction .* at the offset \(20"
    ):
        score(tmp_path, segmentation=whole, labels=placed, labels_offset=((20, 0, 0),))
    with pytest.raises(ValueError, match="--labels with --labels-offset, got"):
        score(tmp_path, segmentation=whole, skeleton="none.npz", labels_offset=(START,))


def test_a_run_validates_and_scores_against_smaller_labels(tmp_path, monkeypatch):
    """train.py, validation on whole volumes, infer.py and evaluate.py."""
    monkeypatch.chdir(tmp_path)
    objects = np.repeat(np.arange(1, 5, dtype=np.uint64), 6)[None, None].repeat(10, 0).repeat(20, 1)
    stored = cremi(tmp_path / "a.hdf", labels=objects)
    named = replace(cremi(tmp_path / "b.hdf", labels=objects, offset=None), offset=START)
    system = SystemConfig(device="cpu", precision="fp32", threads=1, workers=0)
    config = Config(
        name="run",
        data=DataConfig(
            train=(stored,), val=(stored, named), patch_size=(8, 16, 16), val_samples=2
        ),
        target=TargetConfig(offsets=OFFSETS),
        model=ModelConfig(architecture="unet", features=(4, 8), out_channels=3),
        loop=LoopConfig(max_steps=2, batch_size=1, val_every=2, volumes_every=2),
        system=system,
    )
    run = train(config)
    rows = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    scores = next(row for row in rows if "val/dense_voi_sum" in row)
    names = ("a_volumes_raw", "b_volumes_raw")
    of_a, of_b = (scores[f"val/{name}/dense_voi_sum"] for name in names)
    assert of_a == of_b and "val/loss" in scores
    infer(InferConfig(run=str(run), system=system))
    metrics = evaluate(EvaluateConfig(run=str(run), sweep=True))
    found = [metrics[name]["dense_voi_sum"] for name in names]
    assert found[0] == found[1] == pytest.approx(of_a)
    segmentation = open_volume(run / "predictions" / names[0] / "segmentation.zarr")
    assert segmentation.shape == SHAPE  # the whole image is predicted
