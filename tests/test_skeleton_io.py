import os
import pickle
from pathlib import Path

import networkx
import numpy as np
import pytest
from public_data import needs, public_data

from pytc.io.skeleton import Skeleton, as_skeleton, load_skeleton, save_skeleton

FIB25 = public_data("fib25")
POSITIONS = [[0, 0, 0], [3, 4, 0], [3, 4, 5], [6, 4, 0], [1, 1, 1], [1, 2, 1]]  # of `graph`


def graph(as_array=tuple, nm=True):
    """Two skeletons: 7 a fork of three edges, 300 a single edge; nodes are named, not numbered."""
    nodes = {
        "a": (7, (0, 0, 0)),
        "b": (7, (3, 4, 0)),
        "c": (7, (3, 4, 5)),
        "d": (7, (6, 4, 0)),
        "e": (300, (1, 1, 1)),
        "f": (300, (1, 2, 1)),
    }
    made = networkx.Graph()
    for name, (skeleton, position) in nodes.items():
        attributes = {"id": skeleton, "index_position": as_array(position)}
        if nm:
            attributes["nm_position"] = as_array(
                [p * size for p, size in zip(position, (30.0, 10.0, 10.0))]
            )
        made.add_node(name, **attributes)
    made.add_edges_from(["ab", "bc", "bd", "ef"])
    return made


def pickled(path, content, protocol=4):
    path.write_bytes(pickle.dumps(content, protocol))
    return path


def check(skeleton):
    assert skeleton.ids.tolist() == [7, 7, 7, 7, 300, 300]
    assert skeleton.positions.tolist() == POSITIONS
    np.testing.assert_array_equal(skeleton.nm, skeleton.positions * (30.0, 10.0, 10.0))
    assert sorted(map(sorted, skeleton.edges.tolist())) == [[0, 1], [1, 2], [1, 3], [4, 5]]
    np.testing.assert_allclose(sorted(skeleton.edge_lengths), [10, 50, 90, np.hypot(90, 40)])
    types = [getattr(skeleton, name).dtype for name in ("ids", "positions", "nm", "edges")]
    assert types == [np.uint64, np.int64, np.float64, np.int64]


def test_a_path_a_graph_or_a_skeleton_is_meant(tmp_path):
    path = pickled(tmp_path / "s.pkl", graph())
    skeleton = as_skeleton(path)
    assert as_skeleton(skeleton) is skeleton
    for source in (path, str(path), graph(), skeleton):
        check(as_skeleton(source))
    with pytest.raises(FileNotFoundError, match="Skeleton not found: missing.pkl"):
        as_skeleton("missing.pkl")
    bare = graph()
    del bare.nodes["c"]["id"]
    with pytest.raises(ValueError, match="id on each node of the graph, so on 'c'"):
        as_skeleton(bare)
    for name, value in (("id", "axon"), ("id", None), ("index_position", (1, 2))):
        wrong = graph()
        wrong.nodes["c"][name] = value
        with pytest.raises(ValueError, match=f"expected {name} in the graph to be u?int64, got"):
            as_skeleton(wrong)
    with pytest.raises(ValueError, match="a networkx graph or a Skeleton, got 'list'"):
        as_skeleton([(0, 0, 0)])


def test_an_edge_may_join_two_skeletons():
    made = graph()
    made.add_edge("a", "e")
    assert len(as_skeleton(made).edges) == 5


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("as_array", [tuple, list, np.array])
def test_nisb_graph(tmp_path, protocol, as_array):
    made = graph(as_array)
    # networkx makes these views on their first use, keeps them, and pickles them
    _ = made.nodes, made.edges, made.adj, made.degree
    check(load_skeleton(pickled(tmp_path / "s.pkl", made, protocol)))


def test_nisb_graph_without_nm_needs_a_voxel_size(tmp_path):
    path = pickled(tmp_path / "s.pkl", graph(nm=False))
    check(load_skeleton(path, voxel_size=(30, 10, 10)))
    with pytest.raises(ValueError, match="expected nm_position .* or a voxel size"):
        load_skeleton(path)


def test_numpy_scalars_as_ids(tmp_path):
    made = graph()
    for _, attributes in made.nodes(data=True):
        attributes["id"] = np.uint64(attributes["id"])
    check(load_skeleton(pickled(tmp_path / "s.pkl", made)))


class Evil:
    def __init__(self, *call):
        self.call = call

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize(
    "refused, call",
    [
        ("posix.system", (os.system, ("touch pwned",))),
        ("builtins.eval", (eval, ("open('pwned', 'w')",))),
        ("builtins.getattr", (getattr, (networkx.Graph, "add_node"))),
        (f"{Path.__module__}.Path", (Path, ("pwned",))),
        ("numpy.loadtxt", (np.loadtxt, ("pwned",))),
    ],
)
def test_a_pickle_runs_no_code(tmp_path, monkeypatch, refused, call):
    monkeypatch.chdir(tmp_path)
    made = graph()
    made.graph["payload"] = Evil(*call)
    pickled(tmp_path / "s.pkl", made)
    with pytest.raises(ValueError, match=refused):
        load_skeleton("s.pkl")
    assert not Path("pwned").exists()


@pytest.mark.parametrize(
    "refused",
    [
        "networkx.classes.graph nx",
        "networkx.classes.graph deepcopy",
        "networkx.classes.graph Graph.copy",
        "networkx.classes.graph convert",
    ],
)
def test_only_the_classes_of_the_graph_modules_are_loaded(tmp_path, refused):
    module, name = refused.split()
    opcode = pickle.SHORT_BINUNICODE
    content = b"\x80\x04" + b"".join(
        opcode + bytes([len(word)]) + word.encode() for word in (module, name)
    )
    (tmp_path / "s.pkl").write_bytes(content + pickle.STACK_GLOBAL + pickle.STOP)
    with pytest.raises(ValueError, match=f"{module}.{name}, which is refused"):
        load_skeleton(tmp_path / "s.pkl")


def test_graphs_that_are_no_skeletons(tmp_path):
    lacking, fractional, negative = graph(), graph(), graph()
    del lacking.nodes["c"]["index_position"]
    fractional.nodes["c"]["index_position"] = (0.5, 0, 0)
    negative.nodes["c"]["id"] = -1
    cases = [
        (lacking, "index_position on each node .* on 'c'"),
        (fractional, "index_position .* to be int64"),
        (negative, "id in .* to be uint64"),
        ({"a": 1}, "got 'dict'"),
    ]
    for made, message in cases:
        with pytest.raises(ValueError, match=message):
            load_skeleton(pickled(tmp_path / "s.pkl", made))
    for content in (b"", b"garbage", pickle.dumps(graph())[:-20]):
        (tmp_path / "s.pkl").write_bytes(content)
        with pytest.raises(ValueError, match="expected a pickled networkx graph"):
            load_skeleton(tmp_path / "s.pkl")


def test_an_empty_graph(tmp_path):
    skeleton = load_skeleton(pickled(tmp_path / "s.pkl", networkx.Graph()), voxel_size=(1, 1, 1))
    assert (len(skeleton.ids), skeleton.edges.shape, skeleton.edge_lengths.shape) == (
        0,
        (0, 2),
        (0,),
    )


def test_npz(tmp_path):
    check(load_skeleton(pickled(tmp_path / "s.pkl", graph())))
    made = load_skeleton(tmp_path / "s.pkl")
    save_skeleton(tmp_path / "new" / "s.npz", made)
    check(load_skeleton(tmp_path / "new" / "s.npz"))
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["s.npz"]
    with pytest.raises(ValueError, match="ends in .npz"):
        save_skeleton(tmp_path / "s.pkl", made)
    np.savez(tmp_path / "other.npz", ids=made.ids, nodes=made.positions)
    with pytest.raises(ValueError, match="the arrays ids, positions, nm, edges, .*'nodes'"):
        load_skeleton(tmp_path / "other.npz")
    for content in (b"", b"PK\x03\x04 cut off", b"text"):
        (tmp_path / "broken.npz").write_bytes(content)
        with pytest.raises(ValueError, match="expected the arrays ids, .*broken.npz"):
            load_skeleton(tmp_path / "broken.npz")


FORK = """# x y z in nm
1 0 0 0 0 1.5 -1

2 0 0 40 90 1 1  # z, y, x of this one: voxel 3, 4, 0
3 0 50 40 90 1 2
4 0 0 40 180 1 2
"""
ALONE = "11 0 10 10 30 1 10\n10 0 10 20 30 1 -1\n"  # the child before its parent


def test_swc(tmp_path):
    (tmp_path / "a.swc").write_text(FORK)
    (tmp_path / "b.swc").write_text(ALONE)
    skeleton = load_skeleton(tmp_path, voxel_size=(30, 10, 10))
    assert skeleton.ids.tolist() == [1, 1, 1, 1, 2, 2]
    assert skeleton.positions.tolist() == POSITIONS
    np.testing.assert_allclose(sorted(skeleton.edge_lengths), [10, 50, 90, np.hypot(90, 40)])
    x_first = load_skeleton(tmp_path / "a.swc", voxel_size=(10, 10, 30), axes="xyz")
    assert x_first.positions.tolist() == [[0, 0, 0], [0, 4, 3], [5, 4, 3], [0, 4, 6]]
    np.testing.assert_allclose(x_first.nm[2], [50, 40, 90])


def test_two_trees_in_one_swc_are_two_skeletons(tmp_path):
    (tmp_path / "a.swc").write_text("1 0 0 0 0 1 -1\n2 0 9 9 9 1 -1\n3 0 1 0 0 1 1\n")
    assert load_skeleton(tmp_path / "a.swc", (1, 1, 1)).ids.tolist() == [1, 2, 1]


@pytest.mark.parametrize(
    "content, message",
    [
        ("1 0 0 0 0 1\n", "7 numbers in each line of .*a.swc, got invalid column index 6 at row 1"),
        (
            "1 0 0 0 zero 1 -1\n",
            "7 numbers in each line of .*a.swc, got could not convert string 'zero'",
        ),
        ("1 0 0 0 0 1 -1\n1 0 0 0 1 1 -1\n", "each sample number once"),
        ("1 0 0 0 0 1 5\n", r"parents that are samples of .*a.swc, got \[5\]"),
    ],
)
def test_malformed_swc(tmp_path, content, message):
    (tmp_path / "a.swc").write_text(content)
    with pytest.raises(ValueError, match=message):
        load_skeleton(tmp_path / "a.swc", (1, 1, 1))


def test_wrong_paths_and_arguments(tmp_path):
    (tmp_path / "a.swc").write_text(FORK)
    (tmp_path / "s.txt").write_text("")
    (tmp_path / "empty").mkdir()
    for path, message in {
        "none.pkl": "Skeleton not found: .*none.pkl",
        "s.txt": "as .pkl, .npz",
        "empty": "as .pkl, .npz",
        "a.swc": "the voxel size of the volume",
    }.items():
        with pytest.raises(ValueError, match=message):
            load_skeleton(tmp_path / path)
    with pytest.raises(ValueError, match="order of zyx"):
        load_skeleton(tmp_path / "a.swc", (1, 1, 1), axes="czyx")


@pytest.mark.parametrize(
    "change, message",
    [
        ({"ids": np.zeros(2, np.int64)}, "expected ids as uint64"),
        ({"positions": np.zeros((2, 2), np.int64)}, "expected positions"),
        ({"nm": np.zeros((3, 3))}, "expected nm"),
        ({"nm": np.array([[0, 0, 0], [0, np.nan, 0]])}, "expected finite lengths"),
        ({"edges": np.array([[0, 2]])}, "between nodes 0 to 1"),
        ({"edges": np.array([[-1, 0]])}, "between nodes 0 to 1"),
    ],
)
def test_a_skeleton_that_exists_is_consistent(change, message):
    parts = {
        "ids": np.ones(2, np.uint64),
        "positions": np.zeros((2, 3), np.int64),
        "nm": np.zeros((2, 3)),
        "edges": np.array([[0, 1]]),
    }
    Skeleton(**parts)
    with pytest.raises(ValueError, match=message):
        Skeleton(**(parts | change))


@needs("fib25")
def test_fib25():
    import h5py

    skeleton = load_skeleton(FIB25 / "fib25_val_skeleton.pkl")
    assert (len(skeleton.ids), len(skeleton.edges), len(np.unique(skeleton.ids))) == (
        12_772,
        12_665,
        89,
    )
    np.testing.assert_array_equal(skeleton.nm, skeleton.positions * 10.0)
    with h5py.File(FIB25 / "fib25_val.h5") as file:
        np.testing.assert_array_equal(file["labels"][:][tuple(skeleton.positions.T)], skeleton.ids)


NML = """<?xml version="1.0"?>
<things>
  <parameters><experiment name="a"/><scale x="4.0" y="5.0" z="40.0"/></parameters>
  <thing id="3" name="axon"><nodes>
    <node id="11" radius="1" x="10" y="20" z="30"/><node id="12" radius="1" x="11" y="22" z="33"/>
  </nodes><edges><edge source="11" target="12"/></edges></thing>
  <thing id="7" name="soma"><nodes><node id="1" radius="9" x="0" y="2" z="4"/></nodes>
  <edges/></thing>
</things>"""


def test_an_annotation_of_webknossos(tmp_path):
    (tmp_path / "a.nml").write_text(NML)
    skeleton = load_skeleton(tmp_path / "a.nml", (40, 5, 4))
    assert skeleton.ids.tolist() == [3, 3, 7] and skeleton.edges.tolist() == [[0, 1]]
    assert skeleton.positions.tolist() == [[30, 20, 10], [33, 22, 11], [4, 2, 0]]
    assert skeleton.nm.tolist() == [[1200, 100, 40], [1320, 110, 44], [160, 10, 0]]
    assert load_skeleton(tmp_path / "a.nml").positions.tolist() == skeleton.positions.tolist()
    coarser = load_skeleton(tmp_path / "a.nml", (8, 10, 40), axes="xyz")
    assert coarser.positions.tolist() == [[5, 10, 30], [6, 11, 33], [0, 1, 4]]


@pytest.mark.parametrize(
    "found, written, message",
    [
        ("</things>", "", "a WEBKNOSSOS annotation .*a.nml, got no element found"),
        ('<scale x="4.0" y="5.0" z="40.0"/>', "", "got no parameters with a scale"),
        ('target="12"', 'target="13"', "a WEBKNOSSOS annotation .*got '13'"),
        ('id="12"', 'id="11"', "each node once, got '11'"),
        ('z="40.0"', 'z="40.0" unit="micrometer"', "a scale in nanometer, got 'micrometer'"),
    ],
)
def test_a_malformed_annotation_of_webknossos(tmp_path, found, written, message):
    (tmp_path / "a.nml").write_text(NML.replace(found, written, 1))
    with pytest.raises(ValueError, match=message):
        load_skeleton(tmp_path / "a.nml")
