"""Faster forms of the layers of a network on a CPU, of equal results, parameters and names.

A network is written with PyTorch's own layers, as papers draw it. `build_model` calls `fast_cpu`
for a network on a CPU. What makes the forms fast stands in `convolution.py`.
"""

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from pytc.models.convolution import (
    Conv2d,
    Conv3d,
    Convolution,
    ConvTranspose3d,
    Perceptron,
    bias_of,
    cast_as_autocast,
    is_fast,
)
from pytc.models.layers import InstanceNorm
from pytc.models.mednext import MedNeXtBlock


def fast_cpu(model: nn.Module) -> None:
    """Gives each layer that has a form for CPUs this form, in place.

    Only the class of a layer changes: parameters, buffers, hooks and names stay. A form computes by
    PyTorch's own layer on another device, in an exported network, and under `torch.compile`.
    """
    for module in model.modules():
        # the exact type: a subclass may compute something else
        form = CPU_FORMS.get(type(module))
        if form is not None:
            module.__class__ = form


class FastMedNeXtBlock(MedNeXtBlock):
    """A MedNeXt block whose hidden layer, the largest array of the network, is made in parts.

    Without gradients the result may be written over the input.
    """

    def forward(self, x: Tensor) -> Tensor:
        if self.grn or not (is_fast(self.conv2, x) and is_fast(self.conv3, x)):
            return super().forward(x)
        h = self.conv1(x)
        residual = self.shortcut(x) if self.has_residual else None
        h = perceptron(h, self.norm, self.conv2, self.conv3, residual)
        return self.pad(h)


def perceptron(
    x: Tensor,
    norm: nn.Module,
    inner: Convolution,
    outer: Convolution,
    residual: Tensor | None,
) -> Tensor:
    """outer(gelu(inner(norm(x)))) + residual, where inner and outer are pointwise convolutions.

    x: (B, C, ...), residual: (B, D, ...) or None -> (B, D, ...). Without gradients the result may
    be written over the residual.
    """
    batch = len(x)
    space = x.shape[2:]
    if isinstance(norm, InstanceNorm) and _is_precise(x):
        weight, bias = _with_norm(norm, x, inner)  # (B, H, C), (B, H)
    else:
        x = norm(x)
        weight = inner.weight.flatten(1).expand(batch, -1, -1)  # (H, C) -> (B, H, C)
        bias = bias_of(inner).expand(batch, -1)  # (H,) -> (B, H)
    weights = cast_as_autocast(weight, bias, outer.weight.flatten(1), bias_of(outer))
    rows = _as_rows(x)  # (B, V, C)
    residual_rows = None if residual is None else _as_rows(residual)  # (B, V, D)
    if residual_rows is not None and not torch.is_grad_enabled():
        y = Perceptron.fill(residual_rows, rows, residual_rows, *weights)
    else:
        y = Perceptron.apply(rows, residual_rows, *weights)
    return y.view(batch, *space, -1).movedim(-1, 1)  # (B, V, D) -> (B, D, ...)


def _as_rows(x: Tensor) -> Tensor:
    """(B, C, ...) -> (B, V, C), V voxels, cast as autocast does. Channels-last is not copied."""
    (x,) = cast_as_autocast(x)
    return x.movedim(1, -1).flatten(1, -2)


def _is_precise(x: Tensor) -> bool:
    """Whether weights of which a norm is made part keep enough digits."""
    return x.dtype.itemsize >= 4 and not torch.is_autocast_enabled("cpu")


def _with_norm(norm: InstanceNorm, x: Tensor, layer: Convolution) -> tuple[Tensor, Tensor]:
    """Weights (B, H, C) and biases (B, H) of one layer that does the work of norm and layer.

    The norm multiplies channel c by scale[c] and adds shift[c], so that

        weight @ (scale * x + shift) + bias  =  (weight * scale) @ x + (weight @ shift + bias)

    and the normalised image is never written to memory. Scale and shift differ by sample.
    """
    assert norm.weight is not None and norm.bias is not None, "MedNeXt's norms are affine"
    mean, variance = Moments.apply(x)  # (B, C) each
    scale = norm.weight * torch.rsqrt(variance + norm.eps)
    shift = norm.bias - mean * scale
    weight = layer.weight.flatten(1)  # (H, C)
    return weight * scale[:, None], bias_of(layer) + shift @ weight.T


class Moments(torch.autograd.Function):
    """Mean and variance of each channel of each sample: (B, C, ...) -> (B, C) each."""

    @staticmethod
    def forward(ctx, x: Tensor) -> tuple[Tensor, Tensor]:
        samples = [torch.batch_norm_update_stats(one, None, None, 0.0) for one in x.split(1)]
        mean = torch.stack([mean for mean, _ in samples])
        variance = torch.stack([variance for _, variance in samples])
        ctx.save_for_backward(x, mean)
        return mean, variance

    @staticmethod
    @once_differentiable
    def backward(ctx, g_mean: Tensor, g_variance: Tensor) -> Tensor:
        # With n voxels: d mean / d x = 1 / n and d variance / d x = 2 (x - mean) / n.
        x, mean = ctx.saved_tensors
        per_voxel = 1 / x[0, 0].numel()
        slope = 2 * g_variance
        level = (g_mean - slope * mean) * per_voxel
        slope = slope * per_voxel
        space = [1] * (x.ndim - 2)
        return torch.addcmul(level.view(*level.shape, *space), x, slope.view(*slope.shape, *space))


CPU_FORMS = {
    nn.Conv2d: Conv2d,
    nn.Conv3d: Conv3d,
    nn.ConvTranspose3d: ConvTranspose3d,
    MedNeXtBlock: FastMedNeXtBlock,
}
