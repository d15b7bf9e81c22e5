import itertools

import pytest
import torch

from pytc.data.targets import affinities
from pytc.inference.flips import flip_averaged

OFFSETS = ((1, 0, 0), (0, 1, 0), (0, 0, 1), (3, 0, 0), (0, 2, 0), (0, 0, 4), (1, 1, 0), (0, 0, 0))


def valid_affinities(offsets, shape):
    return affinities(torch.ones((1, *shape), dtype=torch.int64), offsets)[1]


def test_perfect_affinities_stay_perfect():
    """A network that knows the labels of what it sees gives the same affinities from all sides.

    They are not shifted.
    """
    labels = torch.randint(1, 3, (2, 1, 7, 8, 9), generator=torch.Generator().manual_seed(0))

    def perfect(x):
        return affinities(x[:, 0].long(), OFFSETS)[0].float() * 4 - 2

    averaged = flip_averaged(perfect, OFFSETS)(labels.float())
    valid = valid_affinities(OFFSETS, (7, 8, 9)).expand_as(averaged)
    torch.testing.assert_close(averaged[valid], perfect(labels.float())[valid])
    assert valid.float().mean() > 0.6


def test_the_mean_equals_its_definition():
    """Edge by edge: an edge's ends are mirrored, and the value is read at the mirrored edge."""
    generator = torch.Generator().manual_seed(1)
    shape, offsets = (4, 5, 6), ((1, 0, 0), (0, 2, 0), (0, 0, 0), (1, 1, 0))
    stored = {
        flips: torch.randn(1, len(offsets), *shape, generator=generator)
        for flips in itertools.product((0, 1), repeat=3)
    }
    calls = iter(stored.values())
    averaged = flip_averaged(lambda x: next(calls), offsets)(torch.zeros(1, 1, *shape))
    for channel, offset in enumerate(offsets):
        for v in itertools.product(*map(range, shape)):
            w = tuple(a + o for a, o in zip(v, offset))
            if any(b >= n for b, n in zip(w, shape)):
                continue
            values = []
            for flips, logits in stored.items():
                ends = [
                    tuple(n - 1 - a if f else a for a, n, f in zip(end, shape, flips))
                    for end in (v, w)
                ]
                for source, target in (ends, ends[::-1]):
                    if tuple(b - a for a, b in zip(source, target)) == offset:
                        values.append(torch.sigmoid(logits[(0, channel, *source)]))
                        break
            mean = torch.sigmoid(averaged[(0, channel, *v)])
            assert mean == pytest.approx(float(torch.stack(values).mean()), abs=1e-5)
