"""Layers. Those that torch.nn has too are torch.nn's but for the kernels: same constructor, same repr, same
``state_dict``; convolutions and max- and average-pooling take more kinds of padding. ``GlobalMaxPool2d``,
``GlobalAvgPool2d``, ``BlurPool2d``, ``MaxBlurPool2d`` and ``ConvBlurPool2d`` are this library's own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.nn.modules.utils import _reverse_repeat_tuple

from .._geometry import MODES, PADDING_MODES, Padding, Pair, index_of, mode_pads, pair, sides
from ..ops import (
    adaptive_avg_pool2d,
    adaptive_max_pool2d,
    avg_pool2d,
    binomial_filter,
    blur_pool2d,
    conv2d,
    conv_transpose2d,
    global_avg_pool2d,
    global_max_pool2d,
    lp_pool2d,
    max_pool2d,
    max_unpool2d,
)


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
    elif padding == "same":
        window = zip(layer.kernel_size, layer.dilation, strict=True)
        rows, columns = (mode_pads(padding, spacing * (size - 1) + 1, 0, 1) for size, spacing in window)
        layer._reversed_padding_repeated_twice = [int(side) for side in (*columns, *rows)]
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


class LazyConv2d(torch.nn.LazyConv2d, Conv2d):  # type: ignore[misc]
    """:class:`torch.nn.LazyConv2d`: a :class:`Conv2d` that learns ``in_channels`` from its first input."""

    cls_to_become = Conv2d


class LazyConvTranspose2d(torch.nn.LazyConvTranspose2d, ConvTranspose2d):  # type: ignore[misc]
    """:class:`torch.nn.LazyConvTranspose2d`: a :class:`ConvTranspose2d` that learns ``in_channels`` from its first
    input."""

    cls_to_become = ConvTranspose2d


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


class AdaptiveMaxPool2d(torch.nn.AdaptiveMaxPool2d):
    """:class:`torch.nn.AdaptiveMaxPool2d` on :func:`torch_convops.adaptive_max_pool2d`."""

    def forward(self, input: torch.Tensor) -> Any:
        return adaptive_max_pool2d(input, self.output_size, self.return_indices)


class AdaptiveAvgPool2d(torch.nn.AdaptiveAvgPool2d):
    """:class:`torch.nn.AdaptiveAvgPool2d` on :func:`torch_convops.adaptive_avg_pool2d`."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return adaptive_avg_pool2d(input, self.output_size)


class MaxUnpool2d(torch.nn.MaxUnpool2d):
    """:class:`torch.nn.MaxUnpool2d` on :func:`torch_convops.max_unpool2d`."""

    def forward(
        self, input: torch.Tensor, indices: torch.Tensor, output_size: Sequence[int] | None = None
    ) -> torch.Tensor:
        return max_unpool2d(input, indices, self.kernel_size, self.stride, self.padding, output_size)


class LPPool2d(torch.nn.LPPool2d):
    """:class:`torch.nn.LPPool2d` on :func:`torch_convops.lp_pool2d`."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return lp_pool2d(input, float(self.norm_type), self.kernel_size, self.stride, self.ceil_mode)


class GlobalMaxPool2d(torch.nn.Module):
    """Maximum of each plane: ``(N, C, H, W)`` to ``(N, C, 1, 1)``; see :func:`torch_convops.global_max_pool2d`."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return global_max_pool2d(input)


class GlobalAvgPool2d(torch.nn.Module):
    """Mean of each plane: ``(N, C, H, W)`` to ``(N, C, 1, 1)``; see :func:`torch_convops.global_avg_pool2d`."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return global_avg_pool2d(input)


class BlurPool2d(torch.nn.Module):
    """A low-pass filter ahead of a stride: ``(N, C, H, W)`` to ``(N, C, ceil(H / stride), ceil(W / stride))``; see
    :func:`torch_convops.blur_pool2d`, whose arguments these are.

    The filter moves with the layer but is no parameter and not part of the ``state_dict``.
    """

    filter: torch.Tensor

    def __init__(self, filter: int | torch.Tensor = 4, stride: Pair = 2, padding_mode: str = "reflect") -> None:
        super().__init__()
        self.register_buffer("filter", _filter(filter), persistent=False)
        self.stride, self.padding_mode = pair("stride", stride), padding_mode
        index_of("padding_mode", padding_mode, PADDING_MODES)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return blur_pool2d(input, self.filter.to(input.dtype), self.stride, self.padding_mode)

    def extra_repr(self) -> str:
        return f"filter={tuple(self.filter.shape)}, stride={self.stride}, padding_mode={self.padding_mode!r}"


class MaxBlurPool2d(BlurPool2d):
    """Max-pooling of stride 1, then :class:`BlurPool2d`: what takes a strided max-pool's place where a network is to be
    shift-invariant (Zhang 2019).

    Args:
        kernel_size, padding: of the max-pooling, as for :func:`torch_convops.max_pool2d`.
        stride, filter, padding_mode: of the blur.
    """

    def __init__(
        self,
        kernel_size: Pair = 2,
        stride: Pair = 2,
        padding: Padding = 0,
        filter: int | torch.Tensor = 4,
        padding_mode: str = "reflect",
    ) -> None:
        super().__init__(filter, stride, padding_mode)
        self.kernel_size, self.padding = pair("kernel_size", kernel_size), padding

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return super().forward(max_pool2d(input, self.kernel_size, 1, self.padding))

    def extra_repr(self) -> str:
        return f"kernel_size={self.kernel_size}, padding={self.padding}, {super().extra_repr()}"


class ConvBlurPool2d(Conv2d):
    """A convolution of stride 1, an activation, then a blur with the stride: what takes a strided convolution's place
    where a network is to be shift-invariant (Zhang 2019). Parameters and ``state_dict`` are the convolution's.

    Args:
        in_channels, out_channels, kernel_size, padding, dilation, groups, bias, padding_mode, device, dtype: of the
            convolution, as for :class:`Conv2d`.
        stride, filter, blur_padding_mode: of the blur, as for :class:`BlurPool2d`.
        activation: what stands between the two; None for nothing.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Pair,
        stride: Pair = 2,
        padding: Padding = 0,
        dilation: Pair = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        filter: int | torch.Tensor = 4,
        blur_padding_mode: str = "reflect",
        activation: Callable[[torch.Tensor], torch.Tensor] | None = torch.relu,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        window: Any = {"padding": padding, "dilation": dilation, "padding_mode": padding_mode}
        super().__init__(
            in_channels, out_channels, kernel_size, groups=groups, bias=bias, device=device, dtype=dtype, **window
        )
        self.blur = BlurPool2d(filter, stride, blur_padding_mode).to(device)
        self.activation = activation

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        output = super().forward(input)
        return self.blur(output if self.activation is None else self.activation(output))


def _filter(filter: int | torch.Tensor) -> torch.Tensor:
    return filter.detach().clone() if isinstance(filter, torch.Tensor) else binomial_filter(filter)


__all__ = [
    "AdaptiveAvgPool2d",
    "AdaptiveMaxPool2d",
    "AvgPool2d",
    "BlurPool2d",
    "Conv2d",
    "ConvBlurPool2d",
    "ConvTranspose2d",
    "GlobalAvgPool2d",
    "GlobalMaxPool2d",
    "LPPool2d",
    "LazyConv2d",
    "LazyConvTranspose2d",
    "MaxBlurPool2d",
    "MaxPool2d",
    "MaxUnpool2d",
]
