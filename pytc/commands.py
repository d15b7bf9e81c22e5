"""The arguments of each verb; the comment of a field is its help on the command line."""

from dataclasses import dataclass, field, fields, is_dataclass, make_dataclass
from inspect import cleandoc
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import tyro

from pytc.checks import Section, require, require_engine
from pytc.config import (
    Config,
    InferenceConfig,
    Intensity,
    Lengths,
    SegmentationConfig,
    SegmentationMethod,
    SystemConfig,
    Triple,
    VolumeConfig,
    require_intensity,
)
from pytc.config.run import THRESHOLDS
from pytc.geometry import parse_region
from pytc.help import answer_help
from pytc.messages import QUIET_HELP
from pytc.metrics.table import NAMES_OF_METRICS
from pytc.script import printed_by_one_rank, program_of
from pytc.target_kinds import TargetName, target_kind
from pytc.typos import refuse_unknown

Settings = TypeVar("Settings")
# `messages.begin_verb` takes the flag from the command line: it is here for the help alone.
Quiet = Annotated[bool, tyro.conf.arg(help=QUIET_HELP), tyro.conf.FlagCreatePairsOff]


def parse(
    settings: type[Settings],
    verb: str,
    words: list[str],
    *,
    default: Settings | None = None,
    description: str | None = None,
) -> Settings:
    """An instance of the dataclass `settings` from the words of a command line.

    Args:
        settings: each field is a flag.
        verb: names the program in usage lines.
        words: the command line without --quiet, which help lists nevertheless.
        default: what the flags override; by default the defaults of the fields.
        description: the first lines of the help; by default the docstring of `settings`.
    """
    words = answer_help(verb, words, settings if default is None else default)
    about = description or cleandoc(settings.__doc__ or "")
    # Without a name, so that its flags have no prefix. With help, or tyro looks for comments on the
    # fields of `command`, in vain and for a while.
    unnamed = Annotated[settings, tyro.conf.arg(name="", help=about)]  # type: ignore[valid-type]
    default_field = field() if default is None else field(default=default)
    command: Any = make_dataclass(
        "Command",
        [("settings", unnamed, default_field), ("quiet", Quiet, field(default=False))],
        frozen=True,
    )
    result: Settings = parse_words(command, verb, words, description=about).settings
    return result


def parse_words(
    settings: Any,
    verb: str,
    words: list[str],
    *,
    default: Any = None,
    description: str | None = None,
) -> Any:
    """What tyro makes of the words; one that it does not know ends the process in one line."""
    given = {} if default is None else {"default": default}
    with printed_by_one_rank():
        parsed, unknown = tyro.cli(
            settings,
            args=words,
            prog=program_of(verb),
            description=description,
            return_unknown_args=True,
            **given,
        )
    if unknown:
        refuse_unknown(verb, unknown, settings if default is None else default)
    return parsed


def require_local_output(output: str | None) -> None:
    """ValueError for a folder of results elsewhere: notes beside the arrays are files."""
    local = output is None or "://" not in output
    require(local, "--output on this machine (pytc convert writes arrays to a URL)", output)


METRIC_HELP = (
    "Picks the threshold; by default nerl with skeletons, else dense_voi_sum, or jaccard. "
    + NAMES_OF_METRICS
)


@dataclass(frozen=True)
class TrainCommand:
    """Train a network on labelled volumes; a run is written to runs/NAME."""

    # Preset, Python file that defines `config`, or a run's config.json; flags override its fields.
    config: Path | None = None
    # Folder of a run to continue from its last checkpoint, without --config; alone, the newest run.
    resume: str | None = None
    quiet: Quiet = False
    settings: Annotated[Config, tyro.conf.arg(name="")] = Config()


def require_shard(shard: str) -> None:
    """ValueError unless it is I/N with 1 <= I <= N."""
    number, _, count = shard.partition("/")
    numbers = number.isdecimal() and count.isdecimal()
    fits = numbers and 1 <= int(number) <= int(count)
    require(fits, "--shard I/N, from 1/N to N/N", shard)


@dataclass(frozen=True)
class InferConfig(Section):
    """Predict a volume with the network of a run, and segment it.

    Without an option the config of the run decides; the defaults below are those without a run.
    """

    # Folder or name of a run, or a file of weights; by default the newest run with a checkpoint.
    run: str | None = None
    # Further runs or files of weights: the mean of all probabilities is stored. --run A B means the
    # same.
    ensemble: tuple[str, ...] = ()
    # Python files to load first, which register the network of the run if it is none of pytc's.
    plugins: tuple[str, ...] = ()
    input: str | None = None  # Image to predict; by default every validation volume of the run.
    # Folder for affinities.zarr (or probabilities.zarr) and segmentation.zarr; by default below the
    # run.
    output: str | None = None
    # True labels of the input, noted for evaluate.py; not needed.
    labels: str | tuple[str, ...] | None = None
    # Voxel of the input, in stored axis order, at which labels begin that are smaller than it; for
    # each of several labels. Default: as their attributes say.
    labels_offset: tuple[Triple, ...] | None = None
    # Axis order of the stored labels, e.g. xyz, where it is another than the input's.
    labels_axes: str | None = None
    skeleton: str | None = None  # True skeletons of the input, noted for evaluate.py; not needed.
    # Axis order of the input, e.g. zyx or xyzc, where the file does not say.
    axes: str | None = None
    # Voxel size in nm, in stored axis order, where the file does not say.
    voxel_size: Lengths | None = None
    # Read the input's axes in the order of the training volumes'; results are stored in this order.
    transpose: bool = False
    # Grey values of the input that become 0 and 1; by default as the run's data.intensity says.
    intensity: Intensity | None = None

    # Part of the input to predict: z0:z1,y0:y1,x0:x1 in voxels, in the axis order of the results; a
    # number may be left out. The results have its shape, and the attribute voxel_offset.
    roi: str | None = None
    # Where there is tissue (not 0), of the voxels of the input or of larger ones, by voxel size.
    # Blocks without tissue are not predicted, and are 0.
    mask: str | None = None
    # I/N, from 1/N to N/N: predict this part of the blocks alone, and do not segment. For job
    # arrays; the parts of torchrun or srun are shared without this flag.
    shard: str | None = None
    # Predict nothing: segment what the shards have predicted, if no block is missing.
    finish: bool = False

    # Where a segmentation beyond memory is computed, block by block: threads, serial, or Dask
    # (an extra): dask:tcp://HOST:PORT, dask:local:N processes, dask:slurm:N jobs.
    engine: str = "threads"

    inference: InferenceConfig = InferenceConfig()
    segmentation: SegmentationConfig = SegmentationConfig()
    system: SystemConfig = SystemConfig()

    def __post_init__(self):
        super().__post_init__()
        require_engine(self.engine)
        require_intensity("--intensity", self.intensity)
        if self.roi is not None:
            parse_region(self.roi)
        if self.shard is not None:
            require_shard(self.shard)
            require(not self.finish, "--shard, or --finish when all shards are done", "both")
        require_local_output(self.output)

    def input_volume(self) -> VolumeConfig:
        """The volume that `input` and the fields beside it name, in stored order."""
        if self.input is None:
            raise ValueError("expected an image by --input, got None")
        return VolumeConfig(
            image=self.input,
            labels=self.labels,
            offset=self.labels_offset,
            labels_axes=self.labels_axes,
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

    # Folder or name of the run whose predictions are scored; by default the one with the newest.
    run: str | None = None
    # Volume of the run to score, by the name of its folder of results; by default every one.
    volume: str | None = None
    # Affinities to segment, one channel for each offset; instead of a run.
    affinities: str | None = None
    # Probability map of a mask or of boundaries; instead of a run.
    probabilities: str | None = None
    segmentation: str | None = None  # Segmentation or mask to score as it is; instead of a run.
    # True labels, 0 = background, -1 = unlabelled; default: those of the run's volume. Several
    # files label several parts of it.
    labels: str | tuple[str, ...] | None = None
    # Voxel of the prediction, in stored axis order, at which labels begin that are smaller than it;
    # for each of several labels. Default: as infer.py noted, or as their attributes say.
    labels_offset: tuple[Triple, ...] | None = None
    # Axis order of the stored labels and mask, e.g. xyz, where it is another than the prediction's.
    labels_axes: str | None = None
    # Where the labels are valid (non-zero); default: the mask of the run's volume.
    mask: str | None = None
    # True skeletons: NISB .pkl, .swc or a folder of them, .nml, .npz; default: the run's.
    skeleton: str | None = None
    image: str | None = None  # Image behind the report's pictures; default: the run's.
    voxel_size: Lengths | None = None  # Voxel size in nm, in stored axis order, where no file says.
    # Offsets of the affinity channels, where the file does not say.
    offsets: tuple[Triple, ...] | None = None
    # Folder for scores and report; default: the run's evaluation folder, or evaluation/.
    output: str | None = None
    # What was predicted, and how it is scored; default: what the run's results name, else affinity
    # (for --probabilities binary).
    target: TargetName | None = None
    # Segment at each of many thresholds, and keep the best; several --thresholds mean the same.
    sweep: bool = False
    # In a sweep also compute ERL, NERL and VOI over skeletons at every possible threshold; they are
    # those of the components, before a seeded watershed fills unlabelled
    # voxels.
    exact: bool = False
    # Numbers, or a range such as 0.1:0.9:0.05. Default of a sweep: sigmoid(0.2 k) for k = -1..11,
    # from 0.45 to 0.90.
    thresholds: Annotated[tuple[float, ...] | None, THRESHOLDS] = None
    metric: Annotated[str | None, tyro.conf.arg(help=METRIC_HELP)] = None
    # Objects of fewer voxels are removed before scoring; default: as in infer.py, or 0.
    min_size: int | None = None
    # How objects are made of affinities, as in --segmentation.method of infer.py; default: as in
    # infer.py, or components.
    method: SegmentationMethod | None = None
    # Fail unless the metric's best value is at least this (at most, if less is better), on every
    # volume.
    require: float | None = None
    # funlib: compute the scores a second time by funlib.evaluate, the reference implementation, and
    # compare.
    backend: Literal["pytc", "funlib"] = "pytc"
    # Of a mask also the mean distances between predicted and true voxels, in nm, as CREMI scores
    # synaptic clefts. About 40 bytes a voxel of memory.
    cleft_distances: bool = False
    # Where a volume beyond memory is decoded, block by block; as --engine of infer.py.
    engine: str = "threads"
    # Where the data comes from and its licence; printed in the report.
    attribution: str | None = None

    def __post_init__(self):
        super().__post_init__()
        require_engine(self.engine)
        names = ("run", "affinities", "probabilities", "segmentation")
        named = [f"--{name}" for name in names if getattr(self, name) is not None]
        require(len(named) <= 1, "one of --run or the name of a prediction", " and ".join(named))
        require(
            self.volume is None or not self.prediction,
            "--volume with a run, not with the name of a prediction",
            self.prediction,
        )
        thresholds = self.thresholds
        require(thresholds is None or len(thresholds) > 0, "at least one threshold", thresholds)
        in_range = all(0 <= threshold <= 1 for threshold in thresholds or ())
        require(in_range, "thresholds in [0, 1]", thresholds)
        require_local_output(self.output)
        require((self.min_size or 0) >= 0, "a min_size of 0 or more voxels", self.min_size)
        if self.segmentation:
            require(not self.decodes, "affinities to sweep, not a segmentation", self.segmentation)
        if self.affinities or self.probabilities:
            require(self.decodes, "--sweep or --thresholds with a prediction", self.prediction)
        require(self.sweeps or not self.exact, "--sweep with --exact", thresholds)
        if self.target is not None:
            stored = target_kind(self.target).prediction
            other = {"affinities": self.probabilities, "probabilities": self.affinities}[stored]
            require(other is None, f"--{stored} for --target {self.target}", other)

    @property
    def prediction(self) -> str | None:
        """The file that the user names to be scored instead of a run."""
        return self.affinities or self.probabilities or self.segmentation

    @property
    def sweeps(self) -> bool:
        """Whether many thresholds are tried."""
        return self.sweep or len(self.thresholds or ()) > 1

    @property
    def decodes(self) -> bool:
        """Whether a prediction is segmented first; a segmentation is scored as it is."""
        return self.sweep or self.thresholds is not None


@dataclass(frozen=True)
class ValidateConfig(Section):
    """Score the checkpoints of a run by whole volumes, once or as they come."""

    # Folder or name of the run, or a file of weights; by default the newest run. With --watch the
    # run need not exist yet.
    run: str | None = None
    # Python files to load first, which register the network of the run if it is none of pytc's.
    plugins: tuple[str, ...] = ()
    # Follow the run to its end: score its newest checkpoint, and again whenever a newer one exists.
    watch: bool = False
    interval: float = 30.0  # Seconds between looks for a new checkpoint.
    # Where to predict; auto takes a GPU if the machine has one.
    device: Literal["auto", "cpu", "cuda"] = "auto"

    def __post_init__(self):
        super().__post_init__()
        self.require_positive("interval")


@dataclass(frozen=True)
class LaunchConfig(Section):
    """Train every combination of swept fields under Slurm, as one job array.

    What follows a -- are flags of every training, e.g. -- --loop.max-steps 5000. Runs that are
    preempted or whose time is up go on from their last checkpoint; see docs/slurm.md.
    """

    # Preset, Python file that defines `config`, or a run's config.json, as for training.
    config: str | None = None
    # FIELD=VALUE,VALUE,... for each field to sweep; a value of several words has blanks between
    # them.
    sweep: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    # YAML file with `params:`, a list of values for each field to sweep.
    grid: str | None = None
    # Name of the launch, and of its runs: NAME_0000, ...; by default that of the config.
    name: str | None = None
    gpus: int = 1  # GPUs on each node, one task for each; 0 trains on CPUs.
    nodes: int = 1  # Nodes of each run.
    cpus: int = 8  # CPU cores of each task.
    memory: int | None = None  # GB on each node; by default what Slurm gives.
    time: str = "24:00:00"  # Time limit of each job, as sbatch writes it.
    partition: str | None = None  # Partition; by default that of Slurm.
    # Further options of sbatch, without dashes, e.g. account=lab.
    sbatch: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    # Seconds before the time limit at which a run is asked to write a checkpoint and end.
    notice: int = 300
    max_jobs: int | None = None  # Runs at the same time; by default as many as Slurm starts.
    # What follows each training: infer, evaluate, validate, with commas between them; a verb with
    # flags in quotes and a --then of its own.
    then: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    # Batch script with fields in braces, in place of the one that --dry-run shows.
    template: str | None = None
    output_dir: str = "slurm_jobs"  # Folder of the launches, each in a folder of its own.
    dry_run: bool = False  # Print the batch scripts; nothing is submitted, and no Slurm needed.
    # Folder or name of a launch: print what has become of its runs; alone, of the newest launch.
    status: str | None = None

    def __post_init__(self):
        super().__post_init__()
        self.require_positive("nodes", "cpus", "memory", "notice", "max_jobs")
        self.require_not_negative("gpus")


@dataclass(frozen=True)
class ConvertConfig(Section):
    """Write a volume or the result of a run for another program.

    The target's name says the format: NAME.ome.zarr, precomputed://PATH, .tif or .h5[:DATASET].
    OME-Zarr and precomputed get coarser levels, and may be an s3:// or gs:// URL.
    """

    result: tyro.conf.Positional[str]  # A volume, by path or URL; or the folder or name of a run.
    target: tyro.conf.Positional[str]  # What to write.
    volume: str | None = None  # Of a run: the volume, by its folder of results, if it has several.
    # Of a run: what to write; by default the segmentation.
    what: Literal["affinities", "probabilities", "segmentation"] | None = None
    # What the voxels are: levels of an image and of affinities are means, those of labels the most
    # frequent label. Default: as the attributes or the dtype say; needed for 16-bit numbers.
    kind: Literal["image", "labels", "affinities"] | None = None
    # How affinities are stored; uint8 is 0 to 255 for 0 to 1. Default: as they are.
    dtype: Literal["uint8", "float32"] | None = None
    axes: str | None = None  # Axis order, e.g. zyx or xyzc, where the file does not say.
    # Voxel size in nm, in stored axis order, where the file does not say.
    voxel_size: Lengths | None = None
    ome_version: Literal["0.5", "0.4"] = "0.5"  # Of OME-Zarr: 0.5 is Zarr 3, 0.4 is Zarr 2.
    # Levels at most; by default down to one that fits into a chunk of 64 voxels a side.
    levels: int | None = None
    # Replace a volume that is there.
    overwrite: bool = False
    # Where blocks are computed: serial, threads, dask:tcp://HOST:PORT, dask:local:N, dask:slurm:N.
    engine: str = "threads"
    workers: int | None = None  # Threads; by default one for each core.

    def __post_init__(self):
        super().__post_init__()
        require_engine(self.engine)
        self.require_positive("levels", "workers")


@dataclass(frozen=True)
class CheckCommand:
    """Print what looks wrong with the volumes of a config, and draw a page of patches."""

    # Preset, Python file that defines `config`, or a run's config.json, as for training. It may
    # come first, without the flag.
    config: str | None = None
    output: Path = Path("check.png")  # The page, a PNG.
    patches: int = 4  # Rows of the page, a patch each.


@dataclass(frozen=True)
class ReplayConfig(Section):
    """Make one training sample of a run again, describe it, and write it to a file.

    The HDF5 file holds crop, raw, labels, target and valid.
    """

    run: str  # Folder of the run.
    step: int  # Step of the sample, counted from 0, as log.jsonl names it.
    index: int = 0  # Which of the step's samples, over all ranks.
    output: str | None = None  # HDF5 file to write; by default RUN/replay/STEP-INDEX.h5.


@dataclass(frozen=True)
class ExportModel(Section):
    """Write the network of a run or a checkpoint, with its config, to one .safetensors file."""

    source: tyro.conf.Positional[Path]  # Folder of a run, or a checkpoint.
    target: tyro.conf.Positional[Path]  # The file to write, which ends in .safetensors.
    # Python files to load first, which register the network if it is none of pytc's.
    plugins: tuple[Path, ...] = ()
    licence: str | None = None  # Of the weights, for the model card, e.g. CC-BY-4.0.
    citation: str | None = None  # What to cite for the weights, for the model card.


@dataclass(frozen=True)
class ShowModel(Section):
    """Print the model card of a run or a file: its training volumes, target, scores, parent."""

    source: tyro.conf.Positional[Path]  # Folder or name of a run, a checkpoint or an export.
    json: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False  # Print all of it, as JSON.
    # Taken as by the other actions; a card is read without its network.
    plugins: tuple[Path, ...] = ()


@dataclass(frozen=True)
class ListModels(Section):
    """Print the name of every architecture."""

    # Python files to load first, which register further networks.
    plugins: tuple[Path, ...] = ()


@dataclass(frozen=True)
class ModelsCommand:
    """List the networks, export the network of a run to one file, or show its model card."""

    action: Annotated[
        Annotated[ExportModel, tyro.conf.subcommand("export")]
        | Annotated[ShowModel, tyro.conf.subcommand("show")]
        | Annotated[ListModels, tyro.conf.subcommand("list")],
        tyro.conf.arg(name=""),
    ]
    quiet: Quiet = False


@dataclass(frozen=True)
class ListData(Section):
    """Print the name of every public data set, with what it is for and whether it is here."""


@dataclass(frozen=True)
class ShowData(Section):
    """Print all that is known of a public data set: addresses, licence, citation, volumes."""

    name: tyro.conf.Positional[str]  # Of the set, as `pytc data list` names it.


@dataclass(frozen=True)
class FetchData(Section):
    """Download a public data set, and write it as presets read it.

    An interrupted command goes on where it was; what is finished is left as it is. Printed are its
    volumes as a config names them.
    """

    name: tyro.conf.Positional[str]  # Of the set, as `pytc data list` names it.
    # Volumes of the set; train stands for train_0, train_1 and so on. Default: all.
    split: tuple[str, ...] = ()
    # Part of each volume: z0:z1,y0:y1,x0:x1 in voxels along z, y and x; a number may be left out.
    roi: str | None = None
    # Where the folder of the set is made; by default $PYTC_DATA if it is set, else data/.
    output: Annotated[str | None, tyro.conf.arg(aliases=["--folder"])] = None

    def __post_init__(self):
        super().__post_init__()
        if self.roi is not None:
            parse_region(self.roi)


@dataclass(frozen=True)
class DataCommand:
    """List public data sets, describe one, or fetch one."""

    action: Annotated[
        Annotated[ListData, tyro.conf.subcommand("list")]
        | Annotated[ShowData, tyro.conf.subcommand("show")]
        | Annotated[FetchData, tyro.conf.subcommand("fetch")],
        tyro.conf.arg(name=""),
    ]
    quiet: Quiet = False


@dataclass(frozen=True)
class MigrateCommand:
    """Make a preset of a config of another program, and list what has no counterpart.

    Read are configs of PyTorch Connectomics (YACS, Hydra, YAML with `_base_`), command lines of
    BANIS, and the plans.json of nnU-Net 2. See docs/migrating.md.
    """

    # The config: a .yaml file, a plans.json, a job script that calls BANIS.py, or such a command
    # line, in quotes.
    source: tyro.conf.Positional[str]
    output: Path | None = None  # Preset to write; by default NAME.py here, after the config's name.
    base: Path | None = None  # YACS: the file that the config builds upon (--config-base).
    # nnU-Net: which configuration of the plans. Default: 3d_fullres.
    configuration: str | None = None
    overwrite: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False  # Replace an existing preset.


@dataclass(frozen=True)
class RunsCommand:
    """List all runs, the newest last: step of how many, best score, age, state.

    The score is that of the last pytc evaluate, or else the best of validation.
    """

    folder: Path | None = None  # Folder of the runs; default: $PYTC_RUNS, or runs/.


@dataclass(frozen=True)
class CompareConfig(Section):
    """Put runs beside each other on one page: scores, curves, and how their configs differ.

    Scores are those of the last pytc evaluate of each run.
    """

    runs: tyro.conf.Positional[tuple[str, ...]]  # Folders or names of two runs or more.
    output: Path = Path("compare.html")  # The page to write.
    # What the threshold's curves show; default: the metric by which the first run was evaluated.
    metric: str | None = None

    def __post_init__(self):
        super().__post_init__()
        require(len(self.runs) > 1, "two runs or more to compare", self.runs)


def flags(config: Any, default: Any, prefix: str = "--") -> list[str]:
    """The words on a command line that make `config` from `default`, dataclasses of one type.

    Example: ["--input", "a.zarr/raw", "--inference.flips"].
    """
    words: list[str] = []
    for each in fields(config):
        value = getattr(config, each.name)
        unchanged = getattr(default, each.name)
        name = each.name.replace("_", "-")
        if is_dataclass(value):
            words += flags(value, unchanged, f"{prefix}{name}.")
        elif value == unchanged:
            continue
        elif isinstance(value, bool):
            words.append(f"{prefix}{name}" if value else f"{prefix}no-{name}")
        else:
            items = value if isinstance(value, tuple) else (value,)
            words += [f"{prefix}{name}", *map(str, items)]
    return words
