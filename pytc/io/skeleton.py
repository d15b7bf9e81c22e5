"""Skeletons, the ground truth for run lengths: positions in voxels find labels, positions in nm measure edges."""

from __future__ import annotations

import pickle
import zipfile
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from pytc.config import require
from pytc.runs import replacing

# What a pickled networkx graph with numbers, tuples or arrays on its nodes refers to; none of it runs foreign code.
GRAPH_MODULES = {f"networkx.classes.{name}" for name in ("graph", "digraph", "multigraph", "coreviews", "reportviews")}
ALLOWED_GLOBALS = {
    ("numpy", "ndarray"), ("numpy", "dtype"), ("_codecs", "encode"),  # the last is how protocol 2 spells bytes
    *(("builtins", name) for name in ("dict", "list", "tuple", "set", "frozenset", "bytearray")),
    *((f"numpy.{core}.multiarray", name) for core in ("core", "_core") for name in ("_reconstruct", "scalar")),
    *((f"numpy.{core}.numeric", "_frombuffer") for core in ("core", "_core")),
}
Size = tuple[float, float, float]


@dataclass(frozen=True)
class Skeleton:
    """The skeletons of a volume, flat: ids (N,) uint64 tell which skeleton a node belongs to; positions (N, 3) int64
    voxels in stored axis order; nm (N, 3) float64; edges (E, 2) int64 pairs of node indices. ValueError if they do not
    fit together, or if an edge joins two skeletons."""

    ids: np.ndarray
    positions: np.ndarray
    nm: np.ndarray
    edges: np.ndarray

    def __post_init__(self):
        n = len(self.ids)
        wanted = {"ids": (np.uint64, (n,)), "positions": (np.int64, (n, 3)), "nm": (np.float64, (n, 3)),
                  "edges": (np.int64, (len(self.edges), 2))}
        for name, (dtype, shape) in wanted.items():
            array = getattr(self, name)
            if array.dtype != dtype or array.shape != shape:
                raise ValueError(f"expected {name} as {np.dtype(dtype)} {shape}, got {array.dtype} {array.shape}")
        outside = self.edges[((self.edges < 0) | (self.edges >= n)).any(1)]
        require(len(outside) == 0, f"edges between nodes 0 to {n - 1}", outside[:1].tolist())
        joined = self.ids[self.edges]
        joined = joined[joined[:, 0] != joined[:, 1]]
        if len(joined):
            raise ValueError(f"expected edges within a skeleton, got one between skeletons {joined[0].tolist()}")
        require(np.isfinite(self.nm).all(), "finite lengths in nm", self.nm[~np.isfinite(self.nm).all(1)][:1].tolist())

    def require_inside(self, shape: tuple[int, ...]) -> None:
        """ValueError, with a node that is not, unless all nodes lie inside a volume of this shape."""
        outside = self.positions[((self.positions < 0) | (self.positions >= shape)).any(1)].tolist()
        require(not outside, f"skeleton nodes inside {shape}", f"{len(outside)} outside, e.g. {outside[:1]}")

    @property
    def edge_lengths(self) -> np.ndarray:
        """(E,) float64, nm."""
        steps = self.nm[self.edges[:, 1]] - self.nm[self.edges[:, 0]]
        return np.sqrt(np.einsum("ea,ea->e", steps, steps))


def load_skeleton(path: str | Path, voxel_size: Size | None = None, *, axes: str = "zyx") -> Skeleton:
    """Skeletons from a file: a NISB graph (.pkl), SWC (.swc, or a folder of them), or what save_skeleton wrote (.npz).

    voxel_size: nm, in stored axis order. SWC needs it: its x, y, z are taken as nm, voxel = nm / voxel size rounded,
    in the order that `axes` names for the volume; each connected tree becomes a skeleton, numbered from 1; radii are
    not used. A graph needs it only without nm_position. ValueError if the file is not what its name says.
    """
    path = Path(path)
    if not path.exists():
        raise ValueError(f"expected skeletons at {path}, but there is no such file or folder")
    suffix = path.suffix.lower()
    if suffix in (".pkl", ".pickle"):
        return _from_graph(_read_graph(path), path, voxel_size)
    if suffix == ".npz":
        return _from_npz(path)
    files = sorted(path.glob("*.swc")) if path.is_dir() else [path] if suffix == ".swc" else []
    if not files:
        raise ValueError(f"expected skeletons as .pkl, .npz, .swc or a folder of .swc, got {path}")
    if voxel_size is None:
        raise ValueError(f"expected the voxel size of the volume: {path} holds nm, and its voxels are needed")
    return _from_swc(files, np.asarray(voxel_size, np.float64), axes)


def save_skeleton(path: str | Path, skeleton: Skeleton) -> None:
    """Write skeletons as .npz (arrays ids, positions, nm, edges), under a temporary name until the file is whole."""
    path = Path(path)
    require(path.suffix == ".npz", "a path that ends in .npz", str(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary, open(temporary, "wb") as file:
        np.savez_compressed(file, **{field.name: getattr(skeleton, field.name) for field in fields(Skeleton)})


def _from_npz(path: Path) -> Skeleton:
    names = [field.name for field in fields(Skeleton)]
    try:
        with np.load(path, allow_pickle=False) as arrays:
            arrays = dict(arrays)
    except (ValueError, OSError, EOFError, TypeError, zipfile.BadZipFile) as error:
        raise ValueError(f"expected what save_skeleton wrote in {path}, got {error}") from error
    if sorted(arrays) != sorted(names):
        raise ValueError(f"expected the arrays {', '.join(names)} in {path}, got {', '.join(arrays)}")
    return Skeleton(**arrays)


class _GraphUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in ALLOWED_GLOBALS:
            return super().find_class(module, name)
        if module in GRAPH_MODULES and "." not in name:
            found = super().find_class(module, name)
            if isinstance(found, type) and found.__module__ == module:
                return found
        raise ValueError(f"expected a networkx graph, got a pickle that asks for {module}.{name}, which is refused")


def _read_graph(path: Path) -> Any:
    import networkx

    with open(path, "rb") as file:
        try:
            graph = _GraphUnpickler(file).load()
        except (pickle.UnpicklingError, EOFError, ImportError, AttributeError, LookupError, TypeError) as error:
            raise ValueError(f"expected a pickled networkx graph in {path}, got {error!r}") from error
    if not isinstance(graph, networkx.Graph):
        raise ValueError(f"expected a networkx graph in {path}, got {type(graph).__name__}")
    return graph


def _from_graph(graph: Any, path: Path, voxel_size: Size | None) -> Skeleton:
    def attribute(name: str, dtype: type, width: tuple[int, ...]) -> np.ndarray:
        for node, values in graph.nodes(data=True):
            if name not in values:
                raise ValueError(f"expected {name} on each node of {path}, got {sorted(values)} on node {node!r}")
        exact = np.array([value for _, value in graph.nodes(data=name)]).reshape(-1, *width)
        array = exact.astype(dtype)
        if (array != exact).any():
            raise ValueError(f"expected {name} in {path} to be {np.dtype(dtype)}, got {exact[array != exact][0]}")
        return array

    positions = attribute("index_position", np.int64, (3,))
    has_nm = len(positions) == 0 or any("nm_position" in values for _, values in graph.nodes(data=True))
    if not has_nm and voxel_size is None:
        raise ValueError(f"expected nm_position on the nodes of {path}, or a voxel size, got neither")
    nm = attribute("nm_position", np.float64, (3,)) if has_nm else positions * np.asarray(voxel_size, np.float64)
    number = {node: i for i, node in enumerate(graph.nodes)}
    edges = np.array([(number[a], number[b]) for a, b in graph.edges()], np.int64).reshape(-1, 2)
    return Skeleton(attribute("id", np.uint64, ()), positions, nm, edges)


def _from_swc(files: list[Path], voxel_size: np.ndarray, axes: str) -> Skeleton:
    import networkx

    require(sorted(axes) == sorted("zyx"), "axes that are an order of zyx", axes)
    nm, forest = [], networkx.Graph()
    for file in files:
        try:  # sample, type, x, y, z, radius, parent (Cannon et al. 1998)
            rows = np.loadtxt(file, usecols=range(7), ndmin=2)
        except ValueError as error:
            raise ValueError(f"expected 7 numbers in each line of {file}, got {error}") from error
        samples, parents = rows[:, [0, 6]].astype(int).T.tolist()
        node = {sample: len(nm) + i for i, sample in enumerate(samples)}
        require(len(node) == len(rows), f"each sample number once in {file}", f"{len(node)} in {len(rows)} rows")
        forest.add_nodes_from(node.values())
        for sample, parent in zip(samples, parents):
            if parent >= 0 and parent not in node:
                raise ValueError(f"expected sample {parent} in {file}, the parent of {sample}, got none")
            if parent >= 0:
                forest.add_edge(node[sample], node[parent])
        nm.extend(rows[:, [2 + "xyz".index(axis) for axis in axes]])
    ids = np.zeros(len(nm), np.uint64)
    for i, tree in enumerate(networkx.connected_components(forest), start=1):
        ids[list(tree)] = i
    nm = np.array(nm, np.float64).reshape(-1, 3)
    positions = np.rint(nm / voxel_size).astype(np.int64)
    return Skeleton(ids, positions, nm, np.array(list(forest.edges), np.int64).reshape(-1, 2))
