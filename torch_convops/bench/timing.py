"""Seconds of one call, on the host's clock or the device's."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

import torch

Call = Callable[[], object]
Timer = Callable[[Call], float]

MIN_PAIRS = 7
MAX_PAIRS = 1000
WARM_UP = 2


def cpu_seconds(call: Call) -> float:
    """Includes the allocation of the result, not its release."""
    start = time.perf_counter()
    result = call()
    elapsed = time.perf_counter() - start
    del result
    return elapsed


class CudaTimer:
    """Seconds between two events around a call, with nothing of its operands in the L2 cache."""

    FLUSH_BYTES = 256 << 20  # several times the largest L2
    # Cycles that keep the stream busy until the host has enqueued the call; its own time is measured by overhead().
    HEAD_START = 1_000_000

    def __init__(self) -> None:
        self._flush = torch.empty(self.FLUSH_BYTES, dtype=torch.int8, device="cuda")

    def __call__(self, call: Call) -> float:
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        self._flush.zero_()
        torch.cuda._sleep(self.HEAD_START)
        start.record()
        result = call()
        end.record()
        end.synchronize()
        del result
        milliseconds: float = start.elapsed_time(end)
        return milliseconds / 1e3


def timer(device: str) -> Timer:
    return CudaTimer() if device == "cuda" else cpu_seconds


def best_algorithms_of_torch(device: str) -> AbstractContextManager[object]:
    """Lets cuDNN time its algorithms and take the fastest."""
    if device == "cuda":
        context: AbstractContextManager[object] = torch.backends.cudnn.flags(
            enabled=True, benchmark=True, allow_tf32=torch.backends.cudnn.allow_tf32
        )
        return context
    return nullcontext()


class PairedTimes(NamedTuple):
    """Medians. ratio is that of the pairs' quotients, which a machine that slows down for a while does not shift."""

    ours: float
    torch: float
    ratio: float
    pairs: int


def paired_times(time: Timer, ours: Call, theirs: Call, seconds: float, repeats: int | None = None) -> PairedTimes:
    """Times two calls alternately, for about ``seconds`` but at least seven times, or ``repeats`` times."""
    for _ in range(WARM_UP):
        time(ours), time(theirs)
    times: list[tuple[float, float]] = []
    spent = 0.0
    while len(times) < repeats if repeats is not None else _wants_more(len(times), spent, seconds):
        if len(times) % 2:  # neither is always the one that finds the caches warm
            second, first = time(theirs), time(ours)
        else:
            first, second = time(ours), time(theirs)
        times.append((first, second))
        spent += first + second
    return PairedTimes(
        ours=statistics.median(first for first, _ in times),
        torch=statistics.median(second for _, second in times),
        ratio=statistics.median(second / first for first, second in times),
        pairs=len(times),
    )


def _wants_more(pairs: int, spent: float, seconds: float) -> bool:
    return pairs < MIN_PAIRS or (spent < seconds and pairs < MAX_PAIRS)
