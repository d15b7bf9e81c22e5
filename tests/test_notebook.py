"""The cells of docs/python.ipynb run in order, on a run of two steps; without Jupyter."""

import json
import shlex
import subprocess
import sys
from pathlib import Path

import matplotlib
import pytest
from test_readme import SMALL

ROOT = Path(__file__).parent.parent
NOTEBOOK = json.loads((ROOT / "docs" / "python.ipynb").read_text())
CELLS = [cell for cell in NOTEBOOK["cells"] if cell["cell_type"] == "code"]
TRAINING = "train.py --config configs/mednext.py"


@pytest.mark.slow
def test_the_cells_run(tmp_path, monkeypatch):
    for name in ("train.py", "configs"):
        (tmp_path / name).symlink_to(ROOT / name)
    text = "".join(line for cell in NOTEBOOK["cells"] for line in cell["source"])
    assert f"torchrun {TRAINING}\n" in text
    command = [sys.executable, *shlex.split(TRAINING), *SMALL]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PYTC_RUNS", raising=False)
    names: dict[str, object] = {}
    with matplotlib.rc_context({"backend": "Agg"}):
        for cell in CELLS:
            exec("".join(cell["source"]), names)
        names["plt"].close("all")
    assert "mednext_custom" in repr(names["segmenter"])
    assert names["labels"].shape == names["tissue"].labels.shape
    assert names["affinities"].shape == (6, *names["labels"].shape)
    assert 0 <= names["on_skeletons"]["nerl"] <= 1 and names["dense"]["voi_sum"] >= 0


def test_the_outputs_are_those_of_one_run_from_top_to_bottom():
    assert [cell["execution_count"] for cell in CELLS] == [*range(1, len(CELLS) + 1)]
    shown = [output for cell in CELLS for output in cell["outputs"]]
    assert any("image/png" in output.get("data", {}) for output in shown)
    assert any("NERL" in "".join(output.get("text", [])) for output in shown)
