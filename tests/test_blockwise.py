"""A decode by blocks gives the bytes of the decode in memory, for any blocks and engine."""

import os
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
from reference_segmentation import random_affinities

from pytc.config import SHORT_AND_LONG, SegmentationConfig
from pytc.io.volume import Volume, create_volume, open_volume
from pytc.segmentation import block_tree, blockwise, plain
from pytc.segmentation.blockwise import segment_volume
from pytc.segmentation.decode import decode

COMPONENTS = SegmentationConfig(0.7, method="components")
AGGLOMERATION = SegmentationConfig(
    0.5,
    method="agglomeration",
    fragment_threshold=0.6,
    fragment_min_size=3,
    fragment_block=(8, 8, 8),
)
WATERSHED = SegmentationConfig(0.7, method="components_watershed")


def stored(path, affinities, axes="czyx", offsets=SHORT_AND_LONG[:3], voxel_size=(30, 8, 8)):
    array = affinities if axes[0] == "c" else np.moveaxis(affinities, 0, -1)
    with create_volume(
        path,
        array.shape,
        array.dtype,
        axes=axes,
        voxel_size=voxel_size,
        attributes={"offsets": offsets},
    ) as volume:
        volume[...] = array
    return open_volume(path)


def left_behind(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("axes", ("czyx", "xyzc"))
@pytest.mark.parametrize("dtype", (np.float16, np.uint8))
@pytest.mark.parametrize("min_size", (0, 4))
def test_components_of_blocks_equal_the_whole(tmp_path, axes, dtype, min_size):
    affinities = random_affinities(np.random.default_rng(6), (11, 9, 10), dtype)
    offsets = ((0, 0, 1), (0, 0, 9), (1, 0, 0), (0, 1, 0))
    volume = stored(tmp_path / "a.zarr", affinities[[2, 0, 0, 1]], axes, offsets)
    expected = plain.flood_fill(affinities, 0.7, min_size)
    for block in ((2, 9, 10), (4, 3, 5), (11, 2, 7), (20, 20, 20), None):
        segment_volume(
            volume,
            tmp_path / "s.zarr",
            SegmentationConfig(0.7, min_size, "components"),
            block=block,
        )
        labels = open_volume(tmp_path / "s.zarr")
        assert labels.axes == axes.replace("c", "") and labels.voxel_size == (30, 8, 8)
        assert labels.dtype == np.uint32
        np.testing.assert_array_equal(labels[...], expected)
    assert left_behind(tmp_path) == ["a.zarr", "s.zarr"]


@pytest.mark.parametrize("name", ("s.zarr", "s.h5:labels"))
@pytest.mark.parametrize("slab", (1, 4, 64))
def test_components_in_memory_equal_the_whole(tmp_path, monkeypatch, name, slab):
    affinities = random_affinities(np.random.default_rng(7), (11, 9, 10), np.uint8)
    volume = stored(tmp_path / "a.zarr", affinities)
    monkeypatch.setattr(blockwise, "SLAB", slab)
    failures = iter([True])  # one write fails, and is done again

    def write(labels, index, values):
        if next(failures, False):
            raise OSError("the server is away")
        real(labels, index, values)

    real = Volume.__setitem__
    monkeypatch.setattr(Volume, "__setitem__", write)
    segment_volume(volume, tmp_path / name, SegmentationConfig(0.7, 4, "components"))
    expected = plain.flood_fill(affinities, 0.7, 4)
    assert expected.any()
    np.testing.assert_array_equal(open_volume(tmp_path / name)[...], expected)


def test_stored_zeros_and_ones_are_warned_of(tmp_path):
    volume = stored(tmp_path / "a.zarr", np.ones((3, 4, 4, 4), np.uint8))
    with pytest.warns(UserWarning, match="uint8 affinities stand for value / 255"):
        segment_volume(volume, tmp_path / "s.zarr", COMPONENTS)


def test_voxels_whose_only_edge_crosses_a_face(tmp_path):
    affinities = np.zeros((3, 4, 4, 4), np.float16)
    for axis in range(3):
        voxel = [3, 3, 3]
        voxel[axis] = 1
        affinities[axis, *voxel] = 1  # to the next voxel, which is in another block
    affinities[0, 1, 0, 0] = affinities[1, 1, 0, 0] = 1  # one voxel, two edges
    volume = stored(tmp_path / "a.zarr", affinities)
    for block in ((2, 2, 2), (2, 1, 2), (1, 1, 1)):
        segment_volume(
            volume, tmp_path / "s.zarr", SegmentationConfig(0.5, method="components"), block=block
        )
        np.testing.assert_array_equal(
            open_volume(tmp_path / "s.zarr")[...], plain.flood_fill(affinities, 0.5)
        )


@pytest.mark.parametrize("seeds", ("components", "sections"))
@pytest.mark.parametrize("shape", ((19, 17, 23), (8, 8, 8), (3, 30, 9)))
def test_agglomeration_by_blocks_equals_the_whole(tmp_path, monkeypatch, seeds, shape):
    affinities = random_affinities(np.random.default_rng(3), shape, np.float16)
    affinities = np.concatenate([affinities, affinities[::-1]])
    volume = stored(tmp_path / "a.zarr", affinities, offsets=SHORT_AND_LONG)
    config = replace(AGGLOMERATION, fragment_seeds=seeds, min_size=5)
    expected = decode(affinities, SHORT_AND_LONG, config, volume.voxel_size)
    assert expected.max() > 1
    monkeypatch.setattr(blockwise, "fits_in_memory", lambda *_: False)
    for engine in ("serial", "threads"):
        segment_volume(volume, tmp_path / "s.zarr", config, engine=engine)
        np.testing.assert_array_equal(open_volume(tmp_path / "s.zarr")[...], expected)
    assert left_behind(tmp_path) == ["a.zarr", "s.zarr"]


@pytest.mark.parametrize("config", (COMPONENTS, AGGLOMERATION))
def test_a_single_file(tmp_path, monkeypatch, config):
    affinities = random_affinities(np.random.default_rng(7), (9, 6, 17))
    volume = stored(tmp_path / "a.zarr", affinities)
    monkeypatch.setattr(blockwise, "fits_in_memory", lambda *_: False)
    segment_volume(volume, f"{tmp_path}/s.h5:labels", config, block=(4, 4, 4))
    np.testing.assert_array_equal(
        open_volume(f"{tmp_path}/s.h5:labels")[...],
        decode(affinities, SHORT_AND_LONG[:3], config, volume.voxel_size),
    )
    assert left_behind(tmp_path) == ["a.zarr", "s.h5"]


def test_the_memory_that_is_free_decides(tmp_path, monkeypatch):
    affinities = random_affinities(np.random.default_rng(9), (70, 2, 3))
    volume = stored(tmp_path / "a.zarr", affinities)
    needed = 2 * 70 * 6 * (3 * 2 + 4)
    by_blocks = []
    original = blockwise._segment_by_blocks
    monkeypatch.setattr(
        blockwise, "_segment_by_blocks", lambda *a: (by_blocks.append(1), original(*a))
    )
    for free, expected in ((needed, 0), (needed - 2, 1)):
        monkeypatch.setattr(blockwise, "memory", lambda free=free: (free, free))
        segment_volume(volume, tmp_path / "s.zarr", COMPONENTS)
        assert len(by_blocks) == expected
        np.testing.assert_array_equal(
            open_volume(tmp_path / "s.zarr")[...], plain.flood_fill(affinities, 0.7)
        )
    with pytest.raises(ValueError, match="70 x 2 x 3 voxels for components_watershed"):
        segment_volume(volume, tmp_path / "s.zarr", WATERSHED)


def test_as_many_blocks_at_once_as_fit(monkeypatch):
    monkeypatch.setattr(block_tree, "thread_count", lambda: 8)
    monkeypatch.setattr(block_tree, "memory", lambda: (10**6, 10**6))
    assert block_tree.free_workers("threads", 10, (10, 10, 10), 100) == (8, 1)
    assert block_tree.free_workers("threads", 10, (10, 10, 10), 2) == (2, 4)
    assert block_tree.free_workers("threads", 100, (10, 10, 10), 100) == (5, 1)
    assert block_tree.free_workers("threads", 10**6, (10, 10, 10), 100) == (1, 8)
    assert block_tree.free_workers("serial", 10, (10, 10, 10), 100) == (1, 8)


def test_refuses(tmp_path):
    affinities = random_affinities(np.random.default_rng(8), (5, 6, 7))
    volume = stored(tmp_path / "a.zarr", affinities)
    with pytest.raises(ValueError, match="5 x 6 x 7 voxels for components_watershed"):
        segment_volume(volume, tmp_path / "s.zarr", WATERSHED, block=(2, 2, 2))
    with pytest.raises(ValueError, match="agglomeration or components with --engine dask:local:2"):
        segment_volume(volume, tmp_path / "s.zarr", WATERSHED, engine="dask:local:2")
    with create_volume(tmp_path / "b.zarr", affinities.shape, np.float16) as bare:
        bare[...] = affinities
    with pytest.raises(ValueError, match="offsets"):
        segment_volume(open_volume(tmp_path / "b.zarr"), tmp_path / "s.zarr", COMPONENTS)
    assert not (tmp_path / "s.zarr").exists()
    (tmp_path / "group.zarr" / "raw").mkdir(parents=True)
    with pytest.raises(ValueError, match="not a Zarr array"):
        segment_volume(volume, tmp_path / "group.zarr", COMPONENTS)
    labels = tmp_path / "group.zarr" / "labels"
    segment_volume(volume, labels, COMPONENTS, block=(2, 2, 2))
    assert sorted(p.name for p in (tmp_path / "group.zarr").iterdir() if p.is_dir()) == [
        "labels",
        "raw",
    ]


DECODE = """
import sys
from pytc.config import SegmentationConfig
from pytc.io.volume import open_volume
from pytc.segmentation import blockwise
if __name__ == "__main__":
    blockwise.fits_in_memory = lambda *_: False
    affinities, output, config, engine = sys.argv[1:]
    config = eval(config)
    volume = open_volume(affinities)
    blockwise.segment_volume(volume, output, config, block=(8, 8, 8), engine=engine)
"""
# PYTC_KILLS=30 PYTC_ENGINE=dask:local:2 pytest tests/test_blockwise.py -k killed
KILLS = int(os.environ.get("PYTC_KILLS", "2"))
ENGINE = os.environ.get("PYTC_ENGINE", "threads")


@pytest.mark.parametrize("config", (COMPONENTS, AGGLOMERATION))
def test_a_killed_decode_goes_on(tmp_path, config):
    """Killed at random times, and started again, until it is done."""
    rng = np.random.default_rng()
    affinities = random_affinities(np.random.default_rng(1), (20, 24, 30), np.float16)
    volume = stored(tmp_path / "a.zarr", affinities)
    (tmp_path / "decode.py").write_text(DECODE)
    arguments = [volume.path, tmp_path / "s.zarr", repr(config), ENGINE]
    command = [sys.executable, tmp_path / "decode.py", *map(str, arguments)]
    done = 0
    for kill in range(KILLS):
        # the blocks of all steps are about 100; the last kills find few or none of them left to do
        more = int(rng.integers(0, 1 + 2 * 90 // KILLS))
        with open(tmp_path / "said", "w") as said:
            process = subprocess.Popen(command, stdout=said, stderr=said)
            while process.poll() is None and len(finished_blocks(tmp_path)) < done + more:
                time.sleep(0.005)
            time.sleep(rng.uniform(0, 0.05))
            process.kill()
            process.wait()
        done = len(finished_blocks(tmp_path))
        if (tmp_path / "s.zarr").exists():
            print(f"done after {kill} kills")
            (tmp_path / "s.zarr").rename(tmp_path / f"s{kill}.zarr")
    assert subprocess.run(command).returncode == 0
    expected = decode(affinities, SHORT_AND_LONG[:3], config, volume.voxel_size)
    for output in tmp_path.glob("s*.zarr"):
        np.testing.assert_array_equal(open_volume(output)[...], expected)
    assert [name for name in left_behind(tmp_path) if name.startswith(".")] == []


def finished_blocks(folder):
    """Files of manifests; folders may vanish meanwhile, which os.walk overlooks."""
    files = [name for _, _, names in os.walk(folder) for name in names]
    return [name for name in files if name[0].isdigit() and name.endswith(".npz")]


def test_dask_decodes_the_same(tmp_path):
    distributed = pytest.importorskip("distributed")
    affinities = random_affinities(np.random.default_rng(5), (17, 12, 11), np.float16)
    volume = stored(tmp_path / "a.zarr", affinities)
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, dashboard_address=None
    ) as cluster:
        for config in (COMPONENTS, AGGLOMERATION):
            engine = f"dask:{cluster.scheduler_address}"
            segment_volume(volume, tmp_path / "s.zarr", config, engine=engine, block=(8, 8, 8))
            np.testing.assert_array_equal(
                open_volume(tmp_path / "s.zarr")[...],
                decode(affinities, SHORT_AND_LONG[:3], config, volume.voxel_size),
            )
