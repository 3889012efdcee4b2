"""Images moved by whole pixels, and by parts of one.

A shift is ``(down, right)`` in pixels: the pixel at row i and column j goes to row i + down and column j + right.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Real
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from .._geometry import index_of, integer

Shift: TypeAlias = "tuple[float, float]"

# What moves in from outside, and torch's name for it.
BORDERS = {"circular": "circular", "reflect": "reflect", "replicate": "replicate", "zeros": "constant"}


def shift(images: Tensor, by: Sequence[float], border: str = "circular") -> Tensor:
    """Images moved by ``(down, right)`` pixels.

    Args:
        images: ``[N, C, H, W]``, float32 or float64.
        by: whole numbers, exact with every border; for ``"circular"`` also parts of a pixel, by :func:`fourier_shift`.
        border: what moves in: ``"circular"``, what moved out on the other side (``torch.roll``, for shifts of any
            length); ``"reflect"``, the mirrored picture, the edge not repeated (for shifts below the size);
            ``"replicate"``, the edge; ``"zeros"``.

    Returns:
        ``[N, C, H, W]``.

    Raises:
        ValueError, TypeError: an argument breaks a rule above; the message names argument, value and rule.
    """
    check_images("shift", images)
    down, right = check_shift("shift", by)
    index_of("shift: border", border, tuple(BORDERS))
    if down != int(down) or right != int(right):
        if border != "circular":
            raise ValueError(f"shift: by must be whole pixels for the border {border!r}, got {(down, right)}")
        return fourier_shift(images, (down, right))
    down, right = int(down), int(right)
    if border == "circular":
        return images.roll((down, right), (-2, -1))
    H, W = images.shape[-2:]
    check_reach("shift", border, max(abs(down), abs(right)), (H, W))
    moved = pad(images, (max(down, 0), max(-down, 0)), (max(right, 0), max(-right, 0)), border)
    top, left = max(-down, 0), max(-right, 0)
    return moved[..., top : top + H, left : left + W]


def fourier_shift(images: Tensor, by: Sequence[float]) -> Tensor:
    r"""Circular images moved by any part of a pixel: the trigonometric interpolant, read off at the moved places.

    Each frequency's phase is turned, along both axes of n = H, W pixels moved by d:

    .. math:: \hat y_k = m_k(d) \, \hat x_k, \qquad m_k(d) = e^{-2 \pi i k d / n}, \quad -n/2 < k < n/2

    For an even n the Nyquist frequency k = n/2 is its own conjugate, and its samples do not say at which phase they
    were taken. Half of it is taken for a wave of +n/2 and half for one of -n/2, the interpolant that oscillates least:

    .. math:: m_{n/2}(d) = \tfrac12 (e^{-i \pi d} + e^{i \pi d}) = \cos(\pi d)

    So real images stay real, and a shift by whole pixels is ``torch.roll`` to rounding. Every shift commutes with every
    circular convolution. Shifts by a and by b make one by a + b on images without a Nyquist component; of one, a shift
    by half a pixel leaves nothing.

    Args:
        images: ``[N, C, H, W]``, float32 or float64.
        by: ``(down, right)`` in pixels, any finite numbers.

    Returns:
        ``[N, C, H, W]``, in the dtype of ``images``.

    Raises:
        ValueError, TypeError: an argument breaks a rule above; the message names argument, value and rule.

    Source: Trefethen, "Spectral Methods in MATLAB", SIAM 2000, chapter 3; for the Nyquist frequency Johnson, "Notes on
    FFT-based differentiation", MIT 2011.
    """
    check_images("fourier_shift", images)
    down, right = check_shift("fourier_shift", by)
    H, W = images.shape[-2:]
    dtype = torch.complex64 if images.dtype == torch.float32 else torch.complex128
    rows = _phases(torch.fft.fftfreq(H, 1 / H, dtype=torch.float64), H, down)
    columns = _phases(torch.fft.rfftfreq(W, 1 / W, dtype=torch.float64), W, right)
    phases = torch.outer(rows, columns).to(images.device, dtype)
    return torch.fft.irfft2(torch.fft.rfft2(images) * phases, s=(H, W))


def _phases(frequencies: Tensor, n: int, distance: float) -> Tensor:
    """m_k of the frequencies k, complex128."""
    distance = math.fmod(distance, n)  # n pixels are none
    phases = torch.polar(torch.ones_like(frequencies), frequencies.round() * (-2 * math.pi * distance / n))
    if n % 2 == 0:
        phases[n // 2] = math.cos(math.pi * distance)
    return phases


def crop(images: Tensor, by: Sequence[int], size: Sequence[int]) -> Tensor:
    """What a window of ``size`` in the middle sees once the images behind it have moved by ``(down, right)`` pixels.

    No pixel is made up and none wraps around: what moves in is what the larger images have there.

    Args:
        images: ``[N, C, H, W]``, of any dtype.
        by: whole pixels, as many as the images have beyond the window on that side.
        size: ``(height, width)`` of the window, whose top left corner is at ``((H - height) // 2, (W - width) // 2)``.

    Returns:
        ``[N, C, height, width]``, a view.

    Raises:
        ValueError, TypeError: an argument breaks a rule above; the message names argument, value and rule.
    """
    check_images("crop", images, any_dtype=True)
    offsets = [_whole("crop: by", value) for value in _two("crop", "by", by)]
    for dim, offset, extent in zip((-2, -1), offsets, _two("crop", "size", size), strict=True):
        n, extent = images.shape[dim], _whole("crop: size", extent)
        start = (n - extent) // 2 - offset
        if extent < 1 or start < 0 or start + extent > n:
            raise ValueError(
                f"crop: a window of {tuple(size)} over images moved by {tuple(by)} does not lie in images of "
                f"{tuple(images.shape[-2:])}"
            )
        images = images.narrow(dim, start, extent)
    return images


def pad(images: Tensor, rows: tuple[int, int], columns: tuple[int, int], border: str) -> Tensor:
    return F.pad(images, (*columns, *rows), mode=BORDERS[border])


# ---- arguments ---------------------------------------------------------------------------------------------


def check_images(function: str, images: Any, any_dtype: bool = False) -> None:
    if not isinstance(images, Tensor):
        raise TypeError(f"{function}: images must be a tensor, got {type(images).__name__}")
    if not any_dtype and images.dtype not in (torch.float32, torch.float64):
        dtype = str(images.dtype).removeprefix("torch.")
        raise TypeError(f"{function}: images must be float32 or float64, got {dtype}")
    if images.dim() != 4 or images.numel() == 0:
        raise ValueError(f"{function}: images must be [N, C, H, W] and not be empty, got size {tuple(images.shape)}")


def check_shift(function: str, by: Any) -> tuple[float, float]:
    """``(down, right)``; numbers that are whole stay so."""
    down, right = _two(function, "by", by)
    for value in (down, right):
        if isinstance(value, bool) or not isinstance(value, Real):
            raise TypeError(f"{function}: by must be two numbers (down, right), got {by!r}")
        if not math.isfinite(value):
            raise ValueError(f"{function}: by must be finite, got {by!r}")
    return float(down), float(right)


def check_reach(function: str, border: str, reach: int, size: tuple[int, int]) -> None:
    """A mirror shows the image but its edge, and a circle the image once."""
    most = {"reflect": min(size) - 1, "circular": min(size)}.get(border)
    if most is not None and reach > most:
        raise ValueError(
            f"{function}: the border {border!r} of images of {size} reaches at most {most} pixels, got {reach}"
        )


def _two(function: str, name: str, values: Any) -> Sequence[Any]:
    if isinstance(values, (str, Tensor)) or not isinstance(values, Sequence) or len(values) != 2:
        raise TypeError(f"{function}: {name} must be a pair, got {values!r}")
    return values


def _whole(name: str, value: Any) -> int:
    return int(integer(name, value, "whole numbers"))
