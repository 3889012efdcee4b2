"""max_pool2d: the maximum of each window, routed back by its offset inside the window."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from .. import _geometry as geometry
from .._geometry import AdaptiveSize, Int, Padding, Pair
from . import _dispatch as dispatch
from ._dispatch import Arguments, LinearMap, below_autograd, ops


class Family(NamedTuple):
    """The operators of sliding windows, or of adaptive ones."""

    forward: Any
    with_offsets: Any
    grad_input: Any
    gather: Any
    indices: Any


def _family(name: str) -> Family:
    suffixes = ("", "_with_offsets", "_grad_input", "_gather", "_indices")
    return Family(*(getattr(ops, name + suffix).default for suffix in suffixes))


_FAMILIES = {False: _family("max_pool2d"), True: _family("adaptive_max_pool2d")}


@dataclass(slots=True)
class Routing:
    """The linear map that saved offsets fix: gather reads each window's tap, its transpose routes values there."""

    adaptive: bool
    input_size: Sequence[Int]
    window: tuple[Any, ...]  # kernel_size, stride, padding, dilation, ceil_mode; or output_size of adaptive windows
    memory_format: torch.memory_format  # of the input
    options: dict[str, Any]  # algorithm, where it is not the default

    @property
    def known_window(self) -> tuple[Any, ...]:
        """What an operator that gets the offsets has to be told of the windows."""
        return () if self.adaptive else self.window

    def __call__(self, tensor: torch.Tensor, offsets: torch.Tensor | None, transposed: bool) -> torch.Tensor:
        family = _FAMILIES[self.adaptive]
        if transposed:
            return family.grad_input(
                tensor,
                offsets,
                self.input_size,
                *self.known_window,
                memory_format=self.memory_format,
                **self.options,
            )
        return family.gather(tensor, offsets, *self.known_window, **self.options)


class MaxPool(dispatch.Function):
    """Values and window offsets. Only the offsets are saved: one byte an output."""

    @staticmethod
    def forward(input: torch.Tensor, routing: Routing) -> tuple[torch.Tensor, torch.Tensor]:
        with below_autograd():
            return _FAMILIES[routing.adaptive].with_offsets(input, *routing.window, **routing.options)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[torch.Tensor, torch.Tensor]) -> None:
        ctx.routing = inputs[1]
        _, offsets = output
        ctx.mark_non_differentiable(offsets)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(offsets)
        ctx.save_for_forward(offsets)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor | None, _: None) -> tuple[Any, ...]:
        (offsets,) = ctx.saved_tensors
        return None if grad is None else LinearMap.call(grad, offsets, True, ctx.routing), None

    @staticmethod
    def jvp(ctx: Any, tangent: torch.Tensor, _: None) -> tuple[torch.Tensor, None]:
        (offsets,) = MaxPool.primals(ctx)
        return LinearMap.call(tangent, offsets, False, ctx.routing), None

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[Any, ...], input: torch.Tensor, routing: Routing
    ) -> tuple[tuple[torch.Tensor, ...], tuple[int, int]]:
        rank = dispatch.sample_rank(input, in_dims[0])
        results = MaxPool.call(dispatch.fold_into_batch(input, in_dims[0], info.batch_size), routing)
        return tuple(dispatch.unfold_from_batch(t, info.batch_size, rank) for t in results), (0, 0)


@dispatch.public
def max_pool2d(
    input: torch.Tensor,
    kernel_size: Pair,
    stride: Pair | None = None,
    padding: Padding = 0,
    dilation: Pair = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
    *,
    algorithm: str = "auto",
) -> Any:
    r"""Maximum over sliding windows; a drop-in for :func:`torch.nn.functional.max_pool2d`.

    .. math:: y_{n,c,p,q} = \max_{r,s} x_{n,\,c,\;p s_h + r d_h - t,\;q s_w + s d_w - l}

    over the taps inside the image. The gradient goes to the tap that was picked: the first maximum in row-major order;
    a NaN beats every number and the last NaN beats earlier ones, as in torch; a window of -inf picks its first tap.

    Args:
        input: ``(N, C, H, W)`` or ``(C, H, W)``; float32, float64, bfloat16, float16, or (without gradient) an integer
            dtype of 8 to 64 bits; any strides. The output keeps its memory format.
        kernel_size: positive int or (height, width).
        stride: positive int or (height, width); ``None`` or empty means ``kernel_size``.
        padding: int, pair, ``((top, bottom), (left, right))`` or a mode as for :func:`torch_convops.conv2d`; at most
            half of the window's extent ``dilation * (kernel_size - 1) + 1`` on each side.
        dilation: positive int or (height, width).
        ceil_mode: round the output size up; a window that would start beyond the image and its upper-left padding is
            dropped.
        return_indices: also return the int64 index ``h * W + w`` of each maximum in its plane.
        algorithm: ``"auto"`` or a name from ``torch_convops.algorithms("max_pool2d", device)``.

    Returns:
        ``(N, C, P, Q)`` or ``(C, P, Q)``; with ``return_indices`` a tuple of that and the indices.

    Raises:
        ValueError: an argument's value breaks a rule above; the message names argument, value and rule.
        TypeError: an argument is of the wrong type.
    """
    if not isinstance(return_indices, int):
        raise TypeError(f"max_pool2d: return_indices must be a bool, got {return_indices!r}")
    kernel, spacing = geometry.pair("kernel_size", kernel_size), geometry.pair("dilation", dilation)
    steps = geometry.pool_stride(stride, kernel)
    pads = geometry.sides(padding, input.shape, kernel, steps, spacing)
    window = dispatch.given((kernel, steps, pads, spacing, ceil_mode), (kernel, dispatch.NO_PADDING, (1, 1), False))
    return _pool(False, input, window, return_indices, algorithm)


@dispatch.public
def adaptive_max_pool2d(
    input: torch.Tensor, output_size: AdaptiveSize, return_indices: bool = False, *, algorithm: str = "auto"
) -> Any:
    r"""Maximum over ``output_size`` windows; a drop-in for :func:`torch.nn.functional.adaptive_max_pool2d`.

    Window (p, q) of (P, Q) holds the rows from :math:`\lfloor p H / P \rfloor` up to, not including,
    :math:`\lceil (p + 1) H / P \rceil`; so for the columns. Windows overlap where P does not divide H. Which maximum is
    picked, and where its gradient goes, is as for :func:`max_pool2d`.

    Args:
        input: as for :func:`max_pool2d`.
        output_size: non-negative int, (height, width), or None for a side as large as the input's.
        return_indices: also return the int64 index ``h * W + w`` of each maximum in its plane.
        algorithm: ``"auto"`` or a name from ``torch_convops.algorithms("max_pool2d", device)``.

    Returns:
        ``(N, C, P, Q)`` or ``(C, P, Q)``; with ``return_indices`` a tuple of that and the indices.

    Raises:
        ValueError: an argument's value breaks a rule above; the message names argument, value and rule.
        TypeError: an argument is of the wrong type.
    """
    window = (geometry.adaptive_output_size(output_size, input.shape),)
    return _pool(True, input, window, return_indices, algorithm)


def _pool(adaptive: bool, input: torch.Tensor, window: tuple[Any, ...], return_indices: bool, algorithm: str) -> Any:
    family, options = _FAMILIES[adaptive], dispatch.algorithm_option(algorithm)
    if dispatch.is_traced():
        if not return_indices and not input.requires_grad:
            return family.forward(input, *window, **options)
        output, offsets = family.with_offsets(input, *window, **options)
    elif dispatch.is_plain(input):
        with below_autograd():
            if not return_indices:
                return family.forward(input, *window, **options)
            output, offsets = family.with_offsets(input, *window, **options)
    else:
        output, offsets = _with_offsets(adaptive, input, window, options)
    if not return_indices:
        return output
    known = () if adaptive else window
    return output, family.indices(offsets, input.shape[-2:], *known, **options)


def max_pool2d_choice(
    pass_: str,
    input: torch.Tensor,
    kernel_size: Pair,
    stride: Pair | None = None,
    padding: Padding = 0,
    dilation: Pair = 1,
    ceil_mode: bool = False,
) -> str:
    """Returns the algorithm that ``"auto"`` takes for a pass of this pooling.

    Args:
        pass_: ``"forward"``, ``"forward_with_offsets"`` (for a gradient or indices) or ``"grad_input"``.
        input, ...: as for :func:`max_pool2d`; only shape, dtype, device and memory format of the input are looked at.
    """
    kernel, spacing = geometry.pair("kernel_size", kernel_size), geometry.pair("dilation", dilation)
    steps = geometry.pool_stride(stride, kernel)
    pads = geometry.sides(padding, input.shape, kernel, steps, spacing)
    index = geometry.index_of("pass_", pass_, ("forward", "forward_with_offsets", "grad_input"))
    return dispatch.pool2d_choice("max_pool2d", index, input, (kernel, steps, pads, spacing), ceil_mode)


def _with_offsets(
    adaptive: bool, input: torch.Tensor, window: tuple[Any, ...], options: dict[str, Any]
) -> tuple[torch.Tensor, torch.Tensor]:
    memory_format = dispatch.memory_format(dispatch.is_channels_last(input))
    output, offsets = MaxPool.call(input, Routing(adaptive, input.shape[-2:], window, memory_format, options))
    return output, offsets


# --- registration: what torch.ops.torch_convops.* does under autograd and fake tensors, once for both families ---


def _register(name: str, adaptive: bool) -> None:
    family = _FAMILIES[adaptive]

    def window(a: Arguments) -> tuple[Any, ...]:
        return (a.output_size,) if adaptive else (a.kernel_size, a.stride, a.padding, a.dilation, a.ceil_mode)

    def routing(a: Arguments, input_size: Sequence[Int], like: torch.Tensor, wanted: Any = None) -> Routing:
        memory_format = wanted or dispatch.memory_format(dispatch.is_channels_last(like))
        return Routing(
            adaptive, input_size, () if adaptive else window(a), memory_format, dispatch.algorithm_option(a.algorithm)
        )

    def forward(a: Arguments) -> torch.Tensor:
        if dispatch.is_plain(a.input):
            with below_autograd():
                return family.forward(a.input, *window(a), algorithm=a.algorithm)
        return _with_offsets(adaptive, a.input, window(a), dispatch.algorithm_option(a.algorithm))[0]

    def with_offsets(a: Arguments) -> tuple[torch.Tensor, torch.Tensor]:
        return _with_offsets(adaptive, a.input, window(a), dispatch.algorithm_option(a.algorithm))

    def grad_input(a: Arguments) -> torch.Tensor:
        return LinearMap.call(a.grad_output, a.offsets, True, routing(a, a.input_size, a.grad_output, a.memory_format))

    def gather(a: Arguments) -> torch.Tensor:
        return LinearMap.call(a.input, a.offsets, False, routing(a, a.input.shape[-2:], a.input))

    dispatch.register_autograd(name, forward)
    dispatch.register_autograd(f"{name}_with_offsets", with_offsets)
    dispatch.register_autograd(f"{name}_grad_input", grad_input)
    dispatch.register_autograd(f"{name}_gather", gather)

    def output_size(op: str, a: Arguments, input_size: Sequence[Int], pooled: Sequence[Int] = ()) -> tuple[Int, ...]:
        """The size of the output; the operators that get offsets of adaptive windows see it by them."""
        if not adaptive:
            return geometry.pool2d_size(op, input_size, *window(a))
        return geometry.adaptive_pool2d_size(op, input_size, pooled[-2:] if pooled else a.output_size)

    def offset_dtype(op: str, a: Arguments, input_size: Sequence[Int], size: Sequence[Int]) -> tuple[torch.dtype, Int]:
        if adaptive:
            height, width = map(geometry.adaptive_kernel, input_size[-2:], size[-2:])
        else:
            height, width = geometry.expand(op, "kernel_size", a.kernel_size)
        return torch.uint8 if height * width <= 256 else torch.int32, height * width

    def check_offsets(op: str, a: Arguments, input_size: Sequence[Int], size: Sequence[Int]) -> None:
        expected, taps = offset_dtype(op, a, input_size, size)
        if a.offsets.dtype != expected:
            raise TypeError(
                f"{op}: offsets must be {dispatch.dtype_name(expected)} for a window of {taps} taps, "
                f"got {dispatch.dtype_name(a.offsets.dtype)}"
            )
        geometry.check_size(op, "offsets", geometry.image_size(op, "offsets", a.offsets), size)

    def forward_fake(a: Arguments) -> torch.Tensor:
        dispatch.check_dtype(name, "input", a.input, integers=True)
        size = output_size(name, a, geometry.image_size(name, "input", a.input))
        return dispatch.empty_image(a.input, size, dispatch.is_channels_last(a.input))

    def with_offsets_fake(a: Arguments) -> tuple[torch.Tensor, torch.Tensor]:
        output = forward_fake(a)
        size = geometry.image_size(name, "output", output)
        dtype, _ = offset_dtype(name, a, a.input.shape, size)
        return output, dispatch.empty_image(a.input, size, dispatch.is_channels_last(a.input), dtype)

    def grad_input_fake(a: Arguments) -> torch.Tensor:
        op = f"{name}_grad_input"
        dispatch.check_dtype(op, "grad_output", a.grad_output)
        grad_size = geometry.image_size(op, "grad_output", a.grad_output)
        size = (*grad_size[:2], *geometry.expand(op, "input_size", a.input_size))
        pooled = output_size(op, a, size, grad_size)
        geometry.check_size(op, "grad_output", grad_size, pooled)
        check_offsets(op, a, size, pooled)
        return dispatch.empty_image(a.grad_output, size, dispatch.wants_channels_last(a.grad_output, a.memory_format))

    def gather_fake(a: Arguments) -> torch.Tensor:
        op = f"{name}_gather"
        dispatch.check_dtype(op, "input", a.input)
        input_size = geometry.image_size(op, "input", a.input)
        pooled = geometry.image_size(op, "offsets", a.offsets) if adaptive else ()
        size = output_size(op, a, input_size, pooled)
        check_offsets(op, a, input_size, size)
        return dispatch.empty_image(a.input, size, dispatch.is_channels_last(a.input))

    def indices_fake(a: Arguments) -> torch.Tensor:
        op = f"{name}_indices"
        offsets_size = geometry.image_size(op, "offsets", a.offsets)
        input_size = (*offsets_size[:2], *geometry.expand(op, "input_size", a.input_size))
        size = output_size(op, a, input_size, offsets_size)
        check_offsets(op, a, input_size, size)
        return dispatch.empty_image(a.offsets, size, dispatch.is_channels_last(a.offsets), torch.int64)

    dispatch.register_fake(name)(forward_fake)
    dispatch.register_fake(f"{name}_with_offsets")(with_offsets_fake)
    dispatch.register_fake(f"{name}_grad_input")(grad_input_fake)
    dispatch.register_fake(f"{name}_gather")(gather_fake)
    dispatch.register_fake(f"{name}_indices")(indices_fake)


_register("max_pool2d", False)
_register("adaptive_max_pool2d", True)
