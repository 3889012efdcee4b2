"""Modes against JAX, whose windows have SAME and SAME_LOWER with strides, asymmetric pads and dilation."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from torch_convops import avg_pool2d, conv2d, max_pool2d

jax = pytest.importorskip("jax", reason="JAX is in the test extra; it is not installed here")

PADDINGS: dict[str, tuple[Any, Any]] = {  # ours and JAX's
    "same": ("same", "SAME"),
    "same_lower": ("same_lower", "SAME_LOWER"),
    "valid": ("valid", "VALID"),
    "four sides": (((1, 3), (0, 2)), ((1, 3), (0, 2))),
}


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("dilation", [(1, 1), (2, 3)], ids=str)
@pytest.mark.parametrize("stride", [(1, 1), (2, 3), (4, 2)], ids=str)
@pytest.mark.parametrize("padding", PADDINGS)
def test_conv_general_dilated(padding: str, stride: tuple[int, int], dilation: tuple[int, int], groups: int) -> None:
    ours, jaxs = PADDINGS[padding]
    generator = np.random.default_rng(0)
    for (H, W), (R, S) in [((9, 12), (3, 4)), ((10, 11), (2, 3)), ((7, 13), (1, 5))]:
        x = generator.standard_normal((2, 4, H, W)).astype(np.float32)
        w = generator.standard_normal((6, 4 // groups, R, S)).astype(np.float32)
        if padding == "valid" and (dilation[0] * (R - 1) >= H or dilation[1] * (S - 1) >= W):
            continue

        def convolution(x: Any, w: Any) -> Any:
            return jax.lax.conv_general_dilated(
                x, w, stride, jaxs, rhs_dilation=dilation, feature_group_count=groups,
                precision=jax.lax.Precision.HIGHEST,
            )  # fmt: skip

        expected, pull_back = jax.vjp(convolution, x, w)
        leaves = [torch.from_numpy(array).requires_grad_() for array in (x, w)]
        y = conv2d(*leaves, None, stride, ours, dilation, groups)
        assert y.shape == expected.shape
        dy = generator.standard_normal(expected.shape).astype(np.float32)
        results = [y, *torch.autograd.grad(y, leaves, torch.from_numpy(dy))]
        for a, b in zip(results, [expected, *pull_back(dy)], strict=True):
            np.testing.assert_allclose(a.detach().numpy(), np.asarray(b), rtol=2e-5, atol=2e-5)


POOL_PADDINGS: dict[str, tuple[Any, Any]] = {
    "same": ("same", "SAME"),
    "same_lower": ("same_lower", "SAME_LOWER"),
    "valid": ("valid", "VALID"),
    "four sides": (((1, 0), (0, 2)), ((1, 0), (0, 2))),
}


@pytest.mark.parametrize("dilation", [(1, 1), (2, 3)], ids=str)
@pytest.mark.parametrize("stride", [(1, 1), (2, 3), (4, 2)], ids=str)
@pytest.mark.parametrize("padding", POOL_PADDINGS)
def test_reduce_window(padding: str, stride: tuple[int, int], dilation: tuple[int, int]) -> None:
    ours, jaxs = POOL_PADDINGS[padding]
    generator = np.random.default_rng(0)
    for (H, W), kernel in [((9, 14), (3, 4)), ((10, 15), (2, 5)), ((9, 20), (4, 5))]:
        x = generator.standard_normal((2, 4, H, W)).astype(np.float32)

        def windows(x: Any, initial: float, reduce: Any, kernel: tuple[int, int] = kernel) -> Any:
            window = (1, 1, *kernel), (1, 1, *stride)
            sides = jaxs if isinstance(jaxs, str) else ((0, 0), (0, 0), *jaxs)
            return jax.lax.reduce_window(x, initial, reduce, *window, sides, window_dilation=(1, 1, *dilation))

        leaf = torch.from_numpy(x).requires_grad_()
        functions = [
            (lambda x, w=windows: w(x, -np.inf, jax.lax.max), max_pool2d(leaf, kernel, stride, ours, dilation)),
            (
                lambda x, w=windows: w(x, 0.0, jax.lax.add),
                avg_pool2d(leaf, kernel, stride, ours, divisor_override=1, dilation=dilation),
            ),
            (
                lambda x, w=windows: w(x, 0.0, jax.lax.add) / w(jax.numpy.ones_like(x), 0.0, jax.lax.add),
                avg_pool2d(leaf, kernel, stride, ours, count_include_pad=False, dilation=dilation),
            ),
        ]
        for theirs, y in functions:
            # JAX has no gradient of a dilated maximum.
            differentiable = dilation == (1, 1) or y is not functions[0][1]
            expected, pull_back = jax.vjp(theirs, x) if differentiable else (theirs(x), None)
            assert y.shape == expected.shape
            np.testing.assert_allclose(y.detach().numpy(), np.asarray(expected), rtol=2e-5, atol=2e-5)
            if pull_back is not None:
                dy = generator.standard_normal(expected.shape).astype(np.float32)
                (dx,) = torch.autograd.grad(y, leaf, torch.from_numpy(dy))
                np.testing.assert_allclose(dx.numpy(), np.asarray(pull_back(dy)[0]), rtol=2e-5, atol=2e-5)
