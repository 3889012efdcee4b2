"""lp_pool2d against torch and the definition."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from conftest import FLOATS, LAYOUTS, assert_close, exact, random

from torch_convops import lp_pool2d, reference

INF = float("inf")


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("norm_type", [1, 2, 3.0, 0.5, 4, -1, INF, -INF])
@pytest.mark.parametrize("window", [(2,), (3, 2), ((3, 2), (2, 1)), (3, 2, True), (7, None, True)], ids=str)
def test_matches_torch(device: str, window: tuple[Any, ...], norm_type: float, layout: str) -> None:
    for shape in ((2, 3, 12, 11), (3, 12, 11), (0, 3, 12, 11)):
        x = random(*shape, dtype=torch.float64, device=device, layout=layout)
        x = (x if norm_type in (2, 4, INF, -INF) else x.abs() + 0.1).detach().requires_grad_()
        x64 = exact(x, grad=True)
        y = lp_pool2d(x, norm_type, *window)
        if abs(norm_type) == INF:  # which torch has from 2.14 on
            kernel, stride, ceil_mode = (*window, None, False)[:3] if len(window) == 1 else (*window, False)[:3]
            sign = 1 if norm_type > 0 else -1
            expected = sign * F.max_pool2d(sign * x64.abs(), kernel, stride, ceil_mode=ceil_mode)
        else:
            expected = F.lp_pool2d(x64, norm_type, *window)
        assert_close(y, expected)
        dy = random(*y.shape, dtype=torch.float64)
        y.backward(dy.to(device))
        expected.backward(dy)
        assert_close(x.grad, x64.grad)


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_dtypes(device: str, dtype: torch.dtype) -> None:
    x = random(2, 3, 12, 11, dtype=dtype, device=device)
    y = lp_pool2d(x, 2, 3, 2)
    assert y.dtype == dtype
    assert_close(y, F.lp_pool2d(exact(x), 2, 3, 2), roundings=3)


def test_padding_and_dilation(device: str) -> None:
    x = random(2, 3, 12, 11, dtype=torch.float64, device=device)
    y = lp_pool2d(x, 2, (3, 2), 2, padding=((1, 0), (1, 1)), dilation=(2, 1))
    assert_close(y, reference.lp_pool2d(x, 2, (3, 2), (2, 2), (1, 0, 1, 1), (2, 1)))


def test_negative_values_of_an_odd_norm_are_torchs(device: str) -> None:
    x = -torch.ones(1, 1, 4, 4, device=device)
    assert lp_pool2d(x, 3, 2).isnan().all() and F.lp_pool2d(x.cpu(), 3, 2).isnan().all()


def test_gradient_at_zero_is_zero(device: str) -> None:
    x = torch.zeros(1, 2, 4, 4, device=device, requires_grad=True)
    lp_pool2d(x, 2, 2).sum().backward()
    assert x.grad.count_nonzero() == 0
