"""What convolutions say of bad arguments: one table of (entry, arguments, error, message), on every device and meta.

tests/test_geometry.py holds such tables for conv2d's own window; here are the transposed convolution, SciPy's
operations, the formulas and layers, and what lies at the limits of a rule.
"""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from conftest import DEVICES

import torch_convops

ops = torch.ops.torch_convops
HUGE = 2**63 - 1

X, W, B = torch.randn(2, 4, 6, 5), torch.randn(6, 2, 3, 2), torch.randn(6)
Y = torch.randn(2, 6, 3, 6)
WINDOW: dict[str, Any] = {"stride": [2, 1], "padding": [1, 0, 2, 1], "dilation": [1, 2], "groups": 2}
CONV = {"input": X, "weight": W, "bias": B, **WINDOW}
TRANSPOSE = {
    "input": torch.randn(2, 4, 3, 5), "weight": torch.randn(4, 3, 3, 2), "bias": B, "stride": [2, 1], "padding": [1, 0],
    "output_padding": [1, 0], "groups": 2, "dilation": [1, 2],
}  # fmt: skip
COMPLEX = {"input": X.cfloat(), "weight": W.cfloat(), "bias": B.cfloat(), **WINDOW}
SCIPY = {"in1": X, "in2": W[0, 0]}
SIZES = {"input_size": (6, 5), "kernel_size": (3, 2)}
LAYER = {"in_channels": 4, "out_channels": 6, "kernel_size": 3}

# Every entry with good arguments, which a row of the table changes.
ENTRIES: dict[str, tuple[Any, dict[str, Any]]] = {
    "ops.conv2d": (ops.conv2d.default, CONV),
    "ops.conv2d.padding": (ops.conv2d.padding, {**CONV, "padding": "same"}),
    "ops.conv2d_grad_input": (
        ops.conv2d_grad_input.default,
        {"grad_output": Y, "weight": W, "input_size": [6, 5], **WINDOW},
    ),
    "ops.conv2d_grad_weight": (
        ops.conv2d_grad_weight.default,
        {"grad_output": Y, "input": X, "kernel_size": [3, 2], **WINDOW},
    ),
    "ops.conv_transpose2d": (ops.conv_transpose2d.default, TRANSPOSE),
    "ops.conv_transpose2d.padding": (
        ops.conv_transpose2d.padding,
        {**TRANSPOSE, "padding": "same", "output_padding": [0]},
    ),
    "conv2d": (torch_convops.conv2d, CONV),
    "conv2d, complex": (torch_convops.conv2d, COMPLEX),
    "conv_transpose2d": (torch_convops.conv_transpose2d, TRANSPOSE),
    "convolve2d": (torch_convops.convolve2d, SCIPY),
    "correlate2d": (torch_convops.correlate2d, SCIPY),
    "conv2d_output_size": (torch_convops.conv2d_output_size, SIZES),
    "conv_transpose2d_output_size": (torch_convops.conv_transpose2d_output_size, SIZES),
}
MODES = "padding must be an int, a pair, four sides or one of 'valid', 'same', 'same_lower', 'full'; got "
BORDERS = "padding_mode must be one of 'zeros', 'reflect', 'replicate', 'circular', 'symmetric'; got "
OUTPUT_PADDING = "output_padding must be at least 0 and less than stride or dilation (2), got "

BAD: list[tuple[str, dict[str, Any], type[Exception], str]] = [
    # Borders: a mirror without the edge shows one pixel less than the image has, the others as many.
    ("ops.conv2d", {"padding_mode": "nope"}, RuntimeError, BORDERS + "'nope'"),
    ("conv2d", {"padding_mode": ""}, ValueError, BORDERS + "''"),
    ("conv2d", {"padding_mode": None}, TypeError, "'padding_mode'"),
    ("conv2d", {"padding": 5, "padding_mode": "reflect"}, ValueError, "padding must be at most 4 for padding_mode "
     "'reflect' and an input width of 5, got (5, 5)"),
    ("conv2d", {"padding": 6, "padding_mode": "circular"}, ValueError, "padding must be at most 5 for padding_mode "
     "'circular' and an input width of 5, got (6, 6)"),
    ("ops.conv2d_grad_input", {"padding": [7, 0], "padding_mode": "symmetric"}, RuntimeError, "padding must be at most "
     "6 for padding_mode 'symmetric' and an input height of 6, got (7, 7)"),
    # Numbers at the end of int64, and results too large for one.
    ("ops.conv2d", {"dilation": [2**62]}, RuntimeError, "dilation * (kernel - 1) overflows a 64-bit integer"),
    ("conv2d", {"padding": HUGE}, ValueError, "input + padding overflows a 64-bit integer"),
    ("conv2d", {"padding": "full", "dilation": HUGE}, (TypeError, ValueError), "padding"),
    ("conv2d", {"groups": HUGE}, ValueError, "input channels must equal weight channels * groups"),
    ("conv2d", {"stride": 2**64}, (TypeError, ValueError), "stride"),
    ("conv_transpose2d", {"stride": 2**62}, ValueError, "(input - 1) * stride + dilation * (kernel - 1) + 1 overflows"),
    ("conv_transpose2d", {"dilation": HUGE}, ValueError, "dilation * (kernel - 1) overflows a 64-bit integer"),
    ("conv_transpose2d", {"groups": 2**62}, ValueError, "groups must divide the number of input channels"),
    ("conv_transpose2d", {"stride": 2**40}, ValueError, "is too large to allocate"),
    ("ops.conv2d_grad_input", {"grad_output": Y[:, :, :1, :1], "input_size": [2**40] * 2, "stride": [2**41],
     "padding": [0], "dilation": [1]}, RuntimeError, "grad_input of size (2, 4, 1099511627776, 1099511627776) is too "
     "large to allocate"),
    ("ops.conv2d_grad_input", {"grad_output": Y[:, :, :1, :1], "stride": [2**42], "padding": [2**40], "dilation": [1],
     "padding_mode": "replicate"}, RuntimeError, "grad_input of size (2, 4, 2199023255558, 2199023255557) is too large "
     "to allocate"),
    ("ops.conv2d_grad_weight", {"grad_output": Y[:, :, :1, :1], "kernel_size": [2**40] * 2, "stride": [2**42],
     "padding": [2**40], "dilation": [1]}, RuntimeError, "grad_weight of size (6, 2, 1099511627776, 1099511627776) is "
     "too large to allocate"),
    ("conv2d_output_size", {"padding": HUGE}, ValueError, "input + padding overflows a 64-bit integer"),
    ("conv_transpose2d_output_size", {"stride": HUGE}, ValueError, "overflows a 64-bit integer"),
    # Gradients: sizes that come as numbers.
    ("ops.conv2d_grad_input", {"input_size": [9, 6, 5]}, RuntimeError, "input_size must have 1 or 2 values, got "
     "(9, 6, 5)"),
    ("ops.conv2d_grad_weight", {"kernel_size": [9, 3, 2]}, RuntimeError, "kernel_size must have 1 or 2 values, got "
     "(9, 3, 2)"),
    ("ops.conv2d_grad_weight", {"grad_output": None}, RuntimeError, "grad_output must be a Tensor, got None"),
    # Counts and modes of the wrong kind; 1.0 and True are equal to 1, which a cache must not mix up.
    ("conv2d", {"groups": 1.0}, TypeError, "groups must be an int, got 1.0"),
    ("conv2d", {"groups": True}, TypeError, "groups must be an int, got True"),
    ("conv2d", {"groups": torch.zeros(2)}, TypeError, "groups must be an int, got tensor([0., 0.])"),
    ("conv2d", {"stride": torch.ones(2)}, TypeError, "stride must be an int or a pair of ints, got tensor([1., 1.])"),
    ("conv_transpose2d", {"groups": None}, TypeError, "groups must be an int, got None"),
    ("conv_transpose2d", {"padding": 1.0}, TypeError, "padding must be an int or a pair of ints, got 1.0"),
    ("conv_transpose2d", {"padding": (True, 1)}, TypeError, "padding must be an int or a pair of ints, got True"),
    ("conv_transpose2d", {"padding": {}}, TypeError, "padding must be an int or a pair of ints, got {}"),
    ("ops.conv2d.padding", {"padding": "SAME"}, RuntimeError, MODES + "'SAME'"),
    ("ops.conv_transpose2d.padding", {"padding": "SAME"}, RuntimeError, MODES + "'SAME'"),
    ("conv_transpose2d", {"padding": "SAME"}, ValueError, MODES + "'SAME'"),
    ("conv_transpose2d", {"padding": ""}, ValueError, MODES + "''"),
    ("conv_transpose2d_output_size", {"padding": "1"}, ValueError, MODES + "'1'"),
    ("ops.conv2d", {"algorithm": "fastest"}, RuntimeError, "algorithm must be one of 'auto', 'depthwise'"),
    ("ops.conv_transpose2d", {"algorithm": "fastest"}, RuntimeError, "conv_transpose2d: algorithm must be one of "
     "'auto', 'depthwise'"),
    # The transposed convolution.
    ("conv_transpose2d", {"groups": 0}, ValueError, "groups must be positive, got 0"),
    ("conv_transpose2d", {"groups": 3}, ValueError, "groups must divide the number of input channels, got 4 channels "
     "and groups 3"),
    ("ops.conv_transpose2d", {"stride": [2, 0]}, RuntimeError, "stride must be positive, got 0 for the width"),
    ("ops.conv_transpose2d", {"dilation": [-1]}, RuntimeError, "dilation must be positive, got -1 for the height"),
    ("conv_transpose2d", {"padding": -1}, ValueError, "padding must not be negative, got (-1, -1) for the height"),
    ("conv_transpose2d", {"padding": 9}, ValueError, "padding must be at most the output's height without it, "
     "8, got (9, 9)"),
    ("conv_transpose2d", {"output_padding": 2}, ValueError, OUTPUT_PADDING + "2 for the height"),
    ("ops.conv_transpose2d", {"output_padding": [0, -1]}, RuntimeError, OUTPUT_PADDING + "-1 for the width"),
    ("ops.conv_transpose2d.padding", {"output_padding": [1]}, RuntimeError, "output_padding must be 0 for padding "
     "'same', got 1 for the height"),
    ("conv_transpose2d", {"output_size": (7, 7)}, ValueError, "output_size must be from 5 to 6 for the height, got 7"),
    ("conv_transpose2d", {"output_size": (5, 7, 1)}, ValueError, "output_size must have 1 or 2 values, got (5, 7, 1)"),
    ("conv_transpose2d", {"weight": TRANSPOSE["weight"][:3]}, ValueError, "input channels must equal weight's first "
     "size, got 4 channels and weight of size (3, 3, 3, 2)"),
    ("conv_transpose2d", {"weight": TRANSPOSE["weight"][:, :0]}, ValueError, "at least one output channel"),
    ("conv_transpose2d", {"weight": TRANSPOSE["weight"][:, :, :0]}, ValueError, "kernel height must be positive"),
    ("conv_transpose2d", {"weight": W[0]}, ValueError, "weight must be 4-D, got 3-D"),
    ("conv_transpose2d", {"input": X[0, 0]}, ValueError, "input must be 4-D (batched) or 3-D (unbatched), got 2-D"),
    ("conv_transpose2d", {"bias": B[:5]}, ValueError, "bias must be 1-D with one value per output channel (6), got "
     "(5)"),
    ("ops.conv_transpose2d", {"input": X.cfloat()}, RuntimeError, "input must be float32, float64, bfloat16 or "
     "float16, got complex64"),
    # Tensors of another kind.
    ("conv2d", {"weight": W.to(torch.float8_e5m2)}, TypeError, "weight must have the dtype of input (float32), got an "
     "unsupported dtype"),
    ("conv2d", {"input": X.to_sparse()}, TypeError, "input must be a dense Tensor, got a torch.sparse_coo one"),
    ("conv_transpose2d", {"weight": TRANSPOSE["weight"].to_sparse()}, (TypeError, ValueError), "weight must be "),
    ("conv2d, complex", {"bias": B.cfloat()[None]}, ValueError, "bias must be 1-D, got size (1, 6)"),
    ("conv2d, complex", {"bias": B.cfloat()[:5]}, ValueError, "bias must be 1-D with one value per filter (6), "
     "got (5)"),
    ("conv2d, complex", {"weight": W[:, :1].cfloat()}, ValueError, "got input of size (2, 4, 6, 5), weight of size "
     "(6, 1, 3, 2) and groups 2"),
    ("conv2d, complex", {"weight": W}, TypeError, "weight must have the dtype of input (complex64), got float32"),
    # SciPy's operations.
    ("convolve2d", {"mode": "SAME"}, ValueError, "mode must be one of 'full', 'valid', 'same', got 'SAME'"),
    ("correlate2d", {"boundary": None}, ValueError, "boundary must be one of 'fill', 'wrap', 'symm', got None"),
    ("convolve2d", {"fillvalue": None}, TypeError, "fillvalue must be a number, got None"),
    ("correlate2d", {"fillvalue": "0"}, TypeError, "fillvalue must be a number, got '0'"),
    ("convolve2d", {"fillvalue": 1j}, TypeError, "fillvalue must be real for real operands, got 1j"),
    ("convolve2d", {"in1": X.int()}, TypeError, "in1 must have a floating or complex dtype, got int32"),
    ("convolve2d", {"in2": B}, ValueError, "in2 must have at least 2 dimensions, got 1"),
    ("correlate2d", {"in2": W[0, :, :0]}, ValueError, "in2 must not be empty, got size (2, 0, 2)"),
    ("convolve2d", {"in2": torch.ones(3, 2, 2)}, ValueError, "leading dimensions must be broadcastable, got in1 of "
     "size (2, 4, 6, 5) and in2 of size (3, 2, 2)"),
    ("convolve2d", {"in2": torch.ones(9, 2), "mode": "valid"}, ValueError, "at least as large as the other"),
]  # fmt: skip


def on(device: str, value: Any) -> Any:
    if isinstance(value, torch.Tensor) and value.dim() > 0 and not value.is_sparse:
        return value.to(device)
    return value


@pytest.mark.parametrize("device", [*DEVICES, "meta"])
@pytest.mark.parametrize(
    "entry, bad, error, message", BAD, ids=[f"{entry}-{'-'.join(bad)}-{i}" for i, (entry, bad, _, _) in enumerate(BAD)]
)
def test_a_bad_argument_is_named(
    entry: str, bad: dict[str, Any], error: type[Exception], message: str, device: str
) -> None:
    function, good = ENTRIES[entry]
    # Only what is a tensor in a good call moves: in the place of a size, a tensor keeps its value.
    arguments = {
        name: on(device, value) if isinstance(good.get(name), torch.Tensor) else value
        for name, value in {**good, **bad}.items()
    }
    function(**{name: on(device, value) for name, value in good.items()})
    with pytest.raises(error, match=re.escape(message)):
        function(**arguments)


@pytest.mark.parametrize("mode, most", [("reflect", -1), ("circular", 0), ("symmetric", 0)])
def test_padding_up_to_the_limit_of_a_border(mode: str, most: int, device: str) -> None:
    height, width = X.shape[2] + most, X.shape[3] + most
    sides = ((height, height), (width, width))
    y = torch_convops.conv2d(X.to(device), W.to(device), padding=sides, groups=2, padding_mode=mode)
    assert y.shape == (2, 6, 6 + 2 * height - 2, 5 + 2 * width - 1)


def test_steps_far_beyond_the_image(device: str) -> None:
    """One window, whatever the stride; its taps read the border, however far apart they lie."""
    x, w = X.to(device), W.to(device)
    expected = torch_convops.conv2d(x[:, :, :3, :2], w, groups=2)
    assert torch.equal(torch_convops.conv2d(x, w, stride=HUGE, groups=2), expected)
    corners = x[:, :, [0, 0, -1]][:, :, :, [0, -1]]
    far = 2**40
    y = torch_convops.conv2d(x, w, None, HUGE, ((far, far), (0, far)), (far, far), 2, "replicate")
    torch.testing.assert_close(y, torch_convops.conv2d(corners, w, groups=2))


@pytest.mark.parametrize(
    "bad, message",
    [
        ({"padding": "SAME"}, "padding must be one of 'valid', 'same', 'same_lower', 'full', got 'SAME'"),
        ({"padding_mode": "nope"}, "padding"),
        ({"groups": 3}, "divisible by groups"),
        ({"groups": 0}, "groups must be a positive integer"),
    ],
)
@pytest.mark.parametrize("layer", [torch_convops.nn.Conv2d, torch_convops.nn.ConvTranspose2d])
def test_layers_refuse_when_made(layer: Any, bad: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        layer(**LAYER | bad)
