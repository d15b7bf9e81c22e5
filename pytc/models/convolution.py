"""Convolutions that a CPU computes faster than PyTorch's layers do, with equal results.

`fast_cpu.py` puts these forms into a network. PyTorch 2.13 takes slow paths on a CPU for four kinds
of convolution (measured in benchmarks/README.md):

    kind                            here it is
    dense, one small sample         that of two samples: the halves of its output (`by_halves`)
    1x1x1                           a matrix product of voxels by channels
    depthwise, gradient by input    a depthwise convolution by the mirrored kernel (`Depthwise`)
    depthwise, gradient by weight   a sum of gradients of 2-D convolutions (`weight_gradient`)

A stride is undone first: zeros are put between the voxels of the coarser side (`spread`). Two 1x1x1
convolutions with a GELU between them are computed in parts that stay in the cache (`Perceptron`).
All arrays are channels-last, so that (B, C, Z, Y, X) lies in memory as (B, Z, Y, X, C).
"""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.grad import conv2d_weight

from pytc.models.base import Stride

# oneDNN's gradient by the weight of a 2-D depthwise convolution is fast up to so many columns.
FAST_COLUMNS = 3
# Larger single samples PyTorch gives to oneDNN by itself (`is_slow_alone`).
ONEDNN_FROM = 20480

Convolution = nn.Conv2d | nn.Conv3d | nn.ConvTranspose2d | nn.ConvTranspose3d


class Conv2d(nn.Conv2d):
    """`nn.Conv2d`: same arguments, parameters and results.

    oneDNN, as in torch 2.13, writes beyond its memory in the gradient of a 1x1 convolution with a
    stride, from 4 to 8 channels. Taking every n-th voxel first, and no stride, gives the same.
    """

    def forward(self, x: Tensor) -> Tensor:
        if self.kernel_size != (1, 1) or self.padding != (0, 0):
            return super().forward(x)
        a, b = self.stride
        return F.conv2d(x[:, :, ::a, ::b], self.weight, self.bias, groups=self.groups)


class Conv3d(nn.Conv3d):
    """`nn.Conv3d`: same arguments, parameters and results."""

    def forward(self, x: Tensor) -> Tensor:
        if is_slow_alone(self, x):
            return by_halves(x, self.weight, self.bias, self.stride, zeros_around(self))
        if not is_fast(self, x):
            return super().forward(x)
        if self.groups > 1:
            tensors = cast_as_autocast(x, self.weight, bias_of(self))
            return Depthwise.apply(*tensors, self.stride, False)
        a, b, c = self.stride
        return pointwise(x[:, :, ::a, ::b, ::c], self.weight.flatten(1), self.bias)


class ConvTranspose3d(nn.ConvTranspose3d):
    """`nn.ConvTranspose3d`: same arguments, parameters and results."""

    def forward(self, x: Tensor, output_size: list[int] | None = None) -> Tensor:
        if output_size is not None or not is_fast(self, x) or any(self.output_padding):
            return super().forward(x, output_size)
        if self.groups > 1:
            tensors = cast_as_autocast(x, self.weight, bias_of(self))
            return Depthwise.apply(*tensors, self.stride, True)
        return spread(pointwise(x, self.weight.flatten(1).T, None), self.stride, bias=self.bias)


def is_fast(layer: Convolution, x: Tensor) -> bool:
    """Whether this layer is of a kind that is computed faster here, and may be for this input.

    An exported network keeps PyTorch's layers. So does a compiled one, which the compiler makes
    faster than these forms; but for depthwise convolutions with a stride: oneDNN's gradient by the
    weight returns wrong numbers for large kernels on small images (benchmarks/README.md).
    """
    if x.device.type != "cpu" or torch.compiler.is_exporting():
        return False
    if layer.bias is None or max(layer.dilation) > 1 or not has_zeros_around(layer):
        return False
    if torch.compiler.is_compiling() and (layer.groups == 1 or max(layer.stride) == 1):
        return False
    if layer.groups == 1:
        return max(layer.kernel_size) == 1 and not any(layer.padding)
    is_depthwise = layer.groups == layer.in_channels == layer.out_channels
    padding = zeros_around(layer)
    is_same = all(size == 2 * pad + 1 for size, pad in zip(layer.kernel_size, padding))
    return is_depthwise and is_same


def has_zeros_around(layer: Convolution) -> bool:
    """Whether a layer pads its image by so many zeros along each axis, and not by other rules."""
    return layer.padding_mode == "zeros" and not isinstance(layer.padding, str)


def zeros_around(layer: Convolution) -> tuple[int, ...]:
    """How many zeros a layer of `has_zeros_around` puts before and after the image, by axis."""
    assert not isinstance(layer.padding, str)
    return layer.padding


def bias_of(layer: Convolution) -> Tensor:
    """The bias of a layer that is fast (`is_fast`): such a layer has one."""
    assert layer.bias is not None
    return layer.bias


def is_slow_alone(layer: nn.Conv3d, x: Tensor) -> bool:
    """Whether this is a dense convolution of one sample that PyTorch does not give to oneDNN.

    It does for two samples, and for one where batch x channels x Z x Y exceed ONEDNN_FROM (ATen's
    use_mkldnn, in torch 2.13; bf16 always goes to oneDNN). The output must have two halves along z.
    """
    if x.device.type != "cpu" or torch.compiler.is_compiling() or torch.compiler.is_exporting():
        return False
    if len(x) != 1 or x.dtype != torch.float32 or torch.is_autocast_enabled("cpu"):
        return False
    if not has_zeros_around(layer) or layer.groups > 1 or max(layer.dilation) > 1:
        return False
    if max(layer.kernel_size) == 1 or x[..., 0].numel() > ONEDNN_FROM:
        return False
    margins = 2 * zeros_around(layer)[0] - layer.kernel_size[0]
    slices = (x.shape[2] + margins) // layer.stride[0] + 1
    return slices > 0 and slices % 2 == 0


def by_halves(
    x: Tensor, weight: Tensor, bias: Tensor | None, stride: Stride, padding: tuple[int, ...]
) -> Tensor:
    """The convolution of one sample as that of two, which are the halves of its output along z.

        output      ---- a ---- ---- b ----
        image     [ . . . a . . . ]
                              [ . . . b . . . ]       each half sees as far as the kernel reaches

    (1, C, Z, Y, X) -> (1, D, ...). Costs a copy of the image and of the output.
    """
    step, depth, pad = stride[0], weight.shape[2], padding[0]
    if pad:
        x = F.pad(x.movedim(1, -1), (0, 0, 0, 0, 0, 0, pad, pad)).movedim(-1, 1)
    half = ((x.shape[2] - depth) // step + 1) // 2  # slices of the output in each half
    seen = (half - 1) * step + depth  # slices of the image that one half sees
    halves = torch.cat((x[:, :, :seen], x[:, :, half * step : half * step + seen]))
    y = F.conv3d(halves, weight, bias, stride, (0, *padding[1:]))  # (2, D, half, ...)
    return torch.cat(y.split(1), dim=2)


def cast_as_autocast(*tensors: Tensor) -> tuple[Tensor, ...]:
    """The tensors in the dtype that autocast would choose for a convolution.

    Autocast casts for the operations that it knows, and it does not know the forms of this file.
    """
    if not torch.is_autocast_enabled("cpu"):
        return tensors
    dtype = torch.get_autocast_dtype("cpu")
    return tuple(tensor.to(dtype) for tensor in tensors)


def pointwise(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Weight (D, C) at each voxel: (B, C, Z, Y, X) -> (B, D, Z, Y, X), channels-last."""
    return F.linear(x.movedim(1, -1), weight, bias).movedim(-1, 1)


def spread(
    x: Tensor, stride: Stride, size: tuple[int, ...] | None = None, bias: Tensor | None = None
) -> Tensor:
    """Puts stride - 1 zeros between the voxels: (B, C, Z, Y, X) -> (B, C, *size), channels-last.

    By default `size` ends at the last voxel. A bias (C,) is added everywhere.

        stride 2, size 6:   a b c  ->  a 0 b 0 c 0
    """
    if max(stride) == 1 and bias is None:
        return x
    if size is None:
        size = tuple((n - 1) * step + 1 for n, step in zip(x.shape[2:], stride))
    fill = x.new_zeros(x.shape[1]) if bias is None else bias.to(x.dtype)
    y = fill.expand(len(x), *size, -1).clone()  # (B, *size, C)
    a, b, c = stride
    y[:, ::a, ::b, ::c] += x.movedim(1, -1)
    return y.movedim(-1, 1)


class Depthwise(torch.autograd.Function):
    """Depthwise convolution, padded by half its odd kernel, or the transposed one (`up`).

    x: (B, C, Z, Y, X); weight: (C, 1, kernel). Convolution and transposed convolution are adjoint:
    the gradient by the input of one is the other. So are `spread` and `take`, which takes every
    n-th voxel. With K the kernel and K' the mirrored one:

                  forward                 gradient by the input
        down      take(K x)               K' spread(g)
        up        K' spread(x)            take(K g)
    """

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor, stride: Stride, up: bool) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.stride = stride
        ctx.up = up
        if up:
            return convolve(spread(x, stride), mirrored(weight), bias)
        return convolve(x, weight, bias, stride)

    @staticmethod
    @once_differentiable
    def backward(ctx, g: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        g = g.contiguous(memory_format=torch.channels_last_3d)
        if ctx.up:
            g_x = convolve(g, weight, None, ctx.stride)
            g_weight = weight_gradient(g, spread(x, ctx.stride), weight)
        else:
            fine = spread(g, ctx.stride, x.shape[2:])
            g_x = convolve(fine, mirrored(weight))
            g_weight = weight_gradient(x, fine, weight)
        g_bias = g.sum((0, 2, 3, 4))
        return g_x, g_weight, g_bias, None, None


def mirrored(weight: Tensor) -> Tensor:
    """The kernel (C, 1, Z, Y, X) reversed along z, y and x."""
    return weight.flip(2, 3, 4)


def convolve(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, stride: Stride = (1, 1, 1)
) -> Tensor:
    """Depthwise convolution, padded by half the kernel: x (B, C, Z, Y, X), weight (C, 1, ...)."""
    padding = tuple(size // 2 for size in weight.shape[2:])
    return F.conv3d(x, weight, bias, stride, padding, groups=len(weight))


def weight_gradient(x: Tensor, g: Tensor, weight: Tensor) -> Tensor:
    """The gradient by the weight of `convolve(x, weight)`, whose output has the gradient g.

    Args:
        x, g: (B, C, Z, Y, X).
        weight: (C, 1, depth, height, width); only its shape and dtype are read.

    A 3-D convolution is a sum of 2-D ones. In slice z of the output, slice t of the kernel meets
    slice z + t - depth // 2 of x. So the gradient of slice t of the kernel is that of a 2-D
    convolution, and the pairs of slices are its batch:

        depth 3     t = 0       t = 1       t = 2
        x           0 1 2       0 1 2 3     1 2 3
        g           1 2 3       0 1 2 3     0 1 2         slices without a partner meet the padding
    """
    channels, _, depth, height, _ = weight.shape
    out = torch.zeros_like(weight)
    for part, columns, padding in _parts_by_columns(x, weight):
        shape = (channels, 1, height, columns.stop - columns.start)
        for t in range(depth):
            shift = t - depth // 2
            first = max(0, shift)  # the slices of x that have a partner in g
            last = x.shape[2] + min(0, shift)
            if first >= last:
                continue
            for sample in range(len(x)):
                slices = part[sample, :, first:last].transpose(0, 1)  # (C, Z', ..) -> (Z', C, ..)
                gradients = g[sample, :, first - shift : last - shift].transpose(0, 1)
                out[:, :, t, :, columns] += conv2d_weight(
                    slices, shape, gradients, padding=padding, groups=channels
                )
    return out


def _parts_by_columns(x: Tensor, weight: Tensor) -> Iterator[tuple[Tensor, slice, tuple[int, int]]]:
    """Divides the kernel into parts of at most FAST_COLUMNS columns.

    Yields (image, columns, padding) for each part: the image, padded or cut along x so that the
    part meets the right pixels; the columns of the kernel; the padding along y and x that
    remains to be done.
    """
    height, width = weight.shape[3:]
    if width <= FAST_COLUMNS:
        yield x, slice(0, width), (height // 2, width // 2)
        return
    for start in range(0, width, FAST_COLUMNS):
        stop = min(start + FAST_COLUMNS, width)
        left = width // 2 - start  # columns of padding before the image; negative: cut away
        right = stop - 1 - width // 2
        if x.shape[4] + min(left, right) <= 0:
            continue  # these columns meet the padding alone
        moved = F.pad(x.movedim(1, -1), (0, 0, left, right)).movedim(-1, 1)
        yield moved, slice(start, stop), (height // 2, 0)


class Perceptron(torch.autograd.Function):
    """At each voxel outer @ gelu(inner @ x + inner_bias) + outer_bias, plus a residual if given.

    x (B, V, C), residual (B, V, D) or None, inner (B, H, C) and its bias (B, H), outer (D, H) and
    its bias (D,) -> (B, V, D), for V voxels and H hidden channels. The hidden layer, the largest
    array of a network, is made in parts that stay in the cache, and is made again in the backward
    pass: it never lies in memory as a whole.
    """

    # elements of the hidden layer: 4 MB stay in a cache, and are long enough for threads to share
    PART = 2**20

    @staticmethod
    def forward(ctx, x, residual, inner, inner_bias, outer, outer_bias):
        ctx.save_for_backward(x, inner, inner_bias, outer)
        y = x.new_empty(*x.shape[:2], len(outer))
        return Perceptron.fill(y, x, residual, inner, inner_bias, outer, outer_bias)

    @staticmethod
    def fill(y, x, residual, inner, inner_bias, outer, outer_bias):
        """Writes the result to y (B, V, D), which may be the memory of the residual."""
        for sample, rows in parts(x, inner):
            h = F.linear(x[sample, rows], inner[sample], inner_bias[sample])  # (rows, H)
            h = F.gelu(h)
            out = y[sample, rows]
            if residual is None:
                torch.addmm(outer_bias, h, outer.T, out=out)
            else:
                torch.add(residual[sample, rows], outer_bias, out=out)
                out.addmm_(h, outer.T)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx, g):
        x, inner, inner_bias, outer = ctx.saved_tensors
        g_x = torch.empty_like(x)
        g_inner = _zeros_for_sums(inner)
        g_inner_bias = _zeros_for_sums(inner_bias)
        g_outer = _zeros_for_sums(outer)
        for sample, rows in parts(x, inner):
            h = F.linear(x[sample, rows], inner[sample], inner_bias[sample])  # (rows, H)
            g_outer += g[sample, rows].T @ F.gelu(h)
            g_h = torch.ops.aten.gelu_backward(g[sample, rows] @ outer, h)
            g_inner[sample] += g_h.T @ x[sample, rows]
            g_inner_bias[sample] += g_h.sum(0)
            torch.mm(g_h, inner[sample], out=g_x[sample, rows])
        g_residual = g if ctx.needs_input_grad[1] else None
        g_outer_bias = g.sum((0, 1))
        return g_x, g_residual, g_inner, g_inner_bias, g_outer, g_outer_bias


def _zeros_for_sums(weight: Tensor) -> Tensor:
    """Zeros of the shape of a weight, in single precision at least: many parts are summed."""
    return torch.zeros(weight.shape, dtype=torch.promote_types(weight.dtype, torch.float32))


def parts(x: Tensor, inner: Tensor) -> list[tuple[int, slice]]:
    """Samples and rows of x (B, V, C) that are few enough for one part of the hidden layer."""
    rows = max(1, Perceptron.PART // inner.shape[1])
    return [
        (sample, slice(row, row + rows))
        for sample in range(len(x))
        for row in range(0, x.shape[1], rows)
    ]
