"""Writing volumes: when they appear, what is refused, several processes, killed writers."""

import json
import os
import pickle
import subprocess
import sys
import textwrap
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import h5py
import numpy as np
import pytest
from small_volumes import ROOT, pixels, written

from pytc.io.volume import chunks_of_blocks, create_volume, open_volume


@pytest.mark.parametrize("name", ["v.h5", "v.tif", "v.npy"])
def test_a_single_file_appears_when_it_is_whole(tmp_path, name):
    array = pixels((4, 5, 6), "uint8")
    with (
        pytest.raises(RuntimeError),
        create_volume(tmp_path / name, array.shape, array.dtype) as volume,
    ):
        volume[:2] = array[:2]
        assert not (tmp_path / name).exists()
        with pytest.raises(ValueError, match="is being written"):
            create_volume(tmp_path / name, array.shape, array.dtype)
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ValueError, match="is closed"):
        volume[0] = 1
    with pytest.raises(ValueError, match="process that created it"):
        pickle.dumps(volume)
    written(tmp_path / name, array)
    assert [path.name for path in tmp_path.iterdir()] == [name]
    with pytest.raises(ValueError, match="open for reading"):
        open_volume(tmp_path / name)[0] = 1


@pytest.mark.parametrize("name", ["v.zarr", "v3.zarr", "v.h5", "v.tif", "v.npy"])
def test_an_existing_volume_is_refused_unless_overwritten(tmp_path, name):
    old, new = pixels((9, 9, 9), "uint8"), pixels((4, 5, 6), "uint16")
    written(tmp_path / name, old)
    with pytest.raises(ValueError, match="exists"):
        written(tmp_path / name, new)
    np.testing.assert_array_equal(open_volume(tmp_path / name)[:], old)
    written(tmp_path / name, new, overwrite=True)
    np.testing.assert_array_equal(open_volume(tmp_path / name)[:], new)


def test_overwriting_takes_nothing_else_with_it(tmp_path):
    with h5py.File(tmp_path / "two.h5", "w") as file:
        file["raw"], file["labels"] = np.zeros((2, 4, 5, 6), np.uint8)
    with pytest.raises(ValueError, match="more than raw: labels, raw"):
        create_volume(tmp_path / "two.h5:raw", (4, 5, 6), "uint8", overwrite=True)
    written(tmp_path / "group.zarr" / "img", pixels((4, 5, 6), "uint8"))
    (tmp_path / "thesis.zarr").mkdir()
    for name in ("group.zarr", "thesis.zarr"):
        with pytest.raises(ValueError, match="exists"):
            create_volume(tmp_path / name, (4, 5, 6), "uint8", overwrite=True)
    with pytest.raises(ValueError, match="none of which is an array, got .*img"):
        create_volume(tmp_path / "group.zarr" / "img" / "labels", (4, 5, 6), "uint8")


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"path": "v.mrc"}, "ends in .zarr"),
        ({"shape": (4, 5)}, "three axes"),
        ({"shape": (0, 4, 5)}, "none empty"),
        ({"dtype": "complex64"}, "complex64"),
        ({"axes": "czyx"}, "order of zyx"),
        ({"voxel_size": (1, 2)}, "one voxel size of three"),
        ({"voxel_size": (1, 2, 0)}, "three positive"),
        ({"chunks": (64, 64)}, "chunks of 3 axes"),
        ({"chunks": (64, 64, 0)}, "chunks of 3 axes"),
        ({"zarr_format": 4}, "zarr_format of 2 or 3"),
        ({"attributes": {"offsets": [[1, 0, 0]] * 3}}, "each of 1 offsets"),
        ({"attributes": {"axes": "zyxc"}}, "order of zyx"),
        ({"attributes": {"resolution": [1, 2, 3]}, "voxel_size": (1, 2, 4)}, "one voxel size"),
        ({"path": "v.npy", "voxel_size": (1, 2, 3)}, "cannot hold"),
        ({"path": "v.npy", "axes": "xyz"}, "cannot hold"),
        ({"path": "v.h5", "attributes": {"nested": {"a": [1]}}}, "cannot create .* 'nested'"),
        ({"path": "v.h5", "chunks": (64, 64, 64)}, "cannot create"),
    ],
)
def test_impossible_volumes_are_refused_before_anything_is_written(tmp_path, arguments, message):
    arguments = {"path": "v.zarr", "shape": (4, 5, 6), "dtype": "uint8"} | arguments
    with pytest.raises(ValueError, match=message):
        create_volume(
            tmp_path / arguments.pop("path"),
            arguments.pop("shape"),
            arguments.pop("dtype"),
            **arguments,
        )
    assert list(tmp_path.iterdir()) == []


def test_attributes_of_a_volume_make_another_like_it(tmp_path):
    first = create_volume(
        tmp_path / "a.zarr", (4, 5, 6), "uint8", axes="xyz", voxel_size=(9, 9, 20)
    )
    second = create_volume(tmp_path / "b.zarr", (4, 5, 6), "uint8", attributes=first.attributes)
    assert (second.axes, second.voxel_size) == ("xyz", (9.0, 9.0, 20.0))


def test_values_that_do_not_fit(tmp_path):
    volume = create_volume(tmp_path / "v.zarr", (4, 5, 6), "uint8")
    with pytest.raises(ValueError, match="fit uint8"):
        volume[:] = np.zeros((4, 5, 6), np.float32)
    with pytest.raises(ValueError, match="fit uint8"):
        volume[:] = 256
    with pytest.raises(ValueError, match=r"shape \(5, 6\)"):
        volume[0] = np.zeros((1, 6), np.uint8)


def test_labels_that_would_wrap_around_are_refused(tmp_path):
    volume = create_volume(tmp_path / "v.zarr", (4, 5, 6), "int32")
    volume[0] = np.full((5, 6), 2**31 - 1, np.int64)
    with pytest.raises(ValueError, match="fit int32"):
        volume[1] = np.full((5, 6), 2**31, np.int64)
    assert volume[:2].max() == 2**31 - 1 and not volume[1].any()


def test_zarr_layout_is_the_specified_one(tmp_path):
    shape = (2, 100, 70, 30)
    made = {"axes": "czyx", "voxel_size": [1.0, 2.0, 3.0], "unit": "nm"}
    for version in (2, 3):
        path = tmp_path / f"{version}.zarr:a/b"
        create_volume(path, shape, "float16", voxel_size=(1.0, 2.0, 3.0), zarr_format=version)
    assert json.loads((tmp_path / "2.zarr/.zgroup").read_text()) == {"zarr_format": 2}
    assert json.loads((tmp_path / "2.zarr/a/.zgroup").read_text()) == {"zarr_format": 2}
    assert json.loads((tmp_path / "2.zarr/a/b/.zattrs").read_text()) == made
    array = json.loads((tmp_path / "2.zarr/a/b/.zarray").read_text())
    assert (array["chunks"], array["dtype"], array["fill_value"]) == ([1, 64, 64, 30], "<f2", 0)
    assert json.loads((tmp_path / "3.zarr/zarr.json").read_text()) == {
        "zarr_format": 3,
        "node_type": "group",
    }
    array = json.loads((tmp_path / "3.zarr/a/b/zarr.json").read_text())
    assert (array["data_type"], array["attributes"]) == ("float16", made)
    assert array["chunk_grid"]["configuration"] == {"chunk_shape": [1, 64, 64, 30]}
    assert not open_volume(tmp_path / "2.zarr/a/b")[:].any()


@pytest.mark.parametrize("version", [2, 3])
def test_compression_0_is_lz4(tmp_path, version):
    array = pixels((70, 5, 6), "uint32")
    path = tmp_path / "v.zarr"
    create_volume(path, array.shape, array.dtype, zarr_format=version, compression=0)[...] = array
    np.testing.assert_array_equal(open_volume(path)[...], array)
    metadata = "".join(
        file.read_text() for file in (path / ".zarray", path / "zarr.json") if file.is_file()
    )
    assert '"lz4"' in metadata and "zstd" not in metadata


def test_a_zarr_array_can_be_continued(tmp_path):
    array = pixels((4, 5, 6), "uint8")
    written(tmp_path / "v.zarr", array)
    volume = open_volume(tmp_path / "v.zarr", writable=True)
    volume[1] = 7
    np.testing.assert_array_equal(open_volume(tmp_path / "v.zarr")[1], np.full((5, 6), 7))
    np.testing.assert_array_equal(open_volume(tmp_path / "v.zarr")[2:], array[2:])
    written(tmp_path / "v.npy", array)
    with pytest.raises(ValueError, match="Zarr array to write more"):
        open_volume(tmp_path / "v.npy", writable=True)


def fill_block(volume, start, stop, value):
    volume[start:stop] = value


def test_processes_write_chunks_of_one_zarr_array(tmp_path):
    volume = create_volume(tmp_path / "v.zarr", (64, 20, 20), "uint32", chunks=(8, 8, 8))
    with ProcessPoolExecutor(2, get_context("spawn")) as pool:
        jobs = [pool.submit(fill_block, volume, z, z + 8, z + 1) for z in range(0, 64, 8)]
    assert all(job.exception() is None for job in jobs)
    wanted = np.repeat(np.arange(0, 64, 8) + 1, 8)
    np.testing.assert_array_equal(volume[:], np.broadcast_to(wanted[:, None, None], (64, 20, 20)))


def run_python(code, folder):
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )


@pytest.mark.parametrize(
    "name, read_before", [("v.h5", True), ("v.tif", True), ("v.npy", True), ("v.zarr", False)]
)
def test_a_forked_worker_reads_through_its_own_handle(tmp_path, name, read_before):
    written(tmp_path / name, pixels((40, 30, 70), "uint16"))
    result = run_python(
        f"""
        import os
        import numpy as np
        from pytc.io.volume import open_volume
        volume = open_volume("{name}")
        stored = np.random.default_rng(0).bytes(40 * 30 * 70 * 2)
        wanted = np.frombuffer(stored, np.uint16).reshape(40, 30, 70)
        assert not {read_before} or (volume[:5] == wanted[:5]).all()
        children = []
        for _ in range(2):
            child = os.fork()
            if child == 0:
                equal = all((volume[z] == wanted[z]).all() for _ in range(5) for z in range(40))
                os._exit(0 if equal and volume._pid == os.getpid() else 1)
            children.append(child)
        assert all((volume[z] == wanted[z]).all() for z in range(40))
        assert [os.waitpid(child, 0)[1] for child in children] == [0, 0]
    """,
        tmp_path,
    )
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("name", ["v.h5", "v.tif", "v.npy"])
def test_a_killed_writer_leaves_nothing_that_looks_finished(tmp_path, name):
    result = run_python(
        f"""
        import os, signal
        from pytc.io.volume import create_volume
        volume = create_volume("{name}", (40, 30, 70), "uint8")
        volume[:20] = 1
        os.kill(os.getpid(), signal.SIGKILL)
    """,
        tmp_path,
    )
    assert result.returncode == -9
    assert not (tmp_path / name).exists()
    written(tmp_path / name, pixels((40, 30, 70), "uint8"))


def test_a_forked_child_leaves_its_parents_unfinished_file_alone(tmp_path):
    result = run_python(
        """
        import os
        from pytc.io.volume import create_volume
        with create_volume("v.h5", (4, 5, 6), "uint8") as volume:
            child = os.fork()
            if child == 0:
                volume.__exit__(SystemExit, None, None)  # what leaving the block by sys.exit does
                os._exit(0)
            assert os.waitpid(child, 0)[1] == 0
            volume[:] = 1
    """,
        tmp_path,
    )
    assert result.returncode == 0, result.stderr
    assert open_volume(tmp_path / "v.h5")[:].all()


@pytest.mark.parametrize(
    "block, chunks",
    [
        ((256, 256, 256), (64, 64, 64)),
        ((100, 128, 250), (50, 64, 50)),
        ((211, 64, 1), (211, 64, 1)),
    ],
)
def test_no_chunk_lies_in_two_blocks(block, chunks):
    assert chunks_of_blocks(block, (1000, 1000, 1000)) == chunks
