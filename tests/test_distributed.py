"""On two processes: data-parallel training, and the operators on DTensors."""

from __future__ import annotations

import pickle
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed
from conftest import assert_close, random
from test_registration import OPERATORS, overload, samples
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import (
    DTensor,
    Partial,
    Placement,
    Replicate,
    Shard,
    distribute_module,
    distribute_tensor,
)
from torch.distributed.tensor.debug import CommDebugMode
from torch.nn.parallel import DistributedDataParallel

import torch_convops
from torch_convops import nn

ops = torch.ops.torch_convops
WORLD = 2
CHECKS: dict[str, Callable[[DeviceMesh], None]] = {}
R, N, C = Replicate(), Shard(0), Shard(1)


def check(function: Callable[[DeviceMesh], None]) -> Callable[[DeviceMesh], None]:
    CHECKS[function.__name__] = function
    return function


def run_checks(rank: int, directory: str) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{directory}/store", rank=rank, world_size=WORLD)
    mesh = init_device_mesh("cpu", (WORLD,))
    failures = {}
    for name, function in CHECKS.items():
        torch.manual_seed(0)
        try:
            function(mesh)
        except Exception:
            failures[name] = traceback.format_exc()
        torch.distributed.barrier()
    Path(directory, f"{rank}.pickle").write_bytes(pickle.dumps(failures))
    torch.distributed.destroy_process_group()


@pytest.fixture(scope="module")
def failures(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    directory = tmp_path_factory.mktemp("processes")
    torch.multiprocessing.spawn(run_checks, (str(directory),), nprocs=WORLD)
    found: dict[str, str] = {}
    for rank in range(WORLD):
        found |= pickle.loads((directory / f"{rank}.pickle").read_bytes())
    yield found


# --- data-parallel training ---


def network() -> torch.nn.Sequential:
    torch.manual_seed(1)
    return torch.nn.Sequential(
        torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3, padding=1), torch.nn.ReLU(), torch.nn.MaxPool2d(2)),
        torch.nn.Sequential(torch.nn.Conv2d(8, 8, 3, groups=2), torch.nn.ReLU(), torch.nn.AvgPool2d(2)),
        torch.nn.ConvTranspose2d(8, 4, 2, stride=2),
        torch.nn.AdaptiveMaxPool2d(2),
        torch.nn.AdaptiveAvgPool2d(1),
        torch.nn.Flatten(),
    ).double()


def losses(model: torch.nn.Module) -> list[float]:
    generator = torch.Generator().manual_seed(2 + torch.distributed.get_rank())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    values = []
    for _ in range(3):
        loss = model(torch.randn(4, 3, 14, 14, dtype=torch.float64, generator=generator)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        values.append(loss.item())
    return values


def assert_trains_like_torchs(parallel: Callable[[torch.nn.Module], torch.nn.Module], converted_last: bool) -> None:
    stock, model = network(), network()
    expected = losses(parallel(stock))
    if not converted_last:
        torch_convops.convert(model)
    model = parallel(model)
    if converted_last:
        assert not torch_convops.convert(model).left
    actual = losses(model)
    assert any(isinstance(module, nn.Conv2d) for module in model.modules())
    assert expected[0] > expected[-1]
    torch.testing.assert_close(actual, expected, rtol=1e-9, atol=0)
    assert actual != losses(network()), "the processes have different data"


@check
def data_parallel(mesh: DeviceMesh) -> None:
    assert_trains_like_torchs(DistributedDataParallel, converted_last=False)
    assert_trains_like_torchs(DistributedDataParallel, converted_last=True)


@check
def fully_sharded(mesh: DeviceMesh) -> None:
    def parallel(model: torch.nn.Module) -> torch.nn.Module:
        for block in (model[0], model[1]):
            fully_shard(block, mesh=mesh)
        return fully_shard(model, mesh=mesh)

    assert_trains_like_torchs(parallel, converted_last=False)
    assert_trains_like_torchs(parallel, converted_last=True)


@check
def layers_that_are_wrapped_themselves(mesh: DeviceMesh) -> None:
    """Their type is one that FSDP has made."""
    layer = fully_shard(torch.nn.Conv2d(3, 4, 3), mesh=mesh)
    assert "FSDPConv2d is a subclass of torch.nn.Conv2d" in torch_convops.convert(layer).left[""]
    layer = torch.nn.Conv2d(3, 4, 3)
    torch_convops.convert(layer)
    images = random(2, 3, 6, 6)
    expected = layer(images)
    assert torch.equal(fully_shard(layer, mesh=mesh)(images), expected)


# --- DTensors ---


def full(result: Any) -> list[torch.Tensor]:
    tensors = result if isinstance(result, tuple) else (result,)
    return [tensor.full_tensor() if isinstance(tensor, DTensor) else tensor for tensor in tensors]


def distributed(arguments: tuple[Any, ...], placements: tuple[Placement, ...], mesh: DeviceMesh) -> tuple[Any, ...]:
    """The arguments with their tensors, in turn, placed so."""
    rest = iter(placements)
    return tuple(
        distribute_tensor(argument, mesh, [next(rest)]) if isinstance(argument, torch.Tensor) else argument
        for argument in arguments
    )


def some_placements(arguments: tuple[Any, ...]) -> list[tuple[Placement, ...]]:
    """All tensors replicated or sharded on their first dimension, and each of them alone on either dimension."""
    ranks = [argument.dim() for argument in arguments if isinstance(argument, torch.Tensor)]
    whole = (R,) * len(ranks)
    alone = [
        (*whole[:i], dim, *whole[i + 1 :]) for i, rank in enumerate(ranks) for dim in ((N, C) if rank > 1 else (N,))
    ]
    return list(dict.fromkeys([whole, (N,) * len(ranks), *alone]))


@check
def operators_with_any_placements(mesh: DeviceMesh) -> None:
    """Whatever is sharded how, the result is that of the whole tensors, of a size and strides that are the same."""
    for shape in ((2, 4, 12, 11), (4, 12, 11)):
        tested = samples(random(*shape, dtype=torch.float64))
        for operator in OPERATORS:
            calls = [sample for sample in tested if sample[0] == operator]
            for _, arguments, options in calls[:: max(1, len(calls) // 2)]:
                expected = overload(operator)(*arguments, **options)
                expected = expected if isinstance(expected, tuple) else (expected,)
                for placements in some_placements(arguments):
                    actual = overload(operator)(*distributed(arguments, placements, mesh), **options)
                    actual = actual if isinstance(actual, tuple) else (actual,)
                    for a, e in zip(actual, expected, strict=True):
                        assert (a.shape, a.stride()) == (e.shape, e.stride()), (operator, placements)
                        torch.testing.assert_close(a.full_tensor(), e, msg=f"{operator} {placements} {arguments[1:]}")


x, w, b = (2, 4, 6, 6), (6, 4, 3, 3), (6,)
y, pooled = (2, 6, 4, 4), (2, 4, 3, 3)
P = Partial()
# Operator, sizes of its tensors, other arguments, their placements, those of the results.
PLACED: list[tuple[str, tuple[tuple[int, ...], ...], tuple[Any, ...], tuple[Placement, ...], tuple[Placement, ...]]] = [
    ("conv2d", (x, w, b), (), (N, R, R), (N,)),
    ("conv2d", (x, w, b), (), (R, N, N), (C,)),
    ("conv2d", (x, w), (), (C, C), (P,)),
    ("conv2d", (x, w), (), (P, R), (P,)),
    ("conv2d", (x[1:], w, b), (), (R, N, N), (N,)),
    ("conv2d_grad_input", (y, w), ([6, 6],), (N, R), (N,)),
    ("conv2d_grad_input", (y, w), ([6, 6],), (C, N), (P,)),
    ("conv2d_grad_input", (y, w), ([6, 6],), (R, C), (C,)),
    ("conv2d_grad_weight", (y, x), ([3, 3],), (N, N), (P,)),
    ("conv2d_grad_weight", (y, x), ([3, 3],), (C, R), (N,)),
    ("conv2d_grad_weight", (y, x), ([3, 3],), (R, C), (C,)),
    ("conv2d_grad_bias", (y,), (), (N,), (P,)),
    ("conv2d_grad_bias", (y,), (), (C,), (N,)),
    ("conv_transpose2d", (y, w), (), (N, R), (N,)),
    ("conv_transpose2d", (y, w), (), (R, C), (C,)),
    *[
        (name, (x,), (window,), (dim,), (dim,) * count)
        for dim in (N, C)
        for name, window, count in [
            ("max_pool2d", [2], 1),
            ("max_pool2d_with_offsets", [2], 2),
            ("adaptive_max_pool2d_with_offsets", [3], 2),
            ("avg_pool2d", [2], 1),
            ("adaptive_avg_pool2d", [3], 1),
        ]
    ],
    ("avg_pool2d", (x,), ([2],), (P,), (P,)),
    ("avg_pool2d_grad_input", (pooled,), ([6, 6], [2]), (C,), (C,)),
]


@check
def operators_where_they_are(mesh: DeviceMesh) -> None:
    """Nothing is sent for these placements."""
    for name, sizes, rest, placements, expected in PLACED:
        tensors = tuple(random(*size, dtype=torch.float64) for size in sizes)
        placed = distributed(tensors, tuple(R if dim is P else dim for dim in placements), mesh)
        # A term of a sum on each rank.
        placed = tuple(
            DTensor.from_local(tensor.to_local(), mesh, [P]) if dim is P else tensor
            for tensor, dim in zip(placed, placements, strict=True)
        )
        with CommDebugMode() as sent:
            results = overload(name)(*placed, *rest)
        results = results if isinstance(results, tuple) else (results,)
        assert sent.get_total_counts() == 0, (name, placements)
        assert tuple(result.placements[0] for result in results) == expected, (name, placements)
        for actual, whole in zip(map(DTensor.full_tensor, results), full(overload(name)(*tensors, *rest)), strict=True):
            # Each rank's term of a partial operand is the whole tensor here.
            assert torch.allclose(actual, whole * (WORLD if P in placements else 1)), (name, placements)


@check
def groups_share_the_batch_alone(mesh: DeviceMesh) -> None:
    images, weight = random(2, 4, 6, 6), random(6, 2, 3, 3)
    window = ([1], [0], [1], 2)
    batch = ops.conv2d(*distributed((images, weight), (N, R), mesh), None, *window)
    channels = ops.conv2d(*distributed((images, weight), (R, N), mesh), None, *window)
    assert batch.placements == (N,)
    assert channels.placements == (R,)
    for result in (batch, channels):
        assert_close(result.full_tensor(), ops.conv2d(images, weight, None, *window))


@check
def every_window_has_its_size(mesh: DeviceMesh) -> None:
    """What DTensor remembers of a call is not taken for one with other arguments."""
    images = random(2, 4, 12, 12)
    (placed,) = distributed((images,), (N,), mesh)

    def dilated(image: torch.Tensor, size: int) -> torch.Tensor:
        return torch_convops.avg_pool2d(image, 2, 1, dilation=size)

    functions = [
        lambda image, size: torch_convops.max_pool2d(image, size),
        lambda image, size: torch_convops.adaptive_avg_pool2d(image, size),
        lambda image, size: ops.max_pool2d(image, [2], [size]),
    ]
    try:
        dilated(placed, 2)
        functions.append(dilated)
    except RuntimeError as error:  # earlier DTensors cannot look a list up that is a keyword, and say so
        assert torch.__version__ < "2.14" and "unhashable type: 'list'" in str(error)
    for function in functions:
        for size in (2, 3, 4, 2):
            result, expected = function(placed, size), function(images, size)
            assert result.shape == expected.shape
            assert_close(result.full_tensor(), expected)


PLACEMENTS_OF_CONVOLUTIONS = {
    # Of input, weight and bias: of the output, and of the gradients.
    (N, R, R): (N, (N, P, P)),
    (R, N, N): (C, (P, N, N)),
}
CONVOLUTIONS = {
    "function": lambda x, w, b: torch_convops.conv2d(x, w, b, padding="same"),
    "operator": lambda x, w, b: ops.conv2d(x, w, b, [1], [1]),
}


@check
def gradients(mesh: DeviceMesh) -> None:
    tensors = tuple(random(*size, dtype=torch.float64, grad=True) for size in ((2, 4, 6, 6), (6, 4, 3, 3), (6,)))
    for name, convolution in CONVOLUTIONS.items():
        expected = torch.autograd.grad(convolution(*tensors).square().sum(), tensors)
        for placements, (of_output, of_gradients) in PLACEMENTS_OF_CONVOLUTIONS.items():
            placed = tuple(
                distribute_tensor(tensor.detach(), mesh, [dim]).requires_grad_()
                for tensor, dim in zip(tensors, placements, strict=True)
            )
            output = convolution(*placed)
            assert output.placements == (of_output,)
            with CommDebugMode() as sent:
                actual = torch.autograd.grad(output, placed, 2 * output.detach())
            assert sent.get_total_counts() == 0
            assert tuple(gradient.placements[0] for gradient in actual) == of_gradients, name
            for gradient, e in zip(actual, expected, strict=True):
                assert_close(gradient.full_tensor(), e)


@check
def layers(mesh: DeviceMesh) -> None:
    """Replicated parameters, a sharded batch: gradients of every order."""
    model, stock = network(), network()
    torch_convops.convert(model)
    distribute_module(model, mesh)
    images = random(4, 3, 14, 14, dtype=torch.float64, grad=True)
    placed = distribute_tensor(images.detach(), mesh, [N]).requires_grad_()
    results = []
    for network_, input in ((model, placed), (stock, images)):
        inputs = [input, *network_.parameters()]
        output = network_(input)
        first = torch.autograd.grad(output.square().sum(), inputs, create_graph=True)
        second = torch.autograd.grad(first[0].square().sum(), inputs[:2])
        results.append([output, *first, *second])
    assert results[0][0].placements == (N,)
    for actual, expected in zip(*results, strict=True):
        assert_close(actual.full_tensor(), expected)


@check
def functions(mesh: DeviceMesh) -> None:
    """What is composed of operators, with gradients."""
    images = random(2, 4, 12, 12, dtype=torch.float64, grad=True)
    window = random(3, 3, dtype=torch.float64)
    for function in (
        lambda x, f: torch_convops.lp_pool2d(x, 2, 3),
        lambda x, f: torch_convops.global_max_pool2d(x) + torch_convops.global_avg_pool2d(x),
        lambda x, f: torch_convops.blur_pool2d(x, f),
        lambda x, f: torch_convops.max_unpool2d(*torch_convops.max_pool2d(x, 2, return_indices=True), 2),
        lambda x, f: torch_convops.adaptive_max_pool2d(x, 5, return_indices=True)[0],
    ):
        (expected,) = torch.autograd.grad(function(images, window).square().sum(), images)
        for dim in (N, C):
            placed = distribute_tensor(images.detach(), mesh, [dim]).requires_grad_()
            output = function(placed, distribute_tensor(window, mesh, [R]))
            assert_close(output.full_tensor(), function(images, window))
            (actual,) = torch.autograd.grad(output.square().sum(), placed)
            assert_close(actual.full_tensor(), expected)


@pytest.mark.parametrize("name", CHECKS)
def test_on_two_processes(failures: dict[str, str], name: str) -> None:
    assert name not in failures, failures[name]
