"""The arguments of `pytc view`; the comment of a field is its help on the command line."""

from dataclasses import dataclass
from typing import Literal

import tyro

from pytc.checks import Section
from pytc.config import Lengths, Triple


@dataclass(frozen=True)
class ViewConfig(Section):
    """Look at a run, or at files, in Neuroglancer in a browser.

    Image, affinities, labels, segmentation, skeletons and errors are layers. A slider moves the
    threshold of an agglomeration, and the segments follow. Without a word the newest results are
    shown. Needs the extra `view`.
    """

    # A run (folder or name), and files beside or instead of it: volumes, skeletons.
    what: tyro.conf.Positional[tuple[str, ...]] = ()
    volume: str | None = None  # Volume of the run, by the name of its folder of results.
    image: str | None = None  # Image; default: the run's.
    affinities: str | None = None  # Affinities or probabilities; default: the run's.
    labels: str | None = None  # True labels; default: the run's.
    segmentation: str | None = None  # Segmentation; default: the run's.
    skeleton: str | None = None  # Skeletons: .swc or a folder of them, .pkl, .npz.
    errors: str | None = None  # errors.csv of an evaluation; default: the run's.
    # Axis order of the named files, e.g. zyx or xyzc, where they do not say.
    axes: str | None = None
    voxel_size: Lengths | None = None  # Voxel size in nm, in stored axis order, where no file says.
    threshold: float | None = None  # Where the slider begins; default: as the run was segmented.
    # Segments of fewer voxels are not shown; default: as the run was segmented.
    min_size: int | None = None
    # Numbers of the segments at a threshold. stable: of their largest fragment, so that colours
    # stay while the slider moves; cut: 1, 2, ... as in segmentation.zarr.
    numbers: Literal["stable", "cut"] = "stable"
    select: tuple[int, ...] = ()  # Segments to select at the start.
    # Where to look first: a voxel, in stored axis order; default: the middle.
    position: Triple | None = None
    port: int = 0  # Port on this machine; 0: any free one.
    # Print a link instead, for an existing server: the address at which it serves the folder
    # that --root names.
    link: str | None = None
    root: str = "."  # Folder that the server of --link serves.
    # Neuroglancer that opens the link.
    client: str = "https://neuroglancer-demo.appspot.com"

    def __post_init__(self):
        super().__post_init__()
        self.require_fraction("threshold")
        self.require_not_negative("min_size", "port")
        self.require_positive("voxel_size")

    @property
    def named_files(self) -> list[str]:
        """The files that flags name."""
        files = (self.image, self.affinities, self.labels, self.segmentation, self.skeleton)
        return [file for file in files if file is not None]
