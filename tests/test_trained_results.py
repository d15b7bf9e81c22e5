"""From a finished run to predictions and scores."""

from dataclasses import replace

from tiny_runs import (
    tiny,
)

from pytc.config import (
    TargetConfig,
    VolumeConfig,
)
from pytc.data.synthetic_volumes import prepare_volume
from pytc.io.volume import open_volume
from pytc.training.loop import train


def test_a_two_dimensional_semantic_run_from_training_to_scores(finished):
    """Slices of one voxel's thickness, a foreground mask, two volumes in turn.

    Inferred and scored as semantic.
    """
    from pytc.commands import EvaluateConfig, InferConfig
    from pytc.evaluate import evaluate
    from pytc.inference.pipeline import infer

    config = tiny(max_steps=2)
    volumes = (
        VolumeConfig(image="synthetic:0", weight=0.5),
        VolumeConfig(image="synthetic:1", weight=0.5),
    )
    config = replace(
        config,
        name="flat",
        data=replace(config.data, train=volumes, mixing="stratified", patch_size=(1, 48, 48)),
        target=TargetConfig(kind="binary"),
        model=replace(config.model, spatial_dims=2, out_channels=1),
    )
    run = train(config)
    (folder,) = infer(InferConfig(run=str(run), system=config.system))
    assert {path.name for path in folder.iterdir()} == {
        "probabilities.zarr",
        "segmentation.zarr",
        "source.json",
    }
    (scores,) = evaluate(EvaluateConfig(run=str(run), sweep=True)).values()
    assert scores["task"] == "semantic" and 0 <= scores["jaccard"] <= 1


def test_a_prediction_is_made_anew_when_the_image_has_changed(finished, capsys):
    """The folder's own date does not change when a chunk is rewritten.

    The prediction must not be a stale one.
    """
    from pytc.commands import InferConfig
    from pytc.inference.pipeline import infer

    source = open_volume(
        prepare_volume(tiny().data.validation[0], tiny().data.synthetic).image, writable=True
    )
    pixels = source[...]
    config = InferConfig(run=str(finished), system=tiny().system)
    (folder,) = infer(config)
    before = open_volume(folder / "affinities.zarr")[...]
    capsys.readouterr()
    infer(config)
    assert "predicting" not in capsys.readouterr().out  # nothing has changed
    source[...] = 255 - pixels
    infer(config)
    assert "predicting" in capsys.readouterr().out
    assert (open_volume(folder / "affinities.zarr")[...] != before).any()
    source[...] = pixels
