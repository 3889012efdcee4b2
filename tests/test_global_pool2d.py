"""global_max_pool2d and global_avg_pool2d against torch's adaptive pooling."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from conftest import FLOATS, INTEGERS, LAYOUTS, assert_close, exact, in_layout, is_channels_last, random

from torch_convops import global_avg_pool2d, global_max_pool2d

SHAPES = [(2, 3, 7, 7), (2, 20, 5, 9), (1, 1, 1, 1), (3, 2, 40, 31), (4, 7, 1), (6, 7, 5), (0, 3, 4, 5)]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_avg_matches_torch(device: str, shape: tuple[int, ...], dtype: torch.dtype, layout: str) -> None:
    x = random(*shape, dtype=dtype, device=device, layout=layout, grad=True)
    x64 = exact(x, grad=True)
    y, expected = global_avg_pool2d(x), x64.mean((-2, -1), keepdim=True)
    assert y.dtype == dtype
    assert_close(y, expected)
    dy = random(*y.shape, dtype=dtype, device=device)
    y.backward(dy)
    expected.backward(exact(dy))
    assert_close(x.grad, x64.grad)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", (*FLOATS, *INTEGERS), ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_max_matches_torch(device: str, shape: tuple[int, ...], dtype: torch.dtype, layout: str) -> None:
    x = random(*shape, dtype=dtype, device=device, layout=layout)
    y, expected = global_max_pool2d(x), x.amax((-2, -1), keepdim=True)
    assert y.dtype == dtype and torch.equal(y, expected)
    if dtype.is_floating_point:
        x.requires_grad_()
        y = global_max_pool2d(x)
        dy = random(*y.shape, dtype=dtype, device=device)
        y.backward(dy)
        assert x.grad.count_nonzero() <= y.numel()
        assert torch.equal(x.grad.sum((-2, -1), keepdim=True), dy)
        # The gradient sits where the maximum is.
        assert torch.equal(torch.where(x.grad != 0, x, -float("inf")).amax((-2, -1), keepdim=True)[dy != 0], y[dy != 0])


@pytest.mark.parametrize("layout", ("contiguous", "channels_last"))
def test_ties_and_nan(device: str, layout: str) -> None:
    x = in_layout(torch.ones(1, 4, 5, 6, device=device), layout).requires_grad_()
    global_max_pool2d(x).sum().backward()
    assert x.grad[0, :, 0, 0].tolist() == [1, 1, 1, 1] and x.grad.sum() == 4
    x = torch.ones(1, 4, 5, 6, device=device)
    x[..., 1, 2] = x[..., 3, 4] = float("nan")
    x = in_layout(x, layout).requires_grad_()
    y = global_max_pool2d(x)
    assert y.isnan().all()
    y.backward(torch.ones_like(y))
    assert x.grad[0, :, 3, 4].tolist() == [1, 1, 1, 1] and x.grad.sum() == 4


def test_channels_last_gradient_is_channels_last(device: str) -> None:
    for function in (global_avg_pool2d, global_max_pool2d):
        x = random(2, 5, 6, 7, device=device, layout="channels_last", grad=True)
        (dx,) = torch.autograd.grad(function(x).sum(), x)
        assert is_channels_last(dx)


def test_is_invariant_to_translation(device: str) -> None:
    """What a network that ends in a global pooling owes its invariance to."""
    x = F.pad(random(2, 3, 6, 6, dtype=torch.float64, device=device).abs(), (5, 5, 5, 5))
    for function in (global_avg_pool2d, global_max_pool2d):
        assert_close(function(x.roll((3, -4), (-2, -1))), exact(function(x)))
