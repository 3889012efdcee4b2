"""One measurement: the result is checked, then both libraries are timed on the same data."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch

from .rows import Operands, Row
from .timing import best_algorithms_of_torch, paired_times, timer

T = TypeVar("T")
Function = Callable[..., torch.Tensor]
Results = tuple[torch.Tensor, ...]

# Largest difference, relative to the largest value, of sums in another order that are rounded to the dtype.
TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-4, torch.float16: 4e-3, torch.bfloat16: 2e-2}
TF32_TOLERANCE = 4e-3
UNSUPPORTED = "does not support this problem"  # how an operator refuses an algorithm that was asked for
_LEAF = {"grad_input": 0, "grad_weight": 1}


class WrongResultError(Exception):
    """A result differs from torch's and from that in float64."""


class UnsupportedError(Exception):
    """The algorithm that was asked for does not do this pass."""


@dataclass(frozen=True)
class Measurement:
    """What one pass of one row takes. Times are medians; ratio is torch's time over ours, pair by pair.

    Attributes:
        algorithm: as asked for.
        error: largest difference from the result that it was checked against, relative to that one's largest value.
        checked_against: ``"torch"``, or ``"float64"`` where torch's own result in this dtype is far from that.
        saved_bytes, torch_saved_bytes: memory that a forward pass keeps for the backward one; None but for training.
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
) -> Measurement:
    """Checks and times one pass of a row against torch.

    Args:
        pass_: one of ``row.passes``: ``"forward"`` without grad, ``"grad_input"`` or ``"grad_weight"`` of a graph that
            exists already, ``"training"``: forward and all gradients.
        format: ``"nchw"`` or ``"channels_last"``, of all tensors.
        function: what is timed in place of ``row.ours``; takes the row's leaves.
        seconds: about how long the timed calls take together.
        repeats: number of pairs of calls, in place of ``seconds``.

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
        ours = _supported(lambda: _call(our_function, pass_, operands))
        theirs = _call(row.reference, pass_, operands)
        error, checked_against = _check(row, pass_, operands, _supported(ours), theirs())
        times = paired_times(timer(device), ours, theirs, seconds, repeats)
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
        ours_ms=times.ours * 1e3,
        torch_ms=times.torch * 1e3,
        ratio=times.ratio,
        pairs=times.pairs,
        flops=row.flops(pass_),
        bytes=row.bytes(pass_, dtype.itemsize),
        error=error,
        checked_against=checked_against,
        saved_bytes=saved[0],
        torch_saved_bytes=saved[1],
    )


def _supported(call: Callable[[], T]) -> T:
    try:
        return call()
    except (RuntimeError, ValueError) as error:
        if UNSUPPORTED in str(error):
            raise UnsupportedError(str(error)) from None
        raise


def _call(function: Function, pass_: str, operands: Operands) -> Callable[[], Results]:
    """A pass as a function without arguments. One gradient alone is read off a graph made here."""
    leaves, grad_output = operands
    if pass_ == "forward":
        return lambda: (function(*leaves),)
    if pass_ == "training":
        trained = tuple(leaf.detach().requires_grad_() for leaf in leaves)

        def training() -> Results:
            output = function(*trained)
            return output.detach(), *torch.autograd.grad(output, trained, grad_output)

        return training
    wanted = leaves[_LEAF[pass_]].detach().requires_grad_()
    output = function(*(wanted if i == _LEAF[pass_] else leaf for i, leaf in enumerate(leaves)))
    return lambda: torch.autograd.grad(output, wanted, grad_output, retain_graph=True)


def _check(row: Row, pass_: str, operands: Operands, ours: Results, theirs: Results) -> tuple[float, str]:
    """Compares with torch; where they differ, torch in float64 on contiguous tensors decides."""
    allowed = tolerance(operands.grad_output)
    error = relative_error(ours, theirs)
    if error <= allowed:
        return error, "torch"
    leaves, grad_output = operands
    exact = Operands(tuple(t.double().contiguous() for t in leaves), grad_output.double().contiguous())
    error = relative_error(ours, _call(row.reference, pass_, exact)())
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
