"""Whether ``"auto"`` takes the fastest algorithm: all that do a pass, timed by turns."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import torch

from .._library import algorithms
from .measure import UnsupportedError, check, supported
from .passes import Results, pass_call
from .rows import Operands, Row
from .timing import Call, interleaved_times, timer

AUTO = "auto"
PASSES = ("forward", "grad_input", "grad_weight")


@dataclass(frozen=True)
class Choice:
    """What the algorithms take that do one pass of one row.

    Attributes:
        chosen: what ``"auto"`` takes; ``"auto"`` itself where the library does not tell, or takes several.
        ms: median times of all that do it, by name.
        best: the fastest, by name.
        loss: by how much of the fastest one's time the chosen one takes longer, round by round.
    """

    row: str
    operator: str
    N: int
    format: str
    pass_: str
    dtype: str
    device: str
    chosen: str
    best: str
    loss: float
    ms: dict[str, float]


def measure_choice(
    row: Row,
    pass_: str = "forward",
    *,
    format: str = "nchw",
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
    seconds: float = 2.0,
    repeats: int | None = None,
) -> Choice | None:
    """Checks and times every algorithm that does one pass of a row; None where there is but one.

    Args:
        pass_: ``"forward"``, ``"grad_input"`` or ``"grad_weight"``. A gradient needs any other algorithm than
            the chosen one to do the forward pass, too.
        row, format, dtype, device, seconds, repeats: as for :func:`measure`.

    Raises:
        WrongResultError: of one of them the result is neither torch's nor that of torch in float64.
    """
    operands = row.operands(dtype, device, format)
    chosen = row.choice(pass_, *operands.leaves) or AUTO
    expected = pass_call(row.reference, pass_, operands)()
    # What "auto" takes is timed as it takes it: for a gradient it may be one that does no forward pass.
    calls = {chosen: _checked_call(row, AUTO, pass_, operands, expected)}
    for name in algorithms(row.operator, device):
        if name == chosen:
            continue
        try:
            calls[name] = _checked_call(row, name, pass_, operands, expected)
        except UnsupportedError:
            continue
    if len(calls.keys() - {AUTO}) < 2:
        return None
    times = interleaved_times(timer(device), list(calls.values()), seconds, repeats)
    names = list(calls)
    best = min(calls.keys() - {AUTO}, key=lambda name: times.median(names.index(name)))
    return Choice(
        row=row.name,
        operator=row.operator,
        N=row.N,
        format=format,
        pass_=pass_,
        dtype=str(dtype).removeprefix("torch."),
        device=device,
        chosen=chosen,
        best=best,
        loss=times.ratio(names.index(chosen), over=names.index(best)) - 1,
        ms={name: times.median(index) * 1e3 for index, name in enumerate(names)},
    )


def _checked_call(row: Row, algorithm: str, pass_: str, operands: Operands, expected: Results) -> Call:
    call = supported(lambda: pass_call(functools.partial(row.ours, algorithm=algorithm), pass_, operands))
    check(row, pass_, operands, supported(call), expected)
    return call
