"""The job script of docs/slurm.md runs, with stand-ins for Slurm's commands and the training."""

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
TRAINING = """#!/bin/sh
echo "$@" >> calls
mkdir -p runs/mine && touch runs/mine/config.json
exit $CODE
"""


@pytest.mark.parametrize("code", [0, 1, 75])
def test_the_slurm_script_resumes_and_requeues(tmp_path, code):
    text = (ROOT / "docs" / "slurm.md").read_text()
    (tmp_path / "job.sh").write_text(text.split("```bash\n")[1].split("```")[0])
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
