import numpy as np
import pytest
from torch.utils.data import DataLoader

from pytc.config import Config, DataConfig, LoopConfig, ModelConfig, SyntheticConfig, VolumeConfig
from pytc.data.patches import PatchDataset, StepSampler, compact_labels, train_dataset, val_dataset
from pytc.data.sources import as_unit_range, open_source
from pytc.io.volume import create_volume


def write(path, array, **more):
    with create_volume(path, array.shape, array.dtype, **more) as volume:
        volume[...] = array
    return str(path)


@pytest.fixture
def source(tmp_path):
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (20, 30, 40), dtype=np.uint8)
    labels = np.zeros(image.shape, np.uint16)
    labels[:, :, 20:] = rng.integers(1, 900, (20, 30, 20))
    config = VolumeConfig(image=write(tmp_path / "image.zarr", image), labels=write(tmp_path / "labels.zarr", labels))
    return open_source(config, SyntheticConfig()), image, labels


def test_a_crop_is_a_piece_of_the_volume(source):
    opened, image, labels = source
    sample = PatchDataset(opened, (8, 9, 10), seed=3)[5]
    assert sample["image"].shape == (1, 8, 9, 10) and sample["image"].dtype == np.uint8
    assert sample["labels"].shape == (8, 9, 10) and sample["labels"].dtype == np.int32 and sample["number"] == 5
    windows = np.lib.stride_tricks.sliding_window_view(image, (8, 9, 10))
    (at,) = np.argwhere((windows == sample["image"][0]).all((3, 4, 5)))
    np.testing.assert_array_equal(labels[tuple(slice(a, a + n) for a, n in zip(at, (8, 9, 10)))], sample["labels"])


def test_a_sample_depends_on_seed_and_number_alone(source):
    opened, *_ = source
    one, other = PatchDataset(opened, (8, 8, 8), seed=1), PatchDataset(opened, (8, 8, 8), seed=2)
    later = one[7]
    for n in range(7):
        one[n]
    np.testing.assert_array_equal(one[7]["image"], later["image"])
    assert any((one[n]["image"] != other[n]["image"]).any() for n in range(5))
    assert len({one[n]["image"].tobytes() for n in range(20)}) > 15


@pytest.mark.parametrize("workers", [2])
def test_workers_do_not_change_the_samples(source, workers):
    dataset = PatchDataset(source[0], (8, 8, 8), seed=1)
    sampler = StepSampler(4, 2)
    loader = iter(DataLoader(dataset, 2, sampler=sampler, num_workers=workers, multiprocessing_context="spawn"))
    for step in range(4, 8):
        batch = next(loader)
        assert batch["number"].tolist() == [2 * step, 2 * step + 1]
        expected = np.stack([dataset[n]["image"] for n in batch["number"].tolist()])
        np.testing.assert_array_equal(batch["image"], expected)


def test_a_crop_has_enough_labels(source):
    opened, *_ = source
    dataset = PatchDataset(opened, (8, 8, 8), seed=0, min_labelled=0.9, max_tries=1000)
    assert min((dataset[n]["labels"] > 0).mean() for n in range(10)) >= 0.9
    few = PatchDataset(opened, (20, 30, 40), seed=0, min_labelled=0.9, max_tries=3)
    assert 0.4 < (few[0]["labels"] > 0).mean() < 0.6  # the best there is


def test_a_volume_without_labelled_voxels_is_an_error(tmp_path):
    nothing = np.zeros((16, 16, 16), np.uint8)
    config = VolumeConfig(image=write(tmp_path / "i.zarr", nothing), labels=write(tmp_path / "l.zarr", nothing))
    with pytest.raises(ValueError, match="expected labelled voxels"):
        PatchDataset(open_source(config, SyntheticConfig()), (8, 8, 8), seed=0)[0]


def test_the_mask_makes_voxels_unlabelled_not_background(tmp_path, source):
    opened, image, labels = source
    mask = np.random.default_rng(1).integers(0, 2, image.shape, dtype=np.uint8)
    config = VolumeConfig(image=opened.image.path, labels=opened.labels.path, mask=write(tmp_path / "m.zarr", mask))
    sample = PatchDataset(open_source(config, SyntheticConfig()), image.shape, seed=0)[0]
    np.testing.assert_array_equal(sample["labels"], np.where(mask == 0, -1, labels.astype(np.int32)))


def test_a_small_volume_is_padded_with_unlabelled_voxels(source):
    opened, image, _ = source
    sample = PatchDataset(opened, (32, 32, 32), seed=0)[0]
    assert sample["image"].shape == (1, 32, 32, 32)
    assert (sample["labels"][20:] == -1).all() and (sample["labels"][:, 30:] == -1).all()
    assert (sample["labels"][:20, :30] >= 0).all()
    np.testing.assert_array_equal(sample["image"][0, 20], sample["image"][0, 18])  # reflected


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int32, np.int64, np.uint32, np.uint64])
def test_compact_labels_keep_the_partition(dtype):
    top = min(np.iinfo(dtype).max, 2**63 - 1)
    labels = np.array([[[0, 1, 5, top, top, top - 1]]], dtype)
    compact = compact_labels(labels)
    assert compact.dtype == np.int32
    np.testing.assert_array_equal(compact == 0, labels == 0)
    np.testing.assert_array_equal(compact[..., None] == compact, labels[..., None] == labels)
    if np.iinfo(dtype).min < 0:
        assert compact_labels(np.array([[[-1, 0, top]]], dtype)).ravel()[0] == -1


def test_images_become_unit_range():
    assert as_unit_range(np.array([255], np.uint8)).dtype == np.uint8
    np.testing.assert_allclose(as_unit_range(np.array([0, 65535], np.uint16)), [0, 1])
    np.testing.assert_allclose(as_unit_range(np.array([0.25], np.float64)), [0.25])


@pytest.mark.parametrize("ranks, accumulate, batch", [(1, 1, 4), (2, 1, 2), (2, 2, 1), (1, 4, 1), (4, 1, 1)])
def test_any_split_over_ranks_takes_the_same_steps(ranks, accumulate, batch):
    samplers = [iter(StepSampler(3, batch, accumulate, rank, ranks)) for rank in range(ranks)]
    for step in range(3, 6):
        numbers = [next(s) for s in samplers for _ in range(accumulate * batch)]
        assert sorted(numbers) == list(range(4 * step, 4 * step + 4))


def test_datasets_of_a_config(tmp_path):
    small = SyntheticConfig(shape=(48, 48, 48))
    volumes = (VolumeConfig(weight=0.8), VolumeConfig(image="synthetic:1", weight=0.2))
    config = Config(
        data=DataConfig(train=volumes, val=volumes, synthetic=small, patch_size=(16, 16, 16)), loop=LoopConfig(seed=5)
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        mixed, fixed = train_dataset(config), val_dataset(config)
        assert mixed[0]["image"].shape == (1, 16, 16, 16)
        np.testing.assert_array_equal(fixed[3]["labels"], val_dataset(config)[3]["labels"])
        with pytest.raises(ValueError, match="expected 2 channels"):
            train_dataset(Config(data=config.data, model=ModelConfig(in_channels=2)))


def test_parts_that_do_not_fit_are_refused(tmp_path):
    image = write(tmp_path / "image.zarr", np.zeros((8, 9, 10), np.uint8))
    labels = write(tmp_path / "labels.zarr", np.zeros((8, 9, 11), np.uint8))
    floats = write(tmp_path / "floats.zarr", np.zeros((8, 9, 10), np.float32))
    with pytest.raises(ValueError, match=r"\(8, 9, 10\), got \(8, 9, 11\)"):
        open_source(VolumeConfig(image=image, labels=labels), SyntheticConfig())
    with pytest.raises(ValueError, match="integer dtype, got float32"):
        open_source(VolumeConfig(image=image, labels=floats), SyntheticConfig())
    with pytest.raises(ValueError, match="expected labels for the volume"):
        PatchDataset(open_source(VolumeConfig(image=image), SyntheticConfig()), (4, 4, 4), seed=0)
