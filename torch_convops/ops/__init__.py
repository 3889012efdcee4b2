"""The operators, one page each: public function, autograd, vmap, autocast and fake kernels."""

from .avg_pool2d import avg_pool2d, avg_pool2d_choice
from .conv2d import conv2d, conv2d_choice
from .global_pool2d import global_avg_pool2d, global_max_pool2d
from .max_pool2d import max_pool2d, max_pool2d_choice

__all__ = [
    "avg_pool2d",
    "avg_pool2d_choice",
    "conv2d",
    "conv2d_choice",
    "global_avg_pool2d",
    "global_max_pool2d",
    "max_pool2d",
    "max_pool2d_choice",
]
