"""max_pool2d: the maximum of each window, routed back by its offset inside the window."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

from .. import _geometry as geometry
from .._geometry import Int, Padding, Pair
from . import _dispatch as dispatch
from ._dispatch import Arguments, LinearMap, below_autograd, ops


class Routing(NamedTuple):
    """The linear map that saved offsets fix: gather reads each window's tap, its transpose routes values there."""

    input_size: Sequence[Int]
    window: tuple[Any, ...]  # kernel_size, stride, padding, dilation, ceil_mode
    memory_format: torch.memory_format  # of the input
    algorithm: str

    def __call__(self, tensor: torch.Tensor, offsets: torch.Tensor | None, transposed: bool) -> torch.Tensor:
        if transposed:
            return ops.max_pool2d_grad_input.default(
                tensor,
                offsets,
                self.input_size,
                *self.window,
                memory_format=self.memory_format,
                algorithm=self.algorithm,
            )
        return ops.max_pool2d_gather.default(tensor, offsets, *self.window, algorithm=self.algorithm)


class MaxPool(dispatch.Function):
    """Values and window offsets. Only the offsets are saved: one byte an output."""

    @staticmethod
    def forward(input: torch.Tensor, routing: Routing) -> tuple[torch.Tensor, torch.Tensor]:
        with below_autograd():
            return ops.max_pool2d_with_offsets.default(input, *routing.window, algorithm=routing.algorithm)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[torch.Tensor, torch.Tensor]) -> None:
        ctx.routing = inputs[1]
        _, offsets = output
        ctx.mark_non_differentiable(offsets)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(offsets)
        ctx.save_for_forward(offsets)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor | None, _: None) -> tuple[Any, ...]:
        (offsets,) = ctx.saved_tensors
        return None if grad is None else LinearMap.call(grad, offsets, True, ctx.routing), None

    @staticmethod
    def jvp(ctx: Any, tangent: torch.Tensor, _: None) -> tuple[torch.Tensor, None]:
        (offsets,) = MaxPool.primals(ctx)
        return LinearMap.call(tangent, offsets, False, ctx.routing), None

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[Any, ...], input: torch.Tensor, routing: Routing
    ) -> tuple[tuple[torch.Tensor, ...], tuple[int, int]]:
        rank = dispatch.sample_rank(input, in_dims[0])
        results = MaxPool.call(dispatch.fold_into_batch(input, in_dims[0], info.batch_size), routing)
        return tuple(dispatch.unfold_from_batch(t, info.batch_size, rank) for t in results), (0, 0)


@dispatch.raises_argument_errors
def max_pool2d(
    input: torch.Tensor,
    kernel_size: Pair,
    stride: Pair | None = None,
    padding: Padding = 0,
    dilation: Pair = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
    *,
    algorithm: str = "auto",
) -> Any:
    r"""Maximum over sliding windows; a drop-in for :func:`torch.nn.functional.max_pool2d`.

    .. math:: y_{n,c,p,q} = \max_{r,s} x_{n,\,c,\;p s_h + r d_h - t,\;q s_w + s d_w - l}

    over the taps inside the image. The gradient goes to the tap that was picked: the first maximum in row-major order;
    a NaN beats every number and the last NaN beats earlier ones, as in torch; a window of -inf picks its first tap.

    Args:
        input: ``(N, C, H, W)`` or ``(C, H, W)``; float32, float64, bfloat16, float16, or (without gradient) an integer
            dtype of 8 to 64 bits; any strides. The output keeps its memory format.
        kernel_size: positive int or (height, width).
        stride: positive int or (height, width); ``None`` or empty means ``kernel_size``.
        padding: int, pair, ``((top, bottom), (left, right))`` or a mode as for :func:`torch_convops.conv2d`; at most
            half of the window's extent ``dilation * (kernel_size - 1) + 1`` on each side.
        dilation: positive int or (height, width).
        ceil_mode: round the output size up; a window that would start beyond the image and its upper-left padding is
            dropped.
        return_indices: also return the int64 index ``h * W + w`` of each maximum in its plane.
        algorithm: ``"auto"`` or a name from ``torch_convops.algorithms("max_pool2d", device)``.

    Returns:
        ``(N, C, P, Q)`` or ``(C, P, Q)``; with ``return_indices`` a tuple of that and the indices.

    Raises:
        ValueError: an argument's value breaks a rule above; the message names argument, value and rule.
        TypeError: an argument is of the wrong type.
    """
    if not isinstance(return_indices, int):
        raise TypeError(f"max_pool2d: return_indices must be a bool, got {return_indices!r}")
    kernel, spacing = geometry.pair("kernel_size", kernel_size), geometry.pair("dilation", dilation)
    steps = geometry.pool_stride(stride, kernel)
    pads = geometry.sides(padding, input.shape, kernel, steps, spacing)
    window = (kernel, steps, pads, spacing, ceil_mode)
    if dispatch.is_traced():
        if not return_indices and not input.requires_grad:
            return ops.max_pool2d(input, *window, algorithm=algorithm)
        output, offsets = ops.max_pool2d_with_offsets(input, *window, algorithm=algorithm)
    elif dispatch.is_plain(input):
        with below_autograd():
            if not return_indices:
                return ops.max_pool2d.default(input, *window, algorithm=algorithm)
            output, offsets = ops.max_pool2d_with_offsets.default(input, *window, algorithm=algorithm)
    else:
        output, offsets = _with_offsets(input, window, algorithm)
    if not return_indices:
        return output
    return output, ops.max_pool2d_indices(offsets, input.shape[-2:], *window, algorithm=algorithm)


def max_pool2d_choice(
    pass_: str,
    input: torch.Tensor,
    kernel_size: Pair,
    stride: Pair | None = None,
    padding: Padding = 0,
    dilation: Pair = 1,
    ceil_mode: bool = False,
) -> str:
    """Returns the algorithm that ``"auto"`` takes for a pass of this pooling.

    Args:
        pass_: ``"forward"``, ``"forward_with_offsets"`` (for a gradient or indices) or ``"grad_input"``.
        input, ...: as for :func:`max_pool2d`; only shape, dtype, device and memory format of the input are looked at.
    """
    kernel, spacing = geometry.pair("kernel_size", kernel_size), geometry.pair("dilation", dilation)
    steps = geometry.pool_stride(stride, kernel)
    pads = geometry.sides(padding, input.shape, kernel, steps, spacing)
    index = geometry.index_of("pass_", pass_, ("forward", "forward_with_offsets", "grad_input"))
    return dispatch.pool2d_choice("max_pool2d", index, input, (kernel, steps, pads, spacing), ceil_mode)


def _with_offsets(input: torch.Tensor, window: tuple[Any, ...], algorithm: str) -> tuple[torch.Tensor, torch.Tensor]:
    channels_last = dispatch.is_channels_last(input)
    output, offsets = MaxPool.call(
        input, Routing(input.shape[-2:], window, dispatch.memory_format(channels_last), algorithm)
    )
    return output, offsets


# --- registration: what torch.ops.torch_convops.* does under autograd and fake tensors ---


def _window(a: Arguments) -> tuple[Any, ...]:
    return a.kernel_size, a.stride, a.padding, a.dilation, a.ceil_mode


def _max_pool2d_differentiable(a: Arguments) -> torch.Tensor:
    if dispatch.is_plain(a.input):
        with below_autograd():
            return ops.max_pool2d.default(a.input, *_window(a), algorithm=a.algorithm)
    return _with_offsets(a.input, _window(a), a.algorithm)[0]


def _with_offsets_differentiable(a: Arguments) -> tuple[torch.Tensor, torch.Tensor]:
    return _with_offsets(a.input, _window(a), a.algorithm)


def _grad_input_differentiable(a: Arguments) -> torch.Tensor:
    memory_format = a.memory_format or dispatch.memory_format(dispatch.is_channels_last(a.grad_output))
    routing = Routing(a.input_size, _window(a), memory_format, a.algorithm)
    return LinearMap.call(a.grad_output, a.offsets, True, routing)


def _gather_differentiable(a: Arguments) -> torch.Tensor:
    memory_format = dispatch.memory_format(dispatch.is_channels_last(a.input))
    routing = Routing(a.input.shape[-2:], _window(a), memory_format, a.algorithm)
    return LinearMap.call(a.input, a.offsets, False, routing)


dispatch.register_autograd("max_pool2d", _max_pool2d_differentiable)
dispatch.register_autograd("max_pool2d_with_offsets", _with_offsets_differentiable)
dispatch.register_autograd("max_pool2d_grad_input", _grad_input_differentiable)
dispatch.register_autograd("max_pool2d_gather", _gather_differentiable)


def _offset_dtype(op: str, kernel_size: Any) -> torch.dtype:
    height, width = geometry.expand(op, "kernel_size", kernel_size)
    return torch.uint8 if height * width <= 256 else torch.int32


def _check_offsets(op: str, offsets: torch.Tensor, size: Any, kernel_size: Any) -> None:
    expected = _offset_dtype(op, kernel_size)
    if offsets.dtype != expected:
        height, width = geometry.expand(op, "kernel_size", kernel_size)
        raise TypeError(
            f"{op}: offsets must be {str(expected).removeprefix('torch.')} for a window of {height * width} taps, "
            f"got {str(offsets.dtype).removeprefix('torch.')}"
        )
    geometry.check_size(op, "offsets", geometry.image_size(op, "offsets", offsets), size)


@dispatch.register_fake("max_pool2d")
def _max_pool2d_fake(a: Arguments) -> torch.Tensor:
    dispatch.check_dtype("max_pool2d", "input", a.input, integers=True)
    size = geometry.pool2d_size("max_pool2d", geometry.image_size("max_pool2d", "input", a.input), *_window(a))
    return dispatch.empty_image(a.input, size, dispatch.is_channels_last(a.input))


@dispatch.register_fake("max_pool2d_with_offsets")
def _with_offsets_fake(a: Arguments) -> tuple[torch.Tensor, torch.Tensor]:
    output = _max_pool2d_fake(a)
    return output, torch.empty_like(output, dtype=_offset_dtype("max_pool2d", a.kernel_size))


@dispatch.register_fake("max_pool2d_grad_input")
def _grad_input_fake(a: Arguments) -> torch.Tensor:
    op = "max_pool2d_grad_input"
    dispatch.check_dtype(op, "grad_output", a.grad_output)
    grad_size = geometry.image_size(op, "grad_output", a.grad_output)
    size = (*grad_size[:2], *geometry.expand(op, "input_size", a.input_size))
    output_size = geometry.pool2d_size(op, size, *_window(a))
    geometry.check_size(op, "grad_output", grad_size, output_size)
    _check_offsets(op, a.offsets, output_size, a.kernel_size)
    return dispatch.empty_image(a.grad_output, size, dispatch.wants_channels_last(a.grad_output, a.memory_format))


@dispatch.register_fake("max_pool2d_gather")
def _gather_fake(a: Arguments) -> torch.Tensor:
    op = "max_pool2d_gather"
    dispatch.check_dtype(op, "input", a.input)
    size = geometry.pool2d_size(op, geometry.image_size(op, "input", a.input), *_window(a))
    _check_offsets(op, a.offsets, size, a.kernel_size)
    return dispatch.empty_image(a.input, size, dispatch.is_channels_last(a.input))


@dispatch.register_fake("max_pool2d_indices")
def _indices_fake(a: Arguments) -> torch.Tensor:
    op = "max_pool2d_indices"
    H, W = geometry.expand(op, "input_size", a.input_size)
    size = (*geometry.image_size(op, "offsets", a.offsets)[:2], H, W)
    output_size = geometry.pool2d_size(op, size, *_window(a))
    _check_offsets(op, a.offsets, output_size, a.kernel_size)
    return dispatch.empty_image(a.offsets, output_size, dispatch.is_channels_last(a.offsets), torch.int64)
