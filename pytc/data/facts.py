"""What is known of an opened volume, as plain types: a checkpoint keeps it."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from pytc.config import Lengths, Triple
from pytc.io import intensity


@dataclass(frozen=True)
class Facts:
    """Facts of an opened volume, as plain types: a checkpoint keeps them."""

    name: str
    image: str
    axes: str  # spatial, in the order in which they are read
    axes_from: str
    shape: Triple
    dtype: str
    grey_range: intensity.Range  # stored values that a network sees as 0 and 1
    histogram: tuple[float, ...]  # of the mapped values, as from intensity.histogram
    voxel_size: Lengths | None
    voxel_size_from: str
    labels: str | None = None
    n_labels: int = 0  # in the sample
    sampled: bool = False  # whether the volume is larger than the sample
    foreground: float = 0.0  # share of voxels with a label above 0
    unlabelled: float = 0.0  # share of unlabelled voxels
    # share of the image that labels smaller than it take up; the shares above are of their voxels
    labels_share: float = 1.0

    def __str__(self) -> str:
        low, high = self.grey_range
        size = "of unknown size"
        if self.voxel_size is not None:
            lengths = " x ".join(f"{length:g}" for length in self.voxel_size)
            size = f"{lengths} nm ({self.voxel_size_from})"
        parts = [
            f"{self.name}: {self.image}, {self.axes} {' x '.join(map(str, self.shape))}",
            f"{self.dtype}, grey {low:g} to {high:g}, voxels {size}",
        ]
        if self.labels is None:
            return ", ".join([*parts, "no labels"])
        number = f"{self.n_labels:,} labels"
        if self.sampled:
            number = f"{number} in a sample"
        parts.append(f"{number}, {self.foreground:.1%} labelled")
        if self.unlabelled:
            parts.append(f"{self.unlabelled:.1%} unlabelled")
        if self.labels_share < 1:
            parts.append(f"in a part of {self.labels_share:.1%} of the image")
        return ", ".join(parts)


def to_plain(training: Sequence[Facts]) -> list[dict[str, Any]]:
    """Facts as a checkpoint keeps them."""
    return [asdict(facts) for facts in training]


def from_plain(kept: Sequence[dict[str, Any]]) -> list[Facts]:
    """Facts from a checkpoint; an empty list if a release before they were kept wrote it."""
    return [Facts(**facts) for facts in kept]
