"""A user's own volumes through training, inference and evaluation: what is validated, what is said,
and grey values and axes that differ from those of the training.
"""

import json
from dataclasses import replace

import numpy as np
import pytest

from pytc.commands import EvaluateConfig, InferConfig
from pytc.config import (
    Config,
    DataConfig,
    LoopConfig,
    ModelConfig,
    SystemConfig,
    TargetConfig,
    VolumeConfig,
)
from pytc.evaluate import evaluate
from pytc.inference.pipeline import infer
from pytc.io.skeleton import save_skeleton
from pytc.io.synthetic import make_neurites
from pytc.io.volume import create_volume, open_volume
from pytc.models.checkpoint import export, load_checkpoint
from pytc.training.loop import train

MADE = make_neurites((32, 40, 48), 3, voxel_size=(10, 10, 10))
SYSTEM = SystemConfig(device="cpu", precision="fp32", threads=1, workers=0)


def write(path, array, axes="zyx", voxel_size=(10, 10, 10)):
    more = {"axes": axes, "voxel_size": voxel_size, "overwrite": True}
    with create_volume(path, array.shape, array.dtype, **more) as volume:
        volume[...] = array
    return str(path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("own")
    write(folder / "image.zarr", MADE.image)
    write(folder / "labels.zarr", MADE.labels)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        yield folder


def tiny(name, **data):
    return Config(
        name=name,
        data=DataConfig(
            train=(VolumeConfig("image.zarr", "labels.zarr"),),
            patch_size=(16, 32, 32),
            val_samples=1,
            **data,
        ),
        target=TargetConfig(offsets=((1, 0, 0), (0, 1, 0), (0, 0, 1))),
        model=ModelConfig(architecture="unet", features=(4, 8), out_channels=3),
        loop=LoopConfig(max_steps=4, batch_size=1, val_every=2, checkpoint_every=2, log_every=1),
        system=SYSTEM,
    )


@pytest.fixture(scope="module")
def run(folder):
    return train(tiny("own"))


def predicted(run, path, **more):
    infer(InferConfig(run=str(run), input=str(path), system=SYSTEM, **more))
    return open_volume(f"{more['output']}/affinities.zarr")


def test_own_training_data_are_not_validated_on_anything_else(folder, run):
    assert tiny("own").data.validation == ()
    assert not (folder / "data").exists()  # where synthetic volumes would be
    rows = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    assert rows and not any("val/loss" in row for row in rows)
    best, last = (load_checkpoint(run / "checkpoints" / f"{name}.pt") for name in ("best", "last"))
    assert best["step"] == last["step"] == 4


def test_synthetic_training_data_are_validated_on_synthetic_ones():
    named = VolumeConfig("v.zarr")
    assert DataConfig().validation == (VolumeConfig(image="synthetic:1"),)
    assert DataConfig(val=(named,)).validation == (named,)
    assert DataConfig(train=(VolumeConfig(), named)).validation == ()


def test_without_a_validation_volume_infer_says_what_to_name(run):
    with pytest.raises(ValueError, match="by --input IMAGE, as this run has no validation volume"):
        infer(InferConfig(run=str(run), system=SYSTEM))


def test_what_is_read_is_said(run, folder, capsys):
    train(replace(tiny("said"), loop=replace(tiny("said").loop, max_steps=1)))
    said = capsys.readouterr().out
    assert "training volume image: image.zarr, zyx 32 x 40 x 48, uint8, grey 0 to 255, " in said
    predicted(run, "image.zarr", output="results/said")
    assert "input image: image.zarr, zyx 32 x 40 x 48, uint8" in capsys.readouterr().out


def test_grey_values_of_any_range_are_predicted_alike(run, folder, capsys):
    as_uint8 = predicted(run, "image.zarr", output="results/uint8")
    deep = write(folder / "deep.zarr", MADE.image.astype(np.uint16) * 16)
    as_uint16 = predicted(run, deep, output="results/uint16", intensity=(0, 4080))
    np.testing.assert_allclose(as_uint16[...], as_uint8[...], atol=2e-3)
    assert as_uint16.attributes["intensity"] == [0, 4080]
    source = json.loads((folder / "results/uint16/source.json").read_text())
    assert source["intensity"] == [0, 4080]
    assert "warning" not in capsys.readouterr().out
    before = as_uint16[...]
    # another range is another prediction, not the one that is there
    again = predicted(run, deep, output="results/uint16", intensity=(0, 8160))
    assert (again[...] != before).any()


def test_inverted_grey_values_are_called_out(run, folder, capsys):
    inverted = write(folder / "inverted.zarr", 255 - MADE.image)
    predicted(run, inverted, output="results/inverted")
    assert "warning: the grey values of" in capsys.readouterr().out


def test_an_export_knows_the_training_volumes(run, folder):
    export(run, folder / "own.safetensors")
    kept = load_checkpoint(folder / "own.safetensors")["volumes"]
    assert kept == json.loads(json.dumps(load_checkpoint(run / "checkpoints/last.pt")["volumes"]))
    assert kept[0]["axes"] == "zyx" and kept[0]["grey_range"] == [0, 255]


def test_a_transposed_input_is_predicted_and_scored_as_if_it_were_stored_so(run, folder):
    """The image, labels and skeletons of a volume stored x first."""
    save_skeleton(folder / "zyx.npz", MADE.skeleton)
    save_skeleton(folder / "xyz.npz", MADE.skeleton.transposed("zyx", "xyz"))
    turned = {"axes": "xyz", "voxel_size": (10, 10, 10)}
    image = write(folder / "xyz.zarr", np.ascontiguousarray(MADE.image.T), **turned)
    labels = write(folder / "xyz_labels.zarr", np.ascontiguousarray(MADE.labels.T), **turned)
    with pytest.raises(ValueError, match="got 'xyz'; --transpose reads them in this order"):
        predicted(run, image, output="results/xyz")
    plain = predicted(
        run, "image.zarr", labels="labels.zarr", skeleton="zyx.npz", output="results/zyx"
    )
    other = predicted(
        run, image, labels=labels, skeleton="xyz.npz", transpose=True, output="results/xyz"
    )
    assert (other.axes, other.shape) == ("czyx", plain.shape)
    np.testing.assert_array_equal(other[...], plain[...])
    metrics = [
        evaluate(
            EvaluateConfig(
                affinities=f"results/{name}/affinities.zarr",
                sweep=True,
                output=f"results/{name}/scores",
            )
        )
        for name in ("zyx", "xyz")
    ]
    numbers = [
        {name: value for name, value in of_one.items() if isinstance(value, int | float)}
        for of_volumes in metrics
        for of_one in of_volumes.values()
    ]
    assert numbers[0] == numbers[1] and {"nerl", "dense_voi_sum"} <= set(numbers[0])
