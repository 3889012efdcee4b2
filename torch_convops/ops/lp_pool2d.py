"""lp_pool2d: the p-norm of each window, a composition of powers and avg_pool2d."""

from __future__ import annotations

import math
from typing import Any

import torch

from .. import _geometry as geometry
from .._geometry import Padding, Pair
from . import _dispatch as dispatch
from ._dispatch import Arguments, ops
from .avg_pool2d import avg_pool2d
from .max_pool2d import max_pool2d


@dispatch.public
def lp_pool2d(
    input: torch.Tensor,
    norm_type: float,
    kernel_size: Pair,
    stride: Pair | None = None,
    ceil_mode: bool = False,
    *,
    padding: Padding = 0,
    dilation: Pair = 1,
    algorithm: str = "auto",
) -> torch.Tensor:
    r"""p-norm of sliding windows; a drop-in for :func:`torch.nn.functional.lp_pool2d`.

    .. math:: y_{n,c,p,q} = \Big(\sum_{r,s} x_{n,\,c,\;p s_h + r d_h - t,\;q s_w + s d_w - l}^{\;\rho}\Big)^{1/\rho}

    for a norm type :math:`\rho`. As in torch the power is of the value itself, not of its magnitude (so an odd
    :math:`\rho` of negative windows is NaN), a window that overhangs in ``ceil_mode`` is scaled up to the taps of a
    whole one, and the gradient at a sum of zero is zero. ``inf`` is the largest magnitude, ``-inf`` the least.

    Args:
        input: as for :func:`avg_pool2d`.
        norm_type: non-zero number :math:`\rho`.
        kernel_size, stride, ceil_mode, padding, dilation, algorithm: as for :func:`avg_pool2d`; padding adds zeros.

    Returns:
        ``(N, C, P, Q)`` or ``(C, P, Q)``.

    Raises:
        ValueError: an argument's value breaks a rule above; the message names argument, value and rule.
        TypeError: an argument is of the wrong type.

    Source: Gulcehre et al., "Learned-Norm Pooling for Deep Feedforward and Recurrent Neural Networks", 2014.
    """
    if isinstance(norm_type, bool) or not isinstance(norm_type, (int, float)):
        raise TypeError(f"norm_type must be a number, got {norm_type!r}")
    dispatch.check_dtype("lp_pool2d", "input", input)
    if dispatch.is_traced():
        kernel, spacing = geometry.pair("kernel_size", kernel_size), geometry.pair("dilation", dilation)
        steps = geometry.pool_stride(stride, kernel)
        pads = geometry.sides(padding, input.shape, kernel, steps, spacing)
        options = {"padding": pads, "dilation": spacing, **dispatch.algorithm_option(algorithm)}
        return ops.lp_pool2d(input, float(norm_type), kernel, steps, ceil_mode, **options)
    window = {"stride": stride, "ceil_mode": ceil_mode, "padding": padding, "dilation": dilation}
    return _norm(input, norm_type, kernel_size, {**window, "algorithm": algorithm})


def _norm(input: torch.Tensor, norm_type: float, kernel_size: Any, window: dict[str, Any]) -> torch.Tensor:
    if norm_type == 0 or math.isnan(norm_type):
        raise ValueError(f"lp_pool2d: norm_type must not be zero, got {norm_type}")
    with dispatch.speaking_as("lp_pool2d", "avg_pool2d", "max_pool2d"):
        if norm_type == math.inf:
            return max_pool2d(input.abs(), kernel_size, **window)
        if norm_type == -math.inf:
            return -max_pool2d(-input.abs(), kernel_size, **window)
        mean = avg_pool2d(input.pow(norm_type), kernel_size, **window)
    height, width = geometry.pair("kernel_size", kernel_size)
    # Through relu the gradient at zero is zero, where that of the root is infinite.
    total = torch.sign(mean) * torch.relu(torch.abs(mean))
    return total.mul(height * width).pow(1 / norm_type)


def _lp_pool2d_composite(a: Arguments) -> torch.Tensor:
    dispatch.check_dtype("lp_pool2d", "input", a.input)
    window = {name: getattr(a, name) for name in ("stride", "ceil_mode", "padding", "dilation", "algorithm")}
    return _norm(a.input, a.norm_type, a.kernel_size, window)


dispatch.register_composite("lp_pool2d", _lp_pool2d_composite)
