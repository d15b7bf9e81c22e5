"""`pytc compare`: what stands beside each other, and what is said not to be alike."""

import json
import re
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from documents import commands
from tiny_runs import tiny

from pytc.evaluation.compare import compare, config_differences
from pytc.main import main

SCORES = {"dense_voi_sum": 1.0, "dense_adapted_rand_error": 0.25, "metric": "dense_voi_sum"}
SETTINGS = {"threshold": 0.5, "labels": "l.zarr", "min_size": 0, "method": "components"}
SETTINGS |= {"threshold_chosen_on": "this volume", "frac_scored": 0.5}


def make_run(name, config, **volumes):
    """RUN with a config, a log, and the scores of some volumes."""
    run = Path("runs") / name
    run.mkdir(parents=True)
    (run / "config.json").write_text(json.dumps(asdict(config)))
    (run / "log.jsonl").write_text('{"step": 1, "train/loss_total": 0.5, "val/loss": 0.5}\n')
    for volume, changes in volumes.items():
        folder = run / "evaluation" / volume
        folder.mkdir(parents=True)
        (folder / "metrics.json").write_text(json.dumps(SCORES | SETTINGS | changes))
        (folder / "sweep.csv").write_text("threshold,dense_voi_sum\n0.4,2.0\n0.5,1.0\n")


@pytest.fixture
def runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = tiny()
    make_run("one", config, cube={}, lone={})
    changed = replace(config, optim=replace(config.optim, weight_decay=0.125), name="<two>")
    make_run("two", changed, cube={"dense_voi_sum": 0.75, "frac_scored": 0.25, "min_size": 9})
    make_run("three", config)


def table_after(page, heading):
    table = page.partition(heading)[2].partition("</table>")[0]
    rows = [re.findall(r"<t[dh]([^>]*)>(.*?)</t[dh]>", row) for row in table.split("<tr>")]
    return [row for row in rows if row]


def test_average_precision_stands_beside_the_headlines(runs):
    make_run("four", tiny(), cube={"ap_50": 0.5, "ap_75": 0.25})
    main(["compare", "one", "four", "--output", "page.html"])
    heads, first, last = table_after(Path("page.html").read_text(), "<h3>cube</h3>")
    assert [text for _, text in heads[3:5]] == ["AP 0.5", "AP 0.75"]
    assert [text for _, text in last[3:5]] == ["0.500", "0.250"]
    assert [text for _, text in first[3:5]] == ["", ""]


def test_runs_stand_beside_each_other(runs, capsys):
    main(["compare", "one", "two", "three", "--output", "out/page.html"])
    page = Path("out/page.html").read_text()
    heads, first, second = table_after(page, "<h3>cube</h3>")
    assert [text for _, text in heads[:3]] == ["run", "dense VOI, bits", "Rand error"]
    assert [text for _, text in first] == ["one", "1.000", "0.250", "0.5000", "components"]
    assert [text for mark, text in second if "best" in mark] == ["0.750"]
    assert "<h3>lone</h3>" not in page  # scored in one run only
    assert "three was not evaluated." in page
    heads, field = table_after(page, "<h2>Configs</h2>")
    assert [text for _, text in heads] == ["field", "one", "two", "three"]
    usual = str(tiny().optim.weight_decay)
    assert [text for _, text in field] == ["optim.weight_decay", usual, "0.125", usual]
    assert page.count("data:image/png;base64,") == 2
    assert "src=" not in re.sub(r'src="data:image/png', "", page) and "<script" not in page
    printed = capsys.readouterr().out
    assert "dense VOI, bits" in printed and printed.splitlines()[-1] == "page: out/page.html"


def test_the_documented_command(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (command,) = [line for line in commands("docs/view.md") if line.startswith("pytc compare")]
    for name in ("mine", "other"):
        make_run(name, tiny(), cube={})
    main(command.split()[1:])
    assert "They are the same." in Path("mine-other.html").read_text()


def test_what_does_not_compare_is_said(runs):
    compare(["one", "two"], Path("page.html"))
    page = Path("page.html").read_text()
    warnings = re.findall(r"<li><b>Not alike:</b> (.*?)</li>", page)
    assert warnings == [
        "cube: min size is 0 in one, 9 in two",
        "cube: the share of the volume that was scored is 0.500 in one, 0.250 in two",
    ]
    path = Path("runs/two/evaluation/cube/metrics.json")
    given = json.loads(path.read_text()) | {"frac_scored": 0.5, "min_size": 0}
    del given["threshold_chosen_on"]
    path.write_text(json.dumps(given))
    compare(["one", "two"], Path("page.html"))
    (warning,) = re.findall(r"<li><b>Not alike:</b> (.*?)</li>", Path("page.html").read_text())
    assert "the threshold of one was chosen on this volume by a sweep" in warning


def test_configs_differ_by_fields_of_any_depth():
    config = tiny()
    volume = replace(config.data.train[0], image="synthetic:7")
    other = replace(config, data=replace(config.data, train=(volume,)))
    differences = config_differences({"a": config, "b": other})
    assert differences == {"data.train.0.image": [config.data.train[0].image, "synthetic:7"]}
    assert config_differences({"a": config, "b": replace(config, name="b")}) == {}


def test_one_run_or_an_unknown_one_is_refused(runs, capsys):
    for words, message in (
        (["one"], "two runs or more to compare"),
        (["one", "tow"], "did you mean 'two'?"),
        (["one", "one"], "each run once"),
    ):
        with pytest.raises(SystemExit) as ended:
            main(["compare", *words])
        assert message in str(ended.value.code) + capsys.readouterr().err
