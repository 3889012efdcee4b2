"""Complex convolutions on the real kernels.

A complex channel is two real ones, its real and its imaginary part, side by side; a complex factor a + bi is the matrix
((a, -b), (b, a)). So one real convolution with twice the channels computes a complex one, and torch differentiates the
rearrangement around it.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from .. import _geometry as geometry
from . import _dispatch as dispatch


def _real_channels(image: torch.Tensor) -> torch.Tensor:
    """``(N, C, H, W)`` complex to ``(N, 2 C, H, W)`` real; without a copy where the image is channels_last."""
    parts = torch.view_as_real(image.resolve_conj()).movedim(-1, -3)
    return parts.reshape(*image.shape[:-3], 2 * image.shape[-3], *image.shape[-2:])


def _real_weight(weight: torch.Tensor) -> torch.Tensor:
    """``(K, C, R, S)`` complex to ``(2 K, 2 C, R, S)`` real: the matrix of each factor."""
    a, b = weight.real, weight.imag
    matrix = torch.stack((torch.stack((a, -b), 2), torch.stack((b, a), 2)), 1)
    K, C, R, S = weight.shape
    return matrix.reshape(2 * K, 2 * C, R, S)


def complex_as_real(
    convolution: Callable[[torch.Tensor, torch.Tensor, torch.Tensor | None], torch.Tensor],
    op: str,
    input: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    transposed: bool = False,
) -> torch.Tensor:
    """Applies a real convolution to complex tensors; a transposed one has the transposed matrices."""
    if input.dtype not in (torch.complex64, torch.complex128):
        dispatch.check_dtype(op, "input", input)
    dispatch.check_same(op, "weight", weight, input)
    geometry.check_weight_size(op, weight.shape)
    real_bias = None
    if bias is not None:
        dispatch.check_same(op, "bias", bias, input)
        if bias.dim() != 1:
            raise ValueError(f"{op}: bias must be 1-D, got size {geometry.as_tuple(bias.shape)}")
        real_bias = torch.view_as_real(bias.resolve_conj()).flatten()
    geometry.image_size(op, "input", input)
    try:
        result = convolution(_real_channels(input), _real_weight(weight.conj() if transposed else weight), real_bias)
    except ValueError:
        # Said of the sizes that were given, not of real ones twice as large.
        sizes = (None if tensor is None else tensor.shape for tensor in (input, weight, bias))
        convolution(*(size if size is None else torch.empty(size, device="meta") for size in sizes))  # type: ignore[arg-type]
        raise
    parts = result.unflatten(-3, (result.shape[-3] // 2, 2)).movedim(-3, -1)
    if not dispatch.is_channels_last(result):
        parts = parts.clone(memory_format=torch.contiguous_format)
    return torch.view_as_complex(parts)
