"""Mixed datasets: shares as the weights say, and sample n the same whoever asks for it."""

import pickle

import pytest

from pytc.data.mixing import StratifiedConcatDataset, WeightedConcatDataset


class Named:
    """A dataset whose items say where they come from."""

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
    assert forwards == list(mix)


def test_finite_datasets_are_gone_through_again_and_endless_ones_asked_on():
    finite, endless = Named("finite", 3), Named("endless", 3, endless=True)
    mix = WeightedConcatDataset([finite, endless], [0.5, 0.5], length=50)
    for n in range(50):
        name, item = mix[n]
        assert item == (n if name == "endless" else n % 3)
    with pytest.raises(IndexError):
        mix[50]
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
    assert len(StratifiedConcatDataset([Named("a", 2)], length=9)) == 9


@pytest.mark.parametrize("weights", [[0.5, 0.4], [0.5, 0.5 + 2e-6], [1.2, -0.2], [1.0], []])
def test_weights_that_make_no_sense_are_refused(weights):
    with pytest.raises(ValueError, match="weight"):
        WeightedConcatDataset([Named("a", 3), Named("b", 3)], weights)


def test_no_dataset_is_refused():
    with pytest.raises(ValueError):
        WeightedConcatDataset([], [])
    with pytest.raises(ValueError, match="at least one"):
        StratifiedConcatDataset([])


def test_weights_that_sum_to_1_but_for_rounding_are_taken():
    mix = WeightedConcatDataset([Named(str(k), 3) for k in range(10)], [0.1] * 10)
    assert {name for name, _ in mix} <= set(map(str, range(10))) and len(mix) == 30
