"""`pytc skeletonize` and `pytc mesh`: skeletons that score, meshes that cloud-volume reads."""

import json

import networkx
import numpy as np
import pytest
from documents import commands
from small_volumes import written

from pytc.io.skeleton import load_skeleton
from pytc.io.synthetic import make_neurites
from pytc.main import main
from pytc.metrics.skeleton import SkeletonMetrics

pytest.importorskip("kimimaro")
pytest.importorskip("zmesh")
VOXEL = (30.0, 10.0, 10.0)


@pytest.fixture(scope="module")
def neurites():
    return make_neurites((40, 96, 88), 3, voxel_size=VOXEL)


@pytest.fixture
def folder(neurites, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    written("labels.zarr", neurites.labels, voxel_size=VOXEL)
    return tmp_path


@pytest.mark.parametrize("block", [(512, 512, 512), (40, 60, 50)])
def test_skeletons_of_labels_score_these_labels_perfectly(folder, neurites, block):
    words = ["labels.zarr", "s.npz", "--const", "100", "--min-size", "500"]
    main(["skeletonize", *words, "--block", *map(str, block)])
    skeleton = load_skeleton("s.npz")
    labels = neurites.labels
    at = tuple(skeleton.positions.T)
    assert (labels[at] == skeleton.ids).all() and len(skeleton.ids) > 300
    ids, sizes = np.unique(labels[labels > 0], return_counts=True)
    assert set(skeleton.ids.tolist()) == set(ids[sizes >= 500].tolist())
    np.testing.assert_allclose(skeleton.nm, skeleton.positions * VOXEL)
    own = SkeletonMetrics(skeleton)
    assert own.compute(labels)["nerl"] == pytest.approx(1)
    merged = np.where(labels == ids[1], ids[0], labels)
    assert own.compute(merged)["nerl"] < 1
    # a tree for each object that is in one piece, whether or not blocks cut it
    whole = in_one_block()
    assert trees(skeleton) == trees(whole)
    assert skeleton.edge_lengths.sum() == pytest.approx(whole.edge_lengths.sum(), rel=0.3)


def in_one_block():
    main(["skeletonize", "labels.zarr", "w.npz", "--const", "100", "--min-size", "500"])
    return load_skeleton("w.npz")


def trees(skeleton):
    """The number of connected trees."""
    graph = networkx.Graph()
    graph.add_nodes_from(range(len(skeleton.ids)))
    graph.add_edges_from(skeleton.edges.tolist())
    return networkx.number_connected_components(graph)


def test_the_commands_of_the_page(folder, neurites):
    CloudVolume = pytest.importorskip("cloudvolume").CloudVolume
    written("segmentation.zarr", neurites.labels, voxel_size=VOXEL)
    for command in commands("docs/shapes.md"):
        program, *words = command.split()
        assert program == "pytc"
        main(words)
    assert json.loads((folder / "scores" / "metrics.json").read_text())["nerl"] == 1
    volume = CloudVolume(f"file://{folder}/labels", progress=False)
    ids, sizes = np.unique(neurites.labels[neurites.labels > 0], return_counts=True)
    label = int(ids[sizes.argmax()])
    mesh = volume.mesh.get(label)
    mesh = mesh[label] if isinstance(mesh, dict) else mesh
    inside = np.argwhere(neurites.labels == label)[:, ::-1]
    expected = inside.min(0) * VOXEL[::-1], (inside.max(0) + 1) * VOXEL[::-1]
    for found, wanted in zip((mesh.vertices.min(0), mesh.vertices.max(0)), expected):
        assert np.abs(found - wanted).max() <= max(VOXEL)
    small = int(ids[sizes < 1000][0]) if (sizes < 1000).any() else None
    assert small is None or not (folder / "labels" / "mesh" / f"{small}:0").exists()
    with pytest.raises(SystemExit, match="--overwrite to replace meshes"):
        main(["mesh", "labels.zarr", "precomputed://labels"])


def test_blocks_change_no_surface(folder):
    """Each triangle of a block is one of the whole volume's, where none is left out."""
    surfaces = []
    for name, block in (("one", "256 256 256"), ("many", "50 40 23")):
        words = ["--max-error", "0", "--min-size", "0", "--block", *block.split()]
        main(["mesh", "labels.zarr", f"precomputed://{name}", *words])
        surfaces.append(area_of(folder / name))
    assert surfaces[0].keys() == surfaces[1].keys()
    for label, area in surfaces[0].items():
        assert surfaces[1][label] == pytest.approx(area, rel=1e-3), label


def area_of(folder):
    """{object: nm2 of its surface}."""
    areas = {}
    for manifest in (path for path in folder.iterdir() if path.name.count(":") == 1):
        total = 0.0
        for name in json.loads(manifest.read_text())["fragments"]:
            data = (folder / name).read_bytes()
            count = int(np.frombuffer(data, np.uint32, 1)[0])
            vertices = np.frombuffer(data, np.float32, 3 * count, 4).reshape(-1, 3)
            corners = vertices[np.frombuffer(data, np.uint32, offset=4 + 12 * count).reshape(-1, 3)]
            sides = corners[:, 1:] - corners[:, :1]
            total += np.linalg.norm(np.cross(sides[:, 0], sides[:, 1]), axis=1).sum() / 2
        areas[manifest.name] = total
    return areas


@pytest.mark.parametrize(
    "words, message",
    [
        (["skeletonize", "labels.zarr", "s.swc"], "skeletons as NAME.npz"),
        (["skeletonize", "image.npy", "s.npz"], "labels without channels"),
        (["skeletonize", "ids.npy", "s.npz"], "--voxel-size, as ids.npy has none"),
        (["mesh", "labels.zarr", "out"], "precomputed://PATH as the target"),
    ],
)
def test_what_is_refused(folder, words, message):
    np.save("image.npy", np.zeros((4, 4, 4), np.float32))
    np.save("ids.npy", np.zeros((4, 4, 4), np.uint32))
    with pytest.raises(SystemExit, match=message):
        main(words)


def test_a_folder_of_something_else_is_not_replaced(folder):
    (folder / "mine").mkdir()
    (folder / "mine" / "thesis.txt").write_text("years")
    for flags in ([], ["--overwrite"]):
        with pytest.raises(SystemExit, match="a folder of meshes, or none"):
            main(["mesh", "labels.zarr", "precomputed://mine", *flags])
    assert (folder / "mine" / "thesis.txt").read_text() == "years"
