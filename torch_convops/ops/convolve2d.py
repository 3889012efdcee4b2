"""convolve2d and correlate2d: SciPy's operations on tensors, by way of conv2d."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from .._geometry import index_of
from . import _dispatch as dispatch
from .conv2d import conv2d

MODES = ("full", "valid", "same")
BOUNDARIES = ("fill", "wrap", "symm")
_DTYPES = (*dispatch.FLOATS, torch.complex64, torch.complex128)


@dispatch.public
def convolve2d(
    in1: torch.Tensor, in2: torch.Tensor, mode: str = "full", boundary: str = "fill", fillvalue: complex = 0
) -> torch.Tensor:
    r"""True convolution of images, as :func:`scipy.signal.convolve2d`, but differentiable, batched, on any device.

    .. math:: y_{i,j} = \sum_{r,s} x_{i-r,\,j-s} \; k_{r,s}

    for an image ``in1`` of H x W pixels and a kernel ``in2`` of R x S.

    Args:
        in1: ``(..., H, W)``; float32, float64, bfloat16, float16, complex64 or complex128.
        in2: ``(..., R, S)``; leading dimensions are broadcast against those of ``in1``.
        mode: ``"full"``, output ``(H + R - 1, W + S - 1)``; ``"same"``, the size of ``in1``, centred with respect to
            the full output; ``"valid"``, only what needs no pixel outside, ``(H - R + 1, W - S + 1)``. In ``"valid"``
            the operands are swapped if ``in2`` is the larger one.
        boundary: what pixels outside ``in1`` are: ``"fill"`` (``fillvalue``), ``"wrap"`` (circular) or ``"symm"``
            (mirrored, the edge included), repeated as often as the kernel reaches.
        fillvalue: number for ``"fill"``.

    Returns:
        ``(..., P, Q)`` in the dtype that the operands promote to.

    Raises:
        ValueError: an unknown mode or boundary; operands of fewer than two dimensions or without elements; neither at
            least as large as the other for ``"valid"``.
        TypeError: an operand is no tensor, or of an integer dtype.

    Source: SciPy's reference, https://docs.scipy.org/doc/scipy/reference/generated/scipy.signal.convolve2d.html
    """
    return _apply("convolve2d", in1, in2, mode, boundary, fillvalue)


@dispatch.public
def correlate2d(
    in1: torch.Tensor, in2: torch.Tensor, mode: str = "full", boundary: str = "fill", fillvalue: complex = 0
) -> torch.Tensor:
    r"""Cross-correlation of images, as :func:`scipy.signal.correlate2d`, but differentiable, batched, on any device.

    .. math:: y_{i,j} = \sum_{r,s} x_{i+r-R+1,\,j+s-S+1} \; \overline{k_{r,s}}

    Arguments, results and errors as for :func:`convolve2d`. In ``"same"`` the window of an even kernel reaches one
    pixel further down and right than up and left; where ``"valid"`` swaps the operands, the output is flipped back.

    Source: SciPy's reference, https://docs.scipy.org/doc/scipy/reference/generated/scipy.signal.correlate2d.html
    """
    return _apply("correlate2d", in1, in2, mode, boundary, fillvalue)


def _apply(op: str, in1: torch.Tensor, in2: torch.Tensor, mode: str, boundary: str, fillvalue: complex) -> torch.Tensor:
    index_of(f"{op}: mode", mode, MODES)
    index_of(f"{op}: boundary", boundary, BOUNDARIES)
    if not isinstance(fillvalue, int | float | complex):
        raise TypeError(f"{op}: fillvalue must be a number, got {fillvalue!r}")
    for name, operand in (("in1", in1), ("in2", in2)):
        if operand.dtype not in _DTYPES:
            known = str(operand.dtype).removeprefix("torch.")
            raise TypeError(f"{op}: {name} must have a floating or complex dtype, got {known}")
        if operand.dim() < 2:
            raise ValueError(f"{op}: {name} must have at least 2 dimensions, got {operand.dim()}")
        if operand.shape[-1] == 0 or operand.shape[-2] == 0:
            raise ValueError(f"{op}: {name} must not be empty, got size {tuple(operand.shape)}")
    if in1.device != in2.device:
        raise ValueError(f"{op}: in2 must be on the device of in1 ({in1.device}), got {in2.device}")
    dtype = torch.promote_types(in1.dtype, in2.dtype)
    if isinstance(fillvalue, complex) and not dtype.is_complex:
        raise TypeError(f"{op}: fillvalue must be real for real operands, got {fillvalue!r}")
    for a, b in zip(reversed(in1.shape[:-2]), reversed(in2.shape[:-2]), strict=False):
        if a != b and a != 1 and b != 1:
            raise ValueError(
                f"{op}: leading dimensions must be broadcastable, got in1 of size {tuple(in1.shape)} and in2 of size "
                f"{tuple(in2.shape)}"
            )
    image, kernel = in1.to(dtype), in2.to(dtype)

    swapped = False
    if mode == "valid":
        fits = [a >= b for a, b in zip(image.shape[-2:], kernel.shape[-2:], strict=True)]
        swapped = not all(fits)
        if swapped and any(a > b for a, b in zip(image.shape[-2:], kernel.shape[-2:], strict=True)):
            raise ValueError(
                f"{op}: for mode 'valid' one operand must be at least as large as the other in both dimensions, got "
                f"{tuple(image.shape[-2:])} and {tuple(kernel.shape[-2:])}"
            )
    if swapped:
        image, kernel = kernel, image

    # Both are the cross-correlation with a window, laid so that its last pixel (convolution) or first (correlation) is
    # the kernel's first.
    convolution = op == "convolve2d"
    window = kernel.flip(-2, -1) if convolution else kernel.conj()
    pads = []
    for k in kernel.shape[-2:]:
        less, more = (k - 1) // 2, k // 2
        pads.append(
            {"full": (k - 1, k - 1), "valid": (0, 0), "same": (more, less) if convolution else (less, more)}[mode]
        )
    result = _correlate_batch(image, window, (pads[0], pads[1]), boundary, fillvalue)
    return result.flip(-2, -1) if swapped and not convolution else result


def _correlate_batch(
    image: torch.Tensor,
    window: torch.Tensor,
    pads: tuple[tuple[int, int], tuple[int, int]],
    boundary: str,
    fillvalue: complex,
) -> torch.Tensor:
    """Cross-correlates ``(..., H, W)`` with ``(..., R, S)``, whose leading dimensions are broadcast."""
    batch = torch.broadcast_shapes(image.shape[:-2], window.shape[:-2])
    padding_mode = {"fill": "zeros", "wrap": "circular", "symm": "symmetric"}[boundary]
    if boundary == "fill" and fillvalue != 0:
        image = F.pad(image, (*pads[1], *pads[0]), value=fillvalue)  # type: ignore[arg-type]
        pads = ((0, 0), (0, 0))
    elif boundary != "fill" and any(max(pad) > size for pad, size in zip(pads, image.shape[-2:], strict=True)):
        image, pads = _repeat(image, -2, pads[0], boundary), ((0, 0), pads[1])
        image, pads = _repeat(image, -1, pads[1], boundary), ((0, 0), (0, 0))

    def spread(operand: torch.Tensor) -> torch.Tensor:
        return operand.expand(*batch, *operand.shape[-2:])

    count = batch.numel()
    if count == 0:  # no image meets any window
        images, filters = spread(image).reshape(0, 1, *image.shape[-2:]), window.new_zeros(1, 1, *window.shape[-2:])
    elif window.shape[:-2].numel() == 1:  # one window meets a batch of images
        images, filters = spread(image).reshape(count, 1, *image.shape[-2:]), window.reshape(1, 1, *window.shape[-2:])
    elif image.shape[:-2].numel() == 1:  # one image meets as many filters as there are windows
        images, filters = image.reshape(1, 1, *image.shape[-2:]), spread(window).reshape(count, 1, *window.shape[-2:])
    else:  # every pair is a group
        images = spread(image).reshape(1, count, *image.shape[-2:])
        filters = spread(window).reshape(count, 1, *window.shape[-2:])
    result = conv2d(images, filters, padding=pads, groups=images.shape[1], padding_mode=padding_mode)
    return result.reshape(*batch, *result.shape[-2:])


def _repeat(image: torch.Tensor, dim: int, pads: tuple[int, int], boundary: str) -> torch.Tensor:
    """Pads a dimension by more than its size: the image, every other one mirrored for "symm", laid side by side."""
    size = image.shape[dim]
    before, behind = (-(-pad // size) for pad in pads)
    mirrored = image.flip(dim) if boundary == "symm" else image
    tiles = [mirrored if i % 2 else image for i in range(-before, behind + 1)]
    return torch.cat(tiles, dim).narrow(dim, before * size - pads[0], pads[0] + size + pads[1])
