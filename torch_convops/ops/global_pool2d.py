"""Global pooling: a window as large as the plane, so max_pool2d and avg_pool2d do the work."""

from __future__ import annotations

import torch

from .. import _geometry as geometry
from . import _dispatch as dispatch
from ._dispatch import Arguments, ops
from .avg_pool2d import avg_pool2d
from .max_pool2d import max_pool2d


@dispatch.public
def global_max_pool2d(input: torch.Tensor) -> torch.Tensor:
    """Maximum of each plane: ``(N, C, H, W)`` to ``(N, C, 1, 1)``, or ``(C, H, W)`` to ``(C, 1, 1)``.

    Dtypes, NaN rule and gradient as for :func:`torch_convops.max_pool2d`.
    """
    if dispatch.is_traced():
        return ops.global_max_pool2d(input)
    return max_pool2d(input, geometry.image_size("global_max_pool2d", "input", input)[2:])


@dispatch.public
def global_avg_pool2d(input: torch.Tensor) -> torch.Tensor:
    """Mean of each plane: ``(N, C, H, W)`` to ``(N, C, 1, 1)``, or ``(C, H, W)`` to ``(C, 1, 1)``.

    Dtypes as for :func:`torch_convops.avg_pool2d`; equal to ``adaptive_avg_pool2d(input, 1)`` in torch.
    """
    if dispatch.is_traced():
        return ops.global_avg_pool2d(input)
    return avg_pool2d(input, geometry.image_size("global_avg_pool2d", "input", input)[2:])


def _max_composite(a: Arguments) -> torch.Tensor:
    return ops.max_pool2d(a.input, geometry.image_size("global_max_pool2d", "input", a.input)[2:])


def _avg_composite(a: Arguments) -> torch.Tensor:
    return ops.avg_pool2d(a.input, geometry.image_size("global_avg_pool2d", "input", a.input)[2:])


dispatch.register_composite("global_max_pool2d", _max_composite)
dispatch.register_composite("global_avg_pool2d", _avg_composite)
