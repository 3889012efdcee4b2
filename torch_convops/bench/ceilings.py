"""What the machine can do at most: copy bandwidth and matrix-product flops, measured with torch."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from .timing import WARM_UP, Call, Timer, timer


@dataclass(frozen=True)
class Ceilings:
    """Per second: bytes that a large copy reads and writes, flops of a large square matrix product."""

    copy_bytes: float
    matmul_flops: float

    def floor_seconds(self, flops: int, bytes_: int) -> float:
        """The time that a pass takes if it reaches the ceiling that binds it."""
        return max(flops / self.matmul_flops, bytes_ / self.copy_bytes)

    def is_bound_by_flops(self, flops: int, bytes_: int) -> bool:
        return flops / self.matmul_flops > bytes_ / self.copy_bytes


def measure_ceilings(
    device: str, dtype: torch.dtype, *, matrix: int | None = None, copy_mib: int = 256, repeats: int = 5
) -> Ceilings:
    """Takes the best of ``repeats``.

    Args:
        matrix: rows of the square matrices; None means 2048 on the CPU, 4096 on CUDA.
        copy_mib: size of the copied tensor; several times the last cache.
    """
    n = matrix or (4096 if device == "cuda" else 2048)
    time = timer(device)
    a, b = (torch.randn(n, n, device=device).to(dtype) for _ in range(2))
    matmul_tf32 = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32  # what the convolutions may use
    try:
        matmul = _best(time, lambda: torch.matmul(a, b), repeats)
    finally:
        torch.backends.cuda.matmul.allow_tf32 = matmul_tf32
    source = torch.ones(copy_mib << 18, device=device)
    target = torch.empty_like(source)
    copy = _best(time, lambda: target.copy_(source), repeats)
    return Ceilings(copy_bytes=2 * source.nbytes / copy, matmul_flops=2 * n**3 / matmul)


def _best(time: Timer, call: Call, repeats: int) -> float:
    return min([time(call) for _ in range(WARM_UP + repeats)][WARM_UP:])
