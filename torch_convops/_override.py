"""Functional calls of unmodified code on this library's kernels."""

from __future__ import annotations

import collections
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch._subclasses.fake_tensor import FakeTensor
from torch.overrides import TorchFunctionMode

from . import _library, ops
from .ops._dispatch import FLOATS, INTEGERS

CONVOLUTION_DTYPES = (*FLOATS, torch.complex64, torch.complex128)
# Fixed here, since a compiled function that enters the mode cannot ask the library.
_DEVICES = ("cpu", "meta", "cuda") if _library.build_info().cuda_archs else ("cpu", "meta")
_PLAIN_TYPES = (torch.Tensor, torch.nn.Parameter, FakeTensor)


class Override(TorchFunctionMode):
    """The mode that :func:`override` makes, and the record of what it did; ``str`` of it says it in words.

    Attributes:
        calls: how many calls this library's kernels answered, by the name of the function.
        fallbacks: how many were left to torch, by the name of the function and the reason.
    """

    def __init__(self) -> None:
        super().__init__()
        self.calls: collections.Counter[str] = collections.Counter()
        self.fallbacks: collections.Counter[tuple[str, str]] = collections.Counter()

    def __torch_function__(
        self, func: Any, types: Iterable[type], args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        route = _ROUTES.get(func)
        if route is None:
            return func(*args, **kwargs)
        reason = _obstacle((*args, *kwargs.values()), route.dtypes)
        if reason is None:
            try:
                result = route.function(*args, **kwargs)
            except (TypeError, ValueError, NotImplementedError) as error:
                # What is wrong is torch's to say, in its own words and with its own type.
                reason = str(error).split("\n")[0]
            else:
                self.calls[route.name] += 1
                return result
        self.fallbacks[route.name, reason] += 1
        return func(*args, **kwargs)

    def __str__(self) -> str:
        lines = [f"{sum(self.calls.values())} calls answered, {sum(self.fallbacks.values())} left to torch"]
        lines += [f"  {name}: {count}" for name, count in sorted(self.calls.items())]
        lines += [f"  {name}: {count} left, {reason}" for (name, reason), count in sorted(self.fallbacks.items())]
        return "\n".join(lines)


def override() -> Override:
    """Routes torch's 2-D convolutions and poolings to this library's kernels, within a ``with`` block.

    ::

        with torch_convops.override() as record:
            model(x).sum().backward()
        print(record)

    Takes what ``torch.nn.functional`` has of ``conv2d``, ``conv_transpose2d``, ``max_pool2d``, ``avg_pool2d``,
    ``adaptive_max_pool2d``, ``adaptive_avg_pool2d`` (with and without indices), ``max_unpool2d`` and ``lp_pool2d``,
    the functions of ``torch`` and ``torch._C._nn`` below them, and thereby torch.nn's layers. What the kernels do not
    take is left to torch: other devices, dtypes and layouts, subclasses of ``torch.Tensor`` and arguments that are
    refused; so errors are torch's own. Nothing else of torch's results changes, but each call into torch inside the
    block costs the way through Python that a mode has.

    A graph that is built inside the block is differentiated by this library wherever ``backward`` is called. Backward
    itself runs outside of modes, and with it what ``torch.utils.checkpoint`` computes anew: convert the model instead,
    or let the checkpoint know, ``context_fn=lambda: (contextlib.nullcontext(), torch_convops.override())``. With
    ``use_reentrant=True`` there is no ``context_fn``: enter the block inside the function that is checkpointed.
    ``torch.compile`` sees through the mode: a compiled function that is called inside the block is compiled for it,
    beside what it is outside, and ``torch.export`` inside it records this library's operators. What is not
    dispatched by Python is not seen: TorchScript and calls of ``torch.ops.aten``. A mode belongs to the thread that
    enters it; another thread needs a block of its own.

    Returns:
        The mode, whose attributes ``calls`` and ``fallbacks`` count what it answered and what it left, and why.
    """
    return Override()


def is_torchs_padding(padding: Any, stride: Any = None) -> bool:
    """Whether torch has such padding; the stride is that of a convolution, which alone has modes."""
    if isinstance(padding, str):
        steps = stride if isinstance(stride, Sequence) else (stride,)
        return stride is not None and (padding == "valid" or (padding == "same" and all(step == 1 for step in steps)))
    if isinstance(padding, Sequence):
        return len(padding) <= 2 and not any(isinstance(side, Sequence) for side in padding)
    return True


def _obstacle(arguments: Iterable[Any], dtypes: Sequence[torch.dtype]) -> str | None:
    """Why tensors among the arguments of a call are not for these kernels."""
    first = True
    for tensor in arguments:
        if not isinstance(tensor, torch.Tensor):
            continue
        if type(tensor) not in _PLAIN_TYPES:
            return f"a {type(tensor).__module__}.{type(tensor).__qualname__}"
        if tensor.is_quantized:
            return "a quantized tensor"
        if tensor.is_nested or tensor.layout is not torch.strided:
            return "a nested tensor" if tensor.is_nested else f"a {tensor.layout} tensor"
        if tensor.device.type not in _DEVICES:
            return f"a tensor on {tensor.device.type}"
        if first and tensor.dtype not in dtypes:
            return f"a {tensor.dtype} tensor"
        first = False
    return None


# --- the functions of torch, with its signatures: what only this library takes is refused, so that torch is asked ---


def _check(holds: bool, name: str, value: Any) -> None:
    if not holds:
        raise ValueError(f"{name}={value!r} is not torch's")


def _check_padding(padding: Any, stride: Any = None) -> None:
    _check(is_torchs_padding(padding, stride), "padding", padding)


def _check_pair(name: str, value: Any) -> None:
    _check(isinstance(value, (int, torch.SymInt)) or (isinstance(value, Sequence) and len(value) == 2), name, value)


def _conv2d(
    input: Any, weight: Any, bias: Any = None, stride: Any = 1, padding: Any = 0, dilation: Any = 1, groups: Any = 1
) -> torch.Tensor:
    _check_padding(padding, stride)
    return ops.conv2d(input, weight, bias, stride, padding, dilation, groups)


def _conv_transpose2d(
    input: Any,
    weight: Any,
    bias: Any = None,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    groups: Any = 1,
    dilation: Any = 1,
) -> torch.Tensor:
    _check_padding(padding)
    return ops.conv_transpose2d(input, weight, bias, stride, padding, output_padding, groups, dilation)


def _max_pool2d(with_indices: bool) -> Callable[..., Any]:
    """One function for each: ``return_indices`` has been heeded by the time that torch calls either."""

    def call(
        input: Any,
        kernel_size: Any,
        stride: Any = None,
        padding: Any = 0,
        dilation: Any = 1,
        ceil_mode: Any = False,
        return_indices: Any = with_indices,
    ) -> Any:
        _check_padding(padding)
        _check(isinstance(ceil_mode, bool), "ceil_mode", ceil_mode)
        return ops.max_pool2d(input, kernel_size, stride, padding, dilation, ceil_mode, with_indices)

    return call


def _avg_pool2d(
    input: Any,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: Any = False,
    count_include_pad: Any = True,
    divisor_override: Any = None,
) -> torch.Tensor:
    _check_padding(padding)
    return ops.avg_pool2d(input, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override)


def _adaptive_max_pool2d(with_indices: bool) -> Callable[..., Any]:
    def call(input: Any, output_size: Any, return_indices: Any = with_indices) -> Any:
        _check_pair("output_size", output_size)
        return ops.adaptive_max_pool2d(input, output_size, with_indices)

    return call


def _adaptive_avg_pool2d(input: Any, output_size: Any) -> torch.Tensor:
    _check_pair("output_size", output_size)
    return ops.adaptive_avg_pool2d(input, output_size)


def _max_unpool2d(
    input: Any, indices: Any, kernel_size: Any, stride: Any = None, padding: Any = 0, output_size: Any = None
) -> torch.Tensor:
    _check_padding(padding)
    return ops.max_unpool2d(input, indices, kernel_size, stride, padding, output_size)


def _lp_pool2d(
    input: Any, norm_type: Any, kernel_size: Any, stride: Any = None, ceil_mode: Any = False
) -> torch.Tensor:
    _check_pair("kernel_size", kernel_size)
    _check(isinstance(ceil_mode, bool), "ceil_mode", ceil_mode)
    return ops.lp_pool2d(input, norm_type, kernel_size, stride, ceil_mode)


class _Route(NamedTuple):
    name: str
    function: Callable[..., Any]
    dtypes: tuple[torch.dtype, ...]


_MAXIMUM_DTYPES = (*FLOATS, *INTEGERS)
_MAX_POOL = _Route("max_pool2d", _max_pool2d(False), _MAXIMUM_DTYPES)
_MAX_POOL_WITH_INDICES = _Route("max_pool2d", _max_pool2d(True), _MAXIMUM_DTYPES)
_ADAPTIVE_AVG = _Route("adaptive_avg_pool2d", _adaptive_avg_pool2d, FLOATS)
_ADAPTIVE_MAX_WITH_INDICES = _Route("adaptive_max_pool2d", _adaptive_max_pool2d(True), _MAXIMUM_DTYPES)

# What reaches a mode. Functions that are written in Python do so themselves, before what they call.
_ROUTES: dict[Any, _Route] = {
    torch.conv2d: _Route("conv2d", _conv2d, CONVOLUTION_DTYPES),
    torch.conv_transpose2d: _Route("conv_transpose2d", _conv_transpose2d, CONVOLUTION_DTYPES),
    torch.max_pool2d: _MAX_POOL,
    F.max_pool2d: _MAX_POOL,
    F.max_pool2d_with_indices: _MAX_POOL_WITH_INDICES,
    torch._C._nn.max_pool2d_with_indices: _MAX_POOL_WITH_INDICES,
    torch._C._nn.avg_pool2d: _Route("avg_pool2d", _avg_pool2d, FLOATS),
    F.adaptive_avg_pool2d: _ADAPTIVE_AVG,
    torch._C._nn.adaptive_avg_pool2d: _ADAPTIVE_AVG,
    F.adaptive_max_pool2d: _Route("adaptive_max_pool2d", _adaptive_max_pool2d(False), _MAXIMUM_DTYPES),
    F.adaptive_max_pool2d_with_indices: _ADAPTIVE_MAX_WITH_INDICES,
    torch._C._nn.adaptive_max_pool2d: _ADAPTIVE_MAX_WITH_INDICES,
    F.max_unpool2d: _Route("max_unpool2d", _max_unpool2d, _MAXIMUM_DTYPES),
    F.lp_pool2d: _Route("lp_pool2d", _lp_pool2d, FLOATS),
}
