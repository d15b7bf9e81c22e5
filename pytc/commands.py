"""What infer.py and evaluate.py are told; a field's comment is its help on the command line."""

import math
from dataclasses import dataclass
from typing import Literal

from pytc.checks import Section, require
from pytc.config import (
    InferenceConfig,
    Intensity,
    Lengths,
    SegmentationConfig,
    SystemConfig,
    Triple,
    VolumeConfig,
    require_intensity,
)


@dataclass(frozen=True)
class InferConfig(Section):
    """Predict a volume with the network of a run, and segment it.

    What no option says is as the run's config has it; the defaults below are pytc's own.
    """

    run: str | None = None  # Folder of the run; by default the newest one with a checkpoint.
    # Python files to load first, which register the network of the run if it is none of pytc's.
    plugins: tuple[str, ...] = ()
    input: str | None = None  # Image to predict; by default every validation volume of the run.
    # Folder for affinities.zarr and segmentation.zarr; by default below the run.
    output: str | None = None
    labels: str | None = None  # True labels of the input, noted for evaluate.py; not needed.
    skeleton: str | None = None  # True skeletons of the input, noted for evaluate.py; not needed.
    # Axis order of the input, e.g. zyx or xyzc, where the file does not say.
    axes: str | None = None
    # Voxel size in nm, in stored axis order, where the file does not say.
    voxel_size: Lengths | None = None
    # Read the input's axes in the order of the training volumes'; results are stored in this order.
    transpose: bool = False
    # Grey values of the input that become 0 and 1; by default as the run's data.intensity says.
    intensity: Intensity | None = None
    inference: InferenceConfig = InferenceConfig()
    segmentation: SegmentationConfig = SegmentationConfig()
    system: SystemConfig = SystemConfig()

    def __post_init__(self):
        super().__post_init__()
        require_intensity("--intensity", self.intensity)

    def input_volume(self) -> VolumeConfig:
        """The volume that `input` and the fields beside it name, in stored order."""
        return VolumeConfig(
            image=self.input,
            labels=self.labels,
            skeleton=self.skeleton,
            axes=self.axes,
            voxel_size=self.voxel_size,
            intensity=self.intensity,
        )


@dataclass(frozen=True)
class EvaluateConfig(Section):
    """Score a prediction against true labels or skeletons, and write a report.

    With nothing named, the newest results below runs/ are scored.
    """

    # Folder of the run whose newest predictions are scored; by default the newest run.
    run: str | None = None
    # To segment: one channel an offset, or a semantic task's probability map.
    affinities: str | None = None
    segmentation: str | None = None  # Segmentation to score as it is.
    # True labels, 0 = background, -1 = unlabelled; default: those of the run's volume.
    labels: str | None = None
    # Where the labels are valid (non-zero); default: the mask of the run's volume.
    mask: str | None = None
    # True skeletons: NISB .pkl, .swc or a folder of them, .npz; default: the run's.
    skeleton: str | None = None
    image: str | None = None  # Image behind the report's pictures; default: the run's.
    voxel_size: Lengths | None = None  # Voxel size in nm, in stored axis order, where no file says.
    # Offsets of the affinity channels, where the file does not say.
    offsets: tuple[Triple, ...] | None = None
    # Folder for the figures; default: the run's evaluation folder, or evaluation/.
    output: str | None = None
    # Default: what the run predicts, else instances.
    task: Literal["instance", "semantic"] | None = None
    sweep: bool = False  # Segment the affinities at each threshold, and keep the best.
    # Find the best threshold of all, and draw the whole curve; for NERL, ERL and VOI over
    # skeletons, without --grow.
    exact: bool = False
    # Thresholds of the sweep; default sigmoid(0.2 k) for k = -1..11. One alone needs no --sweep.
    thresholds: tuple[float, ...] = tuple(1 / (1 + math.exp(-0.2 * k)) for k in range(-1, 12))
    # Picks the threshold; default: nerl with skeletons, else dense_voi_sum, or jaccard.
    metric: str | None = None
    # Objects of fewer voxels are removed before scoring; default: as in infer.py, or 0.
    min_size: int | None = None
    # Let voxels that are left join the object they are most tied to; default: as in infer.py.
    grow: bool | None = None
    # Fail unless the metric's best value is at least this (at most, if less is better).
    require: float | None = None
    # funlib: count the figures a second time by funlib.evaluate, the reference implementation, and
    # compare.
    backend: Literal["pytc", "funlib"] = "pytc"
    # Where the data comes from and its licence; printed in the report.
    attribution: str | None = None

    def __post_init__(self):
        super().__post_init__()
        inputs = (self.affinities, self.segmentation)
        require(None in inputs, "--affinities or --segmentation, not both", inputs)
        require(
            self.run is None or inputs == (None, None),
            "--run, or the name of a prediction, not both",
            inputs,
        )
        require(
            not (self.sweep and self.segmentation),
            "affinities to sweep, not a segmentation",
            self.segmentation,
        )
        require(self.sweep or not self.exact, "--sweep with --exact", self.sweep)
        require(len(self.thresholds) > 0, "at least one threshold", self.thresholds)
        require(all(0 <= t <= 1 for t in self.thresholds), "thresholds in [0, 1]", self.thresholds)
        require((self.min_size or 0) >= 0, "a min_size of 0 or more voxels", self.min_size)
        if self.affinities and not self.sweep:
            require(len(self.thresholds) == 1, "--sweep, or one --thresholds", self.thresholds)


@dataclass(frozen=True)
class ValidateConfig(Section):
    """Score the checkpoints of a run by whole volumes, once or as they come."""

    # Folder of the run; by default the newest one. With --watch it need not be there yet.
    run: str | None = None
    # Python files to load first, which register the network of the run if it is none of pytc's.
    plugins: tuple[str, ...] = ()
    # Follow the run to its end: score its newest checkpoint, then the newest one then, and so on.
    watch: bool = False
    interval: float = 30.0  # Seconds between looks for a new checkpoint.
    # Where to predict; auto takes a GPU if there is one.
    device: Literal["auto", "cpu", "cuda"] = "auto"

    def __post_init__(self):
        super().__post_init__()
        self.require_positive("interval")
