"""max_unpool2d against torch and the reference: sizes, overlapping windows, gradients, and indices of every kind."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from conftest import FLOATS, INTEGERS, LAYOUTS, assert_close, exact, in_layout, is_channels_last, random

from torch_convops import max_pool2d, max_unpool2d, reference

ops = torch.ops.torch_convops

CASES = [  # size of the image, kernel, stride, padding
    ((2, 3, 8, 9), 2, None, 0),
    ((2, 20, 9, 12), 3, 2, 1),
    ((2, 3, 9, 12), (3, 2), (2, 3), (1, 0)),
    ((2, 3, 7, 7), 3, 1, 1),
    ((3, 8, 9), 2, None, 0),
    ((0, 3, 8, 8), 2, None, 0),
    ((1, 1, 1, 1), 1, None, 0),
]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("shape, kernel, stride, padding", CASES, ids=str)
def test_matches_torch(
    device: str, shape: tuple[int, ...], kernel: Any, stride: Any, padding: Any, dtype: torch.dtype, layout: str
) -> None:
    pooled = max_pool2d(random(*shape, dtype=dtype), kernel, stride, padding)
    # One value a pixel: where indices meet, torch's result depends on its threads.
    indices = torch.rand(*pooled.shape[:-2], pooled.shape[-2:].numel()).argsort(-1).reshape(pooled.shape)
    for output_size in (None, shape[-2:], shape):
        if len(shape) == 3 and output_size == shape:
            continue  # torch wants (height, width) here
        theirs = pooled.detach().clone().requires_grad_()
        expected = F.max_unpool2d(theirs, indices, kernel, stride, padding, output_size) if shape[0] else None
        x = in_layout(pooled.to(device), layout).requires_grad_()
        places = in_layout(indices.to(device), layout)
        y = max_unpool2d(x, places, kernel, stride, padding, output_size)
        assert y.dtype == dtype and is_channels_last(y) == is_channels_last(x)
        if expected is None:
            assert y.numel() == 0
            continue
        assert torch.equal(y.cpu(), expected)
        dy = random(*y.shape, dtype=dtype, layout=layout)
        y.backward(dy.to(device))
        expected.backward(dy.contiguous())
        assert torch.equal(x.grad.cpu(), theirs.grad)


@pytest.mark.parametrize("dtype", (*FLOATS, *INTEGERS), ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_undoes_max_pool2d(device: str, dtype: torch.dtype, layout: str) -> None:
    x = random(2, 5, 8, 9, dtype=dtype, device=device, layout=layout)
    y, indices = max_pool2d(x, 2, return_indices=True)
    restored = max_unpool2d(y, indices, 2, output_size=(8, 9))
    assert torch.equal(restored[restored != 0], x[restored != 0])
    assert torch.equal(max_pool2d(torch.where(restored != 0, restored, x), 2), y)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_last_value_of_a_pixel_stays(device: str, layout: str) -> None:
    x = random(2, 17, 5, 6, dtype=torch.float64)
    indices = torch.randint(0, 12, x.shape)
    arguments = in_layout(x.to(device), layout).requires_grad_(), in_layout(indices.to(device), layout)
    y = ops.max_unpool2d(*arguments, [3, 4])
    assert torch.equal(y.cpu(), reference.max_unpool2d(x, indices, (3, 4)))
    dy = random(*y.shape, dtype=torch.float64)
    y.backward(dy.to(device))
    assert torch.equal(arguments[0].grad.cpu(), dy.flatten(-2).gather(-1, indices.flatten(-2)).reshape(x.shape))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_accumulate_adds(device: str, dtype: torch.dtype, layout: str) -> None:
    x = random(2, 17, 9, 8, dtype=dtype)
    indices = torch.randint(0, 12, x.shape)
    y = ops.max_unpool2d(
        in_layout(x.to(device), layout), in_layout(indices.to(device), layout), [3, 4], accumulate=True
    )
    sums = torch.zeros(2, 17, 12, dtype=torch.float64).scatter_add_(-1, indices.flatten(-2), exact(x).flatten(-2))
    assert_close(y, sums.reshape(2, 17, 3, 4))


def test_second_derivative_adds_where_indices_meet(device: str) -> None:
    """As torch's: the gather's own transpose."""
    indices = torch.tensor([[[[0, 3], [3, 1]]]])
    results = []
    for function, place in ((ops.max_unpool2d, device), (torch.ops.aten.max_unpool2d, "cpu")):
        x = torch.arange(1.0, 5.0, dtype=torch.float64, device=place).reshape(1, 1, 2, 2).requires_grad_()
        y = function(x, indices.to(place), [2, 2])
        dy = torch.ones_like(y).mul(0.5).requires_grad_()
        (dx,) = torch.autograd.grad(y, x, dy, create_graph=True)
        results.append(torch.autograd.grad(dx.pow(3).sum(), dy)[0].cpu())
    assert torch.equal(*results)


@pytest.mark.parametrize("bad", [-1, 16, 2**31, 2**31 + 3, 2**40, -(2**63), 2**63 - 1])
@pytest.mark.parametrize("layout", ("contiguous", "channels_last"))
def test_bad_index_is_named(device: str, bad: int, layout: str) -> None:
    x, indices = random(2, 3, 2, 2), torch.arange(4).reshape(2, 2).expand(2, 3, 2, 2).clone()
    indices[1, 1, 1, 0] = bad
    x, indices = in_layout(x.to(device), layout), in_layout(indices.to(device), layout)
    message = f"indices must be at least 0 and less than the output's height \\* width, 16, got {bad}$"
    with pytest.raises(ValueError, match=message):
        max_unpool2d(x, indices, 2)
    with pytest.raises(RuntimeError, match=message):
        ops.max_unpool2d(x, indices, [4, 4])
    with pytest.raises(RuntimeError, match=message):
        ops.max_unpool2d_gather(random(2, 3, 4, 4, device=device), indices)


def test_the_first_of_many_bad_indices_is_named(device: str) -> None:
    x, indices = random(8, 64, 8, 8, device=device), torch.arange(64 * 8 * 64).reshape(8, 64, 8, 8) + 256
    with pytest.raises(ValueError, match=r"got 256$"):
        max_unpool2d(x, indices.to(device), 2)
