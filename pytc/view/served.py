"""Volumes as Neuroglancer's Python server reads them: chunk by chunk, any size, nothing copied.

Importing this module needs the extra `view`.
"""

import threading
from typing import Any, Protocol

import neuroglancer
import numpy as np
from neuroglancer import local_volume

from pytc.config import Lengths
from pytc.io.labels import is_unlabelled
from pytc.io.skeleton import Skeleton
from pytc.io.volume import Volume
from pytc.view.sources import Role
from pytc.view.threshold import SegmentsAtThreshold

# What Neuroglancer's client can show. Its ids are unsigned.
IMAGE_DTYPES = {"bool": "uint8", "float16": "float32", "float64": "float32"}
IMAGE_DTYPES |= {"int64": "float32", "uint64": "float32"}
MESH_VOXELS = 2**23  # a volume with more is strided for meshes


class Readable(Protocol):
    """What `neuroglancer.LocalVolume` asks of its data."""

    shape: tuple[int, ...]
    dtype: np.dtype

    def __getitem__(self, index: Any) -> np.ndarray: ...


class StoredValues:
    """A volume in a dtype that Neuroglancer shows; unlabelled voxels are background."""

    def __init__(self, volume: Volume, role: Role) -> None:
        self.volume = volume
        self.shape = volume.shape
        self.is_ids = role in ("labels", "segmentation")
        name = volume.dtype.name
        if self.is_ids:
            name = "uint64" if volume.dtype.itemsize == 8 else "uint32"
        self.dtype = np.dtype(name if self.is_ids else IMAGE_DTYPES.get(name, name))
        self._lock = threading.Lock()  # readers of some formats are not safe in two threads

    def __getitem__(self, index: Any) -> np.ndarray:
        with self._lock:
            values = self.volume[index]
        if self.is_ids:
            values = np.where(is_unlabelled(values), 0, values)
        return values.astype(self.dtype, copy=False)


class SegmentValues:
    """Fragments, each voxel looked up in the table of the present threshold."""

    def __init__(self, fragments: Volume, segments: SegmentsAtThreshold) -> None:
        self.fragments = fragments
        self.segments = segments
        self.shape = fragments.shape
        self.dtype = fragments.dtype
        self._lock = threading.Lock()

    def __getitem__(self, index: Any) -> np.ndarray:
        with self._lock:
            fragments = self.fragments[index]
        return self.segments.look_up(fragments)


class ServedVolume(neuroglancer.LocalVolume):
    """A volume at its voxel size and axes. After `invalidate` browsers read it anew.

    Meshes of selected segments are made on demand, of a large volume from every second, third, ...
    voxel.
    """

    def __init__(self, values: Readable, role: Role, axes: str, voxel_size: Lengths) -> None:
        of_ids = role in ("labels", "segmentation")
        super().__init__(
            values,
            dimensions=coordinate_space(axes, voxel_size),
            volume_type="segmentation" if of_ids else "image",
        )
        self._mesh_lock = threading.Lock()
        self._meshes: Any = None

    def get_object_mesh(self, object_id: int) -> bytes:
        with self._mesh_lock:
            if self._meshes is None:
                self._meshes = self._make_meshes()
            meshes = self._meshes
        mesh: bytes | None = meshes.get_mesh(object_id)
        if mesh is None:
            raise local_volume.InvalidObjectIdForMesh
        return mesh

    def invalidate(self) -> None:
        with self._mesh_lock:
            self._meshes = None
        super().invalidate()

    def _make_meshes(self) -> Any:
        """The surfaces of all segments at once, as the library makes them."""
        try:
            from neuroglancer import _neuroglancer
        except ImportError as error:
            raise local_volume.MeshImplementationNotAvailable from error
        step = 1
        while np.prod([-(-length // step) for length in self.shape]) > MESH_VOXELS:
            step += 1
        values = self.data[tuple(slice(0, length, step) for length in self.shape)]
        scales = np.array(self.dimensions.scales) * step
        return _neuroglancer.OnDemandObjectMeshGenerator(values.transpose(), scales, np.zeros(3))


class ServedSkeletons(neuroglancer.skeleton.SkeletonSource):
    """Each skeleton by its id."""

    def __init__(self, skeleton: Skeleton, axes: str, voxel_size: Lengths) -> None:
        super().__init__(coordinate_space(axes, voxel_size))
        self.skeleton = skeleton
        self.ids = np.unique(skeleton.ids).tolist()

    def get_skeleton(self, object_id: int) -> Any:
        nodes = np.flatnonzero(self.skeleton.ids == object_id)
        if len(nodes) == 0:
            return None
        edges = self.skeleton.edges
        inside = np.isin(edges, nodes).all(axis=1)
        middles = self.skeleton.positions[nodes] + 0.5  # a voxel begins at its index
        return neuroglancer.skeleton.Skeleton(middles, np.searchsorted(nodes, edges[inside]))


def coordinate_space(axes: str, voxel_size: Lengths) -> Any:
    """Neuroglancer's name, unit and length of a voxel along each axis.

    axes: e.g. zyx or czyx; channels have no length.
    """
    lengths = iter(voxel_size)
    names = ["c^" if axis == "c" else axis for axis in axes]
    scales = [1.0 if axis == "c" else next(lengths) for axis in axes]
    units = ["" if axis == "c" else "nm" for axis in axes]
    return neuroglancer.CoordinateSpace(names=names, scales=scales, units=units)
