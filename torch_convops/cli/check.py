"""``convops check``: every operator, mode, memory format and algorithm against torch, on this machine."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import click
import torch
import torch.nn.functional as F
from rich import box
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch.autograd import gradcheck, gradgradcheck

from .. import (
    _library,
    adaptive_avg_pool2d,
    adaptive_max_pool2d,
    algorithms,
    avg_pool2d,
    binomial_filter,
    blur_pool2d,
    build_info,
    conv2d,
    conv_transpose2d,
    convolve2d,
    correlate2d,
    global_avg_pool2d,
    global_max_pool2d,
    lp_pool2d,
    max_pool2d,
    max_unpool2d,
    reference,
)
from .._library import OPERATORS
from ..bench.measure import UNSUPPORTED, relative_error, tolerance
from ._tables import make_console, print_table
from .info import NO_DEVICE

FORMATS = ("nchw", "channels_last", "strided")  # strided: every second value of a larger tensor
OK, NOT_APPLICABLE = "ok", "n/a"

ops: Any = torch.ops.torch_convops
Tensors = tuple[torch.Tensor, ...]
Sides = tuple[int, int, int, int]  # top, bottom, left, right
# From leaves, gradient of the output and algorithm: the output, or the gradient of one leaf.
Pass = Callable[[Tensors, torch.Tensor, str], Any]


@dataclass(frozen=True)
class Case:
    """One operator in one mode, on tensors small enough to differentiate numerically."""

    operator: str
    name: str
    shapes: tuple[tuple[int, ...], ...]  # of the leaves: input, weight, bias
    function: Callable[..., torch.Tensor]  # ours, of leaves and algorithm
    reference: Callable[..., torch.Tensor]  # torch's, of leaves
    passes: tuple[Pass, ...]  # output, then each leaf's gradient

    @property
    def family(self) -> str:
        """The operator whose algorithms this one has."""
        return self.operator.removeprefix("adaptive_")

    @property
    def formats(self) -> tuple[str, ...]:
        return FORMATS if len(self.shapes[0]) == 4 else ("nchw", "strided")

    def leaves(self, format_: str, dtype: torch.dtype, device: str) -> Tensors:
        """Shuffled evenly spaced values: no two in a window are so close that a small step changes the maximum."""
        generator = torch.Generator().manual_seed(0)

        def values(shape: tuple[int, ...]) -> torch.Tensor:
            numel = math.prod(shape)
            shuffled = torch.randperm(numel, generator=generator).double().add_(0.5).div_(numel).mul_(4).sub_(2)
            tensor = shuffled.view(shape).to(device, dtype)
            if format_ == "strided":
                return torch.stack([tensor, tensor.neg()], -1)[..., 0]
            channels_last = format_ == "channels_last" and tensor.dim() == 4
            return tensor.contiguous(memory_format=torch.channels_last if channels_last else torch.contiguous_format)

        return tuple(values(shape) for shape in self.shapes)


@dataclass(frozen=True)
class Verdict:
    """What was found. An outcome is ``"ok"``, ``"n/a"`` or what went wrong; value_error is None where that is so."""

    operator: str
    case: str
    algorithm: str
    device: str
    format: str = "any"
    dtype: str = "any"
    value_error: float | None = None
    value: str = NOT_APPLICABLE
    gradcheck: str = NOT_APPLICABLE
    gradgradcheck: str = NOT_APPLICABLE
    forward_mode: str = NOT_APPLICABLE

    @property
    def outcomes(self) -> tuple[str, ...]:
        return self.value, self.gradcheck, self.gradgradcheck, self.forward_mode

    @property
    def applies(self) -> bool:
        return self.value != NOT_APPLICABLE

    @property
    def failed(self) -> bool:
        return any(outcome not in (OK, NOT_APPLICABLE) for outcome in self.outcomes)


# --- the cases ---


def _pair(value: Any) -> tuple[int, int]:
    """The operators of torch.ops take lists where the public functions take an int too."""
    return (value, value) if isinstance(value, int) else value


def _format_of(tensor: torch.Tensor) -> torch.memory_format:
    channels_last = tensor.dim() == 4 and tensor.is_contiguous(memory_format=torch.channels_last)
    return torch.channels_last if channels_last else torch.contiguous_format


def _padded(image: torch.Tensor, sides: Sides, value: float = 0.0, padding_mode: str = "zeros") -> torch.Tensor:
    top, bottom, left, right = sides
    if padding_mode == "zeros":
        return F.pad(image, (left, right, top, bottom), value=value)
    return reference.padded(image, sides, padding_mode)


def _conv2d(
    name: str, image: tuple[int, ...], weight: tuple[int, ...], padding: Any = 0, sides: Sides = (0, 0, 0, 0),
    *, bias: bool = False, stride: Any = 1, dilation: Any = 1, groups: int = 1, padding_mode: str = "zeros",
) -> Case:  # fmt: skip
    """sides is what padding has to mean."""
    window = (_pair(stride), list(sides), _pair(dilation), groups)

    def options(leaves: Tensors, algorithm: str) -> dict[str, Any]:
        tf32 = leaves[0].is_cuda and torch.backends.cudnn.allow_tf32
        return {"algorithm": algorithm, "allow_tf32": tf32, "padding_mode": padding_mode}

    def forward(leaves: Tensors, grad: torch.Tensor, algorithm: str) -> Any:
        return ops.conv2d(leaves[0], leaves[1], leaves[2] if bias else None, *window, **options(leaves, algorithm))

    def grad_input(leaves: Tensors, grad: torch.Tensor, algorithm: str) -> Any:
        if algorithm == "fold" and padding_mode != "zeros":
            algorithm = "auto"  # it follows any other where there is a border, and cannot be asked for
        return ops.conv2d_grad_input(
            grad, leaves[1], leaves[0].shape[-2:], *window,
            memory_format=_format_of(leaves[0]), **options(leaves, algorithm),
        )  # fmt: skip

    def grad_weight(leaves: Tensors, grad: torch.Tensor, algorithm: str) -> Any:
        return ops.conv2d_grad_weight(grad, leaves[0], leaves[1].shape[-2:], *window, **options(leaves, algorithm))

    return Case(
        "conv2d",
        name,
        (image, weight, weight[:1]) if bias else (image, weight),
        lambda image, weight, bias=None, *, algorithm: conv2d(
            image, weight, bias, stride, padding, dilation, groups, padding_mode, algorithm=algorithm
        ),
        lambda image, weight, bias=None: F.conv2d(
            _padded(image, sides, padding_mode=padding_mode), weight, bias, stride, 0, dilation, groups
        ),
        (forward, grad_input, grad_weight, _grad_bias) if bias else (forward, grad_input, grad_weight),
    )


def _conv_transpose2d(name: str, image: tuple[int, ...], weight: tuple[int, ...], **window: Any) -> Case:
    def forward(leaves: Tensors, grad: torch.Tensor, algorithm: str) -> Any:
        return ops.conv_transpose2d(
            *leaves, **{key: value if key == "groups" else _pair(value) for key, value in window.items()}
        )

    return Case(
        "conv_transpose2d",
        name,
        (image, weight, (weight[1] * window.get("groups", 1),)),
        lambda image, weight, bias, algorithm: conv_transpose2d(image, weight, bias, **window),
        lambda image, weight, bias: F.conv_transpose2d(image, weight, bias, **window),
        (forward, *_gradients(forward, 3)),
    )


def _convolve2d(function: Callable[..., torch.Tensor], mode: str, boundary: str, kernel: tuple[int, int]) -> Case:
    """One image and one kernel, as the correlation of a padded image."""
    convolution, border = function is convolve2d, {"fill": "zeros", "wrap": "circular", "symm": "symmetric"}[boundary]
    sides: list[int] = []
    for k in kernel:
        less, more = (k - 1) // 2, k // 2
        same = (more, less) if convolution else (less, more)
        sides += {"full": (k - 1, k - 1), "same": same, "valid": (0, 0)}[mode]

    def forward(leaves: Tensors, grad: torch.Tensor, algorithm: str) -> Any:
        return function(*leaves, mode, boundary)

    def reference(image: torch.Tensor, window: torch.Tensor) -> torch.Tensor:
        window = window.flip(0, 1) if convolution else window
        top, bottom, left, right = sides
        padded = _padded(image, (top, bottom, left, right), padding_mode=border)
        return F.conv2d(padded[None, None], window[None, None])[0, 0]

    return Case(
        function.__name__,
        f"{mode}, {boundary}",
        ((4, 5), kernel),
        lambda image, window, algorithm: function(image, window, mode, boundary),
        reference,
        (forward, *_gradients(forward, 2)),
    )


def _gradients(forward: Pass, count: int) -> tuple[Pass, ...]:
    """The gradient of each leaf, for an operator that is composed of others."""

    def gradient(leaves: Tensors, grad: torch.Tensor, algorithm: str, index: int) -> Any:
        leaves = tuple(leaf.detach().requires_grad_() for leaf in leaves)
        return torch.autograd.grad(forward(leaves, grad, algorithm), leaves[index], grad)[0]

    return tuple(partial(gradient, index=index) for index in range(count))


def _grad_bias(leaves: Tensors, grad: torch.Tensor, algorithm: str) -> Any:
    """The one pass whose algorithm cannot be asked for."""
    sizes = [*grad.shape, *grad.shape[1:2], 1, 1, 1, 1, 0, 0, 0, 0, 1, 1, 1, 0]
    if algorithm != _library.conv2d_choice(grad.is_cuda, 3, 0, sizes, (False, False), False):
        raise RuntimeError(UNSUPPORTED)
    return ops.conv2d_grad_bias(grad)


def _max_pool2d(
    name: str, image: tuple[int, ...], kernel: Any, stride: Any, padding: Any = 0, sides: Sides = (0, 0, 0, 0),
    *, dilation: Any = 1, ceil_mode: bool = False,
) -> Case:  # fmt: skip
    window = (_pair(kernel), _pair(stride), list(sides), _pair(dilation), ceil_mode)

    def forward(leaves: Tensors, grad: torch.Tensor, algorithm: str) -> Any:
        return ops.max_pool2d(leaves[0], *window, algorithm=algorithm)

    def grad_input(leaves: Tensors, grad: torch.Tensor, algorithm: str) -> Any:
        _, offsets = ops.max_pool2d_with_offsets(leaves[0], *window)
        return ops.max_pool2d_grad_input(
            grad, offsets, leaves[0].shape[-2:], *window, memory_format=_format_of(leaves[0]), algorithm=algorithm
        )

    return Case(
        "max_pool2d",
        name,
        (image,),
        lambda image, algorithm: max_pool2d(image, kernel, stride, padding, dilation, ceil_mode, algorithm=algorithm),
        lambda image: F.max_pool2d(_padded(image, sides, -math.inf), kernel, stride, 0, dilation, ceil_mode),
        (forward, grad_input),
    )


def _avg_pool2d(
    name: str, image: tuple[int, ...], kernel: Any, stride: Any, padding: Any = 0, sides: Sides | None = None,
    **options: Any,
) -> Case:  # fmt: skip
    """sides where torch has to be told about padding by a padded image."""
    window = (_pair(kernel), _pair(stride), _pair(padding) if sides is None else list(sides))
    listed = {name: _pair(value) if name == "dilation" else value for name, value in options.items()}

    def forward(leaves: Tensors, grad: torch.Tensor, algorithm: str) -> Any:
        return ops.avg_pool2d(leaves[0], *window, **listed, algorithm=algorithm)

    def grad_input(leaves: Tensors, grad: torch.Tensor, algorithm: str) -> Any:
        return ops.avg_pool2d_grad_input(
            grad, leaves[0].shape[-2:], *window, **listed, memory_format=_format_of(leaves[0]), algorithm=algorithm
        )

    def reference(image: torch.Tensor) -> torch.Tensor:
        if sides is None:
            return F.avg_pool2d(image, kernel, stride, padding, **options)
        if "dilation" not in options:
            return F.avg_pool2d(_padded(image, sides), kernel, stride, **options)
        C, taps = image.shape[1], math.prod(_pair(kernel))
        mean = torch.full((C, 1, *_pair(kernel)), 1 / taps, dtype=image.dtype, device=image.device)
        return F.conv2d(_padded(image, sides), mean, None, stride, 0, options["dilation"], C)

    return Case(
        "avg_pool2d",
        name,
        (image,),
        lambda image, algorithm: avg_pool2d(image, kernel, stride, padding, **options, algorithm=algorithm),
        reference,
        (forward, grad_input),
    )


def _adaptive_pool2d(function: Callable[..., Any], name: str, image: tuple[int, ...], size: tuple[int, int]) -> Case:
    operator = function.__name__
    torchs = getattr(F, operator)

    def forward(leaves: Tensors, grad: torch.Tensor, algorithm: str) -> Any:
        return getattr(ops, operator)(leaves[0], size, algorithm=algorithm)

    def grad_input(leaves: Tensors, grad: torch.Tensor, algorithm: str) -> Any:
        options = {"memory_format": _format_of(leaves[0]), "algorithm": algorithm}
        if operator == "adaptive_avg_pool2d":
            return ops.adaptive_avg_pool2d_grad_input(grad, leaves[0].shape[-2:], **options)
        _, offsets = ops.adaptive_max_pool2d_with_offsets(leaves[0], size)
        return ops.adaptive_max_pool2d_grad_input(grad, offsets, leaves[0].shape[-2:], **options)

    return Case(
        operator,
        name,
        (image,),
        lambda image, algorithm: function(image, size, algorithm=algorithm),
        lambda image: torchs(image, size),
        (forward, grad_input),
    )


def _max_unpool2d(name: str, image: tuple[int, ...], kernel: int) -> Case:
    """Every window's value goes to its first pixel."""

    def indices(values: torch.Tensor) -> torch.Tensor:
        P, Q = values.shape[-2:]
        rows = torch.arange(P, device=values.device)[:, None] * kernel * Q * kernel
        return (rows + torch.arange(Q, device=values.device) * kernel).expand(values.shape)

    def forward(leaves: Tensors, grad: torch.Tensor, algorithm: str) -> Any:
        size = [n * kernel for n in leaves[0].shape[-2:]]
        return ops.max_unpool2d(leaves[0], indices(leaves[0]), size, algorithm=algorithm)

    def grad_input(leaves: Tensors, grad: torch.Tensor, algorithm: str) -> Any:
        return ops.max_unpool2d_gather(grad, indices(leaves[0]), algorithm=algorithm)

    return Case(
        "max_unpool2d",
        name,
        (image,),
        lambda image, algorithm: max_unpool2d(image, indices(image), kernel, algorithm=algorithm),
        lambda image: F.max_unpool2d(image, indices(image), (kernel, kernel)),
        (forward, grad_input),
    )


def _composed(
    function: Callable[..., Any], name: str, torchs: Callable[..., Any], *arguments: Any, torch_arguments: Any = None
) -> Case:
    """An operator that is composed of others, which choose the algorithm. torch_arguments where torch's differ."""
    theirs = arguments if torch_arguments is None else torch_arguments

    def forward(leaves: Tensors, grad: torch.Tensor, algorithm: str) -> Any:
        return function(leaves[0], *arguments)

    return Case(
        function.__name__,
        name,
        ((2, 2, 4, 6),),
        lambda image, algorithm: function(image, *arguments),
        lambda image: torchs(image, *theirs),
        (forward, *_gradients(forward, 1)),
    )


def _blur(image: torch.Tensor) -> torch.Tensor:
    filter_ = binomial_filter(3).to(image).expand(image.shape[1], 1, 3, 3)
    return F.conv2d(F.pad(image, (1, 1, 1, 1), mode="reflect"), filter_, None, 2, groups=image.shape[1])


def cases() -> list[Case]:
    """Every operator in every mode."""
    return [
        _conv2d("valid", (2, 2, 5, 4), (3, 2, 3, 2), "valid"),
        _conv2d("same", (2, 2, 4, 5), (3, 2, 3, 2), "same", (1, 1, 0, 1)),
        _conv2d("same, strided", (1, 2, 5, 6), (2, 2, 3, 4), "same", (1, 1, 1, 1), stride=2),
        _conv2d("same_lower", (1, 2, 4, 5), (2, 2, 3, 2), "same_lower", (1, 1, 1, 0)),
        _conv2d("full", (1, 2, 3, 4), (2, 2, 3, 2), "full", (2, 2, 1, 1)),
        _conv2d("four sides", (1, 2, 4, 3), (2, 2, 3, 3), ((0, 2), (1, 3)), (0, 2, 1, 3)),
        _conv2d("bias", (2, 2, 4, 4), (3, 2, 3, 3), 1, (1, 1, 1, 1), bias=True),
        _conv2d("strided", (2, 2, 7, 6), (3, 2, 3, 3), 1, (1, 1, 1, 1), stride=(2, 3)),
        _conv2d("dilated", (1, 2, 6, 7), (2, 2, 2, 3), 2, (2, 2, 2, 2), dilation=(3, 2)),
        _conv2d("strided, dilated", (1, 2, 7, 7), (2, 2, 3, 3), 2, (2, 2, 2, 2), stride=2, dilation=2),
        _conv2d("1x1", (2, 3, 3, 3), (4, 3, 1, 1)),
        _conv2d("1x1, strided", (2, 3, 5, 4), (4, 3, 1, 1), stride=2),
        _conv2d("grouped", (1, 4, 4, 4), (6, 2, 3, 3), 1, (1, 1, 1, 1), groups=2),
        _conv2d("depthwise", (1, 3, 5, 5), (3, 1, 3, 3), 1, (1, 1, 1, 1), groups=3),
        _conv2d("depthwise, bias", (2, 2, 4, 4), (2, 1, 3, 3), 1, (1, 1, 1, 1), groups=2, bias=True),
        _conv2d("depthwise, strided", (1, 3, 7, 6), (3, 1, 3, 2), 1, (1, 1, 1, 1), groups=3, stride=2),
        _conv2d("depthwise, dilated", (1, 3, 6, 6), (3, 1, 3, 3), 2, (2, 2, 2, 2), groups=3, dilation=2),
        _conv2d("depthwise, 2 filters", (1, 2, 5, 4), (4, 1, 3, 3), "same", (1, 1, 1, 1), groups=2),
        _conv2d("unbatched", (2, 4, 5), (3, 2, 3, 3), 1, (1, 1, 1, 1)),
        *(
            _conv2d(
                f"{border}{', depthwise' if groups > 1 else ''}",
                (2, 3, 5, 4),
                (3, 3 // groups, 3, 3),
                ((2, 1), (1, 2)),
                (2, 1, 1, 2),
                stride=(1, 2),
                groups=groups,
                padding_mode=border,
            )
            for border in ("reflect", "replicate", "circular", "symmetric")
            for groups in (1, 3)
        ),
        _conv_transpose2d("plain", (2, 3, 3, 4), (3, 2, 3, 2)),
        _conv_transpose2d("strided", (1, 2, 3, 3), (2, 2, 3, 3), stride=2, padding=1, output_padding=1),
        _conv_transpose2d(
            "grouped, dilated", (1, 4, 3, 2), (4, 1, 2, 2), stride=2, dilation=3, output_padding=2, groups=2
        ),
        *(
            _convolve2d(function, mode, boundary, kernel)
            for function in (convolve2d, correlate2d)
            for mode, kernel in (("full", (3, 2)), ("same", (2, 3)), ("valid", (2, 2)))
            for boundary in ("fill", "wrap", "symm")
        ),
        _max_pool2d("2s2", (2, 2, 4, 6), 2, 2),
        _max_pool2d("3s2p1", (2, 2, 6, 5), 3, 2, 1, (1, 1, 1, 1)),
        _max_pool2d("3s1", (1, 2, 5, 5), 3, 1),
        _max_pool2d("dilated", (1, 2, 7, 6), (2, 3), 1, (1, 2), (1, 1, 2, 2), dilation=2),
        _max_pool2d("ceil_mode", (1, 2, 6, 7), 3, 2, ceil_mode=True),
        _max_pool2d("same", (1, 2, 5, 4), (3, 2), 1, "same", (1, 1, 0, 1)),
        _max_pool2d("four sides", (1, 2, 4, 5), 3, 2, ((0, 1), (1, 0)), (0, 1, 1, 0)),
        _max_pool2d("large", (1, 2, 7, 8), 7, 1, 3, (3, 3, 3, 3)),
        _max_pool2d("more than 256 taps", (1, 1, 18, 18), 17, 1),
        _max_pool2d("whole plane", (2, 2, 4, 3), (4, 3), 1),
        _max_pool2d("unbatched", (2, 4, 4), 2, 2),
        _avg_pool2d("2s2", (2, 2, 4, 6), 2, 2),
        _avg_pool2d("3s2p1", (2, 2, 6, 5), 3, 2, 1),
        _avg_pool2d("3s1p1, pad not counted", (1, 2, 5, 5), 3, 1, 1, count_include_pad=False),
        _avg_pool2d("ceil_mode", (1, 2, 6, 7), 3, 2, 1, ceil_mode=True),
        _avg_pool2d("divisor_override", (1, 2, 5, 5), 3, 2, divisor_override=-4),
        _avg_pool2d("same", (1, 2, 5, 4), (3, 2), 1, "same", (1, 1, 0, 1)),
        _avg_pool2d("four sides", (1, 2, 4, 5), 3, 2, ((0, 1), (1, 0)), (0, 1, 1, 0)),
        _avg_pool2d("whole plane", (2, 2, 4, 3), (4, 3), 1),
        _avg_pool2d("unbatched", (2, 4, 4), 2, 2),
        _avg_pool2d("large", (1, 2, 9, 10), 9, 1, 4),
        _avg_pool2d("four sides, dilated", (1, 2, 6, 7), (3, 2), 2, ((1, 2), (1, 0)), (1, 2, 1, 0), dilation=2),
        *(
            _adaptive_pool2d(function, name, image, size)
            for function in (adaptive_max_pool2d, adaptive_avg_pool2d)
            for name, image, size in (
                ("dividing", (2, 2, 4, 6), (2, 3)),
                ("overlapping", (1, 2, 5, 7), (3, 4)),
                ("larger", (1, 2, 2, 3), (3, 5)),
                ("unbatched", (2, 5, 4), (3, 2)),
            )
        ),
        _max_unpool2d("2s2", (2, 2, 3, 2), 2),
        _max_unpool2d("unbatched", (2, 2, 2), 3),
        _composed(global_max_pool2d, "whole plane", F.adaptive_max_pool2d, torch_arguments=(1,)),
        _composed(global_avg_pool2d, "whole plane", F.adaptive_avg_pool2d, torch_arguments=(1,)),
        _composed(lp_pool2d, "2s2", F.lp_pool2d, 2, 2),
        _composed(blur_pool2d, "3s2", _blur, 3, torch_arguments=()),
    ]


# --- checking ---


def check(case: Case, algorithm: str, device: str, quick: bool = False) -> list[Verdict]:
    """One verdict for each memory format, or one in all where the algorithm cannot do the case.

    Derivatives are checked where the algorithm has float64. Where not, its values are, in each dtype that it has.
    """
    template = Verdict(case.operator, case.name, algorithm, device)
    verdicts = []
    for format_ in case.formats:
        for dtype in (torch.float64, torch.float32, torch.float16, torch.bfloat16):
            verdict = replace(template, format=format_, dtype=str(dtype).removeprefix("torch."))
            with _one_thread() if quick else nullcontext():
                verdict = _check_values(case, verdict, dtype)
            if not verdict.applies:
                continue
            if dtype is not torch.float64:
                verdicts.append(verdict)
                continue
            verdicts.append(_check_derivatives(case, verdict, quick))
            break
    return verdicts or [template]


def _check_values(case: Case, verdict: Verdict, dtype: torch.dtype) -> Verdict:
    """Compares output and gradients, each asked of the algorithm by itself, with torch's in float64."""
    leaves = case.leaves(verdict.format, dtype, verdict.device)
    exact = [leaf.double().contiguous().requires_grad_() for leaf in leaves]
    output = case.reference(*exact)
    generator = torch.Generator().manual_seed(1)
    grad = torch.randn(output.shape, generator=generator).to(verdict.device, dtype)
    grad = grad.contiguous(
        memory_format=_format_of(leaves[0]) if verdict.format != "strided" else torch.contiguous_format
    )
    expected = (output.detach(), *torch.autograd.grad(output, exact, grad.double()))
    errors: list[float] = []
    for run, wanted in zip(case.passes, expected, strict=True):
        outcome = _outcome(
            lambda run=run, wanted=wanted: errors.append(  # type: ignore[misc]
                relative_error([run(leaves, grad, verdict.algorithm)], [wanted])
            )
        )
        if outcome not in (OK, NOT_APPLICABLE):
            return replace(verdict, value=outcome)
    if not errors:
        return verdict
    error, allowed = max(errors), tolerance(leaves[0])
    value = OK if error <= allowed else f"relative error {error:.1e}, over {allowed:.0e}"
    return replace(verdict, value=value, value_error=error)


def _check_derivatives(case: Case, verdict: Verdict, quick: bool) -> Verdict:
    leaves = tuple(leaf.requires_grad_() for leaf in case.leaves(verdict.format, torch.float64, verdict.device))

    def function(*leaves: torch.Tensor) -> torch.Tensor:
        return case.function(*leaves, algorithm=verdict.algorithm)

    # fast_mode compares one random direction in place of every entry of the Jacobian.
    with _one_thread(), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch's forward mode warns about its own imports
        return replace(
            verdict,
            gradcheck=_outcome(lambda: gradcheck(function, leaves, fast_mode=quick)),
            gradgradcheck=_outcome(lambda: gradgradcheck(function, leaves, fast_mode=True, check_fwd_over_rev=True)),
            forward_mode=_outcome(
                lambda: gradcheck(function, leaves, fast_mode=quick, check_forward_ad=True, check_backward_ad=False)
            ),
        )


@contextmanager
def _one_thread() -> Iterator[None]:
    """For thousands of calls on tiny tensors: on a busy machine, each would wait for its threads to be scheduled."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _outcome(check: Callable[[], object]) -> str:
    try:
        check()
    except Exception as error:  # whatever an operator raises here is a failure to report
        message = str(error)
        return NOT_APPLICABLE if UNSUPPORTED in message else f"{type(error).__name__}: {message.splitlines()[0]}"
    return OK


def check_all(device: str, quick: bool, progress: Callable[[list[Any]], Iterable[Any]] = iter) -> Iterator[Verdict]:
    """Every case with every algorithm; then a failed verdict for each algorithm that no case could use."""
    kind = torch.device(device).type
    names = {operator: algorithms(operator, kind) for operator in OPERATORS}
    jobs = [(case, algorithm) for case in cases() for algorithm in names.get(case.family, ["auto"])]
    exercised = set()
    for case, algorithm in progress(jobs):
        for verdict in check(case, algorithm, device, quick):
            if verdict.applies:
                exercised.add((case.family, algorithm))
            yield verdict
    for operator in OPERATORS:
        for algorithm in names[operator]:
            if (operator, algorithm) not in exercised:
                yield Verdict(operator, "all", algorithm, device, value="no case uses this algorithm")


# --- the command ---


@click.command()
@click.option("--device", type=click.Choice(["cpu", "cuda", "all"]), default="all", show_default=True)
@click.option("--quick", is_flag=True, help="One thread, and derivatives along one random direction.")
def command(device: str, quick: bool) -> None:
    """Check the operators against torch on this machine.

    Compares values and gradients with torch's in float64, and derivatives of first and second order, backward and
    forward, with finite differences: for every operator, mode, memory format and algorithm. Exits with 1 if one fails.
    """
    console = make_console()
    start = time.perf_counter()
    verdicts: list[Verdict] = []
    for name in _devices(device):

        def progress(jobs: list[Any], name: str = name) -> Iterable[Any]:
            return track(jobs, f"checking on {name}", console=Console(stderr=True), transient=True)

        verdicts += check_all(name, quick, progress)
    print_table(console, _table(verdicts))
    failures = [verdict for verdict in verdicts if verdict.failed]
    for verdict in failures:
        where = f"{verdict.operator}, {verdict.case}, {verdict.algorithm}, {verdict.device}, {verdict.format}"
        messages = dict.fromkeys(outcome for outcome in verdict.outcomes if outcome not in (OK, NOT_APPLICABLE))
        console.print(f"{where}: {'; '.join(messages)}", style="red", soft_wrap=True)
    passed = sum(verdict.applies and not verdict.failed for verdict in verdicts)
    not_applicable = len(verdicts) - passed - len(failures)
    console.print(
        f"{passed} passed, {len(failures)} failed, {not_applicable} not applicable "
        f"in {time.perf_counter() - start:.0f} s",
        style="red" if failures else "green",
    )
    if failures:
        raise click.exceptions.Exit(1)


def _devices(wanted: str) -> list[str]:
    in_library = bool(build_info().cuda_archs)
    count = torch.cuda.device_count() if in_library and torch.cuda.is_available() else 0
    if wanted == "cuda" and not count:
        reason = NO_DEVICE if in_library else f"the library has no CUDA ({build_info().no_cuda_reason})"
        raise click.UsageError(reason)
    cuda = [f"cuda:{index}" for index in range(count)]
    return {"cpu": ["cpu"], "cuda": cuda, "all": ["cpu", *cuda]}[wanted]


def _table(verdicts: list[Verdict]) -> Table:
    title = "Operators against torch.nn.functional in float64 and finite differences"
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
    for heading in ("operator", "case", "algorithm", "device", "format", "dtype"):
        table.add_column(heading)
    table.add_column("value error", justify="right")
    for heading in ("gradcheck", "gradgradcheck", "forward mode"):
        table.add_column(heading)
    for verdict in verdicts:
        error = "" if verdict.value_error is None else f"{verdict.value_error:.0e} "
        table.add_row(
            *(verdict.operator, verdict.case, verdict.algorithm, verdict.device, verdict.format, verdict.dtype),
            error + _word(verdict.value),
            *(_word(outcome) for outcome in verdict.outcomes[1:]),
            style="red" if verdict.failed else "" if verdict.applies else "dim",
        )
    return table


def _word(outcome: str) -> str:
    """A failure's message is printed below the table."""
    return outcome if outcome in (OK, NOT_APPLICABLE) else "FAILED"
