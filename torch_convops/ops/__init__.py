"""The operators, one page each: public function, autograd, vmap, autocast and fake kernels."""

from .avg_pool2d import adaptive_avg_pool2d, avg_pool2d, avg_pool2d_choice
from .blur_pool2d import binomial_filter, blur_pool2d
from .conv2d import conv2d, conv2d_choice, conv2d_output_size
from .conv_transpose2d import conv_transpose2d, conv_transpose2d_output_size
from .convolve2d import convolve2d, correlate2d
from .global_pool2d import global_avg_pool2d, global_max_pool2d
from .lp_pool2d import lp_pool2d
from .max_pool2d import adaptive_max_pool2d, max_pool2d, max_pool2d_choice
from .max_unpool2d import max_unpool2d

__all__ = [
    "adaptive_avg_pool2d",
    "adaptive_max_pool2d",
    "avg_pool2d",
    "avg_pool2d_choice",
    "binomial_filter",
    "blur_pool2d",
    "conv2d",
    "conv2d_choice",
    "conv2d_output_size",
    "conv_transpose2d",
    "conv_transpose2d_output_size",
    "convolve2d",
    "correlate2d",
    "global_avg_pool2d",
    "global_max_pool2d",
    "lp_pool2d",
    "max_pool2d",
    "max_pool2d_choice",
    "max_unpool2d",
]
