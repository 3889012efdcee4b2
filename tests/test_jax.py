"""conv2d's modes against JAX, whose convolution has SAME and SAME_LOWER with strides and asymmetric pads."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from torch_convops import conv2d

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
