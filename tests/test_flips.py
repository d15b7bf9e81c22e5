import itertools

import pytest
import torch

from pytc.data.targets import affinities
from pytc.inference.flips import MIRRORINGS, averaged, orientations

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

    mean = averaged(perfect, OFFSETS)(labels.float())
    valid = valid_affinities(OFFSETS, (7, 8, 9)).expand_as(mean)
    torch.testing.assert_close(mean[valid], perfect(labels.float())[valid])
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
    mean = averaged(lambda x: next(calls), offsets)(torch.zeros(1, 1, *shape))
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
            made = torch.sigmoid(mean[(0, channel, *v)])
            assert made == pytest.approx(float(torch.stack(values).mean()), abs=1e-5)


ALL_SIDES = {"flips": True, "exchange_axes": True}


def test_only_axes_of_equal_voxels_and_windows_are_exchanged():
    for sizes, window, flips, count in (
        (None, (8, 8, 8), True, 48),
        ((4, 4, 4), (8, 8, 8), False, 6),
        ((40, 4, 4), (8, 8, 8), True, 16),
        ((4, 4, 4), (8, 16, 16), True, 16),
        ((40, 4, 4), (8, 8, 16), True, 8),
    ):
        seen = orientations(flips=flips, exchange_axes=True, voxel_size=sizes, window=window)
        assert len(set(seen)) == count and seen[0].order == (0, 1, 2) and not any(seen[0].mirrored)
    assert orientations(**{**ALL_SIDES, "exchange_axes": False}, voxel_size=None, window=()) == (
        MIRRORINGS
    )


@pytest.mark.parametrize(
    "offsets",
    [OFFSETS, ((2, 0, 0), (0, 2, 0), (0, 0, 1)), ((1, 1, 0), (0, 1, -1), (-2, 0, 0), (0, 0, 2))],
)
def test_perfect_affinities_stay_perfect_from_all_sides(offsets):
    labels = torch.randint(1, 3, (2, 1, 7, 7, 7), generator=torch.Generator().manual_seed(0))

    def perfect(x):
        return affinities(x[:, 0].long(), offsets)[0].float() * 4 - 2

    seen = orientations(**ALL_SIDES, voxel_size=None, window=(7, 7, 7))
    mean = averaged(perfect, offsets, seen)(labels.float())
    valid = valid_affinities(offsets, (7, 7, 7)).expand_as(mean)
    torch.testing.assert_close(mean[valid], perfect(labels.float())[valid])


def test_the_mean_over_all_sides_equals_its_definition():
    """Edge by edge: where its ends are seen, and in which channel that edge is."""
    generator = torch.Generator().manual_seed(2)
    n, offsets = 4, ((2, 0, 0), (0, 1, 0), (0, 0, 1), (0, 0, 0), (1, 0, 1))
    seen = orientations(**ALL_SIDES, voxel_size=None, window=(n, n, n))
    stored = {side: torch.randn(1, len(offsets), n, n, n, generator=generator) for side in seen}
    calls = iter(stored.values())
    chosen = [0, 4, 1, 3]
    mean = averaged(lambda x: next(calls), offsets, seen, channels=chosen)(
        torch.zeros(1, 1, n, n, n)
    )
    counts = set()
    for to, channel in enumerate(chosen):
        offset = offsets[channel]
        for v in itertools.product(range(n), repeat=3):
            w = tuple(a + o for a, o in zip(v, offset))
            if any(b >= n for b in w):
                continue
            values = []
            for (order, mirrored), logits in stored.items():
                ends = [
                    tuple(n - 1 - end[a] if m else end[a] for a, m in zip(order, mirrored))
                    for end in (v, w)
                ]
                for source, target in (ends, ends[::-1]):
                    step = tuple(b - a for a, b in zip(source, target))
                    if step in offsets:
                        other = channel if step == (0, 0, 0) else offsets.index(step)
                        values.append(torch.sigmoid(logits[(0, other, *source)]))
                        break
            counts.add(len(values))
            made = torch.sigmoid(mean[(0, to, *v)])
            assert made == pytest.approx(float(torch.stack(values).mean()), abs=1e-5)
    assert min(counts) < 10 and max(counts) > 40  # some edges are seen from few sides
