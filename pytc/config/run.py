"""How a run goes on: its length, its output, its validation, and the machine it uses."""

from dataclasses import dataclass
from typing import Annotated, Literal

from typing_extensions import Doc
from tyro.constructors import PrimitiveConstructorSpec

from pytc.checks import Section, require
from pytc.metrics.table import NAMES_OF_METRICS
from pytc.thresholds import parse_thresholds


def _words_of(thresholds: tuple[float, ...] | None) -> list[str]:
    return ["None"] if thresholds is None else [f"{threshold:g}" for threshold in thresholds]


def _thresholds_from(words: list[str]) -> tuple[float, ...] | None:
    return None if words == ["None"] else parse_thresholds(words)


# On a command line numbers, ranges MIN:MAX:STEP, or both; None for the default.
THRESHOLDS = PrimitiveConstructorSpec(
    nargs="*",
    metavar="FLOAT|MIN:MAX:STEP ...",
    instance_from_str=_thresholds_from,
    is_instance=lambda value: isinstance(value, tuple),
    str_from_instance=_words_of,
)

MONITOR_HELP = (
    "The score that ranks checkpoints: val/loss, or val/ and a score of whole volumes, e.g. "
    f"val/nerl. {NAMES_OF_METRICS}"
)


@dataclass(frozen=True)
class LoopConfig(Section):
    """Length of a run, and what it writes."""

    max_steps: int = 50_000  # Optimizer steps of the run.
    # Length in epochs; replaces max_steps. An epoch draws as many voxels as the volumes have.
    epochs: float | None = None
    batch_size: int = 8  # Patches in a batch, on each rank.
    seed: int = 0  # Every random draw of the run follows from this number.
    val_every: int = 1000  # Steps between validations.
    checkpoint_every: int = 1000  # Steps between checkpoints.
    # Number of the best checkpoints that are kept, in addition to the last one.
    keep_checkpoints: int = 3
    # Steps between scores of whole volumes, which are also scored at the end. 0: never.
    volumes_every: int = 0
    # The help of this field is made from the table in pytc.metrics.table.
    monitor: Annotated[str, Doc(MONITOR_HELP)] = "val/loss"
    log_every: int = 10  # Steps between lines in the log.
    # A step is skipped if its loss or gradient is not finite. This many in a row end the run.
    max_skipped: int = 10
    images_every: int = 1000  # Steps between pictures in TensorBoard.

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_positive(
            "max_steps",
            "epochs",
            "batch_size",
            "val_every",
            "checkpoint_every",
            "keep_checkpoints",
            "log_every",
            "max_skipped",
            "images_every",
        )
        self.require_not_negative("seed", "volumes_every")
        expected = "monitor val/loss, or val/ and a score such as nerl"
        require(self.monitor.startswith("val/"), expected, self.monitor)

    @property
    def picks_best(self) -> bool:
        """Whether the run computes the monitored score itself, and so picks best.pt.

        If not, `pytc validate` does both.
        """
        return self.monitor == "val/loss" or self.volumes_every > 0


@dataclass(frozen=True)
class ValidationConfig(Section):
    """How whole volumes are scored (loop.volumes_every, pytc validate)."""

    # Thresholds to segment at, in rising order; the best one counts. Numbers, or a range
    # MIN:MAX:STEP, e.g. 0.1:0.9:0.05. Default: those of evaluate.py.
    thresholds: Annotated[tuple[float, ...] | None, THRESHOLDS] = None

    def __post_init__(self) -> None:
        if isinstance(self.thresholds, list | tuple):  # a Python file may name ranges, too
            object.__setattr__(self, "thresholds", parse_thresholds(self.thresholds))
        super().__post_init__()
        if self.thresholds is None:
            return
        rising = tuple(sorted(self.thresholds))
        is_rising = len(rising) > 0 and self.thresholds == rising
        expected = "validation.thresholds that rise, or a range such as '0.1:0.9:0.05'"
        require(is_rising, expected, self.thresholds)


@dataclass(frozen=True)
class SystemConfig(Section):
    """The machine."""

    # Look at the machine first: print what it has and what is chosen. On a GPU, measure how many
    # patches fit into a batch.
    auto: bool = False
    # Where to compute. auto: on a GPU if there is one.
    device: Literal["auto", "cpu", "cuda"] = "auto"
    # auto: the precision in which this hardware is fast.
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    # Processes of a rank that read patches. Default: as the machine allows.
    workers: int | None = None
    # CPU threads of a rank. Default: its share of the cores that this process may use.
    threads: int | None = None
    # Compile the network by torch.compile: the first step takes minutes, each other step less time.
    compile: bool = False
    # Without a GPU, train a small variant of the recipe. off: train the full recipe.
    cpu_variant: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_not_negative("workers")
        self.require_positive("threads")
