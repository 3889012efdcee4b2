"""Formulas for ``torch.utils.flop_counter``: a convolution counts what torch's own counts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch.utils.flop_counter import conv_flop_count, register_flop_formula

from .ops._dispatch import ops


def _batched(size: Sequence[int]) -> list[int]:
    return [1, *size] if len(size) == 3 else list(size)


@register_flop_formula(ops.conv2d)
def _conv2d(input: Sequence[int], weight: Sequence[int], *_: Any, out_shape: Sequence[int], **__: Any) -> int:
    return conv_flop_count(_batched(input), list(weight), _batched(out_shape))


@register_flop_formula(ops.conv2d_grad_input)
def _grad_input(grad_output: Sequence[int], weight: Sequence[int], *_: Any, out_shape: Sequence[int], **__: Any) -> int:
    return conv_flop_count(_batched(grad_output), list(weight), _batched(out_shape), transposed=True)


@register_flop_formula(ops.conv2d_grad_weight)
def _grad_weight(
    grad_output: Sequence[int], input: Sequence[int], *args: Any, out_shape: Sequence[int], **kwargs: Any
) -> int:
    """As torch has it: a convolution over N with the channels for a batch, for groups as if there were none."""
    (N, K, P, Q), (_, C, H, W), (_, _, R, S) = _batched(grad_output), _batched(input), out_shape
    return conv_flop_count([C, N, H, W], [K, N, P, Q], [C, K, R, S])
