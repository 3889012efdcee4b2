"""Calls from many threads at once, as a free-threaded Python makes them in earnest."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from conftest import random

import torch_convops
from torch_convops import nn

THREADS = 8


@pytest.fixture
def restless() -> Iterator[None]:
    """Lets an interpreter with a lock change threads as often as it can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def gradients(call: Callable[..., torch.Tensor], *inputs: torch.Tensor) -> list[torch.Tensor]:
    """Output, gradients, and gradients of those."""
    leaves = [value.clone().requires_grad_() for value in inputs]
    output = call(*leaves)
    first = torch.autograd.grad(output.square().sum(), leaves, create_graph=True)
    second = torch.autograd.grad(sum(grad.square().sum() for grad in first), leaves)
    return [tensor.detach() for tensor in (output, *first, *second)]


def work(size: int) -> list[torch.Tensor]:
    """Every family of operators, on images of a size that is in no cache yet. Forward mode is not among them: torch
    keeps its level in one variable for all threads."""
    generator = torch.Generator().manual_seed(size)
    x = torch.randn(2, 4, size, size, generator=generator)
    w = torch.randn(4, 4, 3, 3, generator=generator)
    layer = torch.nn.Sequential(torch.nn.Conv2d(4, 4, 3), torch.nn.MaxPool2d(2)).requires_grad_(False)
    for parameter in layer.parameters():
        parameter.copy_(torch.randn(parameter.shape, generator=generator))
    torch_convops.convert(layer)
    assert isinstance(layer[0], nn.Conv2d)
    results = [
        *gradients(lambda x, w: torch_convops.conv2d(x, w, stride=2, padding="same"), x, w),
        *gradients(lambda x, w: torch_convops.conv_transpose2d(x, w, stride=2, padding="same"), x, w),
        *gradients(lambda x: torch_convops.max_pool2d(x, 3, 2, 1), x),
        *gradients(lambda x: torch_convops.avg_pool2d(x, 5, 1, "same", dilation=2), x),
        *gradients(lambda x: torch_convops.blur_pool2d(x, 3, 2), x),
        *gradients(layer, x),
        torch.func.vmap(lambda x: torch_convops.conv2d(x, w))(x),
    ]
    with torch_convops.override() as record:
        results.append(torch.nn.functional.conv2d(x, w))
    assert sum(record.calls.values()) == 1  # its own thread's alone
    return results


def test_threads_give_what_one_gives(restless: None) -> None:
    barrier = threading.Barrier(THREADS)

    def run(index: int) -> list[list[torch.Tensor]]:
        barrier.wait()
        return [work(size) for size in range(40 + index, 48 + index)]

    with ThreadPoolExecutor(THREADS) as pool:
        together = list(pool.map(run, range(THREADS)))
    for index, results in enumerate(together):
        for size, actual in zip(range(40 + index, 48 + index), results, strict=True):
            expected = work(size)
            assert len(actual) == len(expected)
            assert all(map(torch.equal, actual, expected))


def test_reports_of_the_library_are_each_threads_own(restless: None) -> None:
    """What the library says of itself comes in a buffer of the thread that asked."""
    x, w = random(1, 4, 8, 8), random(4, 1, 3, 3)
    expected = (torch_convops.algorithms("conv2d"), torch_convops.conv2d_choice("forward", x, w, groups=4))

    def run(_: int) -> bool:
        return all(
            (torch_convops.algorithms("conv2d"), torch_convops.conv2d_choice("forward", x, w, groups=4)) == expected
            and torch_convops.algorithms("max_pool2d") != expected[0]
            for _ in range(50)
        )

    with ThreadPoolExecutor(THREADS) as pool:
        assert all(pool.map(run, range(THREADS)))


def test_importing_leaves_a_free_threaded_python_without_its_lock() -> None:
    """An extension module that does not say otherwise would switch the lock on; the library is none."""
    code = (
        "import sys, torch; enabled = getattr(sys, '_is_gil_enabled', lambda: True); before = enabled();"
        "import torch_convops; print(before == enabled(),"
        "[name for name, module in sys.modules.items() if name.startswith('torch_convops')"
        " and not getattr(module, '__file__', '').endswith('.py')])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.split(maxsplit=1) == ["True", "[]\n"]
