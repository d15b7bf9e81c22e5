"""Weights from elsewhere: formats, names, heads, UpKern; export."""

import json
import pickle
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from reference_models import fill_parameters, make_image, summarise
from safetensors.torch import save_file

from pytc.checks import from_plain
from pytc.config import Config, ModelConfig
from pytc.main import main
from pytc.models import build_model
from pytc.models.checkpoint import FORMAT, export, load_checkpoint, load_model, weights_digest
from pytc.models.weights import initialise, resample_kernel

GOLDEN = json.loads((Path(__file__).parent / "golden" / "mednext.json").read_text())
SMALL = ModelConfig("mednext_custom", base_channels=2, expansion=(1,) * 9, block_counts=(1,) * 9)


@pytest.fixture
def trained():
    model = build_model(SMALL)
    fill_parameters(model)
    return {name: tensor.contiguous() for name, tensor in model.state_dict().items()}


def pytc_checkpoint(weights, average):
    config = Config(model=SMALL)
    return {
        "format": FORMAT,
        "config": asdict(config),
        "step": 7,
        "model": weights,
        "average": average,
    }


def noise(weights):
    return {name: torch.randn_like(tensor) for name, tensor in weights.items()}


def prefixed(weights, prefix):
    return {prefix + name: tensor for name, tensor in weights.items()}


LAYOUTS = {
    "pytc": lambda w: pytc_checkpoint(w, None),
    "pytc, averaged": lambda w: pytc_checkpoint(noise(w), w),
    "state dict": lambda w: w,
    "official MedNeXt": lambda w: {
        "state_dict": w | {"dummy_tensor": torch.ones(1)},
        "epoch": 3,
        "best_stuff": (np.float64(0.5), np.float32(1)),
    },
    "nnU-Net": lambda w: {
        "network_weights": prefixed(w, "module."),
        "logging": {"ema": [np.float64(0.25)]},
    },
    "Lightning": lambda w: {
        "state_dict": prefixed(w, "model.") | {"loss.pos_weight": torch.ones(6)},
        "epoch": 2,
    },
    "Lightning, compiled": lambda w: {"state_dict": prefixed(w, "model._orig_mod.")},
    "Lightning, of DDP": lambda w: {"state_dict": prefixed(w, "net.module.")},
    "half precision": lambda w: {name: tensor.half().float().half() for name, tensor in w.items()},
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_is_read(layout, trained, tmp_path):
    torch.save(LAYOUTS[layout](trained), tmp_path / "weights.pt")
    config = replace(SMALL, pretrained=str(tmp_path / "weights.pt"))
    model = build_model(config)
    report = initialise(model, config)
    assert set(report.matched) == set(trained) and not report.missing and not report.resampled
    assert report.skipped == (["loss.pos_weight"] if layout == "Lightning" else [])
    tolerance = (
        {"atol": 1e-3, "rtol": 1e-3} if layout == "half precision" else {"atol": 0, "rtol": 0}
    )
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(tensor, trained[name], **tolerance)
    assert next(p for p in model.parameters() if p.ndim == 5 and p.shape[-1] > 1).is_contiguous(
        memory_format=torch.channels_last_3d
    )


def test_safetensors_are_read(trained, tmp_path):
    save_file(trained, tmp_path / "weights.safetensors")
    config = replace(SMALL, pretrained=str(tmp_path / "weights.safetensors"))
    model = build_model(config)
    initialise(model, config)
    assert all(torch.equal(tensor, trained[name]) for name, tensor in model.state_dict().items())


def test_without_a_file_nothing_happens():
    assert initialise(build_model(SMALL), SMALL) is None


def test_what_is_on_one_side_alone_is_named(trained, tmp_path):
    torch.save(trained | {"extra.weight": torch.ones(2)}, tmp_path / "weights.pt")
    config = replace(SMALL, pretrained=str(tmp_path / "weights.pt"), deep_supervision=True)
    model = build_model(config)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    report = initialise(model, config)
    heads = {f"out_{i}.conv_out.{kind}" for i in range(1, 5) for kind in ("weight", "bias")}
    assert set(report.missing) == heads and report.skipped == ["extra.weight"]
    assert all(torch.equal(model.state_dict()[name], before[name]) for name in heads)
    said = str(report)
    assert f"{len(trained)} tensors fit" in said and "not in this network: extra.weight" in said
    assert "not in the file: out_4.conv_out.weight" in said or "out_1.conv_out.weight" in said


@pytest.mark.parametrize("architecture", ("mednext_custom", "unet", "nnunet", "monai_basic_unet3d"))
def test_a_head_of_other_channels_is_started_anew_on_request(architecture, tmp_path):
    config = replace(
        SMALL, architecture=architecture, image_size=(16, 16, 16), features=(2, 2, 2, 2, 2)
    )
    source = build_model(config)
    torch.save(source.state_dict(), tmp_path / "weights.pt")
    config = replace(config, out_channels=3, pretrained=str(tmp_path / "weights.pt"))
    model = build_model(config)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(
        ValueError, match=r"(?s)--model.reset-head.*\(6.*in the file, \(.*3.*in the network"
    ):
        initialise(model, config)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    report = initialise(model, replace(config, reset_head=True))
    assert report.reset and len(report.reset) + len(report.matched) == len(before)
    for name, tensor in model.state_dict().items():
        assert torch.equal(
            tensor, before[name] if name in report.reset else source.state_dict()[name]
        )


def test_resetting_heads_forgives_nothing_else(trained, tmp_path):
    torch.save(trained, tmp_path / "weights.pt")
    config = replace(SMALL, in_channels=2, pretrained=str(tmp_path / "weights.pt"), reset_head=True)
    with pytest.raises(
        ValueError, match=r"stem.weight, \(2, 1, 1, 1, 1\) in the file, \(2, 2, 1, 1, 1\)"
    ):
        initialise(build_model(config), config)


class Trap:
    def __reduce__(self):
        return open, ("trapped", "w")


def test_files_without_fitting_weights_are_refused(trained, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"a": torch.ones(1)}, "other.pt")
    torch.save({"epoch": 3}, "empty.pt")
    Path("broken.pt").write_bytes(b"no checkpoint")
    Path("trap.pt").write_bytes(pickle.dumps({"state_dict": Trap()}, protocol=2))
    torch.save(prefixed(trained, "model.") | prefixed(trained, "net."), "double.pt")
    for name, message in {
        "other.pt": "that fit mednext_custom",
        "empty.pt": "found none",
        "broken.pt": "readable",
        "trap.pt": "readable",
        "none.pt": "a file of weights, got",
        "double.pt": "got two for",
    }.items():
        config = replace(SMALL, pretrained=name)
        with pytest.raises(ValueError, match=message):
            initialise(build_model(config), config)
    assert not Path("trapped").exists()
    with pytest.raises(ValueError, match="pretrained or upkern, not both"):
        replace(SMALL, pretrained="a", upkern="b")


@pytest.mark.parametrize("case", [case for case in GOLDEN if case.startswith("upkern")])
def test_upkern_equals_the_official_one(case, tmp_path):
    golden = GOLDEN[case]
    small = from_plain(ModelConfig, golden["config"])
    start = build_model(small)
    fill_parameters(start)
    torch.save(start.state_dict(), tmp_path / "small.pt")
    config = replace(small, kernel_size=golden["kernel_size"], upkern=str(tmp_path / "small.pt"))
    model = build_model(config)
    report = initialise(model, config)
    assert set(report.resampled) == {
        name for name, _ in model.named_parameters() if name.endswith("conv1.weight")
    }
    with torch.no_grad():
        summary = summarise(model(make_image((1, 1, 32, 16, 48))))
    expected = golden["outputs"][0]
    assert summary.pop("shape") == expected["shape"]
    for name, value in summary.items():
        assert value == pytest.approx(expected[name], rel=1e-4, abs=1e-4 * expected["std"])
    with pytest.raises(ValueError, match="kernels of another size"):
        initialise(build_model(small), replace(small, upkern=str(tmp_path / "small.pt")))
    with pytest.raises(ValueError, match="a MedNeXt for upkern"):
        replace(config, architecture="unet")


@pytest.mark.parametrize(
    "old, new",
    [((3, 3, 3), (5, 5, 5)), ((3, 3, 3), (7, 7, 7)), ((1, 3, 3), (1, 5, 5)), ((3, 3), (5, 5))],
)
def test_kernels_are_stretched_axis_by_axis(old, new):
    kernel = make_image((2, 1, *old))
    stretched = kernel.numpy().astype(np.float64)
    for axis, (n, m) in enumerate(zip(old, new), start=2):
        centres = (np.arange(m) + 0.5) * n / m - 0.5
        stretched = np.apply_along_axis(
            lambda line, at=centres: np.interp(at, range(len(line)), line), axis, stretched
        )
    np.testing.assert_allclose(resample_kernel(kernel, new).numpy(), stretched, atol=1e-5)


@pytest.fixture
def checkpoint(trained, tmp_path):
    folder = tmp_path / "run" / "checkpoints"
    folder.mkdir(parents=True)
    torch.save(pytc_checkpoint(noise(trained), trained), folder / "best.pt")
    (folder.parent / "config.json").write_text(json.dumps(asdict(Config(model=SMALL))))
    return folder / "best.pt"


@pytest.mark.parametrize("from_run", (False, True))
def test_an_exported_network_loads_back_equal(from_run, checkpoint, trained, tmp_path):
    target = tmp_path / "out.safetensors"
    assert export(checkpoint.parent.parent if from_run else checkpoint, target) == checkpoint
    (model, config, step), (again, *same) = load_model(checkpoint), load_model(target)
    assert same == [config, step] and config.model == SMALL and step == 7 and not again.training
    for name, tensor in again.state_dict().items():
        assert torch.equal(tensor, model.state_dict()[name]) and torch.equal(tensor, trained[name])
    started = replace(SMALL, pretrained=str(target))
    assert len(initialise(build_model(started), started).matched) == len(trained)


def test_the_card_travels_with_the_weights(checkpoint, trained, tmp_path, capsys):
    def show(*arguments):
        main(["models", "show", *map(str, arguments)])
        return capsys.readouterr().out

    run = checkpoint.parent.parent
    state = torch.load(checkpoint, weights_only=True)
    facts = {"image": "a.h5:raw", "axes": "zyx", "shape": (9, 9, 9), "voxel_size": (40.0, 4.0, 4.0)}
    state["volumes"] = [facts | {"grey_range": (0.0, 255.0), "n_labels": 3, "histogram": (1.0,)}]
    torch.save(state, checkpoint)
    (run / "environment.json").write_text(json.dumps({"pytc": "0.0.9"}))
    rows = [{"step": 6, "val/loss": 9.0}, {"step": 7, "val/nerl": 0.5, "val/threshold": 0.6}]
    (run / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for folder, name in (("predictions", "source"), ("evaluation", "metrics")):
        (run / folder / "b").mkdir(parents=True)
        content = {"image": "b.h5:raw", "metric": "nerl", "nerl": 0.75, "threshold": 0.7}
        content["weights"] = weights_digest(state)
        (run / folder / "b" / f"{name}.json").write_text(json.dumps(content))

    first, second = tmp_path / "first.safetensors", tmp_path / "second.safetensors"
    main(["models", "export", str(run), str(first), "--licence", "CC-BY-4.0"])
    main(["models", "export", str(first), str(second), "--citation", "Doe 2026"])
    capsys.readouterr()
    card = json.loads(show(second, "--json"))
    assert (card["licence"], card["citation"]) == ("CC-BY-4.0", "Doe 2026")
    assert (card["step"], card["trained_by"], card["parent"]) == (7, "0.0.9", None)
    assert card["volumes"] == [
        {"image": "a.h5:raw", "axes": "zyx", "shape": [9, 9, 9]}
        | {"voxel_size": [40, 4, 4], "grey_range": [0, 255], "n_labels": 3}
    ]
    training, evaluated = card["scores"]
    assert (training["scores"], training["settings"]) == ({"val/nerl": 0.5}, {"threshold": 0.6})
    assert (evaluated["scores"], evaluated["settings"]) == ({"nerl": 0.75}, {"threshold": 0.7})
    text = show(second)
    assert "a.h5:raw, zyx 9 x 9 x 9, voxels 40 x 4 x 4 nm, grey 0 to 255" in text
    assert "scores of b.h5:raw (threshold 0.7): nerl 0.75" in text
    assert json.loads(show(run, "--json"))["licence"] is None

    # scores of a prediction by other weights, or by some that it does not name
    for weights in (weights_digest(state | {"average": noise(trained)}), None):
        content["weights"] = weights
        (run / "evaluation/b/metrics.json").write_text(json.dumps(content))
        assert len(json.loads(show(run, "--json"))["scores"]) == 1

    checkpoint = checkpoint.rename(checkpoint.with_name("last.pt"))
    started = replace(SMALL, pretrained=str(second))
    report = initialise(build_model(started), started)
    assert report.card == card
    state["parent"] = {"weights": str(second), "card": report.card}
    torch.save(state, checkpoint)
    capsys.readouterr()
    assert json.loads(show(run, "--json"))["parent"]["card"] == card
    assert f"started from: {second}\n    {card['name']}: mednext_custom, 7 steps" in show(run)


def test_a_digest_names_the_weights_alone(checkpoint, trained, tmp_path):
    state = load_checkpoint(checkpoint)
    digest = weights_digest(state)
    later = state | {"step": 9, "model": noise(trained), "average": trained}
    assert weights_digest(later) == digest
    exported = export(checkpoint, tmp_path / "out.safetensors")
    assert weights_digest(load_checkpoint(exported)) == digest
    name = next(iter(trained))
    half = trained | {name: trained[name].to(torch.bfloat16)}
    renamed = {key + "_" * (key == name): tensor for key, tensor in trained.items()}
    others = [half, renamed, trained | {name: trained[name] + 1}]
    assert len({digest, *(weights_digest(state | {"average": each}) for each in others)}) == 4


def test_what_is_no_export_is_refused(checkpoint, trained, tmp_path):
    with pytest.raises(ValueError, match="ends in .safetensors"):
        export(checkpoint, tmp_path / "out.pt")
    with pytest.raises(ValueError, match="a file of weights, got"):
        export(tmp_path / "none.pt", tmp_path / "out.safetensors")
    save_file(trained, tmp_path / "foreign.safetensors")
    (tmp_path / "broken.safetensors").write_bytes(b"x" * 20)
    for name, message in {
        "foreign": "a pytc checkpoint",
        "broken": "readable",
        "none": "found no file",
    }.items():
        with pytest.raises(ValueError, match=message):
            load_model(tmp_path / f"{name}.safetensors")


def test_the_command_line(checkpoint, tmp_path, capsys):
    def run(*arguments):
        main(["models", *arguments])
        return capsys.readouterr().out

    target = str(tmp_path / "out.safetensors")
    assert f"exported: {checkpoint} -> {target}" in run("export", str(checkpoint), target)
    assert load_model(Path(target))[2] == 7
    assert "rsunet\nunet" in run("list")
    with pytest.raises(SystemExit, match="error: expected the folder or the name of a run"):
        run("export", str(tmp_path / "none"), target)


def test_help_of_the_command_line_loads_no_torch():
    code = (
        "import sys; from pytc.main import main\n"
        "try: main(['models', 'export', '--help'])\n"
        "except SystemExit: pass\n"
        "sys.exit('torch' in sys.modules)"
    )
    root = Path(__file__).parent.parent
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root)
    assert done.returncode == 0 and "a run or a checkpoint" in done.stdout, done.stderr
