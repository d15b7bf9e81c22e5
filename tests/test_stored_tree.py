"""What agglomeration made of a prediction is stored beside it, read again, and never stale."""

from dataclasses import replace

import numpy as np
import pytest
from tiny_runs import tiny

from pytc.commands import EvaluateConfig, InferConfig
from pytc.config import SegmentationConfig
from pytc.evaluate import evaluate
from pytc.inference.pipeline import infer
from pytc.io.volume import open_volume
from pytc.segmentation.decode import decode

SEGMENTATION = SegmentationConfig(
    0.4, method="agglomeration", fragment_threshold=0.52, fragment_min_size=4
)
IS_READ = "are of this prediction, and are read"


@pytest.fixture
def predicted(finished):
    """The folder of results of a tiny run, and the config by which infer.py made them."""
    config = InferConfig(run=str(finished), system=tiny().system, segmentation=SEGMENTATION)
    (folder,) = infer(config)
    return folder, config


def test_a_decode_a_sweep_and_a_second_decode_read_one_tree(predicted, capsys):
    folder, config = predicted
    affinities = open_volume(folder / "affinities.zarr")
    fresh = decode(affinities[...], affinities.offsets, SEGMENTATION, affinities.voxel_size)
    np.testing.assert_array_equal(open_volume(folder / "segmentation.zarr")[...], fresh)
    assert open_volume(folder / "fragments.zarr").attributes["fragment_threshold"] == 0.52
    capsys.readouterr()

    run = EvaluateConfig(run=config.run, sweep=True)
    (scores,) = evaluate(run).values()
    output = capsys.readouterr().out
    assert IS_READ in output and "of the best" in output
    best = replace(SEGMENTATION, threshold=scores["threshold"])
    expected = decode(affinities[...], affinities.offsets, best, affinities.voxel_size)
    stored = open_volume(folder.parents[1] / "evaluation" / folder.name / "best_segmentation.zarr")
    np.testing.assert_array_equal(stored[...], expected)

    infer(replace(config, segmentation=best))
    assert IS_READ in capsys.readouterr().out
    np.testing.assert_array_equal(open_volume(folder / "segmentation.zarr")[...], expected)
    (again,) = evaluate(EvaluateConfig(run=config.run)).values()
    assert again["dense_voi_sum"] == pytest.approx(scores["dense_voi_sum"], abs=1e-12)


def test_no_threshold_is_better_than_the_best_of_a_sweep(predicted):
    _, config = predicted
    (swept,) = evaluate(EvaluateConfig(run=config.run, sweep=True, metric="dense_voi_sum")).values()
    thresholds = tuple(np.linspace(0, 1, 41).tolist())
    run = EvaluateConfig(run=config.run, thresholds=thresholds, metric="dense_voi_sum")
    (of_many,) = evaluate(run).values()
    assert swept["dense_voi_sum"] <= of_many["dense_voi_sum"] + 1e-9


def test_other_settings_make_another_tree(predicted, capsys):
    folder, config = predicted
    before = open_volume(folder / "fragments.zarr").attributes["key"]
    other = replace(SEGMENTATION, fragment_min_size=9)
    capsys.readouterr()
    infer(replace(config, segmentation=other))
    assert IS_READ not in capsys.readouterr().out
    assert open_volume(folder / "fragments.zarr").attributes["key"] != before


def test_fragments_without_their_merges_are_made_again(predicted, capsys):
    folder, config = predicted
    (folder / "merges.npz").unlink()
    capsys.readouterr()
    infer(config)
    assert IS_READ not in capsys.readouterr().out and (folder / "merges.npz").is_file()
    (folder / "merges.npz").write_bytes(b"torn")
    with pytest.raises(ValueError, match=r"expected a merge tree in .*merges\.npz"):
        infer(config)
