"""The most memory that a pass needs beyond its operands, counted the same way for both libraries."""

from __future__ import annotations

import ctypes
import dataclasses
import functools
import multiprocessing
import sys
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

import torch

from .passes import pass_call
from .rows import Row
from .timing import Call

# Linux's numbers of what the child asks of malloc and the kernel.
_M_MMAP_THRESHOLD, _PR_SET_THP_DISABLE = -3, 41
# What torch.autograd.grad imports when it is first given a gradient: seconds, and tens of megabytes.
_IMPORTED_BY_AUTOGRAD = ["torch.fx.experimental.symbolic_shapes"]


@dataclasses.dataclass(frozen=True)
class PeakMemory:
    """Bytes beyond the operands: results, workspaces, and what a forward pass keeps for the backward one."""

    ours: int
    torch: int


def measure_peak_memory(
    row: Row,
    pass_: str = "forward",
    *,
    format: str = "nchw",
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
    algorithm: str = "auto",
) -> PeakMemory | None:
    """Runs one pass of a row with either library and returns the peak of each.

    On CUDA that is of torch's allocator, from which both libraries take their workspaces. On the CPU workspaces come
    from several allocators, so there it is the resident set: of a fresh process for each library, where every larger
    block is given back when it is freed, in the second call of the pass; what the first one leaves behind, beyond what
    a call for a single image does (threads, imports, compiled kernels), counts as well. It is right to some 0.3 MB.
    None where the system is not Linux or does not let a process reset its high-water mark.

    Args:
        row, pass_, format, dtype, device, algorithm: as for :func:`measure`.
    """
    peaks = []
    for ours in (True, False):
        prepare = functools.partial(_prepare, ours, pass_, format, dtype, device, algorithm)
        if device == "cuda":
            peak: int | None = _cuda_peak(prepare(row))
        else:
            peak = _peak_of_child(functools.partial(_resident_peak, prepare, row))
        if peak is None:
            return None
        peaks.append(peak)
    return PeakMemory(*peaks)


def _prepare(ours: bool, pass_: str, format_: str, dtype: torch.dtype, device: str, algorithm: str, row: Row) -> Call:
    function = functools.partial(row.ours, algorithm=algorithm) if ours else row.reference
    return pass_call(function, pass_, row.operands(dtype, device, format_))


def _cuda_peak(call: Call) -> int:
    call()  # cuDNN tries its algorithms
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    call()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


def _peak_of_child(count: Callable[[], int | None]) -> int | None:
    if not sys.platform.startswith("linux"):
        return None
    # Its server imports torch once and runs nothing: each fork of it is as a process that was just started.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__, *_IMPORTED_BY_AUTOGRAD])
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=_report_peak, args=(sender, count, torch.get_num_threads()), daemon=True)
    child.start()
    sender.close()
    try:
        peak: int | Exception | None = receiver.recv()
    except EOFError:
        raise RuntimeError("the process whose memory was measured ended early; is memory short?") from None
    finally:
        child.join()
    if isinstance(peak, Exception):
        raise peak
    return peak


def _report_peak(sender: Connection, count: Callable[[], int | None], threads: int) -> None:
    try:
        torch.set_num_threads(threads)
        sender.send(count())
    except Exception as error:
        sender.send(error)


def _resident_peak(prepare: Callable[[Row], Call], row: Row) -> int | None:
    libc = ctypes.CDLL(None)
    libc.prctl(_PR_SET_THP_DISABLE, 1, 0, 0, 0)  # memory is counted in small pages
    if hasattr(libc, "mallopt"):
        libc.mallopt(_M_MMAP_THRESHOLD, 1 << 16)  # a freed block of this size or more is gone at once
    prepare(dataclasses.replace(row, N=1))()
    call = prepare(row)
    held = _resident("RssAnon")
    call()
    if hasattr(libc, "malloc_trim"):
        libc.malloc_trim(0)
    kept = max(0, _resident("RssAnon") - held)
    before = _resident("VmRSS")
    try:
        Path("/proc/self/clear_refs").write_text("5")  # the high-water mark back to what is resident now
    except OSError:
        return None
    call()
    return kept + max(0, _resident("VmHWM") - before)


def _resident(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith(f"{name}:"))
