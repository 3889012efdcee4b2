"""avg_pool2d: the mean of each window, and its transpose."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from .. import _geometry as geometry
from .._geometry import AdaptiveSize, Int, Padding, Pair
from . import _dispatch as dispatch
from ._dispatch import Arguments, LinearMap, below_autograd, ops


@dataclass(slots=True)
class Averaging:
    """Average-pooling as the linear map that it is, of sliding windows or of adaptive ones."""

    adaptive: bool
    input_size: Sequence[Int]
    # kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override; or output_size of adaptive windows
    window: tuple[Any, ...]
    memory_format: torch.memory_format  # of the input
    options: dict[str, Any]  # dilation, algorithm, where they are not the defaults

    def __call__(self, tensor: torch.Tensor, fixed: torch.Tensor | None, transposed: bool) -> torch.Tensor:
        if not transposed:
            operator = ops.adaptive_avg_pool2d.default if self.adaptive else ops.avg_pool2d.default
            return operator(tensor, *self.window, **self.options)
        options = {"memory_format": self.memory_format, **self.options}
        if self.adaptive:
            return ops.adaptive_avg_pool2d_grad_input.default(tensor, self.input_size, **options)
        return ops.avg_pool2d_grad_input.default(tensor, self.input_size, *self.window, **options)


@dispatch.public
def avg_pool2d(
    input: torch.Tensor,
    kernel_size: Pair,
    stride: Pair | None = None,
    padding: Padding = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
    *,
    dilation: Pair = 1,
    algorithm: str = "auto",
) -> torch.Tensor:
    r"""Mean over sliding windows; a drop-in for :func:`torch.nn.functional.avg_pool2d`.

    .. math:: y_{n,c,p,q} = \frac{1}{D_{p,q}} \sum_{r,s} x_{n,\,c,\;p s_h + r d_h - t,\;q s_w + s d_w - l}

    over the taps inside the image. :math:`D` is ``divisor_override`` where given, else the number of the window's
    pixels inside the image and, with ``count_include_pad``, its padding. What overhangs the padding in ``ceil_mode``
    never counts.

    Args:
        input: ``(N, C, H, W)`` or ``(C, H, W)``; float32, float64, bfloat16 or float16; any strides. The output
            keeps its memory format.
        kernel_size: positive int or (height, width).
        stride: positive int or (height, width); ``None`` or empty means ``kernel_size``.
        padding: int, pair, ``((top, bottom), (left, right))`` or a mode as for :func:`torch_convops.conv2d`; at most
            half of the window's extent ``dilation * (kernel_size - 1) + 1`` on each side.
        ceil_mode: round the output size up; a window that would start beyond the image and its upper-left padding is
            dropped.
        count_include_pad: whether padding counts in the divisor.
        divisor_override: non-zero divisor for every window, or None.
        dilation: positive int or (height, width), the distance of a window's taps. Where it steps over the whole image
            and ``count_include_pad`` is off, there is nothing to take the mean of: NaN.
        algorithm: ``"auto"`` or a name from ``torch_convops.algorithms("avg_pool2d", device)``.

    Returns:
        ``(N, C, P, Q)`` or ``(C, P, Q)``. Sums are accumulated in float32 (float64 for float64).

    Raises:
        ValueError: an argument's value breaks a rule above; the message names argument, value and rule.
        TypeError: an argument is of the wrong type.
    """
    kernel = geometry.pair("kernel_size", kernel_size)
    steps = geometry.pool_stride(stride, kernel)
    spacing = geometry.pair("dilation", dilation)
    pads = geometry.sides(padding, input.shape, kernel, steps, spacing)
    window = dispatch.given(
        (kernel, steps, pads, ceil_mode, count_include_pad, divisor_override),
        (kernel, dispatch.NO_PADDING, False, True, None),
    )
    return _pool(False, input, window, _options(algorithm, spacing))


@dispatch.public
def adaptive_avg_pool2d(input: torch.Tensor, output_size: AdaptiveSize, *, algorithm: str = "auto") -> torch.Tensor:
    r"""Mean over ``output_size`` windows; a drop-in for :func:`torch.nn.functional.adaptive_avg_pool2d`.

    Window (p, q) of (P, Q) holds the rows from :math:`\lfloor p H / P \rfloor` up to, not including,
    :math:`\lceil (p + 1) H / P \rceil`; so for the columns. Windows overlap where P does not divide H.

    Args:
        input: as for :func:`avg_pool2d`.
        output_size: non-negative int, (height, width), or None for a side as large as the input's.
        algorithm: ``"auto"`` or a name from ``torch_convops.algorithms("avg_pool2d", device)``.

    Returns:
        ``(N, C, P, Q)`` or ``(C, P, Q)``, accumulated as for :func:`avg_pool2d`.

    Raises:
        ValueError: an argument's value breaks a rule above; the message names argument, value and rule.
        TypeError: an argument is of the wrong type.
    """
    return _pool(True, input, (geometry.adaptive_output_size(output_size, input.shape),), _options(algorithm))


def _options(algorithm: str, dilation: tuple[Int, Int] = (1, 1)) -> dict[str, Any]:
    """The keywords of an operator that are not its defaults; like :func:`dispatch.given`."""
    options = dispatch.algorithm_option(algorithm)
    return options if dilation == (1, 1) else {"dilation": dilation, **options}


def _pool(adaptive: bool, input: torch.Tensor, window: tuple[Any, ...], options: dict[str, Any]) -> torch.Tensor:
    if not dispatch.is_traced() and not dispatch.is_plain(input):
        return _differentiable(adaptive, input, window, options)
    operator = ops.adaptive_avg_pool2d.default if adaptive else ops.avg_pool2d.default
    if dispatch.is_traced():
        return operator(input, *window, **options)
    with below_autograd():
        return operator(input, *window, **options)


def avg_pool2d_choice(
    pass_: str,
    input: torch.Tensor,
    kernel_size: Pair,
    stride: Pair | None = None,
    padding: Padding = 0,
    ceil_mode: bool = False,
    *,
    dilation: Pair = 1,
) -> str:
    """Returns the algorithm that ``"auto"`` takes for a pass of this pooling.

    Args:
        pass_: ``"forward"`` or ``"grad_input"``.
        input, ...: as for :func:`avg_pool2d`; only shape, dtype, device and memory format of the input are looked at.
    """
    kernel = geometry.pair("kernel_size", kernel_size)
    steps = geometry.pool_stride(stride, kernel)
    spacing = geometry.pair("dilation", dilation)
    pads = geometry.sides(padding, input.shape, kernel, steps, spacing)
    index = geometry.index_of("pass_", pass_, ("forward", "grad_input"))
    return dispatch.pool2d_choice("avg_pool2d", index, input, (kernel, steps, pads, spacing), ceil_mode)


def _differentiable(
    adaptive: bool, input: torch.Tensor, window: tuple[Any, ...], options: dict[str, Any]
) -> torch.Tensor:
    memory_format = dispatch.memory_format(dispatch.is_channels_last(input))
    return LinearMap.call(input, None, False, Averaging(adaptive, input.shape[-2:], window, memory_format, options))


# --- registration: what torch.ops.torch_convops.* does under autograd and fake tensors, once for both families ---


def _register(name: str, adaptive: bool) -> None:
    def window(a: Arguments) -> tuple[Any, ...]:
        if adaptive:
            return (a.output_size,)
        return a.kernel_size, a.stride, a.padding, a.ceil_mode, a.count_include_pad, a.divisor_override

    def options(a: Arguments) -> dict[str, Any]:
        return {"algorithm": a.algorithm} | ({} if adaptive else {"dilation": a.dilation})

    def forward(a: Arguments) -> torch.Tensor:
        return _differentiable(adaptive, a.input, window(a), options(a))

    def grad_input(a: Arguments) -> torch.Tensor:
        if adaptive:
            a.output_size = a.grad_output.shape[-2:]
        memory_format = a.memory_format or dispatch.memory_format(dispatch.is_channels_last(a.grad_output))
        averaging = Averaging(adaptive, a.input_size, window(a), memory_format, options(a))
        return LinearMap.call(a.grad_output, None, True, averaging)

    dispatch.register_autograd(name, forward)
    dispatch.register_autograd(f"{name}_grad_input", grad_input)

    def output_size(op: str, a: Arguments, input_size: Sequence[Int]) -> tuple[Int, Int, Int, Int]:
        if adaptive:
            return geometry.adaptive_pool2d_size(op, input_size, a.output_size)
        size = geometry.pool2d_size(op, input_size, a.kernel_size, a.stride, a.padding, a.dilation, a.ceil_mode)
        if a.divisor_override is not None and a.divisor_override == 0:
            raise ValueError(f"{op}: divisor_override must not be zero")
        return size

    def forward_fake(a: Arguments) -> torch.Tensor:
        dispatch.check_dtype(name, "input", a.input)
        size = output_size(name, a, geometry.image_size(name, "input", a.input))
        return dispatch.empty_image(a.input, size, dispatch.is_channels_last(a.input))

    def grad_input_fake(a: Arguments) -> torch.Tensor:
        op = f"{name}_grad_input"
        dispatch.check_dtype(op, "grad_output", a.grad_output)
        grad_size = geometry.image_size(op, "grad_output", a.grad_output)
        if adaptive:
            a.output_size = grad_size[-2:]
        size = (*grad_size[:2], *geometry.expand(op, "input_size", a.input_size))
        geometry.check_size(op, "grad_output", grad_size, output_size(op, a, size))
        return dispatch.empty_image(a.grad_output, size, dispatch.wants_channels_last(a.grad_output, a.memory_format))

    dispatch.register_fake(name)(forward_fake)
    dispatch.register_fake(f"{name}_grad_input")(grad_input_fake)


_register("avg_pool2d", False)
_register("adaptive_avg_pool2d", True)
