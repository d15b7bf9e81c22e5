"""Random numbers that follow from a key, a stream and a counter."""

import numpy as np
import pytest
import reference_data as reference
import torch
from augmentations import keys

from pytc.data.counter_random import SampleRandom, sample_key


def test_hashes_are_splitmix64_of_key_and_stream():
    for key in (0, 1, -1, sample_key(3, 1, 4)):
        expected = reference.hashes(key, "noise", 7)
        rng = SampleRandom(torch.tensor([key]), "noise")
        assert rng.uniform(7)[0].tolist() == [(h >> 40) / 2**24 for h in expected]
        later = reference.hashes(key, "noise", 5, first=8)
        assert rng.integers(-3, 9, 5)[0].tolist() == [((h >> 33) * 12 >> 31) - 3 for h in later]


@pytest.mark.parametrize("count", [1, 4, 7])
def test_normal_numbers_are_quantiles_of_the_hashes(count):
    for key in (0, -1, sample_key(3, 1, 4)):
        drawn = SampleRandom(torch.tensor([key]), "noise").normal(count)[0]
        np.testing.assert_allclose(drawn, reference.normals(key, "noise", count), rtol=1e-6)


def test_samples_streams_and_calls_differ():
    draws = [
        SampleRandom(torch.tensor([sample_key(seed, step, index)]), stream).uniform().item()
        for seed in (0, 1)
        for step in (0, 1)
        for index in (0, 1)
        for stream in ("flip", "noise")
    ]
    assert len(set(draws)) == 16
    rng = SampleRandom(keys(1), "flip")
    assert rng.uniform() != rng.uniform()


def test_draws_are_the_same_for_any_batch():
    whole = SampleRandom(keys(5), "a").normal(3, 3)
    assert torch.equal(whole[3:4], SampleRandom(keys(5)[3:4], "a").normal(3, 3))
    assert torch.equal(whole[[1, 4]], SampleRandom(keys(5), "a").rows([1, 4]).normal(3, 3))


def test_distributions():
    rng = SampleRandom(keys(2), "a")
    normal = rng.normal(100_000)
    assert normal.mean(1).abs().max() < 0.02 and (normal.std(1) - 1).abs().max() < 0.02
    assert abs((normal.abs() < 1).float().mean() - 0.6827) < 0.01
    uniform = rng.uniform(100_000, low=-1, high=3)
    assert uniform.min() >= -1 and uniform.max() < 3 and (uniform.mean(1) - 1).abs().max() < 0.02
    counts = rng.integers(2, 5, 30_000).unique(return_counts=True)
    assert counts[0].tolist() == [2, 3, 4] and (counts[1] - 20_000).abs().max() < 600
    assert rng.bernoulli(1.0, 100).all() and not rng.bernoulli(0.0, 100).any()
