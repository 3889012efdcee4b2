"""Poolings against ONNX's reference implementation: automatic pads, asymmetric pads, ceil_mode, dilations."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from torch_convops import avg_pool2d, global_avg_pool2d, global_max_pool2d, lp_pool2d, max_pool2d, max_unpool2d

onnx = pytest.importorskip("onnx", reason="ONNX is in the test extra; it is not installed here")
from onnx.reference import ReferenceEvaluator  # noqa: E402

WINDOWS = [((2, 2), (2, 2)), ((3, 2), (2, 1)), ((3, 3), (2, 3)), ((4, 3), (3, 2)), ((5, 5), (1, 1))]
AUTO_PADS = {"VALID": "valid", "SAME_UPPER": "same", "SAME_LOWER": "same_lower"}


def specified_pads(auto_pad: str, size: Any, kernel: Any, stride: Any) -> tuple[int, ...]:
    """The pads that ONNX's text specifies, begins then ends. Its reference code gives SAME_LOWER fewer outputs than the
    text, ceil(size / stride), so the pads are passed to it."""
    total = [max(0, (-(-n // s) - 1) * s + k - n) for n, k, s in zip(size, kernel, stride, strict=True)]
    less, more = tuple(t // 2 for t in total), tuple(t - t // 2 for t in total)
    return {"VALID": (0, 0, 0, 0), "SAME_UPPER": less + more, "SAME_LOWER": more + less}[auto_pad]


def run(operator: str, inputs: list[np.ndarray], outputs: int = 1, **attributes: Any) -> list[np.ndarray]:
    """ONNX's result, of its newest version of the operator."""
    names, results = [f"x{i}" for i in range(len(inputs))], [f"y{i}" for i in range(outputs)]
    types = {np.dtype(np.float32): onnx.TensorProto.FLOAT, np.dtype(np.int64): onnx.TensorProto.INT64}
    node = onnx.helper.make_node(operator, names, results, **attributes)
    values = [
        onnx.helper.make_tensor_value_info(name, types[x.dtype], x.shape) for name, x in zip(names, inputs, strict=True)
    ]
    graph = onnx.helper.make_graph([node], "pool", values, [onnx.ValueInfoProto(name=name) for name in results])
    evaluator = ReferenceEvaluator(onnx.helper.make_model(graph))
    return list(evaluator.run(None, dict(zip(names, inputs, strict=True))))


def overhang(size: int, kernel: int, stride: int, dilation: int, pads: int) -> int:
    """How far the last window of ceil_mode reaches beyond the padded image."""
    return -(size + pads - dilation * (kernel - 1) - 1) % stride


def image(height: int = 13, width: int = 14) -> torch.Tensor:
    return torch.randn(2, 3, height, width)


@pytest.mark.parametrize("auto_pad", AUTO_PADS)
@pytest.mark.parametrize("kernel, stride", WINDOWS, ids=str)
def test_pools_with_automatic_pads(kernel: Any, stride: Any, auto_pad: str) -> None:
    for height, width in ((13, 14), (12, 9), (7, 7)):
        x = image(height, width)
        y = max_pool2d(x, kernel, stride, AUTO_PADS[auto_pad])
        mean = avg_pool2d(x, kernel, stride, AUTO_PADS[auto_pad], count_include_pad=False)
        window = {"kernel_shape": kernel, "strides": stride}
        ways: list[dict[str, Any]] = [{"pads": specified_pads(auto_pad, (height, width), kernel, stride)}]
        if auto_pad != "SAME_LOWER":
            ways.append({"auto_pad": auto_pad})
        for way in ways:
            np.testing.assert_array_equal(y.numpy(), run("MaxPool", [x.numpy()], **window, **way)[0])
        (expected,) = run("AveragePool", [x.numpy()], **window, **ways[0])
        np.testing.assert_allclose(mean.numpy(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dilation", [(1, 1), (2, 1)], ids=str)
@pytest.mark.parametrize("ceil_mode", [False, True])
@pytest.mark.parametrize("sides", [(0, 0, 0, 0), (1, 0, 0, 1), (0, 1, 1, 0), (1, 1, 1, 1)], ids=str)
@pytest.mark.parametrize("kernel, stride", WINDOWS, ids=str)
def test_pools_with_four_pads(kernel: Any, stride: Any, sides: Any, ceil_mode: bool, dilation: Any) -> None:
    x = image()
    top, bottom, left, right = sides
    window = {"kernel_shape": kernel, "strides": stride, "pads": (top, left, bottom, right), "dilations": dilation}
    padding = ((top, bottom), (left, right))
    if ceil_mode and stride == (1, 1):
        return  # nothing to round, and the reference code has windows too many
    (expected,) = run("MaxPool", [x.numpy()], **window, ceil_mode=int(ceil_mode))
    np.testing.assert_array_equal(max_pool2d(x, kernel, stride, padding, dilation, ceil_mode).numpy(), expected)
    if ceil_mode and any(
        overhang(n, k, s, d, pad) > 1
        for n, k, s, d, pad in zip((13, 14), kernel, stride, dilation, (top + bottom, left + right), strict=True)
    ):
        return  # the reference code puts half of such an overhang before the image
    for count_include_pad in (False, True):
        (expected,) = run(
            "AveragePool", [x.numpy()], **window, ceil_mode=int(ceil_mode), count_include_pad=int(count_include_pad)
        )
        y = avg_pool2d(x, kernel, stride, padding, ceil_mode, count_include_pad, dilation=dilation)
        np.testing.assert_allclose(y.numpy(), expected, rtol=1e-5, atol=1e-6)
    if not ceil_mode:
        (expected,) = run("LpPool", [x.abs().numpy()], **window, p=3)
        y = lp_pool2d(x.abs(), 3, kernel, stride, padding=padding, dilation=dilation)
        np.testing.assert_allclose(y.numpy(), expected, rtol=1e-5, atol=1e-6)


def test_global_pools() -> None:
    x = image()
    np.testing.assert_array_equal(global_max_pool2d(x).numpy(), run("GlobalMaxPool", [x.numpy()])[0])
    np.testing.assert_allclose(global_avg_pool2d(x).numpy(), run("GlobalAveragePool", [x.numpy()])[0], atol=1e-6)


def test_max_unpool() -> None:
    """ONNX numbers the pixels of the whole tensor, torch those of a plane."""
    x = image(12, 14)
    y, indices = max_pool2d(x, 2, return_indices=True)
    flat = indices + (torch.arange(6) * 12 * 14).reshape(2, 3, 1, 1)
    (expected,) = run("MaxUnpool", [y.numpy(), flat.numpy()], kernel_shape=(2, 2), strides=(2, 2))
    np.testing.assert_array_equal(max_unpool2d(y, indices, 2).numpy(), expected)
