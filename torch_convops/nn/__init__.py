"""Layers. ``Conv2d``, ``MaxPool2d`` and ``AvgPool2d`` are torch.nn's but for the kernels: same constructor, same repr,
same ``state_dict``."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

from ..ops import avg_pool2d, conv2d, global_avg_pool2d, global_max_pool2d, max_pool2d


class Conv2d(torch.nn.Conv2d):
    """:class:`torch.nn.Conv2d` on :func:`torch_convops.conv2d`; ``padding="same"`` is torch's, which needs stride 1."""

    def _conv_forward(self, input: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        padding: Any = self.padding
        if self.padding_mode != "zeros":
            input = F.pad(input, self._reversed_padding_repeated_twice, mode=self.padding_mode)
            padding = 0
        return conv2d(input, weight, bias, self.stride, padding, self.dilation, self.groups)


class MaxPool2d(torch.nn.MaxPool2d):
    """:class:`torch.nn.MaxPool2d` on :func:`torch_convops.max_pool2d`."""

    def forward(self, input: torch.Tensor) -> Any:
        return max_pool2d(
            input, self.kernel_size, self.stride, self.padding, self.dilation, self.ceil_mode, self.return_indices
        )


class AvgPool2d(torch.nn.AvgPool2d):
    """:class:`torch.nn.AvgPool2d` on :func:`torch_convops.avg_pool2d`."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return avg_pool2d(
            input,
            self.kernel_size,
            self.stride,
            self.padding,
            self.ceil_mode,
            self.count_include_pad,
            self.divisor_override,
        )


class GlobalMaxPool2d(torch.nn.Module):
    """Maximum of each plane: ``(N, C, H, W)`` to ``(N, C, 1, 1)``; see :func:`torch_convops.global_max_pool2d`."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return global_max_pool2d(input)


class GlobalAvgPool2d(torch.nn.Module):
    """Mean of each plane: ``(N, C, H, W)`` to ``(N, C, 1, 1)``; see :func:`torch_convops.global_avg_pool2d`."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return global_avg_pool2d(input)


__all__ = ["AvgPool2d", "Conv2d", "GlobalAvgPool2d", "GlobalMaxPool2d", "MaxPool2d"]
