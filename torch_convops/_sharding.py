"""Sharding rules for ``torch.distributed.tensor``: what every rank can compute of its own part.

All follow from the dimensions that operands and results share. Where each rank has a part of a dimension, it has that
part of every tensor with the dimension and the whole of every other operand; a result without it was summed over it,
so each rank has a term of the sum (``Partial``).
"""

from __future__ import annotations

from typing import Any, NamedTuple

from torch.distributed.tensor import DTensor, Partial, Placement, Replicate, Shard
from torch.distributed.tensor._op_schema import RuntimeSchemaInfo
from torch.distributed.tensor.experimental import register_sharding

from .ops._dispatch import ops


class Rule(NamedTuple):
    """Names of the dimensions that can be sharded, which come first in each tensor. Those of images and filters are
    cut into windows instead, which reach into neighbouring parts."""

    operands: tuple[str, ...]
    results: tuple[str, ...]
    bias: str | None = None
    linear: int = 0  # in how many of its first operands, one at a time, the operator is linear


_IMAGE = "NC"
_RULES = {
    "conv2d": Rule(("NC", "KC"), ("NK",), bias="K", linear=2),
    "conv2d_grad_input": Rule(("NK", "KC"), ("NC",), bias="C", linear=2),
    "conv2d_grad_weight": Rule(("NK", "NC"), ("KC",), linear=2),
    "conv2d_grad_bias": Rule(("NK",), ("K",), linear=1),
    **{
        f"{family}max_pool2d{suffix}": rule
        for family in ("", "adaptive_")
        for suffix, rule in {
            "": Rule((_IMAGE,), (_IMAGE,)),
            "_with_offsets": Rule((_IMAGE,), (_IMAGE, _IMAGE)),
            "_grad_input": Rule((_IMAGE, _IMAGE), (_IMAGE,), linear=1),
            "_gather": Rule((_IMAGE, _IMAGE), (_IMAGE,), linear=1),
            "_indices": Rule((_IMAGE,), (_IMAGE,)),
        }.items()
    },
    **{
        f"{family}avg_pool2d{suffix}": Rule((_IMAGE,), (_IMAGE,), linear=1)
        for family in ("", "adaptive_")
        for suffix in ("", "_grad_input")
    },
    "max_unpool2d": Rule((_IMAGE, _IMAGE), (_IMAGE,), linear=1),
    "max_unpool2d_gather": Rule((_IMAGE, _IMAGE), (_IMAGE,), linear=1),
}

Acceptable = tuple[list[Placement], list[Placement]]  # of the results and of the operands


def _acceptable(rule: Rule, batched: bool, has_bias: bool, groups: int) -> list[Acceptable]:
    """Every way to place the tensors of a call along one dimension of a mesh."""

    def dimensions(term: str) -> str:
        return term if batched else term.replace("N", "")

    def sharded(term: str, letter: str, otherwise: Placement) -> Placement:
        return Shard(dimensions(term).index(letter)) if letter in dimensions(term) else otherwise

    def with_bias(results: list[Placement], operands: list[Placement], bias: Placement) -> Acceptable:
        # A bias is added once: to a sum, each rank adds a term of it.
        return results, [*operands, results[0] if isinstance(results[0], Partial) else bias] if has_bias else operands

    everywhere: list[Placement] = [Replicate() for _ in rule.operands]
    acceptable = [with_bias([Replicate() for _ in rule.results], everywhere, Replicate())]
    # A rank's channels are those of other groups than the call names, unless there is one.
    letters = dict.fromkeys(letter for term in rule.operands for letter in dimensions(term))
    for letter in letters if groups == 1 else [letter for letter in letters if letter == "N"]:
        results = [sharded(term, letter, Partial()) for term in rule.results]
        operands = [sharded(term, letter, Replicate()) for term in rule.operands]
        acceptable.append(with_bias(results, operands, sharded(rule.bias or "", letter, Replicate())))
    for index in range(rule.linear):
        operands = [Partial() if i == index else Replicate() for i in range(len(rule.operands))]
        acceptable.append(with_bias([Partial() for _ in rule.results], operands, Replicate()))
    return acceptable


def _register(operator: str, rule: Rule) -> None:
    overload = getattr(ops, operator).default
    arguments = overload._schema.arguments
    names = [argument.name for argument in arguments]
    tensors = {name for name, argument in zip(names, arguments, strict=True) if "Tensor" in str(argument.type)}

    def sharding(*args: Any, **_: Any) -> list[tuple[list[Placement], list[Placement | None]]]:
        given = dict(zip(names, args, strict=False))
        present = [name in tensors and arg is not None for name, arg in given.items()]
        result = []
        for outputs, inputs in _acceptable(
            rule, args[0].ndim == 4, given.get("bias") is not None, given.get("groups", 1)
        ):
            placements = iter(inputs)
            result.append((outputs, [next(placements) if is_tensor else None for is_tensor in present]))
        return result

    register_sharding(overload)(sharding)
    # register_sharding lets DTensor reuse what it knows of an earlier call whose lists of sizes, such as the stride,
    # or keywords were other ones, and with it the size of that call's result.
    propagator = DTensor._op_dispatcher.sharding_propagator
    propagator.op_to_schema_info[overload] = RuntimeSchemaInfo(
        static_argnum=next((i for i, name in enumerate(names) if name not in tensors), 100),
        static_kwargkey=[argument.name for argument in arguments if argument.kwarg_only],
        needs_pytree=True,
    )


for _operator, _rule in _RULES.items():
    _register(_operator, _rule)
