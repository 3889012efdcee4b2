"""The operators, one page each: public function, autograd, vmap, autocast and fake kernels."""

from .avg_pool2d import avg_pool2d, avg_pool2d_choice
from .conv2d import conv2d, conv2d_choice, conv2d_output_size
from .conv_transpose2d import conv_transpose2d, conv_transpose2d_output_size
from .convolve2d import convolve2d, correlate2d
from .global_pool2d import global_avg_pool2d, global_max_pool2d
from .max_pool2d import max_pool2d, max_pool2d_choice

__all__ = [
    "avg_pool2d",
    "avg_pool2d_choice",
    "conv2d",
    "conv2d_choice",
    "conv2d_output_size",
    "conv_transpose2d",
    "conv_transpose2d_output_size",
    "convolve2d",
    "correlate2d",
    "global_avg_pool2d",
    "global_max_pool2d",
    "max_pool2d",
    "max_pool2d_choice",
]
