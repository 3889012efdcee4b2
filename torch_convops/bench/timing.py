"""Seconds of one call, on the host's clock or the device's."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch

Call = Callable[[], object]
Timer = Callable[[Call], float]

MIN_ROUNDS = 7
MAX_ROUNDS = 1000
WARM_UP = 2
MAX_WARM_UP = 10


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


@dataclass(frozen=True)
class Times:
    """Seconds of calls that took turns: in each round every call once."""

    rounds: tuple[tuple[float, ...], ...]

    def median(self, call: int) -> float:
        return statistics.median(times[call] for times in self.rounds)

    def ratio(self, call: int, over: int = 0) -> float:
        """Median of the rounds' quotients, which a machine that slows down for a while does not shift."""
        return statistics.median(times[call] / times[over] for times in self.rounds)


def interleaved_times(time: Timer, calls: Sequence[Call], seconds: float, repeats: int | None = None) -> Times:
    """Times calls by turns, for about ``seconds`` but at least seven rounds, or ``repeats`` rounds.

    Up to ten rounds, or half of ``seconds``, come before: large results take memory from the system anew in every call,
    and the first pages of a process are ten times as slow as those that come back to it.
    """
    warmed = 0.0
    for i in range(MAX_WARM_UP):
        if i >= WARM_UP and warmed >= seconds / 2:
            break
        warmed += sum(time(call) for call in calls)
    rounds: list[tuple[float, ...]] = []
    spent = 0.0
    while len(rounds) < repeats if repeats is not None else _wants_more(len(rounds), spent, seconds):
        if len(rounds) % 2:  # none is always the one that finds the caches warm
            times = tuple(reversed([time(call) for call in reversed(calls)]))
        else:
            times = tuple(time(call) for call in calls)
        rounds.append(times)
        spent += sum(times)
    return Times(tuple(rounds))


def _wants_more(rounds: int, spent: float, seconds: float) -> bool:
    return rounds < MIN_ROUNDS or (spent < seconds and rounds < MAX_ROUNDS)
