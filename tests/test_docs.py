"""The scripts in docs/ run, with stand-ins for the commands and the data that are not here."""

import os
import re
import subprocess
from dataclasses import is_dataclass
from importlib import import_module
from pathlib import Path

import h5py
import numpy as np
import pytest
from documents import (
    blocks,
    blocks_to_run,
    command_lines,
    examples,
    pages,
    text_of,
)
from PIL import Image
from test_architecture import floor_and_room
from test_extending import SECTIONS, apply, copy

from pytc.config import Config, VolumeConfig
from pytc.losses import LOSSES
from pytc.main import VERBS
from pytc.renames import DOCUMENTED_FLAGS

ROOT = Path(__file__).parent.parent
TRAINING = """#!/bin/sh
echo "$@" >> calls
mkdir -p runs/mine && touch runs/mine/config.json
exit $CODE
"""


@pytest.mark.parametrize("code", [0, 1, 75])
def test_the_slurm_script_resumes_and_requeues(tmp_path, code):
    _, script = blocks_to_run("docs/slurm.md", "sh")
    (tmp_path / "job.sh").write_text(script)
    commands = {
        "python": TRAINING,
        "srun": '#!/bin/sh\nexec "$@"\n',
        "scontrol": '#!/bin/sh\necho scontrol "$@" >> calls\n',
    }
    for name, content in commands.items():
        (tmp_path / name).write_text(content)
        (tmp_path / name).chmod(0o755)
    environment = {
        **os.environ,
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "SLURM_JOB_ID": "7",
        "CODE": str(code),
    }
    for _ in range(2):
        assert subprocess.run(["bash", "job.sh"], cwd=tmp_path, env=environment).returncode == code
    requeued = ["scontrol requeue 7"] if code == 75 else []
    assert (tmp_path / "calls").read_text().splitlines() == [
        "train.py --config configs/mednext.py --name mine",
        *requeued,
        "train.py --resume runs/mine",
        *requeued,
    ]


def test_the_fib25_script_makes_the_files_of_the_preset(tmp_path, monkeypatch):
    """On a volume of the layout of the published sample, with fewer voxels in plane."""
    sample = tmp_path / "neuroproof_examples" / "training_sample2"
    (sample / "grayscale_maps").mkdir(parents=True)
    rng = np.random.default_rng(0)
    raw = rng.integers(0, 256, (250, 6, 7), np.uint8)
    for z, picture in enumerate(raw):
        Image.fromarray(picture).save(sample / "grayscale_maps" / f"iso.{2600 + z}.png")
    supervoxels = rng.integers(0, 40, raw.shape, np.int32)
    bodies = np.array([0, *rng.integers(100, 120, 39)])
    with h5py.File(sample / "groundtruth.h5", "w") as file:
        file["stack"] = supervoxels
        file["transforms"] = np.stack([np.arange(40), bodies], axis=1)
    monkeypatch.chdir(tmp_path)
    (example,) = examples("docs/fib25.md")
    exec(example, {})

    for name, part in (("train", slice(0, 130)), ("val", slice(130, 190))):
        with h5py.File(tmp_path / "data" / "fib25" / f"fib25_{name}.h5") as file:
            assert (file["raw"][...] == raw[part]).all()
            labels = file["labels"][...]
            assert file["labels"].attrs["axes"] == "zyx"
            assert file["labels"].attrs["resolution"].tolist() == [10, 10, 10]
        wanted = bodies[supervoxels[part]]
        pairs = {*zip(labels.ravel().tolist(), wanted.ravel().tolist())}
        assert len(pairs) == len(np.unique(labels)) == len(np.unique(wanted)) and (0, 0) in pairs
        first = [labels.ravel().tolist().index(label) for label in range(1, labels.max() + 1)]
        assert first == sorted(first)


# --- code blocks ---

# the test file that runs every block of a page, but for those that say why not
RUN_BY = {
    "README.md": "test_readme.py",
    "docs/check.md": "test_check.py",
    "docs/classes.md": "test_classes.py",
    "docs/config.md": "test_reference.py",
    "docs/data.md": "test_datasets.py",
    "docs/decode.md": "test_merge_tree.py",
    "docs/extending.md": "test_extending.py",
    "docs/fib25.md": "test_readme.py",
    "docs/fine-tuning.md": "test_fine_tuning.py",
    "docs/formats.md": "test_convert.py",
    "docs/inference.md": "test_infer_shards.py",
    "docs/labels.md": "test_placed_labels.py",
    "docs/migrating.md": "test_migrate.py",
    "docs/networks.md": "test_readme.py",
    "docs/own-volume.md": "test_own_volume.py",
    "docs/python.md": "test_readme.py",
    "docs/quickstart.md": "test_examples.py",
    "docs/shapes.md": "test_shapes.py",
    "docs/slurm.md": "test_launch.py",
    "docs/training.md": "test_readme.py",
    "docs/view.md": "test_view.py",
}


@pytest.mark.parametrize("page", pages())
def test_every_block_is_run_by_a_test_or_says_why_not(page):
    text = text_of(page)
    fences = re.findall(r"^```(\w*)$", text, re.MULTILINE)
    languages = [block.language for block in blocks(page)]
    assert fences[::2] == languages and not any(fences[1::2]), "a block without an end"
    assert set(languages) <= {"bash", "console", "diff", "python", "sh", "text"}
    marks = re.findall(r"^<!-- not run:", text, re.MULTILINE)
    assert len(marks) == sum(block.reason is not None for block in blocks(page))
    assert not re.search(r"\n\n    \S", re.sub(r"```.*?```", "", text, flags=re.DOTALL))
    if any(block.language != "text" and block.reason is None for block in blocks(page)):
        runner = (Path(__file__).parent / RUN_BY[page]).read_text()
        assert (
            f'commands("{page}")' in runner
            or f'examples("{page}")' in runner
            or (f'text_of("{page}")' in runner)
        )
    else:
        assert page not in RUN_BY


@pytest.mark.parametrize("page", ["benchmarks/README.md", "docs/experiments.md", "docs/scale.md"])
def test_every_flag_of_a_benchmark_that_is_named_exists(page):
    lines = [line for block in blocks(page) for line in command_lines(block.code)]
    calls = [line for line in lines if "python benchmarks/" in line]
    assert calls
    common = (ROOT / "benchmarks" / "common.py").read_text()
    for call in calls:
        script, *words = call.partition("python ")[2].split()
        source = (ROOT / script).read_text() + common
        for flag in (word for word in words if word.startswith("--")):
            assert f'"{flag}"' in source, call


# --- names ---


def names_of_ours():
    """Each name in the right column of docs/from-the-plan.md."""
    lines = (ROOT / "docs" / "from-the-plan.md").read_text().splitlines()
    cells = [line.split("|")[2] for line in lines if line.startswith("| ")]
    return sorted({name for cell in cells for name in re.findall(r"`([^`]+)`", cell)})


def find_field(name):
    """What a field such as data.val.0.skeleton holds by default, or AttributeError."""
    value = Config()
    for part in name.split("."):
        if part.isdigit():
            volumes = value if value else (VolumeConfig(),)  # none is named by default
            value = volumes[int(part)]
        else:
            assert is_dataclass(value), name
            value = getattr(value, part)
    return value


def import_name(name):
    """The module, class, function or attribute of that name."""
    parts = name.split(".")
    for count in range(len(parts), 0, -1):
        try:
            found = import_module(".".join(parts[:count]))
        except ModuleNotFoundError:
            continue
        for part in parts[count:]:
            found = getattr(found, part)
        return found
    raise ModuleNotFoundError(name)


@pytest.mark.parametrize("name", names_of_ours())
def test_every_name_of_ours_that_the_plan_is_mapped_to_exists(name):
    if name.startswith("pytc."):
        import_name(name)
    elif name == "pytc VERB":
        of_the_plan = {
            "train",
            "infer",
            "evaluate",
            "validate",
            "replay",
            "hardware",
            "models",
            "data",
        }
        assert set(VERBS) >= of_the_plan
    elif name.startswith("pytc "):
        assert name.removeprefix("pytc ") in VERBS
    elif (loss := re.fullmatch(r"train/loss_(\w+)", name)) is not None:
        assert loss[1] in {"total", "scale_0", "scale_1", *LOSSES}
    elif name.endswith((".py", ".md")):
        assert (ROOT / name).is_file()
    elif name not in ("torchrun --nproc-per-node gpu", "nnunet_mednext", "synthetic:SEED"):
        find_field(name)


def test_every_field_of_the_plan_that_a_flag_is_answered_with_is_in_the_table():
    lines = (ROOT / "docs" / "from-the-plan.md").read_text().splitlines()
    cells = [line.split("|")[1] for line in lines if line.startswith("| ")]
    named = {name for cell in cells for name in re.findall(r"`([^`]+)`", cell)}
    assert set(DOCUMENTED_FLAGS) <= named


def test_every_change_that_extending_md_shows_can_be_made(tmp_path):
    """tests/test_extending.py tries the changes; here only, quickly, that they can be made."""
    copy(tmp_path)
    for section in SECTIONS.values():
        apply(section, tmp_path)


DESIGN = (ROOT / "docs" / "design.md").read_text()


def test_every_name_and_file_of_the_design_exists():
    names = set(re.findall(r"`([\w./-]+)`", DESIGN))
    ours = {name for name in names if name.startswith("pytc.")}
    assert len(ours) > 50
    for name in ours:
        import_name(name)
    for name in names:
        if name.startswith(("docs/", "tests/", "configs/")) or name.endswith(".py"):
            assert (ROOT / name).exists(), name


def test_every_step_of_a_walk_names_a_function():
    walks = DESIGN.partition("## Three walks\n")[2].split("### ")[1:]
    assert [walk.partition("\n")[0] for walk in walks] == [
        "From a crop to the loss",
        "From a threshold to labels",
        "A checkpoint out and back",
    ]
    for walk in walks:
        steps = re.split(r"^\d+\. ", walk, flags=re.MULTILINE)[1:]
        assert len(steps) >= 5
        for step in steps:
            named = [import_name(name) for name in re.findall(r"`(pytc\.[\w.]+)`", step)]
            assert any(callable(found) for found in named), step


def test_the_design_has_every_room_on_its_floor():
    rows = re.findall(r"^\| (\d) \| (.*) \|$", DESIGN, flags=re.MULTILINE)
    assert [int(floor) for floor, _ in rows] == list(range(7, -1, -1))
    floors = {}
    for floor, row in rows:
        floors |= dict.fromkeys(re.findall(r"`(pytc\.[\w.]+)`", row), int(floor))
    assert {name: floor_and_room(name)[0] for name in floors} == floors
    shown = {".".join(name.split(".")[:2]) for name in floors}
    rooms = {f"pytc.{path.parent.name}" for path in (ROOT / "pytc").glob("*/__init__.py")}
    assert rooms <= shown
