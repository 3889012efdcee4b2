"""Winograd's algorithm: its algebra as exact rationals, its error, and the switch that allows it."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from fractions import Fraction

import pytest
import torch
from conftest import relative_error
from torch.nn import functional as F

import torch_convops
from torch_convops._library import winograd_transform

PASSES = ("forward", "grad_input", "grad_weight")
# Documented where the user allows it.
MOST_ERROR = 5e-6


@pytest.fixture(autouse=True)
def allowed() -> Iterator[None]:
    with torch_convops.allow_winograd(True):
        yield


def matrix(name: str, taps: int, columns: int) -> list[list[Fraction]]:
    """The rows of the matrix that a transform of the kernels applies; no entry has a denominator over 100."""
    images = [winograd_transform(name, taps, [float(i == column) for i in range(columns)]) for column in range(columns)]
    return [[Fraction(value).limit_denominator(100) for value in row] for row in zip(*images, strict=True)]


@pytest.mark.parametrize("taps", (2, 3, 4, 5))
def test_matrices_are_a_minimal_filtering_algorithm(taps: int) -> None:
    """y[k] = sum over points p of A[k, p] (G g)[p] (B d)[p] is the sum over taps i of d[k + i] g[i], exactly."""
    output, weight, input = matrix("output", taps, 6), matrix("weight", taps, taps), matrix("input", taps, 6)
    assert len(output) == 7 - taps
    for k, i, j in itertools.product(range(7 - taps), range(taps), range(6)):
        coefficient = sum(output[k][p] * weight[p][i] * input[p][j] for p in range(6))
        assert coefficient == (j == k + i), (k, i, j)


@pytest.mark.parametrize("taps", (2, 3, 4, 5))
def test_matrices_of_the_gradient_are_the_transposed_ones(taps: int) -> None:
    output, weight = matrix("output", taps, 6), matrix("weight", taps, taps)
    assert matrix("grad_output", taps, 7 - taps) == [list(row) for row in zip(*output, strict=True)]
    assert matrix("grad_weight", taps, 6) == [list(row) for row in zip(*weight, strict=True)]


def errors(
    C: int, K: int, size: int, layout: torch.memory_format, algorithm: str, taps: int = 3, N: int = 1, stride: int = 1
) -> dict[str, float]:
    x = torch.randn(N, C, size, size).to(memory_format=layout).requires_grad_()
    w = (torch.randn(K, C, taps, taps) / (taps * taps * C) ** 0.5).to(memory_format=layout).requires_grad_()
    y = torch_convops.conv2d(x, w, None, stride, taps // 2, algorithm=algorithm)
    exact_x, exact_w = (t.detach().double().requires_grad_() for t in (x, w))
    exact = F.conv2d(exact_x, exact_w, None, stride, taps // 2)
    grad_output = torch.randn_like(y)
    y.backward(grad_output)
    exact.backward(grad_output.double())
    pairs = zip((y, x.grad, w.grad), (exact, exact_x.grad, exact_w.grad), strict=True)
    return dict(zip(PASSES, (relative_error(ours, theirs) for ours, theirs in pairs), strict=True))


@pytest.mark.parametrize("layout", (torch.contiguous_format, torch.channels_last), ids=str)
@pytest.mark.parametrize("taps", (2, 3, 4, 5))
@pytest.mark.parametrize("channels, size, N", [(16, 30, 1), (16, 70, 4), (64, 17, 2), (512, 7, 1), (2048, 4, 1)])
def test_error_is_bounded(channels: int, size: int, N: int, taps: int, layout: torch.memory_format) -> None:
    for name, error in errors(channels, 32, size, layout, "winograd", taps, N).items():
        assert error <= MOST_ERROR, f"{name}: {error:.2e}"


@pytest.mark.parametrize("layout", (torch.contiguous_format, torch.channels_last), ids=str)
@pytest.mark.parametrize("kernel, stride", [(3, 2), (4, 2), (5, 2), (7, 2), (8, 2), (7, 3), (11, 4)])
@pytest.mark.parametrize("channels, size", [(1, 40), (3, 61), (8, 40), (20, 33), (256, 12)])
def test_error_of_strides_is_bounded(
    channels: int, size: int, kernel: int, stride: int, layout: torch.memory_format
) -> None:
    for name, error in errors(channels, 40, size, layout, "winograd", kernel, 2, stride).items():
        assert error <= MOST_ERROR, f"{name}: {error:.2e}"


@pytest.mark.parametrize("layout", (torch.contiguous_format, torch.channels_last), ids=str)
@pytest.mark.parametrize("mode", ("zeros", "reflect", "replicate", "circular", "symmetric"))
@pytest.mark.parametrize(
    "channels, filters, groups, kernel, stride",
    [(3, 5, 1, (7, 7), (2, 2)), (6, 8, 2, (5, 4), (2, 1)), (34, 34, 2, (3, 7), (1, 2)), (17, 40, 1, (1, 9), (3, 4))],
)
def test_rectangles_groups_and_borders(
    channels: int,
    filters: int,
    groups: int,
    kernel: tuple[int, int],
    stride: tuple[int, int],
    mode: str,
    layout: torch.memory_format,
) -> None:
    """Phases of both axes, whose last tap may not exist, at every border; the transpose with a bias."""
    x = torch.randn(2, channels, 23, 26).to(memory_format=layout)
    w, b = torch.randn(filters, channels // groups, *kernel), torch.randn(channels)
    padding = (kernel[0] // 2, kernel[1] // 2)
    grad_output = torch.randn_like(F.conv2d(x, w, None, stride, padding, 1, groups))
    results = []
    for algorithm, dtype in (("winograd", torch.float32), ("implicit_gemm", torch.float64)):
        tensors = (x.to(dtype, copy=True), w.to(dtype, copy=True), b.to(dtype), grad_output.to(dtype))
        image, weight, bias, gradient = tensors
        image.requires_grad_()
        weight.requires_grad_()
        y = torch_convops.conv2d(
            image, weight, None, stride, padding, groups=groups, padding_mode=mode, algorithm=algorithm
        )
        y.backward(gradient)
        transposed = torch_convops.conv_transpose2d(
            gradient, weight, bias, stride, padding, groups=groups, output_size=(23, 26), algorithm=algorithm
        )
        results.append((y, image.grad, weight.grad, transposed))
    for ours, exact in zip(*results, strict=True):
        assert relative_error(ours, exact) <= MOST_ERROR


@pytest.mark.parametrize("taps", (3, 5))
def test_not_finite_values_stay_where_the_definition_has_them(taps: int) -> None:
    """A tile mixes its pixels; what is not finite must not spread to outputs that do not read it."""
    x, w = torch.randn(1, 32, 12, 12), torch.randn(32, 32, taps, taps)
    for value in (float("inf"), float("nan"), 3e38):
        x[0, 5, 6, 7] = value
        y = torch_convops.conv2d(x, w, padding=taps // 2, algorithm="winograd")
        exact = torch_convops.conv2d(x, w, padding=taps // 2, algorithm="implicit_gemm")
        assert torch.equal(y.isfinite(), exact.isfinite())
        assert y.isfinite().sum() >= 32 * (144 - taps * taps)
        grad_weight = torch.ops.torch_convops.conv2d_grad_weight(
            torch.ones_like(y), x, [taps, taps], padding=[taps // 2], algorithm="winograd"
        )
        assert grad_weight[:, torch.arange(32) != 5].isfinite().all()


def chosen(dtype: torch.dtype = torch.float32, size: int = 28, taps: int = 3, **options: int) -> dict[str, str]:
    x, w = torch.empty(8, 128, size, size, dtype=dtype), torch.empty(128, 128, taps, taps, dtype=dtype)
    return {name: torch_convops.conv2d_choice(name, x, w, padding=taps // 2, **options) for name in PASSES}


def test_auto_takes_it_where_it_is_allowed_for_large_problems_of_float32() -> None:
    for taps, stride in ((3, 1), (4, 1), (5, 1), (5, 2), (7, 2)):
        assert set(chosen(taps=taps, stride=stride).values()) == {"winograd"}
    assert "winograd" not in chosen(size=3).values()
    assert "winograd" not in chosen(stride=2).values()
    assert "winograd" not in chosen(taps=7).values()
    for dtype in (torch.float64, torch.bfloat16, torch.float16):
        assert "winograd" not in chosen(dtype).values()
    assert "winograd" not in chosen(dilation=2).values()


def test_switch() -> None:
    before = chosen()
    with torch_convops.allow_winograd(False):
        assert "winograd" not in chosen().values()
        with torch_convops.allow_winograd(True):
            assert chosen() == before
        assert "winograd" not in chosen().values()
        assert max(errors(64, 64, 12, torch.contiguous_format, "auto").values()) < 6e-7
        # A name is taken at its word.
        y, exact = (
            torch_convops.conv2d(torch.ones(1, 16, 8, 8), torch.ones(32, 16, 3, 3), algorithm=name)
            for name in ("winograd", "implicit_gemm")
        )
        torch.testing.assert_close(y, exact)
    assert chosen() == before
    torch_convops.allow_winograd(False)
    assert "winograd" not in chosen().values()
    with pytest.raises(TypeError, match="allow_winograd: allowed must be a bool, got 1"):
        torch_convops.allow_winograd(1)


def test_other_kernels_steps_and_dtypes_are_refused() -> None:
    x, w = torch.randn(1, 2, 8, 8), torch.randn(2, 2, 3, 3)
    refused = "conv2d: algorithm 'winograd' does not support this problem"
    for bad in (
        lambda: torch_convops.conv2d(x, w, stride=3, algorithm="winograd"),
        lambda: torch_convops.conv2d(x, w, dilation=2, algorithm="winograd"),
        lambda: torch_convops.conv2d(x, w, dilation=(1, 2), algorithm="winograd"),
        lambda: torch_convops.conv2d(x, torch.randn(2, 2, 1, 1), algorithm="winograd"),
        lambda: torch_convops.conv2d(x, torch.randn(2, 2, 3, 6), algorithm="winograd"),
        lambda: torch_convops.conv2d(x.double(), w.double(), algorithm="winograd"),
    ):
        with pytest.raises(ValueError, match=refused):
            bad()


@pytest.mark.parametrize("layout", ("contiguous", "channels_last", "strided"))
@pytest.mark.parametrize("kernel, stride", [(2, 1), (3, 1), (4, 1), (5, 1), (3, 2), (5, 2), (7, 2), (11, 4)])
def test_derivatives_of_every_kind(kernel: int, stride: int, layout: str) -> None:
    """Gradients, their gradients, and forward mode: float32 only, so against float64 instead of by finite steps."""
    x, w = torch.randn(2, 5, 24, 21), torch.randn(8, 5, kernel, kernel)
    dx, dw = torch.randn_like(x), torch.randn_like(w)
    if layout == "channels_last":
        x, w = (t.contiguous(memory_format=torch.channels_last) for t in (x, w))
    elif layout == "strided":
        x, w = x.repeat_interleave(2, 3)[..., ::2], w.transpose(0, 1).contiguous().transpose(0, 1)
    assert layout != "strided" or not x.is_contiguous()
    results = []
    for algorithm, dtype in (("winograd", torch.float32), ("implicit_gemm", torch.float64)):
        image, weight, image_tangent, weight_tangent = (t.to(dtype) for t in (x, w, dx, dw))

        def convolve(image: torch.Tensor, weight: torch.Tensor, algorithm: str = algorithm) -> torch.Tensor:
            return torch_convops.conv2d(image, weight, None, stride, kernel // 2, algorithm=algorithm)

        y, tangent = torch.func.jvp(convolve, (image, weight), (image_tangent, weight_tangent))
        leaves = image.detach().requires_grad_(), weight.detach().requires_grad_()
        gradients = torch.autograd.grad(convolve(*leaves).square().sum() / 2, leaves, create_graph=True)
        inner = (gradients[0] * image_tangent).sum() + (gradients[1] * weight_tangent).sum()
        results.append((y, tangent, *gradients, *torch.autograd.grad(inner, leaves)))
    for ours, exact in zip(*results, strict=True):
        assert relative_error(ours, exact) <= 4 * MOST_ERROR  # what is differentiated has been rounded, too


@pytest.mark.parametrize("layout", (torch.contiguous_format, torch.channels_last), ids=str)
def test_operators_are_registered_for_it(layout: torch.memory_format) -> None:
    x = torch.randn(1, 3, 15, 14).to(memory_format=layout).requires_grad_()
    w = torch.randn(4, 3, 7, 7, requires_grad=True)
    operators = torch.ops.torch_convops
    options = {"stride": [2, 2], "padding": [3, 3], "algorithm": "winograd"}
    y = operators.conv2d(x, w, None, **options).detach()
    torch.library.opcheck(operators.conv2d.default, (x, w, None), options)
    torch.library.opcheck(operators.conv2d_grad_input.default, (y, w, [15, 14]), options)
    torch.library.opcheck(operators.conv2d_grad_weight.default, (y, x, [7, 7]), options)
