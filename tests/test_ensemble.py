"""infer.py --run A B: the mean of what several networks predict."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from test_results import SHAPE, TINY, make_run, volume, with_volumes
from test_results import workplace as workplace

from pytc import cli
from pytc.io.volume import open_volume


def predicted(*runs, flags=()):
    output = "out-" + "-".join(runs)
    words = ["--input", "b.zarr/raw", "--output", output, "--inference.window", *map(str, SHAPE)]
    cli.infer(["--run", *runs, *words, *flags])
    return open_volume(f"{output}/affinities.zarr")[...].astype(np.float64)


@pytest.mark.parametrize(
    "flags",
    [
        ("--inference.no-flips",),
        ("--inference.no-flips", "--inference.activation-scale", "1"),
        ("--inference.flips", "--inference.activation-scale", "1"),
    ],
)
def test_an_ensemble_is_the_mean_of_its_members(workplace, flags):
    """In one window: where several overlap their logits are blended."""
    for seed, name in enumerate("abc"):
        make_run(replace(TINY, name=name), seed=seed)
    mean = np.mean([predicted(name, flags=flags) for name in "abc"], axis=0)
    together = predicted(*"abc", flags=flags)
    assert np.abs(together - mean).max() < 1e-3  # of float16
    assert np.abs(together - predicted("a", flags=flags)).max() > 5e-3
    assert (Path("out-a-b-c") / "segmentation.zarr").exists()


def test_what_does_not_belong_together_is_refused(workplace):
    make_run(with_volumes(volume("a"), name="a"))
    moved = (*TINY.target.offsets[:-1], (0, 0, 7))
    target = replace(TINY.target, offsets=moved)
    make_run(replace(TINY, name="b", target=target))
    with pytest.raises(SystemExit, match="networks that predict what .*'offsets'"):
        predicted("a", "b")
    make_run(replace(TINY, name="c"), seed=2)
    with pytest.raises(SystemExit, match="--output for what several networks predict"):
        cli.infer(["--run", "a", "c"])
