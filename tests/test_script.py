"""The edge of every script: errors, Ctrl-C, closed pipes, the environment that torch reads."""

import os
import resource
import signal
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest
from pytc_command import PYTC

from pytc.config import Config
from pytc.main import VERBS, main
from pytc.runs import require_writable, write_json
from pytc.script import (
    EXIT_INTERRUPTED,
    RankError,
    RunError,
    command_line,
    is_first_of_node,
    program_of,
    script,
    user_message,
)

ROOT = Path(__file__).parent.parent
SCRIPTS = ("train.py", "infer.py", "evaluate.py")
ENTRIES = {name: [str(ROOT / name)] for name in SCRIPTS}
ENTRIES |= {f"pytc {verb}": [str(PYTC), verb] for verb in VERBS}
ENTRIES["pytc"] = [str(PYTC)]


def run(*arguments, folder, **options):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **options.pop("env", {})}
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env=environment,
        text=True,
        capture_output=True,
        timeout=180,
        **options,
    )


# Runs a program as its users do, and says whether torch was loaded by then.
WITHOUT_TORCH = """
import atexit, os, runpy, sys
atexit.register(lambda: print(
    "torch" in sys.modules, os.environ.get("OMP_WAIT_POLICY"), file=sys.stderr))
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.mark.parametrize("entry", ENTRIES)
def test_help_needs_no_torch_and_every_entry_sets_the_same_environment(entry, tmp_path):
    done = run("-c", WITHOUT_TORCH, *ENTRIES[entry], "--help", folder=tmp_path)
    assert (done.returncode, done.stderr) == (0, "False passive\n")
    assert "usage" in done.stdout


@pytest.mark.parametrize("entry", ENTRIES)
def test_a_closed_pipe_is_silence(entry, tmp_path):
    reading, writing = os.pipe()
    os.close(reading)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, *ENTRIES[entry], "--help"],
        cwd=tmp_path,
        env=environment,
        stdout=writing,
        stderr=subprocess.PIPE,
        text=True,
    )
    os.close(writing)
    assert done.stderr == ""


@pytest.fixture
def folder(tmp_path):
    """A folder with a run that has a config and no checkpoint, and with a file."""
    (tmp_path / "runs" / "x").mkdir(parents=True)
    write_json(tmp_path / "runs" / "x" / "config.json", asdict(Config()))
    (tmp_path / "file").write_text("")
    (tmp_path / "bad.py").write_text("from pytc.config import Config\nconfig = Config(nmae='x')\n")
    return tmp_path


@pytest.mark.parametrize(
    "arguments, words",
    [
        (("train.py", "--config", "nothing.py"), "found no nothing.py"),
        (("train.py", "--config", "bad.py"), "bad.py"),
        (("train.py", "--resume", "nowhere"), "nowhere"),
        (("train.py", "--data.train.0.image", "nope.tif"), "nope.tif"),
        (("infer.py", "--run", "nowhere"), "nowhere"),
        (("infer.py", "--run", "runs/x", "--output", "file/below"), "file is a file"),
        (("infer.py", "--run", "runs/x", "--output", "/proc/below"), "/proc"),
        (("infer.py", "--run", "runs/x", "--input", "nope.tif"), "nope.tif"),
        (("evaluate.py", "--run", "nowhere"), "nowhere"),
        (("pytc train", "--config", "nothing.py"), "found no nothing.py"),
        (("pytc infer", "--run", "nowhere"), "nowhere"),
        (("pytc validate", "--run", "nowhere"), "nowhere"),
        (("pytc replay", "--run", "nowhere", "--step", "0"), "nowhere"),
        (("pytc data", "snemi"), "did you mean 'snemi3d'?"),
        (("pytc models", "list", "--plugins", "x.pt"), "a Python file (.py) for plugins"),
    ],
)
def test_what_is_wrong_with_a_call_is_one_line_before_torch_is_loaded(arguments, words, folder):
    entry, *rest = arguments
    done = run("-c", WITHOUT_TORCH, *ENTRIES[entry], *rest, folder=folder)
    error, environment = done.stderr.splitlines()
    assert done.returncode == 1
    assert error.startswith("error: ") and words in error
    assert environment == "False passive"


def test_a_folder_that_cannot_be_written_is_refused_before_work(tmp_path):
    require_writable(tmp_path / "new" / "deep")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(ValueError, match=f"{tmp_path}/file is a file"):
            require_writable(path)
    with pytest.raises(ValueError, match="to write in /proc/x, but /proc: "):
        require_writable(Path("/proc/x"))


UNPRIVILEGED = """
import os, sys
from pathlib import Path
from pytc.runs import require_writable
from pytc.script import script
os.setgid(65534)
os.setuid(65534)
with script():
    require_writable(Path(sys.argv[1]))
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="becoming another user needs root")
def test_a_folder_of_somebody_else_is_refused():
    done = run("-c", UNPRIVILEGED, "/root/x", folder="/")
    assert (done.returncode, done.stderr) == (
        1,
        "error: expected to be able to write in /root/x, but /root: Permission denied\n",
    )


def test_a_full_disk_is_one_line_that_names_the_file(tmp_path):
    """A limit on the size of files stands for it; a checkpoint is written by torch."""
    program = (
        "from pathlib import Path\n"
        "from pytc.script import script\n"
        "with script():\n"
        "    import torch\n"
        "    from pytc.models.checkpoint import save_checkpoint\n"
        "    save_checkpoint(Path('last.pt'), {'x': torch.zeros(1_000_000)})\n"
    )
    done = run(
        "-c",
        program,
        folder=tmp_path,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000)),
    )
    assert (done.returncode, done.stderr) == (1, "error: last.pt: File too large\n")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "interrupted, way", [("stopped; the same call goes on", "the same"), ("x", "call it again")]
)
def test_a_full_disk_says_how_to_go_on(tmp_path, interrupted, way):
    """/dev/full is one to every program that writes to it."""
    program = (
        "from pytc.script import script\n"
        f"with script({interrupted!r}), open('/dev/full', 'w') as file:\n"
        "    file.write('x' * 100_000)\n"
    )
    done = run("-c", program, folder=tmp_path)
    said = "error: [Errno 28] No space left on device; free some space: "
    assert done.returncode == 1 and done.stderr.startswith(said + way), done.stderr


@pytest.mark.parametrize(
    "error, line",
    [
        (ValueError("expected\nthis"), "expected this"),
        (RunError("3 steps were skipped"), "3 steps were skipped"),
        (PermissionError(13, "Permission denied", "a/b"), "a/b: Permission denied"),
        (OSError(28, "No space left on device"), "[Errno 28] No space left on device"),
        (ImportError("needs the extra `data`"), "needs the extra `data`"),
        (ModuleNotFoundError("No module named 'x'", name="x"), None),
        (RuntimeError("a fault"), None),
        (AssertionError(), None),
    ],
)
def test_which_errors_are_the_users(error, line):
    assert user_message(error) == line


def test_ctrl_c_is_one_line_and_130(tmp_path):
    program = (
        "import os, signal\n"
        "from pytc.script import script\n"
        "with script('the next call continues'):\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
    )
    done = run("-c", program, folder=tmp_path)
    assert (done.returncode, done.stderr) == (EXIT_INTERRUPTED, "\nthe next call continues\n")
    assert EXIT_INTERRUPTED == 130 == 128 + signal.SIGINT


def test_a_node_tells_an_error_once(monkeypatch, capsys):
    assert is_first_of_node({}) and is_first_of_node({"LOCAL_RANK": "0", "RANK": "8"})
    assert is_first_of_node({"SLURM_LOCALID": "0"}) and not is_first_of_node({"LOCAL_RANK": "1"})
    monkeypatch.setenv("LOCAL_RANK", "1")
    for error, code in (
        (ValueError("found no file"), 1),  # its node's first rank finds the same
        (RankError("failed elsewhere", is_reported=True), 1),
        (RankError("failed here", is_reported=False), "error: failed here"),
    ):
        with pytest.raises(SystemExit) as left, script():
            raise error
        assert left.value.code == code


def test_the_command_lists_every_verb_in_a_line(capsys):
    for arguments in ([], ["--help"], ["-h"]):
        with pytest.raises(SystemExit) as left:
            main(arguments)
        assert left.value.code == 0
        said = capsys.readouterr().out
        for name, verb in VERBS.items():
            (line,) = [line for line in said.splitlines() if f"• {name} " in line]
            assert verb.__doc__.splitlines()[0].rstrip(".") in line


def test_an_unknown_verb_is_refused_with_those_that_exist(capsys):
    with pytest.raises(SystemExit) as left:
        main(["trian", "--config", "x.py"])
    assert left.value.code == 2
    said = capsys.readouterr().err
    assert "trian" in said and "train, infer" in said and "Traceback" not in said


@pytest.mark.parametrize(
    "started_as, infer",
    [
        ("train.py", "python infer.py --run 'a b'"),
        ("evaluate.py", "python infer.py --run 'a b'"),
        ("clone/train.py", "python clone/infer.py --run 'a b'"),
        ("/usr/bin/pytc", "pytc infer --run 'a b'"),
        ("some_program.py", "python infer.py --run 'a b'"),
    ],
)
def test_a_line_to_type_next_has_the_form_that_the_user_typed(started_as, infer, monkeypatch):
    monkeypatch.setattr(sys, "argv", [started_as])
    assert command_line("infer", ["--run", "a b"]) == infer
    assert command_line("validate") == "pytc validate"
    assert program_of("infer") in infer and program_of("data") == "pytc data"


def test_without_a_clone_the_line_to_type_next_is_the_command(monkeypatch, tmp_path):
    monkeypatch.setattr("pytc.script.CLONE", tmp_path)
    monkeypatch.setattr(sys, "argv", ["some_program.py"])
    assert command_line("infer") == "pytc infer" == program_of("infer")


def test_importing_the_package_leaves_the_process_as_it_was():
    program = """
import os, warnings
from PIL import Image
before = dict(os.environ), Image.MAX_IMAGE_PIXELS
import pytc.cli, pytc.main, pytc.validate, pytc.io.stores, pytc.io.datasets, pytc.hardware
import pytc.training.loop, pytc.inference.pipeline, pytc.evaluation.report
new = set(os.environ) - set(before[0])
print(sorted(name for name in new if not name.startswith(("KMP_", "TORCHINDUCTOR"))))
print(Image.MAX_IMAGE_PIXELS == before[1])
"""
    done = run("-c", program, folder="/")
    assert done.stdout.splitlines() == ["[]", "True"], done.stderr
