"""The override of torch's functions: against torch on the samples and errors of torch's own test suite."""

from __future__ import annotations

import contextlib
import importlib.util
import sys
import types
import unittest.mock
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import torch.utils.checkpoint
from conftest import TOLERANCE, random

import torch_convops
from torch_convops.cli import zoo

NAMES = (
    "conv2d",
    "conv_transpose2d",
    "max_pool2d",
    "avg_pool2d",
    "adaptive_max_pool2d",
    "adaptive_avg_pool2d",
    "max_unpool2d",
)


def op_infos() -> list[Any]:
    """torch's descriptions of these functions for its own tests.

    Their module asks for expecttest, which torch does not install, but for a base class; and it forbids to set
    torch.backends' flags, which other tests here do.
    """
    if importlib.util.find_spec("expecttest") is None:
        sys.modules["expecttest"] = types.ModuleType("expecttest")
        sys.modules["expecttest"].TestCase = unittest.TestCase  # type: ignore[attr-defined]
    with unittest.mock.patch.object(torch.backends, "disable_global_flags"):
        from torch.testing._internal.common_methods_invocations import op_db

    infos = [info for info in op_db if info.name in {f"nn.functional.{name}" for name in NAMES}]
    assert len({info.name for info in infos}) == len(NAMES)
    return infos


INFOS = op_infos()
BOUNDS = {**TOLERANCE, torch.complex64: TOLERANCE[torch.float32], torch.complex128: TOLERANCE[torch.float64]}


def samples() -> list[Any]:
    return [
        pytest.param(info, dtype, id=f"{info.formatted_name}-{str(dtype).removeprefix('torch.')}")
        for info in INFOS
        for dtype in sorted(info.supported_dtypes("cpu"), key=str)
    ]


def assert_equals_torchs(actual: Any, expected: Any, strides: bool = True, roundings: int = 1) -> None:
    """The same tensors but for so many roundings."""
    if isinstance(expected, tuple):
        assert len(actual) == len(expected)
        for a, b in zip(actual, expected, strict=True):
            assert_equals_torchs(a, b, strides, roundings)
        return
    assert (actual.shape, actual.dtype) == (expected.shape, expected.dtype)
    assert not strides or actual.stride() == expected.stride()
    if not (expected.is_floating_point() or expected.is_complex()):
        assert torch.equal(actual, expected)
        return
    wide = torch.complex128 if expected.is_complex() else torch.float64
    difference, norm = (actual.to(wide) - expected.to(wide)).norm().item(), expected.to(wide).norm().item()
    assert difference <= BOUNDS[expected.dtype] * roundings * norm


@pytest.mark.parametrize("info, dtype", samples())
def test_samples_of_torchs_own_tests(info: Any, dtype: torch.dtype) -> None:
    name = info.name.rpartition(".")[2]
    differentiable = dtype in info.supported_backward_dtypes("cpu")
    count = 0
    record = torch_convops.override()
    for sample in info.sample_inputs("cpu", dtype, requires_grad=differentiable):
        count += 1

        def call(sample: Any = sample) -> Any:
            return info.op(sample.input, *sample.args, **sample.kwargs)

        expected = call()
        with record:
            actual = call()
        assert_equals_torchs(actual, expected)
        if differentiable:
            y, expected_y = (result[0] if isinstance(result, tuple) else result for result in (actual, expected))
            arguments = (sample.input, *sample.args, *sample.kwargs.values())
            leaves = [t for t in arguments if isinstance(t, torch.Tensor) and t.requires_grad]
            grad = torch.randn_like(expected_y)
            # Where windows overlap, torch 2.10 rounds between their gradients.
            roundings = 2 if dtype is torch.bfloat16 else 1
            gradients = (torch.autograd.grad(result, leaves, grad) for result in (y, expected_y))
            assert_equals_torchs(*gradients, strides=False, roundings=roundings)
    assert count > 0
    if dtype is torch.int64 and name != "max_pool2d":
        assert record.fallbacks == {(name, "a torch.int64 tensor"): count}
    else:
        assert record.calls == {name: count}
        assert not record.fallbacks


@pytest.mark.parametrize(
    "info", [info for info in INFOS if info.error_inputs_func], ids=lambda info: info.formatted_name
)
def test_errors_of_torchs_own_tests(info: Any) -> None:
    for case in info.error_inputs("cpu"):
        sample = case.sample_input
        with torch_convops.override() as record, pytest.raises(case.error_type, match=case.error_regex):
            info.op(sample.input, *sample.args, **sample.kwargs)
        assert not record.calls
        assert sum(record.fallbacks.values()) == 1


x, w = torch.randn(2, 4, 8, 8), torch.randn(4, 4, 3, 3)
y, indices = F.max_pool2d(x, 2, return_indices=True)
REFUSED: dict[str, Callable[[], Any]] = {
    "same with a stride": lambda: F.conv2d(x, w, stride=2, padding="same"),
    "full": lambda: F.conv2d(x, w, padding="full"),
    "padding_mode": lambda: torch.conv2d(x, w, padding_mode="reflect"),  # type: ignore[call-overload]
    "algorithm": lambda: F.conv2d(x, w, algorithm="auto"),  # type: ignore[call-overload]
    "channels": lambda: F.conv2d(x[:, :2], w),
    "dtypes": lambda: F.conv2d(x, w.double()),
    "no weight": lambda: F.conv2d(x),  # type: ignore[call-overload]
    "weight": lambda: F.conv2d(x, 3),  # type: ignore[call-overload]
    "transposed same": lambda: F.conv_transpose2d(x, w, padding="same"),  # type: ignore[arg-type]
    "transposed channels": lambda: F.conv_transpose2d(x[:, :3], w),
    "output padding": lambda: F.conv_transpose2d(x, w, output_padding=1),
    "rank": lambda: F.max_pool2d(x[0, 0], 2),
    "pads": lambda: F.max_pool2d(x, 2, padding=2),
    "four sides": lambda: F.avg_pool2d(x, 3, 1, ((1, 0), (0, 1))),  # type: ignore[arg-type]
    "pooling same": lambda: F.max_pool2d(x, 2, padding="same"),  # type: ignore[arg-type]
    "dilation": lambda: F.avg_pool2d(x, 2, dilation=2),  # type: ignore[call-arg]
    "ceil_mode": lambda: F.max_pool2d(x, 2, ceil_mode=1),  # type: ignore[arg-type]
    "ceil_mode of a norm": lambda: F.lp_pool2d(x, 2, 2, ceil_mode=1),  # type: ignore[arg-type]
    "one side of a norm": lambda: F.lp_pool2d(x, 2, (2,)),  # type: ignore[arg-type]
    "one output side": lambda: F.adaptive_max_pool2d(x, [2]),
    "nothing of an output size": lambda: F.adaptive_avg_pool2d(x, None),
    "output size": lambda: F.adaptive_avg_pool2d(x, (1, 2, 3)),
    "no output size": lambda: F.adaptive_max_pool2d(x, (-1, 2)),
    "unpooled size": lambda: F.max_unpool2d(y, indices, 2, output_size=(99, 99)),
    "indices": lambda: F.max_unpool2d(y, indices + 999, 2),
    "dtype of indices": lambda: F.max_unpool2d(y, indices.int(), 2),
    "norm": lambda: F.lp_pool2d(x, 0, 2),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_torch_refuses_is_refused_in_its_words(name: str) -> None:
    """What only this library takes, too."""
    with pytest.raises(Exception) as expected:
        REFUSED[name]()
    with torch_convops.override() as record, pytest.raises(type(expected.value)) as actual:
        REFUSED[name]()
    assert str(actual.value) == str(expected.value)
    assert not record.calls
    assert sum(record.fallbacks.values()) <= 1, "a wrong signature reaches no mode"


# The maximum, which the last ones of torch that this library is for take for another power.
TAKES_INFINITY = F.lp_pool2d(torch.full((1, 1, 1), 2.0), float("inf"), 1).item() == 2
FUNCTIONS: dict[str, list[Callable[[], Any]]] = {
    "conv2d": [
        lambda: torch.conv2d(x, w, padding="same"),
        lambda: F.conv2d(x, w, stride=(2, 1), padding=[1, 0]),
        lambda: torch.nn.Conv2d(4, 2, 3, padding=1, padding_mode="reflect")(x),
    ],
    "conv_transpose2d": [
        lambda: torch.conv_transpose2d(x, w, stride=2),
        lambda: F.conv_transpose2d(x, w, output_padding=1, stride=2),
        lambda: torch.nn.ConvTranspose2d(4, 2, 3, stride=2)(x, output_size=(18, 17)),
    ],
    "max_pool2d": [
        lambda: torch.max_pool2d(x, 2),
        lambda: F.max_pool2d(x, 3, 2, 1, 1, True),
        lambda: F.max_pool2d(x, 3, 2, 1, 1, True, True),
        lambda: F.max_pool2d(x, 2, return_indices=True),
        lambda: F.max_pool2d_with_indices(x, 2),
        lambda: torch._C._nn.max_pool2d_with_indices(x, 2),
        lambda: torch.nn.MaxPool2d(2)(x),
        lambda: torch.nn.MaxPool2d(2, return_indices=True)(x),
    ],
    "avg_pool2d": [
        lambda: F.avg_pool2d(x, 3, 2, 1, False, False),
        lambda: torch._C._nn.avg_pool2d(x, 2),
        lambda: torch.nn.AvgPool2d(3, divisor_override=2)(x),
    ],
    "adaptive_max_pool2d": [
        lambda: F.adaptive_max_pool2d(x, 3),
        lambda: F.adaptive_max_pool2d(x, 3, True),
        lambda: F.adaptive_max_pool2d(x, (None, 2), return_indices=True),
        lambda: F.adaptive_max_pool2d_with_indices(x, 2),
        lambda: torch._C._nn.adaptive_max_pool2d(x, (2, 3)),
        lambda: torch.nn.AdaptiveMaxPool2d(2)(x),
    ],
    "adaptive_avg_pool2d": [
        lambda: F.adaptive_avg_pool2d(x, 1),
        lambda: F.adaptive_avg_pool2d(x, (None, 2)),
        lambda: torch._C._nn.adaptive_avg_pool2d(x, (2, 3)),
        lambda: torch.nn.AdaptiveAvgPool2d((3, 2))(x),
    ],
    "max_unpool2d": [
        lambda: F.max_unpool2d(y, indices, 2),
        lambda: torch.nn.MaxUnpool2d(2)(y, indices, output_size=x.shape),
    ],
    "lp_pool2d": [
        lambda: F.lp_pool2d(x, 2, 3, 1, True),
        *([lambda: F.lp_pool2d(x, float("inf"), 2)] if TAKES_INFINITY else []),
        lambda: torch.nn.LPPool2d(4, (3, 2))(x),
    ],
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_way_to_a_function(name: str) -> None:
    for call in FUNCTIONS[name]:
        torch.manual_seed(0)
        expected = call()
        torch.manual_seed(0)
        with torch_convops.override() as record:
            actual = call()
        assert_equals_torchs(actual, expected)
        assert record.calls == {name: 1}
        assert not record.fallbacks


class Labelled(torch.Tensor):
    """A subclass that a mode must leave to itself."""


def test_what_is_not_taken_is_left_and_said() -> None:
    out = torch.empty(2, 4, 4, 4)
    quantized = torch.quantize_per_tensor(x, 0.1, 0, torch.quint8)
    labelled = x.as_subclass(Labelled)
    with torch_convops.override() as record:
        assert torch._C._nn.avg_pool2d(x, 2, out=out) is out
        assert F.max_pool2d(quantized, 2).is_quantized
        assert type(F.conv2d(labelled, w)) is Labelled
        assert F.avg_pool2d(x.to_mkldnn(), 2).is_mkldnn
        assert F.conv2d(x.long(), w.long()).dtype is torch.int64
    assert torch.equal(out, F.avg_pool2d(x, 2))
    assert not record.calls
    reasons = [reason for _, reason in record.fallbacks]
    assert "keyword argument 'out'" in reasons[0]
    assert reasons[1:4] == ["a quantized tensor", f"a {__name__}.Labelled", "a torch._mkldnn tensor"]
    assert reasons[4:] == ["a torch.int64 tensor"]
    assert str(record).splitlines()[0] == "0 calls answered, 5 left to torch"
    assert "  max_pool2d: 1 left, a quantized tensor" in str(record)


def network(images: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return F.avg_pool2d(F.max_pool2d(F.conv2d(images, weight, padding=1).tanh(), 2), 2)


CALLS = {"conv2d": 1, "max_pool2d": 1, "avg_pool2d": 1}


def test_transforms_and_higher_orders() -> None:
    image, weight = (random(*size, dtype=torch.float64, grad=True) for size in ((2, 3, 6, 8), (2, 3, 3, 3)))
    with torch_convops.override() as record:
        assert torch.autograd.gradcheck(network, (image, weight), check_forward_ad=True)
        assert torch.autograd.gradgradcheck(network, (image, weight))
        jacobian = torch.func.jacrev(network, 1)(image, weight)
        mapped = torch.func.vmap(network, (0, None))(image, weight)
    assert not record.fallbacks
    torch.testing.assert_close(jacobian, torch.func.jacrev(network, 1)(image, weight))
    torch.testing.assert_close(mapped, network(image, weight))


def test_checkpoints() -> None:
    """Backward runs outside of modes: a checkpoint has to be told of this one."""
    image, weight = (random(*size, dtype=torch.float64, grad=True) for size in ((2, 3, 6, 8), (2, 3, 3, 3)))
    again = torch_convops.override()
    with torch_convops.override() as record:
        output = torch.utils.checkpoint.checkpoint(
            network, image, weight, use_reentrant=False, context_fn=lambda: (contextlib.nullcontext(), again)
        )
        output.sum().backward()
    assert record.calls == CALLS
    assert again.calls["conv2d"] == 1
    expected = torch.autograd.grad(network(image, weight).sum(), (image, weight))
    torch.testing.assert_close((image.grad, weight.grad), expected)


@pytest.mark.parametrize(
    "size", [(0, 4, 8, 8), (2, 0, 8, 8), (0, 8, 8), (2, 4, 0, 8), (4, 8), (1, 2, 4, 8, 8), (2, 4, 2, 2)], ids=str
)
def test_odd_sizes_are_as_in_torch(size: tuple[int, ...]) -> None:
    """Empty, too small, of another rank: the same result or the same error."""

    def outcome(call: Callable[[torch.Tensor], Any]) -> Any:
        try:
            output = call(torch.ones(size))
        except Exception as error:
            return type(error), str(error)
        return output[0] if isinstance(output, tuple) else output

    for call in (
        lambda x: F.conv2d(x, w, padding=1, stride=2),
        lambda x: F.conv_transpose2d(x, w, stride=2),
        lambda x: F.max_pool2d(x, 3, 2, 1),
        lambda x: F.max_pool2d(x, 3, return_indices=True),
        lambda x: F.avg_pool2d(x, 3, 2, 1),
        lambda x: F.adaptive_max_pool2d(x, (None, 0)),
        lambda x: F.adaptive_avg_pool2d(x, 3),
        lambda x: F.max_unpool2d(x, torch.zeros(x.shape, dtype=torch.int64), 2),
        lambda x: F.lp_pool2d(x, 2, 3, ceil_mode=True),
    ):
        expected = outcome(call)
        with torch_convops.override():
            actual = outcome(call)
        if isinstance(expected, tuple):
            assert actual == expected
        else:
            assert_equals_torchs(actual, expected)


def test_autocast() -> None:
    with torch_convops.override() as record, torch.autocast("cpu", torch.bfloat16):
        assert F.conv2d(x, w).dtype is torch.bfloat16
    assert record.calls == {"conv2d": 1}


@pytest.fixture
def graphs() -> Iterator[list[list[str]]]:
    """The functions of the graphs that torch.compile makes."""
    torch._dynamo.reset()
    yield []
    torch._dynamo.reset()


def compiled(function: Callable[..., Any], graphs: list[list[str]]) -> Callable[..., Any]:
    def backend(graph: torch.fx.GraphModule, _: Any) -> Any:
        graphs.append([str(node.target) for node in graph.graph.nodes if node.op == "call_function"])
        return graph.forward

    return torch.compile(function, backend=backend, fullgraph=True)


def test_compiled_functions_know_whether_they_are_inside(graphs: list[list[str]]) -> None:
    function = compiled(network, graphs)
    torch.testing.assert_close(function(x, w), network(x, w))
    with torch_convops.override() as record:
        torch.testing.assert_close(function(x, w), network(x, w))
    assert record.calls == dict.fromkeys(CALLS, 2), "of the compiled function and of the plain one"
    with record:
        function(x, w)
    function(x, w)
    assert record.calls == dict.fromkeys(CALLS, 3)
    theirs, ours = ([name for name in names if "convops" in name] for names in graphs[:2])
    assert not theirs
    assert len(ours) == 3


def test_inside_compiled_functions(graphs: list[list[str]]) -> None:
    def function(images: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        with torch_convops.override():
            return network(images, weight)

    torch.testing.assert_close(compiled(function, graphs)(x, w), network(x, w))
    assert len([name for name in graphs[0] if "convops" in name]) == 3


def test_compiled_functions_fall_back(graphs: list[list[str]]) -> None:
    function = compiled(lambda images: F.avg_pool2d(images, 2), graphs)
    with torch_convops.override() as record:
        assert function(x.long()).dtype is torch.int64
    assert record.fallbacks == {("avg_pool2d", "a torch.int64 tensor"): 1}


def test_exported_inside() -> None:
    model = torch.nn.Sequential(torch.nn.Conv2d(4, 4, 3), torch.nn.MaxPool2d(2), torch.nn.AdaptiveAvgPool2d(1))
    with torch_convops.override():
        program = torch.export.export(model, (x,))
    targets = [str(node.target) for node in program.graph.nodes]
    for operator in ("conv2d.default", "max_pool2d_with_offsets.default", "adaptive_avg_pool2d.default"):
        assert f"torch_convops.{operator}" in targets
    torch.testing.assert_close(program.module()(x), model(x))


def test_fake_tensors() -> None:
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode(allow_non_fake_inputs=True) as mode, torch_convops.override() as record:
        assert network(mode.from_tensor(x), mode.from_tensor(w)).shape == (2, 4, 2, 2)
        assert network(x.to("meta"), w.to("meta")).device.type == "meta"
    assert record.calls == dict.fromkeys(CALLS, 2)


def test_a_mode_is_its_threads() -> None:
    import threading

    with torch_convops.override() as record:
        thread = threading.Thread(target=network, args=(x, w))
        thread.start()
        thread.join()
    assert not record.calls


def test_the_inner_of_two_answers() -> None:
    with torch_convops.override() as outer, torch_convops.override() as inner:
        network(x, w)
    assert inner.calls == CALLS
    assert not outer.calls
    assert str(inner).splitlines()[0] == "3 calls answered, 0 left to torch"


def test_a_model_as_it_is() -> None:
    model, images = zoo.build("resnet18"), torch.rand(2, 3, 64, 64, dtype=torch.float64)
    zoo.calibrate(model, (images,))
    expected = model(images)
    with torch_convops.override() as record:
        actual = model(images)
    assert record.calls == {"conv2d": 20, "max_pool2d": 1, "adaptive_avg_pool2d": 1}
    assert not record.fallbacks
    parameters = list(model.parameters())
    gradients = (torch.autograd.grad(output.square().sum(), parameters) for output in (actual, expected))
    assert zoo.relative_error(actual, expected) < 1e-6
    assert max(map(zoo.relative_error, *gradients)) < 1e-6
