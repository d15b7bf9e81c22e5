"""3-D convolutions, the pointwise and depthwise ones computed on a CPU by what is fast there: `nn.Conv3d` otherwise.

PyTorch takes slow paths on a CPU for single samples of 1x1x1, for depthwise gradients and for transposed convolutions
(benchmarks/README.md). A 1x1x1 convolution is a matrix product. Depthwise gradients are sums over 2-D convolutions of
the slices, for which oneDNN has kernels; in channels-last layout the slices of a volume are a batch without a copy.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from pytc.config import Triple


class Conv2d(nn.Conv2d):
    """`nn.Conv2d`: same arguments, parameters and results.

    oneDNN, as in torch 2.13, writes beyond its memory in the gradient of a 1x1 convolution with a stride, from 4 to 8
    channels; that of the strided input without a stride is the same.
    """

    def forward(self, x: Tensor) -> Tensor:
        if self.kernel_size != (1, 1):
            return super().forward(x)
        a, b = self.stride
        return F.conv2d(x[:, :, ::a, ::b], self.weight, self.bias)


class Conv3d(nn.Conv3d):
    """`nn.Conv3d`: same arguments, parameters and results."""

    def forward(self, x: Tensor) -> Tensor:
        if not is_fast(self, x):
            return super().forward(x)
        if self.groups > 1:
            return Depthwise.apply(*autocast(x, self.weight, self.bias), self.stride, self.padding, False)
        a, b, c = self.stride
        return pointwise(x[:, :, ::a, ::b, ::c], self.weight.flatten(1), self.bias)


class ConvTranspose3d(nn.ConvTranspose3d):
    """`nn.ConvTranspose3d`: same arguments, parameters and results."""

    def forward(self, x: Tensor) -> Tensor:
        if not is_fast(self, x) or any(self.output_padding):
            return super().forward(x)
        if self.groups > 1:
            return Depthwise.apply(*autocast(x, self.weight, self.bias), self.stride, self.padding, True)
        weight = self.weight.flatten(1).T
        if max(self.stride) == 1:
            return pointwise(x, weight, self.bias)
        values = pointwise(x, weight, None)
        a, b, c = self.stride
        size = [(n - 1) * step + 1 for n, step in zip(x.shape[2:], self.stride)]
        y = self.bias.to(values.dtype).expand(len(x), *size, -1).clone()
        y[:, ::a, ::b, ::c] += values.movedim(1, -1)
        return y.movedim(-1, 1)


def is_fast(layer: nn.Conv3d | nn.ConvTranspose3d, x: Tensor) -> bool:
    """Whether this layer and input are of the kinds that are computed here; an exported network keeps PyTorch's."""
    if x.device.type != "cpu" or torch.compiler.is_exporting() or max(layer.dilation) > 1 or layer.bias is None:
        return False
    if layer.groups == 1:
        return max(layer.kernel_size) == 1 and not any(layer.padding)
    odd = all(size == 2 * margin + 1 for size, margin in zip(layer.kernel_size, layer.padding))
    return layer.groups == layer.in_channels == layer.out_channels and odd


def autocast(*tensors: Tensor) -> tuple[Tensor, ...]:
    """As autocast would hand them to a convolution, of which it does not know ours."""
    if not torch.is_autocast_enabled("cpu"):
        return tensors
    return tuple(tensor.to(torch.get_autocast_dtype("cpu")) for tensor in tensors)


def pointwise(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Weight (D, C) at each voxel: (B, C, Z, Y, X) -> (B, D, Z, Y, X), channels-last."""
    return F.linear(x.movedim(1, -1), weight, bias).movedim(-1, 1)


class Depthwise(torch.autograd.Function):
    """Depthwise convolution, padded by half its odd kernel, or its adjoint: x (B, C, Z, Y, X), weight (C, 1, ...)."""

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor, stride: Triple, padding: Triple, up: bool) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.stride, ctx.padding, ctx.up = stride, padding, up
        if up:
            size = tuple((n - 1) * step + 1 for n, step in zip(x.shape[2:], stride))
            return transposed(x, weight, stride, padding, size, bias)
        return F.conv3d(x, weight, bias, stride, padding, groups=len(weight))

    @staticmethod
    @once_differentiable
    def backward(ctx, g: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        stride, padding = ctx.stride, ctx.padding
        g = g.contiguous(memory_format=torch.channels_last_3d)
        gx = None
        if ctx.needs_input_grad[0] and ctx.up:
            gx = F.conv3d(g, weight, None, stride, padding, groups=len(weight))
        elif ctx.needs_input_grad[0]:
            gx = transposed(g, weight, stride, padding, x.shape[2:])
        fine, coarse = (g, x) if ctx.up else (x, g)
        return gx, weight_gradient(fine, coarse, weight, stride, padding), g.sum((0, 2, 3, 4)), None, None, None


class Perceptron(torch.autograd.Function):
    """At each voxel outer @ gelu(inner @ x + inner_bias) + outer_bias, and a residual if given.

    x: (voxels, C), residual: (voxels, D) or None -> (voxels, D). The hidden layer, the largest array of a network, is
    made in parts that stay in the cache, and again in the backward pass: it never lies in memory as a whole.
    """

    PART = 2**17  # elements of the hidden layer: 512 KB, half a core's second cache

    @staticmethod
    def forward(ctx, x, residual, inner, inner_bias, outer, outer_bias):
        ctx.save_for_backward(x, inner, inner_bias, outer)
        y = x.new_empty(len(x), len(outer))
        rows = max(1, Perceptron.PART // len(inner))
        for start in range(0, len(x), rows):
            part = slice(start, start + rows)
            torch.addmm(outer_bias, F.gelu(F.linear(x[part], inner, inner_bias)), outer.T, out=y[part])
            if residual is not None:
                y[part] += residual[part]
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx, g):
        x, inner, inner_bias, outer = ctx.saved_tensors
        gx = torch.empty_like(x)
        g_inner, g_outer = (torch.zeros(weight.shape, dtype=torch.promote_types(weight.dtype, torch.float32))
                            for weight in (inner, outer))
        g_inner_bias = g_inner.new_zeros(len(inner))
        rows = max(1, Perceptron.PART // len(inner))
        for start in range(0, len(x), rows):
            part = slice(start, start + rows)
            h = F.linear(x[part], inner, inner_bias)
            g_outer += g[part].T @ F.gelu(h)
            h = torch.ops.aten.gelu_backward(g[part] @ outer, h)
            g_inner += h.T @ x[part]
            g_inner_bias += h.sum(0)
            torch.mm(h, inner, out=gx[part])
        return gx, g if ctx.needs_input_grad[1] else None, g_inner, g_inner_bias, g_outer, g.sum(0)


def perceptron(x: Tensor, inner: Conv3d, outer: Conv3d, residual: Tensor | None) -> Tensor:
    """outer(gelu(inner(x))) + residual, of pointwise convolutions: (B, C, Z, Y, X) -> (B, D, Z, Y, X)."""
    if not (is_fast(inner, x) and is_fast(outer, x)) or torch.compiler.is_compiling():
        h = outer(F.gelu(inner(x)))
        return h if residual is None else h + residual
    weights = autocast(inner.weight.flatten(1), inner.bias, outer.weight.flatten(1), outer.bias)
    flat = [None if t is None else autocast(t)[0].movedim(1, -1).flatten(0, -2) for t in (x, residual)]
    return Perceptron.apply(*flat, *weights).view(len(x), *x.shape[2:], -1).movedim(-1, 1)


def planes(x: Tensor) -> Tensor:
    """A channels-last volume (C, Z, Y, X) as a batch (Z, C, Y, X) of channels-last slices: a view."""
    return x.transpose(0, 1)


def meetings(taps: int, fine: int, coarse: int, stride: int, padding: int) -> Iterator[tuple[int, slice, slice]]:
    """Each tap of the kernel, and the slices that meet there: fine = stride * coarse + tap - padding."""
    for tap in range(taps):
        shift = tap - padding
        first, last = max(0, -(shift // stride)), min(coarse - 1, (fine - 1 - shift) // stride)
        if first <= last:
            yield tap, slice(stride * first + shift, stride * last + shift + 1, stride), slice(first, last + 1)


def transposed(g: Tensor, weight: Tensor, stride: Triple, padding: Triple, size: Triple, bias: Tensor | None = None):
    """The adjoint of a depthwise convolution: (B, C, *coarse) -> (B, C, *size), channels-last."""
    channels = len(weight)
    if max(stride) == 1:
        return F.conv3d(g, weight.flip(2, 3, 4), bias, 1, padding, groups=channels)
    extra = [n - (m - 1) * step - 1 for n, m, step in zip(size[1:], g.shape[3:], stride[1:])]
    out = g.new_zeros(len(g), *size, channels) if bias is None else bias.expand(len(g), *size, channels).clone()
    out = out.movedim(-1, 1)
    for tap, fine, coarse in meetings(weight.shape[2], size[0], g.shape[2], stride[0], padding[0]):
        for into, sample in zip(out, g):
            planes(into)[fine] += F.conv_transpose2d(planes(sample)[coarse], weight[:, :, tap], None, stride[1:],
                                                     padding[1:], extra, channels)
    return out


def weight_gradient(x: Tensor, g: Tensor, weight: Tensor, stride: Triple, padding: Triple) -> Tensor:
    """Gradient of the weight of a depthwise convolution of x (B, C, *fine) whose output has the gradient g."""
    channels, _, taps, height, width = weight.shape
    out = torch.zeros_like(weight)
    for column in range(0, width, 3):  # oneDNN is fast up to three columns: wider kernels are taken in parts
        columns = min(3, width - column)
        left = padding[2] - column
        right = stride[2] * (g.shape[4] - 1) + columns - left - x.shape[4]
        if x.shape[4] + min(left, right) <= 0:  # these columns meet the padding alone
            continue
        part = weight.new_empty(channels, 1, height, columns)
        part_padding = (padding[1], padding[2])
        if columns < width:
            x_part = F.pad(x.movedim(1, -1), (0, 0, left, right)).movedim(-1, 1)
            part_padding = (padding[1], 0)
        else:
            x_part = x
        for tap, fine, coarse in meetings(taps, x.shape[2], g.shape[2], stride[0], padding[0]):
            for volume, gradient in zip(x_part, g):
                out[:, :, tap, :, column:column + columns] += torch.ops.aten.convolution_backward(
                    planes(gradient)[coarse], planes(volume)[fine].contiguous(memory_format=torch.channels_last), part,
                    None, stride[1:], part_padding, (1, 1), False, (0, 0), channels, (False, True, False))[1]
    return out
