"""Optimizer, learning rate as a pure function of the step, moving average of the weights."""

import copy
import math
from typing import Any

import torch
from torch import nn

from pytc.config import OptimConfig


def build_optimizer(model: nn.Module, config: OptimConfig) -> torch.optim.Optimizer:
    """AdamW, fused; weight decay acts on kernels, not on biases and normalisation."""
    kernels = [parameter for parameter in model.parameters() if parameter.ndim > 1]
    others = [parameter for parameter in model.parameters() if parameter.ndim <= 1]
    groups: list[dict[str, Any]] = [
        {"params": kernels, "weight_decay": config.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=config.learning_rate, fused=True)


def learning_rate(config: OptimConfig, step: int, max_steps: int) -> float:
    """Learning rate of step `step` (from 0).

    It rises linearly over the warm-up; then it stays constant (schedule none), or falls along a
    cosine that reaches 0 at max_steps. It follows from the step alone. So a resumed run has the
    same rates, and a run whose max_steps is raised continues on the longer cosine.
    """
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / (config.warmup_steps + 1)
    if config.schedule == "none":
        return config.learning_rate
    progress = (step - config.warmup_steps) / max(1, max_steps - config.warmup_steps)
    return config.learning_rate * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


class MovingAverage:
    """Exponential moving average of a model's weights.

    average = decay x average + (1 - decay) x weights. In the first steps the decay is smaller, (1 +
    step) / (warmup + step), so that the initial weights are soon forgotten. Source: TensorFlow's
    ExponentialMovingAverage, with a warmup of 10.
    """

    def __init__(self, model: nn.Module, config: OptimConfig):
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self.decay = config.ema_decay
        self.warmup_steps = config.ema_warmup_steps

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Take in the weights after step `step` (from 0); buffers are copied."""
        decay = min(self.decay, (1 + step) / (max(1, self.warmup_steps) + step))
        torch._foreach_lerp_(list(self.model.parameters()), list(model.parameters()), 1 - decay)
        for average, buffer in zip(self.model.buffers(), model.buffers()):
            average.copy_(buffer)
