"""Mixed datasets: shares as the weights say, and sample n the same whoever asks for it."""

import pickle
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from torch.utils.data import DataLoader, DistributedSampler

from pytc.data.counter_random import shuffled
from pytc.data.mixing import StratifiedConcatDataset, WeightedConcatDataset


class Named:
    """A dataset whose items say where they come from; one that is not endless ends."""

    def __init__(self, name, length, endless=False):
        self.name, self.length, self.endless = name, length, endless

    def __len__(self):
        return self.length

    def __getitem__(self, n):
        if n >= self.length and not self.endless:
            raise IndexError(n)
        return self.name, n


def test_weights_are_the_shares_of_the_datasets():
    mix = WeightedConcatDataset(
        [Named("a", 10), Named("b", 1000), Named("c", 7)], [0.2, 0.7, 0.1], length=5000
    )
    assert len(mix) == 5000
    names = [mix[n][0] for n in range(5000)]
    for name, weight in (("a", 0.2), ("b", 0.7), ("c", 0.1)):
        assert names.count(name) / 5000 == pytest.approx(weight, abs=0.02)
    assert {mix[n][1] for n in range(5000) if names[n] == "a"} == set(range(10))


def test_sample_of_a_number_is_always_the_same():
    parts = [Named("a", 10), Named("b", 10)]
    mix = WeightedConcatDataset(parts, [0.5, 0.5], seed=3)
    forwards = [mix[n] for n in range(20)]
    again = pickle.loads(pickle.dumps(mix))
    assert [again[n] for n in reversed(range(20))] == forwards[::-1]
    assert [WeightedConcatDataset(parts, [0.5, 0.5], seed=4)[n] for n in range(20)] != forwards
    assert forwards[:10] == list(mix)


@pytest.mark.parametrize("weights", [(0.8, 0.2), (0.05, 0.9, 0.05), (1, 0, 3), (0.001, 0.999)])
@pytest.mark.parametrize("lengths", [(100, 100, 100), (7, 40, 3), (1, 2, 500)])
def test_every_item_comes_up_evenly_over_epochs(weights, lengths):
    parts = [Named(k, size) for k, size in enumerate(lengths[: len(weights)])]
    mix = WeightedConcatDataset(parts, weights, 50)
    items, taken = Counter(), Counter()
    for epoch in range(40):
        mix.set_epoch(epoch)
        of_epoch = list(mix)
        items.update(of_epoch)
        taken.update(name for name, _ in of_epoch)
        shares = Counter(name for name, _ in of_epoch)
        for name, weight in enumerate(weights):
            assert abs(shares[name] - 50 * weight / sum(weights)) <= 2
    for name, weight in enumerate(weights):
        assert abs(taken[name] - 2000 * weight / sum(weights)) <= 2
        counts = [items[name, item] for item in range(lengths[name])]
        assert max(counts) - min(counts) <= 1


def test_orders_are_random_and_differ_by_epoch_and_seed():
    mix = WeightedConcatDataset([Named("a", 200), Named("b", 200)], [0.5, 0.5])
    first = list(mix)
    assert [mix[n] for n in range(200, 400)] != first
    names = [name for name, _ in first]
    runs = sum(a != b for a, b in pairwise(names))
    assert 75 < runs < 125  # not in turn, not one after another
    items = [item for name, item in first if name == "a"]
    assert items != sorted(items) and len(set(items)) == 100
    steps = np.abs(np.diff(items))
    assert 45 < steps.mean() < 90  # 67 for a random order


def test_numbers_beyond_the_length_are_those_of_the_next_epochs():
    for mix in (
        WeightedConcatDataset([Named("a", 10), Named("b", 30)], [0.3, 0.7]),
        StratifiedConcatDataset([Named("a", 2), Named("b", 5)]),
    ):
        size = len(mix)
        on = [mix[n] for n in range(3 * size)]
        for epoch in (2, 0, 1):
            mix.set_epoch(epoch)
            assert list(mix) == on[epoch * size : (epoch + 1) * size]
        assert mix[-1] == list(mix)[-1]
        with pytest.raises(IndexError):
            mix[-size - 1]
        with pytest.raises(ValueError, match="epoch of 0 or more"):
            mix.set_epoch(-1)


def test_workers_that_live_on_see_the_epoch():
    parts = [Named("a", 10), Named("b", 10)]
    mix = WeightedConcatDataset(parts, [0.5, 0.5])
    loader = DataLoader(mix, batch_size=None, num_workers=1, persistent_workers=True)
    alone = WeightedConcatDataset(parts, [0.5, 0.5])
    for epoch in range(3):
        mix.set_epoch(epoch)
        alone.set_epoch(epoch)
        assert [tuple(item) for item in loader] == list(alone)


def test_ranks_share_an_epoch_by_torch_s_sampler():
    parts = [Named("a", 10), Named("b", 10)]
    mix = WeightedConcatDataset(parts, [0.5, 0.5])
    orders = [DistributedSampler(mix, num_replicas=2, rank=rank, shuffle=False) for rank in (0, 1)]
    for epoch in (0, 1):
        mix.set_epoch(epoch)
        seen = [tuple(item) for order in orders for item in DataLoader(mix, None, sampler=order)]
        assert sorted(seen) == sorted(mix) and len(seen) == len(mix)


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 16, 17, 100, 1000])
def test_a_shuffle_is_an_order_of_its_own_for_each_name(size):
    orders = {tuple(shuffled(item, size, f"x {n}") for item in range(size)) for n in range(60)}
    assert all(sorted(order) == list(range(size)) for order in orders)
    assert len(orders) == 60 if size >= 16 else len(orders) > (size > 1)
    first = Counter(order[0] for order in orders)
    assert len(first) > min(size, 60) // 3


def test_endless_datasets_are_asked_on():
    finite, endless = Named("finite", 3), Named("endless", 3, endless=True)
    mix = WeightedConcatDataset([finite, endless], [0.5, 0.5], length=50)
    drawn = list(mix)
    asked = [item for name, item in drawn if name == "endless"]
    assert sorted(asked) == list(range(len(asked)))
    assert {item for name, item in drawn if name == "finite"} == {0, 1, 2}
    for mix in (WeightedConcatDataset([endless], [1.0]), StratifiedConcatDataset([endless])):
        assert len(mix) == 3 and mix[1000] == ("endless", 1000)
    nested = StratifiedConcatDataset([mix, finite])
    assert nested[2] == ("endless", 1) and nested[5] == ("finite", 2)


def test_a_weight_of_zero_is_never_drawn():
    parts = [Named("a", 10), Named("b", 10), Named("c", 10)]
    mix = WeightedConcatDataset(parts, [0.0, 1.0, 0.0], length=300)
    assert {mix[n][0] for n in range(300)} == {"b"}


def test_stratified_takes_each_dataset_in_turn():
    mix = StratifiedConcatDataset([Named("a", 2), Named("b", 4)])
    assert len(mix) == 6
    assert list(mix) == [("a", 0), ("b", 0), ("a", 1), ("b", 1), ("a", 0), ("b", 2)]
    mix.set_epoch(1)
    assert list(mix)[1] == ("b", 3)  # so that it comes up, too
    assert len(StratifiedConcatDataset([Named("a", 2)], 9)) == 9


def test_weights_are_shares_of_any_sum():
    parts = [Named("a", 10), Named("b", 10)]
    assert list(WeightedConcatDataset(parts, [8, 2])) == list(
        WeightedConcatDataset(parts, [0.8, 0.2])
    )
    endless = [Named("a", 10, endless=True), Named("b", 10, endless=True)]
    mix = WeightedConcatDataset(endless, [3, 1], length=2000)
    assert [name for name, _ in mix].count("a") / 2000 == pytest.approx(0.75, abs=0.02)


def test_training_draws_what_it_always_drew():
    """Recorded before finite datasets were gone through evenly."""
    endless = [Named("abc"[k], 7, endless=True) for k in range(3)]
    mix = WeightedConcatDataset(endless, [0.5, 0.3, 0.2], seed=3)
    assert "".join(mix[n][0] for n in range(30)) == "bbabcaaaacabaaaccacaabaabbaaba"
    assert [mix[n][1] for n in range(30)] == list(range(30))


@pytest.mark.parametrize(
    "weights", [[0.0, 0.0], [1.2, -0.2], [1.0], [], [float("nan"), 1.0], [float("inf"), 1.0]]
)
def test_weights_that_make_no_sense_are_refused(weights):
    with pytest.raises(ValueError, match="weight"):
        WeightedConcatDataset([Named("a", 3), Named("b", 3)], weights)


def test_no_dataset_is_refused():
    with pytest.raises(ValueError):
        WeightedConcatDataset([], [])
    with pytest.raises(ValueError, match="with items, got"):
        WeightedConcatDataset([Named("a", 3), Named("b", 0)], [0.5, 0.5])
    with pytest.raises(ValueError, match="length of 1 or more, got 0"):
        WeightedConcatDataset([Named("a", 3)], [1.0], 0)
    with pytest.raises(ValueError, match="at least one"):
        StratifiedConcatDataset([])


def test_weights_that_sum_to_1_but_for_rounding_are_taken():
    mix = WeightedConcatDataset([Named(str(k), 3) for k in range(10)], [0.1] * 10)
    assert {name for name, _ in mix} <= set(map(str, range(10))) and len(mix) == 3
