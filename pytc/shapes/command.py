"""The arguments of `pytc skeletonize` and `pytc mesh`; the comment of a field is its help."""

from dataclasses import dataclass

import tyro

from pytc.checks import Section
from pytc.config import Lengths, Triple


@dataclass(frozen=True)
class SkeletonizeConfig(Section):
    """Make skeletons of labelled objects, as `pytc evaluate --skeleton` reads them.

    By TEASAR (kimimaro), block by block. Needs the extra `shapes`.
    """

    labels: tyro.conf.Positional[str]  # Volume of labels, by path or URL.
    output: tyro.conf.Positional[str]  # Skeletons to write, NAME.npz.
    axes: str | None = None  # Axis order, e.g. zyx, where the file does not say.
    # Voxel size in nm, in stored axis order, where the file does not say.
    voxel_size: Lengths | None = None
    min_size: int = 1000  # Objects of fewer voxels get no skeleton.
    # A branch begins farther from a path than this times the distance of the path to the border of
    # the object, plus --const.
    scale: float = 1.5
    const: float = 300.0  # nm; more makes fewer short branches.
    block: Triple = (512, 512, 512)  # Voxels that are read at once.
    overwrite: bool = False  # Replace a file that is there.

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_positive("block", "scale", "voxel_size")
        self.require_not_negative("min_size", "const")


@dataclass(frozen=True)
class MeshConfig(Section):
    """Make meshes of labelled objects, as Neuroglancer shows them.

    Written into a precomputed volume that pytc convert made of the same labels, or into a folder of
    their own. By zmesh (marching cubes), block by block. Needs the extra `shapes`.
    """

    labels: tyro.conf.Positional[str]  # Volume of labels, by path or URL.
    target: tyro.conf.Positional[str]  # precomputed://PATH, on this machine.
    axes: str | None = None  # Axis order, e.g. zyx, where the file does not say.
    # Voxel size in nm, in stored axis order, where the file does not say.
    voxel_size: Lengths | None = None
    min_size: int = 1000  # Objects of fewer voxels get no mesh.
    # Most nm by which a mesh with fewer triangles leaves the surface. Default: the longest side of
    # a voxel.
    max_error: float | None = None
    block: Triple = (256, 256, 256)  # Voxels that are read at once, along x, y, z.
    overwrite: bool = False  # Replace meshes that are there.

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_positive("block", "voxel_size")
        self.require_not_negative("min_size", "max_error")
