"""evaluate.py gives the same scores and files whether a volume fits into memory or not."""

import json
from dataclasses import replace

import numpy as np
import pytest
from three_bars import SHAPE, bars, score, store, store_bars

from pytc.commands import EvaluateConfig
from pytc.evaluation import inputs, truth
from pytc.io.volume import open_volume
from pytc.metrics import overlap
from pytc.segmentation import blockwise


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return store_bars(tmp_path_factory.mktemp("bars"))


@pytest.fixture
def beyond_memory(monkeypatch):
    """A switch: after it is called, nothing fits into memory."""

    def switch():
        for module in (inputs, blockwise):
            monkeypatch.setattr(module, "fits_in_memory", lambda *_: False)
        monkeypatch.setattr(blockwise, "BLOCK", (8, 8, 8))
        monkeypatch.setattr(overlap, "READ_AT_ONCE", 7)

    return switch


def both_ways(config, folder, beyond_memory):
    """The scores and the output folders, in memory and beyond it."""
    found = []
    for name in ("in_memory", "by_blocks"):
        output = folder / name
        found.append((score(replace(config, output=str(output))), output))
        beyond_memory()
    (expected, _), (metrics, _) = found
    for each in (expected, metrics):
        each.pop("output")
    assert metrics == expected
    (_, first), (_, second) = found
    assert {path.name for path in first.iterdir()} == {path.name for path in second.iterdir()}
    for table in first.glob("*.csv"):
        assert (second / table.name).read_text() == table.read_text()
    page = (first / "report.html").read_text().replace(str(first), str(second))
    assert (second / "report.html").read_text() == page
    return first, second


@pytest.mark.parametrize("method", ["components", "agglomeration"])
@pytest.mark.parametrize("masked", [False, True])
def test_a_sweep_of_objects(files, tmp_path, beyond_memory, method, masked):
    mask = np.ones(SHAPE, np.uint8)
    mask[:, :, :5] = 0
    config = replace(files, method=method, min_size=3)
    if masked:
        config = replace(config, mask=store(tmp_path / "mask.zarr", mask))
    first, second = both_ways(config, tmp_path, beyond_memory)
    name = "best_segmentation.zarr"
    one, other = open_volume(first / name), open_volume(second / name)
    np.testing.assert_array_equal(one[...], other[...])
    assert one.attributes == other.attributes and one.dtype == other.dtype


@pytest.mark.parametrize("target", ["binary", "boundary"])
def test_a_sweep_of_a_mask(files, tmp_path, beyond_memory, target):
    rng = np.random.default_rng(0)
    probability = np.where(bars() > 0, 0.7, 0.2) + rng.uniform(-0.2, 0.2, SHAPE)
    config = EvaluateConfig(
        probabilities=store(tmp_path / "p.zarr", probability[None].astype(np.float16), "czyx"),
        labels=files.labels,
        image=files.image,
        target=target,
        sweep=True,
    )
    both_ways(config, tmp_path, beyond_memory)


def test_boundaries_of_parts_are_those_of_the_whole(files):
    labels = open_volume(files.labels)
    whole = truth.ScoredLabels(labels, None, "boundaries", None)
    everything = whole[...]
    assert {0, 1} == set(np.unique(everything))
    for part in (
        (slice(3, 9), slice(2, 7), slice(0, 24)),
        (slice(4, 5), slice(0, 20, 3), slice(1, 24, 5)),
    ):
        np.testing.assert_array_equal(whole[part], everything[part])


def test_exact_needs_memory(files, tmp_path, beyond_memory):
    beyond_memory()
    with pytest.raises(ValueError, match="a volume that fits into memory with --exact"):
        score(replace(files, output=str(tmp_path), exact=True, method="components"))
    with pytest.raises(ValueError, match="fits into memory, or --segmentation.method"):
        score(replace(files, output=str(tmp_path), method="components_watershed"))


def test_engines_are_checked(files):
    for engine in ("threads", "serial", "dask:local:2", "dask:tcp://10.0.0.1:8786"):
        replace(files, engine=engine)
    for engine in ("spark", "dask", "dask:local:0", "dask:slurm:x", "threads:4"):
        with pytest.raises(ValueError, match="expected an --engine threads, serial"):
            replace(files, engine=engine)


def test_a_single_threshold(files, tmp_path, beyond_memory):
    config = replace(files, sweep=False, thresholds=(0.65,), method="agglomeration")
    _, second = both_ways(config, tmp_path, beyond_memory)
    metrics = json.loads((second / "metrics.json").read_text())
    assert metrics["threshold"] == 0.65
