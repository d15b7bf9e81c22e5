import io
import re
import sys
import types
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest
import tifffile

from pytc.config import VolumeConfig
from pytc.config_files import load_config_file
from pytc.data.sources import open_source
from pytc.io import datasets
from pytc.io.volume import open_volume
from pytc.main import main

VOXELS = np.arange(3 * 4 * 5, dtype=np.uint8).reshape(3, 4, 5)


def hdf5(path, **arrays):
    with h5py.File(path, "w") as file:
        for name, array in arrays.items():
            file[name] = array


def snemi_zip(path):
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("image/train-input.tif", "image/test-input.tif", "seg/train-labels.tif"):
            content = io.BytesIO()
            tifffile.imwrite(content, VOXELS, photometric="minisblack")
            archive.writestr(name, content.getvalue())


def lucchi_zip(path):
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("train_im.h5", "train_mito.h5", "test_im.h5", "test_mito.h5"):
            content = io.BytesIO()
            hdf5(content, main=VOXELS)
            archive.writestr(name, content.getvalue())


def cremi_file(path):
    hdf5(
        path,
        **{
            "volumes/raw": VOXELS,
            "volumes/labels/neuron_ids": VOXELS.astype(np.uint64),
            "volumes/labels/clefts": VOXELS,
        },
    )


@pytest.fixture
def downloads(monkeypatch):
    """A stand-in for pooch that makes each file once, without a download; the calls it got."""
    calls = []

    def retrieve(url, known_hash, *, fname, path, processor):
        calls.append((url, known_hash))
        path.mkdir(parents=True, exist_ok=True)
        make = {"snemi.zip": snemi_zip, "lucchi%2B%2B.zip": lucchi_zip}.get(fname, cremi_file)
        make(path / fname)
        if processor:
            with zipfile.ZipFile(path / fname) as archive:
                archive.extractall(path / processor)

    stand_in = types.SimpleNamespace(retrieve=retrieve, Unzip=lambda extract_dir: extract_dir)
    monkeypatch.setitem(sys.modules, "pooch", stand_in)
    return calls


@pytest.mark.parametrize("name", datasets.DATASETS)
def test_each_volume_of_a_data_set_opens(tmp_path, downloads, name):
    dataset = datasets.DATASETS[name]
    volumes = datasets.fetch(name, tmp_path)
    assert downloads == [(dataset.url, dataset.known_hash)]
    assert volumes.keys() == dataset.volumes.keys() and "train" in volumes
    for split, config in volumes.items():
        image = open_volume(config.image, axes=config.axes, voxel_size=config.voxel_size)
        assert (image.shape, image.voxel_size) == (VOXELS.shape, dataset.voxel_size)
        assert config.name == f"{name}_{split}"
        assert (config.labels is None) == (name == "snemi3d" and split == "test")
        if config.labels:
            np.testing.assert_array_equal(open_volume(config.labels)[:], VOXELS)


def test_what_fetch_refuses(tmp_path, downloads, monkeypatch):
    with pytest.raises(
        ValueError, match="expected a data set, got 'snemi'; did you mean 'snemi3d'"
    ):
        datasets.fetch("snemi", tmp_path)
    (tmp_path / "cremi_a" / "old").mkdir(parents=True)
    (tmp_path / "cremi_a" / "old" / "sample_A_20160501.hdf").write_text("")
    with pytest.raises(ValueError, match="expected one sample_A_20160501.hdf below"):
        datasets.fetch("cremi_a", tmp_path)
    monkeypatch.setitem(sys.modules, "pooch", None)
    with pytest.raises(ImportError, match=r"pip install -e '\.\[data\]'"):
        datasets.fetch("snemi3d", tmp_path)


def test_volumes_are_printed_as_configs_that_can_be_pasted(tmp_path, downloads, capsys):
    main(["data", "lucchi++", "--folder", str(tmp_path)])
    printed = [
        eval(line, {"VolumeConfig": VolumeConfig}) for line in capsys.readouterr().out.splitlines()
    ]
    assert [Path(volume.image).name for volume in printed] == ["train_im.h5", "test_im.h5"]
    assert open_volume(printed[0].image).shape == VOXELS.shape


def test_data_are_looked_for_in_pytc_data_then_in_data(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert datasets.data_folders() == [Path("data")] and datasets.find("set/file.h5") is None
    assert datasets.locate("set/file.h5:raw") == "data/set/file.h5:raw"
    (tmp_path / "data/set").mkdir(parents=True)
    (tmp_path / "data/set/file.h5").touch()
    monkeypatch.setenv("PYTC_DATA", str(tmp_path / "store"))
    assert datasets.locate("set/file.h5:raw") == "data/set/file.h5:raw"
    (tmp_path / "store/set").mkdir(parents=True)
    (tmp_path / "store/set/file.h5").touch()
    assert datasets.locate("set/file.h5:raw") == f"{tmp_path}/store/set/file.h5:raw"
    assert datasets.writable_data_folder() == tmp_path / "store"
    monkeypatch.setattr(datasets.os, "access", lambda path, mode: path.name != "store")
    assert datasets.writable_data_folder() == Path("data")


@pytest.mark.parametrize("preset", ["fib25.py", "mednext_lucchi.py"])
def test_a_preset_without_its_data_says_how_to_get_them(tmp_path, monkeypatch, preset):
    monkeypatch.chdir(tmp_path)
    config = load_config_file(Path(__file__).parent.parent / "configs" / preset)
    name = config.data.train[0].image.split("/")[1]
    message = rf"data set {re.escape(name)} in \$PYTC_DATA \(not set\) or data/, .* get it: .*"
    with pytest.raises(ValueError, match=message + "or name volumes of yours by --data.train.0"):
        open_source(config.data.train[0], config.data)


def test_the_command_ends_in_one_line(tmp_path, downloads, monkeypatch):
    def run(name):
        with pytest.raises(SystemExit) as ended:
            main(["data", name, "--folder", str(tmp_path)])
        return ended.value.code

    assert run("snemi") == "error: expected a data set, got 'snemi'; did you mean 'snemi3d'?"
    assert run("fib25").endswith("got 'fib25': docs/fib25.md makes its files")
    monkeypatch.setattr(sys.modules["pooch"], "retrieve", refuse_connection)
    assert run("lucchi++") == "error: lucchi++: no route to host"
    monkeypatch.setitem(sys.modules, "pooch", None)
    assert run("lucchi++").startswith("error: lucchi++: downloading data sets needs the extra")


def refuse_connection(*arguments, **more):
    raise OSError("no route to host")
