"""One tissue stored in seven ways, segmented by one network that was trained on uint8.

    python benchmarks/intensity.py

Prints a table in Markdown: the VOI (bits, dense) of each way with data.intensity auto, at the
threshold that is best for uint8 and at its own best one, and, for comparison, that of a map by the
dtype alone (integers divided by their maximum, floats as they are). The script fails if a VOI with
auto differs from that of uint8 by more than --limit.
"""

import argparse
import contextlib
import os
import sys
import tempfile
from pathlib import Path

import common
import numpy as np

from pytc.commands import InferConfig
from pytc.config import (
    AugmentConfig,
    Config,
    DataConfig,
    InferenceConfig,
    LoopConfig,
    LossConfig,
    ModelConfig,
    OptimConfig,
    SyntheticConfig,
    SystemConfig,
    TargetConfig,
    VolumeConfig,
)
from pytc.data.synthetic_volumes import prepare_volume
from pytc.inference.pipeline import infer
from pytc.io.volume import create_volume, open_volume
from pytc.metrics.overlap import overlap_metrics
from pytc.segmentation.connected_components import connected_components_3d
from pytc.segmentation.watershed import seeded_watershed
from pytc.training.loop import train

THRESHOLDS = tuple(np.arange(0.5, 0.9, 0.05).round(2).tolist())
MIN_SIZE = 50
SYSTEM = SystemConfig(device="cpu", threads=1, workers=0)


def recipe(steps: int, edge: int) -> Config:
    """Like configs/demo.py, with smaller patches, two at a time."""
    return Config(
        name="intensity",
        data=DataConfig(
            synthetic=SyntheticConfig(shape=(edge,) * 3), patch_size=(32, 32, 32), val_samples=4
        ),
        augment=AugmentConfig(permute_prob=1.0, rot90_prob=0.0, noise_prob=0.3),
        target=TargetConfig(erosion=1),
        model=ModelConfig(architecture="unet", features=(16, 32, 64), out_channels=6),
        loss=LossConfig(terms=("balanced_bce",), weights=(1.0,)),
        optim=OptimConfig(learning_rate=3e-3, warmup_steps=20, ema_decay=0.98),
        loop=LoopConfig(
            max_steps=steps,
            batch_size=2,
            val_every=steps,
            checkpoint_every=steps,
            log_every=50,
            images_every=steps,
        ),
        system=SYSTEM,
        inference=InferenceConfig(overlap=0.25),
    )


def ways(image: np.ndarray) -> dict[str, np.ndarray]:
    """The grey values of a uint8 image (Z, Y, X) in other types and ranges."""
    grey = image.astype(np.float32)
    return {
        "uint8": image,
        "uint16, full range": image.astype(np.uint16) * 257,
        "uint16, 12 bit": image.astype(np.uint16) * 16,
        "int16": (image.astype(np.int16) - 128) * 200,
        "float32, 0 to 1": grey / 255,
        "float32, 0 to 255": grey,
        "float32, z-scored": (grey - grey.mean()) / grey.std(),
    }


def by_dtype(image: np.ndarray) -> tuple[float, float]:
    """The range that becomes 0 to 1 where integers are divided by their maximum."""
    if image.dtype.kind == "f":
        return (0.0, 1.0)
    return (0.0, float(np.iinfo(image.dtype).max))


def scores(config: InferConfig, labels: np.ndarray) -> list[float]:
    """VOI at each of the thresholds."""
    with contextlib.redirect_stdout(sys.stderr):
        (folder,) = infer(config)
    affinities = open_volume(folder / "affinities.zarr").read_channels([0, 1, 2])
    sums = []
    for threshold in THRESHOLDS:
        components = connected_components_3d(affinities, threshold, min_size=MIN_SIZE)
        objects = seeded_watershed(components, affinities)
        sums.append(overlap_metrics(labels, objects)["voi_sum"])
    return sums


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--edge", type=int, default=128, help="voxels along each axis")
    parser.add_argument("--limit", type=float, default=0.05, help="largest difference in bits")
    parser.add_argument("--folder", type=Path, help="where to work; by default a temporary folder")
    options = parser.parse_args()
    folder = options.folder or Path(tempfile.mkdtemp())
    folder.mkdir(parents=True, exist_ok=True)
    os.chdir(folder)
    config = recipe(options.steps, options.edge)
    with contextlib.redirect_stdout(sys.stderr):
        run = train(config)
        volume = prepare_volume(VolumeConfig(image="synthetic:1"), config.data.synthetic)
    image, labels = open_volume(volume.image), open_volume(volume.labels)[...]

    rows = {}
    for name, array in ways(image[...]).items():
        path = f"ways/{len(rows)}.zarr"
        with create_volume(
            path, array.shape, array.dtype, voxel_size=image.voxel_size, overwrite=True
        ) as stored:
            stored[...] = array
        asked = {"run": str(run), "input": path, "inference": config.inference, "system": SYSTEM}
        auto = scores(InferConfig(**asked, output=f"results/{len(rows)}"), labels)
        fixed = InferConfig(**asked, output=f"results/{len(rows)}-fixed", intensity=by_dtype(array))
        rows[name] = (auto, scores(fixed, labels))

    about = f"{options.edge}^3 synthetic voxels, {options.steps} steps"
    print(common.machine(("numpy", "torch"), about))
    reference = rows["uint8"][0]
    best = int(np.argmin(reference))
    threshold = THRESHOLDS[best]
    print(f"| stored as | VOI at {threshold} | at its best threshold | by dtype: at its best |")
    print("|---|---|---|---|")
    for name, (auto, fixed) in rows.items():
        print(f"| {name} | {auto[best]:.3f} | {min(auto):.3f} | {min(fixed):.3f} |")
    worst = max(abs(auto[best] - reference[best]) for auto, _ in rows.values())
    worst = max(worst, max(abs(min(auto) - min(reference)) for auto, _ in rows.values()))
    print(f"\nlargest difference to uint8 with auto: {worst:.3f} bits")
    if worst > options.limit:
        sys.exit(f"error: expected at most {options.limit} bits, got {worst:.3f}")


if __name__ == "__main__":
    main()
