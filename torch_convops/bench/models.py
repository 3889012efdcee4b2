"""Whole models of torchvision, as they are and converted: inference and steps of training."""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch.utils import _pytree as pytree

from .._convert import convert
from .measure import TOLERANCE, WrongResultError, compile_whole, compiled_calls, relative_error
from .passes import Results
from .rows import FORMATS
from .timing import Call, best_algorithms_of_torch, interleaved_times, timer

MODELS = ("resnet18", "resnet50", "mobilenet_v3_large", "convnext_tiny", "googlenet", "efficientnet_b0")
PASSES = ("forward", "training")
CLASSES = 1000
DEPTH = 10  # how many times as far as a layer's results those of a model may be apart: differences grow on the way


@dataclass(frozen=True)
class ModelMeasurement:
    """What one model takes. Times are medians; ratio is the stock model's time over the converted one's.

    Attributes:
        pass_: ``"forward"`` is inference; ``"training"`` a step: forward, backward, SGD with momentum.
        layers: how many were swapped.
        error: largest difference of the outputs, relative to the largest output, in evaluation mode.
        compile_ms, compile_ratio, compile_error: of the stock model under ``torch.compile``, as in
            :class:`Measurement`.
    """

    family: ClassVar[str] = "model"

    row: str
    N: int
    image_size: int
    format: str
    pass_: str
    dtype: str
    device: str
    layers: int
    ours_ms: float
    torch_ms: float
    ratio: float
    pairs: int
    error: float
    compile_ms: float | None = None
    compile_ratio: float | None = None
    compile_error: str | None = None


def measure_model(
    name: str,
    pass_: str = "forward",
    *,
    batch: int,
    image_size: int,
    format: str = "nchw",
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
    seconds: float = 2.0,
    repeats: int | None = None,
    compiled: bool = False,
) -> ModelMeasurement:
    """Checks and times a model of torchvision with random weights against itself, converted.

    The outputs are compared in evaluation mode, in float32 without TF32 (in float64 for that dtype): over many layers
    half types would agree with nothing. Then the two take turns.

    Args:
        name: as torchvision has it; its layers' functions are not replaced, only its layers.
        pass_: ``"forward"`` or ``"training"``.
        batch, image_size: of the input ``(batch, 3, image_size, image_size)``.
        dtype: of everything for float32 and float64; of autocast for bfloat16 and float16.
        format, device, seconds, repeats, compiled: as for :func:`measure`.

    Raises:
        WrongResultError: the outputs differ.
    """
    if pass_ not in PASSES:
        raise ValueError(f"pass_ must be one of {', '.join(map(repr, PASSES))}, got {pass_!r}")
    wide = dtype if dtype is torch.float64 else torch.float32
    placed: Any = {"device": device, "dtype": wide, "memory_format": FORMATS[format]}
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(batch, 3, image_size, image_size, generator=generator).to(**placed)
    labels = torch.randint(CLASSES, (batch,), generator=generator).to(device)
    stock = _build(name).to(**placed)
    calibrate(stock, (images,))
    converted = copy.deepcopy(stock)
    layers = len(convert(converted).converted)
    error = _check(name, converted, stock, images)

    def call(model: torch.nn.Module, run: Callable[..., Any] | None = None) -> Callable[[], Results]:
        precision = torch.autocast(device, dtype, enabled=dtype is not wide)
        step = _inference if pass_ == "forward" else _training
        return step(model, model if run is None else run, images, labels, precision)

    with best_algorithms_of_torch(device):
        compiled_peers: list[Call] = []
        compile_error = None
        if compiled:
            twin = copy.deepcopy(stock)  # the weights of a model that is trained change
            # A step of training draws random numbers, for dropout, and half types would agree with nothing.
            expected = call(stock)() if pass_ == "forward" and dtype is wide else None
            compiled_peers, compile_error = compiled_calls(
                lambda: call(twin, compile_whole(twin)), expected, DEPTH * TOLERANCE[wide]
            )
        times = interleaved_times(timer(device), [call(converted), call(stock), *compiled_peers], seconds, repeats)
    return ModelMeasurement(
        row=name,
        N=batch,
        image_size=image_size,
        format=format,
        pass_=pass_,
        dtype=str(dtype).removeprefix("torch."),
        device=device,
        layers=layers,
        ours_ms=times.median(0) * 1e3,
        torch_ms=times.median(1) * 1e3,
        ratio=times.ratio(1),
        pairs=len(times.rounds),
        error=error,
        compile_ms=times.median(2) * 1e3 if compiled_peers else None,
        compile_ratio=times.ratio(2) if compiled_peers else None,
        compile_error=compile_error,
    )


def calibrate(model: torch.nn.Module, inputs: tuple[Any, ...]) -> None:
    """Fixes each batch norm at the statistics of these inputs: else what random weights make of pictures fades from
    layer to layer, until nothing of it is seen behind the last bias."""
    norms = [module for module in model.modules() if isinstance(module, torch.nn.modules.batchnorm._BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.train()
        norm.momentum = 1.0
    with torch.no_grad():
        model(*inputs)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.eval()
        norm.momentum = momentum


def _build(name: str) -> torch.nn.Module:
    import torchvision  # nothing else here needs it

    torch.manual_seed(0)
    options = {"init_weights": True} if name == "googlenet" else {}
    model: torch.nn.Module = torchvision.models.get_model(name, weights=None, num_classes=CLASSES, **options)
    return model.eval()


def _check(name: str, converted: torch.nn.Module, stock: torch.nn.Module, images: torch.Tensor) -> float:
    with torch.no_grad(), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        error = relative_error([converted(images)], [stock(images)])
    allowed = DEPTH * TOLERANCE[images.dtype]
    if error > allowed:
        raise WrongResultError(f"{name}, converted: the relative error is {error:.1e}, over {allowed:.0e}")
    return error


def _inference(
    model: torch.nn.Module,
    run: Callable[..., Any],
    images: torch.Tensor,
    labels: torch.Tensor,
    precision: AbstractContextManager[object],
) -> Callable[[], Results]:
    model.eval()

    def inference() -> Results:
        with torch.no_grad(), precision:
            return (run(images),)

    return inference


def _training(
    model: torch.nn.Module,
    run: Callable[..., Any],
    images: torch.Tensor,
    labels: torch.Tensor,
    precision: AbstractContextManager[object],
) -> Callable[[], Results]:
    model.train()
    # So slow that hundreds of steps change no weight by much.
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-5, momentum=0.9)

    def step() -> Results:
        optimizer.zero_grad()
        with precision:
            # googlenet has auxiliary outputs
            losses = [F.cross_entropy(output, labels) for output in pytree.tree_leaves(run(images))]
        loss = torch.stack(losses).sum()
        loss.backward()
        optimizer.step()
        return (loss.detach(),)

    return step
