"""The operators as plain loops: the readable definition of each, and the oracle of the tests.

Every operator here slides a window over an image. :func:`taps` lists once which input pixel each output pixel reads
through which tap of the window; an operator is what it does with that list. Everything is computed in float64 on the
CPU, sizes are (height, width) tuples, padding is (top, bottom, left, right). Tensors are batched: ``(N, C, H, W)``.

    N  images          C  channels         H, W  input pixels      R, S  window
    K  filters         P, Q  output pixels
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from fractions import Fraction
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


def border_pixel(position: int, size: int, padding_mode: str) -> int | None:
    """The pixel that a position of an axis reads: itself inside the image, outside it what the mode says.

    For pixels a b c d and two positions on each side::

        zeros      0 0|a b c d|0 0     nothing, None
        replicate  a a|a b c d|d d     the nearest pixel
        circular   c d|a b c d|a b     the image repeats
        reflect    c b|a b c d|c b     it is mirrored at the edge pixel, which shows once
        symmetric  b a|a b c d|d c     it is mirrored behind the edge pixel, which shows twice
    """
    if 0 <= position < size:
        return position
    if padding_mode == "zeros":
        return None
    if padding_mode == "replicate":
        return 0 if position < 0 else size - 1
    if padding_mode == "circular":
        return position % size
    there_and_back = list(range(size))  # one period of the mirrored axis
    there_and_back += reversed(there_and_back[1:-1] if padding_mode == "reflect" else there_and_back)
    return there_and_back[position % len(there_and_back)]


def padded(image: torch.Tensor, padding: Sides, padding_mode: str) -> torch.Tensor:
    """The copy of ``(..., H, W)`` that a convolution with a border other than zeros does without."""
    (H, W), (top, bottom, left, right) = _pair(image.shape), padding
    rows = [border_pixel(h, H, padding_mode) for h in range(-top, H + bottom)]
    columns = [border_pixel(w, W, padding_mode) for w in range(-left, W + right)]
    return image[..., rows, :][..., columns]


def taps(
    input_size: Pair,
    output_size: Pair,
    kernel_size: Pair,
    stride: Pair,
    padding: Sides,
    dilation: Pair,
    padding_mode: str = "zeros",
) -> Iterator[tuple[int, int, int, int, int, int]]:
    """Every (p, q, r, s, h, w) such that output pixel (p, q) reads input pixel (h, w) through tap (r, s).

    A tap that reads zero (or, for a maximum, nothing) is not listed. Output pixels come in row-major order, and so do
    the taps of each.
    """
    (H, W), (P, Q), (R, S) = input_size, output_size, kernel_size
    top, _, left, _ = padding
    for p in range(P):
        for q in range(Q):
            for r in range(R):
                for s in range(S):
                    h = border_pixel(p * stride[0] + r * dilation[0] - top, H, padding_mode)
                    w = border_pixel(q * stride[1] + s * dilation[1] - left, W, padding_mode)
                    if h is not None and w is not None:
                        yield p, q, r, s, h, w


def adaptive_taps(input_size: Pair, output_size: Pair) -> Iterator[tuple[int, int, int, int, int, int]]:
    """The same list for adaptive windows: that of output p of P starts at the pixel in which the p-th of P equal parts
    of the axis starts, and ends with the one in which that part ends."""
    (H, W), (P, Q) = input_size, output_size
    for p in range(P):
        for q in range(Q):
            rows, columns = (
                [i for i in range(n) if i + 1 > Fraction(o * n, m) and i < Fraction((o + 1) * n, m)]
                for o, n, m in ((p, H, P), (q, W, Q))
            )
            for r, h in enumerate(rows):
                for s, w in enumerate(columns):
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
# where h, w outside the image are the pixel that the padding mode names.
#
# y is linear in x and in w, so the chain rule only moves a factor: where forward adds x w to y, grad_input adds dy w to
# dx and grad_weight adds dy x to dw. At stride 1 and without padding, substituting p = h - r and q = w - s gives
#
#   dx[h,w] = sum over r,s of dy[h-r, w-s] w[r,s]   the "full" convolution of dy with w: the full correlation of dy with
#                                                   the flipped kernel
#   dw[r,s] = sum over p,q of x[p+r, q+s] dy[p,q]   the "valid" correlation of x with dy
#
# A pixel that several positions show (a border other than zeros) gathers the gradient of each of them.


def conv2d(
    input: Any,
    weight: Any,
    bias: Any = None,
    stride: Pair = (1, 1),
    padding: Sides = (0, 0, 0, 0),
    dilation: Pair = (1, 1),
    groups: int = 1,
    padding_mode: str = "zeros",
) -> torch.Tensor:
    """Cross-correlation: ``(N, C, H, W)`` and ``(K, C / groups, R, S)`` to ``(N, K, P, Q)``; ``bias`` is ``(K,)``."""
    x, w = _float64(input), _float64(weight)
    (N, C), K = x.shape[:2], w.shape[0]
    input_size, kernel_size = _pair(x.shape), _pair(w.shape)
    P, Q = _output_sizes(input_size, kernel_size, stride, padding, dilation)
    y = torch.zeros(N, K, P, Q, dtype=torch.float64)
    for p, q, r, s, h, v in taps(input_size, (P, Q), kernel_size, stride, padding, dilation, padding_mode):
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
    padding_mode: str = "zeros",
) -> torch.Tensor:
    """dL/dX: ``(N, K, P, Q)`` and ``(K, C / groups, R, S)`` to ``(N, C, H, W)`` with ``input_size`` (H, W)."""
    dy, w = _float64(grad_output), _float64(weight)
    (N, K), C = dy.shape[:2], w.shape[1] * groups
    dx = torch.zeros(N, C, *input_size, dtype=torch.float64)
    for p, q, r, s, h, v in taps(input_size, _pair(dy.shape), _pair(w.shape), stride, padding, dilation, padding_mode):
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
    padding_mode: str = "zeros",
) -> torch.Tensor:
    """dL/dK: ``(N, K, P, Q)`` and ``(N, C, H, W)`` to ``(K, C / groups, R, S)`` with ``kernel_size`` (R, S)."""
    dy, x = _float64(grad_output), _float64(input)
    K, C = dy.shape[1], x.shape[1]
    dw = torch.zeros(K, C // groups, *kernel_size, dtype=torch.float64)
    for p, q, r, s, h, v in taps(_pair(x.shape), _pair(dy.shape), kernel_size, stride, padding, dilation, padding_mode):
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


# --- transposed convolution ---
#
#   forward      y[n,k,h,w]  = b[k] + sum over c,p,q,r,s of x[n,c,p,q] w[c,k,r,s]   h = p stride + r dilation - top
#
# the same list of taps as a convolution from y back to x has, so y = grad_input, dx = conv2d(dy, w) and dw =
# conv2d_grad_weight with the roles of image and gradient changed.


def conv_transpose2d(
    input: Any,
    weight: Any,
    bias: Any = None,
    stride: Pair = (1, 1),
    padding: Sides = (0, 0, 0, 0),
    output_padding: Pair = (0, 0),
    groups: int = 1,
    dilation: Pair = (1, 1),
) -> torch.Tensor:
    """``(N, C, P, Q)`` and ``(C, K / groups, R, S)`` to ``(N, K, H, W)``; ``bias`` is ``(K,)``.

    Each input pixel adds the kernel, times itself, to the output: the windows lie stride apart. ``padding`` cuts the
    sides of the output off, ``output_padding`` adds rows and columns behind the last window.
    """
    x, w = _float64(input), _float64(weight)
    (P, Q), (R, S), (top, bottom, left, right) = _pair(x.shape), _pair(w.shape), padding
    H = (P - 1) * stride[0] + dilation[0] * (R - 1) + 1 - top - bottom + output_padding[0]
    W = (Q - 1) * stride[1] + dilation[1] * (S - 1) + 1 - left - right + output_padding[1]
    y = conv2d_grad_input(x, w, (H, W), stride, padding, dilation, groups)
    return y if bias is None else y + _float64(bias)[:, None, None]


# --- convolution and correlation of one image with one kernel, as SciPy has them ---
#
#   convolve2d   y[i,j] = sum over r,s of x[i-r, j-s] k[r,s]
#   correlate2d  y[i,j] = sum over r,s of x[i+r-(R-1), j+s-(S-1)] conj(k[r,s])
#
# for i, j over everything that image and kernel both touch ("full"), over as much of its middle as the image is large
# ("same"), or over what needs no pixel outside the image ("valid").


def convolve2d(in1: Any, in2: Any, mode: str = "full", boundary: str = "fill", fillvalue: complex = 0) -> torch.Tensor:
    """``(H, W)`` and ``(R, S)``, as :func:`scipy.signal.convolve2d`; complex128 where an operand is complex."""
    x, k = (_widest(operand) for operand in (in1, in2))
    if mode == "valid" and (x.shape[0] < k.shape[0] or x.shape[1] < k.shape[1]):
        x, k = k, x
    (H, W), (R, S) = _pair(x.shape), _pair(k.shape)
    rows, columns = (
        {"full": range(n + m - 1), "same": range((m - 1) // 2, (m - 1) // 2 + n), "valid": range(m - 1, n)}[mode]
        for n, m in ((H, R), (W, S))
    )
    padding_mode = {"fill": "zeros", "wrap": "circular", "symm": "symmetric"}[boundary]
    y = torch.zeros(len(rows), len(columns), dtype=torch.promote_types(x.dtype, k.dtype))
    for p, i in enumerate(rows):
        for q, j in enumerate(columns):
            for r in range(R):
                for s in range(S):
                    h, w = border_pixel(i - r, H, padding_mode), border_pixel(j - s, W, padding_mode)
                    y[p, q] += (fillvalue if h is None or w is None else x[h, w]) * k[r, s]
    return y


def correlate2d(in1: Any, in2: Any, mode: str = "full", boundary: str = "fill", fillvalue: complex = 0) -> torch.Tensor:
    """``(H, W)`` and ``(R, S)``, as :func:`scipy.signal.correlate2d`; complex128 where an operand is complex.

    Flipping both operands turns a convolution's result around, so a correlation is the turned convolution of the turned
    image; which pixel is the middle of an even kernel ("same") turns around with it. The conjugate is taken of the
    kernel: of the smaller operand where "valid" swaps them.
    """
    x, k = (_widest(operand) for operand in (in1, in2))
    if mode == "valid" and (x.shape[0] < k.shape[0] or x.shape[1] < k.shape[1]):
        return convolve2d(k, x.flip(0, 1).conj(), mode).flip(0, 1)
    return convolve2d(x.flip(0, 1), k.conj(), mode, boundary, fillvalue).flip(0, 1)


def _widest(values: Any) -> torch.Tensor:
    tensor = torch.as_tensor(values, device="cpu").detach()
    return tensor.to(torch.complex128 if tensor.is_complex() else torch.float64)


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
    stride = stride or kernel_size
    input_size = _pair(x.shape)
    size = _output_sizes(input_size, kernel_size, stride, padding, dilation, ceil_mode)
    return _maxima(x, size, taps(input_size, size, kernel_size, stride, padding, dilation))


def adaptive_max_pool2d(input: Any, output_size: Pair) -> tuple[torch.Tensor, torch.Tensor]:
    """The same over the windows of :func:`adaptive_taps`: ``(N, C, H, W)`` to two ``(N, C, *output_size)``."""
    x = torch.as_tensor(input).detach().cpu()
    return _maxima(x, output_size, adaptive_taps(_pair(x.shape), output_size))


def _maxima(
    x: torch.Tensor, size: Pair, listed: Iterable[tuple[int, int, int, int, int, int]]
) -> tuple[torch.Tensor, torch.Tensor]:
    lowest = -float("inf") if x.is_floating_point() else torch.iinfo(x.dtype).min
    y = torch.full((*x.shape[:2], *size), lowest, dtype=x.dtype)
    indices = torch.full(y.shape, -1)
    for p, q, _, _, h, w in listed:
        candidate, best = x[:, :, h, w], y[:, :, p, q]
        picked = (indices[:, :, p, q] < 0) | (candidate > best) | candidate.isnan()
        y[:, :, p, q] = torch.where(picked, candidate, best)
        indices[:, :, p, q] = torch.where(picked, h * x.shape[-1] + w, indices[:, :, p, q])
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


def max_unpool2d(input: Any, indices: torch.Tensor, output_size: Pair) -> torch.Tensor:
    """``(N, C, P, Q)`` and its plane indices to ``(N, C, H, W)``; of several values for one pixel the last stays."""
    x = _float64(input)
    N, C, P, Q = x.shape
    y = torch.zeros(N, C, *output_size, dtype=torch.float64)
    for n in range(N):
        for c in range(C):
            for p in range(P):
                for q in range(Q):
                    h, w = divmod(int(indices[n, c, p, q]), output_size[1])
                    y[n, c, h, w] = x[n, c, p, q]
    return y


# --- average-pooling ---
#
#   forward      y[n,c,p,q]  = sum over r,s of x[n,c,h,w] / D[p,q]
#   grad_input   dx[n,c,h,w] = sum over the windows (p,q) that read (h,w) of dy[n,c,p,q] / D[p,q]
#
# D is divisor_override, or the number of pixels in the window: of the image, or of the image and its padding. Without
# any, 0 / 0 is NaN.


def _divisors(
    input_size: Pair,
    output_size: Pair,
    kernel_size: Pair,
    stride: Pair,
    padding: Sides,
    dilation: Pair,
    count_include_pad: bool,
    divisor_override: int | None,
) -> torch.Tensor:
    """(P, Q): the pixels of each window. What overhangs the padding in ceil_mode is no pixel of either kind."""
    if divisor_override:
        return torch.full(output_size, divisor_override, dtype=torch.float64)
    top, bottom, left, right = padding if count_include_pad else (0, 0, 0, 0)
    counts = torch.zeros(output_size, dtype=torch.float64)
    for p in range(output_size[0]):
        for q in range(output_size[1]):
            for r in range(kernel_size[0]):
                for s in range(kernel_size[1]):
                    h = p * stride[0] + r * dilation[0] - padding[0]
                    w = q * stride[1] + s * dilation[1] - padding[2]
                    counts[p, q] += -top <= h < input_size[0] + bottom and -left <= w < input_size[1] + right
    return counts


def avg_pool2d(
    input: Any,
    kernel_size: Pair,
    stride: Pair | None = None,
    padding: Sides = (0, 0, 0, 0),
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
    dilation: Pair = (1, 1),
) -> torch.Tensor:
    """Mean of each window: ``(N, C, H, W)`` to ``(N, C, P, Q)``."""
    x = _float64(input)
    stride = stride or kernel_size
    input_size = _pair(x.shape)
    size = _output_sizes(input_size, kernel_size, stride, padding, dilation, ceil_mode)
    y = torch.zeros(*x.shape[:2], *size, dtype=torch.float64)
    for p, q, _, _, h, w in taps(input_size, size, kernel_size, stride, padding, dilation):
        y[:, :, p, q] += x[:, :, h, w]
    window = (kernel_size, stride, padding, dilation)
    return y / _divisors(input_size, size, *window, count_include_pad, divisor_override)


def avg_pool2d_grad_input(
    grad_output: Any,
    input_size: Pair,
    kernel_size: Pair,
    stride: Pair | None = None,
    padding: Sides = (0, 0, 0, 0),
    count_include_pad: bool = True,
    divisor_override: int | None = None,
    dilation: Pair = (1, 1),
) -> torch.Tensor:
    """dL/dX: ``(N, C, P, Q)`` to ``(N, C, H, W)``. The size of ``grad_output`` tells whether ceil_mode was on."""
    dy = _float64(grad_output)
    window = (kernel_size, stride or kernel_size, padding, dilation)
    shares = dy / _divisors(input_size, _pair(dy.shape), *window, count_include_pad, divisor_override)
    dx = torch.zeros(*dy.shape[:2], *input_size, dtype=torch.float64)
    for p, q, _, _, h, w in taps(input_size, _pair(dy.shape), *window):
        dx[:, :, h, w] += shares[:, :, p, q]
    return dx


def adaptive_avg_pool2d(input: Any, output_size: Pair) -> torch.Tensor:
    """Mean of each window of :func:`adaptive_taps`: ``(N, C, H, W)`` to ``(N, C, *output_size)``."""
    x = _float64(input)
    y = torch.zeros(*x.shape[:2], *output_size, dtype=torch.float64)
    counts = torch.zeros(output_size, dtype=torch.float64)
    for p, q, _, _, h, w in adaptive_taps(_pair(x.shape), output_size):
        y[:, :, p, q] += x[:, :, h, w]
        counts[p, q] += 1
    return y / counts


# --- compositions ---


def lp_pool2d(
    input: Any,
    norm_type: float,
    kernel_size: Pair,
    stride: Pair | None = None,
    padding: Sides = (0, 0, 0, 0),
    dilation: Pair = (1, 1),
) -> torch.Tensor:
    """p-norm of each window, the root of a sum of powers: ``(N, C, H, W)`` to ``(N, C, P, Q)``."""
    window = (kernel_size, stride, padding)
    sums = avg_pool2d(_float64(input).pow(norm_type), *window, divisor_override=1, dilation=dilation)
    return sums.pow(1 / norm_type)


def blur_pool2d(input: Any, filter: Any, stride: Pair, padding_mode: str = "reflect") -> torch.Tensor:
    """``(N, C, H, W)`` and ``(R, S)`` to ``(N, C, P, Q)``: the filter slides over each channel."""
    x, f = _float64(input), _float64(filter)
    R, S = f.shape
    C, padding = x.shape[1], ((R - 1) // 2, R // 2, (S - 1) // 2, S // 2)
    return conv2d(x, f.expand(C, 1, R, S), None, stride, padding, groups=C, padding_mode=padding_mode)
