"""Global pooling: a window as large as the plane, so max_pool2d and avg_pool2d do the work."""

from __future__ import annotations

import torch

from . import _dispatch as dispatch
from ._dispatch import library
from .avg_pool2d import avg_pool2d
from .max_pool2d import max_pool2d


@dispatch.raises_argument_errors
def global_max_pool2d(input: torch.Tensor) -> torch.Tensor:
    """Maximum of each plane: ``(N, C, H, W)`` to ``(N, C, 1, 1)``, or ``(C, H, W)`` to ``(C, 1, 1)``.

    Dtypes, NaN rule and gradient as for :func:`torch_convops.max_pool2d`.
    """
    output: torch.Tensor = max_pool2d(input, tuple(input.shape[-2:]))
    return output


@dispatch.raises_argument_errors
def global_avg_pool2d(input: torch.Tensor) -> torch.Tensor:
    """Mean of each plane: ``(N, C, H, W)`` to ``(N, C, 1, 1)``, or ``(C, H, W)`` to ``(C, 1, 1)``.

    Dtypes as for :func:`torch_convops.avg_pool2d`; equal to ``adaptive_avg_pool2d(input, 1)`` in torch.
    """
    return avg_pool2d(input, tuple(input.shape[-2:]))


library.impl("global_max_pool2d", global_max_pool2d, "CompositeImplicitAutograd")
library.impl("global_avg_pool2d", global_avg_pool2d, "CompositeImplicitAutograd")
