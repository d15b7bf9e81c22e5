"""Which decode keeps its quality on another volume? Settings chosen on one part, scored on another.

    python benchmarks/transfer.py RUN [RUN ...]

Each run is a folder with the predictions of two volumes that have labels, none of which the network
was trained on. For each method the threshold that is best on the first volume is scored on the
second, and the reverse. Prints in Markdown, for each run and for the mean over the runs, dense VOI
in bits: each volume at its own best threshold, each at that of the other, their mean, and the mean
regret (score at the other's threshold less the best possible one).
"""

import argparse
from dataclasses import replace
from pathlib import Path

import common
import numpy as np

from pytc.config import SegmentationConfig
from pytc.evaluation.tree_curve import tree_curve
from pytc.io.results import read_source
from pytc.io.volume import open_volume
from pytc.metrics.overlap import overlap_metrics
from pytc.segmentation.decode import decode, merge_tree

AGGLOMERATION = SegmentationConfig(method="agglomeration")


class Part:
    """One predicted volume in memory."""

    def __init__(self, folder: Path):
        volume = open_volume(folder / "affinities.zarr")
        self.affinities, self.offsets = volume[...], volume.offsets
        self.voxel_size = volume.voxel_size
        self.labels = np.asarray(open_volume(read_source(folder)["labels"])[...])

    def voi(self, config: SegmentationConfig, thresholds: np.ndarray) -> np.ndarray:
        """Dense VOI at each threshold."""
        made = merge_tree(self.affinities, self.offsets, config, self.voxel_size)
        if made is not None:
            curve = tree_curve(made, labels=self.labels, min_size=config.min_size)
            rising = curve["threshold"][::-1]
            rows = np.searchsorted(rising, thresholds, side="right") - 1
            return curve["dense_voi_sum"][::-1][rows]
        return np.array([self.voi_at(config, threshold) for threshold in thresholds.tolist()])

    def voi_at(self, config: SegmentationConfig, threshold: float) -> float:
        """Dense VOI of a decode afresh."""
        at = replace(config, threshold=threshold)
        labels = decode(self.affinities, self.offsets, at, self.voxel_size)
        return overlap_metrics(self.labels, labels)["voi_sum"]


def crossed(first: np.ndarray, second: np.ndarray) -> list[float]:
    """The columns of the table, from the VOI of two parts at the same thresholds."""
    of_first, of_second = int(np.argmin(first)), int(np.argmin(second))
    elsewhere = second[of_first], first[of_second]
    own = first[of_first], second[of_second]
    mean = sum(elsewhere) / 2
    return [*own, *elsewhere, mean, mean - sum(own) / 2]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--min-size", type=int, default=200, help="of components + watershed")
    parser.add_argument("--step", type=float, default=0.01, help="between thresholds")
    options = parser.parse_args()
    thresholds = np.arange(options.step, 1, options.step)
    print(common.machine(("numpy", "numba"), ", ".join(run.name for run in options.runs)))

    rows: dict[str, list[list[float]]] = {}
    for run in options.runs:
        folders = sorted((run / "predictions").iterdir())
        first, second = (Part(folder) for folder in folders)
        # The first three channels are the steps to the next voxel.
        short = (1, 1, 1) + (0,) * (len(first.affinities) - 3)
        methods = {
            f"components + watershed, min_size {options.min_size}": SegmentationConfig(
                method="components_watershed", min_size=options.min_size
            ),
            "agglomeration": AGGLOMERATION,
            "agglomeration, edges to the next voxel alone": replace(
                AGGLOMERATION, edge_weights=short
            ),
            "agglomeration, fragments by components": replace(
                AGGLOMERATION, fragment_seeds="components"
            ),
            "agglomeration, fragments by distance": replace(
                AGGLOMERATION, fragment_seeds="distance_peaks"
            ),
        }
        for name, config in methods.items():
            columns = crossed(first.voi(config, thresholds), second.voi(config, thresholds))
            rows.setdefault(name, []).append(columns)

    heads = (
        "first, its own best",
        "second, its own best",
        "chosen on the first, scored on the second",
        "chosen on the second, scored on the first",
        "mean of both",
        "regret",
    )
    for number, run in enumerate(options.runs):
        first, second = sorted(folder.name for folder in (run / "predictions").iterdir())
        print(f"\n{run.name}, first {first}, second {second}:\n")
        table = [(name, *(f"{x:.3f}" for x in found[number])) for name, found in rows.items()]
        common.print_table(("dense VOI, bits", *heads), table)
    if len(options.runs) > 1:
        print(f"\nMean over {len(options.runs)} runs (lowest to highest):\n")
        table = [(name, *map(spread, zip(*found))) for name, found in rows.items()]
        common.print_table(("dense VOI, bits", *heads), table)


def spread(values: tuple[float, ...]) -> str:
    return f"{np.mean(values):.3f} ({min(values):.3f} to {max(values):.3f})"


if __name__ == "__main__":
    main()
