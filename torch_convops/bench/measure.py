"""One measurement: the result is checked, then ours and its peers are timed by turns on the same data."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch._functorch.config

from .memory import measure_peak_memory
from .passes import Function, Results, pass_call
from .rows import Operands, Row
from .timing import Call, best_algorithms_of_torch, interleaved_times, timer

T = TypeVar("T")

# Largest difference, relative to the largest value, of sums in another order that are rounded to the dtype.
TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-4, torch.float16: 4e-3, torch.bfloat16: 2e-2}
TF32_TOLERANCE = 4e-3
UNSUPPORTED = "does not support this problem"  # how an operator refuses an algorithm that was asked for


class WrongResultError(Exception):
    """A result differs from torch's and from that in float64."""


class UnsupportedError(Exception):
    """The algorithm that was asked for does not do this pass."""


@dataclass(frozen=True)
class Measurement:
    """What one pass of one row takes. Times are medians; ratio is torch's time over ours, round by round.

    Attributes:
        algorithm: as asked for.
        error: largest difference from the result that it was checked against, relative to that one's largest value.
        checked_against: ``"torch"``, or ``"float64"`` where torch's own result in this dtype is far from that.
        saved_bytes, torch_saved_bytes: memory that a forward pass keeps for the backward one; None but for training.
        compile_ms, compile_ratio: time of torch's pass under ``torch.compile``, and that over ours; None where it was
            not asked for or failed.
        compile_error: why it failed.
        peak_bytes, torch_peak_bytes: memory beyond the operands, as of :func:`measure_peak_memory`; None where it was
            not counted.
    """

    row: str
    operator: str
    family: str
    N: int
    format: str
    pass_: str
    dtype: str
    device: str
    algorithm: str
    ours_ms: float
    torch_ms: float
    ratio: float
    pairs: int
    flops: int
    bytes: int
    error: float
    checked_against: str
    saved_bytes: int | None = None
    torch_saved_bytes: int | None = None
    compile_ms: float | None = None
    compile_ratio: float | None = None
    compile_error: str | None = None
    peak_bytes: int | None = None
    torch_peak_bytes: int | None = None


def measure(
    row: Row,
    pass_: str = "forward",
    *,
    format: str = "nchw",
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
    algorithm: str = "auto",
    function: Function | None = None,
    seconds: float = 2.0,
    repeats: int | None = None,
    compiled: bool = False,
    memory: bool = False,
) -> Measurement:
    """Checks and times one pass of a row against torch.

    Args:
        pass_: one of ``row.passes``: ``"forward"`` without grad, ``"grad_input"`` or ``"grad_weight"`` of a graph that
            exists already, ``"training"``: forward and all gradients.
        format: ``"nchw"`` or ``"channels_last"``, of all tensors.
        function: what is timed in place of ``row.ours``; takes the row's leaves.
        seconds: about how long the timed calls take together.
        repeats: number of rounds of calls, in place of ``seconds``.
        compiled: also times what ``torch.compile`` makes of torch's pass; compiling is not in the time.
        memory: also counts the peak of a forward or training pass.

    Raises:
        WrongResultError: the result is neither torch's nor that of torch in float64.
        UnsupportedError: ``algorithm`` cannot do this.
    """
    if pass_ not in row.passes:
        raise ValueError(f"pass_ must be one of {', '.join(map(repr, row.passes))} for {row.name!r}, got {pass_!r}")

    def forward(*leaves: torch.Tensor) -> torch.Tensor:
        return row.ours(*leaves, algorithm=algorithm)

    operands = row.operands(dtype, device, format)
    our_function = function or forward
    with best_algorithms_of_torch(device):
        ours = supported(lambda: pass_call(our_function, pass_, operands))
        theirs = pass_call(row.reference, pass_, operands)
        expected = theirs()
        error, checked_against = check(row, pass_, operands, supported(ours), expected)
        compiled_peers: list[Call] = []
        compile_error = None
        if compiled:
            compiled_peers, compile_error = compiled_calls(
                lambda: pass_call(compile_whole(row.reference), pass_, operands), expected, tolerance(expected[0])
            )
        del expected
        times = interleaved_times(timer(device), [ours, theirs, *compiled_peers], seconds, repeats)
        peak = None
        if memory and pass_ in ("forward", "training"):
            peak = measure_peak_memory(row, pass_, format=format, dtype=dtype, device=device, algorithm=algorithm)
    saved = [_saved_bytes(f, operands) if pass_ == "training" else None for f in (our_function, row.reference)]
    return Measurement(
        row=row.name,
        operator=row.operator,
        family=row.family,
        N=row.N,
        format=format,
        pass_=pass_,
        dtype=str(dtype).removeprefix("torch."),
        device=device,
        algorithm=algorithm,
        ours_ms=times.median(0) * 1e3,
        torch_ms=times.median(1) * 1e3,
        ratio=times.ratio(1),
        pairs=len(times.rounds),
        flops=row.flops(pass_),
        bytes=row.bytes(pass_, dtype.itemsize),
        error=error,
        checked_against=checked_against,
        saved_bytes=saved[0],
        torch_saved_bytes=saved[1],
        compile_ms=times.median(2) * 1e3 if compiled_peers else None,
        compile_ratio=times.ratio(2) if compiled_peers else None,
        compile_error=compile_error,
        peak_bytes=peak.ours if peak else None,
        torch_peak_bytes=peak.torch if peak else None,
    )


def compile_whole(function: Callable[..., Any]) -> Callable[..., Any]:
    """torch.compile for one shape, with nothing left to Python: what it cannot compile is an error.

    Any number of problems can follow each other: the limit on recompilations is that of one.
    """
    torch.compiler.reset()
    compiled: Callable[..., Any] = torch.compile(function, dynamic=False, fullgraph=True)
    return compiled


def compiled_calls(
    prepare: Callable[[], Callable[[], Results]], expected: Results | None, allowed: float
) -> tuple[list[Call], str | None]:
    """The one call that compiles when it is prepared and called for the first time, or none and what went wrong: also a
    result that is farther than ``allowed`` from the expected one, if any."""
    try:
        # A pass that is timed alone runs again on one graph, whose buffers must not be used up.
        with torch._functorch.config.patch(donated_buffer=False):
            call = prepare()
            results = call()
    except Exception as failure:  # of any compiler on the way
        reason = str(failure).strip().partition("\n\n")[0]  # what follows is advice and code
        return [], textwrap.shorten(f"{type(failure).__name__}: {reason}", width=300)
    error = 0.0 if expected is None else relative_error(results, expected)
    if error <= allowed:
        return [call], None
    return [], f"wrong result: the relative error is {error:.1e}, over {allowed:.0e}"


def supported(call: Callable[[], T]) -> T:
    try:
        return call()
    except (RuntimeError, ValueError) as error:
        if UNSUPPORTED in str(error):
            raise UnsupportedError(str(error)) from None
        raise


def check(row: Row, pass_: str, operands: Operands, ours: Results, theirs: Results) -> tuple[float, str]:
    """Compares with torch; where they differ, torch in float64 on contiguous tensors decides."""
    allowed = tolerance(operands.grad_output)
    error = relative_error(ours, theirs)
    if error <= allowed:
        return error, "torch"
    leaves, grad_output = operands
    exact = Operands(tuple(t.double().contiguous() for t in leaves), grad_output.double().contiguous())
    error = relative_error(ours, pass_call(row.reference, pass_, exact)())
    if error <= allowed:
        return error, "float64"
    raise WrongResultError(f"{row.name}, {pass_}: the relative error is {error:.1e}, over {allowed:.0e}")


def tolerance(tensor: torch.Tensor) -> float:
    """The relative error that a result may have, given one of its operands."""
    tf32 = tensor.is_cuda and tensor.dtype is torch.float32 and torch.backends.cudnn.allow_tf32
    return TF32_TOLERANCE if tf32 else TOLERANCE[tensor.dtype]


def relative_error(results: Sequence[torch.Tensor], expected: Sequence[torch.Tensor]) -> float:
    """The largest over all tensors. A shape that is not the expected one, or a NaN, is infinitely wrong."""
    errors = []
    for result, reference in zip(results, expected, strict=True):
        if result.shape != reference.shape:
            return float("inf")
        wide = torch.promote_types(reference.dtype, torch.float32)
        difference = (result.to(wide) - reference.to(wide)).abs().max().item()
        error = difference / max(reference.to(wide).abs().max().item(), torch.finfo(wide).tiny)
        errors.append(error if error == error else float("inf"))
    return max(errors)


def _saved_bytes(function: Function, operands: Operands) -> int:
    storages: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        storages[storage.data_ptr()] = storage.nbytes()
        return tensor

    leaves = [leaf.detach().requires_grad_() for leaf in operands.leaves]
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        output = function(*leaves)
    del output  # was alive until here, so that no address served twice
    return sum(storages.values())
