"""3-D convolutions, pointwise and depthwise ones computed on a CPU by what is fast there.

All others are `nn.Conv3d`. PyTorch takes slow paths on a CPU for single samples of 1x1x1, for
depthwise gradients and for transposed convolutions (benchmarks/README.md). A 1x1x1 convolution is a
matrix product. A depthwise gradient by the input, as a transposed convolution, is a convolution
with the kernel turned round, of what was strided spread out with zeros; one by the weights is a sum
over 2-D ones of the slices, for which oneDNN has kernels; in channels-last layout the slices of a
volume are a batch without a copy. Two pointwise convolutions about a GELU are computed part by part
(`perceptron`).
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from pytc.config import Triple
from pytc.models.layers import InstanceNorm


class Conv2d(nn.Conv2d):
    """`nn.Conv2d`: same arguments, parameters and results.

    oneDNN, as in torch 2.13, writes beyond its memory in the gradient of a 1x1 convolution with a
    stride, from 4 to 8 channels; that of the strided input without a stride is the same.
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
            return Depthwise.apply(*autocast(x, self.weight, self.bias), self.stride, False)
        a, b, c = self.stride
        return pointwise(x[:, :, ::a, ::b, ::c], self.weight.flatten(1), self.bias)


class ConvTranspose3d(nn.ConvTranspose3d):
    """`nn.ConvTranspose3d`: same arguments, parameters and results."""

    def forward(self, x: Tensor) -> Tensor:
        if not is_fast(self, x) or any(self.output_padding):
            return super().forward(x)
        if self.groups > 1:
            return Depthwise.apply(*autocast(x, self.weight, self.bias), self.stride, True)
        return spread(pointwise(x, self.weight.flatten(1).T, None), self.stride, bias=self.bias)


def is_fast(layer: nn.Conv3d | nn.ConvTranspose3d, x: Tensor) -> bool:
    """Whether this layer and input are of the kinds that are computed here.

    An exported network keeps PyTorch's.
    """
    if (
        x.device.type != "cpu"
        or torch.compiler.is_exporting()
        or max(layer.dilation) > 1
        or layer.bias is None
    ):
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


def spread(
    x: Tensor, stride: Triple, size: Triple | None = None, bias: Tensor | None = None
) -> Tensor:
    """Zeros between the voxels, and behind them up to `size`, if given; channels-last.

    A bias is added everywhere.
    """
    if max(stride) == 1 and bias is None:
        return x
    size = size or tuple((n - 1) * step + 1 for n, step in zip(x.shape[2:], stride))
    a, b, c = stride
    y = (
        (x.new_zeros(x.shape[1]) if bias is None else bias.to(x.dtype))
        .expand(len(x), *size, -1)
        .clone()
    )
    y[:, ::a, ::b, ::c] += x.movedim(1, -1)
    return y.movedim(-1, 1)


class Depthwise(torch.autograd.Function):
    """Depthwise convolution, padded by half its odd kernel, or its adjoint.

    x: (B, C, Z, Y, X); weight: (C, 1, ...).
    """

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor, stride: Triple, up: bool) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.stride, ctx.up = stride, up
        return (
            convolve(spread(x, stride), weight.flip(2, 3, 4), bias)
            if up
            else convolve(x, weight, bias, stride)
        )

    @staticmethod
    @once_differentiable
    def backward(ctx, g: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        g = g.contiguous(memory_format=torch.channels_last_3d)
        fine, coarse = (
            (g, spread(x, ctx.stride)) if ctx.up else (x, spread(g, ctx.stride, x.shape[2:]))
        )
        gx = (
            convolve(g, weight, None, ctx.stride)
            if ctx.up
            else convolve(coarse, weight.flip(2, 3, 4))
        )
        return gx, weight_gradient(fine, coarse, weight), g.sum((0, 2, 3, 4)), None, None


def convolve(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, stride: Triple = (1, 1, 1)
) -> Tensor:
    """Depthwise, padded by half the kernel.

    Its adjoint is that with the kernel turned round, without a stride.
    """
    return F.conv3d(
        x, weight, bias, stride, tuple(size // 2 for size in weight.shape[2:]), groups=len(weight)
    )


def weight_gradient(x: Tensor, g: Tensor, weight: Tensor) -> Tensor:
    """Gradient of the weight (C, 1, ...) of `convolve(x)`, whose output has the gradient g.

    Both (B, C, Z, Y, X).
    """
    channels, _, depth, height, width = weight.shape
    out = torch.zeros_like(weight)
    for column in range(
        0, width, 3
    ):  # oneDNN is fast up to three columns: wider kernels are taken in parts
        columns = min(3, width - column)
        left = width // 2 - column
        right = columns - 1 - left
        if x.shape[4] + min(left, right) <= 0:  # these columns meet the padding alone
            continue
        part = weight.new_empty(channels, 1, height, columns)
        padding, x_part = (height // 2, columns // 2), x
        if columns < width:
            padding, x_part = (
                (height // 2, 0),
                F.pad(x.movedim(1, -1), (0, 0, left, right)).movedim(-1, 1),
            )
        for tap in range(depth):
            shift = tap - depth // 2
            first, last = max(0, shift), x.shape[2] + min(0, shift)
            if first >= last:
                continue
            for volume, gradient in zip(
                x_part, g
            ):  # (C, Z, Y, X); of its transpose the slices are a batch
                out[:, :, tap, :, column : column + columns] += torch.ops.aten.convolution_backward(
                    gradient.transpose(0, 1)[first - shift : last - shift],
                    volume.transpose(0, 1)[first:last],
                    part,
                    None,
                    (1, 1),
                    padding,
                    (1, 1),
                    False,
                    (0, 0),
                    channels,
                    (False, True, False),
                )[1]
    return out


class Perceptron(torch.autograd.Function):
    """At each voxel outer @ gelu(inner @ x + inner_bias) + outer_bias, and a residual if given.

    x (B, V, C), residual (B, V, D) or None, inner (B, H, C) and its bias (B, H) -> (B, V, D). The
    hidden layer, the largest array of a network, is made in parts that stay in the cache, and again
    in the backward pass: it never lies in memory as a whole.
    """

    # elements of the hidden layer: 4 MB stay in a cache, and are long enough for threads to share
    PART = 2**20

    @staticmethod
    def forward(ctx, x, residual, inner, inner_bias, outer, outer_bias):
        ctx.save_for_backward(x, inner, inner_bias, outer)
        return Perceptron.fill(
            x.new_empty(*x.shape[:2], len(outer)), x, residual, inner, inner_bias, outer, outer_bias
        )

    @staticmethod
    def fill(y, x, residual, inner, inner_bias, outer, outer_bias):
        for sample, rows in parts(x, inner):
            h = F.gelu(F.linear(x[sample, rows], inner[sample], inner_bias[sample]))
            if residual is None:
                torch.addmm(outer_bias, h, outer.T, out=y[sample, rows])
            else:
                torch.add(residual[sample, rows], outer_bias, out=y[sample, rows]).addmm_(
                    h, outer.T
                )
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx, g):
        x, inner, inner_bias, outer = ctx.saved_tensors
        gx = torch.empty_like(x)
        g_inner, g_bias, g_outer = (
            torch.zeros(weight.shape, dtype=torch.promote_types(weight.dtype, torch.float32))
            for weight in (inner, inner_bias, outer)
        )
        for sample, rows in parts(x, inner):
            h = F.linear(x[sample, rows], inner[sample], inner_bias[sample])
            g_outer += g[sample, rows].T @ F.gelu(h)
            h = torch.ops.aten.gelu_backward(g[sample, rows] @ outer, h)
            g_inner[sample] += h.T @ x[sample, rows]
            g_bias[sample] += h.sum(0)
            torch.mm(h, inner[sample], out=gx[sample, rows])
        return gx, g if ctx.needs_input_grad[1] else None, g_inner, g_bias, g_outer, g.sum((0, 1))


def parts(x: Tensor, inner: Tensor) -> list[tuple[int, slice]]:
    """Samples and rows of x (B, V, C) that are few enough for one part of the hidden layer."""
    rows = max(1, Perceptron.PART // inner.shape[1])
    return [
        (sample, slice(row, row + rows))
        for sample in range(len(x))
        for row in range(0, x.shape[1], rows)
    ]


def perceptron(
    x: Tensor,
    norm: nn.Module,
    inner: Conv3d,
    outer: Conv3d,
    residual: Tensor | None,
    response: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """outer(response(gelu(inner(norm(x))))) + residual, of pointwise convolutions.

    (B, C, ...) -> (B, D, ...). Without gradients the result may be written over the residual.
    """
    if response or not (is_fast(inner, x) and is_fast(outer, x)) or torch.compiler.is_compiling():
        h = F.gelu(inner(norm(x)))
        h = outer(response(h) if response else h)
        return h if residual is None else h + residual
    weight, bias = inner.weight.flatten(1), inner.bias
    if (
        isinstance(norm, InstanceNorm)
        and x.dtype.itemsize >= 4
        and not torch.is_autocast_enabled("cpu")
    ):
        # into the weights, if these are precise enough: x is not written anew
        scale, shift = norm.scale_and_shift(x)
        weight, bias = weight * scale[:, None], bias + shift @ weight.T
    else:
        x, weight, bias = norm(x), weight.expand(len(x), -1, -1), bias.expand(len(x), -1)
    weights = autocast(weight, bias, outer.weight.flatten(1), outer.bias)
    flat = [
        None if t is None else autocast(t)[0].movedim(1, -1).flatten(1, -2) for t in (x, residual)
    ]
    reused = flat[1] is not None and not torch.is_grad_enabled()
    y = Perceptron.fill(flat[1], *flat, *weights) if reused else Perceptron.apply(*flat, *weights)
    return y.view(len(x), *x.shape[2:], -1).movedim(-1, 1)
