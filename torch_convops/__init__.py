"""2-D convolution and pooling as PyTorch operators with their own C++ and CUDA kernels."""

from importlib.metadata import PackageNotFoundError, version

from . import nn, onnx
from ._convert import Conversion, convert, revert
from ._library import BuildInfo, algorithms, allow_winograd, build_info
from ._on_import import on_import
from ._override import Override, override
from .ops import (
    adaptive_avg_pool2d,
    adaptive_max_pool2d,
    avg_pool2d,
    avg_pool2d_choice,
    binomial_filter,
    blur_pool2d,
    conv2d,
    conv2d_choice,
    conv2d_output_size,
    conv_transpose2d,
    conv_transpose2d_output_size,
    convolve2d,
    correlate2d,
    global_avg_pool2d,
    global_max_pool2d,
    lp_pool2d,
    max_pool2d,
    max_pool2d_choice,
    max_unpool2d,
)

on_import("torch.utils.flop_counter", "torch_convops._flops")
on_import("torch.distributed.tensor", "torch_convops._sharding")

try:
    __version__ = version("torch_convops")
except PackageNotFoundError:  # run from a source tree that was never installed
    __version__ = "0+unknown"

__all__ = [
    "BuildInfo",
    "Conversion",
    "Override",
    "adaptive_avg_pool2d",
    "adaptive_max_pool2d",
    "algorithms",
    "allow_winograd",
    "avg_pool2d",
    "avg_pool2d_choice",
    "binomial_filter",
    "blur_pool2d",
    "build_info",
    "conv2d",
    "conv2d_choice",
    "conv2d_output_size",
    "conv_transpose2d",
    "conv_transpose2d_output_size",
    "convert",
    "convolve2d",
    "correlate2d",
    "global_avg_pool2d",
    "global_max_pool2d",
    "lp_pool2d",
    "max_pool2d",
    "max_pool2d_choice",
    "max_unpool2d",
    "nn",
    "onnx",
    "override",
    "revert",
]
