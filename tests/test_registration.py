"""The operators as torch's dispatcher sees them: opcheck, fake tensors, compile, export, autocast and meta."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from conftest import FLOATS, assert_close, exact, is_channels_last, random

import torch_convops
from torch_convops import (
    adaptive_avg_pool2d,
    adaptive_max_pool2d,
    avg_pool2d,
    blur_pool2d,
    conv2d,
    conv_transpose2d,
    convolve2d,
    correlate2d,
    global_avg_pool2d,
    global_max_pool2d,
    lp_pool2d,
    max_pool2d,
    max_unpool2d,
)

ops = torch.ops.torch_convops
FORMATS = ("contiguous", "channels_last")

BORDERS = ("reflect", "replicate", "circular", "symmetric")
CONV_WINDOWS = [([1], [0], [1], 1), ([2, 1], [1, 2], [1, 2], 1), ([2], [1, 0, 2, 1], [1], 2)]
POOL_WINDOWS = [([2],), ([3, 2], [2, 1], [1, 1]), ([3], [2], [1, 0, 0, 1], [1], True), ([17, 16], [2], [8])]
AVG_WINDOWS = [([2],), ([3, 2], [2, 1], [1, 1], True, False), ([3], [2], [1, 0, 0, 1], False, True, 5)]
IMAGE = (2, 4, 12, 11)


def conv_samples(x: torch.Tensor) -> list[tuple[str, tuple[Any, ...], dict[str, Any]]]:
    samples: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = []
    for window in CONV_WINDOWS:
        w = random(6, 4 // window[-1], 3, 2, device=x.device.type, dtype=x.dtype)
        b = random(6, device=x.device.type, dtype=x.dtype)
        with torch.no_grad():
            dy = torch.randn_like(ops.conv2d(x, w, b, *window))
        for bias in (None, b):
            samples.append(("conv2d", (x, w, bias, *window), {}))
        samples.append(("conv2d_grad_input", (dy, w, [12, 11], *window), {}))
        samples.append(("conv2d_grad_weight", (dy, x, [3, 2], *window), {}))
        samples.append(("conv2d_grad_bias", (dy,), {}))
        for border in BORDERS:
            options = {"padding_mode": border}
            samples.append(("conv2d", (x, w, b, *window), options))
            samples.append(("conv2d_grad_input", (dy, w, [12, 11], *window, x.new_zeros(4)), options))
            samples.append(("conv2d_grad_weight", (dy, x, [3, 2], *window), options))
        stride, _, dilation, groups = window
        for mode in ("valid", "same", "same_lower", "full"):
            samples.append(("conv2d.padding", (x, w, b, stride, mode, dilation, groups), {"padding_mode": "replicate"}))
        v, c = (
            random(4, 3, 3, 2, device=x.device.type, dtype=x.dtype),
            random(3 * groups, device=x.device.type, dtype=x.dtype),
        )
        transposed = (x, v, c, stride, window[1], [0], groups, dilation)
        samples.append(("conv_transpose2d", transposed, {}))
        samples.append(("conv_transpose2d", (x, v, None, [2], [1], [1], groups), {}))
        samples.append(("conv_transpose2d", (x, v, c, [1, 2], [1, 0], [2, 1], groups, [3, 1]), {}))
        samples.append(("conv_transpose2d.padding", (x, v, c, stride, "same", [0], groups, dilation), {}))
        samples.append(("conv_transpose2d.padding", (x, v, c, [2], "full", [0], groups), {"output_size": [22, 21]}))
        for memory_format in (torch.contiguous_format, torch.channels_last, torch.preserve_format):
            options = {"memory_format": memory_format}
            samples.append(("conv2d_grad_input", (dy, w, [12, 11], *window), options))
            samples.append(("conv2d_grad_weight", (dy, x, [3, 2], *window), options))
    return samples


def pool_samples(x: torch.Tensor) -> list[tuple[str, tuple[Any, ...], dict[str, Any]]]:
    samples: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = []
    for window in POOL_WINDOWS:
        with torch.no_grad():
            y, offsets = ops.max_pool2d_with_offsets(x, *window)
        samples.append(("max_pool2d", (x, *window), {}))
        samples.append(("max_pool2d_with_offsets", (x, *window), {}))
        samples.append(("max_pool2d_gather", (x, offsets, *window), {}))
        samples.append(("max_pool2d_indices", (offsets, [12, 11], *window), {}))
        for options in ({}, {"memory_format": torch.contiguous_format}, {"memory_format": torch.channels_last}):
            samples.append(("max_pool2d_grad_input", (y, offsets, [12, 11], *window), options))
    for window in AVG_WINDOWS:
        with torch.no_grad():
            y = ops.avg_pool2d(x, *window)
        samples.append(("avg_pool2d", (x, *window), {}))
        for options in ({}, {"memory_format": torch.contiguous_format}, {"memory_format": torch.channels_last}):
            samples.append(("avg_pool2d_grad_input", (y, [12, 11], *window), options))
    dilated = {"dilation": [2, 1]}
    with torch.no_grad():
        y = ops.avg_pool2d(x, [3], [2], [2, 1], **dilated)
    samples.append(("avg_pool2d", (x, [3], [2], [2, 1]), dilated))
    samples.append(("avg_pool2d_grad_input", (y, [12, 11], [3], [2], [2, 1]), dilated))
    for size in ([5, 4], [3, 11], [1, 2], [0, 3], [16]):
        with torch.no_grad():
            y, offsets = ops.adaptive_max_pool2d_with_offsets(x, size)
            indices = ops.adaptive_max_pool2d_indices(offsets, [12, 11])
        samples.append(("adaptive_max_pool2d", (x, size), {}))
        samples.append(("adaptive_max_pool2d_with_offsets", (x, size), {}))
        samples.append(("adaptive_max_pool2d_gather", (x, offsets), {}))
        samples.append(("adaptive_max_pool2d_indices", (offsets, [12, 11]), {}))
        samples.append(("adaptive_avg_pool2d", (x, size), {}))
        for options in ({}, {"memory_format": torch.channels_last}):
            samples.append(("adaptive_max_pool2d_grad_input", (y, offsets, [12, 11]), options))
            samples.append(("adaptive_avg_pool2d_grad_input", (y, [12, 11]), options))
        if y.shape[-2:].numel():
            samples.append(("max_unpool2d", (y, indices, [12, 11]), {}))
            samples.append(("max_unpool2d", (y, indices, [13]), {"accumulate": True}))
            samples.append(("max_unpool2d_gather", (x, indices), {}))
    samples.append(("global_max_pool2d", (x,), {}))
    samples.append(("global_avg_pool2d", (x,), {}))
    samples.append(("lp_pool2d", (x, 2.0, [3, 2], [2]), {}))
    samples.append(("lp_pool2d", (x, float("inf"), [3]), {"padding": [1], "dilation": [2]}))
    filters = (random(*size, device=x.device.type, dtype=x.dtype) for size in ((3, 2), (4, 3, 3)))
    samples.extend(("blur_pool2d", (x, filter_), {"padding_mode": "replicate"}) for filter_ in filters)
    return samples


def samples(x: torch.Tensor) -> list[tuple[str, tuple[Any, ...], dict[str, Any]]]:
    return conv_samples(x) + pool_samples(x)


IMAGES = {
    "contiguous": (IMAGE, "contiguous"),
    "channels_last": (IMAGE, "channels_last"),
    "sliced": (IMAGE, "sliced"),
    "unbatched": (IMAGE[1:], "contiguous"),
    "empty": ((0, *IMAGE[1:]), "contiguous"),
}
OPERATORS = sorted({name for name, _, _ in samples(torch.zeros(IMAGE))})


def overload(name: str) -> Callable[..., Any]:
    packet, _, rest = name.partition(".")
    return getattr(getattr(ops, packet), rest or "default")


def test_every_registered_operator_has_samples() -> None:
    registered = {name for name in torch._C._dispatch_get_all_op_names() if name.startswith("torch_convops::")}
    assert {f"torch_convops::{name}" for name in OPERATORS} == registered


@pytest.mark.parametrize("requires_grad", [False, True])
@pytest.mark.parametrize("image", IMAGES)
@pytest.mark.parametrize("operator", OPERATORS)
def test_opcheck(device: str, operator: str, image: str, requires_grad: bool) -> None:
    size, layout = IMAGES[image]
    x = random(*size, device=device, layout=layout)
    tested = [sample for sample in samples(x) if sample[0] == operator]
    # opcheck traces each sample several times; one of each kind of call is enough.
    for _, arguments, options in tested[:: max(1, len(tested) // 3)]:
        arguments = tuple(
            a.detach().requires_grad_(requires_grad and a.is_floating_point()) if isinstance(a, torch.Tensor) else a
            for a in arguments
        )
        torch.library.opcheck(overload(operator), arguments, options)


@pytest.mark.parametrize("image", IMAGES)
def test_meta_equals_real(device: str, image: str) -> None:
    """Sizes, strides and dtypes of fake results, over every sample."""
    size, layout = IMAGES[image]
    for dtype in FLOATS:
        for name, arguments, options in samples(random(*size, dtype=dtype, device=device, layout=layout)):
            meta_arguments = (
                torch.empty_strided(a.shape, a.stride(), dtype=a.dtype, device="meta")
                if isinstance(a, torch.Tensor)
                else a
                for a in arguments
            )
            real, meta = overload(name)(*arguments, **options), overload(name)(*meta_arguments, **options)
            pairs = zip(real, meta, strict=True) if isinstance(real, tuple) else [(real, meta)]
            for r, m in pairs:
                assert (r.shape, r.stride(), r.dtype) == (m.shape, m.stride(), m.dtype), (name, arguments[-4:], options)


# --- torch.compile and torch.export ---


def network(x: torch.Tensor, w: torch.Tensor, v: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    x = conv2d(x, w, b, padding="same").relu()
    x = max_pool2d(x, 3, 2, 1)
    x = conv2d(x, v, stride=2, padding=((1, 0), (2, 1)), groups=x.shape[1])
    x = adaptive_avg_pool2d(x, (3, 4)) + adaptive_max_pool2d(blur_pool2d(x, 3, 1, "replicate"), (3, 4))
    return global_avg_pool2d(avg_pool2d(x, 2, 1)) + global_max_pool2d(x)


def parameters(device: str) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    w, v = random(4, 3, 3, 3, device=device, grad=True), random(4, 1, 3, 3, device=device, grad=True)
    return w, v, random(4, device=device, grad=True)


def run(function: Callable[..., torch.Tensor], *inputs: torch.Tensor) -> list[torch.Tensor]:
    y = function(*inputs)
    return [y.detach(), *torch.autograd.grad(y.square().sum(), [t for t in inputs if t.requires_grad])]


def assert_same(actual: list[torch.Tensor], expected: list[torch.Tensor]) -> None:
    for a, e in zip(actual, expected, strict=True):
        assert_close(a, exact(e))


@pytest.fixture
def fresh_dynamo() -> None:
    torch._dynamo.reset()


FUNCTIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "conv2d": lambda x: conv2d(x, x[:2, :, :3, :3].tanh(), stride=2, padding="same"),
    "max_pool2d": lambda x: max_pool2d(x, 3, 2, "same"),
    "max_pool2d_indices": lambda x: max_pool2d(x, 3, 2, 1, return_indices=True)[0],
    "avg_pool2d": lambda x: avg_pool2d(x, (2, 3), padding=1, ceil_mode=True),
    "global_avg_pool2d": global_avg_pool2d,
    "global_max_pool2d": global_max_pool2d,
    **{
        border: lambda x, border=border: conv2d(x, x[:2, :, :3, :3].tanh(), padding=2, padding_mode=border)
        for border in BORDERS
    },
    "conv_transpose2d": lambda x: conv_transpose2d(
        x, x[:1, :, :3, :3].transpose(0, 1), stride=2, padding=1, output_padding=1
    ),
    "conv_transpose2d_output_size": lambda x: conv_transpose2d(
        x, x[:1, :, :3, :3].transpose(0, 1), stride=3, padding="same", output_size=(35, 31)
    ),
    "conv_transpose2d_beyond": lambda x: conv_transpose2d(
        x, x[:1, :, :3, :3].transpose(0, 1), dilation=3, output_padding=2
    ),
    "convolve2d": lambda x: convolve2d(x[0], x[1, :, :3, :4], "same", "symm"),
    "correlate2d": lambda x: correlate2d(x[0, 0], x[1, :, :3, :4], "full", "fill", 2.0),
    "complex": lambda x: conv2d(
        torch.complex(x, x.cos()), torch.complex(x, x.sin())[..., :3, :3], padding="same"
    ).abs(),
    "adaptive_max_pool2d": lambda x: adaptive_max_pool2d(x, (5, 4)),
    "adaptive_avg_pool2d": lambda x: adaptive_avg_pool2d(x, (5, None)),
    "avg_pool2d_dilated": lambda x: avg_pool2d(x, 3, 2, 1, dilation=2),
    "lp_pool2d": lambda x: lp_pool2d(x, 2, 3, 2),
    "blur_pool2d": lambda x: blur_pool2d(x, 5),
    "max_unpool2d": lambda x: max_unpool2d(*max_pool2d(x, 3, return_indices=True), 3, output_size=(12, 11)),
    "operators": lambda x: ops.avg_pool2d(ops.max_pool2d(ops.conv2d(x, x[:2, :, :3, :3]), [2]), [2]),
}


@pytest.mark.parametrize("layout", FORMATS)
@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.usefixtures("fresh_dynamo")
def test_compile(device: str, name: str, layout: str) -> None:
    compiled = torch.compile(FUNCTIONS[name], fullgraph=True, backend="aot_eager")
    x = random(2, 3, 12, 11, device=device, layout=layout, grad=True)
    assert_same(run(compiled, x), run(FUNCTIONS[name], x))
    if "pool" in name or name == "conv2d":
        (dx,) = torch.autograd.grad(compiled(x).sum(), x)
        assert is_channels_last(dx) == (layout == "channels_last")
    with torch.no_grad():
        assert_close(compiled(x), exact(FUNCTIONS[name](x)))


@pytest.mark.usefixtures("fresh_dynamo")
def test_compile_with_changing_shapes(device: str) -> None:
    """One graph serves every size."""
    compiles = torch._dynamo.testing.CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(network, fullgraph=True, backend=compiles, dynamic=True)
    w, v, b = parameters(device)
    for size in ((2, 3, 20, 21), (3, 3, 17, 32), (4, 3, 33, 18), (5, 3, 24, 24)):
        x = random(*size, device=device, grad=True)
        assert_same(run(compiled, x, w, v, b), run(network, x, w, v, b))
    assert compiles.frame_count <= 2


TRANSFORMS: dict[str, Callable[[Any, torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "grad": lambda c, x, w: torch.func.grad(lambda w: c(x, w).pow(2).sum())(w),
    "jvp": lambda c, x, w: torch.func.jvp(lambda w: c(x, w), (w,), (w,))[1],
    "nested jvp": lambda c, x, w: torch.func.jvp(
        lambda w: torch.func.jvp(lambda w: c(c(x, w).pow(2), w), (w,), (w,))[1], (w,), (w,)
    )[1],
    "forward over reverse": lambda c, x, w: torch.func.jvp(torch.func.grad(lambda w: c(x, w).pow(3).sum()), (w,), (w,))[
        1
    ],
    "vmap": lambda c, x, w: torch.func.vmap(lambda x: c(x, w))(x),
    "per-sample gradients": lambda c, x, w: torch.func.vmap(
        torch.func.grad(lambda w, x: c(x, w).pow(2).sum()), (None, 0)
    )(w, x),
    "dual level": lambda c, x, w: _tangent(c, x, w),
}


def _tangent(convolution: Callable[..., torch.Tensor], x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(w, w)
        return torch.autograd.forward_ad.unpack_dual(convolution(x, dual)).tangent


@pytest.mark.parametrize("function", [conv2d, lambda x, w: ops.conv2d(x, w)], ids=["public", "operator"])
@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.usefixtures("fresh_dynamo")
def test_compiled_transforms_drop_nothing(device: str, transform: str, function: Callable[..., torch.Tensor]) -> None:
    x, w = random(2, 3, 8, 8, device=device), random(3, 3, 3, 3, device=device)
    if transform in ("vmap", "per-sample gradients"):
        x = x.unsqueeze(1)
    expected = TRANSFORMS[transform](F.conv2d, x.double(), w.double())
    compiled = torch.compile(lambda x, w: TRANSFORMS[transform](function, x, w), fullgraph=True, backend="aot_eager")
    assert_close(TRANSFORMS[transform](function, x, w), exact(expected))
    assert_close(compiled(x, w), exact(expected))


@pytest.mark.usefixtures("fresh_dynamo")
def test_compile_with_inductor(device: str) -> None:
    compiled = torch.compile(network, fullgraph=True)
    w, v, b = parameters(device)
    x = random(2, 3, 20, 21, device=device, grad=True)
    assert_same(run(compiled, x, w, v, b), run(network, x, w, v, b))


@pytest.mark.usefixtures("fresh_dynamo")
def test_compile_of_layers(device: str) -> None:
    model = torch.nn.Sequential(
        torch_convops.nn.Conv2d(3, 4, 3, padding="same"),
        torch_convops.nn.MaxPool2d(2),
        torch_convops.nn.AvgPool2d(3, 1, 1),
        torch_convops.nn.GlobalAvgPool2d(),
    ).to(device)
    x = random(2, 3, 12, 12, device=device, grad=True)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    assert_same(run(compiled, x), run(model, x))


@pytest.mark.usefixtures("fresh_dynamo")
def test_compile_raises_for_a_bad_argument(device: str) -> None:
    compiled = torch.compile(lambda x: max_pool2d(x, 3, 1, 2), fullgraph=True, backend="aot_eager")
    with pytest.raises(Exception, match="padding must be at most half"):
        compiled(random(1, 2, 8, 8, device=device))


def test_export(device: str) -> None:
    class Model(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w, self.v, self.b = (torch.nn.Parameter(p.detach()) for p in parameters(device))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return network(x, self.w, self.v, self.b)

    model, x = Model(), random(2, 3, 20, 21, device=device)
    batch = torch.export.Dim("batch", min=2, max=64)
    exported = torch.export.export(model, (x,), dynamic_shapes=({0: batch},))
    for n in (2, 5):
        x = random(n, 3, 20, 21, device=device)
        assert_close(exported.module()(x), exact(model(x)))
    targets = {str(node.target) for node in exported.graph.nodes}
    assert "torch_convops.conv2d.default" in targets


class Convolutions(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.down = torch_convops.nn.Conv2d(3, 4, 3, stride=2, padding="same", padding_mode="circular")
        self.up = torch_convops.nn.ConvTranspose2d(4, 2, 3, stride=2, padding="same")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.up(self.down(x).relu())


def test_aot_inductor_package_runs(device: str, tmp_path: Any) -> None:
    model, x = Convolutions().to(device), random(2, 3, 12, 14, device=device)
    with torch.no_grad():
        exported = torch.export.export(model, (x,), dynamic_shapes=({0: torch.export.Dim("batch", min=2, max=64)},))
        package = torch._inductor.aoti_compile_and_package(exported, package_path=str(tmp_path / "model.pt2"))
        loaded = torch._inductor.aoti_load_package(package)
        for n in (2, 5):
            x = random(n, 3, 12, 14, device=device)
            assert_close(loaded(x), exact(model(x)))


@pytest.mark.parametrize("requires_grad", [False, True])
def test_jit_trace(device: str, requires_grad: bool) -> None:
    """What is recorded is the operators, so that a saved trace loads without this package's Python."""
    model, x = Convolutions().to(device).requires_grad_(requires_grad), random(2, 3, 12, 14, device=device)
    traced = torch.jit.trace(model, (x,))
    assert "torch_convops::conv2d" in str(traced.inlined_graph) and "Contraction" not in str(traced.inlined_graph)
    x = random(3, 3, 12, 14, device=device)
    assert torch.equal(traced(x), model(x))
    if requires_grad:
        gradients = [torch.autograd.grad(f(x).sum(), model.parameters()) for f in (traced, model)]
        for a, b in zip(*gradients, strict=True):
            assert_close(a, exact(b))


def test_make_fx_traces_forward_and_backward(device: str) -> None:
    inputs = (random(2, 3, 20, 21, device=device, grad=True), *parameters(device))
    graph = torch.fx.experimental.proxy_tensor.make_fx(lambda *inputs: run(network, *inputs), tracing_mode="fake")(
        *inputs
    )
    targets = {str(node.target) for node in graph.graph.nodes}
    assert "torch_convops.conv2d_grad_weight.default" in targets
    assert "torch_convops.max_pool2d_grad_input.default" in targets
    assert_same(graph(*inputs), run(network, *inputs))


# --- autocast ---


@pytest.mark.parametrize("requires_grad", [False, True])
@pytest.mark.parametrize("function", [conv2d, ops.conv2d], ids=["public", "operator"])
def test_autocast(device: str, function: Callable[..., torch.Tensor], requires_grad: bool) -> None:
    x, w, b = (random(*size, device=device, grad=requires_grad) for size in ((2, 3, 8, 8), (4, 3, 3, 3), (4,)))
    for dtype in (torch.bfloat16, torch.float16):
        with torch.autocast(device, dtype):
            y, torchs = function(x, w, b), F.conv2d(x, w, b)
            mixed = function(x.to(dtype), w, b)
        assert y.dtype == mixed.dtype == torchs.dtype == dtype
        x16, w16, b16 = (exact(tensor.to(dtype)) for tensor in (x, w, b))
        assert_close(y, F.conv2d(x16, w16, b16))
        assert_close(mixed, F.conv2d(x16, w16, b16))
        if requires_grad:
            gradients = torch.autograd.grad(y.float().sum(), (x, w, b))
            assert all(gradient.dtype == torch.float32 for gradient in gradients)


def test_autocast_of_other_convolutions(device: str) -> None:
    x, w = random(2, 3, 8, 8, device=device, grad=True), random(3, 3, 3, 3, device=device, grad=True)
    with torch.autocast(device, torch.bfloat16):
        results = [
            conv2d(x, w, padding="same", padding_mode="reflect"),
            ops.conv2d(x, w, None, [1], "same"),
            conv_transpose2d(x, w),
            ops.conv_transpose2d(x, w),
            ops.conv_transpose2d(x, w, None, [2], "same"),
        ]
    assert all(y.dtype == torch.bfloat16 for y in results)
    for y in results:
        assert torch.autograd.grad(y.float().sum(), w, retain_graph=True)[0].dtype == torch.float32


@pytest.mark.parametrize("function", [conv2d, ops.conv2d], ids=["public", "operator"])
def test_autocast_leaves_float64_alone(device: str, function: Callable[..., torch.Tensor]) -> None:
    x, w = (random(*size, dtype=torch.float64, device=device) for size in ((2, 3, 8, 8), (4, 3, 3, 3)))
    with torch.autocast(device, torch.bfloat16):
        y = function(x, w)
    assert y.dtype == torch.float64
    assert_close(y, F.conv2d(exact(x), exact(w)))


def test_autocast_disabled_inside_enabled(device: str) -> None:
    x, w = random(2, 3, 8, 8, device=device), random(4, 3, 3, 3, device=device)
    with torch.autocast(device, torch.bfloat16), torch.autocast(device, enabled=False):
        assert conv2d(x, w).dtype == ops.conv2d(x, w).dtype == torch.float32


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_autocast_leaves_pooling_in_the_dtype_of_its_input(device: str, dtype: torch.dtype) -> None:
    x = random(2, 3, 8, 8, dtype=dtype, device=device)
    with torch.autocast(device, torch.bfloat16):
        for y in (max_pool2d(x, 2), avg_pool2d(x, 2), ops.max_pool2d(x, [2]), ops.avg_pool2d(x, [2])):
            assert y.dtype == dtype


@pytest.mark.usefixtures("fresh_dynamo")
def test_autocast_under_compile(device: str) -> None:
    x, w = random(2, 3, 8, 8, device=device, grad=True), random(4, 3, 3, 3, device=device, grad=True)

    def function(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        with torch.autocast(device, torch.bfloat16):
            return conv2d(x, w)

    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
    assert compiled(x, w).dtype == torch.bfloat16
    assert_close(compiled(x, w), exact(function(x, w)))


# --- devices ---


def test_meta_device_needs_no_memory() -> None:
    x, w = torch.empty(64, 64, 40_000, 40_000, device="meta"), torch.empty(64, 64, 3, 3, device="meta")
    assert conv2d(x, w, padding="same").shape == x.shape
    assert max_pool2d(x, 2).shape == avg_pool2d(x, 2).shape == (64, 64, 20_000, 20_000)
    assert global_avg_pool2d(x).shape == (64, 64, 1, 1)


def test_fake_mode(device: str) -> None:
    with torch._subclasses.FakeTensorMode():
        x, w = torch.empty(2, 3, 20, 21, device=device), torch.empty(4, 3, 3, 3, device=device)
        y = conv2d(x, w, padding=1)
        assert y.shape == (2, 4, 20, 21) and y.device.type == device
