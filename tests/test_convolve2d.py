"""convolve2d and correlate2d: equal to scipy.signal on every shape, mode and boundary, and differentiable."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import scipy.signal
import torch
from conftest import random
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd import gradcheck, gradgradcheck

from torch_convops import convolve2d, correlate2d, reference

FUNCTIONS = (convolve2d, correlate2d)
MODES, BOUNDARIES = ("full", "valid", "same"), ("fill", "wrap", "symm")
functions = pytest.mark.parametrize("function", FUNCTIONS, ids=lambda f: f.__name__)


def scipys(function: Callable[..., torch.Tensor]) -> Callable[..., Any]:
    return getattr(scipy.signal, function.__name__)


def outcome(function: Callable[..., Any], *args: Any) -> Any:
    """The result, or the type of error."""
    try:
        return np.asarray(function(*args))
    except ValueError:
        return ValueError


def assert_equal(actual: Any, expected: Any, what: Any) -> None:
    if expected is ValueError or actual is ValueError:
        assert actual is expected, what
    else:
        assert actual.shape == expected.shape and actual.dtype == expected.dtype, what
        np.testing.assert_allclose(actual, expected, rtol=1e-11, atol=1e-11, err_msg=str(what))


@functions
@pytest.mark.parametrize("mode, boundary", [*itertools.product(MODES, BOUNDARIES)])
def test_every_small_shape_matches_scipy(function: Callable[..., torch.Tensor], mode: str, boundary: str) -> None:
    """Even kernels, kernels larger than the image in one direction or both, and rows that are wrapped many times."""
    generator = np.random.default_rng(0)
    for H, W, R, S in itertools.product((1, 2, 5), (1, 3, 4), (1, 2, 3, 7), (1, 2, 4, 9)):
        image, kernel = generator.standard_normal((H, W)), generator.standard_normal((R, S))
        arguments = (mode, boundary, 0.75) if (H + S) % 2 else (mode, boundary)
        expected = outcome(scipys(function), image, kernel, *arguments)
        actual = outcome(function, torch.from_numpy(image), torch.from_numpy(kernel), *arguments)
        assert_equal(actual, expected, (H, W, R, S, *arguments))
        if expected is not ValueError:
            assert_equal(
                getattr(reference, function.__name__)(image, kernel, *arguments).numpy(), expected, "reference"
            )


@functions
@settings(max_examples=150, deadline=None)
@given(
    sizes=st.tuples(*[st.integers(1, 12)] * 4),
    mode=st.sampled_from(MODES),
    boundary=st.sampled_from(BOUNDARIES),
    fillvalue=st.sampled_from([0, 2.5, -1]),
    complex_operands=st.tuples(st.booleans(), st.booleans()),
)
def test_random_shapes_match_scipy(
    function: Callable[..., torch.Tensor],
    sizes: tuple[int, int, int, int],
    mode: str,
    boundary: str,
    fillvalue: float,
    complex_operands: tuple[bool, bool],
) -> None:
    operands = []
    for size, is_complex in zip((sizes[:2], sizes[2:]), complex_operands, strict=True):
        operands.append(torch.randn(size, dtype=torch.complex128 if is_complex else torch.float64))
    expected = outcome(scipys(function), *(operand.numpy() for operand in operands), mode, boundary, fillvalue)
    assert_equal(outcome(function, *operands, mode, boundary, fillvalue), expected, (sizes, mode, boundary, fillvalue))


@functions
@pytest.mark.parametrize("mode, boundary", [*itertools.product(MODES, BOUNDARIES)])
def test_batches_are_broadcast(device: str, function: Callable[..., torch.Tensor], mode: str, boundary: str) -> None:
    for first, second in [
        ((3,), ()),
        ((), (2,)),
        ((3,), (3,)),
        ((2, 1), (3,)),
        ((2, 3), (2, 1)),
        ((1,), (1,)),
        ((4, 1), (1, 1)),
    ]:
        for (H, W), (R, S) in [((5, 6), (3, 2)), ((2, 3), (4, 4))]:
            image = random(*first, H, W, dtype=torch.float64, device=device)
            kernel = random(*second, R, S, dtype=torch.float64, device=device)
            y = function(image, kernel, mode, boundary)
            batch = torch.broadcast_shapes(first, second)
            images, kernels = image.expand(*batch, H, W).cpu(), kernel.expand(*batch, R, S).cpu()
            assert y.shape[:-2] == batch
            for index in itertools.product(*map(range, batch)):
                expected = scipys(function)(images[index].numpy(), kernels[index].numpy(), mode, boundary)
                np.testing.assert_allclose(y[index].cpu().numpy(), expected, atol=1e-12)


@functions
def test_empty_batch(device: str, function: Callable[..., torch.Tensor]) -> None:
    image, kernel = torch.ones(0, 5, 6, device=device), torch.ones(3, 2, device=device)
    assert function(image, kernel).shape == (0, 7, 7)
    assert function(kernel, image, "same").shape == (0, 3, 2)
    assert function(image, kernel.expand(2, 1, 3, 2), "valid").shape == (2, 0, 3, 5)


@functions
@pytest.mark.parametrize("boundary", BOUNDARIES)
@pytest.mark.parametrize("mode", MODES)
def test_derivatives(device: str, function: Callable[..., torch.Tensor], mode: str, boundary: str) -> None:
    for sizes in (((4, 3), (2, 3)), ((2, 3), (4, 5)), ((2, 4, 3), (2, 1, 2, 2))):
        for dtype in (torch.float64, torch.complex128):
            operands = [torch.randn(size, dtype=dtype, device=device, requires_grad=True) for size in sizes]

            def apply(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
                return function(a, b, mode, boundary)

            forward = {"check_forward_ad": True} if dtype is torch.float64 else {}
            assert gradcheck(apply, operands, fast_mode=True, **forward)
            assert gradgradcheck(apply, operands, fast_mode=True)


@functions
def test_fillvalue_is_differentiated_through(device: str, function: Callable[..., torch.Tensor]) -> None:
    operands = [torch.randn(size, dtype=torch.float64, device=device, requires_grad=True) for size in ((3, 4), (2, 2))]
    assert gradcheck(lambda a, b: function(a, b, "full", "fill", 1.5), operands)


@functions
def test_operands_are_promoted(device: str, function: Callable[..., torch.Tensor]) -> None:
    image, kernel = torch.ones(4, 4, device=device), torch.ones(2, 2, dtype=torch.float64, device=device)
    assert function(image, kernel).dtype == torch.float64
    assert function(image, kernel.to(torch.complex64)).dtype == torch.complex64
    assert function(image.bfloat16(), kernel.bfloat16()).dtype == torch.bfloat16


@functions
def test_bad_arguments(function: Callable[..., torch.Tensor]) -> None:
    name, image, kernel = function.__name__, torch.ones(4, 4), torch.ones(2, 2)
    with pytest.raises(ValueError, match=f"{name}: mode must be one of 'full', 'valid', 'same', got 'all'"):
        function(image, kernel, "all")
    with pytest.raises(ValueError, match=f"{name}: boundary must be one of 'fill', 'wrap', 'symm', got 'zeros'"):
        function(image, kernel, "full", "zeros")
    with pytest.raises(ValueError, match=r"'valid' one operand must be at least as large .*\(4, 4\) and \(5, 2\)"):
        function(image, torch.ones(5, 2), "valid")
    with pytest.raises(ValueError, match="in2 must have at least 2 dimensions, got 1"):
        function(image, torch.ones(3))
    with pytest.raises(ValueError, match=r"in1 must not be empty, got size \(0, 4\)"):
        function(torch.ones(0, 4), kernel)
    with pytest.raises(TypeError, match="in1 must have a floating or complex dtype, got int64"):
        function(image.long(), kernel)
    with pytest.raises(ValueError, match="in2 must be on the device of in1"):
        function(image, kernel.to("meta"))
    with pytest.raises(TypeError, match="in2 must be a Tensor"):
        function(image, [[1.0]])
