"""The public functions as torch's own are to subclasses of torch.Tensor, to modes and to torch.fx."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pytest
import torch
from conftest import random
from torch.overrides import TorchFunctionMode

import torch_convops

x, w = random(2, 4, 8, 8), random(3, 4, 3, 3)
pooled, indices = torch_convops.max_pool2d(x, 2, return_indices=True)

CALLS: dict[str, tuple[tuple[Any, ...], dict[str, Any]]] = {
    "adaptive_avg_pool2d": ((x, 3), {}),
    "adaptive_max_pool2d": ((x,), {"output_size": 3}),
    "avg_pool2d": ((x, 2), {}),
    "blur_pool2d": ((x,), {}),
    "conv2d": ((x, w), {"padding": "same"}),
    "conv_transpose2d": ((x, w.transpose(0, 1)), {}),
    "convolve2d": ((x, w[0, 0]), {}),
    "correlate2d": ((x, w[0, 0]), {}),
    "global_avg_pool2d": ((x,), {}),
    "global_max_pool2d": ((x,), {}),
    "lp_pool2d": ((x, 2, 2), {}),
    "max_pool2d": ((x, 2), {}),
    "max_unpool2d": ((pooled, indices, 2), {}),
}


def test_every_function_of_tensors_is_known() -> None:
    functions = {name for name in torch_convops.__all__ if name.endswith("2d")}
    assert functions == set(CALLS)


class Recorder(TorchFunctionMode):
    def __init__(self) -> None:
        self.called: list[Any] = []

    def __torch_function__(
        self, func: Any, types: Iterable[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        self.called.append(func)
        return func(*args, **(kwargs or {}))


class Image(torch.Tensor):
    pass


class Refusing(torch.Tensor):
    @classmethod
    def __torch_function__(
        cls, func: Any, types: Iterable[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return NotImplemented


def replaced(call: tuple[tuple[Any, ...], dict[str, Any]], kind: Callable[[Any], Any]) -> Any:
    """The call with its first tensor changed."""
    (first, *rest), options = call
    return (kind(first), *rest), options


@pytest.mark.parametrize("name", CALLS)
def test_modes_see_the_function(name: str) -> None:
    function = getattr(torch_convops, name)
    args, kwargs = CALLS[name]
    with Recorder() as mode:
        result = function(*args, **kwargs)
    assert mode.called == [function]
    assert torch.equal(result, function(*args, **kwargs))


@pytest.mark.parametrize("name", CALLS)
def test_subclasses_stay(name: str) -> None:
    function = getattr(torch_convops, name)
    args, kwargs = replaced(CALLS[name], lambda tensor: tensor.as_subclass(Image))
    result = function(*args, **kwargs)
    assert type(result) is Image
    plain = function(*CALLS[name][0], **CALLS[name][1])
    assert type(plain) is torch.Tensor
    assert torch.equal(result.as_subclass(torch.Tensor), plain)


def test_subclasses_among_other_arguments() -> None:
    """Any tensor decides, by position or by keyword; gradients pass."""
    weight = w.clone().as_subclass(Image).requires_grad_()
    for result in (
        torch_convops.conv2d(x, weight),
        torch_convops.conv2d(x, weight=weight),
        torch_convops.conv2d(x, w, bias=weight[:, 0, 0, 0]),
    ):
        assert type(result) is Image
        result.sum().backward()
    expected = torch.func.grad(lambda weight: torch_convops.conv2d(x, weight).sum())(w)
    weight.grad = None
    torch_convops.conv2d(x, weight).sum().backward()
    torch.testing.assert_close(weight.grad.as_subclass(torch.Tensor), expected)


def test_subclasses_may_refuse() -> None:
    with pytest.raises(TypeError, match=r"no implementation found for 'torch_convops\.ops\.conv2d\.conv2d'"):
        torch_convops.conv2d(x.as_subclass(Refusing), w)


def test_errors_stay() -> None:
    with Recorder(), pytest.raises(ValueError, match="conv2d: "):
        torch_convops.conv2d(x, w, dilation=9)
    with pytest.raises(TypeError, match="max_pool2d: input must be a Tensor, got 3"):
        torch_convops.max_pool2d(3, 2)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", CALLS)
def test_symbolic_traces(name: str) -> None:
    function = getattr(torch_convops, name)
    args, kwargs = CALLS[name]
    graph = torch.fx.symbolic_trace(lambda first: function(first, *args[1:], **kwargs).relu())
    assert [node.target for node in graph.graph.nodes if node.op == "call_function"] == [function]
    assert torch.equal(graph(args[0]), function(*args, **kwargs).relu())
