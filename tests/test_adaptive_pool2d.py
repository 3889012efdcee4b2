"""adaptive_max_pool2d and adaptive_avg_pool2d: values, indices and gradients against torch and the reference."""

from __future__ import annotations

import random as pyrandom
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from conftest import (
    FLOATS,
    INTEGERS,
    LAYOUTS,
    algorithm_params,
    assert_close,
    exact,
    in_layout,
    is_channels_last,
    random,
)
from test_max_pool2d import bits_equal, expected_grad, with_ties

from torch_convops import adaptive_avg_pool2d, adaptive_max_pool2d, avg_pool2d, max_pool2d, reference

ops = torch.ops.torch_convops


def random_cases(count: int) -> list[tuple[tuple[int, ...], tuple[int, int]]]:
    """Windows that divide the plane, that do not, and that are smaller than a pixel."""
    chance = pyrandom.Random(5)
    cases = []
    for _ in range(count):
        size = (chance.randint(1, 3), chance.choice([1, 3, 16, 21]), chance.randint(1, 20), chance.randint(1, 40))
        output = tuple(chance.choice([1, chance.randint(1, n), chance.randint(1, 2 * n)]) for n in size[-2:])
        cases.append((size if chance.random() < 0.8 else size[1:], output))
    return cases


CASES: list[tuple[tuple[int, ...], tuple[int, int]]] = [
    ((2, 3, 13, 13), (6, 6)),
    ((2, 64, 30, 30), (7, 7)),
    ((2, 5, 7, 5), (5, 7)),
    ((2, 3, 12, 8), (3, 4)),
    ((2, 3, 9, 11), (1, 1)),
    ((2, 3, 9, 10), (2, 5)),
    ((2, 3, 1, 1), (3, 2)),
    ((3, 9, 10), (4, 3)),
    ((0, 3, 9, 10), (4, 3)),
    ((1, 2, 40, 70), (2, 3)),
    *random_cases(24),
]


def torch_adaptive_max_pool2d(values: torch.Tensor, size: tuple[int, int]) -> tuple[torch.Tensor, torch.Tensor]:
    """In float64: torch before 2.14 picks among equal half-precision values by another rule."""
    y, indices = F.adaptive_max_pool2d(values.double(), size, return_indices=True)
    return y.to(values.dtype), indices


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("shape, size", CASES, ids=str)
def test_max_matches_torch(device: str, shape: tuple[int, ...], size: tuple[int, int], dtype: torch.dtype) -> None:
    for values in (random(*shape, dtype=dtype), with_ties(shape, dtype)):
        expected, expected_indices = torch_adaptive_max_pool2d(values, size)
        for layout in LAYOUTS:
            x = in_layout(values.to(device), layout).requires_grad_()
            y, indices = adaptive_max_pool2d(x, size, return_indices=True)
            assert bits_equal(y, expected)
            assert torch.equal(indices.cpu(), expected_indices)
            assert is_channels_last(y) == is_channels_last(in_layout(expected, layout)) or layout == "sliced"
            dy = random(*y.shape, dtype=dtype, device=device, layout=layout)
            y.backward(dy)
            assert_close(x.grad, expected_grad(dy, expected_indices, values), f"grad_input, {layout}")
            with torch.no_grad():
                assert bits_equal(adaptive_max_pool2d(x, size), expected)


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("shape, size", CASES, ids=str)
def test_avg_matches_torch(device: str, shape: tuple[int, ...], size: tuple[int, int], dtype: torch.dtype) -> None:
    for layout in LAYOUTS:
        x = random(*shape, dtype=dtype, device=device, layout=layout, grad=True)
        x64 = exact(x, grad=True)
        y, expected = adaptive_avg_pool2d(x, size), F.adaptive_avg_pool2d(x64, size)
        assert y.dtype == dtype
        assert_close(y, expected, layout)
        dy = random(*y.shape, dtype=dtype, device=device, layout=layout)
        y.backward(dy)
        expected.backward(exact(dy))
        assert_close(x.grad, x64.grad, f"grad_input, {layout}")


@pytest.mark.parametrize("dtype", INTEGERS, ids=str)
def test_max_of_integers(device: str, dtype: torch.dtype) -> None:
    for shape, size in CASES[:8]:
        values = random(*shape, dtype=dtype)
        batched = values if values.dim() == 4 else values.unsqueeze(0)
        expected, expected_indices = reference.adaptive_max_pool2d(batched, size)
        for layout in LAYOUTS:
            y, indices = adaptive_max_pool2d(in_layout(values.to(device), layout), size, return_indices=True)
            assert torch.equal(y.cpu(), expected.reshape(y.shape))
            assert torch.equal(indices.cpu(), expected_indices.reshape(y.shape))


@pytest.mark.parametrize("shape, size", [case for case in CASES if len(case[0]) == 4][:12], ids=str)
def test_matches_reference(device: str, shape: tuple[int, ...], size: tuple[int, int]) -> None:
    values = with_ties(shape, torch.float64)
    y, indices = adaptive_max_pool2d(values.to(device), size, return_indices=True)
    expected, expected_indices = reference.adaptive_max_pool2d(values, size)
    assert bits_equal(y, expected)
    assert torch.equal(indices.cpu(), expected_indices)
    values = random(*shape, dtype=torch.float64)
    assert_close(adaptive_avg_pool2d(values.to(device), size), reference.adaptive_avg_pool2d(values, size))


@pytest.mark.parametrize(
    "device, family, algorithm",
    [(d, f, a) for f in ("max_pool2d", "avg_pool2d") for d, a in algorithm_params(f)],
)
def test_every_algorithm(device: str, family: str, algorithm: str) -> None:
    ran = 0
    for shape, size in CASES:
        for layout in LAYOUTS:
            # Positive, so that no sum nearly cancels.
            x = in_layout(random(*shape).abs().to(device), layout).requires_grad_()
            try:
                if family == "max_pool2d":
                    y, expected = (
                        adaptive_max_pool2d(x, size, algorithm=algorithm),
                        F.adaptive_max_pool2d(exact(x), size),
                    )
                else:
                    y, expected = (
                        adaptive_avg_pool2d(x, size, algorithm=algorithm),
                        F.adaptive_avg_pool2d(exact(x), size),
                    )
                (dx,) = torch.autograd.grad(y.pow(2).sum(), x)
            except (ValueError, RuntimeError) as error:
                assert f"algorithm '{algorithm}' does not support this problem" in str(error)
                continue
            assert_close(y, expected)
            x64 = exact(x, grad=True)
            torchs = F.adaptive_max_pool2d if family == "max_pool2d" else F.adaptive_avg_pool2d
            assert_close(dx, torch.autograd.grad(torchs(x64, size).pow(2).sum(), x64)[0])
            ran += 1
    # An adaptive window that slides shares no row with the next, and so gains nothing from two passes on CUDA.
    assert ran > 0 or (device, algorithm) == ("cuda", "separable"), "the algorithm was never exercised"


def test_sizes_of_every_form(device: str) -> None:
    x = random(2, 3, 9, 10, device=device)
    for size in (4, (4, 3), [4, 3], (None, 3), (4, None), None, (None, None), (4,), torch.Size([4, 3])):
        # torch does not take None or a single value.
        wanted: Any = (None, None) if size is None else (4, 4) if size == (4,) else size
        assert torch.equal(adaptive_max_pool2d(x, size), F.adaptive_max_pool2d(x, wanted))
        assert_close(adaptive_avg_pool2d(x, size), F.adaptive_avg_pool2d(exact(x), wanted))


@pytest.mark.parametrize("size", [(0, 0), (0, 3), (2, 0)], ids=str)
def test_empty_output(device: str, size: tuple[int, int]) -> None:
    for function in (adaptive_max_pool2d, adaptive_avg_pool2d):
        x = random(2, 3, 9, 10, device=device, grad=True)
        y = function(x, size)
        assert y.shape == (2, 3, *size)
        y.sum().backward()
        assert x.grad.shape == x.shape and x.grad.count_nonzero() == 0


def test_is_sliding_where_the_size_divides(device: str) -> None:
    x = random(2, 3, 12, 20, device=device)
    assert torch.equal(adaptive_max_pool2d(x, (4, 5)), max_pool2d(x, (3, 4)))
    assert torch.equal(adaptive_avg_pool2d(x, (4, 5)), avg_pool2d(x, (3, 4)))


def test_offsets_take_a_byte_up_to_256_taps(device: str) -> None:
    for height, dtype in ((31, torch.uint8), (33, torch.int32)):  # windows of up to 17 x 15 and 18 x 15
        x = random(1, 3, height, 30, device=device)
        _, offsets = ops.adaptive_max_pool2d_with_offsets(x, [2, 2])
        assert offsets.dtype == dtype


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.usefixtures("threads")
def test_same_bits_for_any_number_of_threads(layout: str) -> None:
    x = random(3, 40, 31, 29, layout=layout, grad=True)
    results = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        y = adaptive_avg_pool2d(x, (7, 6))
        results.append((y, *torch.autograd.grad(y.pow(2).sum(), x)))
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))
