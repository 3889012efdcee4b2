"""max_unpool2d: pooled values back at the pixels that a max-pool took them from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from .. import _geometry as geometry
from .._geometry import Int, Padding, Pair
from . import _dispatch as dispatch
from ._dispatch import Arguments, LinearMap, below_autograd, ops


@dataclass(slots=True)
class Scattering:
    """The linear map that indices fix: each value is added to its pixel; the transpose reads the pixels."""

    output_size: Sequence[Int]
    algorithm: str

    def __call__(self, tensor: torch.Tensor, indices: torch.Tensor | None, transposed: bool) -> torch.Tensor:
        if transposed:
            return ops.max_unpool2d_gather.default(tensor, indices, algorithm=self.algorithm)
        return ops.max_unpool2d.default(tensor, indices, self.output_size, accumulate=True, algorithm=self.algorithm)


class MaxUnpool(dispatch.Function):
    """Of several values for one pixel one stays; every one of them receives the pixel's gradient."""

    @staticmethod
    def forward(input: torch.Tensor, indices: torch.Tensor, scattering: Scattering) -> torch.Tensor:
        with below_autograd():
            return ops.max_unpool2d.default(input, indices, scattering.output_size, algorithm=scattering.algorithm)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
        _, indices, ctx.scattering = inputs
        ctx.save_for_backward(indices)
        ctx.save_for_forward(indices)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[Any, ...]:
        (indices,) = ctx.saved_tensors
        return LinearMap.call(grad, indices, True, ctx.scattering), None, None

    @staticmethod
    def jvp(ctx: Any, tangent: torch.Tensor, *_: None) -> torch.Tensor:
        (indices,) = MaxUnpool.primals(ctx)
        return MaxUnpool.call(tangent, indices, ctx.scattering)

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[Any, ...], input: torch.Tensor, indices: torch.Tensor, scattering: Scattering
    ) -> tuple[torch.Tensor, int]:
        values = dispatch.fold_into_batch(input, in_dims[0], info.batch_size)
        places = dispatch.fold_into_batch(indices, in_dims[1], info.batch_size)
        rank = dispatch.sample_rank(input, in_dims[0])
        return dispatch.unfold_from_batch(MaxUnpool.call(values, places, scattering), info.batch_size, rank), 0


@dispatch.public
def max_unpool2d(
    input: torch.Tensor,
    indices: torch.Tensor,
    kernel_size: Pair,
    stride: Pair | None = None,
    padding: Padding = 0,
    output_size: Sequence[Int] | None = None,
    *,
    algorithm: str = "auto",
) -> torch.Tensor:
    r"""Partial inverse of :func:`max_pool2d`; a drop-in for :func:`torch.nn.functional.max_unpool2d`.

    .. math:: y_{n,c,h,w} = x_{n,c,p,q} \quad\text{where}\quad \text{indices}_{n,c,p,q} = h W + w

    and zero at pixels that no index names. Where windows overlap, several values can name one pixel (a max-pool gives
    them the same value): the last one in row-major order stays, in every run. The gradient is a gather: each value
    receives that of the pixel it names, as in torch.

    Args:
        input: ``(N, C, P, Q)`` or ``(C, P, Q)``; float32, float64, bfloat16, float16, or (without gradient) an integer
            dtype of 8 to 64 bits; any strides. The output keeps its memory format.
        indices: int64, of the size of ``input``, as :func:`max_pool2d` returns them; each is checked (on CUDA that
            waits for the kernel, except under graph capture, where a bad index writes nothing).
        kernel_size, stride, padding: those of the max-pool, which give the size of the output,
            ``(P - 1) stride + kernel_size - pads``; padding as an int, a pair or four sides.
        output_size: ``(H, W)`` or the whole size of the output, each side less than a stride from that.
        algorithm: ``"auto"`` or a name from ``torch_convops.algorithms("max_unpool2d", device)``.

    Returns:
        ``(N, C, H, W)`` or ``(C, H, W)``.

    Raises:
        ValueError: an argument's value breaks a rule above; the message names argument, value and rule.
        TypeError: an argument is of the wrong type.
    """
    kernel = geometry.pair("kernel_size", kernel_size)
    steps = geometry.pool_stride(stride, kernel)
    if isinstance(padding, str):
        raise TypeError(f"padding must be an int, a pair of ints or four sides, got {padding!r}")
    pads = geometry.sides(padding, (), (), (), ())
    if output_size is not None:
        if not isinstance(output_size, Sequence) or len(output_size) not in (2, 4, input.dim()):
            raise ValueError(f"output_size must be (height, width) or a size that ends in it, got {output_size!r}")
        output_size = geometry.pair("output_size", output_size[-2:])
    geometry.image_size("max_unpool2d", "input", input)
    scattering = Scattering(geometry.unpool2d_size(input.shape, kernel, steps, pads, output_size), algorithm)
    if dispatch.is_traced():
        return ops.max_unpool2d(input, indices, scattering.output_size, algorithm=algorithm)
    return _differentiable(input, indices, scattering)


def _differentiable(input: torch.Tensor, indices: torch.Tensor, scattering: Scattering) -> torch.Tensor:
    if dispatch.is_plain(input):
        return MaxUnpool.forward(input, indices, scattering)
    return MaxUnpool.call(input, indices, scattering)


# --- registration: what torch.ops.torch_convops.* does under autograd and fake tensors ---


def _max_unpool2d_differentiable(a: Arguments) -> torch.Tensor:
    scattering = Scattering(a.output_size, a.algorithm)
    if a.accumulate:
        return LinearMap.call(a.input, a.indices, False, scattering)
    return _differentiable(a.input, a.indices, scattering)


def _gather_differentiable(a: Arguments) -> torch.Tensor:
    return LinearMap.call(a.input, a.indices, True, Scattering(a.input.shape[-2:], a.algorithm))


dispatch.register_autograd("max_unpool2d", _max_unpool2d_differentiable)
dispatch.register_autograd("max_unpool2d_gather", _gather_differentiable)


def _check_indices(op: str, a: Arguments) -> tuple[Int, Int, Int, Int]:
    if a.indices is None:
        raise ValueError(f"{op}: indices must be a Tensor, got None")
    if a.indices.dtype != torch.int64:
        raise TypeError(f"{op}: indices must be int64, got {dispatch.dtype_name(a.indices.dtype)}")
    if a.indices.device != a.input.device:
        raise ValueError(f"{op}: indices must be on the device of input")
    size, pooled = geometry.image_size(op, "input", a.input), geometry.image_size(op, "indices", a.indices)
    sizes = geometry.as_tuple(a.input.shape), geometry.as_tuple(a.indices.shape)
    if a.input.dim() != a.indices.dim() or size[0] != pooled[0] or size[1] != pooled[1]:
        raise ValueError(f"{op}: indices must have the batch and channels of input, {sizes[0]}, got {sizes[1]}")
    if size[1] == 0:
        raise ValueError(f"{op}: input must have at least one channel, got size {sizes[0]}")
    return pooled


@dispatch.register_fake("max_unpool2d")
def _max_unpool2d_fake(a: Arguments) -> torch.Tensor:
    op = "max_unpool2d"
    dispatch.check_dtype(op, "input", a.input, integers=True)
    pooled = _check_indices(op, a)
    if any(n != m for n, m in zip(a.input.shape, a.indices.shape, strict=True)):
        sizes = geometry.as_tuple(a.input.shape), geometry.as_tuple(a.indices.shape)
        raise ValueError(f"{op}: indices must be of the size of input, {sizes[0]}, got {sizes[1]}")
    H, W = geometry.expand(op, "output_size", a.output_size)
    if H <= 0 or W <= 0:
        raise ValueError(f"{op}: output_size must be positive, got {geometry.as_tuple((H, W))}")
    geometry.check_numel(op, "output", (*pooled[:2], H, W))
    return dispatch.empty_image(a.input, (*pooled[:2], H, W), dispatch.is_channels_last(a.input))


@dispatch.register_fake("max_unpool2d_gather")
def _gather_fake(a: Arguments) -> torch.Tensor:
    op = "max_unpool2d_gather"
    dispatch.check_dtype(op, "input", a.input)
    return dispatch.empty_image(a.input, _check_indices(op, a), dispatch.is_channels_last(a.input))
