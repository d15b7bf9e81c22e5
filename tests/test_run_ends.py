"""How runs end early: by a signal, by a failing rank, by a start that fails."""

import os
import signal
import subprocess
import sys
from dataclasses import replace

import numpy as np
import psutil
import pytest
from test_distributed import ranks_of
from tiny_runs import ROOT, TORCHRUN, read_log, start, step_of, tiny, wait_for_steps, write_config

from pytc import cli
from pytc.config import VolumeConfig
from pytc.data.synthetic_volumes import prepare_volume
from pytc.script import EXIT_INTERRUPTED
from pytc.training import distributed
from pytc.training.distributed import EXIT_REQUEUE, noticed_signals
from pytc.training.loop import train
from pytc.training.trainer import Trainer


@pytest.fixture(autouse=True)
def workplace(tmp_path, monkeypatch):
    """An empty folder to run in."""
    monkeypatch.chdir(tmp_path)


def test_a_signal_ends_a_run_after_its_step_with_the_code_for_requeueing(tmp_path):
    run, config = (
        tmp_path / "runs" / "asked",
        replace(tiny(max_steps=400, checkpoint_every=5), name="asked"),
    )
    process = start(config, tmp_path, "--system.workers", "2")
    wait_for_steps(process, run, 5)
    for child in psutil.Process(process.pid).children(
        recursive=True
    ):  # as Slurm signals every process of a job
        if "forkserver" in " ".join(child.cmdline()):
            child.send_signal(signal.SIGUSR1 if child.parent().pid != process.pid else 0)
    process.send_signal(signal.SIGUSR1)
    assert process.wait() == EXIT_REQUEUE == 75
    steps = [line["step"] for line in read_log(run) if "train/loss_total" in line]
    assert step_of(run) == steps[-1] < 400


@pytest.mark.parametrize("repeated", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_that_slurm_and_srun_both_send_is_one(repeated, monkeypatch, capfd):
    others = []  # what the handlers around the block are called with
    handler = signal.signal(repeated, lambda number, frame: others.append(number))
    try:
        with noticed_signals() as received:
            for number in (signal.SIGTERM, repeated):
                os.kill(os.getpid(), number)
            assert received == [signal.SIGTERM] and others == []
            with pytest.raises(KeyboardInterrupt):  # a human's second signal
                os.kill(os.getpid(), signal.SIGINT)
        assert capfd.readouterr().err.count("SIGTERM: ending after this step") == 1

        monkeypatch.setattr(distributed, "TOGETHER", 0.0)  # as if the burst were over
        with noticed_signals(say=False) as received:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), repeated)
            assert received == [signal.SIGINT] and others == [repeated]
    finally:
        signal.signal(repeated, handler)


FAILING = """
import sys
from pytc.training import trainer
step = trainer.Trainer.train_step
def failing(self, number, *rest, **options):
    if self.ranks.rank == 1 and number == 2:
        raise RuntimeError("rank 1 has had enough")
    return step(self, number, *rest, **options)
trainer.Trainer.train_step = failing
from pytc.cli import train
train(sys.argv[1:])
"""


@pytest.mark.slow
def test_a_failing_rank_ends_the_run_with_its_error(tmp_path):
    """Under torchrun, and as two tasks of Slurm, which nobody but the other rank watches."""
    (tmp_path / "failing.py").write_text(FAILING)
    file = write_config(tmp_path, replace(tiny(batch_size=1), name="failing"))
    command = [str(tmp_path / "failing.py"), "--config", str(file), "--system.no-cpu-variant"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [*TORCHRUN, *command], capture_output=True, text=True, timeout=180, env=environment
    )
    assert done.returncode != 0 and "rank 1 has had enough" in done.stderr
    slurm = {
        "SLURM_NTASKS": "2",
        "SLURM_NNODES": "1",
        "SLURM_JOB_NODELIST": "localhost",
        "SLURM_JOB_ID": str(os.getpid()),
    }
    tasks = [
        subprocess.Popen(
            [sys.executable, *command],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            env={**environment, **slurm, "SLURM_PROCID": rank, "SLURM_LOCALID": rank},
        )
        for rank in ("0", "1")
    ]
    errors = [task.communicate(timeout=180)[1] for task in tasks]
    assert all(task.returncode not in (0, EXIT_REQUEUE) for task in tasks)
    assert "rank 1 has had enough" in errors[1]


def test_ctrl_c_ends_a_run_after_its_step_with_a_checkpoint(tmp_path):
    """A terminal sends it to every process of the run, the loaders too."""
    run, config = tmp_path / "runs" / "asked", replace(tiny(max_steps=400), name="asked")
    process = start(
        config,
        tmp_path,
        "--system.workers",
        "2",
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    wait_for_steps(process, run, 2)
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=180)
    assert process.returncode == EXIT_INTERRUPTED
    done = step_of(run)
    assert done == [line["step"] for line in read_log(run) if "train/loss_total" in line][-1] < 400
    assert err == "\nSIGINT: ending after this step, with a checkpoint; a second one ends now\n"
    # the command is named as it was typed
    command = f"python {ROOT / 'train.py'} --resume runs/asked"
    assert out.splitlines()[-1] == f"stopped by SIGINT after step {done}; {command} continues"


def test_ctrl_c_ends_a_run_of_torchrun_with_a_checkpoint(tmp_path):
    """torchrun hands it on to its ranks, whose group is not the terminal's."""
    run, config = tmp_path / "runs" / "asked", replace(tiny(max_steps=400), name="asked")
    process = subprocess.Popen(
        [
            *TORCHRUN,
            str(ROOT / "train.py"),
            "--config",
            str(write_config(tmp_path, config)),
            "--system.no-cpu-variant",
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    wait_for_steps(process, run, 2)
    os.killpg(process.pid, signal.SIGINT)
    out, _ = process.communicate(timeout=180)
    done = step_of(run)
    assert done == [line["step"] for line in read_log(run) if "train/loss_total" in line][-1] < 400
    assert f"stopped by SIGINT after step {done}; " in out


def test_loaders_never_hear_the_signals_of_a_run(tmp_path):
    program = """
import multiprocessing, signal
from pytc.training.distributed import SIGNALS, start_forkserver

def blocked():
    print(sorted(signal.pthread_sigmask(signal.SIG_BLOCK, [])) == sorted(SIGNALS))

if __name__ == "__main__":
    start_forkserver()
    print(signal.pthread_sigmask(signal.SIG_BLOCK, []))
    process = multiprocessing.get_context("forkserver").Process(target=blocked)
    process.start()
    process.join()
"""
    (tmp_path / "program.py").write_text(program)
    done = subprocess.run(
        [sys.executable, "program.py"],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert sorted(done.stdout.split()) == ["True", "set()"], done.stderr


SLOW_FEEDERS = """
# The threads that feed queues outlive their loaders, and are slow to remove a semaphore.
import sys, threading, time
from multiprocessing.queues import Queue
from multiprocessing.resource_tracker import unregister
from multiprocessing.synchronize import SemLock, sem_unlink
from pytc.training import loop

loaders_are_dropped = threading.Event()

def feed(*arguments, original=Queue._feed):
    original(*arguments)
    loaders_are_dropped.wait()

def clean_up(name):
    sem_unlink(name)
    if threading.current_thread().name == "QueueFeederThread":
        time.sleep(1)
    unregister(name, "semaphore")

def run(*arguments, original=loop.resolve_and_run):
    result = original(*arguments)
    loaders_are_dropped.set()
    return result

Queue._feed = staticmethod(feed)
SemLock._cleanup = staticmethod(clean_up)
loop.resolve_and_run = run

from pytc import cli
cli.train(sys.argv[1:])
"""


def test_a_run_waits_for_the_threads_that_fed_its_loaders(tmp_path):
    """Python's resource tracker would otherwise warn of semaphores that are gone, or are not."""
    file = write_config(tmp_path, replace(tiny(max_steps=2), name="fed"))
    words = ["--config", str(file), "--system.no-cpu-variant", "--system.workers", "2"]
    done = subprocess.run(
        [sys.executable, "-c", SLOW_FEEDERS, *words], capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    "function, words",
    [("infer", "the same call continues"), ("evaluate", "the next call starts anew")],
)
def test_ctrl_c_in_the_other_scripts_is_one_line(function, words, tmp_path, monkeypatch, capsys):
    def interrupted(config, **ranks):
        os.kill(os.getpid(), signal.SIGINT)

    train(replace(tiny(max_steps=1), name="tiny"))
    capsys.readouterr()
    monkeypatch.setattr("pytc.inference.pipeline.infer", interrupted)
    monkeypatch.setattr("pytc.evaluate.evaluate", interrupted)
    with pytest.raises(SystemExit) as left:
        getattr(cli, function)([])
    assert left.value.code == EXIT_INTERRUPTED
    error = capsys.readouterr().err.strip()
    assert words in error and len(error.splitlines()) == 1


def labelled(tmp_path, labels):
    volume = prepare_volume(VolumeConfig(), tiny().data.synthetic)
    np.save(tmp_path / "labels.npy", labels)
    volume = replace(volume, labels=str(tmp_path / "labels.npy"))
    return replace(tiny(), name="failed", data=replace(tiny().data, train=(volume,)))


def test_a_start_that_fails_leaves_no_run(tmp_path, monkeypatch):
    config = labelled(tmp_path, np.full((48, 48, 48), -1, np.int32))
    with pytest.raises(ValueError, match="expected labelled voxels"):  # by the first batch
        train(config)
    config = labelled(tmp_path, np.ones((48, 48, 47), np.int32))
    with pytest.raises(ValueError, match="of shape"):  # by the check of the volumes
        train(config)

    def interrupted(self, *arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(Trainer, "train_step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train(tiny())
    assert list((tmp_path / "runs").iterdir()) == []


def test_torchrun_names_the_error_of_a_call_and_tells_it_once(tmp_path):
    done = subprocess.run(
        [*TORCHRUN, str(ROOT / "train.py"), "--data.train.0.image", "nope.tif"],
        capture_output=True,
        text=True,
        timeout=180,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode != 0
    printed = [line for line in done.stderr.splitlines() if "expected a volume at nope.tif" in line]
    ours, cause = printed
    assert ours.startswith("error: expected a volume at nope.tif")
    assert cause.split(":", 1)[0].strip() == "traceback" and cause.endswith(ours)
    # no traceback of ours; torchrun's own may lie in an environment below ROOT
    assert f'File "{ROOT / "pytc"}' not in done.stderr
    assert f'File "{ROOT / "train.py"}' not in done.stderr


@pytest.mark.parametrize("rank_without_turn", (0, 1))
def test_torchrun_tells_a_refused_flag_once_whichever_rank_is_late(rank_without_turn, tmp_path):
    late = f"""
import os, sys, time
if os.environ["RANK"] == "{rank_without_turn}":
    time.sleep(3)
from pytc.cli import train
train(sys.argv[1:])
"""
    (tmp_path / "late.py").write_text(late)
    done = subprocess.run(
        [*TORCHRUN, str(tmp_path / "late.py"), "--loop.max-stpes", "3"],
        capture_output=True,
        text=True,
        timeout=180,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode != 0
    assert done.stderr.count("has no flag --loop.max-stpes") == 1, done.stderr


PARTLY_FAILING = """
import sys
import torch
from pytc.script import script
from pytc.training.distributed import joined, read_environment

ranks = read_environment()
with script(), joined(ranks, torch.device("cpu")):
    ranks.gather(None)
    if ranks.rank in {ranks_}:
        raise {error}("no such thing")
    ranks.gather(None)
"""


@pytest.mark.parametrize(
    "failing, error, printers",
    [
        ((0, 1), "ValueError", None),  # whichever is first
        ((1,), "ValueError", (1,)),
        ((1,), "RuntimeError", (1,)),
    ],
)
def test_one_rank_prints_an_error_and_a_fault_keeps_its_traceback(failing, error, printers):
    program = PARTLY_FAILING.replace("{ranks_}", str(failing)).replace("{error}", error)
    results = ranks_of(program)
    assert [code for code, _, _ in results] == [1, 1]
    texts = [err for _, _, err in results]
    printed_by = tuple(rank for rank, text in enumerate(texts) if "no such thing" in text)
    assert len(printed_by) == 1 and printers in (None, printed_by)
    if error == "ValueError":
        assert texts[printed_by[0]] == "error: no such thing\n"
    else:
        assert "Traceback" in texts[printed_by[0]]
    assert texts[1 - printed_by[0]] == ""
