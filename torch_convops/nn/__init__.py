"""Layers. ``Conv2d``, ``ConvTranspose2d``, ``MaxPool2d`` and ``AvgPool2d`` are torch.nn's but for the kernels: same
constructor, same repr, same ``state_dict``; the convolutions take more kinds of padding."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.nn.modules.utils import _reverse_repeat_tuple

from .._geometry import MODES, PADDING_MODES, Padding, Pair, index_of, sides
from ..ops import avg_pool2d, conv2d, conv_transpose2d, global_avg_pool2d, global_max_pool2d, max_pool2d


def _set_padding(layer: torch.nn.Conv2d | torch.nn.ConvTranspose2d, padding: Any, padding_mode: str) -> None:
    """Puts every accepted padding where torch's constructors put those that they know."""
    if isinstance(padding, str):
        index_of("padding", padding, MODES)
    else:
        top, bottom, left, right = sides(padding, (), (), (), ())
        four_sided = isinstance(padding, Sequence) and (len(padding) == 4 or isinstance(padding[0], Sequence))
        padding = ((top, bottom), (left, right)) if four_sided else (top, left)
    if isinstance(padding[0], int):
        layer._reversed_padding_repeated_twice = list(_reverse_repeat_tuple(padding, 2))
    index_of("padding_mode", padding_mode, PADDING_MODES)
    layer.padding, layer.padding_mode = padding, padding_mode  # type: ignore[assignment]


class Conv2d(torch.nn.Conv2d):
    """:class:`torch.nn.Conv2d` on :func:`torch_convops.conv2d`.

    ``padding`` also takes four sides, ``"same"`` with any stride, ``"same_lower"`` and ``"full"``; ``padding_mode``
    also ``"symmetric"``. ``(N, C, H, W)`` or ``(C, H, W)`` to ``(N, K, P, Q)`` or ``(K, P, Q)``.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Pair,
        stride: Pair = 1,
        padding: Padding = 0,
        dilation: Pair = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        window: Any = {"kernel_size": kernel_size, "stride": stride, "dilation": dilation}
        super().__init__(in_channels, out_channels, groups=groups, bias=bias, device=device, dtype=dtype, **window)
        _set_padding(self, padding, padding_mode)

    def _conv_forward(self, input: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        padding: Any = self.padding
        return conv2d(input, weight, bias, self.stride, padding, self.dilation, self.groups, self.padding_mode)


class ConvTranspose2d(torch.nn.ConvTranspose2d):
    """:class:`torch.nn.ConvTranspose2d` on :func:`torch_convops.conv_transpose2d`.

    ``padding`` also takes four sides and the modes ``"valid"``, ``"same"``, ``"same_lower"`` and ``"full"``.
    ``(N, C, P, Q)`` or ``(C, P, Q)`` to ``(N, K, H, W)`` or ``(K, H, W)``.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Pair,
        stride: Pair = 1,
        padding: Padding = 0,
        output_padding: Pair = 0,
        groups: int = 1,
        bias: bool = True,
        dilation: Pair = 1,
        padding_mode: str = "zeros",
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        window: Any = {"kernel_size": kernel_size, "stride": stride, "dilation": dilation}
        options: Any = {"output_padding": output_padding, "padding_mode": padding_mode, "groups": groups, "bias": bias}
        super().__init__(in_channels, out_channels, device=device, dtype=dtype, **window, **options)
        _set_padding(self, padding, padding_mode)

    def forward(self, input: torch.Tensor, output_size: Sequence[int] | None = None) -> torch.Tensor:
        """Applies the layer; output_size is the (height, width) wanted, or the whole size of the output."""
        padding: Any = self.padding
        extra: Any = self.output_padding
        if output_size is not None:
            if len(output_size) not in (2, input.dim()):
                raise ValueError(f"output_size must have 2 or {input.dim()} values, got {tuple(output_size)}")
            output_size, extra = tuple(output_size[-2:]), 0
        return conv_transpose2d(
            input, self.weight, self.bias, self.stride, padding, extra, self.groups, self.dilation, output_size
        )


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


__all__ = ["AvgPool2d", "Conv2d", "ConvTranspose2d", "GlobalAvgPool2d", "GlobalMaxPool2d", "MaxPool2d"]
