"""A pass of a row as a function without arguments: what is timed, and what memory is counted of."""

from __future__ import annotations

from collections.abc import Callable

import torch

from .rows import Operands

Function = Callable[..., torch.Tensor]
Results = tuple[torch.Tensor, ...]

_LEAF = {"grad_input": 0, "grad_weight": 1}


def pass_call(function: Function, pass_: str, operands: Operands) -> Callable[[], Results]:
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
