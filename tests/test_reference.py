"""The reference itself: by hand on tiny images, and against torch in float64."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from conftest import assert_close, random

from torch_convops import reference

X = torch.tensor([[[[1.0, 2.0, 3.0], [4.0, 5.0, 6.0], [7.0, 8.0, 9.0]]]])
W = torch.tensor([[[[1.0, 0.0], [0.0, -1.0]]]])


def test_output_size_by_hand() -> None:
    assert reference.output_size(5, 3, 1, 1, 0, 0) == 3
    assert reference.output_size(5, 3, 2, 1, 1, 1) == 3
    assert reference.output_size(5, 2, 2, 1, 0, 0) == 2
    assert reference.output_size(5, 2, 2, 1, 0, 0, ceil_mode=True) == 3
    # The extra window would start in the padding below the image, so ceil_mode does not add it.
    assert reference.output_size(4, 3, 3, 1, 1, 1, ceil_mode=True) == 2
    assert reference.output_size(2, 1, 3, 1, 0, 1, ceil_mode=True) == 1
    assert reference.output_size(7, 3, 1, 3, 0, 0) == 1


def test_taps_by_hand() -> None:
    """A 2 x 1 window with stride 2 over a column of 3, padded above: it reads rows (-1, 0) and (1, 2)."""
    found = list(reference.taps((3, 1), (2, 1), (2, 1), (2, 1), (1, 0, 0, 0), (1, 1)))
    assert found == [(0, 0, 1, 0, 0, 0), (1, 0, 0, 0, 1, 0), (1, 0, 1, 0, 2, 0)]


def test_conv2d_by_hand() -> None:
    assert reference.conv2d(X, W).tolist() == [[[[-4, -4], [-4, -4]]]]
    assert reference.conv2d(X, W, torch.tensor([10.0])).tolist() == [[[[6, 6], [6, 6]]]]
    # Below and right of the image are zeros, so the last row and column keep only the first tap.
    assert reference.conv2d(X, W, padding=(0, 1, 0, 1)).tolist() == [[[[-4, -4, 3], [-4, -4, 6], [7, 8, 9]]]]
    assert reference.conv2d(X.tolist(), W.tolist(), stride=(2, 1)).tolist() == [[[[-4, -4]]]]
    assert reference.conv2d(X, W, dilation=(2, 2)).tolist() == [[[[1 - 9]]]]


def test_conv2d_gradients_by_hand() -> None:
    dy = torch.tensor([[[[1.0, 0.0], [0.0, 2.0]]]])
    # Each gradient of the output stamps the kernel where its window was.
    assert reference.conv2d_grad_input(dy, W, (3, 3)).tolist() == [[[[1, 0, 0], [0, 2 - 1, 0], [0, 0, -2]]]]
    assert reference.conv2d_grad_weight(dy, X, (2, 2)).tolist() == [[[[1 + 10, 2 + 12], [4 + 16, 5 + 18]]]]
    assert reference.conv2d_grad_bias(dy).tolist() == [3]


def test_groups_by_hand() -> None:
    x, w = torch.tensor([[[[2.0]], [[3.0]]]]), torch.tensor([[[[5.0]]], [[[7.0]]]])
    assert reference.conv2d(x, w, groups=2).flatten().tolist() == [10, 21]
    assert reference.conv2d_grad_input(torch.ones(1, 2, 1, 1), w, (1, 1), groups=2).flatten().tolist() == [5, 7]
    assert reference.conv2d_grad_weight(torch.ones(1, 2, 1, 1), x, (1, 1), groups=2).flatten().tolist() == [2, 3]


def test_max_pool2d_by_hand() -> None:
    y, indices = reference.max_pool2d(X, (2, 2), (1, 1))
    assert y.tolist() == [[[[5, 6], [8, 9]]]]
    assert indices.tolist() == [[[[4, 5], [7, 8]]]]
    dx = reference.max_pool2d_grad_input(torch.ones(1, 1, 2, 2), torch.tensor([[[[4, 4], [7, 8]]]]), (3, 3))
    assert dx.tolist() == [[[[0, 0, 0], [0, 2, 0], [0, 1, 1]]]]


def test_max_pool2d_rules_by_hand() -> None:
    nan, inf = float("nan"), float("inf")

    def pick(*row: float) -> int:
        return int(reference.max_pool2d(torch.tensor(row).reshape(1, 1, 1, -1), (1, len(row)))[1])

    assert pick(1, 3, 3, 2) == 1
    assert pick(-0.0, 0.0) == 0
    assert pick(nan, inf, 1, 2) == 0
    assert pick(1, nan, inf, nan, 2) == 3
    assert pick(-inf, -inf) == 0
    assert pick(-inf, -3e38) == 1
    # The first tap is padding.
    y, indices = reference.max_pool2d(torch.full((1, 1, 1, 2), -inf), (1, 2), (1, 1), (0, 0, 1, 0))
    assert y.tolist() == [[[[-inf, -inf]]]] and indices.tolist() == [[[[0, 0]]]]
    smallest = torch.iinfo(torch.int64).min
    y, indices = reference.max_pool2d(torch.full((1, 1, 2, 2), smallest), (2, 2))
    assert y.item() == smallest and indices.item() == 0
    # Dilation steps over an image of two rows.
    y, indices = reference.max_pool2d(torch.ones(1, 1, 2, 1), (2, 1), (1, 1), (1, 1, 0, 0), (3, 1))
    assert y.tolist() == [[[[-inf]]]] and indices.item() == -1
    assert reference.max_pool2d_grad_input(torch.ones(1, 1, 1, 1), indices, (2, 1)).count_nonzero() == 0


def test_avg_pool2d_by_hand() -> None:
    assert reference.avg_pool2d(X, (2, 2), (1, 1)).tolist() == [[[[3, 4], [6, 7]]]]
    corner = {
        "with padding": reference.avg_pool2d(X, (2, 2), (1, 1), (1, 0, 1, 0))[0, 0, 0, 0],
        "without": reference.avg_pool2d(X, (2, 2), (1, 1), (1, 0, 1, 0), count_include_pad=False)[0, 0, 0, 0],
        "override": reference.avg_pool2d(X, (2, 2), (1, 1), (1, 0, 1, 0), divisor_override=10)[0, 0, 0, 0],
    }
    assert corner == {"with padding": 1 / 4, "without": 1, "override": 1 / 10}
    # What ceil_mode hangs over the image is not counted, though padding would be.
    assert reference.avg_pool2d(X, (2, 2), ceil_mode=True).tolist() == [[[[3, 4.5], [7.5, 9]]]]
    dx = reference.avg_pool2d_grad_input(torch.tensor([[[[4.0, 8.0]]]]), (2, 3), (2, 2), (1, 1))
    assert dx.tolist() == [[[[1, 3, 2], [1, 3, 2]]]]


@pytest.mark.parametrize("stride, padding, dilation, groups", [(1, 0, 1, 1), (2, 1, 1, 2), ((1, 3), (2, 0), (2, 1), 4)])
def test_conv2d_matches_torch(stride: int, padding: int, dilation: int, groups: int) -> None:
    def two(value: int | tuple[int, int]) -> tuple[int, int]:
        return (value, value) if isinstance(value, int) else value

    x, w = (
        random(2, 4, 6, 7, dtype=torch.float64, grad=True),
        random(8, 4 // groups, 3, 2, dtype=torch.float64, grad=True),
    )
    b = random(8, dtype=torch.float64, grad=True)
    y = F.conv2d(x, w, b, stride, padding, dilation, groups)
    dy = random(*y.shape, dtype=torch.float64)
    y.backward(dy)
    sides = (two(padding)[0],) * 2 + (two(padding)[1],) * 2
    window = (two(stride), sides, two(dilation), groups)
    assert_close(reference.conv2d(x, w, b, *window), y)
    assert_close(reference.conv2d_grad_input(dy, w, (6, 7), *window), x.grad)
    assert_close(reference.conv2d_grad_weight(dy, x, (3, 2), *window), w.grad)
    assert_close(reference.conv2d_grad_bias(dy), b.grad)


@pytest.mark.parametrize("ceil_mode", [False, True])
@pytest.mark.parametrize(
    "kernel, stride, pad", [((2, 3), (2, 1), (1, 1)), ((3, 3), (2, 3), (1, 0)), ((2, 2), None, (0, 1))]
)
def test_pooling_matches_torch(
    kernel: tuple[int, int], stride: tuple[int, int] | None, pad: tuple[int, int], ceil_mode: bool
) -> None:
    sides = (pad[0], pad[0], pad[1], pad[1])
    x = random(2, 3, 7, 8, dtype=torch.float64, grad=True)
    y, indices = F.max_pool2d(x, kernel, stride, pad, 1, ceil_mode, return_indices=True)
    dy = random(*y.shape, dtype=torch.float64)
    y.backward(dy)
    values, picked = reference.max_pool2d(x, kernel, stride, sides, (1, 1), ceil_mode)
    assert torch.equal(values, y.detach()) and torch.equal(picked, indices)
    assert_close(reference.max_pool2d_grad_input(dy, indices, (7, 8)), x.grad)
    for include, divisor in ((True, None), (False, None), (True, 3)):
        x.grad = None
        y = F.avg_pool2d(x, kernel, stride, pad, ceil_mode, include, divisor)
        y.backward(dy)
        assert_close(reference.avg_pool2d(x, kernel, stride, sides, ceil_mode, include, divisor), y)
        dx = reference.avg_pool2d_grad_input(dy, (7, 8), kernel, stride, sides, include, divisor)
        assert_close(dx, x.grad)


def test_gradients_of_a_convolution_are_convolutions() -> None:
    """dL/dX is the full convolution of dL/dY with the flipped kernel, dL/dK the valid correlation of X with dL/dY."""
    x, w = random(1, 1, 6, 7, dtype=torch.float64), random(1, 1, 3, 2, dtype=torch.float64)
    dy = random(1, 1, 4, 6, dtype=torch.float64)
    full = (2, 2, 1, 1)
    assert_close(reference.conv2d_grad_input(dy, w, (6, 7)), reference.conv2d(dy, w.flip(-1, -2), padding=full))
    assert_close(reference.conv2d_grad_weight(dy, x, (3, 2)), reference.conv2d(x, dy))


def test_border_pixel_by_hand() -> None:
    rows = {
        "zeros": [None, None, 0, 1, 2, 3, None, None],
        "replicate": [0, 0, 0, 1, 2, 3, 3, 3],
        "circular": [2, 3, 0, 1, 2, 3, 0, 1],
        "reflect": [2, 1, 0, 1, 2, 3, 2, 1],
        "symmetric": [1, 0, 0, 1, 2, 3, 3, 2],
    }
    for mode, expected in rows.items():
        assert [reference.border_pixel(position, 4, mode) for position in range(-2, 6)] == expected


def test_conv_transpose2d_by_hand() -> None:
    """Each pixel stamps the kernel, times itself, stride apart."""
    x = torch.tensor([[[[1.0, 10.0]]]])
    k = torch.tensor([[[[1.0, 2.0, 3.0]]]])
    assert reference.conv_transpose2d(x, k, stride=(1, 2)).tolist() == [[[[1, 2, 3 + 10, 20, 30]]]]
    assert reference.conv_transpose2d(x, k, stride=(1, 2), padding=(0, 0, 1, 1)).tolist() == [[[[2, 13, 20]]]]
    assert reference.conv_transpose2d(x, k, [0.5], (1, 2), output_padding=(0, 1)).flatten().tolist()[-2:] == [30.5, 0.5]


def test_convolve2d_by_hand() -> None:
    x, k = torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([[1.0, 10.0]])
    assert reference.convolve2d(x, k).tolist() == [[1, 12, 23, 30]]
    assert reference.correlate2d(x, k).tolist() == [[10, 21, 32, 3]]
    assert reference.convolve2d(x, k, "same").tolist() == [[1, 12, 23]]
    assert reference.convolve2d(x, k, "valid").tolist() == reference.convolve2d(k, x, "valid").tolist() == [[12, 23]]
    assert reference.convolve2d(x, k, "full", "wrap").tolist() == [[31, 12, 23, 31]]
    assert reference.convolve2d(x, k, "full", "symm").tolist() == [[11, 12, 23, 33]]


def test_gradients_are_a_full_and_a_valid_convolution() -> None:
    """dY/dX is the full convolution of dY with the kernel, dY/dK the valid correlation of X with dY."""
    x, k, dy = random(6, 5, dtype=torch.float64), random(3, 2, dtype=torch.float64), random(4, 4, dtype=torch.float64)
    dx = reference.conv2d_grad_input(dy[None, None], k[None, None], (6, 5))[0, 0]
    dk = reference.conv2d_grad_weight(dy[None, None], x[None, None], (3, 2))[0, 0]
    assert_close(dx, reference.convolve2d(dy, k, "full"))
    assert_close(dk, reference.correlate2d(x, dy, "valid"))
