"""Learning rate, weight decay and moving average, each against its definition."""

from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from pytc.config import (
    OptimConfig,
)
from pytc.training.optim import MovingAverage, build_optimizer, learning_rate


def test_learning_rate_warms_up_and_falls_to_zero():
    config = OptimConfig(learning_rate=2.0, warmup_steps=4, schedule="cosine")
    rates = [learning_rate(config, step, 24) for step in range(25)]
    assert rates[:5] == pytest.approx([0.4, 0.8, 1.2, 1.6, 2.0])
    assert rates[14] == pytest.approx(1.0) and rates[24] == pytest.approx(0.0)
    assert all(a > b for a, b in pairwise(rates[4:]))
    assert learning_rate(replace(config, schedule="none"), 20, 24) == 2.0


def test_weight_decay_spares_biases_and_norms():
    model = torch.nn.Sequential(torch.nn.Conv3d(1, 2, 3), torch.nn.GroupNorm(1, 2))
    decayed, spared = build_optimizer(model, OptimConfig(weight_decay=0.1)).param_groups
    assert [p.ndim for p in decayed["params"]] == [5] and decayed["weight_decay"] == 0.1
    assert [p.ndim for p in spared["params"]] == [1, 1, 1] and spared["weight_decay"] == 0


def test_moving_average_equals_its_definition():
    model = torch.nn.Linear(3, 2)
    average = MovingAverage(model, OptimConfig(ema_decay=0.9, ema_warmup_steps=5))
    expected = model.weight.detach().clone()
    for step in range(10):
        with torch.no_grad():
            model.weight += torch.randn(2, 3, generator=torch.Generator().manual_seed(step))
        average.update(model, step)
        decay = min(0.9, (1 + step) / (5 + step))
        expected = decay * expected + (1 - decay) * model.weight.detach()
    torch.testing.assert_close(average.model.weight, expected)
