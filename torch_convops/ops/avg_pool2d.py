"""avg_pool2d: the mean of each window, and its transpose."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

from .. import _geometry as geometry
from .._geometry import Int, Padding, Pair
from . import _dispatch as dispatch
from ._dispatch import Arguments, LinearMap, below_autograd, ops


class Averaging(NamedTuple):
    """Average-pooling as the linear map that it is."""

    input_size: Sequence[Int]
    window: tuple[Any, ...]  # kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override
    memory_format: torch.memory_format  # of the input
    algorithm: str

    def __call__(self, tensor: torch.Tensor, fixed: torch.Tensor | None, transposed: bool) -> torch.Tensor:
        if transposed:
            return ops.avg_pool2d_grad_input.default(
                tensor, self.input_size, *self.window, memory_format=self.memory_format, algorithm=self.algorithm
            )
        return ops.avg_pool2d.default(tensor, *self.window, algorithm=self.algorithm)


@dispatch.raises_argument_errors
def avg_pool2d(
    input: torch.Tensor,
    kernel_size: Pair,
    stride: Pair | None = None,
    padding: Padding = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
    *,
    algorithm: str = "auto",
) -> torch.Tensor:
    r"""Mean over sliding windows; a drop-in for :func:`torch.nn.functional.avg_pool2d`.

    .. math:: y_{n,c,p,q} = \frac{1}{D_{p,q}} \sum_{r,s} x_{n,\,c,\;p s_h + r - t,\;q s_w + s - l}

    over the taps inside the image. :math:`D` is ``divisor_override`` where given, else the number of the window's
    pixels inside the image and, with ``count_include_pad``, its padding. What overhangs the padding in ``ceil_mode``
    never counts.

    Args:
        input: ``(N, C, H, W)`` or ``(C, H, W)``; float32, float64, bfloat16 or float16; any strides. The output
            keeps its memory format.
        kernel_size: positive int or (height, width).
        stride: positive int or (height, width); ``None`` or empty means ``kernel_size``.
        padding: int, pair, ``((top, bottom), (left, right))`` or a mode as for :func:`torch_convops.conv2d`; at most
            half of ``kernel_size`` on each side.
        ceil_mode: round the output size up; a window that would start beyond the image and its upper-left padding is
            dropped.
        count_include_pad: whether padding counts in the divisor.
        divisor_override: non-zero divisor for every window, or None.
        algorithm: ``"auto"`` or a name from ``torch_convops.algorithms("avg_pool2d", device)``.

    Returns:
        ``(N, C, P, Q)`` or ``(C, P, Q)``. Sums are accumulated in float32 (float64 for float64).

    Raises:
        ValueError: an argument's value breaks a rule above; the message names argument, value and rule.
        TypeError: an argument is of the wrong type.
    """
    kernel = geometry.pair("kernel_size", kernel_size)
    steps = geometry.pool_stride(stride, kernel)
    pads = geometry.sides(padding, input.shape, kernel, steps, (1, 1))
    window = (kernel, steps, pads, ceil_mode, count_include_pad, divisor_override)
    if dispatch.is_traced():
        return ops.avg_pool2d(input, *window, algorithm=algorithm)
    if dispatch.is_plain(input):
        with below_autograd():
            return ops.avg_pool2d.default(input, *window, algorithm=algorithm)
    return _differentiable(input, window, algorithm)


def avg_pool2d_choice(
    pass_: str,
    input: torch.Tensor,
    kernel_size: Pair,
    stride: Pair | None = None,
    padding: Padding = 0,
    ceil_mode: bool = False,
) -> str:
    """Returns the algorithm that ``"auto"`` takes for a pass of this pooling.

    Args:
        pass_: ``"forward"`` or ``"grad_input"``.
        input, ...: as for :func:`avg_pool2d`; only shape, dtype, device and memory format of the input are looked at.
    """
    kernel = geometry.pair("kernel_size", kernel_size)
    steps = geometry.pool_stride(stride, kernel)
    pads = geometry.sides(padding, input.shape, kernel, steps, (1, 1))
    index = geometry.index_of("pass_", pass_, ("forward", "grad_input"))
    return dispatch.pool2d_choice("avg_pool2d", index, input, (kernel, steps, pads, (1, 1)), ceil_mode)


def _differentiable(input: torch.Tensor, window: tuple[Any, ...], algorithm: str) -> torch.Tensor:
    averaging = Averaging(input.shape[-2:], window, dispatch.memory_format(dispatch.is_channels_last(input)), algorithm)
    return LinearMap.call(input, None, False, averaging)


# --- registration: what torch.ops.torch_convops.* does under autograd and fake tensors ---


def _window(a: Arguments) -> tuple[Any, ...]:
    return a.kernel_size, a.stride, a.padding, a.ceil_mode, a.count_include_pad, a.divisor_override


def _avg_pool2d_differentiable(a: Arguments) -> torch.Tensor:
    return _differentiable(a.input, _window(a), a.algorithm)


def _grad_input_differentiable(a: Arguments) -> torch.Tensor:
    memory_format = a.memory_format or dispatch.memory_format(dispatch.is_channels_last(a.grad_output))
    averaging = Averaging(a.input_size, _window(a), memory_format, a.algorithm)
    return LinearMap.call(a.grad_output, None, True, averaging)


dispatch.register_autograd("avg_pool2d", _avg_pool2d_differentiable)
dispatch.register_autograd("avg_pool2d_grad_input", _grad_input_differentiable)


def _output_size(op: str, size: Sequence[Int], a: Arguments) -> tuple[Int, Int, Int, Int]:
    output_size = geometry.pool2d_size(op, size, a.kernel_size, a.stride, a.padding, ceil_mode=a.ceil_mode)
    if a.divisor_override is not None and a.divisor_override == 0:
        raise ValueError(f"{op}: divisor_override must not be zero")
    return output_size


@dispatch.register_fake("avg_pool2d")
def _avg_pool2d_fake(a: Arguments) -> torch.Tensor:
    dispatch.check_dtype("avg_pool2d", "input", a.input)
    size = _output_size("avg_pool2d", geometry.image_size("avg_pool2d", "input", a.input), a)
    return dispatch.empty_image(a.input, size, dispatch.is_channels_last(a.input))


@dispatch.register_fake("avg_pool2d_grad_input")
def _grad_input_fake(a: Arguments) -> torch.Tensor:
    op = "avg_pool2d_grad_input"
    dispatch.check_dtype(op, "grad_output", a.grad_output)
    grad_size = geometry.image_size(op, "grad_output", a.grad_output)
    size = (*grad_size[:2], *geometry.expand(op, "input_size", a.input_size))
    geometry.check_size(op, "grad_output", grad_size, _output_size(op, size, a))
    return dispatch.empty_image(a.grad_output, size, dispatch.wants_channels_last(a.grad_output, a.memory_format))
