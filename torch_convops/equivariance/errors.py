"""Equivariance errors: how far f(shifted image) is from the shifted f(image)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .._geometry import integer
from .shifts import Shift, check_images, check_shift, shift


@dataclass(frozen=True)
class EquivarianceErrors:
    """Relative equivariance errors of a function, one a shift.

    Attributes:
        shifts: ``(down, right)`` in pixels of the input.
        errors: dimensionless, 0 for equivariance; about 1.4 where f(T x) and T' f(x) have nothing to do with each
            other, of the same norm and at right angles.
        stride: input pixels per output pixel, ``(vertical, horizontal)``; None where the output has no pixels and
            the errors are those of invariance.
        margin: output pixels left out on each side.
    """

    shifts: tuple[Shift, ...]
    errors: tuple[float, ...]
    stride: Shift | None
    margin: int

    @property
    def worst(self) -> float:
        return max(self.errors)


def equivariance_errors(
    function: Callable[[Tensor], Tensor],
    images: Tensor,
    shifts: Sequence[Sequence[float]],
    *,
    stride: float | Sequence[float] | None = None,
    margin: int = 0,
    batch_size: int = 64,
) -> EquivarianceErrors:
    r"""The relative error of a function's equivariance under circular shifts of its input.

    .. math:: e(T) = \lVert f(T x) - T' f(x) \rVert \; / \; \lVert f(x) \rVert

    in the Euclidean norm over all images, channels and pixels together, with differences and norms in float64. T is
    :func:`shift` with the border ``"circular"``; T' is the same divided by the stride: of an output with half as many
    rows, a shift by one pixel moves the pattern by half a pixel, which :func:`fourier_shift` does exactly for what the
    output's grid can hold.

    Where f pads with anything but the other side of the image, the border is an error of its own. ``margin`` leaves it
    out: a layer of stride 1 whose window reaches r pixels errs within r pixels of the image's edge and of the seam
    that the shift brings in, so nowhere inside a margin of r + the longest shift.

    Args:
        function: from ``[B, C, H, W]`` to ``[B, C', H', W']``, or to ``[B, K]`` or ``[B]`` without spatial axes, for
            which T' changes nothing and the error is that of invariance. It has to treat each image by itself, so a
            module belongs in evaluation mode.
        images: ``[N, C, H, W]``, float32 or float64, on the function's device.
        shifts: of ``(down, right)`` in pixels; parts of pixels too.
        stride: input pixels per output pixel, one number or ``(vertical, horizontal)``; ``(H / H', W / W')`` if None.
            To be given where the output's size says something else, as for a convolution without padding.
        margin: output pixels to leave out on each side, in both norms.
        batch_size: about how many images the function gets at a time.

    Returns:
        One error a shift. Where f(x) is 0 everywhere: 0 if f(T x) is, too, else infinite.

    Raises:
        ValueError, TypeError: an argument breaks a rule above, or the function's output is of no such size.

    Source: the measure is that of Zhang, "Making Convolutional Networks Shift-Invariant Again", ICML 2019, section 3,
    with a norm in place of the cosine; T' of parts of pixels is measured in Karras et al., "Alias-Free Generative
    Adversarial Networks", NeurIPS 2021.
    """
    name = "equivariance_errors"
    moves = [check_shift(name, by) for by in shifts]
    if not moves:
        raise ValueError(f"{name}: shifts must not be empty")
    measured = _Measured(name, function, images, stride, at_least(0, name, "margin", margin))
    sums = [0.0] * len(moves)
    norm = 0.0
    for chunk, output in measured.chunks(at_least(1, name, "batch_size", batch_size)):
        norm += float(measured.inside(output).square().sum())
        together = max(1, batch_size // len(chunk))
        for first in range(0, len(moves), together):
            differences = measured.differences(chunk, output, moves[first : first + together])
            for index, difference in enumerate(differences, first):
                sums[index] += float(measured.inside(difference).square().sum())
    errors = tuple(_ratio(math.sqrt(total), math.sqrt(norm)) for total in sums)
    return EquivarianceErrors(tuple(moves), errors, measured.stride, margin)


def equivariance_map(
    function: Callable[[Tensor], Tensor],
    images: Tensor,
    by: Sequence[float],
    *,
    stride: float | Sequence[float] | None = None,
    batch_size: int = 64,
) -> Tensor:
    r"""Where in the output the equivariance error of one shift arises.

    .. math:: E_{p,q} = \sqrt{\operatorname{mean}_{n,c} \, (f(T x) - T' f(x))_{n,c,p,q}^2 \; / \;
              \operatorname{mean}_{n,c,p,q} \, f(x)_{n,c,p,q}^2}

    so that the root mean square over the map is the error of :func:`equivariance_errors`, whose arguments and errors
    these are.

    Returns:
        float64 ``[H', W']``, dimensionless.
    """
    name = "equivariance_map"
    move = check_shift(name, by)
    measured = _Measured(name, function, images, stride, 0)
    sums: list[Tensor] = []
    norm = 0.0
    for chunk, output in measured.chunks(at_least(1, name, "batch_size", batch_size)):
        if output.dim() != 4:
            raise ValueError(f"{name}: the function's output has no pixels, it is of size {tuple(output.shape)}")
        (difference,) = measured.differences(chunk, output, [move])
        sums.append(difference.square().sum((0, 1)))
        norm += float(output.square().sum())
    total = torch.stack(sums).sum(0).cpu()
    return torch.where(total > 0, (total * (total.numel() / norm if norm else math.inf)).sqrt(), 0.0)


class _Measured:
    """A function and the images it is measured on; what its output looks like is known after the first call."""

    def __init__(self, name: str, function: Callable[[Tensor], Tensor], images: Tensor, stride: Any, margin: int):
        check_images(name, images)
        self.name, self.function, self.images, self.margin = name, function, images, margin
        self.given = None if stride is None else _strides(name, stride)
        self.stride: Shift | None = None

    def chunks(self, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """``(x, f(x))``."""
        for chunk in self.images.split(batch_size):
            yield chunk, self._apply(chunk)

    @torch.no_grad()
    def _apply(self, chunk: Tensor) -> Tensor:
        """f(chunk) in float64."""
        output: Any = self.function(chunk)
        if not isinstance(output, Tensor):
            raise TypeError(f"{self.name}: the function must return a tensor, got {type(output).__name__}")
        if output.dim() not in (1, 2, 4) or len(output) != len(chunk) or output.numel() == 0:
            raise ValueError(
                f"{self.name}: the function must return [N, C', H', W'], [N, K] or [N] for N images, got size "
                f"{tuple(output.shape)} for {len(chunk)}"
            )
        if output.is_complex():
            raise TypeError(f"{self.name}: the function must return real numbers, got {output.dtype}")
        if output.dim() == 4:
            (H, W), (P, Q) = chunk.shape[-2:], output.shape[-2:]
            self.stride = self.given or (H / P, W / Q)
            if 2 * self.margin >= min(P, Q):
                raise ValueError(f"{self.name}: a margin of {self.margin} leaves nothing of an output of {(P, Q)}")
        elif self.margin or self.given:
            what = "margin" if self.margin else "stride"
            raise ValueError(
                f"{self.name}: {what} must not be given for an output without pixels, {tuple(output.shape)}"
            )
        return output.double()

    def differences(self, chunk: Tensor, output: Tensor, moves: list[tuple[float, float]]) -> list[Tensor]:
        """f(T x) - T' f(x) for each T."""
        moved = self._apply(torch.cat([shift(chunk, by) for by in moves])).split(len(chunk))
        return [actual - self._move(output, by) for actual, by in zip(moved, moves, strict=True)]

    def _move(self, output: Tensor, by: tuple[float, float]) -> Tensor:
        if output.dim() != 4:
            return output
        if self.given:
            return shift(output, (by[0] / self.given[0], by[1] / self.given[1]))
        # The product first: a shift by whole pixels of the output is whole in floating point, too.
        (H, W), (P, Q) = self.images.shape[-2:], output.shape[-2:]
        return shift(output, (by[0] * P / H, by[1] * Q / W))

    def inside(self, output: Tensor) -> Tensor:
        m = self.margin
        return output[..., m : output.shape[-2] - m, m : output.shape[-1] - m] if m else output


def _ratio(error: float, norm: float) -> float:
    if error == 0:
        return 0.0
    return error / norm if norm else math.inf


def _strides(name: str, stride: Any) -> tuple[float, float]:
    values = stride if isinstance(stride, Sequence) and not isinstance(stride, str) else (stride, stride)
    if len(values) != 2 or not all(isinstance(value, (int, float)) and 0 < value < math.inf for value in values):
        raise ValueError(f"{name}: stride must be one or two positive numbers, got {stride!r}")
    return float(values[0]), float(values[1])


def at_least(least: int, name: str, argument: str, value: Any) -> int:
    value = int(integer(f"{name}: {argument}", value))
    if value < least:
        raise ValueError(f"{name}: {argument} must be at least {least}, got {value}")
    return value
