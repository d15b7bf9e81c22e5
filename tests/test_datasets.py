"""Public data by name, from a server on this machine with small files of the same layouts."""

import hashlib
import io
import json
import pickle
import re
import shutil
import sys
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import h5py
import networkx
import numpy as np
import pytest
import tifffile
from documents import commands, text_of
from PIL import Image
from servers import range_server

from pytc.config import VolumeConfig
from pytc.config_files import load_config_file
from pytc.data.sources import open_source
from pytc.io import catalogue, datasets, download, fetch
from pytc.io.placed import Frame, place_labels
from pytc.io.skeleton import load_skeleton
from pytc.io.volume import create_volume, open_volume
from pytc.main import main
from pytc.runs import locked

VOXELS = np.arange(3 * 4 * 5, dtype=np.uint8).reshape(3, 4, 5)
NOTHING, UNKNOWN = 2**64 - 1, 2**64 - 2  # as CREMI stores clefts
STACK = np.resize(VOXELS, (100, 4, 5))  # of SNEMI3D
CUBE = np.random.default_rng(0).integers(0, 256, (30, 20, 10), np.uint8)  # x, y, z
FILES = [name for name, dataset in datasets.DATASETS.items() if not dataset.is_streamed]


def hdf5(path, attributes=None, **arrays):
    with h5py.File(path, "w") as file:
        for name, array in arrays.items():
            file[name] = array
            file[name].attrs.update((attributes or {}).get(name, {}))


def snemi_zip(path):
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("image/train-input.tif", "image/test-input.tif", "seg/train-labels.tif"):
            content = io.BytesIO()
            tifffile.imwrite(content, STACK, photometric="minisblack")
            archive.writestr(name, content.getvalue())


def lucchi_zip(path):
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("train_im.h5", "train_mito.h5", "test_im.h5", "test_mito.h5"):
            content = io.BytesIO()
            hdf5(content, main=VOXELS)
            archive.writestr(name, content.getvalue())


def cremi_file(path):
    labels = VOXELS.astype(np.uint64)
    clefts = np.full(VOXELS.shape, NOTHING, np.uint64)
    clefts[0, 0, :2] = [7, UNKNOWN]
    raw = VOXELS
    placed = {"resolution": [40.0, 4.0, 4.0]}
    inside = dict(placed)
    if "padded" in path.name:
        raw = np.pad(VOXELS, ((2, 2), (3, 3), (4, 4)))
        inside["offset"] = [80.0, 12.0, 16.0]
    attributes = {"volumes/raw": placed, "volumes/labels/neuron_ids": inside}
    attributes["volumes/labels/clefts"] = inside
    arrays = {"volumes/raw": raw, "volumes/labels/neuron_ids": labels}
    hdf5(path, attributes, **arrays, **{"volumes/labels/clefts": clefts})


def fib25_planes():
    return np.random.default_rng(1).integers(0, 256, (250, 4, 5), np.uint8)


def fib25_bodies():
    """Supervoxels, and their bodies."""
    rng = np.random.default_rng(2)
    return rng.integers(0, 40, (250, 4, 5), np.int32), np.array([0, *rng.integers(100, 120, 39)])


def fib25_truth(path):
    supervoxels, bodies = fib25_bodies()
    hdf5(path, stack=supervoxels, transforms=np.stack([np.arange(40), bodies], axis=1))


def mitoem_stack():
    return np.random.default_rng(3).integers(0, 256, (1000, 3, 4), np.uint8)


def mitoem_images(path):
    with zipfile.ZipFile(path, "w") as archive:
        for z, picture in enumerate(mitoem_stack()):
            content = io.BytesIO()
            Image.fromarray(picture).save(content, "png")
            archive.writestr(f"im/im{z:04d}.png", content.getvalue())


def mitoem_labels(path):
    """Labels are numbered as the images are, in a folder for each split."""
    with zipfile.ZipFile(path, "w") as archive:
        for z, picture in enumerate(mitoem_stack()[:500]):
            content = io.BytesIO()
            tifffile.imwrite(content, picture.astype(np.uint16) + 1)
            folder = "mito-train-v2" if z < 400 else "mito-val-v2"
            archive.writestr(f"{folder}/seg{z:04d}.tif", content.getvalue())


MAKERS = {
    "im.zip": mitoem_images,
    "labels.zip": mitoem_labels,
    "snemi.zip": snemi_zip,
    "lucchi++.zip": lucchi_zip,
    "grayscale_maps.h5": lambda path: hdf5(path, raw=fib25_planes()),
    "groundtruth.h5": fib25_truth,
}


@pytest.fixture
def server(tmp_path, monkeypatch):
    """Serves what the test puts there by `serve`; no address of the table is asked."""
    pytest.importorskip("pooch")
    monkeypatch.setattr(download, "WAIT", 0.0)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "served").mkdir()
    with range_server(tmp_path / "served") as server:
        yield server


@pytest.fixture
def serve(server, tmp_path, monkeypatch):
    def serve(name):
        """Make the downloads of a set, and let the table name them, with their checksums."""
        dataset = datasets.DATASETS[name]
        sources = []
        for source in dataset.downloads:
            file = tmp_path / "served" / source.name
            MAKERS.get(source.name, cremi_file)(file)
            checksum = source.checksum and f"sha256:{download.sha256(file)}"
            url = f"{server.url}/{source.name.replace('+', '%2B')}"
            sources.append(replace(source, url=url, checksum=checksum))
        monkeypatch.setitem(datasets.DATASETS, name, replace(dataset, downloads=tuple(sources)))
        return dataset

    return serve


@pytest.mark.parametrize("name", FILES)
def test_each_volume_of_a_data_set_opens(tmp_path, server, serve, name):
    dataset = serve(name)
    volumes = fetch.fetch(name, tmp_path)
    assert len(server.asked) == len(dataset.downloads)
    assert volumes.keys() == dataset.splits.keys() and "train" in volumes
    for split, config in volumes.items():
        image = open_volume(config.image)
        wanted = VOXELS
        planes = slice(*(dataset.splits[split].planes or (None,)))
        if name == "fib25":
            wanted = fib25_planes()[planes]
        elif name == "snemi3d":
            wanted = STACK[planes]
        elif name.startswith("mitoem"):
            wanted = mitoem_stack()[planes]
        elif name.endswith("padded"):
            wanted = np.pad(VOXELS, ((2, 2), (3, 3), (4, 4)))
        np.testing.assert_array_equal(image[:], wanted)
        assert (image.voxel_size, image.axes) == (dataset.voxel_size, "zyx")
        assert image.axes_from == image.voxel_size_from == "attributes"
        assert (config.name, config.axes) == (f"{name}_{split}", dataset.axes)
        assert dataset.licence in config.attribution and dataset.citation in config.attribution
        secret = split == "test" and name.startswith(("snemi3d", "mitoem"))
        assert (config.labels is None) == secret
        if config.labels and name != "fib25":
            labels = VOXELS
            if name == "snemi3d":
                labels = wanted
            elif name.startswith("mitoem"):
                labels = wanted.astype(np.uint16) + 1
            np.testing.assert_array_equal(open_volume(config.labels)[:], labels)
    assert datasets.volumes_in(name, tmp_path / name) == volumes


def test_padded_labels_lie_in_their_image(tmp_path, serve):
    serve("cremi_a_padded")
    config = fetch.fetch("cremi_a_padded", tmp_path)["train"]
    image, labels = open_volume(config.image), open_volume(config.labels)
    frame = Frame("image", image.spatial_shape, image.voxel_size, image.origin)
    placed = place_labels([labels], frame)[:]
    assert (placed[2:-2, 3:-3, 4:-4] == VOXELS).all()
    assert (placed == NOTHING).sum() == placed.size - VOXELS.size  # unlabelled


def test_clefts_are_labels(tmp_path, serve):
    serve("cremi_a")
    config = fetch.fetch("cremi_a", tmp_path)["train"]
    clefts = open_volume(config.image.replace(":raw", ":clefts"))[:]
    assert clefts[0, 0, :3].tolist() == [7, NOTHING, 0] and np.count_nonzero(clefts) == 2


def test_fib25_is_cut_and_its_bodies_are_numbered(tmp_path, serve):
    """As tests/test_docs.py has it for the script of docs/fib25.md."""
    serve("fib25")
    volumes = fetch.fetch("fib25", tmp_path)
    supervoxels, bodies = fib25_bodies()
    for split, part in (("train", slice(0, 130)), ("val", slice(130, 190))):
        labels = open_volume(volumes[split].labels)[:]
        wanted = bodies[supervoxels[part]]
        pairs = {*zip(labels.ravel().tolist(), wanted.ravel().tolist())}
        assert len(pairs) == len(np.unique(labels)) == len(np.unique(wanted)) and (0, 0) in pairs
        first = [labels.ravel().tolist().index(label) for label in range(1, labels.max() + 1)]
        assert first == sorted(first)


def test_the_preset_of_fib25_reads_what_is_fetched(tmp_path, serve):
    serve("fib25")
    volumes = fetch.fetch("fib25")
    path = Path(__file__).parent.parent / "configs" / "fib25.py"
    data = load_config_file(path).data
    named = [(volume.image, volume.labels, volume.skeleton) for volume in data.train + data.val]
    assert named == [(each.image, each.labels, None) for each in volumes.values()]
    Path("data/fib25/fib25_val_skeleton.pkl").touch()  # made by hand, see docs/fib25.md
    skeleton = load_config_file(path).data.val[0].skeleton
    assert skeleton == "data/fib25/fib25_val_skeleton.pkl"
    assert datasets.volumes("fib25")["val"].skeleton == skeleton


def test_a_region_alone(tmp_path, serve):
    serve("snemi3d")
    config = fetch.fetch("snemi3d", tmp_path, ["train"], "1:3,:2,2:")["train"]
    image, labels = open_volume(config.image), open_volume(config.labels)
    np.testing.assert_array_equal(image[:], STACK[1:3, :2, 2:])
    np.testing.assert_array_equal(labels[:], STACK[1:3, :2, 2:])
    assert image.origin.at == (1, 0, 2) and image.origin == labels.origin
    with pytest.raises(ValueError, match="expected .* with the region of all voxels .* got '1:3"):
        fetch.fetch("snemi3d", tmp_path, ["train"])
    with pytest.raises(ValueError, match=r"expected a region inside of \(100, 4, 5\) voxels"):
        fetch.fetch("snemi3d", tmp_path / "other", ["train"], ":900,:,:")


def test_a_region_of_a_padded_volume(tmp_path, serve):
    serve("cremi_b_padded")
    config = fetch.fetch("cremi_b_padded", tmp_path, (), "1:4,:,5:")["train"]
    image, labels = open_volume(config.image), open_volume(config.labels)
    assert image.shape == (3, 10, 8)
    np.testing.assert_array_equal(labels[:], VOXELS[:2, :, 1:])
    frame = Frame("image", image.spatial_shape, image.voxel_size, image.origin)
    assert place_labels([labels], frame).pieces[0].box.start == (1, 3, 0)
    with pytest.raises(ValueError, match="expected a region with labels"):
        fetch.fetch("cremi_b_padded", tmp_path / "other", (), ":2,:,:")


def test_what_is_there_is_said_to_be_there(tmp_path, server, serve, caplog):
    serve("lucchi++")
    caplog.set_level("INFO", "pytc")
    fetch.fetch("lucchi++", tmp_path, ["test"])
    assert sorted(path.name for path in (tmp_path / "lucchi++").iterdir()) == [
        ".lock",
        "downloads",
        "fetched.json",
        "lucchi++_test.h5",
    ]
    server.asked.clear()
    caplog.clear()
    fetch.fetch("lucchi++", tmp_path)  # the archive is there: the other volume is made of it
    assert server.asked == [] and f"{tmp_path}/lucchi++/lucchi++_test.h5 is there" in caplog.text
    shutil.rmtree(tmp_path / "lucchi++" / "downloads")
    fetch.fetch("lucchi++", tmp_path)
    assert server.asked == []


def test_two_that_fetch_a_set_at_once_download_it_once(tmp_path, server, serve):
    serve("lucchi++")
    place = tmp_path / "data" / "lucchi++"
    with ThreadPoolExecutor(2) as threads, locked(place):
        both = [threads.submit(fetch.fetch, "lucchi++", tmp_path / "data") for _ in range(2)]
        time.sleep(0.3)
        assert server.asked == [] and not any(each.done() for each in both)  # they wait
    first, second = (each.result() for each in both)
    assert first == second and len(server.asked) == 1


def test_files_that_somebody_made_are_left_as_they_are(tmp_path, server, serve):
    serve("fib25")
    (tmp_path / "fib25").mkdir()
    for split in ("train", "val"):
        hdf5(tmp_path / "fib25" / f"fib25_{split}.h5", raw=VOXELS, labels=VOXELS)
    fetch.fetch("fib25", tmp_path)
    assert server.asked == []


def test_what_an_older_release_has_unpacked_is_found(tmp_path):
    folder = tmp_path / "lucchi++" / "unpacked"
    folder.mkdir(parents=True)
    lucchi_zip(tmp_path / "a.zip")
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        archive.extractall(folder)
    config = datasets.volumes_in("lucchi++", tmp_path / "lucchi++")["train"]
    assert (config.image, config.labels) == (f"{folder}/train_im.h5", f"{folder}/train_mito.h5")


def test_an_interrupted_fetch_goes_on(tmp_path, server, serve):
    serve("snemi3d")
    server.breaks = [100, *[0] * (download.ATTEMPTS - 1)]
    with pytest.raises(OSError, match="broke off after 100 of"):
        fetch.fetch("snemi3d", tmp_path)
    server.asked.clear()
    config = fetch.fetch("snemi3d", tmp_path)["train"]
    assert server.asked == [("/snemi.zip", "bytes=100-")]
    np.testing.assert_array_equal(open_volume(config.image)[:], STACK)


def test_a_conversion_that_ends_early_leaves_nothing_that_looks_finished(
    tmp_path, serve, monkeypatch
):
    serve("cremi_c")
    with monkeypatch.context() as patch:
        patch.setattr(fetch, "_cleft_labels", refuse_connection)
        with pytest.raises(OSError, match="no route"):
            fetch.fetch("cremi_c", tmp_path)
    assert not (tmp_path / "cremi_c" / "cremi_c_train.h5").exists()
    with h5py.File(fetch.fetch("cremi_c", tmp_path)["train"].image.partition(":")[0]) as file:
        assert set(file) == {"raw", "labels", "clefts"}


def test_a_checksum_that_is_not_published_is_noted_and_then_enforced(tmp_path, server, serve):
    serve("cremi_a_padded")
    name = "sample_A_padded_20160501.hdf"
    fetch.fetch("cremi_a_padded", tmp_path)
    notes = json.loads((tmp_path / "cremi_a_padded" / "fetched.json").read_text())
    content = (tmp_path / "served" / name).read_bytes()
    assert notes["checksums"] == {name: f"sha256:{hashlib.sha256(content).hexdigest()}"}
    (tmp_path / "served" / name).write_bytes(content + b"changed")
    shutil.rmtree(tmp_path / "cremi_a_padded" / "downloads")
    (tmp_path / "cremi_a_padded" / "cremi_a_padded_train.h5").unlink()
    with pytest.raises(
        ValueError, match=f"expected .* with the checksum {notes['checksums'][name]}"
    ):
        fetch.fetch("cremi_a_padded", tmp_path)
    assert not (tmp_path / "cremi_a_padded" / "downloads" / name).exists()


def test_a_damaged_download_is_refused(tmp_path, server, serve):
    serve("lucchi++")
    file = tmp_path / "served" / "lucchi++.zip"
    content = bytearray(file.read_bytes())
    content[100] ^= 1
    file.write_bytes(content)
    with pytest.raises(ValueError, match="got another file or a damaged one; it was removed"):
        fetch.fetch("lucchi++", tmp_path)
    assert list((tmp_path / "lucchi++").rglob("*.h5")) == []


def test_an_archive_without_a_file_is_refused(tmp_path, serve, monkeypatch):
    serve("snemi3d")
    dataset = datasets.DATASETS["snemi3d"]
    with zipfile.ZipFile(tmp_path / "served" / "snemi.zip", "w") as archive:
        archive.writestr("readme", "")
    changed = replace(dataset, downloads=(replace(dataset.downloads[0], checksum=None),))
    monkeypatch.setitem(datasets.DATASETS, "snemi3d", changed)
    with pytest.raises(
        ValueError, match="expected one train-input.tif in the download, got 'none'"
    ):
        fetch.fetch("snemi3d", tmp_path)


def graph():
    nodes = networkx.Graph()
    for number, place in enumerate([(1, 1, 1), (12, 10, 4), (14, 12, 6)]):
        nodes.add_node(number, id=3, index_position=place, nm_position=tuple(np.multiply(place, 9)))
    nodes.add_edges_from([(0, 1), (1, 2)])
    return nodes


@pytest.fixture
def nisb(server, tmp_path, monkeypatch):
    """The set nisb_base with two small cubes."""
    dataset = datasets.DATASETS["nisb_base"]
    splits = {}
    for split in ("train_0", "val"):
        folder = tmp_path / "served" / split
        arrays = {"img": (CUBE[..., None], "xyzc"), "seg": (CUBE.astype(np.uint16), "xyz")}
        for key, (array, axes) in arrays.items():
            path = folder / "data.zarr" / key
            with create_volume(path, array.shape, array.dtype, axes=axes) as volume:
                volume[...] = array
        (folder / "skeleton.pkl").write_bytes(pickle.dumps(graph()))
        url = f"{server.url}/{split}"
        skeleton = datasets.Download(f"{url}/skeleton.pkl", f"{split}_skeleton.pkl")
        at = (f"{url}/data.zarr/img", f"{url}/data.zarr/seg")
        splits[split] = datasets.Split(*at, skeleton=skeleton)
    monkeypatch.setitem(datasets.DATASETS, "nisb_base", replace(dataset, splits=splits))
    monkeypatch.setattr(fetch, "BLOCK", 8)


def test_a_cube_is_streamed(tmp_path, nisb):
    config = fetch.fetch("nisb_base", tmp_path, ["train"])
    assert list(config) == ["train_0"]
    config = config["train_0"]
    image, labels = open_volume(config.image), open_volume(config.labels)
    np.testing.assert_array_equal(image[:], CUBE[..., None])
    np.testing.assert_array_equal(labels[:], CUBE)
    assert (image.axes, labels.axes) == ("xyzc", "xyz")
    assert image.voxel_size == labels.voxel_size == (9, 9, 20)
    skeleton = load_skeleton(config.skeleton)
    assert skeleton.positions.tolist() == [[1, 1, 1], [12, 10, 4], [14, 12, 6]]
    assert config.axes is None  # the files say theirs
    names = sorted(
        path.name for path in (tmp_path / "nisb_base" / "nisb_base_train_0.zarr").iterdir()
    )
    assert names == [".zgroup", "img", "seg"]


def test_a_region_of_a_cube_with_its_skeletons(tmp_path, nisb):
    config = fetch.fetch("nisb_base", tmp_path, ["val"], "2:8,4:16,5:25")["val"]
    image, labels = open_volume(config.image), open_volume(config.labels)
    np.testing.assert_array_equal(image[:], CUBE[5:25, 4:16, 2:8, None])
    np.testing.assert_array_equal(labels[:], CUBE[5:25, 4:16, 2:8])
    assert image.origin == labels.origin and image.origin.at == (5, 4, 2)
    skeleton = load_skeleton(config.skeleton)
    assert skeleton.positions.tolist() == [[7, 6, 2], [9, 8, 4]] and len(skeleton.edges) == 1


def test_an_interrupted_stream_goes_on_with_the_blocks_that_are_left(tmp_path, nisb, monkeypatch):
    copied = []
    blocks = list(fetch._blocks((30, 20, 10)))

    def break_off(self, done, note=""):
        copied.append(done)
        if len(copied) == 5:
            raise OSError("no route to host")

    monkeypatch.setattr(fetch.Progress, "show", break_off)
    with pytest.raises(OSError, match="no route"):
        fetch.fetch("nisb_base", tmp_path, ["train"])
    assert not (tmp_path / "nisb_base" / "nisb_base_train_0.zarr").exists()
    config = fetch.fetch("nisb_base", tmp_path, ["train"])["train_0"]
    assert len(copied) == 2 * len(blocks)  # each block of both arrays once
    np.testing.assert_array_equal(open_volume(config.image)[:], CUBE[..., None])


def test_a_damaged_chunk_ends_a_stream_which_then_goes_on(tmp_path, nisb):
    chunk = tmp_path / "served" / "val" / "data.zarr" / "seg" / "0" / "0" / "0"
    content = chunk.read_bytes()
    chunk.write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match="seg"):
        fetch.fetch("nisb_base", tmp_path, ["val"])
    assert not (tmp_path / "nisb_base" / "nisb_base_val.zarr").exists()
    chunk.write_bytes(content)
    config = fetch.fetch("nisb_base", tmp_path, ["val"])["val"]
    np.testing.assert_array_equal(open_volume(config.labels)[:], CUBE)


def test_what_fetch_refuses(tmp_path, monkeypatch):
    with pytest.raises(
        ValueError, match="expected a data set, got 'snemi'; did you mean 'snemi3d'"
    ):
        fetch.fetch("snemi", tmp_path)
    with pytest.raises(
        ValueError, match="expected --split from train, part, val, test of .* got 'other'"
    ):
        fetch.fetch("snemi3d", tmp_path, ["other"])
    (tmp_path / "snemi3d").mkdir()
    (tmp_path / "snemi3d" / "fetched.json").write_text("{}")
    with pytest.raises(ValueError, match="expected what pytc data fetch has noted"):
        fetch.fetch("snemi3d", tmp_path)
    monkeypatch.setitem(sys.modules, "pooch", None)
    with pytest.raises(ImportError, match=r"pip install -e '\.\[data\]'"):
        fetch.fetch("cremi_a", tmp_path)


@pytest.mark.parametrize(
    "words", [["lucchi++", "--folder"], ["fetch", "lucchi++", "--output"]], ids=["before", "now"]
)
def test_volumes_are_printed_as_configs_that_can_be_pasted(tmp_path, serve, capsys, words):
    serve("lucchi++")
    main(["data", *words, str(tmp_path), "--quiet"])
    printed = [
        eval(line, {"VolumeConfig": VolumeConfig}) for line in capsys.readouterr().out.splitlines()
    ]
    names = [Path(volume.image).name for volume in printed]
    assert names == ["lucchi++_train.h5:raw", "lucchi++_test.h5:raw"]
    assert open_volume(printed[0].image).shape == VOXELS.shape


def test_every_data_set_is_listed_and_described(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    hdf5_folder = tmp_path / "data" / "snemi3d"
    hdf5_folder.mkdir(parents=True)
    hdf5(hdf5_folder / "snemi3d_train.h5", raw=VOXELS)
    main(["data", "list"])
    listed = capsys.readouterr().out
    for name in (*datasets.DATASETS, *datasets.BY_HAND):
        assert re.search(rf"^{re.escape(name)} ", listed, re.MULTILINE)
    assert "[1 of 4 in data/snemi3d]" in listed
    for name, dataset in datasets.DATASETS.items():
        main(["data", "show", name])
        shown = capsys.readouterr().out
        sources = [source.url for source in dataset.downloads]
        for word in (dataset.licence, dataset.citation, *dataset.splits, *sources):
            assert word in shown
    with pytest.raises(ValueError, match="did you mean 'fib25'"):
        catalogue.describe("fib52")


DOCUMENT = text_of("docs/data.md")


def test_the_document_has_the_table_of_the_sets():
    assert catalogue.markdown() in DOCUMENT and catalogue.citations() in DOCUMENT


def test_every_command_of_the_document_runs(tmp_path, serve, nisb, capsys):
    """A region is cut down to the cubes of the test."""
    serve("cremi_a")
    serve("snemi3d")
    assert len(commands("docs/data.md")) == 5
    for command in commands("docs/data.md"):
        program, *words = command.replace("0:128,0:512,0:512", "0:8,0:16,0:20").split()
        assert program == "pytc"
        main(words)
    assert capsys.readouterr().out.count("VolumeConfig(") == 1 + 2 + 2
    fetched = ["cremi_a_train.h5", "snemi3d_part.h5", "snemi3d_val.h5", "nisb_base_val.zarr"]
    for name in fetched:
        assert list(Path("data").glob(f"*/{name}"))


def test_every_preset_that_a_data_set_names_exists():
    presets = {path.stem for path in (Path(__file__).parent.parent / "configs").glob("*.py")}
    assert {each for dataset in datasets.DATASETS.values() for each in dataset.presets} <= presets


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


@pytest.mark.parametrize(
    "preset",
    ["fib25.py", "mednext_lucchi.py", "cremi.py", "cremi_clefts.py", "snemi3d.py", "nisb.py"],
)
def test_a_preset_without_its_data_says_how_to_get_them(tmp_path, monkeypatch, preset):
    monkeypatch.chdir(tmp_path)
    config = load_config_file(Path(__file__).parent.parent / "configs" / preset)
    name = config.data.train[0].image.split("/")[1]
    message = rf"data set {re.escape(name)} in \$PYTC_DATA \(not set\) or data/, .* get it: .*"
    with pytest.raises(ValueError, match=message + "or name volumes of yours by --data.train.0"):
        open_source(config.data.train[0], config.data)


def test_the_command_ends_in_one_line(tmp_path, serve, monkeypatch):
    def run(name):
        with pytest.raises(SystemExit) as ended:
            main(["data", name, "--folder", str(tmp_path)])
        return ended.value.code

    assert run("snemi") == "error: expected a data set, got 'snemi'; did you mean 'snemi3d'?"
    assert "got 'vnc': https://github.com/unidesigner" in run("vnc")
    serve("lucchi++")
    with monkeypatch.context() as patch:
        patch.setattr(download.ResumingDownloader, "__call__", refuse_connection)
        assert run("lucchi++") == "error: lucchi++: no route to host"
    monkeypatch.setitem(sys.modules, "pooch", None)
    assert run("lucchi++").startswith("error: lucchi++: downloading data sets needs the extra")


def refuse_connection(*arguments, **more):
    raise OSError("no route to host")
