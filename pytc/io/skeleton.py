"""Skeletons, the ground truth for run lengths.

Positions in voxels find labels, positions in nm measure edges.
"""

import pickle
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pytc.checks import require
from pytc.config import Lengths
from pytc.geometry import Box
from pytc.io.stored import expecting, reading
from pytc.runs import replacing

if TYPE_CHECKING:
    import networkx

# What a pickled networkx graph with numbers, tuples or arrays on its nodes refers to; none of it
# runs foreign code.
GRAPH_MODULES = {
    f"networkx.classes.{name}"
    for name in ("graph", "digraph", "multigraph", "coreviews", "reportviews")
}
ALLOWED_GLOBALS = {
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("_codecs", "encode"),  # the last is how protocol 2 spells bytes
    *(("builtins", name) for name in ("dict", "list", "tuple", "set", "frozenset", "bytearray")),
    *(
        (f"numpy.{core}.multiarray", name)
        for core in ("core", "_core")
        for name in ("_reconstruct", "scalar")
    ),
    *((f"numpy.{core}.numeric", "_frombuffer") for core in ("core", "_core")),
}


class SkeletonNotFound(FileNotFoundError, ValueError):  # noqa: N818, users know this name
    """A skeleton file is missing; a ValueError too, as all bad input."""


@dataclass(frozen=True)
class Skeleton:
    """The skeletons of a volume, as flat arrays over all nodes and edges.

    ids: (N,) uint64, the skeleton of each node.
    positions: (N, 3) int64, voxels in stored axis order.
    nm: (N, 3) float64, the same in nm.
    edges: (E, 2) int64, pairs of node indices. An edge may join two skeletons; its length counts
        for the skeleton of its first node.

    ValueError if the arrays do not fit together.
    """

    ids: np.ndarray
    positions: np.ndarray
    nm: np.ndarray
    edges: np.ndarray

    def __post_init__(self) -> None:
        n = len(self.ids)
        wanted = {
            "ids": (np.uint64, (n,)),
            "positions": (np.int64, (n, 3)),
            "nm": (np.float64, (n, 3)),
            "edges": (np.int64, (len(self.edges), 2)),
        }
        for name, (dtype, shape) in wanted.items():
            array = getattr(self, name)
            fits = array.dtype == dtype and array.shape == shape
            require(fits, f"{name} as {np.dtype(dtype)} {shape}", f"{array.dtype} {array.shape}")
        outside = self.edges[((self.edges < 0) | (self.edges >= n)).any(1)]
        require(len(outside) == 0, f"edges between nodes 0 to {n - 1}", outside[:1].tolist())
        require(
            bool(np.isfinite(self.nm).all()),
            "finite lengths in nm",
            self.nm[~np.isfinite(self.nm).all(1)][:1].tolist(),
        )

    def __repr__(self) -> str:
        """Example: Skeleton(3 skeletons, 120 nodes, 117 edges, voxels (0, 2, 5) to (47, 40, 31))"""
        count = len(np.unique(self.ids))
        if not count:
            return "Skeleton(0 skeletons)"
        first = tuple(self.positions.min(0).tolist())
        last = tuple(self.positions.max(0).tolist())
        return (
            f"Skeleton({count:,} skeletons, {len(self.ids):,} nodes, {len(self.edges):,} edges, "
            f"voxels {first} to {last})"
        )

    def require_inside(self, shape: tuple[int, ...]) -> None:
        """ValueError, which names a node, unless all nodes lie inside a volume of this shape."""
        outside = self.positions[((self.positions < 0) | (self.positions >= shape)).any(1)].tolist()
        require(
            not outside,
            f"skeleton nodes inside {shape}",
            f"{len(outside)} outside, e.g. {outside[:1]}",
        )

    def cropped(self, region: Box) -> "Skeleton":
        """The nodes in a region, with the edges between them, in voxels of the region."""
        moved = self.positions - np.array(region.start)
        inside = ((moved >= 0) & (moved < region.shape)).all(1)
        number = np.cumsum(inside) - 1
        return Skeleton(
            self.ids[inside],
            np.ascontiguousarray(moved[inside]),
            np.ascontiguousarray(self.nm[inside]),
            number[self.edges[inside[self.edges].all(1)]],
        )

    def transposed(self, axes: str, order: str) -> "Skeleton":
        """The same skeletons of a volume whose spatial axes, here `axes`, are read as `order`."""
        moved = [axes.index(axis) for axis in order]
        positions = np.ascontiguousarray(self.positions[:, moved])
        return replace(self, positions=positions, nm=np.ascontiguousarray(self.nm[:, moved]))

    @property
    def edge_lengths(self) -> np.ndarray:
        """(E,) float64, nm."""
        starts, ends = np.ascontiguousarray(self.edges.T)
        squared = np.zeros(len(self.edges))
        for along in np.ascontiguousarray(self.nm.T):
            squared += (along[ends] - along[starts]) ** 2
        return np.sqrt(squared)


def load_skeleton(
    path: str | Path, voxel_size: Lengths | None = None, *, axes: str = "zyx"
) -> Skeleton:
    """Skeletons from a file.

    The file is a NISB graph (.pkl), SWC (.swc, or a folder of them), a WEBKNOSSOS annotation
    (.nml), or what save_skeleton wrote (.npz).

    voxel_size: nm, in stored axis order. SWC needs it: its x, y, z are taken as nm, voxel = nm /
    voxel size rounded, in the order that `axes` names for the volume; each connected tree becomes a
    skeleton, numbered from 1; radii are not used. A graph needs it only without nm_position.
    An .nml has its own scale; with another voxel size its nodes are moved to the voxels of that.
    ValueError if the content does not fit the name, SkeletonNotFound if the file is missing.
    """
    path = Path(path)
    if not path.exists():
        raise SkeletonNotFound(f"Skeleton not found: {path}")
    suffix = path.suffix.lower()
    if suffix in (".pkl", ".pickle"):
        with reading("a pickled networkx graph", path):
            return _from_graph(_load_graph(path), str(path), voxel_size)
    if suffix == ".npz":
        what = "the arrays ids, positions, nm, edges, as save_skeleton wrote them,"
        with reading(what, path), np.load(path, allow_pickle=False) as arrays:
            return Skeleton(**arrays)
    if suffix == ".nml":
        return _from_nml(path, voxel_size, axes)
    files = [path] if suffix == ".swc" else []
    if path.is_dir():
        files = sorted(path.glob("*.swc"))
    require(bool(files), "skeletons as .pkl, .npz, .nml, .swc or a folder of .swc", str(path))
    expected = f"the voxel size of the volume: {path} holds nm, and its voxels are needed"
    require(voxel_size is not None, expected, voxel_size)
    return _from_swc(files, np.asarray(voxel_size, np.float64), axes)


def as_skeleton(source: "str | Path | Skeleton | networkx.Graph") -> Skeleton:
    """The skeletons that are meant: as they are, from a file (`load_skeleton`), or from a graph.

    A graph has on each node the attributes id, index_position (voxels, in stored axis order) and
    nm_position. ValueError if they are missing, or if the source is anything else.
    """
    if isinstance(source, Skeleton):
        return source
    if isinstance(source, str | Path):
        return load_skeleton(source)
    import networkx

    expected = "the path of a skeleton file, a networkx graph or a Skeleton"
    require(isinstance(source, networkx.Graph), expected, type(source).__name__)
    return _from_graph(source, "the graph", None)


def save_skeleton(path: str | Path, skeleton: Skeleton) -> None:
    """Write skeletons as .npz (arrays ids, positions, nm, edges).

    The file has a temporary name until it is whole.
    """
    path = Path(path)
    require(path.suffix == ".npz", "a path that ends in .npz", str(path))
    with replacing(path) as temporary:
        np.savez_compressed(
            temporary, **{field.name: getattr(skeleton, field.name) for field in fields(Skeleton)}
        )


class _GraphUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in ALLOWED_GLOBALS:
            return super().find_class(module, name)
        if module in GRAPH_MODULES and "." not in name:
            found = super().find_class(module, name)
            if isinstance(found, type) and found.__module__ == module:
                return found
        raise ValueError(f"a pickle that asks for {module}.{name}, which is refused")


def _load_graph(path: Path) -> "networkx.Graph":
    import networkx

    with open(path, "rb") as file:
        graph = _GraphUnpickler(file).load()
    require(isinstance(graph, networkx.Graph), f"a networkx graph in {path}", type(graph).__name__)
    return graph


def _from_graph(graph: "networkx.Graph", source: str, voxel_size: Lengths | None) -> Skeleton:
    """Skeletons from a graph as NISB stores them; source: the name of the graph in errors."""

    def attribute(name: str, dtype: type, width: tuple[int, ...]) -> np.ndarray:
        for node, values in graph.nodes(data=True):
            require(
                name in values, f"{name} on each node of {source}, so on {node!r}", sorted(values)
            )
        what = f"{name} in {source} to be {np.dtype(dtype)}"
        with expecting(what, ValueError, TypeError, OverflowError):
            exact = np.array([value for _, value in graph.nodes(data=name)]).reshape(-1, *width)
            array: np.ndarray = exact.astype(dtype)
        require(bool((array == exact).all()), what, exact[array != exact][:1].tolist())
        return array

    positions = attribute("index_position", np.int64, (3,))
    has_nm = len(positions) == 0 or any(
        "nm_position" in values for _, values in graph.nodes(data=True)
    )
    expected = f"nm_position on the nodes of {source}, or a voxel size"
    require(has_nm or voxel_size is not None, expected, voxel_size)
    if has_nm:
        nm = attribute("nm_position", np.float64, (3,))
    else:
        nm = positions * np.asarray(voxel_size, np.float64)
    number = {node: i for i, node in enumerate(graph.nodes)}
    edges = np.array([(number[a], number[b]) for a, b in graph.edges()], np.int64).reshape(-1, 2)
    return Skeleton(attribute("id", np.uint64, ()), positions, nm, edges)


def _from_swc(files: list[Path], voxel_size: np.ndarray, axes: str) -> Skeleton:
    import networkx

    require(sorted(axes) == sorted("zyx"), "axes that are an order of zyx", axes)
    points: list[np.ndarray] = []
    forest = networkx.Graph()
    for file in files:
        with expecting(f"7 numbers in each line of {file}", ValueError):
            # sample, type, x, y, z, radius, parent (Cannon 1998)
            rows = np.loadtxt(file, usecols=range(7), ndmin=2)
            require(bool(np.isfinite(rows).all()), "finite numbers", "a nan or infinity")
        samples, parents = rows[:, [0, 6]].astype(int).T.tolist()
        node = {sample: len(points) + i for i, sample in enumerate(samples)}
        require(
            len(node) == len(rows),
            f"each sample number once in {file}",
            f"{len(node)} in {len(rows)} rows",
        )
        forest.add_nodes_from(node.values())
        edges = [(sample, parent) for sample, parent in zip(samples, parents) if parent >= 0]
        lacking = [parent for _, parent in edges if parent not in node]
        require(not lacking, f"parents that are samples of {file}", lacking)
        forest.add_edges_from((node[sample], node[parent]) for sample, parent in edges)
        points.extend(rows[:, [2 + "xyz".index(axis) for axis in axes]])
    ids = np.zeros(len(points), np.uint64)
    for i, tree in enumerate(networkx.connected_components(forest), start=1):
        ids[list(tree)] = i
    nm = np.array(points, np.float64).reshape(-1, 3)
    pairs = np.array(list(forest.edges), np.int64).reshape(-1, 2)
    return Skeleton(ids, np.rint(nm / voxel_size).astype(np.int64), nm, pairs)


def _from_nml(path: Path, voxel_size: Lengths | None, axes: str) -> Skeleton:
    """Skeletons of a WEBKNOSSOS annotation: each tree (`thing`) is one, under its id.

    x, y and z of a node are voxels, and `scale` is their size in nm. Groups, comments, branch
    points and radii are not used. Source: docs.webknossos.org, "Data Formats", NML.
    """
    from xml.etree import ElementTree

    require(sorted(axes) == sorted("zyx"), "axes that are an order of zyx", axes)
    what = f"a WEBKNOSSOS annotation with scale, nodes and edges in {path}"
    ids: list[int] = []
    points: list[list[float]] = []
    pairs: list[tuple[int, int]] = []
    with expecting(what, ElementTree.ParseError, KeyError, ValueError, OverflowError):
        root = ElementTree.parse(path).getroot()
        scale = root.find("parameters/scale")
        if scale is None:
            raise ValueError("no parameters with a scale")
        unit = scale.get("unit", "nanometer")
        require(unit in ("nanometer", "nm"), "a scale in nanometer", unit)
        size = np.array([float(scale.attrib[axis]) for axis in axes])
        number: dict[str, int] = {}
        for tree in root.iter("thing"):
            for node in tree.iterfind("nodes/node"):
                require(node.attrib["id"] not in number, "each node once", node.attrib["id"])
                number[node.attrib["id"]] = len(points)
                points.append([float(node.attrib[axis]) for axis in axes])
                ids.append(int(tree.attrib["id"]))
            for edge in tree.iterfind("edges/edge"):
                pairs.append((number[edge.attrib["source"]], number[edge.attrib["target"]]))
        nm = np.array(points, np.float64).reshape(-1, 3) * size
        positions = np.rint(nm / np.asarray(voxel_size or size, np.float64)).astype(np.int64)
        edges = np.array(pairs, np.int64).reshape(-1, 2)
        return Skeleton(np.array(ids, np.uint64), positions, nm, edges)
