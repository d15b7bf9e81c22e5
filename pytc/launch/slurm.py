"""Calls of Slurm's own programs: sbatch, squeue, scancel. No accounting database is asked."""

import logging
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from pytc.checks import require

LOGGER = logging.getLogger(__name__)


def require_slurm() -> None:
    """ValueError where there is no Slurm to submit to."""
    expected = "Slurm on this machine (--dry-run needs none)"
    require(shutil.which("sbatch") is not None, expected, "no sbatch")


def submit(script: Path, options: Sequence[str] = ()) -> int:
    """Submit a batch script; returns the number of its job. ValueError if Slurm refuses it."""
    done = _call(["sbatch", "--parsable", *options, str(script)])
    if done.returncode:
        raise ValueError(f"sbatch refuses {script}: {done.stderr.strip()}")
    return int(done.stdout.strip().partition(";")[0])  # NUMBER or NUMBER;CLUSTER


def cancel(jobs: Sequence[int]) -> None:
    """Cancel these jobs, if there are any."""
    if jobs:
        _call(["scancel", *map(str, jobs)])


def queue(jobs: Sequence[int]) -> dict[tuple[int, int], str] | None:
    """The state of each task of these arrays that is in the queue.

    Returns:
        {(job, task): state as squeue names it, e.g. PENDING}; None where there is no Slurm to ask.
    """
    states: dict[tuple[int, int], str] = {}
    for job in jobs:
        if shutil.which("squeue") is None:
            return None
        done = _call(["squeue", "--noheader", "--array", f"--jobs={job}", "--format=%K %T"])
        if "Invalid job id" in done.stderr:  # it is over, and Slurm has forgotten it
            continue
        if done.returncode:
            LOGGER.warning(f"squeue: {done.stderr.strip()}")
            return None
        for line in done.stdout.splitlines():
            task, state = line.split()
            if task.isdigit():
                states[job, int(task)] = state
    return states


def _call(words: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(words, capture_output=True, text=True)
