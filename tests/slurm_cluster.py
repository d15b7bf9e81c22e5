"""A real Slurm of one node, in a folder of its own and on ports of its own.

It needs the programs of slurm-wlm and munge, and nothing of /etc. The node has more CPUs and GPUs
than the machine, in name only.
"""

import getpass
import os
import secrets
import shutil
import socket
import subprocess
import time
from contextlib import ExitStack, contextmanager

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scontrol", "scancel", "srun")
CONFIG = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmdPort={node_port}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
# cred_expire: seconds that a job which was put back has to wait
AuthInfo=socket={folder}/munge.socket,cred_expire=5
CryptoType=crypto/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
JobRequeue=1
SchedulerParameters=bf_interval=1,sched_interval=1,batch_sched_delay=0,sched_min_interval=0
OverTimeLimit=0
KillWait=15
ReturnToService=2
MpiDefault=none
SwitchType=switch/none
GresTypes=gpu
SlurmdParameters=config_overrides
NodeName={host} NodeAddr=127.0.0.1 CPUs=4 RealMemory=1000 Gres=gpu:4 State=UNKNOWN
PartitionName=low Nodes={host} Default=YES State=UP PriorityTier=1
PartitionName=urgent Nodes={host} State=UP PriorityTier=2
PartitionName=graceful Nodes={host} State=UP PriorityTier=1 GraceTime=20
"""


def missing():
    """Why no Slurm can be started here, or an empty string."""
    absent = [name for name in PROGRAMS if shutil.which(name) is None]
    if absent:
        return f"no {', '.join(absent)} here: apt-get install slurm-wlm munge"
    return ""


@contextmanager
def cluster(folder):
    """Run a Slurm in this block; $SLURM_CONF names it.

    RuntimeError, with what its programs say, if it does not start.
    """
    with ExitStack() as running:
        try:
            _start(folder, running)
        except (OSError, subprocess.SubprocessError) as error:
            raise RuntimeError(f"Slurm does not start: {error}") from error
        before = os.environ.get("SLURM_CONF")
        os.environ["SLURM_CONF"] = str(folder / "slurm.conf")
        try:
            _wait_for_node(folder)
            yield
        finally:
            subprocess.run(["scancel", "--user", getpass.getuser()], capture_output=True)
            if before is None:
                del os.environ["SLURM_CONF"]
            else:
                os.environ["SLURM_CONF"] = before


def _start(folder, running):
    """Start the three programs; `running` ends them, the last one first."""
    host = socket.gethostname().partition(".")[0]
    for name in ("state", "spool"):
        (folder / name).mkdir()
    (folder / "munge.key").write_bytes(secrets.token_bytes(128))
    (folder / "munge.key").chmod(0o400)
    for number in range(4):  # what stands for the device of a GPU
        (folder / f"gpu{number}").touch()
    (folder / "gres.conf").write_text(f"NodeName={host} Name=gpu File={folder}/gpu[0-3]\n")
    values = {
        "folder": folder,
        "host": host,
        "port": _free_port(),
        "node_port": _free_port(),
        "user": getpass.getuser(),
    }
    (folder / "slurm.conf").write_text(CONFIG.format(**values))
    munge = {
        "key-file": "munge.key",
        "socket": "munge.socket",
        "pid-file": "munge.pid",
        "log-file": "munge.log",
        "seed-file": "munge.seed",
    }
    files = [f"--{option}={folder / name}" for option, name in munge.items()]
    environment = {**os.environ, "SLURM_CONF": str(folder / "slurm.conf")}
    for command in (
        ["munged", "--foreground", "--force", *files],
        ["slurmctld", "-D", "-i"],
        ["slurmd", "-D", "-N", host],
    ):
        with open(folder / f"{command[0]}.out", "w") as output:
            process = subprocess.Popen(
                command, stdout=output, stderr=output, env=environment, cwd=folder
            )
        running.callback(_stop, process)
        if command[0] == "munged":
            _wait((folder / "munge.socket").exists)


def _stop(process):
    process.terminate()
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()


def _wait_for_node(folder):
    """Wait until the node takes jobs."""

    def is_idle():
        words = ["sinfo", "--noheader", "--format=%t"]
        return "idle" in subprocess.run(words, capture_output=True, text=True).stdout

    if not _wait(is_idle):
        names = ("munged.out", "slurmctld.out", "slurmd.out")
        said = [(folder / name).read_text()[-1000:] for name in names if (folder / name).exists()]
        raise RuntimeError(f"Slurm does not start: {' '.join(said)}")


def _wait(condition, seconds=20):
    """Whether the condition holds within that time."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.1)
    return False


def _free_port():
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]
