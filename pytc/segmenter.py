"""From Python: `pytc.load` gives the network of a run, with all that infer.py would do with it.

    segmenter = pytc.load("runs/mine")
    affinities = segmenter.predict("other.zarr/raw")
    labels = segmenter.segment(affinities)

The results are those of infer.py, bit for bit, as the same functions make them.
"""

import json
import tempfile
from dataclasses import dataclass, fields, replace
from os import PathLike
from pathlib import Path
from typing import Any, Literal

import numpy as np

from pytc.checks import require, suggest
from pytc.commands import InferConfig
from pytc.config import Intensity, Lengths, SegmentationConfig
from pytc.inference.pipeline import (
    OpenedNetwork,
    open_input,
    open_network,
    predict,
    segment,
    volumes_to_predict,
)
from pytc.inference.settings import config_of_run, settings_of_run
from pytc.io.stored import Stored
from pytc.io.volume import Volume, create_volume, open_volume
from pytc.runs import find_run
from pytc.segmentation.decode import settings_of
from pytc.target_kinds import target_kind

Array = np.ndarray | Volume | str | PathLike[str]
SWEPT = "threshold_chosen_on"  # in the metrics.json of a sweep


def load(
    run_or_file: str | PathLike[str],
    *,
    device: Literal["auto", "cpu", "cuda"] | None = None,
    checkpoint: Literal["best", "last"] | None = None,
    plugins: tuple[str, ...] = (),
) -> "Segmenter":
    """The network of a run, ready to predict and to segment.

    Like infer.py it sets how many threads torch may use in this process.

    Args:
        run_or_file: the folder or name of a run, a checkpoint, or an exported .safetensors.
        device: where to predict; by default as the run's config says.
        checkpoint: of a run; by default as the run's config says.
        plugins: Python files that register the network of the run, if it is none of pytc's.

    Raises:
        ValueError: if nothing has that name, or the file is damaged.
    """
    name = str(run_or_file)
    settings = replace(settings_of_run(name, config_of_run(name)), plugins=tuple(plugins))
    if device is not None:
        settings = replace(settings, system=replace(settings.system, device=device))
    if checkpoint is not None:
        inference = replace(settings.inference, checkpoint=checkpoint)
        settings = replace(settings, inference=inference)
    return Segmenter(settings, open_network(settings, name))


@dataclass(frozen=True, repr=False)
class Segmenter:
    """A trained network, and the settings by which infer.py would predict and segment."""

    settings: InferConfig
    network: OpenedNetwork

    @property
    def segmentation(self) -> SegmentationConfig:
        """How `segment` makes objects: method, threshold, min_size, ..."""
        return self.settings.segmentation

    def with_settings(self, **changes: Any) -> "Segmenter":
        """The same network with other settings of the segmentation.

        Example: segmenter.with_settings(threshold=0.7, min_size=100).

        ValueError for a name that `SegmentationConfig` does not have.
        """
        segmentation = _changed(self.segmentation, changes)
        return replace(self, settings=replace(self.settings, segmentation=segmentation))

    def swept(self, volume: str | None = None) -> "Segmenter":
        """The same network with the settings that `evaluate.py --sweep` has found best.

        Args:
            volume: of the run, by the name of its folder of results; by default all that were
                swept, which must agree.

        Raises:
            ValueError: if no sweep was made, or sweeps of several volumes found different settings.
        """
        name = self.settings.run or ""
        run = find_run(name)
        found: dict[str, dict[str, Any]] = {}
        for path in sorted(run.glob("evaluation/*/metrics.json")):
            metrics = json.loads(path.read_text())
            if SWEPT in metrics and volume in (None, path.parent.name):
                names = [field.name for field in fields(SegmentationConfig)]
                found[path.parent.name] = {key: metrics[key] for key in names if key in metrics}
        what = f"a sweep in {run / 'evaluation' / (volume or '*')}; evaluate.py --sweep makes one"
        require(bool(found), what, "none")
        first, *others = found.values()
        thresholds = {key: settings["threshold"] for key, settings in found.items()}
        require(
            all(other == first for other in others),
            "a volume by swept(VOLUME), as the sweeps found different settings",
            thresholds,
        )
        return self.with_settings(**first)

    def predict(
        self,
        image: Array,
        *,
        axes: str | None = None,
        voxel_size: Lengths | None = None,
        intensity: Intensity | None = None,
        transpose: bool = False,
        roi: str | None = None,
        mask: str | None = None,
    ) -> Volume:
        """What the network says of an image: affinities or probabilities.

        Args:
            image: (Z, Y, X), or with channels: an array, an open volume, or a path as infer.py
                takes it. Of the first two a copy is written to a temporary folder.
            axes: e.g. "zyx" or "xyzc"; by default as the volume states, or zyx.
            voxel_size: nm, in the order of `axes`; by default as the volume states.
            intensity: grey values that become 0 and 1; by default as the run says.
            transpose: read the axes in the order of the training volumes.
            roi: part to predict, as "z0:z1,y0:y1,x0:x1" in voxels.
            mask: path of a volume that is not 0 where there is tissue.

        Returns:
            (C, Z, Y, X) float16, held in memory: `result[...]` is its array. Its attributes are
            those that infer.py stores, the offsets among them.

        Raises:
            ValueError: if the image does not fit the network.
        """
        with tempfile.TemporaryDirectory(prefix="pytc-") as temporary:
            path = _stored(image, Path(temporary) / "image.zarr", axes, voxel_size)
            config = replace(
                self.settings,
                input=path,
                axes=axes,
                voxel_size=voxel_size,
                intensity=intensity,
                transpose=transpose,
                roi=roi,
                mask=mask,
            )
            network = self.network
            network.model.require_size(config.inference.window or network.trained.data.patch_size)
            (volume,) = volumes_to_predict(config, network.trained, network.volumes)
            open_input(volume, network.trained, network.volumes)
            stored = predict(
                network.model,
                network.trained,
                volume,
                Path(temporary) / "prediction",
                config,
                network.device,
                network.weights,
            )
            return _in_memory(stored, name="prediction")

    def segment(
        self,
        affinities: Array,
        *,
        offsets: tuple[tuple[int, int, int], ...] | None = None,
        voxel_size: Lengths | None = None,
        **changes: Any,
    ) -> np.ndarray:
        """The objects, the mask or the classes that a prediction stands for.

        Args:
            affinities: what `predict` returned, its array (C, Z, Y, X), a stored prediction, or its
                path.
            offsets: (C, 3) voxels, of an array; by default those of the network.
            voxel_size: nm, of an array; by default that of the training volumes.
            changes: settings of the segmentation for this call, e.g. threshold=0.7.

        Returns:
            Labels (Z, Y, X), as infer.py writes them: of objects uint32 or uint64, 0 = background.
        """
        network = self.network
        kind = target_kind(network.trained.target.kind)
        config = _changed(self.segmentation, changes)
        with tempfile.TemporaryDirectory(prefix="pytc-") as temporary:
            output = Path(temporary) / "segmentation.zarr"
            attributes: dict[str, Any] = {}
            if isinstance(affinities, np.ndarray):
                if kind.per_offset:
                    attributes["offsets"] = offsets or network.trained.target.offsets
                if voxel_size is None and network.volumes:
                    voxel_size = network.volumes[0].voxel_size
            path = _stored(
                affinities,
                Path(temporary) / f"{kind.prediction}.zarr",
                None,
                voxel_size,
                attributes,
            )
            segment(open_volume(path), output, kind, config, self.settings.engine)
            return open_volume(output)[...]

    def __repr__(self) -> str:
        network = self.network
        decoded = {"threshold": self.segmentation.threshold}
        if target_kind(network.trained.target.kind).decode == "objects":
            decoded = settings_of(self.segmentation)
        shown = ("method", "threshold", "min_size")
        settings = ", ".join(f"{name}={decoded[name]!r}" for name in shown if name in decoded)
        return (
            f"Segmenter({str(network.checkpoint)!r}, step {network.step}, "
            f"{network.trained.model.architecture}, {network.trained.target.kind}, "
            f"{network.device}: {settings})"
        )


def _changed(config: SegmentationConfig, changes: dict[str, Any]) -> SegmentationConfig:
    names = [field.name for field in fields(config)]
    for name in changes:
        if name not in names:
            raise ValueError(f"a segmentation has no setting {name!r}{suggest(name, names)}")
    return replace(config, **changes)


def _stored(
    array: Array,
    path: Path,
    axes: str | None,
    voxel_size: Lengths | None,
    attributes: dict[str, Any] | None = None,
) -> str:
    """The path of a stored array; what is in memory alone is written to `path`.

    Args:
        axes, voxel_size, attributes: of an array.
    """
    if isinstance(array, (str, PathLike)):
        return str(array)
    if isinstance(array, Volume):
        # the metadata of an open volume may be given, not stored: so it is written with them
        known = {"offsets": array.offsets} if array.offsets else {}
        attributes = array.attributes | known
        axes, voxel_size = array.axes, array.voxel_size
    with create_volume(
        path,
        array.shape,
        array.dtype,
        axes=axes,
        voxel_size=voxel_size,
        attributes=attributes,
    ) as volume:
        volume[...] = array[...]
    return str(path)


class _Held:
    """Opens an array in memory, as a file is opened."""

    def __init__(self, array: np.ndarray) -> None:
        self.array = array

    def __call__(self) -> np.ndarray:
        return self.array


def _in_memory(volume: Volume, name: str) -> Volume:
    """The volume with its voxels in memory, so that its files may go."""
    attributes = volume.attributes | {"axes": volume.axes}
    held = Stored(volume.shape, volume.dtype, attributes, _Held(volume[...]))
    return Volume(held, name)
