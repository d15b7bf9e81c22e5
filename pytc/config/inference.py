"""From an image to a segmentation."""

from dataclasses import dataclass
from typing import Literal

from pytc.checks import Section
from pytc.config.volumes import Triple

SegmentationMethod = Literal[
    "agglomeration",
    "components",
    "components_watershed",
    "waterz",
    "mutex_watershed",
]


@dataclass(frozen=True)
class InferenceConfig(Section):
    """From an image to affinities."""

    # Voxels of a window that is predicted at once. Default: the training patch.
    window: Triple | None = None
    overlap: float = 0.5  # Share of a window that the next window covers again.
    # Weight of a voxel in a window: its distance to the border, or a Gaussian.
    blending: Literal["distance", "gaussian"] = "distance"
    # Average over the eight mirrorings of each window: eight times the work, better affinities.
    flips: bool = False
    # Average over exchanges of axes, too, those whose voxels and windows are of one length: twice
    # the work in anisotropic volumes, six times in isotropic ones.
    axis_permutations: bool = False
    # Windows predicted at once. On a CPU, PyTorch is slow if it is 1.
    batch_size: int = 2
    # Voxels of a block. A block is predicted, written and marked as done in one piece. Default: few
    # planes, as wide as the memory allows, since windows on the sides are predicted twice.
    block: Triple | None = None
    # Affinity = sigmoid(scale x logit); for classes a softmax of scale x logit. Default: 0.2, which
    # keeps float16 from saturating, and 1 for classes.
    activation_scale: float | None = None
    checkpoint: Literal["best", "last"] = "best"  # Which checkpoint of the run to use.

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_positive("window", "batch_size", "block", "activation_scale")
        self.require_below_one("overlap")


@dataclass(frozen=True)
class SegmentationConfig(Section):
    """From affinities to objects."""

    threshold: float = 0.5  # Affinities above this join voxels, or fragments, to one object.
    min_size: int = 0  # Objects of fewer voxels become background.
    # agglomeration: fragments with a mean affinity above the threshold are one object; it reads the
    # affinities over long distances, too. components: neighbours with an affinity above the
    # threshold are one object. components_watershed: the same; then a seeded watershed on the
    # affinities, with the components as seeds, fills what is left. For comparison: waterz and
    # mutex_watershed, which need packages: pip install -e '.[agglomeration]' in a clone.
    method: SegmentationMethod = "agglomeration"
    # agglomeration: where fragments begin; a seeded watershed makes them whole. components: at
    # connected components above fragment_threshold. distance_peaks: where the distance to the
    # nearest membrane is largest. sections: the same in each thick section on its own. auto:
    # sections where voxels are at least twice as long along one axis, otherwise components.
    fragment_seeds: Literal["auto", "components", "distance_peaks", "sections"] = "auto"
    # agglomeration, waterz: fragments begin inside of objects, where affinities are above this.
    # Default: 0.8 for components, 0.5 where the distance to membranes is measured.
    fragment_threshold: float | None = None
    fragment_min_size: int = 20  # agglomeration: voxels of the smallest component that begins one.
    # agglomeration: fragments are made in blocks of this many voxels. It changes the result a
    # little, as fragments end at the faces of blocks; agglomeration joins them again.
    fragment_block: Triple = (256, 256, 256)
    # agglomeration: weight of each affinity channel in the mean, whole numbers. Default: 9 for
    # edges to the next voxel and 3 for longer ones; a third of that across thick sections.
    edge_weights: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_fraction("threshold", "fragment_threshold")
        self.require_not_negative("min_size", "fragment_min_size", "edge_weights")
        self.require_positive("fragment_block")
