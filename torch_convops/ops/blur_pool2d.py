"""blur_pool2d: a low-pass filter ahead of a stride, a depthwise convolution with a fixed filter."""

from __future__ import annotations

import math
from typing import Any

import torch

from .. import _geometry as geometry
from .._geometry import Pair
from . import _dispatch as dispatch
from ._dispatch import Arguments
from .conv2d import conv2d


def binomial_filter(
    size: int, *, dtype: torch.dtype | None = None, device: torch.device | str | None = None
) -> torch.Tensor:
    """The ``(size, size)`` outer product of the binomial coefficients of order ``size - 1``, of sum 1.

    Size 3 is that of (1, 2, 1) / 4. Up to size 7 every value is exact in bfloat16 and float16.
    """
    size = geometry.integer("filter size", size)  # type: ignore[assignment]
    if not 1 <= size <= 7:
        raise ValueError(f"filter size must be from 1 to 7, got {size}")
    line = torch.tensor([math.comb(size - 1, i) for i in range(size)], dtype=torch.float64)
    return (torch.outer(line, line) / 4 ** (size - 1)).to(device=device, dtype=dtype or torch.get_default_dtype())


@dispatch.public
def blur_pool2d(
    input: torch.Tensor,
    filter: int | torch.Tensor = 4,
    stride: Pair = 2,
    padding_mode: str = "reflect",
    *,
    algorithm: str = "auto",
) -> torch.Tensor:
    r"""Low-pass filtering of each channel, read off at every ``stride``-th pixel: subsampling without aliasing.

    .. math:: y_{n,c,p,q} = \sum_{r,s} f_{r,s} \; x_{n,\,c,\;p s_h + r - t,\;q s_w + s - l}

    with ``t = (R - 1) // 2`` pixels of border above and ``R // 2`` below, so that the output has ``ceil(H / stride)``
    rows; so for the columns. The border is read in place, without a padded copy.

    Args:
        input: as for :func:`conv2d`; the output keeps its memory format.
        filter: size of a binomial filter, 1 to 7 (1 only subsamples); or a filter of the input's dtype and device:
            ``(R, S)``, ``(C, R, S)`` of one a channel, or ``(R,)`` for its outer product with itself. A filter is
            differentiable, too.
        stride: positive int or (height, width).
        padding_mode: as for :func:`conv2d`; the border of ``"reflect"`` has to be narrower than the image.
        algorithm: ``"auto"`` or a name from ``torch_convops.algorithms("conv2d", device)``.

    Returns:
        ``(N, C, ceil(H / s), ceil(W / s))``, or without the ``N``.

    Raises:
        ValueError: an argument's value breaks a rule above; the message names argument, value and rule.
        TypeError: an argument is of the wrong type.

    Source: Zhang, "Making Convolutional Networks Shift-Invariant Again", ICML 2019.
    """
    dispatch.check_dtype("blur_pool2d", "input", input)
    if not isinstance(filter, torch.Tensor):
        filter = binomial_filter(filter, dtype=input.dtype, device=input.device)
    elif filter.dim() == 1:
        filter = torch.outer(filter, filter)
    return _blur(input, filter, geometry.pair("stride", stride), padding_mode, algorithm)


def _blur(input: torch.Tensor, filter: torch.Tensor, stride: Any, padding_mode: str, algorithm: str) -> torch.Tensor:
    C: Any = geometry.image_size("blur_pool2d", "input", input)[1]
    if filter.dim() not in (2, 3) or filter.numel() == 0 or (filter.dim() == 3 and filter.shape[0] != C):
        raise ValueError(
            f"blur_pool2d: filter must be (R,), (R, S) or (C, R, S) for {C} channels and not be empty, "
            f"got size {geometry.as_tuple(filter.shape)}"
        )
    dispatch.check_same("blur_pool2d", "filter", filter, input)
    R, S = filter.shape[-2:]
    weight = filter.unsqueeze(-3).expand(C, 1, R, S)
    pads = (((R - 1) // 2, R // 2), ((S - 1) // 2, S // 2))
    with dispatch.speaking_as("blur_pool2d", "conv2d"):
        return conv2d(input, weight, None, stride, pads, 1, C, padding_mode, algorithm=algorithm)


def _blur_pool2d_composite(a: Arguments) -> torch.Tensor:
    return _blur(a.input, a.filter, a.stride, a.padding_mode, a.algorithm)


dispatch.register_composite("blur_pool2d", _blur_pool2d_composite)
