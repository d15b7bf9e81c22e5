"""Results on disk: where they lie, what replaces what, which weights and volumes are meant.

The networks are untrained: only where their results go is looked at.
"""

import io
import json
import re
import shlex
from contextlib import redirect_stdout
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from pytc import cli
from pytc.commands import EvaluateConfig, InferConfig, ValidateConfig
from pytc.config import (
    Config,
    DataConfig,
    InferenceConfig,
    ModelConfig,
    SegmentationConfig,
    SystemConfig,
    TargetConfig,
    VolumeConfig,
)
from pytc.console import print_table
from pytc.evaluate import evaluate
from pytc.inference.output import manifest_of
from pytc.inference.pipeline import infer
from pytc.io.results import image_name, read_source, volume_names
from pytc.io.synthetic import make_neurites
from pytc.io.volume import create_volume, open_volume
from pytc.models import build_model
from pytc.models.checkpoint import FORMAT, export, read_card, save_checkpoint
from pytc.models.weights import initialise
from pytc.runs import find_run, find_weights
from pytc.segmentation.edges import is_above
from pytc.training.whole_volumes import scored_volumes
from pytc.validate import validate

SHAPE = (16, 32, 32)
TINY = Config(
    name="tiny",
    data=DataConfig(patch_size=(12, 16, 16)),
    model=ModelConfig(architecture="unet", features=(4, 4)),
    inference=InferenceConfig(activation_scale=3.0),
    segmentation=SegmentationConfig(threshold=0.5, min_size=4, method="components_watershed"),
    system=SystemConfig(device="cpu", precision="fp32", threads=1),
)


@pytest.fixture(autouse=True)
def workplace(tmp_path, monkeypatch):
    """Two stores whose arrays have the same names, a.zarr and b.zarr."""
    monkeypatch.chdir(tmp_path)
    for seed, store in enumerate("ab"):
        made = make_neurites(SHAPE, seed)
        for name, array in (("raw", made.image), ("labels", made.labels)):
            path = f"{store}.zarr/{name}"
            with create_volume(path, SHAPE, array.dtype, voxel_size=(10, 10, 10)) as volume:
                volume[...] = array
    return tmp_path


def volume(store, **fields):
    return VolumeConfig(image=f"{store}.zarr/raw", labels=f"{store}.zarr/labels", **fields)


def make_run(config=TINY, files=("best", "last"), seed=0):
    """A run as train.py leaves it, with weights as they are initialised."""
    torch.manual_seed(seed)
    run = Path("runs") / config.name
    state = {"format": FORMAT, "config": asdict(config), "step": 3, "average": None}
    state["model"] = build_model(config.model).state_dict()
    (run / "checkpoints").mkdir(parents=True)
    for name in files:
        save_checkpoint(run / "checkpoints" / f"{name}.pt", state)
    (run / "config.json").write_text(json.dumps(asdict(config)))
    return run


def with_volumes(*volumes, **changes):
    return replace(TINY, data=replace(TINY.data, val=volumes), **changes)


def settings(run, **fields):
    """The arguments of infer.py, without the command line."""
    return InferConfig(
        run=str(run),
        inference=fields.pop("inference", TINY.inference),
        segmentation=TINY.segmentation,
        system=TINY.system,
        **fields,
    )


def said(function, *arguments):
    heard = io.StringIO()
    with redirect_stdout(heard):
        function(*arguments)
    return heard.getvalue()


@pytest.mark.parametrize(
    "path, name",
    [
        ("data/a.zarr/raw", "a_raw"),
        ("a.zarr:volumes/raw", "a_volumes_raw"),
        ("/somewhere/f.h5:x", "f_x"),
        ("f.h5", "f"),
        ("cube.n5/s0", "cube_s0"),
        ("runs/old/stack.tif", "stack"),
        ("slices/", "slices"),
        ("precomputed/10_10_30", "10_10_30"),
        ("a b/c(1).npy", "c_1"),
        ("../..", "volume"),
    ],
)
def test_names_come_from_the_whole_path(path, name):
    assert image_name(path) == name


def test_equal_names_are_numbered():
    images = ("a.zarr/raw", "b.zarr/raw", "c/a.zarr/raw", "a_raw-2.tif", "a.zarr:raw")
    configs = [VolumeConfig(image=image) for image in images]
    configs.append(VolumeConfig(image="other.tif", name="b_raw"))
    assert volume_names(configs) == [
        "a_raw", "b_raw", "a_raw-2", "a_raw-2-2", "a_raw-3", "b_raw-2",
    ]  # fmt: skip


def test_results_of_another_image_are_never_replaced():
    run = make_run(with_volumes(volume("a"), volume("b")))
    assert infer(settings(run)) == [run / "predictions/a_raw", run / "predictions/b_raw"]
    Path("c").mkdir()
    Path("b.zarr").rename("c/a.zarr")
    first = open_volume(run / "predictions/a_raw/affinities.zarr")[...]
    for _ in range(2):  # and the second time in the same folder
        folders = infer(settings(run, input="c/a.zarr/raw"))
        assert folders == [run / "predictions/a_raw-2"]
    assert np.array_equal(open_volume(run / "predictions/a_raw/affinities.zarr")[...], first)
    assert read_source(folders[0])["image"] == "c/a.zarr/raw"
    infer(settings(run, input="a.zarr/raw", output="mine"))
    with pytest.raises(ValueError, match="with those of c/a.zarr/raw, got 'mine, which holds"):
        infer(settings(run, input="c/a.zarr/raw", output="mine"))
    infer(settings(run, input="a.zarr/raw", output="mine"))


def test_without_a_name_the_newest_run_predicts():
    make_run(with_volumes(volume("a"), name="older"))
    run = make_run(with_volumes(volume("a")))
    unnamed = replace(settings(run), run=None)
    assert infer(unnamed) == [run / "predictions/a_raw"]
    assert "--run runs/tiny" in said(infer, unnamed)


def test_a_prediction_that_is_finished_or_begun_is_said_to_be():
    run = make_run(with_volumes(volume("a")))
    inference = replace(TINY.inference, block=(8, 32, 32))
    first = said(infer, settings(run, inference=inference))
    assert "already predicted" not in first and "segmenting 16 x 32 x 32 voxels" in first
    # one line for the whole volume, at its end; not one for each of its two blocks
    assert len(re.findall(r"predicting \d+/\d+ windows", first)) == 1
    assert "next: python evaluate.py --run runs/tiny --sweep" in first
    assert "already predicted" in said(infer, settings(run, inference=inference))
    manifest = manifest_of(run / "predictions/a_raw/affinities.zarr")
    (of_first_block,) = manifest.folder.glob("*/*/000.npz")
    of_first_block.unlink()
    assert manifest.finished() == {1}
    again = said(infer, settings(run, inference=inference))
    assert "1 of 2 blocks are done, going on" in again
    assert manifest.finished() == {0, 1}


def test_what_cannot_be_segmented_is_refused_before_it_is_predicted(monkeypatch):
    target = TargetConfig(offsets=((0, 1, 0), (0, 0, 1)))
    model = replace(TINY.model, out_channels=2)
    flat = with_volumes(volume("a"), name="flat", target=target, model=model)
    with pytest.raises(ValueError, match=r"without \[\(1, 0, 0\)\]"):
        infer(settings(make_run(flat)))
    run = make_run(with_volumes(volume("a")))
    with monkeypatch.context() as patched:
        patched.setattr("pytc.segmentation.blockwise.memory", lambda: (1, 1))
        with pytest.raises(
            ValueError, match=r"agglomeration or components, got .* voxels for components_watershed"
        ):
            infer(settings(run))
    Path("file").write_text("")
    with pytest.raises(ValueError, match="expected a folder at file/results, but file is a file"):
        infer(settings(run, input="a.zarr/raw", output="file/results"))
    assert not list(Path("runs").glob("*/predictions/*/affinities.zarr"))


@pytest.mark.parametrize("kind", ["binary", "boundary"])
def test_masks_and_boundaries_go_all_the_way(kind):
    model = replace(TINY.model, out_channels=1)
    config = with_volumes(
        volume("a"), name=kind, target=TargetConfig(kind=kind, offsets=()), model=model
    )
    run = make_run(config)
    heard = said(infer, settings(run))
    folder = run / "predictions/a_raw"
    assert {path.name for path in folder.iterdir()} == {
        "probabilities.zarr",
        "segmentation.zarr",
        "source.json",
    }
    probability = open_volume(folder / "probabilities.zarr")[0]
    mask = open_volume(folder / "segmentation.zarr")[...]
    assert np.array_equal(mask, is_above(probability, 0.5))
    assert "next: python evaluate.py" in heard
    (metrics,) = evaluate(EvaluateConfig(sweep=True)).values()
    assert metrics["target"] == kind and metrics["metric"] == "jaccard"
    labels = open_volume("a.zarr/labels")[...]
    true = labels > 0
    if kind == "boundary":
        padded = np.pad(labels, 1, mode="edge")
        true = np.zeros(labels.shape, bool)
        for axis in range(3):
            for shift in (-1, 1):
                neighbour = np.roll(padded, shift, axis)[1:-1, 1:-1, 1:-1]
                true |= neighbour != labels
    best = open_volume(run / "evaluation/a_raw/best_segmentation.zarr")[...] > 0
    jaccard = np.count_nonzero(best & true) / np.count_nonzero(best | true)
    assert metrics["jaccard"] == pytest.approx(jaccard)


def test_the_line_that_makes_the_best_segmentation():
    """What evaluate.py prints is typed, and gives best_segmentation.zarr, voxel by voxel."""
    run = make_run(with_volumes(volume("a")))
    cli.infer(["--inference.flips", "--input", "a.zarr/raw", "--labels", "a.zarr/labels"])
    before = (run / "predictions/a_raw/affinities.zarr/blocks.json").read_text()
    for options in (
        [],
        ["--min-size", "0", "--method", "components"],
        ["--min-size", "4", "--method", "agglomeration", "--sweep"],
    ):
        heard = said(cli.evaluate, ["--thresholds", "0.41:0.61:0.02", *options])
        best = run / "evaluation/a_raw/best_segmentation.zarr"
        assert f"best segmentation: {best}" in heard
        (line,) = re.findall(r"infer.py makes it by: (python infer.py .*)", heard)
        threshold = open_volume(best).attributes["threshold"]
        (typed,) = re.findall(r"--segmentation.threshold (\S+)", line)
        assert float(typed) == pytest.approx(threshold, abs=1e-3)
        cli.infer(shlex.split(line)[2:])
        made = open_volume(run / "predictions/a_raw/segmentation.zarr")
        assert np.array_equal(made[...], open_volume(best)[...])
    # nothing is predicted anew for it
    assert (run / "predictions/a_raw/affinities.zarr/blocks.json").read_text() == before


def test_every_volume_is_scored_and_summarised():
    run = make_run(with_volumes(volume("a"), volume("b"), VolumeConfig(image="a.zarr/labels")))
    infer(settings(run))
    heard = io.StringIO()
    with redirect_stdout(heard):
        scored = evaluate(EvaluateConfig())
    assert list(scored) == ["a_raw", "b_raw"]
    assert "a_labels: not scored, as no skeleton or labels were named" in heard.getvalue()
    for name, metrics in scored.items():
        stored = json.loads((run / "evaluation" / name / "metrics.json").read_text())
        assert stored == metrics
    card = read_card(run)
    assert [row["volume"] for row in card["scores"]] == [scored[name]["image"] for name in scored]
    source = read_source(run / "predictions" / "a_raw")
    assert source["weights"] == {"step": card["step"], "sha256": scored["a_raw"]["weights"]}
    summary = json.loads((run / "evaluation/summary.json").read_text())
    mean = sum(metrics["dense_voi_sum"] for metrics in scored.values()) / 2
    assert summary["mean"]["dense_voi_sum"] == pytest.approx(mean)
    assert f"mean{mean:.3f}" in re.sub(r"[^\w.]", "", heard.getvalue())
    alone = evaluate(EvaluateConfig(volume="b_raw"))
    assert alone == {"b_raw": scored["b_raw"]}
    swept = evaluate(EvaluateConfig(sweep=True))
    assert swept["a_raw"]["threshold"] == swept["b_raw"]["threshold"]
    left_out = json.loads((run / "evaluation/summary.json").read_text())["leave_one_out"]
    assert left_out["a_raw"]["others_threshold"] == left_out["b_raw"]["best_threshold"]
    mean = sum(of_volume["dense_voi_sum"] for of_volume in swept.values())
    for threshold in (left_out[name]["best_threshold"] for name in left_out):
        each = evaluate(EvaluateConfig(thresholds=(threshold,)))
        assert mean <= sum(scores["dense_voi_sum"] for scores in each.values()) + 1e-9
    below = evaluate(EvaluateConfig(run="tiny", output="scores", thresholds=(0.5, 0.6)))
    assert {name: metrics["output"] for name, metrics in below.items()} == {
        "a_raw": "scores/a_raw",
        "b_raw": "scores/b_raw",
    }
    for change, message in (
        ({"volume": "c_raw"}, "a_labels or a_raw or b_raw, got 'c_raw'"),
        ({"labels": "a.zarr/labels"}, "--volume with --labels, as runs/tiny has several"),
        ({"require": 0.0, "metric": "dense_voi_sum"}, "dense_voi_sum of a_raw of at most 0"),
        ({"run": "tinny"}, "did you mean 'tiny'"),
    ):
        with pytest.raises(ValueError, match=message):
            evaluate(EvaluateConfig(**change))


def test_several_thresholds_are_a_sweep():
    run = make_run(with_volumes(volume("a")))
    infer(settings(run))
    affinities = str(run / "predictions/a_raw/affinities.zarr")
    for named in ({}, {"affinities": affinities, "output": "named"}):
        (metrics,) = evaluate(EvaluateConfig(thresholds=(0.45, 0.5), **named)).values()
        rows = Path(metrics["output"], "sweep.csv").read_text().splitlines()[1:]
        assert [float(row.split(",")[0]) for row in rows] == [0.45, 0.5]


def test_an_earlier_sweep_of_another_prediction_is_recognised():
    run = make_run(with_volumes(volume("a")))
    infer(settings(run))
    evaluate(EvaluateConfig(sweep=True))
    assert "of an earlier prediction" not in said(evaluate, EvaluateConfig())
    infer(settings(run, inference=replace(TINY.inference, overlap=0.25)))
    heard = said(evaluate, EvaluateConfig())
    assert "it is of an earlier prediction; --sweep makes it anew" in heard


def test_results_without_a_target_ask_for_a_new_prediction():
    run = make_run(with_volumes(volume("a")))
    infer(settings(run))
    source = run / "predictions/a_raw/source.json"
    content = json.loads(source.read_text())
    content["task"] = content.pop("target")
    source.write_text(json.dumps(content))
    with pytest.raises(ValueError, match="infer.py of this release writes it anew"):
        evaluate(EvaluateConfig())


def test_weights_serve_by_every_name(monkeypatch):
    run = make_run(with_volumes(volume("a")))
    last = run / "checkpoints/last.pt"
    assert export(Path("tiny"), Path("out.safetensors")) == run / "checkpoints/best.pt"
    names = ("tiny", str(run), str(last), "out.safetensors")
    homes = (run, run, run, Path("runs/out"))
    predicted = []
    for name, home in zip(names, homes):
        cli.infer(["--run", name])
        assert find_run(name).resolve() == home.resolve()
        predicted.append(open_volume(home / "predictions/a_raw/affinities.zarr")[...])
        assert evaluate(EvaluateConfig(run=name))["a_raw"]["dense_voi_sum"] > 0
        model = build_model(TINY.model)
        initialise(model, replace(TINY.model, pretrained=name))
        for key, tensor in torch.load(last, weights_only=True)["model"].items():
            assert torch.equal(model.state_dict()[key], tensor)
    assert all(np.array_equal(predicted[0], other) for other in predicted[1:])
    with pytest.raises(ValueError, match="a run, or a file of weights, got 'tinny'; did you mean"):
        find_weights("tinny")


def test_without_a_best_checkpoint_the_last_is_taken(capsys):
    run = make_run(with_volumes(volume("a")), files=("last",))
    assert export(run, Path("out.safetensors")) == run / "checkpoints/last.pt"
    assert "no best.pt in runs/tiny/checkpoints" in capsys.readouterr().out
    infer(settings(run))
    assert "taking last.pt" in capsys.readouterr().out
    with pytest.raises(ValueError, match="a checkpoint runs/empty/checkpoints/best.pt"):
        find_weights(make_run(replace(TINY, name="empty"), files=()))


@pytest.mark.parametrize("columns", ["40", "80", "200"])
def test_tables_are_never_cut(monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", columns)
    run = make_run(with_volumes(volume("a")))
    infer(settings(run))
    heard = said(evaluate, EvaluateConfig(sweep=True, metric="dense_rand_merge"))
    heads = "threshold │ Rand merge │ dense VOI │ Rand error".replace("│", "┃")
    assert "…" not in heard and "..." not in heard and heads in heard
    assert "Rand error  adapted Rand error over labelled voxels" in heard
    rows = [["precision", "bf16", "the machine has instructions for it " * 4]]
    table = said(lambda: print_table(["", "this machine", "because"], rows, prose=(2,)))
    assert "…" not in table and table.count("instructions") == 4 and "precision" in table


def test_validate_takes_names_and_files():
    validation = replace(TINY.loop, monitor="val/dense_voi_sum")
    run = make_run(with_volumes(volume("a"), loop=validation), files=("last",))
    export(run / "checkpoints/last.pt", Path("out.safetensors"))
    heard = said(validate, ValidateConfig(run="tiny", device="cpu"))
    assert "runs/tiny: scoring step 3" in heard and (run / "checkpoints/best.pt").is_file()
    (scored,) = (run / "validation.jsonl").read_text().splitlines()
    validate(ValidateConfig(run="out.safetensors", device="cpu"))
    (again,) = Path("runs/out/validation.jsonl").read_text().splitlines()
    assert json.loads(again)["val/dense_voi_sum"] == json.loads(scored)["val/dense_voi_sum"]
    assert not Path("runs/out/checkpoints").exists()
    with pytest.raises(ValueError, match="a run with --watch, got 'the file out.safetensors'"):
        validate(ValidateConfig(run="out.safetensors", watch=True))


def test_the_truth_of_volumes_is_opened_before_the_first_step():
    score = replace(TINY.loop, volumes_every=1)
    data = with_volumes(volume("a", skeleton="nothing.pkl"), loop=score)
    with pytest.raises((ValueError, FileNotFoundError), match="nothing.pkl"):
        scored_volumes(data)
    flat = TargetConfig(offsets=((0, 1, 0), (0, 0, 1)))
    model = replace(TINY.model, out_channels=2)
    with pytest.raises(ValueError, match=r"without \[\(1, 0, 0\)\]"):
        scored_volumes(with_volumes(volume("a"), target=flat, model=model, loop=score))
    assert list(scored_volumes(with_volumes(volume("a"), volume("b")))) == ["a_raw", "b_raw"]
