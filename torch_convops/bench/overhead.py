"""What a call costs before any arithmetic: microseconds of eager calls on a 1 x 1 x 4 x 4 image."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from .. import ops
from .timing import cpu_seconds, interleaved_times


@dataclass(frozen=True)
class Overhead:
    """Medians. ratio is ours over torch's: how many times as long our call takes."""

    operator: str
    grad: bool
    ours_us: float
    torch_us: float
    ratio: float


def measure_overhead(device: str = "cpu", *, calls: int = 100, repeats: int = 25) -> list[Overhead]:
    """Times the forward call of each operator, with and without an input that requires grad.

    Args:
        calls: how many make one measurement.
        repeats: how many measurements the median is over.
    """
    weight = torch.randn(1, 1, 3, 3, device=device)
    functions: dict[str, tuple[Callable[[torch.Tensor], object], Callable[[torch.Tensor], object]]] = {
        "conv2d": (lambda x: ops.conv2d(x, weight), lambda x: F.conv2d(x, weight)),
        "max_pool2d": (lambda x: ops.max_pool2d(x, 2), lambda x: F.max_pool2d(x, 2)),
        "avg_pool2d": (lambda x: ops.avg_pool2d(x, 2), lambda x: F.avg_pool2d(x, 2)),
    }
    results = []
    for operator, (ours, theirs) in functions.items():
        for grad in (False, True):
            image = torch.randn(1, 1, 4, 4, device=device, requires_grad=grad)
            # The host's clock on CUDA too: it enqueues faster than such a small kernel ends.
            both = [_repeated(ours, image, calls), _repeated(theirs, image, calls)]
            times = interleaved_times(cpu_seconds, both, seconds=0, repeats=repeats)
            us = 1e6 / calls
            results.append(Overhead(operator, grad, times.median(0) * us, times.median(1) * us, times.ratio(0, over=1)))
    return results


def _repeated(function: Callable[[torch.Tensor], object], image: torch.Tensor, calls: int) -> Callable[[], None]:
    def call() -> None:
        for _ in range(calls):
            function(image)

    return call
