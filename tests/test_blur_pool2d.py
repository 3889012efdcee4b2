"""blur_pool2d and its layers against the published method: pad, filter each channel, subsample."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from conftest import FLOATS, LAYOUTS, assert_close, exact, is_channels_last, random

from torch_convops import binomial_filter, blur_pool2d, nn, reference

# Zhang's rows of coefficients, by size of the filter.
ROWS = {1: [1], 2: [1, 1], 3: [1, 2, 1], 4: [1, 3, 3, 1], 5: [1, 4, 6, 4, 1], 6: [1, 5, 10, 10, 5, 1],
        7: [1, 6, 15, 20, 15, 6, 1]}  # fmt: skip
PADS = {"reflect": torch.nn.ReflectionPad2d, "replicate": torch.nn.ReplicationPad2d, "zeros": torch.nn.ZeroPad2d}


def zhang(x: torch.Tensor, size: int, stride: int, padding_mode: str) -> torch.Tensor:
    """The method's own definition: the outer product of a row, normalised; pads of (size - 1) / 2 rounded down before
    and up behind; a grouped convolution with the stride."""
    row = torch.tensor(ROWS[size], dtype=x.dtype)
    kernel = row[:, None] * row[None, :]
    kernel = (kernel / kernel.sum()).expand(x.shape[1], 1, size, size)
    before, behind = (size - 1) // 2, -(-(size - 1) // 2)
    return F.conv2d(PADS[padding_mode]((before, behind, before, behind))(x), kernel, stride=stride, groups=x.shape[1])


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("padding_mode", PADS)
@pytest.mark.parametrize("size", ROWS)
def test_is_the_published_method(device: str, size: int, padding_mode: str, layout: str) -> None:
    for stride in (1, 2, 3):
        for dtype in (torch.float32, torch.float64):
            x = random(2, 5, 11, 14, dtype=dtype, device=device, layout=layout, grad=True)
            x64 = exact(x, grad=True)
            y, expected = blur_pool2d(x, size, stride, padding_mode), zhang(x64, size, stride, padding_mode)
            assert is_channels_last(y) == (layout == "channels_last")
            assert y.shape == (2, 5, -(-11 // stride), -(-14 // stride))
            assert_close(y, expected)
            dy = random(*y.shape, dtype=dtype, device=device)
            y.backward(dy)
            expected.backward(exact(dy))
            assert_close(x.grad, x64.grad)


@pytest.mark.parametrize("size", ROWS)
def test_binomial_filter(size: int) -> None:
    row = torch.tensor(ROWS[size], dtype=torch.float64)
    expected = torch.outer(row, row) / row.sum() ** 2
    for dtype in FLOATS:
        assert torch.equal(binomial_filter(size, dtype=dtype).double(), expected)


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_dtypes_and_unbatched(device: str, dtype: torch.dtype) -> None:
    x = random(2, 3, 9, 10, dtype=dtype, device=device)
    y = blur_pool2d(x, 3)
    assert y.dtype == dtype
    assert_close(y, zhang(exact(x), 3, 2, "reflect"))
    assert torch.equal(blur_pool2d(x[0], 3), y[0])
    assert blur_pool2d(x[:0], 3).shape == (0, 3, 5, 5)


@pytest.mark.parametrize("padding_mode", ["reflect", "zeros", "replicate", "circular", "symmetric"])
def test_given_filters(device: str, padding_mode: str) -> None:
    x = random(2, 3, 9, 10, dtype=torch.float64, device=device)
    line, plane, each = (random(*size, dtype=torch.float64, device=device) for size in ((4,), (3, 2), (3, 2, 5)))
    expected = reference.blur_pool2d(x, torch.outer(line, line), (2, 1), padding_mode)
    assert_close(blur_pool2d(x, line, (2, 1), padding_mode), expected)
    assert_close(blur_pool2d(x, plane, 2, padding_mode), reference.blur_pool2d(x, plane, (2, 2), padding_mode))
    y = blur_pool2d(x, each, 2, padding_mode)
    for c in range(3):
        assert_close(y[:, c : c + 1], reference.blur_pool2d(x[:, c : c + 1], each[c], (2, 2), padding_mode))


def test_filter_is_differentiable(device: str) -> None:
    x = random(2, 3, 6, 7, dtype=torch.float64, device=device, grad=True)
    for size in ((3,), (3, 2), (3, 2, 2)):
        f = random(*size, dtype=torch.float64, device=device, grad=True)
        assert torch.autograd.gradcheck(blur_pool2d, (x, f), fast_mode=True, check_forward_ad=True)
        assert torch.autograd.gradgradcheck(blur_pool2d, (x, f), fast_mode=True)


def test_constant_images_stay(device: str) -> None:
    """A filter of sum 1, whose border is not zeros, keeps what does not vary."""
    x = torch.full((1, 2, 9, 9), 3.0, device=device)
    for size in ROWS:
        assert_close(blur_pool2d(x, size), exact(torch.full_like(x[..., :5, :5], 3.0)))


def test_layers_are_the_published_blocks(device: str) -> None:
    x = random(2, 3, 13, 14, dtype=torch.float64, device=device)
    assert_close(nn.BlurPool2d(5, 3, "replicate").to(device)(x), zhang(exact(x), 5, 3, "replicate"))
    expected = zhang(F.max_pool2d(exact(x), 2, 1), 4, 2, "reflect")
    assert_close(nn.MaxBlurPool2d(2).to(device)(x), expected)
    conv = nn.ConvBlurPool2d(3, 6, 3, stride=2, padding=1, filter=3).to(device, torch.float64)
    expected = zhang(F.conv2d(exact(x), exact(conv.weight), exact(conv.bias), 1, 1).relu(), 3, 2, "reflect")
    assert_close(conv(x), expected)
    plain = nn.ConvBlurPool2d(3, 6, 3, activation=None).to(device, torch.float64)
    plain.load_state_dict(torch.nn.Conv2d(3, 6, 3).double().state_dict())
    assert_close(plain(x), zhang(F.conv2d(exact(x), exact(plain.weight), exact(plain.bias)), 4, 2, "reflect"))


def test_blur_is_nearly_shift_equivariant(device: str) -> None:
    """What it is for: a shift of the input by one pixel changes a strided max-pool more than the blurred one."""
    x = random(4, 3, 32, 32, dtype=torch.float64, device=device)

    def change(down: Any) -> float:
        y, shifted = down(x), down(x.roll((1, 1), (-2, -1)))
        return float((y - shifted)[..., 2:-2, 2:-2].norm() / y[..., 2:-2, 2:-2].norm())

    pooled = change(lambda x: F.max_pool2d(x, 2, 2))
    assert change(nn.MaxBlurPool2d(2, filter=5).to(device)) < 0.7 * pooled
