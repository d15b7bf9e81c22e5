"""`pytc view` without a browser: what Neuroglancer asks for over HTTP, and what it gets."""

import io
import json
import shlex
import time
import urllib.error
import urllib.request
import zlib
from pathlib import Path

import h5py
import numpy as np
import pytest
import tifffile
from documents import commands
from viewed import SHAPE, VOXEL_SIZE, blocks_of_fragments, random_tree, write_results

from pytc.io.volume import create_volume, open_volume
from pytc.main import main
from pytc.segmentation.merge_tree import relabelled
from pytc.view.command import ViewConfig
from pytc.view.main import view
from pytc.view.sources import find_sources
from pytc.view.threshold import SegmentsAtThreshold, Selection, groups_of

neuroglancer = pytest.importorskip("neuroglancer")
from pytc.view.layers import LIVE, Look  # noqa: E402
from pytc.view.live import LiveViewer  # noqa: E402
from pytc.view.served import SegmentValues, ServedVolume  # noqa: E402


@pytest.fixture
def run(tmp_path, monkeypatch):
    """(folder of a run, its fragments, their merge tree)"""
    monkeypatch.chdir(tmp_path)
    fragments, tree = write_results(tmp_path / "runs" / "mine")
    return tmp_path / "runs" / "mine", fragments, tree


@pytest.fixture
def opened(run):
    """The viewer of that run, with the numbers of `MergeTree.cut`."""
    viewer = LiveViewer(find_sources(ViewConfig(what=("mine",))), numbers="cut")
    yield viewer
    viewer.close()


def get(path):
    with urllib.request.urlopen(f"{neuroglancer.server.get_server_url()}{path}", timeout=10) as got:
        return got.read()


def post(path, content):
    address = f"{neuroglancer.server.get_server_url()}{path}"
    request = urllib.request.Request(address, json.dumps(content).encode(), method="POST")
    with urllib.request.urlopen(request, timeout=10) as got:
        return got.read()


def source_of(viewer, layer):
    """The key of a layer's volume, as the browser reads it in the state."""
    state = viewer.viewer.shared_state.raw_state
    (source,) = [each["source"] for each in state["layers"] if each["name"] == layer]
    url = source if isinstance(source, str) else source[0]["url"]
    return url.rpartition("/")[2]


def read_all(viewer, layer, scale=(1, 1, 1), chunk=(16, 32, 64)):
    """A volume, chunk by chunk, as the browser asks for it."""
    key = source_of(viewer, layer)
    shape = [-(-n // s) for n, s in zip(SHAPE, scale)]
    whole = np.zeros(shape, np.uint64)
    for corner in np.ndindex(*(-(-n // c) for n, c in zip(shape, chunk))):
        start = [i * c for i, c in zip(corner, chunk)]
        stop = [min(a + c, n) for a, c, n in zip(start, chunk, shape)]
        words = [",".join(map(str, each)) for each in (scale, start, stop)]
        content = zlib.decompress(get(f"/neuroglancer/npz/{key}/{'/'.join(words)}"))
        whole[tuple(map(slice, start, stop))] = np.load(io.BytesIO(content))
    return whole


def slide(viewer, threshold):
    """Move the slider as the browser does: by a new state. Waits until the segments follow."""
    state = json.loads(json.dumps(viewer.viewer.shared_state.raw_state))
    state["layers"][0]["shaderControls"] = {"threshold": threshold}
    token = viewer.viewer.token
    generation = viewer.viewer.shared_state.state_generation
    post(f"/state/{token}", {"pg": generation, "g": "7", "s": state, "c": "browser"})
    wait_for(lambda: viewer.segments.threshold == threshold)


def wait_for(condition):
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_the_slider_changes_the_voxels_that_are_served(run, opened):
    folder, fragments, tree = run
    files = sorted(folder.parent.parent.rglob("*"))
    seen = []
    for threshold in (0.5, 0.2, 0.8):
        if threshold != 0.5:
            generations = opened.viewer.config_state.state.source_generations
            before = generations.get(source_of(opened, LIVE), 0)
            slide(opened, threshold)
            wait_for(
                lambda before=before: (
                    opened.viewer.config_state.state.source_generations[source_of(opened, LIVE)]
                    > before
                )
            )
        expected = relabelled(fragments, tree.cut(threshold))
        np.testing.assert_array_equal(read_all(opened, LIVE), expected)
        np.testing.assert_array_equal(read_all(opened, LIVE, (1, 2, 4)), expected[:, ::2, ::4])
        seen.append(int(expected.max()))
    assert seen[1] < seen[0] < seen[2]
    assert sorted(folder.parent.parent.rglob("*")) == files  # nothing is written


def test_keys_move_the_threshold(opened):
    bindings = opened.viewer.config_state.state.input_event_bindings.viewer
    pressed = {key: bindings[key] for key in ("bracketleft", "bracketright", "shift+bracketleft")}
    state = {"viewerState": opened.viewer.shared_state.raw_state}

    def press(key):
        post(f"/action/{opened.viewer.token}", {"action": pressed[key], "state": state})

    press("bracketleft")
    wait_for(lambda: opened.segments.threshold == pytest.approx(0.49))
    press("bracketright")
    wait_for(lambda: opened.segments.threshold == pytest.approx(0.5))
    n_segments = opened.segments.n_segments
    press("shift+bracketleft")
    wait_for(lambda: opened.segments.n_segments == n_segments - 1)


def test_layers_have_the_voxel_size_and_axes_of_the_files(opened):
    names = [each.name for each in opened.viewer.state.layers]
    assert names == ["image", "affinities", LIVE, "labels", "skeletons"]
    for layer in ("image", LIVE, "labels"):
        info = json.loads(get(f"/neuroglancer/info/{source_of(opened, layer)}"))
        lengths = {axis: value for axis, (value, _) in info["coordinateSpace"].items()}
        assert lengths == pytest.approx({"z": 40e-9, "y": 8e-9, "x": 4e-9})
        assert info["shape"] == list(SHAPE)
    info = json.loads(get(f"/neuroglancer/info/{source_of(opened, 'affinities')}"))
    assert list(info["coordinateSpace"]) == ["c^", "z", "y", "x"] and info["dataType"] == "float32"
    labels = read_all(opened, "labels")
    fragments = blocks_of_fragments()
    np.testing.assert_array_equal(labels, np.maximum(fragments.astype(int) // 7 - 1, 0))


def test_skeletons_have_their_positions_in_voxels(opened):
    content = get(f"/neuroglancer/skeleton/{source_of(opened, 'skeletons')}/8")
    n_nodes, n_edges = np.frombuffer(content, "<u4", 2)
    nodes = np.frombuffer(content, "<f4", 3 * n_nodes, 8).reshape(-1, 3)
    edges = np.frombuffer(content, "<u4", 2 * n_edges, 8 + nodes.nbytes).reshape(-1, 2)
    assert nodes.tolist() == [[6.5, 40.5, 80.5], [6.5, 50.5, 80.5], [7.5, 60.5, 80.5]]
    assert edges.tolist() == [[0, 1], [2, 1]]


def test_only_this_machine_is_served_and_only_with_the_token(opened):
    assert opened.url.startswith("http://127.0.0.1:")
    key = source_of(opened, LIVE)
    get(f"/neuroglancer/info/{key}")
    for path in (f"/neuroglancer/info/{'0' * 40}.{key.partition('.')[2]}", "/v/guess/", "/v/1/"):
        with pytest.raises(urllib.error.HTTPError, match="404"):
            get(path)
    with pytest.raises(urllib.error.HTTPError, match="403"):
        post(f"/credentials/{opened.viewer.token}", {"key": "google-brainmaps"})


def test_a_selection_follows_the_threshold(run):
    tree = run[2]
    table = tree.cut(0.5)
    chosen = int(np.argmax(np.bincount(table[1:].astype(int))))
    viewer = LiveViewer(
        find_sources(ViewConfig(what=("mine",))), numbers="cut", look=Look(select=(chosen,))
    )
    try:
        for threshold in (0.8, 0.1, 0.5):
            slide(viewer, threshold)
            expected = set(tree.cut(threshold)[table == chosen].tolist())
            wait_for(
                lambda expected=expected: set(viewer.viewer.state.layers[LIVE].segments) == expected
            )
        assert expected == {chosen}
    finally:
        viewer.close()


def test_a_segment_of_a_stored_segmentation_is_selected(run):
    labels = str(run[0].parent / "data" / "labels.zarr")
    sources = find_sources(ViewConfig(segmentation=labels))
    viewer = LiveViewer(sources, look=Look(select=(7,), position=(5, 20, 30)))
    try:
        state = viewer.viewer.state
        assert set(state.layers["segmentation"].segments) == {7}
        assert state.position.tolist() == [30.5, 20.5, 5.5]  # x, y, z
    finally:
        viewer.close()


class Endless:
    """Fragments of a volume that no memory holds; it notes how much is read."""

    shape = (100_000, 100_000, 100_000)
    dtype = np.dtype(np.uint32)
    largest = 0

    def __getitem__(self, index):
        lengths = [len(range(*part.indices(n))) for part, n in zip(index, self.shape)]
        self.largest = max(self.largest, int(np.prod(lengths)))
        return np.full(lengths, 2, np.uint32)


def test_a_chunk_of_a_huge_volume_is_read_alone():
    tree = random_tree(blocks_of_fragments())
    fragments = Endless()
    segments = SegmentsAtThreshold(tree, 0.3, numbers="cut")
    served = ServedVolume(SegmentValues(fragments, segments), "segmentation", "zyx", (8, 8, 8))
    start = np.array([50_000, 600, 7])
    content, _ = served.get_encoded_subvolume("npz", start, start + 64, "1,1,1")
    values = np.load(io.BytesIO(zlib.decompress(content)))
    assert values.shape == (64, 64, 64) and (values == tree.cut(0.3)[2]).all()
    assert fragments.largest == 64**3


def test_stable_numbers_change_only_where_something_merges():
    tree = random_tree(blocks_of_fragments())
    segments = SegmentsAtThreshold(tree, 0.6)
    before = segments.table
    segments.move(segments.next_change(upwards=False))
    after, cut = segments.table, tree.cut(segments.threshold)
    changed = np.flatnonzero(before != after)
    assert len(set(before[changed].tolist())) == 1  # one of the two that merge
    assert len({*zip(after.tolist(), cut.tolist())}) == len(set(cut.tolist()))
    for number in np.unique(after[after > 0]).tolist():
        members = np.flatnonzero(after == number)
        assert tree.sizes[number] == tree.sizes[members].max() and number in members


def test_small_segments_are_hidden_and_fragments_are_grouped():
    tree = random_tree(blocks_of_fragments())
    segments = SegmentsAtThreshold(tree, 0.6, min_size=1500, numbers="cut")
    np.testing.assert_array_equal(segments.table, tree.cut(0.6, min_size=1500))
    assert (segments.table == 0).sum() > 1
    groups = groups_of(segments.table)
    for group in groups:
        assert len(group) > 1 and len(set(segments.table[group].tolist())) == 1
    assert sum(map(len, groups)) == (np.bincount(segments.table.astype(int))[1:]).sum() - sum(
        np.bincount(segments.table.astype(int))[1:] == 1
    )


def test_a_selection_remembers_what_was_chosen():
    tree = random_tree(blocks_of_fragments())
    selection = Selection()
    high, low = tree.cut(0.7), tree.cut(0.2)
    selection.note({3}, high)
    wide = selection.segments_in(low)
    assert len(wide) == 1
    selection.note(wide, low)  # what we wrote comes back from the browser
    assert selection.segments_in(high) == {3}
    selection.note({1}, low)  # the user chose another one
    assert selection.segments_in(high) == set(high[low == 1].tolist())


def link_state(capsys, **flags):
    view(ViewConfig(what=("mine",), link="http://localhost:9000/files", **flags))
    address = capsys.readouterr().out.strip().splitlines()[-1]
    return neuroglancer.parse_url(address).to_json()


def test_a_link_reads_from_a_server_and_holds_the_merges(run, capsys):
    _, _, tree = run
    state = link_state(capsys)
    layers = {each["name"]: each for each in state["layers"]}
    assert set(layers) == {"image", f"{LIVE} 0.5"}  # no browser reads float16 or int64
    fragments = layers[f"{LIVE} 0.5"]
    (source,) = fragments["source"]
    assert source["url"] == (
        "zarr://http://localhost:9000/files/runs/mine/predictions/cube/fragments.zarr"
    )
    space = source["transform"]["outputDimensions"]
    assert [*space] == ["z", "y", "x"] and space["z"][0] == pytest.approx(40e-9)
    groups = sorted(sorted(map(int, group)) for group in fragments["equivalences"])
    assert groups == sorted(groups_of(tree.cut(0.5)))

    table = tree.cut(0.5)
    chosen = int(table[groups[0][0]])
    state = link_state(capsys, select=(chosen,), numbers="cut")
    (fragments,) = (each for each in state["layers"] if each["name"].startswith(LIVE))
    assert [sorted(map(int, group)) for group in fragments["equivalences"]] == [groups[0]]
    with pytest.raises(ValueError, match="folders below elsewhere"):
        Path("elsewhere").mkdir()
        link_state(capsys, root="elsewhere")


def test_files_are_shown_by_what_they_hold(run):
    folder, _, _ = run
    data = folder.parent.parent / "runs" / "data"
    names = [str(data / name) for name in ("image.zarr", "labels.zarr", "skeleton.npz")]
    sources = find_sources(ViewConfig(what=tuple(names)))
    assert [(shown.name, shown.role) for shown in sources.volumes] == [
        ("image", "image"),
        ("labels", "segmentation"),
    ]
    assert sources.voxel_size == VOXEL_SIZE and len(sources.skeleton.ids) == 5
    beside = find_sources(ViewConfig(what=("mine",), segmentation=names[1]))
    assert [shown.name for shown in beside.named("segmentation")] == ["segmentation"]


def test_what_does_not_fit_is_refused_in_one_line(run, monkeypatch):
    with pytest.raises(ValueError, match="no such file"):
        find_sources(ViewConfig(what=("nothing.zarr",)))
    with pytest.raises(ValueError, match="a volume with results in .*, cube, got 'cup'"):
        find_sources(ViewConfig(what=("mine",), volume="cup"))
    monkeypatch.setitem(__import__("sys").modules, "neuroglancer", None)
    with pytest.raises(ValueError, match=r"the extra `view`: pip install -e '\.\[view\]'"):
        view(ViewConfig(what=("mine",)))


def documented():
    """The commands of docs/view.md that show something here."""
    said = [line for line in commands("docs/view.md") if line.startswith("pytc view")]
    assert len(said) == 5
    return said


@pytest.mark.parametrize("command", documented())
def test_documented_commands_are_understood(command, tmp_path, monkeypatch, capsys):
    """With the files that they name; the viewer itself is not kept open."""
    monkeypatch.chdir(tmp_path)
    write_results(tmp_path / "runs" / "mine", "val")
    data = tmp_path / "runs" / "data"
    image = open_volume(data / "image.zarr")[...]
    labels = open_volume(data / "labels.zarr")[...].clip(0)
    for name, array in (("a.h5:raw", image), ("a.h5:labels", labels)):
        with h5py.File(tmp_path / "a.h5", "a") as file:
            file[name.partition(":")[2]] = array
    tifffile.imwrite(tmp_path / "image.tif", image)
    with create_volume("segmentation.zarr", SHAPE, np.uint32) as volume:
        volume[...] = labels.astype(np.uint32)
    (tmp_path / "skeletons").mkdir()
    (tmp_path / "skeletons" / "one.swc").write_text("1 0 8 8 40 1 -1\n2 0 80 8 40 1 1\n")
    monkeypatch.setattr("pytc.view.main.wait_for_the_end", lambda: None)
    main(shlex.split(command)[1:])
    assert capsys.readouterr().out.splitlines()[-1].startswith(("http", "open it in a browser"))
