"""Shift-consistency: how often a classifier says the same of a picture and of the picture moved."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .._geometry import index_of
from .errors import at_least
from .shifts import BORDERS, check_images, check_reach, crop, pad, shift

CROP = "crop"


@dataclass(frozen=True)
class ShiftConsistency:
    """The share of pairs of shifted views of one picture that get the same class.

    Attributes:
        consistency: from 0 to 1.
        standard_error: of ``consistency`` over the choice of pictures: the standard deviation of the pictures' own
            shares over the root of their number; NaN for one picture.
        pictures, repeats: there are ``repeats`` pairs of each of so many pictures.
        max_shift: the farthest that two views are apart along an axis, in pixels.
        border: what moved in, see :func:`shift_consistency`.
    """

    consistency: float
    standard_error: float
    pictures: int
    repeats: int
    max_shift: int
    border: str


@dataclass(frozen=True)
class ConsistencyCurve:
    """Shift-consistency by distance.

    Attributes:
        distances: in pixels.
        consistency: for each distance, from 0 to 1.
        pictures: how many were moved, each in four directions.
        border: what moved in, see :func:`consistency_curve`.
    """

    distances: tuple[int, ...]
    consistency: tuple[float, ...]
    pictures: int
    border: str


def shift_consistency(
    classifier: Callable[[Tensor], Tensor],
    images: Tensor,
    max_shift: int,
    *,
    border: str = "reflect",
    repeats: int = 5,
    generator: torch.Generator | None = None,
    batch_size: int = 64,
) -> ShiftConsistency:
    r"""How often a classifier names the same class for two random shifts of one picture.

    .. math:: \operatorname{mean}_{x,\,a,\,b} \; [\, \arg\max f(T_a x) = \arg\max f(T_b x) \,]

    where a and b are drawn independently of each other for each picture and repeat, uniformly from the
    (max_shift + 1)\ :sup:`2` shifts by ``-(max_shift // 2)`` to ``max_shift - max_shift // 2`` pixels along each axis.
    The two may be equal, as in the source.

    Args:
        classifier: from ``[B, C, H, W]`` to scores ``[B, K]``, the class being the first of the largest. A module
            belongs in evaluation mode.
        images: ``[N, C, H, W]``, float32 or float64, on the classifier's device.
        max_shift: pixels, 0 or more.
        border: what moves in: one of :func:`shift`'s borders, for pictures of the size that the classifier takes; or
            ``"crop"`` for larger ones, of which it gets views of ``(H - max_shift, W - max_shift)``, so that nothing is
            made up. The source crops: its views of 224 of 256 pixels are those of a ``max_shift`` of 32, of which it
            draws all but the last.
        repeats: pairs of each picture.
        generator: a CPU generator; one of seed 0 if None.
        batch_size: how many views the classifier gets at a time.

    Raises:
        ValueError, TypeError: an argument breaks a rule above, or the output is of no such size.

    Source: Zhang, "Making Convolutional Networks Shift-Invariant Again", ICML 2019, section 4.
    """
    name = "shift_consistency"
    check_images(name, images)
    max_shift, repeats = at_least(0, name, "max_shift", max_shift), at_least(1, name, "repeats", repeats)
    batch_size = at_least(1, name, "batch_size", batch_size)
    generator = torch.Generator().manual_seed(0) if generator is None else generator
    N, H, W = len(images), *images.shape[-2:]
    if _check_border(name, border, max_shift - max_shift // 2, (H, W), max_shift):
        H, W = H - max_shift, W - max_shift
    else:
        sides = (max_shift - max_shift // 2, max_shift // 2)
        images = pad(images, sides, sides, border)
    # Where the corner of a view lies; that of a picture moved down and right by the most is at (0, 0).
    corners = torch.randint(max_shift + 1, (repeats, 2, N, 2), generator=generator)
    same = torch.zeros(N, dtype=torch.int64)
    for repeat in corners.tolist():
        first, second = (
            _classes(
                name, classifier, [images[i, :, y : y + H, x : x + W] for i, (y, x) in enumerate(view)], batch_size
            )
            for view in repeat
        )
        same += first == second
    shares = same.double() / repeats
    error = float(shares.std() / N**0.5) if N > 1 else float("nan")
    return ShiftConsistency(float(shares.mean()), error, N, repeats, max_shift, border)


def consistency_curve(
    classifier: Callable[[Tensor], Tensor],
    images: Tensor,
    distances: Sequence[int],
    *,
    border: str = "reflect",
    batch_size: int = 64,
) -> ConsistencyCurve:
    r"""How often a classifier names the same class for a picture and for the picture moved, by distance.

    For each distance d, the mean over the pictures and over the four shifts (d, 0), (-d, 0), (0, d), (0, -d) of
    whether the moved picture gets the class of the picture in its place. Nothing is drawn at random.

    Args:
        classifier, images, batch_size: as for :func:`shift_consistency`.
        distances: whole pixels, 0 or more.
        border: as for :func:`shift_consistency`; with ``"crop"`` the views are of ``(H - 2 d, W - 2 d)`` for the
            longest distance d.

    Raises:
        ValueError, TypeError: an argument breaks a rule above, or the output is of no such size.

    Source: the measure is that of :func:`shift_consistency`, at one distance at a time.
    """
    name = "consistency_curve"
    check_images(name, images)
    steps = tuple(at_least(0, name, "distances", d) for d in distances)
    if not steps:
        raise ValueError(f"{name}: distances must not be empty")
    batch_size = at_least(1, name, "batch_size", batch_size)
    size = (images.shape[-2], images.shape[-1])
    longest = max(steps)
    inner = (size[0] - 2 * longest, size[1] - 2 * longest)
    cropped = _check_border(name, border, longest, size, 2 * longest)

    def classes(by: tuple[int, int]) -> Tensor:
        moved = crop(images, by, inner) if cropped else shift(images, by, border)
        return _classes(name, classifier, moved, batch_size)

    unmoved = classes((0, 0))
    consistency = []
    for d in steps:
        same = [(classes(by) == unmoved).double().mean() for by in ((d, 0), (-d, 0), (0, d), (0, -d))]
        consistency.append(float(sum(same)) / len(same))
    return ConsistencyCurve(steps, tuple(consistency), len(images), border)


def _check_border(name: str, border: str, reach: int, size: tuple[int, int], lost: int) -> bool:
    """Whether views are cropped."""
    index_of(f"{name}: border", border, (*BORDERS, CROP))
    if border != CROP:
        check_reach(name, border, reach, size)
        return False
    if lost >= min(size):
        raise ValueError(f"{name}: views that lose {lost} pixels of images of {size} are empty")
    return True


@torch.no_grad()
def _classes(
    name: str, classifier: Callable[[Tensor], Tensor], views: Tensor | list[Tensor], batch_size: int
) -> Tensor:
    """The class of each view, int64 ``[N]`` on the CPU."""
    classes = []
    for first in range(0, len(views), batch_size):
        batch = views[first : first + batch_size]
        batch = torch.stack(batch) if isinstance(batch, list) else batch
        scores: Any = classifier(batch)
        if not isinstance(scores, Tensor) or scores.dim() != 2 or len(scores) != len(batch) or not scores.shape[1]:
            got = f"size {tuple(scores.shape)}" if isinstance(scores, Tensor) else type(scores).__name__
            raise ValueError(f"{name}: the classifier must return scores [N, K] for N images, got {got}")
        classes.append(scores.argmax(1).cpu())
    return torch.cat(classes)
