"""conv_transpose2d: the gradient of conv2d with respect to its input, as an operator of its own."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import torch

from .. import _geometry as geometry
from .._geometry import Int, Padding, Pair
from . import _dispatch as dispatch
from ._complex import complex_as_real
from ._dispatch import Arguments, below_autograd, ops
from .conv2d import INPUT, Contraction, Parameters, call_options, format_of, given


@dispatch.public
def conv_transpose2d(
    input: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    stride: Pair = 1,
    padding: Padding = 0,
    output_padding: Pair = 0,
    groups: int = 1,
    dilation: Pair = 1,
    output_size: Pair | None = None,
    *,
    algorithm: str = "auto",
) -> torch.Tensor:
    r"""Transposed convolution; a drop-in for :func:`torch.nn.functional.conv_transpose2d`.

    .. math::
        y_{n,k,h,w} = b_k + \sum_{c,p,q,r,s} x_{n,c,p,q} \; w_{c,k,r,s}
        \quad\text{where}\quad p s_h + r d_h - t = h,\; q s_w + s d_w - l = w

    the transpose of the linear map that :func:`conv2d` with the same stride, padding, dilation and groups is, from this
    output to this input.

    Args:
        input: ``(N, C, P, Q)`` or ``(C, P, Q)``; dtypes, strides and memory format as for :func:`conv2d`.
        weight: ``(C, K / groups, R, S)``, same dtype and device.
        bias: ``(K,)``, same dtype and device, or None.
        stride: positive int or (height, width).
        padding: pixels that the convolution pads and its transpose takes away: non-negative int, (height, width),
            ``((top, bottom), (left, right))``, or a mode, that of the convolution: ``"valid"`` takes nothing away,
            ``"same"`` and ``"same_lower"`` leave ``stride`` times the input, ``"full"`` takes ``d (R - 1)`` from each
            side.
        output_padding: additional rows and columns at the bottom/right, less than stride or dilation; 0 with "same".
        groups: positive divisor of C and K.
        dilation: positive int or (height, width).
        output_size: (height, width) wanted, of the ``stride`` sizes that the convolution brings back to this input;
            takes the place of output_padding.
        algorithm: ``"auto"`` or a name from ``torch_convops.algorithms("conv2d", device)``.

    Returns:
        ``(N, K, H, W)`` or ``(K, H, W)`` with ``H = (P - 1) s - top - bottom + d (R - 1) + 1 + output_padding``; so is
        W. Accumulated as for :func:`conv2d`.

    Raises:
        ValueError: an argument's value breaks a rule above; the message names argument, value and rule.
        TypeError: an argument is of the wrong type, or dtypes differ.

    Source: Dumoulin and Visin, "A guide to convolution arithmetic for deep learning", 2016.
    """
    steps, spacing = geometry.pair("stride", stride), geometry.pair("dilation", dilation)
    extra = geometry.pair("output_padding", output_padding)
    wanted = None if output_size is None else geometry.pair("output_size", output_size)
    groups = geometry.integer("groups", groups)  # type: ignore[assignment]
    if not isinstance(padding, str):
        # Of plain ints before anything is cached: a cache takes True and 1.0 for 1.
        padding = tuple(geometry.sides(padding, (), (), (), ()))
    if input.is_complex():
        window: dict[str, Any] = {"stride": steps, "padding": padding, "output_padding": extra, "groups": groups}
        window |= {"dilation": spacing, "output_size": wanted, "algorithm": algorithm}
        real = functools.partial(conv_transpose2d, **window)
        return complex_as_real(real, "conv_transpose2d", input, weight, bias, transposed=True)
    options = call_options(input, algorithm)
    if dispatch.is_traced():
        operator = ops.conv_transpose2d.padding if isinstance(padding, str) else ops.conv_transpose2d.default
        return operator(input, weight, bias, steps, padding, extra, groups, spacing, output_size=wanted, **options)
    if torch._C._is_any_autocast_enabled():
        input, weight, bias = dispatch.autocast(input, weight, bias)  # type: ignore[assignment]
    return _transpose(input, weight, bias, steps, padding, extra, groups, spacing, wanted, options)


def _transpose(
    input: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    stride: tuple[Int, Int],
    padding: Any,
    output_padding: tuple[Int, Int],
    groups: Int,
    dilation: tuple[Int, Int],
    output_size: Sequence[Int] | None,
    options: dict[str, Any],
) -> torch.Tensor:
    plan = _cached_plan if dispatch.is_eager(input) else _plan
    bias_size = None if bias is None else bias.shape
    transposed = plan(
        input.shape, weight.shape, bias_size, stride, padding, output_padding, groups, dilation, output_size
    )
    window = (stride, transposed.padding, dilation, groups)
    # Rows and columns that no window reaches are the bias alone; a negative number of them cuts the whole output off.
    rows, columns = transposed.beyond
    beyond = bool(rows != 0) or bool(columns != 0)
    fused = None if beyond else bias
    try:
        if dispatch.is_traced():
            output = ops.conv2d_grad_input(input, weight, transposed.input_size, *window, fused, **options)
        elif dispatch.is_plain(input, weight, fused):
            with below_autograd():
                output = ops.conv2d_grad_input.default(
                    input, weight, transposed.input_size, *given(window), bias=fused, **options
                )
        else:
            formats = format_of(input), format_of(weight)
            p = Parameters(window, options, transposed.input_size, weight.shape, *formats)
            output = Contraction.call(input, weight, fused, INPUT, p)
    except RuntimeError as error:
        # The operator takes the input for a gradient; what is wrong with it is said here in other words.
        op = "conv_transpose2d"
        dispatch.check_dtype(op, "input", input)
        dispatch.check_same(op, "weight", weight, input)
        if bias is not None:
            dispatch.check_same(op, "bias", bias, input)
        raise dispatch.renamed(error, "conv2d_grad_input", op) from None
    if beyond:
        output = torch.nn.functional.pad(output, (0, columns, 0, rows))  # type: ignore[arg-type]
        output = output if bias is None else output + bias[:, None, None]
    return output


def _plan(
    input_size: Sequence[Int],
    weight_size: Sequence[Int],
    bias_size: Sequence[Int] | None,
    stride: tuple[Int, Int],
    padding: Any,
    output_padding: tuple[Int, Int],
    groups: Int,
    dilation: tuple[Int, Int],
    output_size: Sequence[Int] | None,
) -> geometry.Transposed:
    """Checks sizes and window."""
    op = "conv_transpose2d"
    N, C, P, Q = geometry.batched(op, "input", input_size)
    geometry.check_weight_size(op, weight_size)
    if groups <= 0:
        raise ValueError(f"{op}: groups must be positive, got {groups}")
    if weight_size[0] != C:
        raise ValueError(
            f"{op}: input channels must equal weight's first size, got {C} channels and weight of size "
            f"{geometry.as_tuple(weight_size)}"
        )
    if C % groups != 0 or C == 0:
        raise ValueError(f"{op}: groups must divide the number of input channels, got {C} channels and groups {groups}")
    K = geometry.checked(op, "weight channels * groups", weight_size[1] * groups)
    if K == 0:
        raise ValueError(
            f"{op}: weight must have at least one output channel, got weight of size {geometry.as_tuple(weight_size)}"
        )
    if bias_size is not None:
        geometry.check_bias_size(op, bias_size, K, "output channel")
    transposed = geometry.conv_transpose2d_size(
        op, (P, Q), weight_size[2:], stride, padding, output_padding, dilation, output_size
    )
    geometry.check_numel(op, "output", (N, K, *transposed.output_size))
    return transposed


_cached_plan = functools.lru_cache(maxsize=1024)(_plan)


def conv_transpose2d_output_size(
    input_size: Pair,
    kernel_size: Pair,
    stride: Pair = 1,
    padding: Padding = 0,
    output_padding: Pair = 0,
    dilation: Pair = 1,
) -> tuple[int, int]:
    """Returns the height and width of a transposed convolution's output.

    With n input, k kernel, s stride, d dilation and e = d (k - 1) + 1, along an axis::

        pads given     (n - 1) s + e - pads + output_padding
        "valid"        (n - 1) s + e + output_padding
        "same"         n s
        "same_lower"   n s
        "full"         (n - 1) s - e + 2 + output_padding

    Args:
        input_size: positive int or (height, width).
        kernel_size, stride, padding, output_padding, dilation: as for :func:`conv_transpose2d`.

    Raises:
        ValueError: a size is not positive, or nothing is left of the output.

    Source: Dumoulin and Visin, "A guide to convolution arithmetic for deep learning", 2016.
    """
    transposed = geometry.conv_transpose2d_size(
        "conv_transpose2d_output_size",
        geometry.pair("input_size", input_size),
        geometry.pair("kernel_size", kernel_size),
        geometry.pair("stride", stride),
        padding,
        geometry.pair("output_padding", output_padding),
        geometry.pair("dilation", dilation),
    )
    height, width = transposed.output_size
    return int(height), int(width)


# --- registration ---


def _composite(a: Arguments) -> torch.Tensor:
    op = "conv_transpose2d"
    steps, spacing = geometry.expand(op, "stride", a.stride), geometry.expand(op, "dilation", a.dilation)
    extra = geometry.expand(op, "output_padding", a.output_padding)
    padding: Any = a.padding if isinstance(a.padding, str) else geometry.expand_sides(op, a.padding)
    wanted = None if a.output_size is None else geometry.expand(op, "output_size", a.output_size)
    options = {"allow_tf32": a.allow_tf32, "algorithm": a.algorithm}
    return _transpose(a.input, a.weight, a.bias, steps, padding, extra, a.groups, spacing, wanted, options)


for _overload in ("conv_transpose2d", "conv_transpose2d.padding"):
    dispatch.register_composite(_overload, _composite)
    dispatch.register_autocast(_overload)
