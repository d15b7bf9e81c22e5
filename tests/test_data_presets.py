"""The presets of public data train on what `pytc data fetch` writes of files of the same layout."""

from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
import tifffile
from PIL import Image
from test_presets import small

from pytc.config_files import load_config_file
from pytc.io import datasets, fetch
from pytc.io.synthetic import make_neurites
from pytc.io.volume import create_volume
from pytc.models.checkpoint import load_model
from pytc.training.loop import train

CONFIGS = Path(__file__).parent.parent / "configs"
READ = {preset: name for name, each in datasets.DATASETS.items() for preset in each.presets}
NOTHING = 2**64 - 1  # where CREMI has no cleft
SIDE = 40


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A folder with downloads of each layout: synthetic neurites in place of tissue."""
    folder = tmp_path_factory.mktemp("published")
    volume = make_neurites((100, SIDE, SIDE), 3)
    image, labels = volume.image, volume.labels.astype(np.uint64)
    clefts = np.where(labels % 7 == 1, labels, NOTHING).astype(np.uint64)
    for sample in "ABC":
        with h5py.File(folder / f"sample_{sample}_20160501.hdf", "w") as file:
            file["volumes/raw"] = image
            file["volumes/labels/neuron_ids"] = labels
            file["volumes/labels/clefts"] = clefts
    tifffile.imwrite(folder / "train-input.tif", image)
    tifffile.imwrite(folder / "train-labels.tif", labels.astype(np.uint16))
    tifffile.imwrite(folder / "test-input.tif", image)
    for split in ("train", "test"):
        for part, array in (("im", image), ("mito", (labels > 0).astype(np.uint8))):
            with h5py.File(folder / f"{split}_{part}.h5", "w") as file:
                file["main"] = array
    slices = {"im": (0, 1000), "mito-train-v2": (0, 400), "mito-val-v2": (400, 500)}
    for name, planes in slices.items():
        (folder / name).mkdir()
        for z in range(*planes):
            if name == "im":
                Image.fromarray(image[z % 100]).save(folder / name / f"im{z:04d}.png")
            else:
                picture = labels[z % 100].astype(np.uint16)
                tifffile.imwrite(folder / name / f"seg{z:04d}.tif", picture)
    deep = np.resize(np.arange(250) % 100, 250)
    with h5py.File(folder / "grayscale_maps.h5", "w") as file:
        file["raw"] = image[deep]
    supervoxels = labels[deep].astype(np.int32)
    ids = np.arange(supervoxels.max() + 1)
    with h5py.File(folder / "groundtruth.h5", "w") as file:
        file["stack"], file["transforms"] = supervoxels, np.stack([ids, ids], axis=1)
    return folder


def fetched(name, published, folder, monkeypatch):
    """Fetch a set from the published files, without a server (tests/test_datasets.py has one)."""
    dataset = datasets.DATASETS[name]
    if not dataset.is_streamed:
        files = sorted(path for path in published.rglob("*") if path.is_file())
        monkeypatch.setattr(fetch, "_downloaded", lambda source, place, notes: None)
        monkeypatch.setattr(fetch, "_unpacked", lambda downloads, place: files)
        fetch.fetch(name, folder)
        return
    cube = make_neurites((SIDE, SIDE, SIDE), 4)
    array = np.transpose(cube.image)  # x, y, z
    place = published / "cube"
    for key, values, axes in (
        ("img", array[..., None], "xyzc"),
        ("seg", np.transpose(cube.labels).astype(np.uint16), "xyz"),
    ):
        with create_volume(
            f"{place}.zarr/{key}", values.shape, values.dtype, axes=axes, overwrite=True
        ) as volume:
            volume[...] = values
    cubes = {
        split: datasets.Split(f"{place}.zarr/img", f"{place}.zarr/seg") for split in dataset.splits
    }
    monkeypatch.setitem(datasets.DATASETS, name, replace(dataset, splits=cubes))
    fetch.fetch(name, folder, ["train", "val"])


@pytest.mark.parametrize("preset", sorted(READ))
def test_a_preset_trains_on_what_is_fetched(preset, published, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PYTC_DATA", raising=False)
    names = {name for name, dataset in datasets.DATASETS.items() if preset in dataset.presets}
    for name in names:
        fetched(name, published, tmp_path / "data", monkeypatch)
    config = load_config_file(CONFIGS / f"{preset}.py")
    real = [volume for volume in (*config.data.train, *config.data.val) if not volume.is_synthetic]
    assert len(real) > 0
    for volume in real:
        assert Path(volume.image.partition(":")[0]).exists() and volume.attribution
    shrunk = small(config)
    val = tuple(replace(volume, skeleton=None) for volume in config.data.val)
    depth = 16 if preset == "snemi3d" else 32
    data = replace(
        shrunk.data, train=config.data.train, val=val, patch_size=(depth, 32, 32), max_tries=1000
    )
    run = train(replace(shrunk, data=data))
    trained, saved, step = load_model(run / "checkpoints" / "last.pt")
    assert step == 2 and saved.target.offsets == config.target.offsets
    assert all(bool(parameter.isfinite().all()) for parameter in trained.parameters())
