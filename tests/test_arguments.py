"""What operators say of bad arguments: one table of (entry, arguments, error, message), on every device and meta.

tests/test_geometry.py holds such tables for the windows of conv2d, max_pool2d and avg_pool2d; here are the other
operators, the gradients' own, the formulas and layers, and what lies at the limits of a rule.
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

POOL: dict[str, Any] = {"kernel_size": [2, 3], "stride": [2, 1], "padding": [1, 0], "dilation": [1, 1]}
POOLED = torch.randn(2, 4, 4, 3)
OFFSETS = torch.zeros(2, 4, 4, 3, dtype=torch.uint8)
POOL_GRADIENT = {"grad_output": POOLED, "input_size": [6, 5], **POOL}
ADAPTED = torch.randn(2, 4, 4, 3)  # of windows of 3 x 3 pixels
UNPOOL: dict[str, Any] = {"input": X, "indices": torch.arange(30).reshape(6, 5).expand(2, 4, 6, 5)}

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
    "ops.max_pool2d": (ops.max_pool2d.default, {"input": X, **POOL}),
    "ops.max_pool2d_grad_input": (ops.max_pool2d_grad_input.default, {**POOL_GRADIENT, "offsets": OFFSETS}),
    "ops.max_pool2d_gather": (ops.max_pool2d_gather.default, {"input": X, "offsets": OFFSETS, **POOL}),
    "ops.max_pool2d_indices": (ops.max_pool2d_indices.default, {"offsets": OFFSETS, "input_size": [6, 5], **POOL}),
    "ops.avg_pool2d": (ops.avg_pool2d.default, {"input": X, **POOL}),
    "ops.avg_pool2d_grad_input": (ops.avg_pool2d_grad_input.default, POOL_GRADIENT),
    "ops.adaptive_max_pool2d": (ops.adaptive_max_pool2d.default, {"input": X, "output_size": [4, 3]}),
    "ops.adaptive_max_pool2d_grad_input": (
        ops.adaptive_max_pool2d_grad_input.default,
        {"grad_output": ADAPTED, "offsets": OFFSETS, "input_size": [6, 5]},
    ),
    "ops.adaptive_max_pool2d_gather": (ops.adaptive_max_pool2d_gather.default, {"input": X, "offsets": OFFSETS}),
    "ops.adaptive_max_pool2d_indices": (
        ops.adaptive_max_pool2d_indices.default,
        {"offsets": OFFSETS, "input_size": [6, 5]},
    ),
    "ops.adaptive_avg_pool2d": (ops.adaptive_avg_pool2d.default, {"input": X, "output_size": [4, 3]}),
    "ops.adaptive_avg_pool2d_grad_input": (
        ops.adaptive_avg_pool2d_grad_input.default,
        {"grad_output": ADAPTED, "input_size": [6, 5]},
    ),
    "ops.max_unpool2d": (ops.max_unpool2d.default, {**UNPOOL, "output_size": [6, 5]}),
    "ops.max_unpool2d_gather": (ops.max_unpool2d_gather.default, UNPOOL),
    "ops.lp_pool2d": (ops.lp_pool2d.default, {"input": X, "norm_type": 2.0, **POOL}),
    "ops.blur_pool2d": (ops.blur_pool2d.default, {"input": X, "filter": W[0, 0]}),
    "max_pool2d": (torch_convops.max_pool2d, {"input": X, **POOL}),
    "avg_pool2d": (torch_convops.avg_pool2d, {"input": X, **POOL}),
    "adaptive_max_pool2d": (torch_convops.adaptive_max_pool2d, {"input": X, "output_size": (4, 3)}),
    "adaptive_avg_pool2d": (torch_convops.adaptive_avg_pool2d, {"input": X, "output_size": (4, 3)}),
    "max_unpool2d": (torch_convops.max_unpool2d, {**UNPOOL, "kernel_size": 2}),
    "lp_pool2d": (torch_convops.lp_pool2d, {"input": X, "norm_type": 2, **POOL}),
    "blur_pool2d": (torch_convops.blur_pool2d, {"input": X, "filter": W[0, 0]}),
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
    ("ops.conv2d", {"algorithm": "fastest"}, RuntimeError, "algorithm must be one of 'auto', '"),
    ("ops.conv_transpose2d", {"algorithm": "fastest"}, RuntimeError, "conv_transpose2d: algorithm must be one of "
     "'auto', '"),
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
    # Poolings: windows and their numbers.
    ("max_pool2d", {"kernel_size": 0}, ValueError, "kernel height must be positive, got 0"),
    ("avg_pool2d", {"kernel_size": (2, -3)}, ValueError, "kernel width must be positive, got -3"),
    ("ops.max_pool2d", {"kernel_size": [2**62]}, RuntimeError, "spans 4611686018427387904 pixels"),
    ("ops.max_pool2d", {"dilation": [HUGE]}, RuntimeError, "dilation * (kernel - 1)"),
    ("avg_pool2d", {"dilation": 0}, ValueError, "dilation must be positive, got 0 for the height"),
    ("avg_pool2d", {"dilation": (1, HUGE)}, ValueError, "dilation * (kernel - 1) overflows a 64-bit integer"),
    ("ops.avg_pool2d", {"dilation": [1, 2, 3]}, RuntimeError, "dilation must have 1 or 2 values, got (1, 2, 3)"),
    ("avg_pool2d", {"dilation": None}, TypeError, "dilation must be an int or a pair of ints, got None"),
    ("lp_pool2d", {"dilation": -2}, ValueError, "lp_pool2d: dilation must be positive, got -2 for the height"),
    ("ops.lp_pool2d", {"stride": [0]}, RuntimeError, "lp_pool2d: stride must be positive, got 0 for the height"),
    ("max_pool2d", {"stride": -1}, ValueError, "stride must be positive, got -1 for the height"),
    ("avg_pool2d", {"stride": HUGE + 1}, (TypeError, ValueError), "stride"),
    ("max_pool2d", {"padding": 2}, ValueError, "padding must be at most half of the window's extent, got padding "
     "(2, 2) for an extent of 2"),
    ("avg_pool2d", {"padding": ((0, 0), (2, 1))}, ValueError, "padding must be at most half of the window's extent, "
     "got padding (2, 1) for an extent of 3"),
    ("lp_pool2d", {"padding": "full"}, ValueError, "lp_pool2d: padding must be at most half of the window's extent"),
    ("ops.avg_pool2d", {"padding": [HUGE]}, RuntimeError, "input + padding overflows a 64-bit integer"),
    ("max_pool2d", {"padding": "SAME"}, ValueError, MODES + "'SAME'"),
    ("ops.avg_pool2d", {"divisor_override": 0}, RuntimeError, "divisor_override must not be zero"),
    ("avg_pool2d", {"divisor_override": 0}, ValueError, "divisor_override must not be zero"),
    ("ops.avg_pool2d_grad_input", {"divisor_override": 0}, RuntimeError, "divisor_override must not be zero"),
    ("avg_pool2d", {"input": X.int()}, TypeError, "input must be float32, float64, bfloat16 or float16, got int32"),
    ("max_pool2d", {"input": X.bool()}, TypeError, "or an integer of 8 to 64 bits, got bool"),
    ("max_pool2d", {"input": X[0, 0]}, ValueError, "input must be 4-D (batched) or 3-D (unbatched), got 2-D"),
    ("avg_pool2d", {"input": X[:, :0]}, ValueError, "input must have at least one channel, got input of size "
     "(2, 0, 6, 5)"),
    ("max_pool2d", {"input": X[..., :0]}, ValueError, "input width must be positive, got 0"),
    ("max_pool2d", {"input": None}, TypeError, "input must be a Tensor, got None"),
    ("max_pool2d", {"algorithm": "fastest"}, ValueError, "algorithm must be one of 'auto'"),
    # Their gradients' own operators.
    ("ops.max_pool2d_grad_input", {"grad_output": POOLED[..., :2]}, RuntimeError, "grad_output must be of size "
     "(2, 4, 4, 3), got (2, 4, 4, 2)"),
    ("ops.max_pool2d_grad_input", {"offsets": OFFSETS[:1]}, RuntimeError, "offsets must be of size (2, 4, 4, 3), got "
     "(1, 4, 4, 3)"),
    ("ops.max_pool2d_grad_input", {"offsets": OFFSETS.int()}, RuntimeError, "offsets must be uint8 for a window of 6 "
     "taps, got int32"),
    ("ops.max_pool2d_grad_input", {"input_size": [6]}, RuntimeError, "must be of size"),
    ("ops.max_pool2d_grad_input", {"input_size": [6, 5, 4]}, RuntimeError, "input_size must have 1 or 2 values, got "
     "(6, 5, 4)"),
    ("ops.max_pool2d_grad_input", {"input_size": [-6, 5]}, RuntimeError, "input height must be positive, got -6"),
    ("ops.max_pool2d_grad_input", {"grad_output": POOLED.long()}, RuntimeError, "grad_output must be float32, float64, "
     "bfloat16 or float16, got int64"),
    ("ops.max_pool2d_gather", {"offsets": OFFSETS[..., :1]}, RuntimeError, "offsets must be of size (2, 4, 4, 3), got "
     "(2, 4, 4, 1)"),
    ("ops.max_pool2d_indices", {"offsets": OFFSETS.float()}, RuntimeError, "offsets must be uint8"),
    ("ops.avg_pool2d_grad_input", {"input_size": [9, 5]}, RuntimeError, "grad_output must be of size"),
    ("ops.avg_pool2d_grad_input", {"grad_output": POOLED[0, 0]}, RuntimeError, "grad_output must be 4-D"),
    ("ops.adaptive_max_pool2d_grad_input", {"offsets": OFFSETS[..., :2]}, RuntimeError, "offsets must be of size "
     "(2, 4, 4, 3), got (2, 4, 4, 2)"),
    ("ops.adaptive_max_pool2d_grad_input", {"input_size": [0, 5]}, RuntimeError, "input height must be positive"),
    ("ops.adaptive_max_pool2d_grad_input", {"input_size": [600, 500]}, RuntimeError, "offsets must be int32 for a "
     "window of 25200 taps, got uint8"),
    ("ops.adaptive_max_pool2d_gather", {"offsets": OFFSETS[:, :2]}, RuntimeError, "offsets must be of size"),
    ("ops.adaptive_max_pool2d_indices", {"offsets": OFFSETS.int()}, RuntimeError, "offsets must be uint8"),
    ("ops.adaptive_avg_pool2d_grad_input", {"input_size": [HUGE, 5]}, RuntimeError, "overflows a 64-bit integer"),
    # Adaptive poolings.
    ("adaptive_max_pool2d", {"output_size": -1}, ValueError, "output_size must not be negative, got -1 for the height"),
    ("adaptive_avg_pool2d", {"output_size": (4, -3)}, ValueError, "output_size must not be negative, got -3 for the "
     "width"),
    ("ops.adaptive_avg_pool2d", {"output_size": [HUGE, 2]}, RuntimeError, "input * output overflows a 64-bit integer"),
    ("ops.adaptive_max_pool2d", {"output_size": [2**58, 2]}, RuntimeError, "output of size (2, 4, 288230376151711744, "
     "2) is too large to allocate"),
    ("adaptive_avg_pool2d", {"output_size": 2.0}, TypeError, "output_size must be an int, None or a pair of them, got "
     "2.0"),
    ("adaptive_max_pool2d", {"output_size": (True, 2)}, TypeError, "output_size must be an int, None or a pair of "
     "them, got True"),
    ("adaptive_max_pool2d", {"output_size": (1, 2, 3)}, ValueError, "output_size must have 1 or 2 values, got "
     "(1, 2, 3)"),
    ("adaptive_avg_pool2d", {"output_size": "3"}, TypeError, "output_size must be an int, None or a pair of them"),
    ("adaptive_max_pool2d", {"input": X[:, :, :0]}, ValueError, "input height must be positive, got 0"),
    ("adaptive_avg_pool2d", {"input": X.long()}, TypeError, "input must be float32"),
    # Unpooling; which index is bad shows on real devices only, in tests/test_max_unpool2d.py.
    ("max_unpool2d", {"indices": UNPOOL["indices"].int()}, TypeError, "indices must be int64, got int32"),
    ("max_unpool2d", {"indices": UNPOOL["indices"][..., :4]}, ValueError, "indices must be of the size of input, "
     "(2, 4, 6, 5), got (2, 4, 6, 4)"),
    ("max_unpool2d", {"indices": UNPOOL["indices"][0]}, ValueError, "indices must have the batch and channels of "
     "input, (2, 4, 6, 5), got (4, 6, 5)"),
    ("max_unpool2d", {"indices": None}, TypeError, "indices must be a Tensor, got None"),
    ("ops.max_unpool2d", {"output_size": [6, 0]}, RuntimeError, "output_size must be positive, got (6, 0)"),
    ("ops.max_unpool2d", {"output_size": [2**40, 2**30]}, RuntimeError, "is too large to allocate"),
    ("ops.max_unpool2d_gather", {"indices": UNPOOL["indices"][:, :2]}, RuntimeError, "indices must have the batch and "
     "channels of input"),
    ("max_unpool2d", {"output_size": (14, 10)}, ValueError, "output_size must be from 11 to 13 for the height, got 14"),
    ("max_unpool2d", {"output_size": (12,)}, ValueError, "output_size must be (height, width) or a size that ends in "
     "it, got (12,)"),
    ("max_unpool2d", {"output_size": 12}, ValueError, "output_size must be (height, width)"),
    ("max_unpool2d", {"stride": 0}, ValueError, "stride must be positive, got 0 for the height"),
    ("max_unpool2d", {"padding": -1}, ValueError, "padding must not be negative, got (-1, -1) for the height"),
    ("max_unpool2d", {"padding": 6}, ValueError, "output_size must be positive, got 0 for the height"),
    ("max_unpool2d", {"padding": "same"}, TypeError, "padding must be an int, a pair of ints or four sides, got "
     "'same'"),
    ("max_unpool2d", {"kernel_size": HUGE}, ValueError, "overflows a 64-bit integer"),
    # Norms and blurs.
    ("lp_pool2d", {"norm_type": 0}, ValueError, "norm_type must not be zero, got 0"),
    ("ops.lp_pool2d", {"norm_type": float("nan")}, RuntimeError, "norm_type must not be zero, got nan"),
    ("lp_pool2d", {"norm_type": "2"}, TypeError, "norm_type must be a number, got '2'"),
    ("lp_pool2d", {"input": X.int()}, TypeError, "lp_pool2d: input must be float32"),
    ("blur_pool2d", {"filter": 8}, ValueError, "filter size must be from 1 to 7, got 8"),
    ("blur_pool2d", {"filter": 0}, ValueError, "filter size must be from 1 to 7, got 0"),
    ("blur_pool2d", {"filter": 3.0}, TypeError, "filter size must be an int, got 3.0"),
    ("blur_pool2d", {"filter": W}, ValueError, "filter must be (R,), (R, S) or (C, R, S) for 4 channels and not be "
     "empty, got size (6, 2, 3, 2)"),
    ("blur_pool2d", {"filter": W[:3, 0]}, ValueError, "filter must be (R,), (R, S) or (C, R, S) for 4 channels"),
    ("blur_pool2d", {"filter": W[0, 0, :0]}, ValueError, "not be empty, got size (0, 2)"),
    ("blur_pool2d", {"filter": W[0, 0].double()}, TypeError, "blur_pool2d: filter must have the dtype of input"),
    ("blur_pool2d", {"stride": 0}, ValueError, "blur_pool2d: stride must be positive, got 0 for the height"),
    ("ops.blur_pool2d", {"padding_mode": "mirror"}, RuntimeError, BORDERS + "'mirror'"),
    ("blur_pool2d", {"filter": torch.ones(9, 14)}, ValueError, "padding must be at most 4 for padding_mode 'reflect' "
     "and an input width of 5, got (6, 7)"),
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
    torch.testing.assert_close(torch_convops.conv2d(x, w, stride=HUGE, groups=2), expected)
    corners = x[:, :, [0, 0, -1]][:, :, :, [0, -1]]
    far = 2**40
    arguments = (x, w, None, HUGE, ((far, far), (0, far)), (far, far), 2, "replicate")
    if device == "cuda":  # coordinates have 32 bits there
        with pytest.raises(ValueError, match="no algorithm of this device"):
            torch_convops.conv2d(*arguments)
    else:
        torch.testing.assert_close(torch_convops.conv2d(*arguments), torch_convops.conv2d(corners, w, groups=2))


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
