"""The operators as plain loops: the readable definition of each, and the oracle of the tests.

Every operator here slides a window over an image. :func:`taps` lists once which input pixel each output pixel reads
through which tap of the window; an operator is what it does with that list. Everything is computed in float64 on the
CPU, sizes are (height, width) tuples, padding is (top, bottom, left, right). Tensors are batched: ``(N, C, H, W)``.

    N  images          C  channels         H, W  input pixels      R, S  window
    K  filters         P, Q  output pixels
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

Pair = tuple[int, int]
Sides = tuple[int, int, int, int]


def output_size(
    size: int, kernel: int, stride: int, dilation: int, lower: int, upper: int, ceil_mode: bool = False
) -> int:
    """The number of windows along one axis: those that fit, found by placing one after the other.

    With ``ceil_mode`` one more window may hang over the end if pixels were left over, as long as it starts inside the
    image or the padding before it.
    """
    extent = dilation * (kernel - 1) + 1
    padded = lower + size + upper
    count = 0
    while count * stride + extent <= padded:
        count += 1
    left_over = padded - ((count - 1) * stride + extent)
    if ceil_mode and left_over > 0 and count * stride < lower + size:
        count += 1
    return count


def _output_sizes(
    input_size: Pair, kernel_size: Pair, stride: Pair, padding: Sides, dilation: Pair, ceil_mode: bool = False
) -> Pair:
    (H, W), (R, S), (top, bottom, left, right) = input_size, kernel_size, padding
    P = output_size(H, R, stride[0], dilation[0], top, bottom, ceil_mode)
    Q = output_size(W, S, stride[1], dilation[1], left, right, ceil_mode)
    return P, Q


def taps(
    input_size: Pair, output_size: Pair, kernel_size: Pair, stride: Pair, padding: Sides, dilation: Pair
) -> Iterator[tuple[int, int, int, int, int, int]]:
    """Every (p, q, r, s, h, w) such that output pixel (p, q) reads input pixel (h, w) through tap (r, s).

    A tap outside the image reads zero (or, for a maximum, nothing), so it is not listed. Output pixels come in
    row-major order, and so do the taps of each.
    """
    (H, W), (P, Q), (R, S) = input_size, output_size, kernel_size
    top, _, left, _ = padding
    for p in range(P):
        for q in range(Q):
            for r in range(R):
                for s in range(S):
                    h = p * stride[0] + r * dilation[0] - top
                    w = q * stride[1] + s * dilation[1] - left
                    if 0 <= h < H and 0 <= w < W:
                        yield p, q, r, s, h, w


def _float64(values: Any) -> torch.Tensor:
    return torch.as_tensor(values, dtype=torch.float64, device="cpu").detach()


def _pair(sizes: torch.Size) -> Pair:
    return sizes[-2], sizes[-1]


def _group_slices(C: int, K: int, groups: int) -> Iterator[tuple[slice, slice]]:
    """The input channels and the filters of each group."""
    for g in range(groups):
        yield slice(g * (C // groups), (g + 1) * (C // groups)), slice(g * (K // groups), (g + 1) * (K // groups))


# --- convolution ---
#
#   forward      y[n,k,p,q]  = b[k] + sum over c,r,s of  x[n,c,h,w]  w[k,c,r,s]     h = p stride + r dilation - top
#   grad_input   dx[n,c,h,w] = sum over k,p,q,r,s of     dy[n,k,p,q] w[k,c,r,s]     w = q stride + s dilation - left
#   grad_weight  dw[k,c,r,s] = sum over n,p,q of         dy[n,k,p,q] x[n,c,h,w]
#   grad_bias    db[k]       = sum over n,p,q of         dy[n,k,p,q]
#
# y is linear in x and in w, so the chain rule only moves a factor: where forward adds x w to y, grad_input adds dy w to
# dx and grad_weight adds dy x to dw. At stride 1 that makes dx the "full" convolution of dy with the flipped kernel and
# dw the "valid" correlation of x with dy.


def conv2d(
    input: Any,
    weight: Any,
    bias: Any = None,
    stride: Pair = (1, 1),
    padding: Sides = (0, 0, 0, 0),
    dilation: Pair = (1, 1),
    groups: int = 1,
) -> torch.Tensor:
    """Cross-correlation: ``(N, C, H, W)`` and ``(K, C / groups, R, S)`` to ``(N, K, P, Q)``; ``bias`` is ``(K,)``."""
    x, w = _float64(input), _float64(weight)
    (N, C), K = x.shape[:2], w.shape[0]
    input_size, kernel_size = _pair(x.shape), _pair(w.shape)
    P, Q = _output_sizes(input_size, kernel_size, stride, padding, dilation)
    y = torch.zeros(N, K, P, Q, dtype=torch.float64)
    for p, q, r, s, h, v in taps(input_size, (P, Q), kernel_size, stride, padding, dilation):
        for cs, ks in _group_slices(C, K, groups):
            y[:, ks, p, q] += x[:, cs, h, v] @ w[ks, :, r, s].T
    return y if bias is None else y + _float64(bias)[:, None, None]


def conv2d_grad_input(
    grad_output: Any,
    weight: Any,
    input_size: Pair,
    stride: Pair = (1, 1),
    padding: Sides = (0, 0, 0, 0),
    dilation: Pair = (1, 1),
    groups: int = 1,
) -> torch.Tensor:
    """dL/dX: ``(N, K, P, Q)`` and ``(K, C / groups, R, S)`` to ``(N, C, H, W)`` with ``input_size`` (H, W)."""
    dy, w = _float64(grad_output), _float64(weight)
    (N, K), C = dy.shape[:2], w.shape[1] * groups
    dx = torch.zeros(N, C, *input_size, dtype=torch.float64)
    for p, q, r, s, h, v in taps(input_size, _pair(dy.shape), _pair(w.shape), stride, padding, dilation):
        for cs, ks in _group_slices(C, K, groups):
            dx[:, cs, h, v] += dy[:, ks, p, q] @ w[ks, :, r, s]
    return dx


def conv2d_grad_weight(
    grad_output: Any,
    input: Any,
    kernel_size: Pair,
    stride: Pair = (1, 1),
    padding: Sides = (0, 0, 0, 0),
    dilation: Pair = (1, 1),
    groups: int = 1,
) -> torch.Tensor:
    """dL/dK: ``(N, K, P, Q)`` and ``(N, C, H, W)`` to ``(K, C / groups, R, S)`` with ``kernel_size`` (R, S)."""
    dy, x = _float64(grad_output), _float64(input)
    K, C = dy.shape[1], x.shape[1]
    dw = torch.zeros(K, C // groups, *kernel_size, dtype=torch.float64)
    for p, q, r, s, h, v in taps(_pair(x.shape), _pair(dy.shape), kernel_size, stride, padding, dilation):
        for cs, ks in _group_slices(C, K, groups):
            dw[ks, :, r, s] += dy[:, ks, p, q].T @ x[:, cs, h, v]
    return dw


def conv2d_grad_bias(grad_output: Any) -> torch.Tensor:
    """dL/db: ``(N, K, P, Q)`` to ``(K,)``."""
    dy = _float64(grad_output)
    db = torch.zeros(dy.shape[1], dtype=torch.float64)
    for n in range(dy.shape[0]):
        for p in range(dy.shape[2]):
            for q in range(dy.shape[3]):
                db += dy[n, :, p, q]
    return db


# --- max-pooling ---
#
#   forward      y[n,c,p,q]  = max over r,s of x[n,c,h,w];  index[n,c,p,q] = h W + w of the tap that was picked
#   grad_input   dx[n,c,h,w] = sum over the windows (p,q) whose index is h W + w of dy[n,c,p,q]


def max_pool2d(
    input: Any,
    kernel_size: Pair,
    stride: Pair | None = None,
    padding: Sides = (0, 0, 0, 0),
    dilation: Pair = (1, 1),
    ceil_mode: bool = False,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Values, in the dtype of ``input``, and int64 plane indices: ``(N, C, H, W)`` to two ``(N, C, P, Q)``.

    Of equal maxima the first in row-major order is picked. A NaN beats every number and later NaNs beat earlier ones.
    Taps outside the image take no part, so a window of -inf picks its first tap inside the image. Dilation can step
    over the whole image: such a window has the lowest value of the dtype and the index -1.
    """
    x = torch.as_tensor(input).detach().cpu()
    N, C = x.shape[:2]
    stride = stride or kernel_size
    input_size = _pair(x.shape)
    P, Q = _output_sizes(input_size, kernel_size, stride, padding, dilation, ceil_mode)
    lowest = -float("inf") if x.is_floating_point() else torch.iinfo(x.dtype).min
    y = torch.full((N, C, P, Q), lowest, dtype=x.dtype)
    indices = torch.full((N, C, P, Q), -1)
    for p, q, _, _, h, w in taps(input_size, (P, Q), kernel_size, stride, padding, dilation):
        candidate, best = x[:, :, h, w], y[:, :, p, q]
        picked = (indices[:, :, p, q] < 0) | (candidate > best) | candidate.isnan()
        y[:, :, p, q] = torch.where(picked, candidate, best)
        indices[:, :, p, q] = torch.where(picked, h * input_size[1] + w, indices[:, :, p, q])
    return y, indices


def max_pool2d_grad_input(grad_output: Any, indices: torch.Tensor, input_size: Pair) -> torch.Tensor:
    """dL/dX: ``(N, C, P, Q)`` and the indices of the forward pass to ``(N, C, H, W)``; overlapping windows add up."""
    dy = _float64(grad_output)
    N, C, P, Q = dy.shape
    H, W = input_size
    dx = torch.zeros(N, C, H, W, dtype=torch.float64)
    for n in range(N):
        for c in range(C):
            for p in range(P):
                for q in range(Q):
                    index = int(indices[n, c, p, q])
                    if index >= 0:
                        dx[n, c, index // W, index % W] += dy[n, c, p, q]
    return dx


# --- average-pooling ---
#
#   forward      y[n,c,p,q]  = sum over r,s of x[n,c,h,w] / D[p,q]
#   grad_input   dx[n,c,h,w] = sum over the windows (p,q) that read (h,w) of dy[n,c,p,q] / D[p,q]
#
# D is divisor_override, or the number of pixels in the window: of the image, or of the image and its padding.


def _divisor(
    p: int, q: int, input_size: Pair, kernel_size: Pair, stride: Pair, padding: Sides, count_include_pad: bool
) -> int:
    """Counts the pixels of window (p, q). What overhangs the padding in ceil_mode is no pixel of either kind."""
    top, bottom, left, right = padding if count_include_pad else (0, 0, 0, 0)
    count = 0
    for r in range(kernel_size[0]):
        for s in range(kernel_size[1]):
            h, w = p * stride[0] + r - padding[0], q * stride[1] + s - padding[2]
            count += -top <= h < input_size[0] + bottom and -left <= w < input_size[1] + right
    return count


def avg_pool2d(
    input: Any,
    kernel_size: Pair,
    stride: Pair | None = None,
    padding: Sides = (0, 0, 0, 0),
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> torch.Tensor:
    """Mean of each window: ``(N, C, H, W)`` to ``(N, C, P, Q)``."""
    x = _float64(input)
    stride = stride or kernel_size
    input_size = _pair(x.shape)
    P, Q = _output_sizes(input_size, kernel_size, stride, padding, (1, 1), ceil_mode)
    y = torch.zeros(*x.shape[:2], P, Q, dtype=torch.float64)
    for p, q, _, _, h, w in taps(input_size, (P, Q), kernel_size, stride, padding, (1, 1)):
        y[:, :, p, q] += x[:, :, h, w]
    for p in range(P):
        for q in range(Q):
            y[:, :, p, q] /= divisor_override or _divisor(
                p, q, input_size, kernel_size, stride, padding, count_include_pad
            )
    return y


def avg_pool2d_grad_input(
    grad_output: Any,
    input_size: Pair,
    kernel_size: Pair,
    stride: Pair | None = None,
    padding: Sides = (0, 0, 0, 0),
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> torch.Tensor:
    """dL/dX: ``(N, C, P, Q)`` to ``(N, C, H, W)``. The size of ``grad_output`` tells whether ceil_mode was on."""
    dy = _float64(grad_output)
    stride = stride or kernel_size
    dx = torch.zeros(*dy.shape[:2], *input_size, dtype=torch.float64)
    for p, q, _, _, h, w in taps(input_size, _pair(dy.shape), kernel_size, stride, padding, (1, 1)):
        dx[:, :, h, w] += dy[:, :, p, q] / (
            divisor_override or _divisor(p, q, input_size, kernel_size, stride, padding, count_include_pad)
        )
    return dx
