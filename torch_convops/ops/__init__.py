"""The operators, one page each: public function, autograd, vmap, autocast and fake kernels."""

from .avg_pool2d import avg_pool2d
from .conv2d import choice, conv2d
from .global_pool2d import global_avg_pool2d, global_max_pool2d
from .max_pool2d import max_pool2d

__all__ = ["avg_pool2d", "choice", "conv2d", "global_avg_pool2d", "global_max_pool2d", "max_pool2d"]
