"""Every choice that a run can make, as frozen dataclasses, one file for each subject.

`Config` holds one section of each subject. The comment of a field is its help on the command line.
A config that exists is valid: a value of another type, or out of range, is refused with a
ValueError when the config is made (see `pytc.checks.Section`). No file here imports torch, so that
`--help` answers at once.
"""

from dataclasses import dataclass

from pytc.checks import Section, require
from pytc.config.augment import AugmentConfig
from pytc.config.inference import InferenceConfig, SegmentationConfig, SegmentationMethod
from pytc.config.learning import (
    SHORT_AND_LONG,
    LossConfig,
    OptimConfig,
    TargetConfig,
)
from pytc.config.network import (
    BasicUNetOptions,
    ModelConfig,
    MonaiUNetOptions,
    NetworkOptions,
    SwinOptions,
    UNETROptions,
)
from pytc.config.run import LoopConfig, SystemConfig, ValidationConfig
from pytc.config.volumes import (
    DataConfig,
    Intensity,
    Lengths,
    SyntheticConfig,
    Triple,
    VolumeConfig,
    require_intensity,
)
from pytc.target_kinds import target_kind

__all__ = [
    "SHORT_AND_LONG",
    "AugmentConfig",
    "BasicUNetOptions",
    "Config",
    "DataConfig",
    "InferenceConfig",
    "Intensity",
    "Lengths",
    "LoopConfig",
    "LossConfig",
    "ModelConfig",
    "MonaiUNetOptions",
    "NetworkOptions",
    "OptimConfig",
    "SegmentationConfig",
    "SegmentationMethod",
    "SwinOptions",
    "SyntheticConfig",
    "SystemConfig",
    "TargetConfig",
    "Triple",
    "UNETROptions",
    "ValidationConfig",
    "VolumeConfig",
    "require_intensity",
]


@dataclass(frozen=True)
class Config(Section):
    """A training run, and the defaults of the inference that follows it."""

    name: str = "run"  # Folder of the run below runs/. If it exists, a number is appended.
    # Python files to load first, which register networks of your own. A run or a checkpoint does
    # not load them by itself: name them again.
    plugins: tuple[str, ...] = ()

    data: DataConfig = DataConfig()
    augment: AugmentConfig = AugmentConfig()
    target: TargetConfig = TargetConfig()
    model: ModelConfig = ModelConfig()
    loss: LossConfig = LossConfig()
    optim: OptimConfig = OptimConfig()
    loop: LoopConfig = LoopConfig()
    validation: ValidationConfig = ValidationConfig()
    system: SystemConfig = SystemConfig()
    inference: InferenceConfig = InferenceConfig()
    segmentation: SegmentationConfig = SegmentationConfig()

    def __post_init__(self) -> None:
        super().__post_init__()
        channels, expected = self.model.out_channels, self.target.learned_channels
        require(channels == expected, f"model.out_channels {expected} for this target", channels)
        if target_kind(self.target.kind).per_offset:
            patch = self.data.patch_size
            for offset in self.target.offsets:
                is_inside = all(o < p for o, p in zip(offset, patch))
                require(is_inside, f"offsets smaller than the patch {patch}", offset)
        self.loss.require_fits(self.target)
