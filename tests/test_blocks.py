"""Steps over blocks: every engine gives the same bytes, and a killed step goes on."""

import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from pytc.blocks import ATTEMPTS, Manifest, map_blocks
from pytc.geometry import blocks
from pytc.io.volume import create_volume, open_volume
from pytc.runs import locked
from pytc.script import RunError

SHAPE = (40, 50, 60)
BLOCK = (16, 16, 16)
BOXES = blocks(SHAPE, BLOCK)


@dataclass(frozen=True)
class Smoothed:
    """A step with a halo of one plane: the sum of each voxel and the one above it."""

    source: str
    target: str
    seconds: float = 0.0

    def __call__(self, box):
        (z, y, x), stop = box.start, box.stop
        before = max(0, z - 1)
        values = open_volume(self.source)[before : stop[0], y : stop[1], x : stop[2]]
        total = values[z - before :].astype(np.int64)
        total[1 if z == 0 else 0 :] += values[: len(total) - (1 if z == 0 else 0)]
        time.sleep(self.seconds)
        open_volume(self.target, writable=True)[box.slices] = total
        return {"sum": total.sum(), "start": np.array(box.start)}


@pytest.fixture
def step(tmp_path):
    values = np.random.default_rng(0).integers(0, 100, SHAPE)
    with create_volume(tmp_path / "source.zarr", SHAPE, np.int32, chunks=BLOCK) as volume:
        volume[...] = values
    create_volume(tmp_path / "target.zarr", SHAPE, np.int64, chunks=BLOCK).close()
    return Smoothed(str(tmp_path / "source.zarr"), str(tmp_path / "target.zarr"))


def check(step, results):
    values = open_volume(step.source)[...].astype(np.int64)
    values[1:] += values[:-1].copy()
    np.testing.assert_array_equal(open_volume(step.target)[...], values)
    assert [tuple(result["start"]) for result in results] == [box.start for box in BOXES]
    assert sum(int(result["sum"]) for result in results) == values.sum()


@pytest.mark.parametrize("engine", ["serial", "threads"])
@pytest.mark.parametrize("stored", [False, True])
def test_engines_give_the_same(step, tmp_path, engine, stored):
    manifest = Manifest(tmp_path / "blocks", "key") if stored else None
    check(step, map_blocks(step, BOXES, manifest=manifest, engine=engine, workers=3))


def test_finished_blocks_are_not_done_again(step, tmp_path):
    manifest = Manifest(tmp_path / "blocks", "key")
    calls = []

    def counted(box):
        calls.append(box)
        return step(box)

    map_blocks(counted, BOXES, manifest=manifest, numbers=range(0, len(BOXES), 2))
    assert manifest.finished() == set(range(0, len(BOXES), 2))
    check(step, map_blocks(counted, BOXES, manifest=manifest))
    assert len(calls) == len(BOXES)
    map_blocks(counted, BOXES, manifest=Manifest(tmp_path / "blocks", "another key"))
    assert len(calls) == 2 * len(BOXES)


def test_manifests_hold_more_blocks_than_a_folder(tmp_path):
    manifest = Manifest(tmp_path, "key")
    for number in (0, 999, 1000, 1234567890):
        manifest.write(number, {"n": np.array(number)})
    assert manifest.finished() == {0, 999, 1000, 1234567890}
    assert manifest.read(1234567890)["n"] == 1234567890
    assert manifest.has(999) and not manifest.has(998)


def test_a_block_that_fails_once_is_tried_again(tmp_path):
    failed = []

    def step(box):
        if box == BOXES[3] and not failed:
            failed.append(box)
            raise OSError("away for a moment")

    assert len(map_blocks(step, BOXES, manifest=Manifest(tmp_path, "key"))) == len(BOXES)
    assert failed


def test_a_block_that_keeps_failing_is_named_after_the_rest_is_done(tmp_path):
    calls = []

    def step(box):
        calls.append(box)
        if box == BOXES[3]:
            raise ValueError("no such voxel")

    manifest = Manifest(tmp_path, "key")
    message = r"smoothing: block 3 \(voxels \(0, 0, 48\).* ValueError: no such voxel"
    with pytest.raises(RunError, match=message):
        map_blocks(step, BOXES, manifest=manifest, name="smoothing")
    assert calls.count(BOXES[3]) == ATTEMPTS
    assert manifest.finished() == set(range(len(BOXES))) - {3}


def test_a_step_that_fails_everywhere_ends_soon(tmp_path):
    calls = []

    def step(box):
        calls.append(box)
        raise ValueError("wrong everywhere")

    with pytest.raises(RunError, match="wrong everywhere"):
        map_blocks(step, BOXES, manifest=Manifest(tmp_path, "key"))
    assert len(calls) < len(BOXES)


def test_an_unknown_engine_is_refused():
    with pytest.raises(ValueError, match="expected an engine serial, threads or dask"):
        map_blocks(lambda box: None, BOXES, engine="spark")


KILLED = """
import sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from test_blocks import BOXES, Smoothed
from pytc.blocks import Manifest, map_blocks
step = Smoothed(sys.argv[2], sys.argv[3], seconds=0.01)
map_blocks(step, BOXES, manifest=Manifest(Path(sys.argv[4]), "key"), engine="threads", workers=2)
"""


def test_a_killed_step_goes_on(step, tmp_path):
    words = [Path(__file__).parent, step.source, step.target, tmp_path / "blocks"]
    command = [sys.executable, "-c", KILLED, *map(str, words)]
    manifest = Manifest(tmp_path / "blocks", "key")
    before = 0
    for more in (5, 20):
        process = subprocess.Popen(command)
        while len(manifest.finished()) < before + more and process.poll() is None:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
        before = len(manifest.finished())
        assert 0 < before < len(BOXES)
    # two processes finish what is left
    processes = [subprocess.Popen(command) for _ in range(2)]
    assert [process.wait() for process in processes] == [0, 0]
    check(step, map_blocks(step, BOXES, manifest=manifest))


def test_a_lock_lets_one_process_in(tmp_path):
    code = (
        "import sys; from pathlib import Path; from pytc.runs import locked\n"
        "with locked(Path(sys.argv[1])): print('in', flush=True); sys.stdin.read()"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert other.stdout.readline() == b"in\n"
    child = os.fork()
    if child == 0:
        with locked(tmp_path):
            os._exit(0)
    time.sleep(0.2)
    assert os.waitpid(child, os.WNOHANG) == (0, 0)  # still waits
    other.kill()  # the lock goes with it
    other.communicate()
    assert os.waitpid(child, 0)[1] == 0


@pytest.fixture(scope="module")
def cluster():
    distributed = pytest.importorskip("distributed")
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, dashboard_address=None
    ) as cluster:
        yield cluster


def test_dask_gives_the_same(step, tmp_path, cluster):
    manifest = Manifest(tmp_path / "blocks", "key")
    engine = f"dask:{cluster.scheduler_address}"
    check(step, map_blocks(step, BOXES, manifest=manifest, engine=engine))


def test_a_dead_worker_of_dask_loses_no_work(step, tmp_path, cluster):
    manifest = Manifest(tmp_path / "blocks", "key")
    slow = Smoothed(step.source, step.target, seconds=0.05)
    engine = f"dask:{cluster.scheduler_address}"
    pid = next(iter(cluster.workers.values())).pid

    def kill_one():
        while len(manifest.finished()) < 5:
            time.sleep(0.01)
        os.kill(pid, signal.SIGKILL)

    killer = threading.Thread(target=kill_one)
    killer.start()
    check(step, map_blocks(slow, BOXES, manifest=manifest, engine=engine))
    killer.join()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
