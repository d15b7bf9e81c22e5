import gc
import os
import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
from torch.utils.data import DataLoader

from pytc.config import Config, DataConfig, LoopConfig, ModelConfig, SyntheticConfig, VolumeConfig
from pytc.data import shared_memory
from pytc.data.patches import PatchDataset, compact_labels, step_numbers, train_dataset, val_dataset
from pytc.data.sources import open_source
from pytc.data.synthetic_volumes import prepare_volume
from pytc.io.volume import create_volume, open_volume
from pytc.training.distributed import Ranks


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
    config = VolumeConfig(
        image=write(tmp_path / "image.zarr", image), labels=write(tmp_path / "labels.zarr", labels)
    )
    return open_source(config, DataConfig()), image, labels


def test_a_crop_is_a_piece_of_the_volume(source):
    opened, image, labels = source
    sample = PatchDataset(opened, (8, 9, 10), seed=3)[5]
    assert sample["image"].shape == (1, 8, 9, 10) and sample["image"].dtype == np.uint8
    assert (
        sample["labels"].shape == (8, 9, 10)
        and sample["labels"].dtype == np.int32
        and sample["number"] == 5
    )
    windows = np.lib.stride_tricks.sliding_window_view(image, (8, 9, 10))
    (at,) = np.argwhere((windows == sample["image"][0]).all((3, 4, 5)))
    np.testing.assert_array_equal(
        labels[tuple(slice(a, a + n) for a, n in zip(at, (8, 9, 10)))], sample["labels"]
    )


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
    sampler = step_numbers(4, 2)
    loader = iter(
        DataLoader(
            dataset, 2, sampler=sampler, num_workers=workers, multiprocessing_context="spawn"
        )
    )
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
    config = VolumeConfig(
        image=write(tmp_path / "i.zarr", nothing), labels=write(tmp_path / "l.zarr", nothing)
    )
    with pytest.raises(ValueError, match="expected labelled voxels"):
        PatchDataset(open_source(config, DataConfig()), (8, 8, 8), seed=0)[0]


def test_the_mask_makes_voxels_unlabelled_not_background(tmp_path, source):
    opened, image, labels = source
    mask = np.random.default_rng(1).integers(0, 2, image.shape, dtype=np.uint8)
    config = VolumeConfig(
        image=opened.image.path, labels=opened.labels.path, mask=write(tmp_path / "m.zarr", mask)
    )
    sample = PatchDataset(open_source(config, DataConfig()), image.shape, seed=0)[0]
    np.testing.assert_array_equal(
        sample["labels"], np.where(mask == 0, -1, labels.astype(np.int32))
    )


def test_a_small_volume_is_padded_with_unlabelled_voxels(source):
    opened, _, _ = source
    sample = PatchDataset(opened, (32, 32, 32), seed=0)[0]
    assert sample["image"].shape == (1, 32, 32, 32)
    assert (sample["labels"][20:] == -1).all() and (sample["labels"][:, 30:] == -1).all()
    assert (sample["labels"][:20, :30] >= 0).all()
    np.testing.assert_array_equal(sample["image"][0, 20], sample["image"][0, 18])  # reflected


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int32, np.int64, np.uint32, np.uint64])
def test_compact_labels_keep_the_partition(dtype):
    top = min(np.iinfo(dtype).max, 2**63 - 1)
    if dtype == np.uint32:
        top -= 1  # the maximum itself is unlabelled
    labels = np.array([[[0, 1, 5, top, top, top - 1]]], dtype)
    compact = compact_labels(labels)
    assert compact.dtype == np.int32
    np.testing.assert_array_equal(compact == 0, labels == 0)
    np.testing.assert_array_equal(compact[..., None] == compact, labels[..., None] == labels)
    if np.iinfo(dtype).min < 0:
        assert compact_labels(np.array([[[-1, 0, top]]], dtype)).ravel()[0] == -1


@pytest.mark.parametrize("others", [[0, 1, 5], [0, 2**31, 2**31 + 1]])
@pytest.mark.parametrize("dtype", [np.uint32, np.uint64])
def test_the_maximum_of_an_unsigned_type_is_unlabelled(dtype, others):
    labels = np.array([[[np.iinfo(dtype).max, *others]]], dtype)
    assert compact_labels(labels).ravel().tolist() in ([-1, 0, 1, 5], [-1, 0, 1, 2])


@pytest.mark.parametrize(
    "ranks, accumulate, batch", [(1, 1, 4), (2, 1, 2), (2, 2, 1), (1, 4, 1), (4, 1, 1)]
)
def test_any_split_over_ranks_takes_the_same_steps(ranks, accumulate, batch):
    samplers = [step_numbers(3, batch, accumulate, rank, ranks) for rank in range(ranks)]
    for step in range(3, 6):
        numbers = [next(s) for s in samplers for _ in range(accumulate * batch)]
        assert sorted(numbers) == list(range(4 * step, 4 * step + 4))


def test_datasets_of_a_config(tmp_path):
    small = SyntheticConfig(shape=(48, 48, 48))
    volumes = (VolumeConfig(weight=0.8), VolumeConfig(image="synthetic:1", weight=0.2))
    config = Config(
        data=DataConfig(train=volumes, val=volumes, synthetic=small, patch_size=(16, 16, 16)),
        loop=LoopConfig(seed=5),
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        for volume in volumes:
            prepare_volume(volume, small)
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
        open_source(VolumeConfig(image=image, labels=labels), DataConfig())
    with pytest.raises(ValueError, match="integer dtype .*, got 'float32'"):
        open_source(VolumeConfig(image=image, labels=floats), DataConfig())
    with pytest.raises(ValueError, match="expected labels for the volume"):
        PatchDataset(open_source(VolumeConfig(image=image), DataConfig()), (4, 4, 4), seed=0)


def spoil(path):
    """Make what is stored unreadable, but for the metadata."""
    if path.is_dir():
        for chunk in (f for f in path.rglob("*") if f.is_file() and f.name[0] != "."):
            chunk.write_bytes(b"spoilt")
        return
    with h5py.File(path, "r") as file:
        chunks = [
            file["labels"].id.get_chunk_info(n) for n in range(file["labels"].id.get_num_chunks())
        ]
    with open(path, "r+b") as file:
        for chunk in chunks:
            file.seek(chunk.byte_offset)
            file.write(bytes(chunk.size))


@pytest.mark.parametrize("name", ["labels.h5", "labels.zarr"])
def test_a_chunk_that_was_decoded_is_not_decoded_again(tmp_path, name):
    labels = np.random.default_rng(0).integers(0, 9, (20, 30, 40), dtype=np.uint16)
    path = tmp_path / name
    with create_volume(
        path if path.suffix == ".zarr" else f"{path}:labels",
        labels.shape,
        labels.dtype,
        chunks=(8, 8, 8),
    ) as volume:
        volume[...] = labels
    kept, forgotten = open_volume(path), open_volume(path)
    # all its chunks, to their ends, with the store's own notes
    kept.keep_decoded(2 * 24 * 32 * 40 * 2)
    np.testing.assert_array_equal(kept[...], labels)
    np.testing.assert_array_equal(forgotten[:5], labels[:5])
    spoil(path)
    np.testing.assert_array_equal(kept[3:17, 5:29, 1:40], labels[3:17, 5:29, 1:40])
    if name.endswith(".zarr"):  # HDF5 shares what is open in a process
        with pytest.raises(ValueError):
            forgotten[...]


def test_memory_for_chunks_is_shared_out_by_size(tmp_path, source):
    opened, *_ = source
    volume = VolumeConfig(image=opened.image.path, labels=opened.labels.path)
    config = Config(data=DataConfig(train=(volume,), val=(volume,), patch_size=(12, 12, 12)))
    dataset = train_dataset(config, chunk_memory=3000)
    kept = [part.cache_bytes for part in dataset.datasets[0].source.parts.values()]
    assert kept == [1000, 2000]  # uint8 and uint16
    np.testing.assert_array_equal(dataset[3]["labels"], train_dataset(config)[3]["labels"])


def two_volumes(folder):
    """Volumes of which one has channels last, sparse 64-bit labels and a mask."""
    rng = np.random.default_rng(3)
    image, labels = (
        rng.integers(0, 256, (20, 30, 70), dtype=np.uint8),
        rng.integers(-1, 300, (20, 30, 70)),
    )
    plain_one = VolumeConfig(
        image=write(folder / "a.zarr", image),
        weight=0.5,
        labels=write(folder / "b.zarr", labels.astype(np.int64)),
    )
    colours, mask = (
        rng.integers(0, 60000, (70, 30, 20, 1), dtype=np.uint16),
        rng.integers(0, 2, (70, 30, 20)),
    )
    large = rng.integers(0, 2**40, mask.shape, dtype=np.uint64)
    other = VolumeConfig(
        image=write(folder / "c.zarr", colours, axes="xyzc", voxel_size=(9, 9, 20)),
        weight=0.5,
        labels=write(folder / "d.zarr", large, axes="xyz"),
        mask=write(folder / "e.zarr", mask.astype(np.int32), axes="xyz"),
        axes="xyzc",
    )
    return plain_one, other


def test_volumes_in_memory_give_the_same_samples(tmp_path):
    volumes = two_volumes(tmp_path)
    config = Config(data=DataConfig(train=volumes, val=volumes[:1], patch_size=(12, 12, 12)))
    cached = replace(config, data=replace(config.data, cache="memory"))
    for make in (train_dataset, val_dataset):
        expected, got = make(config), make(cached)
        for n in range(6):
            for part in ("image", "labels"):
                assert got[n][part].dtype == expected[n][part].dtype
                np.testing.assert_array_equal(got[n][part], expected[n][part])
    sources = [part.source for part in train_dataset(cached).datasets]
    assert [s.labels.dtype for s in sources] == [np.int64, np.uint64]
    assert sources[1].mask.dtype == np.int32 and sources[1].voxel_size == (9, 9, 20)
    assert sources[1].image.path == volumes[1].image  # what errors name
    with pytest.raises(ValueError):  # mapped for reading
        sources[0].labels.handle[0] = 1


def held():
    """Files in memory that something in this process still uses."""
    gc.collect()
    links = [f"/proc/self/fd/{file}" for file in os.listdir("/proc/self/fd")]
    return [
        link for link in links if os.path.lexists(link) and os.readlink(link).startswith("/memfd:")
    ]


def test_volumes_are_decoded_once_a_node_and_read_by_other_processes(tmp_path, capfd):
    volume, _ = two_volumes(tmp_path)
    config = Config(
        data=DataConfig(
            train=(replace(volume, weight=1.0),), cache="memory", patch_size=(12, 12, 12)
        )
    )
    made = []
    dataset = train_dataset(config, once_a_node=lambda make: made.append(make()) or made[0])
    other_rank = train_dataset(config, once_a_node=lambda make: made[0])
    np.testing.assert_array_equal(other_rank[1]["image"], dataset[1]["image"])
    assert capfd.readouterr().out.count("decoding into memory") == 2  # of image and labels
    Path(tmp_path / "dataset").write_bytes(pickle.dumps(dataset))
    code = "import pickle, sys; print(pickle.load(open(sys.argv[1], 'rb'))[1]['image'].sum())"
    said = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "dataset"], text=True, capture_output=True
    )
    assert int(said.stdout) == dataset[1]["image"].sum(), said.stderr


def test_memory_goes_with_the_dataset(tmp_path):
    volume, _ = two_volumes(tmp_path)
    before = len(held())
    config = Config(
        data=DataConfig(
            train=(replace(volume, weight=1.0),), cache="memory", patch_size=(12, 12, 12)
        )
    )
    dataset = train_dataset(config)
    assert len(held()) == before + 2
    del dataset
    assert len(held()) == before


def test_volumes_that_do_not_fit_into_memory_are_refused(tmp_path, monkeypatch):
    volume, _ = two_volumes(tmp_path)
    config = Config(
        data=DataConfig(
            train=(replace(volume, weight=1.0),), cache="memory", patch_size=(12, 12, 12)
        )
    )
    needed = 20 * 30 * 70 * 9  # image uint8, labels int64
    monkeypatch.setattr(shared_memory.hardware, "memory", lambda: (2**40, needed - 1))
    with pytest.raises(ValueError, match="data.cache none"):
        train_dataset(config)
    monkeypatch.setattr(shared_memory.hardware, "memory", lambda: (2**40, needed))
    assert train_dataset(config)[0]["image"].shape == (1, 12, 12, 12)


def test_a_failure_on_one_rank_is_a_failure_on_all():
    class Second(Ranks):
        def gather(self, value):
            return [(None, "no room"), value]

    with pytest.raises(ValueError, match="no room"):
        Second(1, 2, 1, 2).once_a_node(lambda: pytest.fail("not this rank's to make"))
    assert Ranks().once_a_node(lambda: [1]) == [1]
